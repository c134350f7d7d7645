import {
  forecastCpus,
  quarterOf,
  sleepAheadMs,
  trendMs,
  wakeAheadMs,
  type LoadPoint,
} from '../../core/decide/plan/power.js';
import {
  decidePower,
  followedPower,
  sleepBrake,
  type PowerAutoStep,
} from '../../core/decide/plan/power-auto.js';
import { errorRecord } from '../../core/domain/error.js';
import { opFinished, queuedOp, type Op } from '../../core/domain/op.js';
import { powerId, quarters, type PowerRecord, type PowerStep } from '../../core/domain/power.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';
import { brakesOf } from './holds.js';
import type { LoadBook } from './load-book.js';
import { outlookOf } from './outlook.js';
import { askCancel } from './op-rota.js';
import { isOld, RecordTurn } from './rank.js';
import { breather, inSlices } from './slices.js';

/** It is looked for so often, ms. */
const planMs = 60_000;
/** A node that is gone for so long has failed, ms: its keeper may make a new lease in a moment. */
const goneMs = 10_000;
/** A node that is asleep and lives was switched on by somebody, ms; an order to its BMC may still be under way. */
const aliveMs = 60_000;

/**
 * Saves power: finds the node that could sleep, or should wake, says so, and where the policy says so begins the operation.
 * One node does it, by name. What was done and what it waits for is in the ledger, so the next one goes on from there.
 */
