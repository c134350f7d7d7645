import { errorRecord } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { rankOf } from './rank.js';

/** One operation is planned anew this often, ms: a plan looks at every node for each VM that is left. */
const lookMs = 1_000;
/** Where the node whose turn it is does nothing for so long, the next one by name does it, ms. */
const patienceMs = 10_000;
/** An agent that has just started hears the others one by one: so long it does not call a node silent that lives, ms. */
const hearMs = 20_000;

export interface OpRotaJob {
  readonly wants: (op: Op) => boolean;
  /** The node that knows best; null: by name. */
  readonly first: (op: Op, s: Snapshot) => string | null;
  readonly act: (k: Kept<Op>, s: Snapshot) => Promise<void>;
}

/**
 * Operations that any agent can do, since what is to be done follows from the ledger and each act is one transaction with
 * what is noted of it. One node does it, by rank, and the next one where nothing comes of that.
 */
export class OpRota {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly job: OpRotaJob;
  /** Since when each operation stands as it does, and when it was looked at last, monotonic ms. */
  private readonly seen = new Map<string, { rev: bigint; sinceMs: number; lookedMs: number }>();
  private readonly busy = new Set<string>();
  private startedMs: number | null = null;

  constructor(env: AgentEnv, wake: () => void, job: OpRotaJob) {
    this.env = env;
    this.wake = wake;
    this.job = job;
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    this.startedMs ??= this.env.clock.nowMs();
    const open = [...s.ops.values()].filter(({ value: o }) => this.job.wants(o) && !opFinished(o));
    for (const id of this.seen.keys()) if (!open.some((k) => k.value.id === id)) this.seen.delete(id);
    for (const k of open) this.one(k, s);
    return open.length === 0 ? null : lookMs;
  }

  private one(k: Kept<Op>, s: Snapshot): void {
    const { env } = this;
    const { id } = k.value;
    const nowMs = env.clock.nowMs();
    let at = this.seen.get(id);
    if (at?.rev !== k.modRevision)
      at = { rev: k.modRevision, sinceMs: nowMs, lookedMs: at?.lookedMs ?? -Infinity };
    this.seen.set(id, at);
    if (nowMs - at.sinceMs < rankOf(s, env.node, this.job.first(k.value, s) ?? undefined) * patienceMs)
      return;
    if (nowMs - at.lookedMs < lookMs || this.busy.has(id) || env.live.compare() === null) return;
    at.lookedMs = nowMs;
    if (nowMs - (this.startedMs ?? nowMs) < hearMs && !this.hearsAll(s)) return;
    this.busy.add(id);
    void this.job
      .act(k, s)
      .catch((e: unknown) =>
        env.log.warn(`${k.value.kind} of ${k.value.subject.name}: ${errorRecord(e).message}`),
      )
      .finally(() => {
        this.busy.delete(id);
        this.wake();
      });
  }

  private hearsAll(s: Snapshot): boolean {
    const heard = new Set(
      this.env.radio.heard().flatMap((h) => (h.state !== null && h.beatAgeMs !== null ? h.node : [])),
    );
    return [...s.lives.keys()].every((n) => heard.has(n) || !s.nodes.has(n));
  }

  /**
   * One transaction; where something it was decided on has changed, nothing is done, and the next look decides anew.
   *
   * @returns whether it was done
   */
  async write(
    k: Kept<Op>,
    s: Snapshot,
    next: Op,
    compare: readonly Compare[] = [],
    writes: readonly Write[] = [],
  ): Promise<boolean> {
    const { env } = this;
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return false;
    const key = kinds.op.key(next.id);
    const value = { ...next, updatedMs: env.clock.wallMs() };
    const r = await env.ledger.txn(
      [
        { key, modRevision: k.modRevision },
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
        ...compare,
      ],
      [{ put: key, value: writeRecord(kinds.op, value) }, ...writes],
    );
    if (r.done) env.radio.say('op', value, next.id);
    return r.done;
  }
}

export const sameOp = (a: Op, b: Op): boolean =>
  JSON.stringify({ ...a, updatedMs: 0 }) === JSON.stringify({ ...b, updatedMs: 0 });

/** Asks, in a transaction that is being put together, that an operation ends; one that is gone has. */
export function askCancel(k: Kept<Op> | undefined, compare: Compare[], writes: Write[]): void {
  if (k === undefined) return;
  const key = kinds.op.key(k.value.id);
  compare.push({ key, modRevision: k.modRevision });
  writes.push({ put: key, value: writeRecord(kinds.op, { ...k.value, cancelAsked: true }) });
}
