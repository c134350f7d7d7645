import { LibvirtError } from './error.js';
import type { Job, JobProgress } from './hypervisor.js';

/** Pace of progress when the caller names none; libvirt itself looks at QEMU once a second at most. */
export const PROGRESS_MS = 500;

/** What a job does; the hooks are called by {@link RunningJob}. */
export interface JobWork<T> {
  /** does it; rejects with `aborted` when cancelled. The signal says that cancel was called. */
  run(cancelled: AbortSignal): Promise<T>;
  /** asks how far it is; null while there is nothing to say */
  progress(): Promise<JobProgress | null>;
  /** asks the daemon to stop; may be called before the daemon knows the job, then it is called again */
  abort(): Promise<void>;
}

/** Between two tries to stop a job that the daemon does not know yet. */
const ABORT_AGAIN_MS = 100;

/** Runs a {@link JobWork} and lets others watch and stop it. */
export class RunningJob<T> implements Job<T> {
  readonly done: Promise<T>;
  readonly #work: JobWork<T>;
  readonly #progressMs: number;
  readonly #cancel = new AbortController();
  readonly #settled: Promise<'settled'>;
  #over = false;

  constructor(work: JobWork<T>, progressMs = PROGRESS_MS) {
    this.#work = work;
    this.#progressMs = progressMs;
    this.done = work.run(this.#cancel.signal);
    const over = (): 'settled' => {
      this.#over = true;
      return 'settled';
    };
    // nobody needs to look at `done` while it runs, so a rejection must not end the process
    this.#settled = this.done.then(over, over);
  }

  async *progress(): AsyncGenerator<JobProgress> {
    while (!this.#over) {
      const now = await Promise.race([this.#work.progress().catch(() => null), this.#settled]);
      if (now === 'settled') return;
      if (now !== null) yield now;
      if ((await Promise.race([later(this.#progressMs), this.#settled])) === 'settled') return;
    }
  }

  async cancel(): Promise<void> {
    this.#cancel.abort();
    while (!this.#over) {
      try {
        await this.#work.abort();
        return;
      } catch (error) {
        // not begun yet, or just over: both settle themselves
        const early = error instanceof LibvirtError && error.code === 'invalid-state';
        if (!early && !this.#over) throw error;
      }
      await Promise.race([later(ABORT_AGAIN_MS), this.#settled]);
    }
  }
}

/** Resolves after that time. */
export function later(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
