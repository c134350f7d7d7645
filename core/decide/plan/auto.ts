import {
  balancePastMax,
  type BalanceMode,
  type BalanceMove,
  type BalanceRecord,
  type PastMove,
} from '../../domain/balance.js';
import { opFinished, type Op } from '../../domain/op.js';

const minute = 60_000;
const hour = 60 * minute;

/** A move must have been wanted for so long without a break before it is made by itself, ms. */
export const holdMs = 5 * minute;
/** Of a node whose VMs keep more than this of its CPUs busy, only for so long, ms. */
const fullShare = 0.85;
export const urgentMs = minute;
/** A VM that was moved is left alone for so long, ms. */
export const cooldownMs = hour;
/** After a move that failed, so long, ms: what kept it may be gone. */
const failedMs = 6 * hour;
/** After a move nothing moves for so long, ms: measured loads follow only then. */
export const settleMs = 3 * minute;
/** A VM does not go back to where it was taken from within this, ms, while loads are as they were. */
const undoMs = 24 * hour;
/** What is not called a change of load: shares of a node in use, and of the CPUs of a VM. */
const shareNear = 0.15;
const cpusNear = 0.3;

/** How a VM and nodes are loaded now, as far as the brakes compare it. */
export interface LoadsNow {
  vmCpus(vm: string): number;
  /** Share of its CPUs that VMs keep busy. */
  cpuShare(node: string): number;
  /** How much of a node is in use without that VM, 0 to 1 and above: of its CPUs or its memory, what is more. */
  shareWithout(node: string, vm: string): number;
}

/** What keeps a VM from being moved to a node by itself, whatever that would gain. Null: nothing. */
export function brakeOf(
  record: BalanceRecord | null,
  vm: string,
  to: string,
  now: LoadsNow,
  nowMs: number,
): 'cooldown' | 'undo' | null {
  for (const m of record?.past ?? []) {
    if (m.vm !== vm) continue;
    // A clock that was set back makes nothing older.
    const ageMs = Math.max(0, nowMs - m.atMs);
    if (ageMs < (m.outcome === 'failed' ? failedMs : cooldownMs)) return 'cooldown';
    if (m.from === to && m.outcome === 'done' && ageMs < undoMs && !changed(m, now)) return 'undo';
  }
  return null;
}

/** The loads that spoke for that move are not what they were: of the VM, or of what else is on the two nodes. */
function changed(m: PastMove, now: LoadsNow): boolean {
  const near = (node: string, share: number): boolean =>
    Math.abs(now.shareWithout(node, m.vm) - share) <= shareNear;
  return (
    Math.abs(now.vmCpus(m.vm) - m.vmCpus) > Math.max(0.25, cpusNear * m.vmCpus) ||
    !near(m.from, m.fromShare) ||
    !near(m.to, m.toShare)
  );
}

export interface AutoView {
  readonly me: string;
  /** Wall clock: what was done of late outlives who did it. */
  readonly nowMs: number;
  readonly mode: Exclude<BalanceMode, 'off'>;
  readonly movesPerHourMax: number;
  readonly record: BalanceRecord | null;
  /** What would help now, best first; nothing that a brake is on. */
  readonly found: readonly BalanceMove[];
  /** Since when each VM has been wanted away from where it is, without a break, ms ago. */
  wantedMs(vm: string): number;
  /** What keeps everything where it is, in words. */
  readonly holds: readonly string[];
  readonly loads: LoadsNow;
  /** What is promised of memory and used of pools now. */
  readonly use: Omit<UsePointRecord, 'atMs'>;
  /** Its id for the operation of the move that is begun. */
  newId(): string;
}

type UsePointRecord = { readonly atMs: number; readonly memoryMiB: number; readonly diskBytes: number };

/** A point of the trend is so long after the one before it, ms. */
const useEveryMs = 12 * hour;
const usePointsMax = 64;

/** One point more, twice a day. */
function trend(points: BalanceRecord['use'], now: UsePointRecord): BalanceRecord['use'] {
  const last = points.at(-1);
  return last !== undefined && now.atMs - last.atMs < useEveryMs
    ? points
    : [...points, now].slice(-usePointsMax);
}

