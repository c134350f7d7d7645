import { planBulk, type BulkSubject } from '../../core/decide/bulk.js';
import { bulkAtOnce, bulkTextMax, type BulkVm } from '../../core/domain/bulk.js';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import type { Op } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { BulkLineView } from '../../core/wire/rest.js';
import { outlookOf } from '../plan-view.js';
import { Change, commit, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';
import type { VmWrites } from './vm-write.js';

/** The same with many VMs, by one operation; or only what it would do. */
export function bulkHandlers(deps: ApiDeps, writes: VmWrites): Some<'vmBulk'> {
  const { view } = deps;
  return {
    async vmBulk(ask) {
      const { action, dryRun } = ask.body;
      const atOnce = ask.body.atOnce ?? bulkAtOnce(action);
      const lines = await linesOf(deps, writes, ask);
      const sentence = sentenceOf(lines, atOnce);
      const id = idFromKey(deps.chance, ask.who, 'vmBulk', ask.idempotencyKey);
      const mark = requestMark(ask);
      // What was asked for may be so by now.
      const before = ask.idempotencyKey === null || dryRun ? null : await repeated(deps, id, mark);
      if (before !== null) return { body: { op: opView(view, before), sentence, vms: lines } };
      if (dryRun) return { body: { op: null, sentence, vms: lines } };
      if (!lines.some((l) => l.state === 'waiting'))
        throw new FlotillaError('wrong-state', `None of these VMs can be asked to ${action}`, {
          hint: 'See why of each: the same with dryRun.',
          details: { vms: lines },
        });
      const op = await begin(deps, ask, { id, mark }, lines, atOnce);
      return { body: { op: opView(view, op), sentence, vms: lines } };
    },
  };
}

/** What would become of each VM that is named, once each. @throws FlotillaError `not-found`, `bad-input` */
async function linesOf(deps: ApiDeps, writes: VmWrites, ask: Ask<'vmBulk'>): Promise<BulkLineView[]> {
  const { view } = deps;
  const { action } = ask.body;
  if (ask.body.to !== undefined && action !== 'migrate')
    throw new FlotillaError('bad-input', `"to" says nothing of ${action}`, { hint: 'Leave it out.' });
  const to = ask.body.to === undefined ? null : await idOf(view, 'node', ask.body.to);
  const subjects: BulkSubject[] = [];
  for (const id of new Set(await Promise.all(ask.body.vms.map((v) => idOf(view, 'vm', v))))) {
    const spec = view.ledger.tables.vmSpec.get(id)?.value;
    const own = view.ledger.tables.vmOwn.get(id)?.value;
    if (spec === undefined || own === undefined) throw notFound('vm', id);
    subjects.push({ spec, own, phase: view.vm(id)?.phase ?? 'unknown' });
  }
  view.freshness();
  const outlook = outlookOf(view);
  const plan = new Map(planBulk(outlook, action, subjects, to).map((l) => [l.vm, l]));
  return subjects.map(({ spec, own }): BulkLineView => {
    const l = plan.get(spec.id);
    const line = { vm: spec.id, name: spec.name, node: own.owner, to: l?.to ?? null, text: l?.text ?? '' };
    if (l?.how === 'so') return { ...line, state: 'done' };
    if (l?.how === 'not') return { ...line, state: 'failed' };
    if (action === 'start' && l?.how === 'go')
      try {
        return { ...line, state: 'waiting', text: writes.admitStart(spec, own, outlook)[0] ?? '' };
      } catch (e) {
        return { ...line, state: 'failed', text: errorRecord(e).message };
      }
    return { ...line, state: 'waiting' };
  });
}

async function begin(
  deps: ApiDeps,
  ask: Ask<'vmBulk'>,
  { id, mark }: { readonly id: string; readonly mark: string },
  lines: readonly BulkLineView[],
  atOnce: number,
): Promise<Op> {
  const { action } = ask.body;
  const vms = lines.map(({ vm, state, text }): BulkVm => ({
    vm,
    state,
    text: state === 'waiting' ? '' : text.slice(0, bulkTextMax),
  }));
  return commit(deps, `${action} of ${vms.length} VMs`, async () => {
    const before = ask.idempotencyKey === null ? null : await repeated(deps, id, mark);
    if (before !== null) return { change: null, answer: () => before };
    const op = newOp(deps, {
      id,
      kind: 'vm.bulk',
      subject: {
        kind: 'cluster',
        id: deps.view.ledger.meta?.id ?? id,
        name: `${action}, ${vms.length} ${vms.length === 1 ? 'VM' : 'VMs'}`,
      },
      node: null,
      who: ask.who,
      args: { action, atOnce, to: ask.body.to ?? null, vms, request: mark },
    });
    return { change: new Change().at(kinds.op.key(id), null).put(kinds.op, id, op), answer: () => op };
  });
}

function sentenceOf(lines: readonly BulkLineView[], atOnce: number): string {
  const go = lines.filter((l) => l.state === 'waiting');
  const so = lines.filter((l) => l.state === 'done').length;
  const not = lines.filter((l) => l.state === 'failed').length;
  const vms = (n: number): string => `${n} ${n === 1 ? 'VM' : 'VMs'}`;
  const nodes = new Set(go.map((l) => l.node)).size;
  const to = new Map<string, number>();
  for (const l of go) if (l.to !== null) to.set(l.to, (to.get(l.to) ?? 0) + 1);
  return [
    `${vms(go.length)} on ${nodes} ${nodes === 1 ? 'node' : 'nodes'}${go.length > atOnce ? `, ${atOnce} at a time` : ''}`,
    ...[...to].sort().map(([node, n]) => `${n} to ${node}`),
    ...(so > 0 ? [`${vms(so)} ${so === 1 ? 'is' : 'are'} so already`] : []),
    ...(not > 0 ? [`${vms(not)} cannot`] : []),
  ].join('; ');
}
