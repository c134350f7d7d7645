import { queuedOp, type OpKind } from '../../core/domain/op.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';

/**
 * Begins, in a transaction that is being put together, an operation on a VM as it was read.
 *
 * @param o.spec - what the VM is to be from then on; null: as it is
 * @returns the operation; null: the VM is gone
 */
export function beginVmOp(
  env: Pick<AgentEnv, 'clock' | 'random'>,
  s: Snapshot,
  o: {
    readonly kind: OpKind;
    readonly vm: string;
    readonly askedBy: string;
    readonly args: Readonly<Record<string, unknown>>;
    readonly spec: (spec: VmSpec) => VmSpec | null;
  },
  compare: Compare[],
  writes: Write[],
): string | null {
  const spec = s.specs.get(o.vm);
  const own = s.owns.get(o.vm);
  if (spec === undefined || own === undefined) return null;
  compare.push(
    { key: kinds.vmSpec.key(o.vm), modRevision: spec.modRevision },
    { key: kinds.vmOwn.key(o.vm), modRevision: own.modRevision },
  );
  const next = o.spec(spec.value);
  if (next !== null) writes.push({ put: kinds.vmSpec.key(o.vm), value: writeRecord(kinds.vmSpec, next) });
  const made = queuedOp(
    {
      id: env.random.uuid(),
      kind: o.kind,
      subject: { kind: 'vm', id: o.vm, name: spec.value.name },
      node: null,
      askedBy: o.askedBy,
      args: o.args,
    },
    env.clock.wallMs(),
  );
  compare.push({ key: kinds.op.key(made.id), createRevision: 0n });
  writes.push({ put: kinds.op.key(made.id), value: writeRecord(kinds.op, made) });
  return made.id;
}
