import type { Clock } from '../env.js';

/** What is done with a VM ends within seconds; who waits for that looks so often, ms. */
const waitMs = 100;

/** One act on a VM at a time, and none on what was seen before the last one ended. */
export class Turns {
  private readonly busy = new Set<string>();
  /** The pass during which the last act on a VM ended: what that pass observed may be older than the act. */
  private readonly endedIn = new Map<string, number>();
  private readonly onEnd: (vmId: string) => void;
  private pass = 0;

  constructor(onEnd: (vmId: string) => void) {
    this.onEnd = onEnd;
  }

  /** A pass begins to look. */
  next(): void {
    this.pass++;
    for (const [id, pass] of this.endedIn) if (pass < this.pass - 1) this.endedIn.delete(id);
  }

  /** Whether something is being done with that VM. */
  taken(vmId: string): boolean {
    return this.busy.has(vmId);
  }

  /** Whether an act may begin now. */
  free(vmId: string): boolean {
    return !this.busy.has(vmId) && this.endedIn.get(vmId) !== this.pass;
  }

  /** False: not now; look again. */
  begin(vmId: string): boolean {
    if (!this.free(vmId)) return false;
    this.busy.add(vmId);
    return true;
  }

  /** Waits for its turn, and takes it. @returns false: aborted while it waited, and not taken */
  async wait(vmId: string, clock: Clock, signal?: AbortSignal): Promise<boolean> {
    while (!this.begin(vmId)) {
      await clock.sleep(waitMs, signal).catch(() => undefined);
      if (signal?.aborted === true) return false;
    }
    return true;
  }

  end(vmId: string): void {
    this.busy.delete(vmId);
    this.endedIn.set(vmId, this.pass);
    this.onEnd(vmId);
  }
}
