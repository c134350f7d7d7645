import type { Clock } from '../env.js';

/** The loop and the keeper's beat come first: so long a slice of a plan takes at most before others may, ms. */
const sliceMs = 10;

/** @returns what is awaited between the steps of long work: others go on where a slice of it is over */
export function breather(clock: Clock): () => Promise<void> {
  let beganMs = clock.nowMs();
  return async () => {
    if (clock.nowMs() - beganMs < sliceMs) return;
    await clock.sleep(1);
    beganMs = clock.nowMs();
  };
}

/** Runs a plan in slices. @returns null: it was stopped */
export async function inSlices<T>(
  others: () => Promise<void>,
  steps: Generator<undefined, T>,
  stopped: () => boolean,
): Promise<T | null> {
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) return step.value;
    if (stopped()) return null;
    await others();
  }
}
