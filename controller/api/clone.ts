import { cloneOf } from '../../core/decide/vm-snapshot.js';
import { fromSnapshot } from '../../core/decide/vm-edit.js';
import { parse } from '../../core/domain/schema.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { vmCreateSchema } from '../../core/wire/rest.js';
import { fresh } from './commit.js';
import type { ApiDeps, Ask } from './context.js';
import { idOf, notFound } from './lookup.js';
import { findSnapshot } from './snapshots.js';
import type { VmChanged, VmWrites } from './vm-write.js';

/** A new VM of a snapshot of another: placed, named and addressed as any that is made. */
export async function cloneVm(deps: ApiDeps, writes: VmWrites, ask: Ask<'cloneCreate'>): Promise<VmChanged> {
  const { view } = deps;
  const { name, node, power } = ask.body;
  const vm = await idOf(view, 'vm', ask.body.vm);
  const [spec] = await Promise.all([fresh(deps, kinds.vmSpec, vm), view.ledger.refresh('vmSnapshot')]);
  if (spec === null) throw notFound('vm', ask.body.vm);
  const { value: x } = await findSnapshot(deps, vm, ask.body.snapshot);
  const input = cloneOf(spec.value, x, { name, node, power, shared: x.node === null });
  const body = parse(vmCreateSchema, input, `VM "${name}"`);
  return writes.create({ ...ask, params: undefined, query: undefined, body }, fromSnapshot(x));
}
