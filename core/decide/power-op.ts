import { FlotillaError } from '../domain/error.js';
import type { NodePresence, NodeRecord } from '../domain/node.js';
import { opFinished, type Op, type OpStep } from '../domain/op.js';
import type { PowerArgs } from '../domain/power.js';

const minute = 60_000;

/** A BMC that does not confirm is asked so often before the operation fails. */
export const ordersMax = 3;
/** Between two orders, ms. */
export const orderAgainMs = 30_000;
/** So long a node that is empty may still be bound by what it stands by for, ms: owners choose others in seconds. */
const bindMs = 10 * minute;
/** A node whose power is off loses its lease within seconds; one that has it for so long is not the one that was powered off, ms. */
const leaseMs = minute;
/** A node gets so long to start and be well, ms: large servers test their memory for minutes. */
export const startMs = 20 * minute;
/** While it starts, it is told again to be on after so long, ms. */
const nudgeMs = 5 * minute;

/** An unfinished operation `node.sleep` or `node.wake`. */
export interface PowerOpView {
  readonly op: Op;
  readonly args: PowerArgs;
  /** Null: it was removed. */
  readonly node: NodeRecord | null;
  /** Its lease stands. */
  readonly live: boolean;
  readonly presence: NodePresence;
  /** What it says is wrong with what VMs need of it; null: it has said nothing since it is on. */
  readonly unwell: readonly string[] | null;
  /** The operation that empties it, where there is one. */
  readonly drain: Op | undefined;
  /** What binds it: empty, it may be powered off. */
  readonly binds: readonly string[];
  /** Wall clock: who goes on with an operation may be another node. */
  readonly nowMs: number;
}

/** What to do now; each is one transaction with what is noted of it, an order to the BMC comes after it. */
export interface PowerOpStep extends OpStep {
  readonly act:
    | 'wait'
    /** Sets it to maintenance and begins the operation that empties it. */
    | 'drain'
    | 'cancel-drain'
    /** Notes that it is asleep, then tells the BMC. */
    | 'off'
    | 'on';
  /** It is active again, and not asleep. */
  readonly activate: boolean;
  readonly patch: Partial<PowerArgs>;
}

const step = (act: PowerOpStep['act'], text: string, o: Partial<PowerOpStep> = {}): PowerOpStep => ({
  act,
  step: text,
  progress: null,
  activate: false,
  patch: {},
  end: null,
  ...o,
});
const over = (state: 'done' | 'cancelled', text: string, activate: boolean): PowerOpStep =>
  step('wait', text, { activate, end: { state } });
const failed = (
  code: 'wrong-state' | 'in-use' | 'fence-failed' | 'not-found' | 'timeout',
  message: string,
  hint: string,
  activate = true,
): PowerOpStep =>
  step('wait', message, {
    activate,
    end: { state: 'failed', error: new FlotillaError(code, message, { hint }) },
  });

/** What to do next for a node that is put to sleep, or woken. All it knows is in the ledger, so whoever decides next goes on. */
export function decidePowerOp(v: PowerOpView): PowerOpStep {
  const { node } = v;
  if (node === null)
    return failed('not-found', `${v.args.node} is no node of the cluster any more`, '', false);
  return v.op.kind === 'node.sleep' ? sleep(v, node) : wake(v, node);
}

