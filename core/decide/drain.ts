import { FlotillaError } from '../domain/error.js';
import { drainVmsMax, type DrainArgs, type DrainVm } from '../domain/drain.js';
import { opFinished, type Op, type OpStep } from '../domain/op.js';
import type { OwnLockstep, VmOwn, VmPhase, VmSpec } from '../domain/vm.js';
import { lockstepText, type LockstepCheck } from './lockstep-check.js';
import { migrateText } from './migrate-check.js';
import type { Outlook } from './outlook.js';
import { canStand } from './plan/place.js';

/** Live migrations that one operation has under way at a time: more share the same wire and each takes longer. */
export const movesAtOnce = 2;
/** VMs that are off and change their owner in one transaction, at most. */
const relocatesAtOnce = 8;
/** Moves of one VM that may fail before it is left where it is. */
const triesMax = 2;
/** What keeps a VM only for now. */
const passing: ReadonlySet<string> = new Set([
  'under-way',
  'busy',
  'unknown',
  'starting',
  'stopping',
  'disk-not-ready',
  'copies-differ',
]);
/** What keeps a machine from moving while it runs, and not from being started there. */
const restartable: ReadonlySet<string> = new Set(['other-cpu', 'older-qemu', 'not-armable']);

/** How a VM would go: while it runs; to its twin; being off; shut down and started again; or not. */
export interface DrainLine {
  readonly vm: string;
  readonly name: string;
  readonly how: 'migrate' | 'switch' | 'relocate' | 'restart' | 'wait' | 'stays';
  readonly to: string | null;
  /** Why it waits or stays, or why it must be restarted. */
  readonly text: string;
  readonly memoryMiB: number;
  /** Its machine runs. */
  readonly runs: boolean;
}

export interface DrainSubject {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  readonly phase: VmPhase;
}

/**
 * Where the VMs of a node would go, all of them together: the largest first, since it has the fewest places, each where
 * the cluster stays most even with those before it gone already.
 *
 * @param node - the only node they may go to; null: any
 */
export function planDrain(view: Outlook, vms: readonly DrainSubject[], node: string | null): DrainLine[] {
  const moves = view.moves();
  const order = [...vms].sort(
    (a, b) =>
      b.spec.memoryMiB - a.spec.memoryMiB ||
      (a.spec.name < b.spec.name ? -1 : a.spec.name > b.spec.name ? 1 : a.spec.id < b.spec.id ? -1 : 1),
  );
  return order.map(({ spec, own, phase }): DrainLine => {
    const at = moves.s.vms.findIndex((x) => x.name === spec.name);
    const runs = own.state !== 'stopped';
    const line = (how: DrainLine['how'], to: string | null, text: string): DrainLine => ({
      vm: spec.id,
      name: spec.name,
      how,
      to,
      text,
      memoryMiB: spec.memoryMiB,
      runs,
    });
    if (at < 0) return line('wait', null, 'its owner is not a node that runs VMs');
    const take = (to: string): void => {
      const seat = moves.seat(at, moves.s.nodeNumber(to)) ?? moves.seat(at, moves.s.nodeNumber(to), true);
      if (seat !== null) moves.take(at, seat);
    };
    const wanted = (n: number): boolean => node === null || moves.s.nodes[n]?.name === node;
    if (!runs) {
      const busy = view.openOps(spec.id)[0];
      if (busy !== undefined)
        return line('wait', null, `another operation on it is not finished: ${busy.kind}`);
      const disks = view.disks(spec.id).filter((d) => spec.disks.some((x) => x.disk === d.id));
      const broken = disks.find((d) => d.state === 'failed');
      if (broken !== undefined)
        return line('stays', null, broken.error?.message ?? 'one of its disks could not be made');
      if (disks.some((d) => d.state === 'wanted')) return line('wait', null, 'its disks are being made');
      if (spec.power !== 'stopped')
        return line(
          'wait',
          null,
          `it is to run, and ${phase === 'failed' ? 'cannot be started where it is' : 'is not started yet'}`,
        );
      if (own.copies.length > 0 && own.sync !== 'ok')
        return line('wait', null, 'the copies of its disks are not in sync');
      const local = moves.s.vms[at]?.on;
      const seat = moves.best(at, wanted) ?? moves.best(at, wanted, true);
      if (seat === null)
        return line(
          'stays',
          null,
          local?.length === 1
            ? `its disks are on ${own.owner} only, the last copy there is`
            : 'no other node has room for it and reaches its disks',
        );
      moves.take(at, seat);
      return line('relocate', moves.s.nodes[seat.node]?.name ?? null, '');
    }
    if (own.lockstep) return pairLine(own.lockstep, line, () => view.lockstep(spec, own));
    const check = view.check(spec, own, { node, phase, moves });
    if (check.to !== null) {
      take(check.to);
      return line('migrate', check.to, '');
    }
    const text = migrateText(check);
    if (check.blockers.length > 0)
      return line(
        check.blockers.every((b) => passing.has(b.code)) ? 'wait' : 'stays',
        null,
        check.blockers.map((b) => b.text).join('; '),
      );
    const others = new Map(check.nodes.map((n) => [n.node, n.blockers]));
    const startable = (n: number): boolean =>
      wanted(n) && (others.get(moves.s.nodes[n]?.name ?? '') ?? []).every((b) => restartable.has(b.code));
    const seat = moves.best(at, startable) ?? moves.best(at, startable, true);
    if (seat === null) return line('stays', null, text);
    moves.take(at, seat);
    return line('restart', moves.s.nodes[seat.node]?.name ?? null, text);
  });
}

