import { migrateText, type MigrateCheck } from '../../core/decide/migrate-check.js';
import { FlotillaError } from '../../core/domain/error.js';
import { migratePolicyDefault, type MigrateArgs } from '../../core/domain/migration.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, repeated } from './ops.js';
import type { VmChanged } from './vm-write.js';

/** Whether that VM could migrate now, and where to. */
export const checkOf = (view: View, spec: VmSpec, own: VmOwn, node: string | null): MigrateCheck =>
  outlookOf(view).check(spec, own, { node, phase: view.vm(spec.id)?.phase ?? 'unknown' });

/** Live migration: whether it can be, and the wish for it. */
export class VmMigrations {
  private readonly deps: ApiDeps;

  constructor(deps: ApiDeps) {
    this.deps = deps;
  }

  check: Some<'vmMigrateCheck'>['vmMigrateCheck'] = async ({ params, query }) => {
    const { view } = this.deps;
    const id = await idOf(view, 'vm', params.vm);
    const node = await this.node(query.node);
    const { spec, own } = await this.read(id, params.vm);
    const { to, blockers, nodes, reasons } = checkOf(view, spec.value, own.value, node);
    return {
      body: {
        vm: id,
        name: spec.value.name,
        from: own.value.owner,
        to,
        blockers: [...blockers],
        nodes: nodes.map((n) => ({ node: n.node, blockers: [...n.blockers] })),
        reasons: [...reasons],
      },
    };
  };

  async migrate(ask: Ask<'vmMigrate'>): Promise<VmChanged> {
    const { deps } = this;
    const { view } = deps;
    const id = await idOf(view, 'vm', ask.params.vm);
    const node = await this.node(ask.body.node);
    const mark = requestMark(ask);
    const key = ask.idempotencyKey;
    const opId = idFromKey(deps.chance, ask.who, `vmMigrate ${id}`, key);
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { op: before, vmId: id };
    return commit<VmChanged>(deps, `VM "${ask.params.vm}"`, async () => {
      const { spec, own } = await this.read(id, ask.params.vm);
      const check = checkOf(view, spec.value, own.value, node);
      if (check.to === null) throw refused(spec.value.name, check);
      const args: MigrateArgs = {
        from: own.value.owner,
        to: check.to,
        policy: {
          bandwidthMiBps: ask.body.bandwidthMiBps ?? migratePolicyDefault.bandwidthMiBps,
          onSlow: ask.body.onSlow ?? migratePolicyDefault.onSlow,
        },
      };
      const op = newOp(deps, {
        id: opId,
        kind: 'vm.migrate',
        subject: { kind: 'vm', id, name: spec.value.name },
        node: null,
        who: ask.who,
        args: { ...args, request: mark },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), spec)
        .at(kinds.vmOwn.key(id), own)
        .at(kinds.op.key(opId), null)
        .put(kinds.op, opId, op);
      const record = view.ledger.tables.node.get(check.to);
      if (record !== undefined) change.promises(kinds.node.key(check.to), record);
      return { change, answer: () => ({ op, vmId: id }) };
    });
  }

  private async node(ref: string | undefined): Promise<string | null> {
    return ref === undefined ? null : idOf(this.deps.view, 'node', ref);
  }

  private async read(id: string, ref: string) {
    const [spec, own] = await Promise.all([
      fresh(this.deps, kinds.vmSpec, id),
      fresh(this.deps, kinds.vmOwn, id),
    ]);
    if (spec === null || own === null) throw notFound('vm', ref);
    return { spec, own };
  }
}

function refused(name: string, check: MigrateCheck): FlotillaError {
  const all = [...check.blockers, ...check.nodes.flatMap((n) => n.blockers)];
  const hints = [...new Set(all.map((b) => b.hint))].slice(0, 3);
  return new FlotillaError(
    check.blockers.length > 0 ? 'wrong-state' : 'no-node-fits',
    `VM "${name}" cannot migrate: ${migrateText(check)}`,
    {
      hint: hints.join(' ') || 'Add a node to the cluster.',
      details: { blockers: check.blockers, nodes: check.nodes },
    },
  );
}
