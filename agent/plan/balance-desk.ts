import { migrateText } from '../../core/decide/migrate-check.js';
import {
  brakeOf,
  decideBalance,
  followed,
  type AutoStep,
  type AutoView,
} from '../../core/decide/plan/auto.js';
import { balanceId, type BalanceMove, type BalanceRecord, type PastMove } from '../../core/domain/balance.js';
import { errorRecord } from '../../core/domain/error.js';
import { migratePolicyDefault } from '../../core/domain/migration.js';
import { queuedOp } from '../../core/domain/op.js';
import { formatSize } from '../../core/domain/units.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';
import { brakesOf } from './holds.js';
import type { LoadBook } from './load-book.js';
import { outlookOf } from './outlook.js';
import { isOld, RecordTurn } from './rank.js';
import { breather, inSlices } from './slices.js';

/** A plan is made so often, ms; where that is much work, after so many times what it took. */
const planMs = 60_000;
const planShare = 20;

/**
 * Evens the cluster out: smooths what VMs use, plans, and where the policy says so moves one VM at a time by the same
 * operation as people do. One node does it, by name. What was done and what it waits for is in the ledger, so the next
 * one goes on from there.
 */
export class BalanceDesk {
  private readonly env: AgentEnv;
  private readonly loads: LoadBook;
  private readonly wake: () => void;
  /** Since when a VM has been wanted away from a node, monotonic ms. */
  private readonly wanted = new Map<string, { readonly from: string; readonly sinceMs: number }>();
  private latest: Snapshot | null = null;
  private dueMs: number | null = null;
  private readonly turn: RecordTurn;
  private busy = false;
  private stopped = false;

  constructor(env: AgentEnv, loads: LoadBook, wake: () => void) {
    this.env = env;
    this.loads = loads;
    this.turn = new RecordTurn(env);
    this.wake = wake;
  }

  stop(): void {
    this.stopped = true;
  }

  /** Does what is due. Never waits. */
  look(s: Snapshot): void {
    const { env } = this;
    this.latest = s;
    const nowMs = env.clock.nowMs();
    const running = [...s.nodes.values()].filter((n) => !n.value.witness).length;
    const mine = this.turn.mine(s, s.balance?.modRevision ?? null);
    if (s.policy.plan.balance === 'off' || running < 2 || !mine || s.recovering !== null) {
      this.dueMs = null;
      this.wanted.clear();
      return;
    }
    this.loads.look(s);
    // The first plan waits, so that all have been heard.
    this.dueMs ??= nowMs + planMs;
    if (this.busy || env.live.compare() === null) return;
    const ended =
      s.balance !== null && followed(s.balance.value, (id) => s.ops.get(id)?.value, 0) !== s.balance.value;
    if (nowMs < this.dueMs && !ended) return;
    this.busy = true;
    void this.plan()
      .catch((e: unknown) => env.log.warn(`balancing: ${errorRecord(e).message}`))
      .finally(() => {
        const tookMs = env.clock.nowMs() - nowMs;
        this.dueMs = env.clock.nowMs() + Math.max(planMs, planShare * tookMs);
        this.busy = false;
        this.wake();
      });
  }

  private async plan(): Promise<void> {
    const { env } = this;
    const s = this.latest;
    if (s === null) return;
    const { balance: mode } = s.policy.plan;
    if (mode === 'off') return;
    const others = breather(env.clock);
    const outlook = outlookOf(s, env.radio.heard(), { load: (vm) => this.loads.of(vm) });
    await others();
    const loads = outlook.loads();
    await others();
    const wallMs = env.clock.wallMs();
    const steps = outlook.balance({
      rulesOnly: mode === 'rules-only',
      may: (vm, node) => brakeOf(s.balance?.value ?? null, vm, node, loads, wallMs) === null,
    });
    const found = await inSlices(others, steps, () => this.stopped);
    if (found === null) return;
    this.want(found);
    await this.act(found, loads);
  }

  private want(found: readonly BalanceMove[]): void {
    const nowMs = this.env.clock.nowMs();
    const from = new Map(found.map((m) => [m.vm, m.from]));
    for (const [vm, w] of this.wanted) if (from.get(vm) !== w.from) this.wanted.delete(vm);
    for (const [vm, node] of from)
      if (!this.wanted.has(vm)) this.wanted.set(vm, { from: node, sinceMs: nowMs });
  }