export class PowerDesk {
  private readonly env: AgentEnv;
  private readonly loads: LoadBook;
  private readonly wake: () => void;
  /** Since when nodes that should be there are gone, and those that are asleep live, monotonic ms. */
  private gone = new Map<string, number>();
  private alive = new Map<string, number>();
  private points: LoadPoint[] = [];
  private wanted: { readonly node: string; readonly sinceMs: number } | null = null;
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
    this.watch(s, nowMs);
    const running = [...s.nodes.values()].filter((n) => !n.value.witness).length;
    const mine = this.turn.mine(s, s.power?.modRevision ?? null);
    const idle = s.policy.plan.power === 'off' && !this.switchedOn(nowMs);
    if (idle || running < 2 || !mine || s.recovering !== null) {
      this.dueMs = null;
      this.wanted = null;
      return;
    }
    this.loads.look(s);
    // The first look waits, so that all have been heard.
    this.dueMs ??= nowMs + planMs;
    if (this.busy || env.live.compare() === null) return;
    const ended =
      s.power?.value.past.some((p) => p.outcome === null && !isOpen(s.ops.get(p.op)?.value)) === true;
    if (nowMs < this.dueMs && !ended && !this.failed(s, nowMs)) return;
    this.busy = true;
    void this.plan()
      .catch((e: unknown) => env.log.warn(`saving power: ${errorRecord(e).message}`))
      .finally(() => {
        this.dueMs = env.clock.nowMs() + planMs;
        this.busy = false;
        this.wake();
      });
  }

  private watch(s: Snapshot, nowMs: number): void {
    const [gone, alive] = [new Map<string, number>(), new Map<string, number>()];
    for (const { value: n } of s.nodes.values()) {
      const lives = s.lives.has(n.id);
      if (n.desired === 'active' && !n.witness && !lives) gone.set(n.id, this.gone.get(n.id) ?? nowMs);
      if (n.asleep !== undefined && lives && powerOpOf(s, n.id) === null)
        alive.set(n.id, this.alive.get(n.id) ?? nowMs);
    }
    this.gone = gone;
    this.alive = alive;
  }

  /** Nodes that have failed, and for which none was woken yet. */
  private missing(s: Snapshot, nowMs: number): { readonly node: string; readonly about: string }[] {
    return [...this.gone].flatMap(([node, sinceMs]) => {
      const about = `${node} ${String(s.seen.get(node) ?? 0n)}`;
      const helped = s.power?.value.past.some((p) => p.about === about && p.outcome !== 'failed');
      return nowMs - sinceMs < goneMs || helped === true ? [] : [{ node, about }];
    });
  }

  /** A failure that waits for no minute. */
  private failed(s: Snapshot, nowMs: number): boolean {
    const { power } = s.policy.plan;
    const spare = [...s.nodes.values()].some((n) => n.value.asleep !== undefined);
    return power === 'automatic' && spare && openPower(s) === null && this.missing(s, nowMs).length > 0;
  }

  private switchedOn(nowMs: number): string | null {
    for (const [node, sinceMs] of this.alive) if (nowMs - sinceMs >= aliveMs) return node;
    return null;
  }

  private async plan(): Promise<void> {
    const { env } = this;
    const s = this.latest;
    if (s === null) return;
    const others = breather(env.clock);
    const outlook = outlookOf(s, env.radio.heard(), { load: (vm) => this.loads.of(vm) });
    await others();
    const [nowMs, wallMs] = [env.clock.nowMs(), env.clock.wallMs()];
    const cpus = outlook.cluster.vms.reduce((sum, v) => sum + v.load[0], 0);
    this.points = [
      ...this.points.filter((p) => p.atMs <= wallMs && wallMs - p.atMs <= trendMs),
      { atMs: wallMs, cpus },
    ];
    const day = dayOf(s.power?.value ?? null, wallMs, cpus);
    const past = followedPower(s.power?.value.past ?? [], (id) => s.ops.get(id)?.value, wallMs);
    const kept: { node: string; why: string }[] = [];
    const sleepers = new Set<string>();
    const heard = new Map(env.radio.heard().map((h) => [h.node, h.state]));
    for (const { value: n } of s.nodes.values()) {
      if (n.witness || n.asleep !== undefined || n.desired !== 'active') continue;
      const why =
        keptFor(s, n.id) ??
        outlook.keeps(n.id)[0] ??
        sleepBrake(n.id, heard.get(n.id)?.upSinceMs ?? null, past, wallMs);
      if (why === null) sleepers.add(n.id);
      else kept.push({ node: n.id, why: why.slice(0, 200) });
      await others();
    }
    const steps = outlook.power({
      sleepers,
      falling: new Set(
        [...s.ops.values()].flatMap(({ value: o }) =>
          o.kind === 'node.sleep' && !opFinished(o) ? o.subject.id : [],
        ),
      ),
      gone: this.missing(s, nowMs),
      wakeCpus: forecastCpus(this.points, day, wallMs, wakeAheadMs),
      sleepCpus: forecastCpus(this.points, day, wallMs, sleepAheadMs),
    });
    const found = await inSlices(others, steps, () => this.stopped);
    if (found === null) return;
    const on = this.switchedOn(nowMs);
    const step: PowerStep | null =
      on === null
        ? found.step
        : { do: 'wake', node: on, for: 'idle', about: '', why: 'somebody has switched it on' };
    if (step?.do !== 'sleep') this.wanted = null;
    else if (this.wanted?.node !== step.node) this.wanted = { node: step.node, sinceMs: nowMs };
    await this.act(step, cpus, kept.slice(0, 256), on !== null);
  }

  /** Decides by the newest reading: the plan may have taken a while. */
  private async act(
    step: PowerStep | null,
    cpus: number,
    kept: PowerRecord['kept'],
    always: boolean,
  ): Promise<void> {
    const { env } = this;
    const s = this.latest;
    const mode = s?.policy.plan.power;
    if (s === null || this.stopped || mode === undefined || (mode === 'off' && !always)) return;
    const [nowMs, wallMs] = [env.clock.nowMs(), env.clock.wallMs()];
    const before = s.power?.value ?? null;
    const done = decidePower({
      // What somebody has switched on is awake, whatever the mode.
      mode: always || mode === 'off' ? 'automatic' : mode,
      nowMs: wallMs,
      past: followedPower(before?.past ?? [], (id) => s.ops.get(id)?.value, wallMs),
      step,
      wantedMs: nowMs - (this.wanted?.sinceMs ?? nowMs),
      open: openPower(s),
      holds: brakesOf(s, env),
      asleep: [...s.nodes.values()].filter((n) => n.value.asleep !== undefined).length,
      newId: () => env.random.uuid(),
    });
    await this.commit(s, step, done, { day: dayOf(before, wallMs, cpus), kept }, wallMs);
  }

  private async commit(
    s: Snapshot,
    next: PowerStep | null,
    { sentence, past, begin, cancel }: PowerAutoStep,
    o: Pick<PowerRecord, 'day' | 'kept'>,
    wallMs: number,
  ): Promise<void> {
    const { env } = this;
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return;
    const before = s.power?.value ?? null;
    const record: PowerRecord = { by: env.node, atMs: wallMs, sentence, next, past, ...o };
    const old = before === null || isOld(before, record);
    if (begin === null && cancel === null && !old && news(before) === news(record)) return;
    const key = kinds.power.key(powerId);
    const compare: Compare[] = [
      { key, modRevision: s.power?.modRevision ?? 0n },
      mine,
      { key: epochKey, value: String(s.meta.value.epoch) },
    ];
    const writes: Write[] = [{ put: key, value: writeRecord(kinds.power, record) }];
    if (cancel !== null) {
      const kept = s.ops.get(cancel.id);
      if (kept === undefined) return;
      askCancel(kept, compare, writes);
    }
    if (begin !== null) {
      const node = s.nodes.get(begin.node);
      if (node === undefined) return;
      const op = queuedOp(
        {
          id: begin.op,
          kind: `node.${begin.do}`,
          subject: { kind: 'node', id: begin.node, name: begin.node },
          node: null,
          askedBy: 'saving power',
          args: { node: begin.node, why: begin.why },
        },
        wallMs,
      );
      compare.push(
        { key: kinds.node.key(begin.node), modRevision: node.modRevision },
        { key: kinds.op.key(op.id), createRevision: 0n },
      );
      writes.push({ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) });
    }
    const r = await env.ledger.txn(compare, writes);
    if (r.done && (begin !== null || cancel !== null))
      announce(env, 'info', begin?.node ?? cancel?.subject.id ?? '', `saving power: ${sentence}`);
  }
}