/** A machine in lockstep goes to its twin, by its owner's own doing as soon as that node is to be empty. */
function pairLine(
  pair: OwnLockstep,
  line: (how: DrainLine['how'], to: string | null, text: string) => DrainLine,
  check: () => LockstepCheck,
): DrainLine {
  if (pair.state === 'protected' && pair.twin !== null)
    return line('switch', pair.twin, 'its twin there goes on');
  const found = check();
  return pair.twin === null && found.to === null
    ? line('stays', null, `it is in lockstep and has no twin: ${lockstepText(found)}`)
    : line('wait', null, 'its twin is being made');
}

/** A twin of another node's VM, and what becomes of it when its node is emptied. */
export interface TwinLine {
  readonly vm: string;
  readonly name: string;
  /** Where another one is made; null: nowhere, so that its VM goes on alone. */
  readonly to: string | null;
  /** Why nowhere. */
  readonly text: string;
}

/** The twins on a node, by the names of their VMs. @param view - with that node as if in maintenance */
export function twinsOn(view: Outlook, node: string, vms: Iterable<DrainSubject>): TwinLine[] {
  const out: TwinLine[] = [];
  for (const { spec, own } of vms) {
    if (own.lockstep?.twin !== node) continue;
    const check = view.lockstep(spec, own);
    out.push({ vm: spec.id, name: spec.name, to: check.to, text: lockstepText(check) });
  }
  return out.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.vm < b.vm ? -1 : 1));
}

/** VMs whose standby a node is, and that would find no other one without it. */
export function bareWithout(view: Outlook, node: string): string[] {
  const { s } = view.moves();
  const n = s.nodes.findIndex((x) => x.name === node);
  const out: string[] = [];
  for (let vm = 0; vm < s.vmCount; vm++) {
    const owner = s.owner[vm]!;
    if (n < 0 || s.standby[vm] !== n) continue;
    s.leave(vm);
    if (!s.nodes.some((_, other) => other !== n && canStand(s, vm, owner, other))) out.push(s.vms[vm]!.name);
    s.enter(vm, owner, n);
  }
  return out;
}

/** An unfinished operation that empties a node, or brings back what one took away. */
export interface DrainView {
  readonly op: Op;
  readonly args: DrainArgs;
  readonly outlook: Outlook;
  vm(id: string): DrainSubject | null;
  /** Every VM with its owner. */
  readonly owners: Iterable<readonly [vm: string, owner: string]>;
  /** Twins on the node, which their VMs' owners give up and make anew elsewhere. */
  readonly twins: number;
  /** VMs of which nobody can read whose they are. */
  readonly unread: number;
  anOp(id: string): Op | undefined;
}

