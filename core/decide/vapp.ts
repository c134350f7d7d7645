import { errorRecord, FlotillaError, type ErrorRecord } from '../domain/error.js';
import type { Op } from '../domain/op.js';
import type { Template } from '../domain/template.js';
import type { Vapp, VappArgs, VappFrom, VappMember, VappStart } from '../domain/vapp.js';
import type { VmOwn, VmPhase, VmSpec } from '../domain/vm.js';
import type { VmSnapshot } from '../domain/vm-snapshot.js';

/** VMs that one transaction starts, stops or deletes, at most: each takes two of its 128 compares. */
const actsAtOnce = 12;

type Ordered = Pick<VappMember, 'name' | 'group' | 'start' | 'stop' | 'leaving'>;

/** A vApp as far as its order goes. */
export interface VappOrder<M extends Ordered> {
  readonly members: readonly M[];
  readonly groups: Vapp['groups'];
}

/** Members that are started or stopped together. */
export interface VappStage<M extends Ordered = VappMember> {
  readonly members: readonly M[];
  /** Seconds after the last of them is there, before the next stage. */
  readonly delayS: number;
}

interface Item<M extends Ordered> {
  readonly order: number;
  readonly delayS: number;
  readonly members: M[];
  readonly inner: VappStage<M>[];
}

/** What is in one (nested) vApp, in an order; those of nested ones come as their own stages within. */
function stages<M extends Ordered>(
  v: VappOrder<M>,
  group: string | null,
  orderOf: (x: Pick<VappMember, 'start' | 'stop'>) => { order: number; delayS: number } | null,
): VappStage<M>[] {
  const items = new Map<number, Item<M>>();
  const at = (x: Pick<VappMember, 'start' | 'stop'>): Item<M> | null => {
    const o = orderOf(x);
    if (o === null) return null;
    const item = items.get(o.order) ?? { order: o.order, delayS: 0, members: [], inner: [] };
    const next = { ...item, delayS: Math.max(item.delayS, o.delayS) };
    items.set(o.order, next);
    return next;
  };
  for (const m of v.members) if (m.group === group && !m.leaving) at(m)?.members.push(m);
  for (const g of v.groups) if (g.group === group) at(g)?.inner.push(...stages(v, g.name, orderOf));
  return [...items.values()]
    .sort((a, b) => a.order - b.order)
    .flatMap((i) => {
      const own = i.members.length === 0 ? [] : [{ members: i.members, delayS: 0 }];
      const all = [...own, ...i.inner];
      const last = all.pop();
      return last === undefined ? [] : [...all, { ...last, delayS: last.delayS + i.delayS }];
    });
}

/** In which order a vApp, or one nested in it, is started. */
export const startStages = <M extends Ordered>(
  v: VappOrder<M>,
  group: string | null = null,
): VappStage<M>[] => stages(v, group, ({ start }) => (start.action === 'none' ? null : start));

/** And stopped: where nothing else is said, the other way round. */
export function stopStages(v: Vapp, group: string | null = null): VappStage[] {
  const top = Math.max(0, ...[...v.members, ...v.groups].map((x) => x.start.order));
  return stages(v, group, ({ start, stop }) =>
    stop.action === 'none' ? null : { order: stop.order ?? top - start.order, delayS: stop.delayS },
  );
}

/** In which order what stands still goes on: as at the start, and last those that are not started with it. */
function standStages(v: Vapp, group: string | null): VappStage[] {
  const all = startStages(v, group);
  const started = new Set(all.flatMap((s) => s.members));
  const others = membersOf(v, group).filter((m) => !m.leaving && !started.has(m));
  return others.length === 0 ? all : [...all, { members: others, delayS: 0 }];
}

/** Members of a nested vApp, and of those nested in it; null: all. */
export function membersOf(v: Vapp, group: string | null): VappMember[] {
  if (group === null) return [...v.members];
  const groups = new Set([group]);
  for (let n = 0; n < v.groups.length; n++)
    for (const g of v.groups) if (g.group !== null && groups.has(g.group)) groups.add(g.name);
  return v.members.filter((m) => m.group !== null && groups.has(m.group));
}

