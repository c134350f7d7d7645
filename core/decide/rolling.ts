import type { DrainVm } from '../domain/drain.js';
import { drainArgs } from '../domain/drain.js';
import { FlotillaError } from '../domain/error.js';
import type { NodeDesired } from '../domain/node.js';
import { opFinished, type Op, type OpStep } from '../domain/op.js';
import { underWay, type RollingArgs, type RollingNode, type RollingState } from '../domain/rolling.js';

/** A node that restarts or is updated is waited for, ms: firmware that checks much memory, twice, and an image that is fetched slowly. */
export const workMsMax = 60 * 60_000;
/** Until a node that is back is well, ms. That copies are made the same is waited for without a limit. */
export const settleMsMax = 15 * 60_000;
/** It must have been well for so long without a break, ms: pools and drives are looked at one by one after a start. */
export const steadyMs = 10_000;
/** What keeps the next node from going may pass within it, ms. */
export const holdMsMax = 10 * 60_000;

/** A node as ledger and radio have it now. */
export interface RollingSeen {
  readonly desired: NodeDesired;
  readonly witness: boolean;
  /** Its live key; null: it has none. */
  readonly live: { readonly boot: string; readonly version: string } | null;
  /** It is heard, and this is its agent's start; null: it is not. */
  readonly agentBoot: string | null;
  /** Parts of it that are not well, with why; its keeper among them where that would not arm. */
  readonly unwell: ReadonlyMap<string, string>;
  /** Names of VMs that have a copy there, and whose copies differ. */
  readonly unlike: readonly string[];
}

/** Which nodes go next. */
export type RollingNext =
  | { readonly nodes: readonly string[] }
  /** Why none can. */
  | { readonly held: string };

export interface RollingView {
  readonly op: Op;
  readonly args: RollingArgs;
  anOp(id: string): Op | undefined;
  /** Null: it is not in the cluster any more. */
  node(id: string): RollingSeen | null;
  /** Asked only where {@link wantsNext}. */
  readonly next: RollingNext | null;
  /** Since when it is so with that node, or with the wait for the next, as whoever decides has seen, ms: its state; its text. */
  stateMs(node: string | null): number;
  textMs(node: string): number;
}

export type RollingAct =
  | { readonly do: 'drain'; readonly node: string }
  | { readonly do: 'work'; readonly node: string }
  /** Sets it active; VMs that come back do so by an operation. */
  | { readonly do: 'return'; readonly node: string; readonly vms: readonly DrainVm[] }
  | { readonly do: 'cancel'; readonly op: string };

export interface RollingStep extends OpStep {
  /** All nodes as they are now; the op that an act makes is put in by whoever does it. */
  readonly nodes: readonly RollingNode[];
  readonly acts: readonly RollingAct[];
}

/** Nobody is under way, somebody is left, and nothing speaks against beginning. */
export const wantsNext = (op: Op, args: RollingArgs): boolean =>
  underWay(args).length === 0 &&
  !args.paused &&
  !op.cancelAsked &&
  args.nodes.some((n) => n.state === 'waiting');

const doing: Readonly<Record<RollingArgs['work'], string>> = {
  reboot: 'restarts',
  update: 'is updated',
};

/**
 * What to do next for the same work on one node after the other. All it knows is in the ledger and on the radio, so
 * whoever decides next goes on from there: each act is in the same transaction as what is noted of it. It ends at the
 * first node that is not well, which stays as it is for a person to look at.
 */
export function decideRolling(v: RollingView): RollingStep {
  const acts: RollingAct[] = [];
  let stop: FlotillaError | null = null;
  const nodes = v.args.nodes.map((n): RollingNode => {
    const is = v.node(n.node);
    if (n.state === 'waiting' || n.state === 'done') return n;
    const r =
      is === null
        ? fails(n.node, `${n.node} is not in the cluster any more`, `Leave it out.`)
        : one(v, n, is, acts);
    if (!(r instanceof FlotillaError)) return r;
    stop ??= r;
    return { ...n, text: r.message.slice(0, 200) };
  });
  if (stop !== null) return conclude(v, nodes, [], stop);
  if (!wantsNext(v.op, { ...v.args, nodes }) || v.next === null) return conclude(v, nodes, acts, null);
  const { next } = v;
  if ('held' in next) {
    if (v.stateMs(null) < holdMsMax)
      return { ...conclude(v, nodes, acts, null), ...heldBack(nodes, next.held) };
    return conclude(v, nodes, [], fails(null, `No further node can go: ${next.held}`, 'See to it.'));
  }
  return conclude(
    v,
    nodes.map((n) => (next.nodes.includes(n.node) ? begun(v, n, acts) : n)),
    acts,
    null,
  );
}