/** What is to be written for it now, all in one transaction. */
export type DrainAct =
  | { readonly do: 'migrate' | 'relocate'; readonly vm: string; readonly from: string; readonly to: string }
  | { readonly do: 'stop' | 'start'; readonly vm: string }
  | { readonly do: 'cancel'; readonly op: string };

export interface DrainStep extends OpStep {
  readonly vms: readonly DrainVm[];
  /** With the place in `vms` of the one that the act is for. */
  readonly acts: readonly DrainAct[];
}

/**
 * What to do next for a node that is emptied, or filled again. All it knows is in the ledger, so whoever decides next
 * goes on from there: each act is in the same transaction as what is noted of it.
 */
export function decideDrain(v: DrainView): DrainStep {
  const { op, args, outlook } = v;
  const back = op.kind === 'node.return';
  const gone = (own: VmOwn): boolean => (own.owner === args.node) === back;
  const lines = new Map(args.vms.map((x) => [x.vm, x]));
  if (!back)
    for (const [vm, owner] of v.owners)
      if (owner === args.node && !lines.has(vm) && lines.size < drainVmsMax)
        lines.set(vm, { vm, state: 'waiting', tries: 0, restart: false, text: '' });
  const left: DrainSubject[] = [];
  for (const id of lines.keys()) {
    const s = v.vm(id);
    if (s !== null && !gone(s.own)) left.push(s);
  }
  const plan = new Map(planDrain(outlook, left, back ? args.node : null).map((l) => [l.vm, l]));
  const acts: DrainAct[] = [];
  const out = new Map<string, DrainVm>();
  let moving = 0;
  for (const line of lines.values()) {
    const o = v.anOp(line.op ?? '');
    if (o !== undefined && !opFinished(o) && o.kind === 'vm.migrate') moving++;
  }
  let relocates = 0;
  const weight = (id: string): number => -(plan.get(id)?.memoryMiB ?? 0);
  const order = [...lines.values()].sort((a, b) => weight(a.vm) - weight(b.vm) || (a.vm < b.vm ? -1 : 1));
  for (const line of order) {
    const s = v.vm(line.vm);
    // Deleted meanwhile; or in lockstep: to fetch that back would cost a whole copy for its next twin.
    if (s === null || (back && s.own.lockstep)) continue;
    const { spec, own } = s;
    const put = (patch: Partial<DrainVm>): void => void out.set(line.vm, { ...line, ...patch });
    const start = (patch: Partial<DrainVm>): void => {
      acts.push({ do: 'start', vm: line.vm });
      put({ restart: false, ...patch });
    };
    const staysOff = line.restart && spec.power === 'stopped';
    const stay = (text: string): void => {
      // Not tried again: what was shut down for it is started where it is.
      const patch = { state: 'stays', op: null, tries: triesMax, text: text.slice(0, 160) } as const;
      if (staysOff) start(patch);
      else put(patch);
    };
    const o = v.anOp(line.op ?? '');
    const under = o !== undefined && !opFinished(o);
    if (gone(own)) {
      if (under) put({ state: 'moving', text: '' });
      else if (staysOff) start({ state: 'moved', to: own.owner, text: '' });
      else put({ state: 'moved', to: own.owner, op: null, restart: false, text: '' });
      continue;
    }
    if (under) {
      if (op.cancelAsked && !o.cancelAsked && (o.kind === 'vm.migrate' || o.kind === 'vm.relocate'))
        acts.push({ do: 'cancel', op: o.id });
      put({ state: line.state === 'stopping' ? 'stopping' : 'moving', text: '' });
      continue;
    }
    if (op.cancelAsked) {
      if (staysOff) start({ state: 'waiting', text: 'cancelled' });
      else put({ state: 'waiting', op: null, restart: false, text: 'cancelled' });
      continue;
    }
    const failed = o?.state === 'failed' || o?.state === 'cancelled';
    const tries = line.tries + (failed ? 1 : 0);
    const p = plan.get(line.vm);
    if (tries >= triesMax) {
      stay(o?.error?.message ?? line.text);
      continue;
    }
    const rest = { tries, op: null } as const;
    switch (p?.how) {
      case 'migrate':
        if (p.to === null || moving >= movesAtOnce)
          put({ ...rest, state: 'waiting', to: p.to, text: 'waits for others' });
        else {
          moving++;
          acts.push({ do: 'migrate', vm: line.vm, from: own.owner, to: p.to });
          put({ ...rest, state: 'moving', to: p.to, text: '' });
        }
        break;
      case 'relocate':
        if (p.to === null || relocates >= relocatesAtOnce)
          put({ ...rest, state: 'waiting', to: p.to, text: 'waits for others' });
        else {
          relocates++;
          acts.push({ do: 'relocate', vm: line.vm, from: own.owner, to: p.to });
          put({ ...rest, state: 'moving', to: p.to, text: '' });
        }
        break;
      case 'restart':
        if (!args.restart) stay(`it would have to be restarted: ${p.text}`);
        else {
          acts.push({ do: 'stop', vm: line.vm });
          put({ ...rest, state: 'stopping', restart: true, to: p.to, text: '' });
        }
        break;
      case 'switch':
        put({ ...rest, state: 'waiting', to: p.to, text: p.text });
        break;
      case 'stays':
        stay(p.text);
        break;
      case 'wait':
      case undefined:
        put({ ...rest, state: 'waiting', text: (p?.text ?? '').slice(0, 160) });
    }
  }
  return conclude(v, [...out.values()], acts);
}

