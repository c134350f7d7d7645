import { opFinished, type Op } from '../../domain/op.js';
import {
  powerPastMax,
  type PastPower,
  type PowerMode,
  type PowerRecord,
  type PowerStep,
} from '../../domain/power.js';

const minute = 60_000;
const hour = 60 * minute;

/** A node must have been wanted asleep for so long without a break before it is, ms. */
export const sleepHoldMs = 15 * minute;
/** A node that was switched on stays on for so long, ms: starts wear it, and cost what sleep saves in minutes. */
export const onMsMin = hour;
/** After any change nobody is put to sleep for so long, ms. */
export const restMs = 15 * minute;
/** A node that could not be put to sleep, or did not wake, is not put to sleep for so long, ms. */
export const failedMs = 24 * hour;

/** The record with what became of its changes. */
export function followedPower(
  past: readonly PastPower[],
  op: (id: string) => Op | undefined,
  nowMs: number,
): PastPower[] {
  return past.map((p): PastPower => {
    if (p.outcome !== null) return p;
    const o = op(p.op);
    // An operation that is not there any more ended long ago.
    if (o === undefined) return { ...p, outcome: 'cancelled', endMs: nowMs };
    if (!opFinished(o)) return p;
    const outcome = o.state === 'done' ? 'done' : o.state === 'cancelled' ? 'cancelled' : 'failed';
    return { ...p, outcome, endMs: o.updatedMs, text: (o.error?.message ?? '').slice(0, 300) };
  });
}

/** Why a node is not put to sleep by itself yet, for what was done with it; null: nothing speaks against it. */
export function sleepBrake(
  node: string,
  upSinceMs: number | null,
  past: readonly PastPower[],
  nowMs: number,
): string | null {
  // A clock that was set back makes nothing older.
  const age = (ms: number): number => Math.max(0, nowMs - ms);
  if (upSinceMs === null || age(upSinceMs) < onMsMin) return 'was switched on within the hour';
  for (const p of past) {
    if (p.node !== node || p.outcome === null) continue;
    const since = age(p.endMs ?? p.atMs);
    if (p.outcome === 'failed' && since < failedMs) return `its last ${p.do} failed: ${p.text}`;
    if (p.do === 'wake' && p.outcome === 'done' && since < onMsMin) return 'was woken within the hour';
  }
  return null;
}

export interface PowerAutoView {
  readonly mode: Exclude<PowerMode, 'off'>;
  readonly nowMs: number;
  /** With what became of it. */
  readonly past: readonly PastPower[];
  readonly step: PowerStep | null;
  /** Since when the node of the step has been wanted asleep, without a break, ms ago. */
  readonly wantedMs: number;
  /** An operation that puts a node to sleep, or wakes one, under way: whoever began it. */
  readonly open: Op | null;
  /** What keeps nodes from being put to sleep, in words. */
  readonly holds: readonly string[];
  readonly asleep: number;
  newId(): string;
}

export interface PowerAutoStep {
  readonly sentence: string;
  readonly past: PowerRecord['past'];
  readonly begin: PastPower | null;
  /** An operation that is to end, since what it does is not wanted any more. */
  readonly cancel: Op | null;
}

/** What is done about power now: one change at a time, held to its brakes; a wake needs none. */
export function decidePower(v: PowerAutoView): PowerAutoStep {
  const { step, open } = v;
  const out = (sentence: string, o: Partial<PowerAutoStep> = {}): PowerAutoStep => ({
    sentence: sentence.slice(0, 500),
    begin: null,
    cancel: null,
    ...o,
    past: [...v.past, ...[o.begin ?? []].flat()].slice(-powerPastMax),
  });
  const would =
    step === null
      ? v.asleep === 0
        ? 'no node can be spared'
        : 'the nodes that are on are as many as are needed'
      : step.do === 'sleep'
        ? `${step.node} could sleep: ${step.why}`
        : `${step.node} should wake: ${step.why}`;
  if (open !== null) {
    const what = `${open.kind} of ${open.subject.name}: ${open.step || open.state}`;
    const against = step?.do === 'wake' && open.kind === 'node.sleep' && !open.cancelAsked;
    return v.mode === 'automatic' && against
      ? out(`${would}; so ${open.subject.id} stays on`, { cancel: open })
      : out(what);
  }
  if (v.mode === 'recommend') return out(step === null ? would : `${would}; nothing is done by itself`);
  if (step === null) return out(would);
  const begin: PastPower = { ...step, op: v.newId(), atMs: v.nowMs, endMs: null, outcome: null, text: '' };
  if (step.do === 'wake') return out(would, { begin });
  if (v.holds.length > 0) return out(`${would}; that waits: ${v.holds.join('; ')}`);
  const lastMs = Math.max(0, ...v.past.map((p) => p.endMs ?? p.atMs));
  if (v.past.length > 0 && Math.max(0, v.nowMs - lastMs) < restMs)
    return out(`${would}; after the last change it waits for ${restMs / minute} minutes`);
  if (v.wantedMs < sleepHoldMs)
    return out(`${would}; that waits until it has been so for ${sleepHoldMs / minute} minutes`);
  return out(would, { begin });
}