/**
 * Members that are stopped and started again with those that a failover brought back, by the vApp's wish. What is not
 * started with its vApp is left alone.
 *
 * @param runs - it is wanted to run, and its node lives
 */
export function restartedWith(
  v: Vapp,
  failed: ReadonlySet<string>,
  runs: (m: VappMember) => boolean,
): string[] {
  const all = startStages(v);
  const first = all.findIndex((s) => s.members.some((m) => failed.has(m.name)));
  if (v.failover === 'members' || first === -1) return [];
  return all.flatMap((s, i) =>
    s.members
      // Those that came back begin anew anyway; but what they need begins anew, too, if it stands before them.
      .filter((m) => runs(m) && (i > first || (v.failover === 'all' && !(failed.has(m.name) && i === 0))))
      .map((m) => m.name),
  );
}

/** VMs that must run before a member's: those of the stage before its own. */
export function membersBefore(v: Vapp, member: string): VappMember[] {
  const all = startStages(v);
  const at = all.findIndex((s) => s.members.some((m) => m.name === member));
  return at < 1 ? [] : [...(all[at - 1]?.members ?? [])];
}

export interface VappSubject {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  readonly phase: VmPhase;
  readonly guestAgent: boolean;
}

/** An unfinished operation on a vApp, and all that it needs to know. */
export interface VappOpView {
  readonly op: Op;
  readonly args: VappArgs;
  readonly vapp: Vapp;
  vm(id: string): VappSubject | null;
  /** Null: there is none of that id. */
  snapshot(id: string): Pick<VmSnapshot, 'state' | 'error'> | null;
  /** Operations on that VM that this one began, the newest first. */
  begun(vm: string, kind: Op['kind']): Op | undefined;
  /** Whether a member's check was answered; null: not asked yet. */
  answered(member: string): boolean | null;
  /** How long this stage stands, and how long all of it has been there, ms; null: it is not. */
  readonly stageMs: number;
  readonly thereMs: number | null;
}

export type VappAct =
  | { readonly do: 'make'; readonly member: VappMember }
  | { readonly do: 'snapshot'; readonly from: VappFrom }
  | { readonly do: 'start' | 'stop' | 'force-stop' | 'pause' | 'resume' | 'delete'; readonly vm: string };

/** A member whose check is to be asked. */
export interface VappAsk {
  readonly member: string;
  readonly vm: string;
  readonly start: VappStart;
}

export interface VappDecision {
  readonly args: VappArgs;
  readonly acts: readonly VappAct[];
  readonly asks: readonly VappAsk[];
  readonly step: string;
  readonly progress: number;
  /** All of the present stage is there: its delay begins. */
  readonly there: boolean;
  readonly end:
    | { readonly state: 'done' | 'cancelled'; readonly gone: boolean }
    | { readonly state: 'failed'; readonly error: ErrorRecord; readonly gone: boolean }
    | null;
}

/**
 * What to do next for an operation on a vApp. All it knows is in the ledger and on the radio, so whoever decides next goes
 * on from there: each act is in the same transaction as what is noted of it.
 */
export function decideVapp(v: VappOpView): VappDecision {
  switch (v.args.phase) {
    case 'snapshot':
      return snapshotting(v);
    case 'make':
      return making(v);
    case 'start':
    case 'resume':
      return starting(v);
    case 'suspend':
      return suspending(v);
    case 'stop':
      return stopping(v);
    case 'delete':
    case 'undo':
      return deleting(v);
  }
}

const go = (v: VappOpView, o: Partial<VappDecision> & { readonly step: string }): VappDecision => ({
  args: v.args,
  acts: [],
  asks: [],
  progress: v.op.progress ?? 0,
  there: false,
  end: null,
  ...o,
});

const makesNew = (op: Pick<Op, 'kind'>): boolean => op.kind === 'vapp.deploy' || op.kind === 'vapp.clone';

