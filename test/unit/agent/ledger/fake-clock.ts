import type { Clock } from '../../../../agent/env.js';

interface Sleeper {
  readonly atMs: number;
  readonly resolve: () => void;
}

/** A clock that moves only when told, so that tests of time take none. */
export class FakeClock implements Clock {
  #nowMs = 1_000;
  readonly #sleepers = new Set<Sleeper>();
  /** Wall clock at monotonic zero; change it for clock jumps. */
  wallOffsetMs = 1_700_000_000_000;

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs + this.wallOffsetMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = () => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason as Error);
      };
      const sleeper: Sleeper = {
        atMs: this.#nowMs + ms,
        resolve: () => {
          signal?.removeEventListener('abort', fail);
          resolve();
        },
      };
      if (signal?.aborted) return fail();
      signal?.addEventListener('abort', fail, { once: true });
      this.#sleepers.add(sleeper);
    });
  }

  /** Moves on, waking sleepers in order, letting everything that follows from each run first. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (;;) {
      const due = [...this.#sleepers].filter((s) => s.atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      this.#sleepers.delete(due);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.resolve();
      await settle();
    }
    this.#nowMs = endMs;
    await settle();
  }
}

/** Lets promises and immediates that are ready run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}
