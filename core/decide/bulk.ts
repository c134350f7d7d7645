import { bulkTextMax, type BulkAction, type BulkArgs, type BulkVm } from '../domain/bulk.js';
import { FlotillaError } from '../domain/error.js';
import { opFinished, type Op, type OpStep } from '../domain/op.js';
import { vmActions, type VmOwn, type VmPhase, type VmSpec } from '../domain/vm.js';
import { planDrain } from './drain.js';
import type { Outlook } from './outlook.js';

export interface BulkSubject {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  readonly phase: VmPhase;
}

/** What would become of one VM: it is done; it is so already; not yet; not. */
export interface BulkLine {
  readonly vm: string;
  readonly how: 'go' | 'so' | 'wait' | 'not';
  readonly to: string | null;
  readonly text: string;
}

/** What is so after an action, where that can be seen. */
const after: Partial<Readonly<Record<BulkAction, VmPhase>>> = {
  start: 'running',
  stop: 'stopped',
  'force-stop': 'stopped',
  pause: 'paused',
  resume: 'running',
};

/** What the action would do with each of them now. @param to - the only node to migrate to; null: any */
export function planBulk(
  view: Outlook,
  action: BulkAction,
  vms: readonly BulkSubject[],
  to: string | null,
): BulkLine[] {
  if (action === 'migrate') return planMoves(view, vms, to);
  return vms.map(({ spec, phase }): BulkLine => {
    const line = (how: BulkLine['how'], text: string): BulkLine => ({ vm: spec.id, how, to: null, text });
    const [busy] = view.openOps(spec.id);
    if (busy !== undefined) return line('wait', `another operation on it is not finished: ${busy.kind}`);
    if (phase === after[action] && spec.power === phase) return line('so', `it is ${phase} already`);
    if (vmActions[phase].includes(action)) return line('go', '');
    return line(
      'not',
      phase === 'unknown' ? 'nobody knows what it does: its owner is silent' : `it is ${phase}`,
    );
  });
}

function planMoves(view: Outlook, vms: readonly BulkSubject[], to: string | null): BulkLine[] {
  const off = vms.filter((x) => x.own.state === 'stopped');
  const there = vms.filter((x) => x.own.state !== 'stopped' && x.own.owner === to);
  const going = vms.filter((x) => !off.includes(x) && !there.includes(x));
  const planned = planDrain(view, going, to).map((l): BulkLine => ({
    vm: l.vm,
    how: l.how === 'migrate' ? 'go' : l.how === 'wait' ? 'wait' : 'not',
    to: l.how === 'migrate' ? l.to : null,
    text: l.text,
  }));
  return [
    ...planned,
    ...off.map((x): BulkLine => ({ vm: x.spec.id, how: 'not', to: null, text: 'it does not run' })),
    ...there.map((x): BulkLine => ({ vm: x.spec.id, how: 'so', to: null, text: `it is on ${to} already` })),
  ];
}

/** An unfinished operation on many VMs. */
export interface BulkView {
  readonly op: Op;
  readonly args: BulkArgs;
  readonly outlook: Outlook;
  vm(id: string): BulkSubject | null;
  anOp(id: string): Op | undefined;
}

export type BulkAct =
  | { readonly do: BulkAction; readonly vm: string; readonly from: string; readonly to: string | null }
  | { readonly do: 'cancel'; readonly op: string };

export interface BulkStep extends OpStep {
  readonly vms: readonly BulkVm[];
  readonly acts: readonly BulkAct[];
}

/** What to do next. All it knows is in the ledger, so whoever decides next goes on from there. */
export function decideBulk(v: BulkView): BulkStep {
  const { op, args } = v;
  const acts: BulkAct[] = [];
  const out = args.vms.map((line) => (line.state === 'running' ? seen(v, line, acts) : line));
  let free = args.atOnce - out.filter((x) => x.state === 'running').length;
  const waiting = out.filter((x) => x.state === 'waiting').map((x) => [x, v.vm(x.vm)] as const);
  const subjects = waiting.flatMap(([, s]) => s ?? []);
  const plan = new Map(
    (op.cancelAsked || free <= 0 ? [] : planBulk(v.outlook, args.action, subjects, args.to)).map((l) => [
      l.vm,
      l,
    ]),
  );
  for (const [line, s] of waiting) {
    const put = (patch: Partial<BulkVm>): void => {
      const text = (patch.text ?? '').slice(0, bulkTextMax);
      out[out.indexOf(line)] = { ...line, ...patch, text };
    };
    const l = plan.get(line.vm);
    if (op.cancelAsked) put({ state: 'cancelled' });
    else if (s === null) put({ state: 'failed', text: 'it is gone' });
    else if (l?.how === 'so') put({ state: 'done', text: l.text });
    else if (l?.how === 'not') put({ state: 'failed', text: l.text });
    else if (l?.how === 'wait') put({ text: l.text });
    else if (l !== undefined && free > 0) {
      free--;
      acts.push({ do: args.action, vm: line.vm, from: s.own.owner, to: l.to });
      put({ state: 'running', to: l.to });
    }
  }
  return conclude(v, out, acts);
}

/** How one stands that is under way. */
function seen(v: BulkView, line: BulkVm, acts: BulkAct[]): BulkVm {
  const o = v.anOp(line.op ?? '');
  if (o === undefined) return { ...line, state: 'done', text: 'it has ended, and is remembered no more' };
  if (!opFinished(o)) {
    if (v.op.cancelAsked && o.kind === 'vm.migrate' && !o.cancelAsked) acts.push({ do: 'cancel', op: o.id });
    return line;
  }
  if (o.state === 'done') return { ...line, state: 'done', text: '' };
  const text = (o.error?.message ?? `it was ${o.state}`).slice(0, bulkTextMax);
  return { ...line, state: o.state === 'cancelled' ? 'cancelled' : 'failed', text };
}

function conclude(v: BulkView, vms: BulkVm[], acts: BulkAct[]): BulkStep {
  const count = (s: BulkVm['state']): number => vms.filter((x) => x.state === s).length;
  const [running, waiting, failed] = [count('running'), count('waiting'), count('failed')];
  const over = vms.length - running - waiting;
  const counts = [
    `${count('done')} of ${vms.length} VMs are done`,
    ...(running > 0 ? [`${running} under way`] : []),
    ...(waiting > 0 ? [`${waiting} wait`] : []),
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(count('cancelled') > 0 ? [`${count('cancelled')} left out`] : []),
  ];
  const step = { vms, acts, step: counts.join(', '), progress: vms.length === 0 ? 1 : over / vms.length };
  if (running + waiting > 0) return { ...step, end: null };
  if (failed === 0) return { ...step, end: { state: v.op.cancelAsked ? 'cancelled' : 'done' } };
  const bad = vms.filter((x) => x.state === 'failed');
  const named = bad.slice(0, 5).map((x) => `"${v.vm(x.vm)?.spec.name ?? x.vm}": ${x.text}`);
  const error = new FlotillaError(
    'wrong-state',
    `${failed} of ${vms.length} VMs: ${named.join(' · ')}${bad.length > 5 ? ` · and ${bad.length - 5} more` : ''}`,
    { hint: 'See to what each of them says, and ask again for those.' },
  );
  return { ...step, end: { state: 'failed', error } };
}