/** A node's turn begins: what it is now is what it must be again. */
function begun(v: RollingView, n: RollingNode, acts: RollingAct[]): RollingNode {
  const is = v.node(n.node);
  if (is === null) return { ...n, state: 'done', text: 'it is not in the cluster any more' };
  const before: RollingNode = {
    ...n,
    was: n.was ?? (is.desired === 'maintenance' ? 'maintenance' : 'active'),
    boot: is.live?.boot ?? '',
    agentBoot: is.agentBoot ?? '',
    unwell: n.unwell ?? [...is.unwell.keys()].slice(0, 32),
    op: null,
  };
  // A witness has nothing that could leave it.
  acts.push({ do: is.witness ? 'work' : 'drain', node: n.node });
  return is.witness
    ? { ...before, state: 'working', text: doing[v.args.work] }
    : { ...before, state: 'emptying', text: 'its VMs move away' };
}

function one(
  v: RollingView,
  n: RollingNode,
  is: RollingSeen,
  acts: RollingAct[],
): RollingNode | FlotillaError {
  const { op, args } = v;
  const o = v.anOp(n.op ?? '');
  const to = (state: RollingState, text: string, more: Partial<RollingNode> = {}): RollingNode => ({
    ...n,
    state,
    op: null,
    text: text.slice(0, 200),
    ...more,
  });
  const stay = (text: string): RollingNode => ({ ...n, text: text.slice(0, 200) });
  const stopIt = (what: Op): void => {
    if (op.cancelAsked && !what.cancelAsked) acts.push({ do: 'cancel', op: what.id });
  };
  switch (n.state) {
    case 'emptying':
      if (o !== undefined && !opFinished(o)) {
        stopIt(o);
        return stay(o.step === '' ? 'its VMs move away' : o.step);
      }
      if (op.cancelAsked) return back(v, n, is, acts, to('returning', '', { drain: o?.id, undone: true }));
      if (o?.state === 'done') {
        if (is.desired !== 'maintenance')
          return fails(n.node, `${n.node} was emptied, and somebody set it ${is.desired} since`, again);
        acts.push({ do: 'work', node: n.node });
        return to('working', doing[args.work], { drain: o.id });
      }
      if (o !== undefined)
        return fails(n.node, `${n.node} could not be emptied: ${why(o)}`, o.error?.hint ?? again);
      // Its record is gone: what it does follows from what is there, so it is asked for again.
      acts.push({ do: 'drain', node: n.node });
      return stay('its VMs move away');
    case 'working':
      if (o !== undefined && !opFinished(o)) {
        if (is.live === null || o.state === 'queued') stopIt(o);
        if (v.stateMs(n.node) >= workMsMax)
          return fails(
            n.node,
            `${n.node} has not come back within ${workMsMax / 60_000} minutes`,
            'Look at its console, and switch it off and on.',
          );
        if (is.live === null) return stay(`${doing[args.work]}: it is down`);
        return stay(o.step === '' ? doing[args.work] : o.step);
      }
      if (o?.state === 'done' || (o === undefined && is.live !== null && is.live.boot !== n.boot))
        return to('settling', 'is back');
      if (op.cancelAsked && (o === undefined || o.state === 'cancelled'))
        return back(v, n, is, acts, to('returning', '', { undone: true }));
      if (o !== undefined)
        return fails(
          n.node,
          `${n.node} ${args.work === 'update' ? 'was not updated' : 'has not restarted'}: ${why(o)}`,
          o.error?.hint ?? again,
        );
      acts.push({ do: 'work', node: n.node });
      return stay(doing[args.work]);
    case 'settling': {
      const bad = illOf(n, is);
      const version = is.live?.version;
      if (bad !== null) {
        if (v.stateMs(n.node) < settleMsMax) return stay(`is back, and not well yet: ${bad}`);
        return fails(n.node, `${n.node} is back, and not well: ${bad}`, 'See to that.');
      }
      const other = otherVersion(args, n, version);
      if (other !== null) return fails(n.node, other, 'Its screen says which slot it was started from.');
      if (is.unlike.length > 0)
        return stay(`is well; the copies of ${names(is.unlike)} are being made the same`);
      const well = stay(wellText);
      return v.textMs(n.node) < steadyMs || n.text !== wellText
        ? well
        : back(v, n, is, acts, to('returning', '', { version }));
    }
    case 'returning':
      if (o !== undefined && !opFinished(o)) return stay(o.step === '' ? 'its VMs come back' : o.step);
      if (o === undefined || o.state === 'done' || op.cancelAsked) return over({ ...n, op: null });
      return fails(n.node, `VMs could not come back to ${n.node}: ${why(o)}`, o.error?.hint ?? again);
    case 'waiting':
    case 'done':
      return n;
  }
}

