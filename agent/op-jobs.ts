import { opFinished, type Op } from '../core/domain/op.js';
import { ledger as kinds } from '../core/wire/ledger-keys.js';
import type { AgentEnv } from './env.js';
import { keptNow, type Kept, type Snapshot } from './snapshot.js';

export interface OpJobsOptions {
  /** Worked on at the same time. */
  readonly atOnce: number;
  readonly takes: (op: Op) => boolean;
  /** Never rejects. An op found half-way is begun again: every step repeats safely. */
  readonly work: (kept: Kept<Op>, s: Snapshot, signal: AbortSignal) => Promise<void>;
  readonly wake: () => void;
}

/** Long work of ops that name this node: begun while it is alive, cancelled when that is asked. */
export class OpJobs {
  private readonly env: Pick<AgentEnv, 'node' | 'live' | 'ledger'>;
  private readonly o: OpJobsOptions;
  private readonly jobs = new Map<string, AbortController>();
  /** The agent ends: what is cut off now is taken up after the restart. */
  stopped = false;

  constructor(env: Pick<AgentEnv, 'node' | 'live' | 'ledger'>, o: OpJobsOptions) {
    this.env = env;
    this.o = o;
  }

  stop(): void {
    this.stopped = true;
    for (const j of this.jobs.values()) j.abort();
  }

  /** Starts what is to be done, stops what was cancelled. Never waits. */
  look(s: Snapshot): void {
    for (const kept of s.ops.values()) {
      const op = kept.value;
      if (!this.o.takes(op) || op.node !== this.env.node || opFinished(op)) continue;
      const job = this.jobs.get(op.id);
      if (job !== undefined) {
        if (op.cancelAsked) job.abort();
        continue;
      }
      if (this.jobs.size >= this.o.atOnce || this.env.live.compare() === null) continue;
      const abort = new AbortController();
      this.jobs.set(op.id, abort);
      if (op.cancelAsked) abort.abort();
      void this.begin(op.id, s, abort.signal).finally(() => {
        this.jobs.delete(op.id);
        this.o.wake();
      });
    }
  }

  /** The look may be of before the job's last work ended: what is done is not done again over what was made of it. */
  private async begin(id: string, s: Snapshot, signal: AbortSignal): Promise<void> {
    const now = await keptNow(this.env.ledger, kinds.op, id).catch(() => null);
    if (now !== null && this.o.takes(now.value) && !opFinished(now.value)) await this.o.work(now, s, signal);
  }
}