/** What is over needs few words: the record must stay within what a value of the ledger holds. */
const shortened = (m: PastMove): PastMove =>
  m.outcome === null || (m.why.length <= 120 && m.text.length <= 120)
    ? m
    : { ...m, why: m.why.slice(0, 120), text: m.text.slice(0, 120) };

export interface AutoStep {
  readonly record: BalanceRecord;
  /** The move to begin now, with what is noted of it; null: none. */
  readonly begin: PastMove | null;
}

/** The record with what became of its moves. */
export function followed(
  record: BalanceRecord,
  op: (id: string) => Op | undefined,
  nowMs: number,
): BalanceRecord {
  const past = record.past.map((m): PastMove => {
    if (m.outcome !== null) return m;
    const o = op(m.op);
    // An operation that is not there any more ended long ago.
    if (o === undefined) return { ...m, outcome: 'cancelled' };
    if (!opFinished(o)) return m;
    const outcome = o.state === 'done' ? 'done' : o.state === 'cancelled' ? 'cancelled' : 'failed';
    const text = (o.error?.message ?? '').slice(0, 300);
    return { ...m, outcome, tookMs: Math.max(0, Math.min(o.updatedMs, nowMs) - m.atMs), text };
  });
  return past.every((m, i) => m === record.past[i]) ? record : { ...record, past };
}

/** What balancing does now: one move at a time, held to its brakes; and what it says of it. */
export function decideBalance(v: AutoView): AutoStep {
  const past = v.record?.past ?? [];
  const under = past.find((m) => m.outcome === null);
  const age = (m: PastMove): number => Math.max(0, v.nowMs - m.atMs);
  const out = (sentence: string, begin: PastMove | null = null): AutoStep => ({
    begin,
    record: {
      by: v.me,
      atMs: v.nowMs,
      sentence: sentence.slice(0, 500),
      moves: v.found.slice(0, 16),
      past: [...past.map(shortened), ...(begin === null ? [] : [begin])].slice(-balancePastMax),
      use: trend(v.record?.use ?? [], { atMs: v.nowMs, ...v.use }),
    },
  });
  const n = v.found.length;
  const would = n === 0 ? 'the cluster is even' : `${n} ${n === 1 ? 'move' : 'moves'} would help`;
  if (under !== undefined)
    return out(`"${under.name}" moves from ${under.from} to ${under.to}: ${under.why}`);
  if (v.mode === 'recommend') return out(`${would}; nothing is moved by itself`);
  const may = v.found.filter((m) => v.mode === 'automatic' || m.for === 'rule');
  if (may.length === 0) return out(n === 0 ? would : `${would}, none of them for a rule`);
  if (v.holds.length > 0) return out(`${would}, and wait: ${v.holds.join('; ')}`);
  const lastEnd = Math.max(0, ...past.map((m) => m.atMs + (m.tookMs ?? 0)));
  const urgent = may.find((m) => v.loads.cpuShare(m.from) > fullShare && v.wantedMs(m.vm) >= urgentMs);
  const restMs = urgent === undefined ? settleMs : urgentMs;
  if (past.length > 0 && v.nowMs >= lastEnd && v.nowMs - lastEnd < restMs)
    return out(`${would}; after the last move loads are measured anew`);
  const hourly = past.filter((m) => age(m) < hour).length;
  if (hourly >= v.movesPerHourMax)
    return out(`${would}, and wait: ${hourly} moves were made within the hour, as many as are allowed`);
  const due = urgent ?? may.find((m) => v.wantedMs(m.vm) >= holdMs);
  if (due === undefined)
    return out(`${would}, and wait until that has been so for ${holdMs / minute} minutes`);
  return out(`"${due.name}" moves from ${due.from} to ${due.to}: ${due.why}`, {
    ...due,
    op: v.newId(),
    atMs: v.nowMs,
    outcome: null,
    tookMs: null,
    text: '',
    vmCpus: v.loads.vmCpus(due.vm),
    fromShare: v.loads.shareWithout(due.from, due.vm),
    toShare: v.loads.shareWithout(due.to, due.vm),
  });
}