const isOpen = (o: Op | undefined): boolean => o !== undefined && !opFinished(o);
const powerOpOf = (s: Snapshot, node: string): Op | null => openPower(s, (o) => o.subject.id === node);

function openPower(s: Snapshot, wanted: (o: Op) => boolean = () => true): Op | null {
  for (const { value: o } of s.ops.values())
    if ((o.kind === 'node.sleep' || o.kind === 'node.wake') && !opFinished(o) && wanted(o)) return o;
  return null;
}

/** Why a node is not put to sleep by itself, for what it is; null: nothing. */
function keptFor(s: Snapshot, node: string): string | null {
  if (s.nodes.get(node)?.value.voter === true) return 'votes in the ledger';
  if (!s.lives.has(node)) return 'is not alive';
  if (!s.bmcs.has(node)) return 'has no fencing device that could wake it';
  const result = s.bmcTests.get(node)?.value.result ?? null;
  if (result === null) return `its fencing device was not tried: flotilla node bmc test ${node}`;
  if (result.power === null) return `its fencing device does not answer: ${result.text}`;
  return result.machine === 'same' ? null : `its fencing device is not proven to be its own: ${result.text}`;
}

/** The busiest of each quarter of an hour; the one that runs begins anew. */
function dayOf(before: PowerRecord | null, wallMs: number, cpus: number): number[] {
  const day = [...(before?.day ?? new Array<number>(quarters).fill(-1))];
  const q = quarterOf(wallMs);
  const same =
    before !== null && quarterOf(before.atMs) === q && Math.abs(wallMs - before.atMs) < 15 * 60_000;
  day[q] = Math.round((same ? Math.max(day[q] ?? 0, cpus) : cpus) * 100) / 100;
  return day;
}

/** What of a record is news. */
const news = (r: PowerRecord): string =>
  JSON.stringify([
    r.sentence.replace(/\d+ %/g, ''),
    r.next?.do,
    r.next?.node,
    r.kept.map((k) => k.node),
    r.past.map((p) => p.outcome),
  ]);
