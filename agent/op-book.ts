import { errorRecord, FlotillaError, type ErrorRecord } from '../core/domain/error.js';
import { opFinished, opsKeptMax, type Op } from '../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../core/wire/ledger-keys.js';
import type { AgentEnv } from './env.js';
import type { Compare, Write } from './ledger/ledger.js';
import { keptNow, type Kept, type Snapshot } from './snapshot.js';

/** Least time between two progress writes of one op to the ledger, ms; the radio carries it more often. */
const progressWriteMs = 5_000;

/** Writes how operations stand: progress to the radio, steps and outcomes to the ledger. */
export class OpBook {
  private readonly env: AgentEnv;
  private readonly written = new Map<string, number>();
  /** Ops that this agent has ended: a reading from before still says that they run. */
  private readonly ended = new Set<string>();

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** An op as it stands in the ledger now; null: it is gone. @throws FlotillaError `ledger-unavailable`, `unreadable-record` */
  async latest(id: string): Promise<Kept<Op> | null> {
    return keptNow(this.env.ledger, kinds.op, id);
  }

  /**
   * Changes an op by compare-and-swap.
   *
   * @returns the op as it now stands, or null when somebody else changed it meanwhile (read again)
   */
  async change(
    kept: Kept<Op>,
    patch: Partial<Op>,
    also: readonly Write[] = [],
    compare: readonly Compare[] = [],
  ): Promise<Op | null> {
    const op: Op = { ...kept.value, ...patch, updatedMs: this.env.clock.wallMs() };
    const key = kinds.op.key(op.id);
    const r = await this.env.ledger.txn(
      [{ key, modRevision: kept.modRevision }, ...compare],
      [{ put: key, value: writeRecord(kinds.op, op) }, ...also],
    );
    if (!r.done) return null;
    this.env.radio.say('op', op, op.id);
    return op;
  }

  /** It has ended, whatever age the reading has that it comes from. */
  hasEnded(op: Op): boolean {
    return opFinished(op) || this.ended.has(op.id);
  }

  async finish(
    kept: Kept<Op>,
    state: 'done' | 'cancelled',
    step: string,
    patch: Partial<Op> = {},
  ): Promise<void> {
    const progress = state === 'done' ? 1 : kept.value.progress;
    if (!(await this.end(kept, { ...patch, state, step: step.slice(0, 200), progress }))) return;
    this.env.log.info(`op ${kept.value.kind} ${state}`, {
      op: kept.value.id,
      subject: kept.value.subject.name,
      step,
    });
  }

  async fail(kept: Kept<Op>, error: unknown): Promise<void> {
    const cancelled = error instanceof FlotillaError && error.code === 'cancelled';
    const record: ErrorRecord = errorRecord(error);
    const state = cancelled ? 'cancelled' : 'failed';
    if (!(await this.end(kept, { state, error: record }))) return;
    this.env.log.warn(`op ${kept.value.kind} ${state}: ${record.message}`, {
      op: kept.value.id,
      subject: kept.value.subject.name,
      code: record.code,
    });
  }

  /** @returns whether this was its end: false where it had ended, or somebody changed it meanwhile */
  private async end(kept: Kept<Op>, patch: Partial<Op>): Promise<boolean> {
    if (this.hasEnded(kept.value) || (await this.change(kept, patch)) === null) return false;
    this.ended.add(kept.value.id);
    this.written.delete(kept.value.id);
    return true;
  }

  /** Says progress on the radio at once, and writes it to the ledger now and then. */
  progress(op: Op, share: number, step: string): void {
    const now = this.env.clock.nowMs();
    const next: Op = {
      ...op,
      state: 'running',
      progress: Math.max(0, Math.min(1, share)),
      step: step.slice(0, 200),
    };
    this.env.radio.say('op', next, op.id);
    if (now - (this.written.get(op.id) ?? -Infinity) < progressWriteMs) return;
    this.written.set(op.id, now);
    const key = kinds.op.key(op.id);
    // Best effort: a lost progress line is not worth an error; the outcome is written with care.
    void (async () => {
      const e = await this.env.ledger.get(key);
      if (e === null) return;
      const current = JSON.parse(e.value) as Op;
      if (opFinished(current)) return;
      const value = writeRecord(kinds.op, {
        ...current,
        state: 'running',
        progress: next.progress,
        step: next.step,
      });
      await this.env.ledger.txn([{ key, modRevision: e.modRevision }], [{ put: key, value }]);
    })().catch(() => undefined);
  }

  /** Ends what a node alone was to do that is in the cluster no more. Any agent may. */
  async endOrphans(s: Snapshot): Promise<void> {
    for (const kept of s.ops.values()) {
      const { node, args } = kept.value;
      // A revert that is written goes on as its VM's owner makes the disks.
      if (node === null || opFinished(kept.value) || args['generation'] !== undefined) continue;
      if (s.nodes.has(node) || s.unreadable.includes(kinds.node.key(node))) continue;
      const why = `Node ${node} was to do it, and is in the cluster no more`;
      const error = new FlotillaError('node-unreachable', why, {
        hint: 'Ask again; another node does it then.',
      });
      const gone: Compare = { key: kinds.node.key(node), modRevision: 0n };
      await this.change(kept, { state: 'failed', error: errorRecord(error) }, [], [gone]);
    }
  }

  /** Drops the oldest finished ops beyond the bound. Every agent may do it; the same keys are named by all. */
  async trim(snapshot: Snapshot): Promise<void> {
    for (const id of this.ended) if (!snapshot.ops.has(id)) this.ended.delete(id);
    const finished = [...snapshot.ops.values()].filter((k) => opFinished(k.value));
    const over = finished.length - opsKeptMax;
    if (over <= 0) return;
    finished.sort((a, b) => a.value.updatedMs - b.value.updatedMs || (a.value.id < b.value.id ? -1 : 1));
    const drop = finished.slice(0, Math.min(over, 100)).map((k) => ({ del: kinds.op.key(k.value.id) }));
    await this.env.ledger.txn([], drop);
  }
}