/** What fails a deployment takes back all of it; what fails an update leaves what there is. */
export function failVapp(v: VappOpView, why: ErrorRecord): VappDecision {
  if (makesNew(v.op) && (v.args.phase === 'make' || v.args.phase === 'snapshot'))
    return go(v, { args: { ...v.args, phase: 'undo', why }, step: 'takes back what was made' });
  return go(v, { step: v.op.step, end: { state: 'failed', error: why, gone: false } });
}

const cancelled = new FlotillaError('cancelled', 'It was cancelled', {
  hint: 'Ask again when it is wanted.',
});

/** How far the snapshots are that members' disks begin as. */
export interface SnapshotsTaken {
  readonly ask: readonly VappFrom[];
  /** Names of members whose snapshot is under way, with how far it is. */
  readonly waits: readonly string[];
  readonly taken: number;
  readonly of: number;
  readonly error: ErrorRecord | null;
}

/** Where the snapshots stand that an operation takes of other VMs: all are asked for at once, so that they are close together. */
export function snapshotsOf(
  members: readonly Pick<VappMember, 'name' | 'from'>[],
  v: Pick<VappOpView, 'vm' | 'snapshot' | 'begun'>,
): SnapshotsTaken {
  const ask: VappFrom[] = [];
  const waits: string[] = [];
  let taken = 0;
  let error: ErrorRecord | null = null;
  const fail = (e: ErrorRecord | FlotillaError): void => {
    error ??= e instanceof FlotillaError ? errorRecord(e) : e;
  };
  const those = members.flatMap((m) => (m.from === undefined ? [] : [{ name: m.name, from: m.from }]));
  for (const { name, from } of those) {
    const x = v.snapshot(from.snapshot);
    const source = v.vm(from.vm);
    const o = v.begun(from.vm, 'vm.snapshot');
    if (x?.state === 'ready') taken++;
    else if (source === null)
      fail(
        new FlotillaError('not-found', `The VM that "${name}" begins as is gone`, {
          hint: 'See flotilla vm list.',
        }),
      );
    else if (x === null && o === undefined) ask.push(from);
    else if (x?.state === 'failed' && (x.error ?? o?.error)) fail((x.error ?? o?.error) as ErrorRecord);
    else if (x?.state !== 'wanted' || o === undefined)
      fail(
        new FlotillaError('not-found', `The snapshot of VM "${source.spec.name}" was deleted meanwhile`, {
          hint: 'Ask again.',
        }),
      );
    else if (o.node !== source.own.owner)
      fail(
        new FlotillaError(
          'wrong-state',
          `VM "${source.spec.name}" has moved to ${source.own.owner} meanwhile`,
          {
            hint: 'Ask again.',
          },
        ),
      );
    else waits.push(o.progress === null ? name : `${name} (${Math.round(o.progress * 100)} %)`);
  }
  return { ask, waits, taken, of: those.length, error };
}

/** What is next for a template that is being made. */
export interface TemplateDecision {
  readonly ask: readonly VappFrom[];
  readonly step: string;
  readonly progress: number;
  /** Null: it goes on. With an error all that was made of it is taken back. */
  readonly end:
    | { readonly state: 'done' }
    | { readonly state: 'failed' | 'cancelled'; readonly error: ErrorRecord }
    | null;
}

export function decideTemplate(
  begins: Template['begins'],
  op: Op,
  v: Pick<VappOpView, 'vm' | 'snapshot' | 'begun'>,
): TemplateDecision {
  const s = snapshotsOf(
    begins.map((b) => ({ name: b.member, from: b.from })),
    v,
  );
  const progress = s.taken / Math.max(1, s.of);
  const go = { ask: [], progress, step: `${s.taken} of ${s.of} snapshots are taken${waitsText(s.waits)}` };
  if (op.cancelAsked) return { ...go, end: { state: 'cancelled', error: errorRecord(cancelled) } };
  if (s.error !== null) return { ...go, end: { state: 'failed', error: s.error } };
  if (s.taken === s.of) return { ...go, step: 'ready', end: { state: 'done' } };
  return { ...go, ask: s.ask.slice(0, actsAtOnce), end: null };
}