function conclude(v: DrainView, vms: DrainVm[], acts: DrainAct[]): DrainStep {
  const { op, args } = v;
  vms.sort((a, b) => (a.vm < b.vm ? -1 : 1));
  const count = (s: DrainVm['state']): number => vms.filter((x) => x.state === s).length;
  const moved = count('moved');
  const busy = count('moving') + count('stopping') + vms.filter((x) => x.restart).length;
  const [twins, unread] = op.kind === 'node.return' ? [0, 0] : [v.twins, v.unread];
  const where = op.kind === 'node.return' ? 'back on' : 'away from';
  const counts = [
    `${moved} of ${vms.length} VMs are ${where} ${args.node}`,
    ...(['moving', 'stopping', 'waiting', 'stays'] as const).flatMap((s) =>
      count(s) > 0 ? [`${count(s)} ${s === 'stays' ? 'stay' : s === 'waiting' ? 'wait' : s}`] : [],
    ),
    ...(twins > 0 ? [`${twins} twins of others are there still`] : []),
    ...(unread > 0 ? [`of ${unread} the owner cannot be read`] : []),
  ];
  const out = {
    vms,
    acts,
    step: counts.join(', '),
    progress: vms.length === 0 ? 1 : moved / vms.length,
  };
  if (acts.length > 0 || busy > 0) return { ...out, end: null };
  if (op.cancelAsked) return { ...out, end: { state: 'cancelled' } };
  if (count('waiting') > 0 || twins > 0 || unread > 0) return { ...out, end: null };
  const stay = vms.filter((x) => x.state === 'stays');
  // What is off, and is to be, does not keep a node from being worked on; it does keep it from leaving.
  const rests = (s: DrainSubject | null): boolean => s?.own.state === 'stopped' && s.spec.power === 'stopped';
  const bars = stay.filter((x) => op.kind === 'node.return' || args.leave || !rests(v.vm(x.vm)));
  if (bars.length === 0) return { ...out, end: { state: 'done' } };
  const names = bars.slice(0, 5).map((x) => `"${v.vm(x.vm)?.spec.name ?? x.vm}": ${x.text}`);
  const more = bars.length > 5 ? ` · and ${bars.length - 5} more` : '';
  const restart = bars.some((x) => x.text.startsWith('it would have to be restarted'));
  return {
    ...out,
    end: {
      state: 'failed',
      error: new FlotillaError(
        'in-use',
        `${bars.length} VMs could not go ${op.kind === 'node.return' ? 'back to' : 'from'} ${args.node}: ${names.join(' · ')}${more}`,
        {
          hint: restart
            ? 'Allow that they are restarted elsewhere (--restart), or see to what each of them says.'
            : 'See to what each of them says, and ask again.',
        },
      ),
    },
  };
}
