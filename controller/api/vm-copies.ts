import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import {
  hasCopy,
  otherNode,
  type RepairArgs,
  type Replica,
  type StandbyArgs,
} from '../../core/domain/replica.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, repeated } from './ops.js';
import type { VmChanged } from './vm-write.js';

interface Read {
  readonly spec: Kept<VmSpec>;
  readonly own: Kept<VmOwn>;
  readonly replica: Kept<Replica>;
}

/** Wishes about the two copies of a VM's disks. The owner's agent does them, or says why not. */
export class VmCopies {
  private readonly deps: ApiDeps;

  constructor(deps: ApiDeps) {
    this.deps = deps;
  }

  /** Another node for the second copies. */
  async standby(ask: Ask<'vmStandby'>): Promise<VmChanged> {
    const to = ask.body.node === undefined ? null : await idOf(this.deps.view, 'node', ask.body.node);
    return this.wish(ask, 'vm.standby', ({ spec, own, replica }) => {
      const from = otherNode(replica.value, own.value.owner);
      const { name } = spec.value;
      if (to === from || to === own.value.owner)
        throw new FlotillaError('bad-input', `${to} has a copy of the disks of VM "${name}" already`, {
          hint: 'Name a third node, or none: then the best fit is taken.',
        });
      if (own.value.sync === 'ok' && !ask.body.unprotected)
        throw new FlotillaError(
          'wrong-state',
          `The copy of VM "${name}" on ${from} has every write; until one elsewhere is whole, there would be none`,
          { hint: 'Say that it may be without protection meanwhile: --unprotected.' },
        );
      return { from, to, unprotected: ask.body.unprotected } satisfies StandbyArgs;
    });
  }

  /** A person says whose copies are thrown away. */
  async repair(ask: Ask<'vmRepair'>): Promise<VmChanged> {
    const discard = await idOf(this.deps.view, 'node', ask.body.discard);
    return this.wish(ask, 'vm.repair', ({ spec, own, replica }) => {
      if (!hasCopy(replica.value, discard))
        throw new FlotillaError(
          'bad-input',
          `${discard} has no copy of the disks of VM "${spec.value.name}"`,
          {
            hint: `Its copies are on ${replica.value.nodes.map((n) => n.node).join(' and ')}.`,
          },
        );
      if (own.value.sync === 'ok')
        throw new FlotillaError('wrong-state', `The copies of VM "${spec.value.name}" are the same`, {
          hint: 'Nothing has to be thrown away.',
        });
      return { discard } satisfies RepairArgs;
    });
  }

  private async wish(
    ask: Ask<'vmStandby'> | Ask<'vmRepair'>,
    kind: 'vm.standby' | 'vm.repair',
    argsOf: (r: Read) => Record<string, unknown>,
  ): Promise<VmChanged> {
    const { deps } = this;
    const { view, chance } = deps;
    const id = await idOf(view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const key = ask.idempotencyKey;
    const opId = idFromKey(chance, ask.who, `${kind} ${id}`, key);
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { op: before, vmId: id };
    return commit<VmChanged>(deps, `VM "${ask.params.vm}"`, async () => {
      const r = await this.read(id, ask.params.vm);
      const busy = view.vmOps(id).find((o) => !opFinished(o) && others.includes(o.kind));
      if (busy !== undefined)
        throw new FlotillaError('wrong-state', `VM "${r.spec.value.name}" has ${busy.kind} under way`, {
          hint: `Wait for it, or end it: flotilla op cancel ${busy.id}.`,
        });
      const op: Op = newOp(deps, {
        id: opId,
        kind,
        subject: { kind: 'vm', id, name: r.spec.value.name },
        node: null,
        who: ask.who,
        args: { ...argsOf(r), request: mark },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), r.spec)
        .at(kinds.vmOwn.key(id), r.own)
        .at(kinds.replica.key(id), r.replica)
        .at(kinds.op.key(opId), null)
        .put(kinds.op, opId, op);
      return { change, answer: () => ({ op, vmId: id }) };
    });
  }

  private async read(id: string, ref: string): Promise<Read> {
    const [spec, own, replica] = await Promise.all([
      fresh(this.deps, kinds.vmSpec, id),
      fresh(this.deps, kinds.vmOwn, id),
      fresh(this.deps, kinds.replica, id),
    ]);
    if (spec === null || own === null) throw notFound('vm', ref);
    if (replica === null)
      throw new FlotillaError('wrong-state', `VM "${spec.value.name}" has no disks with two copies`, {
        hint: 'Disks are made so: --disk size=…,pool=…,replicas=2 on a pool of kind thin.',
      });
    return { spec, own, replica };
  }
}

/** What must be over before the copies are changed. */
const others: readonly Op['kind'][] = [
  'vm.standby',
  'vm.repair',
  'vm.move-disk',
  'vm.migrate',
  'vm.relocate',
  'vm.failover',
  'vm.delete',
];