function sleep(v: PowerOpView, node: NodeRecord): PowerOpStep {
  const { args, drain, nowMs, op } = v;
  const { id } = node;
  if (node.asleep !== undefined) return fallAsleep(v, id);
  if (node.witness || node.voter)
    return failed(
      'wrong-state',
      `${id} votes in the ledger: it stays on`,
      'Choose a node that does not vote.',
      args.drain !== null,
    );
  if (op.cancelAsked) {
    if (drain !== undefined && !opFinished(drain))
      return drain.cancelAsked
        ? step('wait', 'waits until nothing moves')
        : step('cancel-drain', 'is cancelled');
    return over('cancelled', `${id} stays on`, args.drain !== null);
  }
  if (args.drain === null) return step('drain', 'is being emptied', { progress: 0 });
  if (node.desired !== 'maintenance')
    return failed('wrong-state', `${id} was set to ${node.desired} meanwhile: it stays on`, '', false);
  if (drain !== undefined && !opFinished(drain))
    return step('wait', `is being emptied: ${drain.step}`, { progress: 0.5 * (drain.progress ?? 0) });
  if (drain !== undefined && drain.state !== 'done')
    return failed(
      'in-use',
      `${id} stays on, it could not be emptied: ${drain.error?.message ?? drain.state}`,
      drain.error?.hint ?? 'Ask again.',
    );
  const emptyMs = args.emptyMs ?? nowMs;
  if (v.binds.length > 0) {
    if (nowMs - emptyMs > bindMs)
      return failed(
        'in-use',
        `${id} stays on: ${v.binds.slice(0, 5).join('; ')}`,
        'See to that, and ask again.',
      );
    return step('wait', `waits: ${v.binds.join('; ')}`, { progress: 0.5, patch: { emptyMs } });
  }
  return order(v, 'off', { emptyMs });
}

/** From here on it is told to be off, until that is confirmed or the BMC has been asked often enough. */
function fallAsleep(v: PowerOpView, id: string): PowerOpStep {
  const { args, nowMs } = v;
  if (args.confirmedMs !== null) {
    if (!v.live) return over('done', `${id} is asleep: its power is off`, false);
    if (nowMs - args.confirmedMs < leaseMs)
      return step('wait', 'its power is off; its lease has not ended yet', { progress: 0.9 });
    return failed(
      'fence-failed',
      `${id} is on, though its BMC says that the power is off: it may be another machine's`,
      `See which machine is off now, and try the BMC: flotilla node bmc test ${id}.`,
    );
  }
  // An order that nobody has noted the end of is given again: whoever gave it may be gone.
  if (args.tries < ordersMax || args.text === '') return order(v, 'off', {});
  return failed(
    'fence-failed',
    v.live
      ? `${id} stays on: its BMC did not confirm that it is off: ${args.text}`
      : `Nobody knows whether ${id} is off, its BMC did not confirm it: ${args.text}`,
    `Try the BMC: flotilla node bmc test ${id}.`,
  );
}

function order(v: PowerOpView, act: 'off' | 'on', patch: Partial<PowerArgs>): PowerOpStep {
  const { args, nowMs } = v;
  const again = args.askedMs !== null && args.text !== '' && nowMs - args.askedMs < orderAgainMs;
  if (again)
    return step('wait', `its BMC is asked again: ${args.text}`.slice(0, 200), { progress: 0.6, patch });
  return step(act, `its BMC is asked to power it ${act}`, {
    progress: 0.6,
    patch: { ...patch, tries: args.tries + 1, askedMs: nowMs, text: '' },
  });
}

function wake(v: PowerOpView, node: NodeRecord): PowerOpStep {
  const { args, nowMs, op } = v;
  const { id } = node;
  if (node.asleep === undefined) return over('done', `${id} is not asleep`, false);
  if (v.live) {
    if (v.presence === 'here' && v.unwell?.length === 0) return over('done', `${id} is awake`, true);
    const why = v.unwell?.join('; ') ?? 'it has not said how it is';
    if (nowMs - op.createdMs < startMs)
      return step('wait', `is on; waits until it is well: ${why}`, { progress: 0.8 });
    return failed('timeout', `${id} is on and not well: ${why}`, 'See what its page and its screen say.');
  }
  if (nowMs - op.createdMs > startMs)
    return failed(
      'timeout',
      args.confirmedMs === null
        ? `${id} did not come back, its BMC did not confirm that it is on: ${args.text}`
        : `${id} did not come back: its power is on, and it did not join within ${startMs / minute} minutes`,
      'It counts as down from now on. See its screen, or power it on by hand.',
    );
  if (args.confirmedMs !== null && nowMs - (args.askedMs ?? 0) < nudgeMs)
    return step('wait', 'its power is on; it starts', { progress: 0.5 });
  return order(v, 'on', {});
}