const wellText = 'is well';
const again = 'Go on when that is settled.';

/** Gives a node back what it was; where nothing is to come back it is done with that. */
function back(
  v: RollingView,
  n: RollingNode,
  is: RollingSeen,
  acts: RollingAct[],
  next: RollingNode,
): RollingNode {
  if (is.witness || n.was === 'maintenance' || is.desired === 'leaving') return over(next);
  const drain = v.anOp(next.drain ?? '');
  const moved = (drain === undefined ? null : drainArgs(drain))?.vms.filter((x) => x.state === 'moved') ?? [];
  const vms = v.args.bringBack
    ? moved.map((x): DrainVm => ({ vm: x.vm, state: 'waiting', tries: 0, restart: false, text: '' }))
    : [];
  acts.push({ do: 'return', node: n.node, vms });
  return vms.length === 0 ? over(next) : { ...next, text: 'its VMs come back' };
}

/** A node's turn ends. */
const over = ({ undone, ...n }: RollingNode): RollingNode => ({
  ...n,
  state: undone === true ? 'waiting' : 'done',
  text: '',
});

/** What is worse with a node than before; null: nothing. */
function illOf(n: RollingNode, is: RollingSeen): string | null {
  if (is.live === null) return 'it is not alive in the ledger';
  if (is.live.boot === n.boot) return 'it has not restarted';
  if (is.agentBoot === null) return 'it is not heard';
  if (is.agentBoot === n.agentBoot) return 'what is heard of it is of before';
  for (const [part, text] of is.unwell)
    if (n.unwell?.includes(part) !== true) return text === '' ? part : `${part}: ${text}`;
  return null;
}

/** After an update all have the same version. */
function otherVersion(args: RollingArgs, n: RollingNode, version: string | undefined): string | null {
  if (args.work !== 'update') return null;
  const first = args.nodes.find((x) => x.state === 'done' && x.version !== undefined && x.node !== n.node);
  return first === undefined || first.version === version
    ? null
    : `${n.node} runs version ${version ?? '?'} after the update, ${first.node} ${first.version ?? '?'}`;
}

const why = (o: Op): string => o.error?.message ?? `${o.kind} was ${o.state}`;
const names = (of: readonly string[]): string =>
  of.length > 4 ? `${of.slice(0, 4).join(', ')} and ${of.length - 4} more` : of.join(', ');

const fails = (node: string | null, message: string, hint: string): FlotillaError =>
  new FlotillaError('wrong-state', message, {
    hint: `${hint} Then: flotilla rolling resume.${node === null ? '' : ` ${node} stays in maintenance until then.`}`,
  });

/** How much of a node's turn is behind it. */
const share: Readonly<Record<RollingState, number>> = {
  waiting: 0,
  emptying: 0.1,
  working: 0.4,
  settling: 0.7,
  returning: 0.9,
  done: 1,
};

const counted = (nodes: readonly RollingNode[]): string =>
  `${nodes.filter((n) => n.state === 'done').length} of ${nodes.length} nodes are done`;

const heldBack = (nodes: readonly RollingNode[], held: string): Pick<RollingStep, 'step'> => ({
  step: `${counted(nodes)}; waits: ${held}`,
});

function conclude(
  v: RollingView,
  nodes: readonly RollingNode[],
  acts: readonly RollingAct[],
  stop: FlotillaError | null,
): RollingStep {
  const busy = nodes.filter((n) => n.state !== 'waiting' && n.state !== 'done');
  const left = nodes.some((n) => n.state === 'waiting');
  const now = busy.map((n) => `${n.node}: ${n.text}`);
  if (v.args.paused && left) now.push(busy.length === 0 ? 'paused' : 'then it pauses');
  const out = {
    nodes,
    acts,
    step: [counted(nodes), ...now].join('; '),
    progress: nodes.length === 0 ? 1 : nodes.reduce((sum, n) => sum + share[n.state], 0) / nodes.length,
  };
  if (stop !== null)
    return { ...out, step: `${counted(nodes)}; it stopped there`, end: { state: 'failed', error: stop } };
  if (busy.length > 0) return { ...out, end: null };
  if (!left) return { ...out, end: { state: 'done' } };
  return { ...out, end: v.op.cancelAsked ? { state: 'cancelled' } : null };
}
