import { queuedOp, type OpKind } from '../../core/domain/op.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';
import { askCancel } from './op-rota.js';

/** An operation on a VM that is to begin. */
export interface VmOpAsk {
  readonly kind: OpKind;
  readonly askedBy: string;
  readonly args: Readonly<Record<string, unknown>>;
  /** What the VM is to be from then on; null: as it is. */
  readonly spec: (spec: VmSpec) => VmSpec | null;
}

interface Cancel {
  readonly do: 'cancel';
  readonly op: string;
}
interface OnVm {
  readonly do: string;
  readonly vm: string;
}
const isCancel = (a: Cancel | OnVm): a is Cancel => a.do === 'cancel';

/**
 * What an operation on many VMs does next, as a transaction.
 *
 * @param askOf - what an act begins
 * @returns the VMs' lines, with the operations that are made, and what to compare and write
 */
export function beginActs<
  A extends OnVm,
  L extends { readonly vm: string; readonly op?: string | null | undefined },
>(
  env: Pick<AgentEnv, 'clock' | 'random'>,
  s: Snapshot,
  step: { readonly acts: readonly (A | Cancel)[]; readonly vms: readonly L[] },
  askOf: (a: A) => VmOpAsk,
): { readonly vms: readonly L[]; readonly compare: Compare[]; readonly writes: Write[] } {
  const vms = new Map(step.vms.map((x) => [x.vm, x]));
  const compare: Compare[] = [];
  const writes: Write[] = [];
  for (const a of step.acts) {
    if (isCancel(a)) {
      askCancel(s.ops.get(a.op), compare, writes);
      continue;
    }
    const made = beginVmOp(env, s, a.vm, askOf(a), compare, writes);
    const line = vms.get(a.vm);
    if (made !== null && line !== undefined) vms.set(line.vm, { ...line, op: made });
  }
  return { vms: [...vms.values()], compare, writes };
}

/** @returns the operation; null: the VM is gone */
function beginVmOp(
  env: Pick<AgentEnv, 'clock' | 'random'>,
  s: Snapshot,
  vm: string,
  o: VmOpAsk,
  compare: Compare[],
  writes: Write[],
): string | null {
  const spec = s.specs.get(vm);
  const own = s.owns.get(vm);
  if (spec === undefined || own === undefined) return null;
  compare.push(
    { key: kinds.vmSpec.key(vm), modRevision: spec.modRevision },
    { key: kinds.vmOwn.key(vm), modRevision: own.modRevision },
  );
  const next = o.spec(spec.value);
  if (next !== null) writes.push({ put: kinds.vmSpec.key(vm), value: writeRecord(kinds.vmSpec, next) });
  const made = queuedOp(
    {
      id: env.random.uuid(),
      kind: o.kind,
      subject: { kind: 'vm', id: vm, name: spec.value.name },
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
