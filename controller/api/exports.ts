import { FlotillaError } from '../../core/domain/error.js';
import type { ApiDeps } from './context.js';

/** The archive that an operation has packed, from the node that keeps it. @throws FlotillaError `not-found`, `wrong-state` */
export async function exported(
  deps: Pick<ApiDeps, 'view' | 'uploads'>,
  opId: string,
  range: string | undefined,
  signal: AbortSignal,
): ReturnType<ApiDeps['uploads']['exported']> {
  const { tables } = deps.view.ledger;
  if (!tables.op.has(opId)) await deps.view.ledger.refresh('op');
  const op = tables.op.get(opId)?.value;
  if (op?.kind !== 'vm.export')
    throw new FlotillaError('not-found', 'There is no such export', {
      hint: 'It is kept for a day: export the VM again.',
    });
  if (op.state !== 'done')
    throw new FlotillaError('wrong-state', `The export of VM "${op.subject.name}" is ${op.state}`, {
      hint: 'Fetch it when its operation is done.',
    });
  const address = op.node === null ? undefined : tables.node.get(op.node)?.value.addresses[0];
  if (op.node === null || address === undefined)
    throw new FlotillaError('node-unreachable', `The node that packed VM "${op.subject.name}" is gone`, {
      hint: 'Export the VM again.',
    });
  return deps.uploads.exported({ id: op.node, address }, opId, range, signal);
}