  /** Decides by the newest reading: the plan may have taken a while. */
  private async act(found: readonly BalanceMove[], loads: AutoView['loads']): Promise<void> {
    const { env } = this;
    const s = this.latest;
    if (s === null || this.stopped) return;
    const { balance: mode, movesPerHourMax } = s.policy.plan;
    if (mode === 'off') return;
    const before = s.balance?.value ?? null;
    const wallMs = env.clock.wallMs();
    const record = before === null ? null : followed(before, (id) => s.ops.get(id)?.value, wallMs);
    const holds = brakesOf(s, env);
    const used = outlookOf(s, env.radio.heard()).use();
    const decide = (held: readonly string[]): AutoStep =>
      decideBalance({
        me: env.node,
        nowMs: wallMs,
        mode,
        movesPerHourMax,
        record,
        found: found.filter((m) => s.owns.get(m.vm)?.value.owner === m.from),
        wantedMs: (vm) => env.clock.nowMs() - (this.wanted.get(vm)?.sinceMs ?? Infinity),
        holds: held,
        loads,
        use: { memoryMiB: used.memoryMiB, diskBytes: used.diskBytes },
        newId: () => env.random.uuid(),
      });
    let step = decide(holds);
    if (step.begin !== null) {
      const why = this.against(step.begin, s);
      if (why !== null)
        step = decide([...holds, `"${step.begin.name}" cannot go to ${step.begin.to} now: ${why}`]);
    }
    await this.commit(s, before, step);
  }

  /** What speaks against a move at this moment; null: nothing. */
  private against(m: PastMove, s: Snapshot): string | null {
    const spec = s.specs.get(m.vm)?.value;
    const own = s.owns.get(m.vm)?.value;
    if (spec === undefined || own === undefined || own.owner !== m.from) return 'it is not where it was';
    const check = outlookOf(s, this.env.radio.heard()).check(spec, own, { node: m.to });
    return check.to === m.to ? null : migrateText(check);
  }

  private async commit(
    s: Snapshot,
    before: BalanceRecord | null,
    { record, begin }: AutoStep,
  ): Promise<void> {
    const { env } = this;
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return;
    const ended = record.past.filter(
      (m) => m.outcome !== null && before?.past.find((x) => x.op === m.op)?.outcome === null,
    );
    const old = before === null || isOld(before, record);
    if (begin === null && ended.length === 0 && !old && mark(before) === mark(record)) return;
    const key = kinds.balance.key(balanceId);
    const compare: Compare[] = [
      { key, modRevision: s.balance?.modRevision ?? 0n },
      mine,
      { key: epochKey, value: String(s.meta.value.epoch) },
    ];
    const writes: Write[] = [{ put: key, value: writeRecord(kinds.balance, record) }];
    if (begin !== null && !this.begin(begin, s, compare, writes)) return;
    const r = await env.ledger.txn(compare, writes);
    if (!r.done) return;
    for (const m of ended)
      announce(
        env,
        m.outcome === 'done' ? 'info' : 'warning',
        m.name,
        m.outcome === 'done'
          ? `balancing has moved it from ${m.from} to ${m.to} in ${Math.round((m.tookMs ?? 0) / 1000)} s`
          : `balancing could not move it from ${m.from} to ${m.to}: ${m.text || m.outcome}`,
      );
    if (begin !== null) announce(env, 'info', begin.name, `balancing ${moveText(begin)}`);
  }

  private begin(m: PastMove, s: Snapshot, compare: Compare[], writes: Write[]): boolean {
    const [spec, own, node] = [s.specs.get(m.vm), s.owns.get(m.vm), s.nodes.get(m.to)];
    if (spec === undefined || own === undefined || node === undefined) return false;
    const op = queuedOp(
      {
        id: m.op,
        kind: 'vm.migrate',
        subject: { kind: 'vm', id: m.vm, name: spec.value.name },
        node: null,
        askedBy: 'balancing',
        args: { from: m.from, to: m.to, policy: migratePolicyDefault, why: moveText(m) },
      },
      m.atMs,
    );
    compare.push(
      { key: kinds.vmSpec.key(m.vm), modRevision: spec.modRevision },
      { key: kinds.vmOwn.key(m.vm), modRevision: own.modRevision },
      // Whoever promises memory of that node meanwhile writes its record.
      { key: kinds.node.key(m.to), modRevision: node.modRevision },
      { key: kinds.op.key(m.op), createRevision: 0n },
    );
    writes.push({ put: kinds.op.key(m.op), value: writeRecord(kinds.op, op) });
    return true;
  }
}

/** A move in words: where, why, what it brings and what it costs. */
export const moveText = (m: BalanceMove): string =>
  `moves it from ${m.from} to ${m.to}: ${m.why} (imbalance ${m.before.toFixed(2)} → ${m.after.toFixed(2)}, ` +
  `${formatSize(m.memoryMiB * 2 ** 20)} to copy)`;

/** What of a record is news: not the last digits of how uneven all is. */
const mark = (r: BalanceRecord): string =>
  JSON.stringify([r.sentence, r.moves.map((m) => [m.vm, m.from, m.to])]);