function snapshotting(v: VappOpView): VappDecision {
  if (v.op.cancelAsked) return failVapp(v, errorRecord(cancelled));
  const s = snapshotsOf(v.vapp.members, v);
  if (s.error !== null) return failVapp(v, s.error);
  const progress = (s.taken / Math.max(1, s.of)) * snapshotShare;
  if (s.taken === s.of)
    return go(v, { args: { ...v.args, phase: 'make' }, step: 'all snapshots are taken', progress });
  return go(v, {
    acts: s.ask.slice(0, actsAtOnce).map((from) => ({ do: 'snapshot', from })),
    step: `${s.taken} of ${s.of} snapshots are taken${waitsText(s.waits)}`,
    progress,
  });
}

/** Of a clone's progress, how much its snapshots are. */
const snapshotShare = 0.3;

const waitsText = (waits: readonly string[]): string =>
  waits.length > 0 ? `, waits for ${waits.slice(0, 3).join(', ')}` : '';

function making(v: VappOpView): VappDecision {
  const { vapp, args } = v;
  if (v.op.cancelAsked) {
    if (makesNew(v.op)) return failVapp(v, errorRecord(cancelled));
    return go(v, { step: v.op.step, end: { state: 'cancelled', gone: false } });
  }
  const acts: VappAct[] = [];
  let made = 0;
  const waits: string[] = [];
  // Each names those that must run before it, so these are made first.
  const ordered = startStages(vapp).flatMap((s) => s.members);
  for (const m of [...ordered, ...vapp.members.filter((x) => !ordered.includes(x))]) {
    const s = v.vm(m.vm);
    if (m.leaving) {
      const o = v.begun(m.vm, 'vm.delete');
      if (s === null) made++;
      else if (o?.state === 'failed' && o.error !== null) return failVapp(v, o.error);
      else if (o === undefined) acts.push({ do: 'delete', vm: m.vm });
      continue;
    }
    const o = v.begun(m.vm, 'vm.create');
    if (s === null) {
      if (o !== undefined)
        return failVapp(
          v,
          errorRecord(
            new FlotillaError('not-found', `"${m.name}" was deleted meanwhile`, { hint: 'Apply it again.' }),
          ),
        );
      if (m.make !== null) acts.push({ do: 'make', member: m });
      continue;
    }
    if (o?.state === 'failed' || o?.state === 'cancelled')
      return failVapp(
        v,
        o.error ??
          errorRecord(
            new FlotillaError('cancelled', `The making of "${m.name}" was cancelled`, {
              hint: 'Deploy it again.',
            }),
          ),
      );
    if (o === undefined || o.state === 'done') made++;
    else waits.push(o.progress === null ? m.name : `${m.name} (${Math.round(o.progress * 100)} %)`);
  }
  const n = vapp.members.length;
  const step = `${made} of ${n} members are made${waitsText(waits)}`;
  // Each is a transaction of its own: one at a time, so that the planner sees those before it.
  const makes = acts.filter((a) => a.do === 'make').slice(0, 1);
  const others = acts.filter((a) => a.do !== 'make').slice(0, actsAtOnce);
  const before = v.op.kind === 'vapp.clone' ? snapshotShare : 0;
  if (made < n)
    return go(v, {
      acts: [...others, ...makes],
      step,
      progress: before + (made / Math.max(1, n)) * (0.8 - before),
    });
  if (args.start)
    return go(v, {
      args: { ...args, phase: 'start', stage: 0 },
      step: 'all members are made',
      progress: 0.8,
    });
  return go(v, { step: 'made', progress: 1, end: { state: 'done', gone: false } });
}

/** What ran before a failure is not left off for one of them that does not stop or come. */
const bringsBack = (v: VappOpView): boolean => v.op.kind === 'vapp.restart';

function starting(v: VappOpView): VappDecision {
  const { vapp, args } = v;
  const all = args.phase === 'resume' ? standStages(vapp, args.group) : startStages(vapp, args.group);
  if (v.op.cancelAsked) return go(v, { step: v.op.step, end: { state: 'cancelled', gone: false } });
  const stage = all[args.stage];
  if (stage === undefined)
    return go(v, { step: 'running', progress: 1, end: { state: 'done', gone: false } });
  const acts: VappAct[] = [];
  const asks: VappAsk[] = [];
  const waits: string[] = [];
  let late: VappMember | null = null;
  for (const m of stage.members) {
    const s = v.vm(m.vm);
    if (s === null) continue; // deleted by somebody
    const begin = args.phase === 'resume' ? 'resume' : 'start';
    const o = v.begun(m.vm, `vm.${begin}`);
    if (s.spec.power !== 'running') {
      // Of a restart only those that it stopped: others were off.
      if (args.members?.includes(m.name) === false) continue;
      // Somebody stopped it again: theirs is the later word. What was off is not what was suspended.
      if (o !== undefined || (begin === 'resume' && s.spec.power === 'stopped')) continue;
      acts.push({ do: begin, vm: m.vm });
      waits.push(`${m.name} to ${begin}`);
      continue;
    }
    if (o?.state === 'failed' && o.error !== null && s.phase !== 'running') {
      if (bringsBack(v)) continue;
      return failVapp(v, o.error);
    }
    const wants = m.start.wait;
    const there =
      s.phase === 'running' &&
      (wants === 'running' || (wants === 'guest' ? s.guestAgent : v.answered(m.name) === true));
    if (there) continue;
    if (s.phase === 'running' && (wants === 'tcp' || wants === 'http'))
      asks.push({ member: m.name, vm: m.vm, start: m.start });
    if (v.stageMs < m.start.timeoutS * 1000) waits.push(waitText(m));
    else if (m.start.onTimeout === 'fail' && !bringsBack(v)) late ??= m;
  }
  if (late !== null)
    return failVapp(
      v,
      errorRecord(
        new FlotillaError(
          'timeout',
          `"${late.name}" did not come in ${late.start.timeoutS} s: ${waitText(late)}`,
          {
            hint: 'See its console; what was started runs. Start the vApp again to go on from there.',
          },
        ),
      ),
    );
  const done = args.stage / Math.max(1, all.length);
  const progress = args.phase === 'resume' ? done : 0.8 + 0.2 * done;
  const head = `stage ${args.stage + 1} of ${all.length}`;
  if (acts.length > 0 || waits.length > 0)
    return go(v, {
      acts: acts.slice(0, actsAtOnce),
      asks,
      step: `${head}: waits for ${waits.slice(0, 3).join(', ')}`,
      progress,
    });
  if (stage.delayS > 0 && (v.thereMs ?? 0) < stage.delayS * 1000)
    return go(v, { there: true, step: `${head}: ${stage.delayS} s before the next`, progress });
  return go(v, { args: { ...args, stage: args.stage + 1 }, step: `${head} is there`, progress });
}

/**
 * Each stands still where it is, those that need others first. What stands still keeps its memory on its node, and is off
 * when that node is: then it boots as it is resumed, with what its stage is waited for.
 */
function suspending(v: VappOpView): VappDecision {
  const { vapp, args } = v;
  const all = standStages(vapp, args.group).reverse();
  if (v.op.cancelAsked) return go(v, { step: v.op.step, end: { state: 'cancelled', gone: false } });
  const stage = all[args.stage];
  if (stage === undefined)
    return go(v, { step: 'suspended', progress: 1, end: { state: 'done', gone: false } });
  const acts: VappAct[] = [];
  const waits: string[] = [];
  for (const m of stage.members) {
    const s = v.vm(m.vm);
    if (s === null) continue;
    const o = v.begun(m.vm, 'vm.pause');
    if (o?.state === 'failed' && o.error !== null) return failVapp(v, o.error);
    // It is off, by itself too, or somebody wanted it otherwise meanwhile.
    if (s.spec.power === 'stopped' || s.phase === 'stopped') continue;
    if (s.spec.power === 'running') {
      if (o !== undefined) continue;
      acts.push({ do: 'pause', vm: m.vm });
    } else if (s.phase === 'paused') continue;
    waits.push(m.name);
  }
  const progress = args.stage / Math.max(1, all.length);
  if (acts.length > 0 || waits.length > 0)
    return go(v, {
      acts: acts.slice(0, actsAtOnce),
      step: `waits for ${waits.slice(0, 3).join(', ')} to stand still`,
      progress,
    });
  return go(v, {
    args: { ...args, stage: args.stage + 1 },
    step: `stage ${args.stage + 1} of ${all.length} stands still`,
    progress,
  });
}

function waitText({ name, start }: VappMember): string {
  switch (start.wait) {
    case 'running':
      return `${name} to run`;
    case 'guest':
      return `the guest agent of ${name}`;
    case 'tcp':
      return `${name} to listen on port ${start.port ?? 0}`;
    case 'http':
      return `${name} to answer ${start.path ?? '/'} on port ${start.port ?? 80}`;
  }
}

function stopping(v: VappOpView): VappDecision {
  const { vapp, args } = v;
  const all = stopStages(vapp, args.group);
  if (v.op.cancelAsked) return go(v, { step: v.op.step, end: { state: 'cancelled', gone: false } });
  const stage = all[args.stage];
  if (stage === undefined && args.start)
    return go(v, { args: { ...args, phase: 'start', stage: 0 }, step: 'starts again', progress: 0.5 });
  if (stage === undefined)
    return go(v, { step: 'stopped', progress: 1, end: { state: 'done', gone: false } });
  const acts: VappAct[] = [];
  const waits: string[] = [];
  for (const m of stage.members) {
    const s = v.vm(m.vm);
    if (s === null || args.members?.includes(m.name) === false) continue;
    const hard = args.force || m.stop.action === 'power-off';
    const kind = hard ? 'force-stop' : 'stop';
    const o = v.begun(m.vm, `vm.${kind}`);
    if (s.own.state === 'stopped' && s.spec.power === 'stopped') continue;
    if (s.spec.power !== 'stopped') {
      if (o !== undefined) continue;
      acts.push({ do: kind, vm: m.vm });
    } else if (hard && o === undefined) acts.push({ do: kind, vm: m.vm });
    if (o?.state === 'failed' && o.error !== null) {
      if (bringsBack(v)) continue;
      return failVapp(v, o.error);
    }
    waits.push(m.name);
  }
  const progress = (args.stage / Math.max(1, all.length)) * (args.start ? 0.5 : 1);
  if (acts.length > 0 || waits.length > 0)
    return go(v, {
      acts: acts.slice(0, actsAtOnce),
      step: `waits for ${waits.slice(0, 3).join(', ')} to stop`,
      progress,
    });
  if (stage.delayS > 0 && (v.thereMs ?? 0) < stage.delayS * 1000)
    return go(v, { there: true, step: `${stage.delayS} s before the next`, progress });
  return go(v, {
    args: { ...args, stage: args.stage + 1 },
    step: `stage ${args.stage + 1} of ${all.length} is stopped`,
    progress,
  });
}

function deleting(v: VappOpView): VappDecision {
  const { vapp, args } = v;
  const acts: VappAct[] = [];
  let left = 0;
  for (const m of vapp.members) {
    if (v.vm(m.vm) === null) continue;
    left++;
    const o = v.begun(m.vm, 'vm.delete');
    if (o?.state === 'failed' && o.error !== null && args.phase === 'delete') return failVapp(v, o.error);
    if (o === undefined) acts.push({ do: 'delete', vm: m.vm });
  }
  const n = Math.max(1, vapp.members.length);
  if (left > 0 || acts.length > 0)
    return go(v, {
      acts: acts.slice(0, actsAtOnce),
      step: `${left} of ${n} members are left to delete`,
      progress: 1 - left / n,
    });
  const { why } = args;
  if (why === null) return go(v, { step: 'deleted', progress: 1, end: { state: 'done', gone: true } });
  return go(v, {
    step: 'all that was made is taken back',
    end:
      why.code === 'cancelled'
        ? { state: 'cancelled', gone: true }
        : { state: 'failed', error: why, gone: true },
  });
}
