import { decideDrain, type DrainAct, type DrainStep, type DrainSubject } from '../../core/decide/drain.js';
import { withPower } from '../../core/decide/vm-edit.js';
import { drainArgs, type DrainArgs } from '../../core/domain/drain.js';
import { migratePolicyDefault } from '../../core/domain/migration.js';
import { opAfter, type Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { OpRota, sameOp } from './op-rota.js';
import { outlookOf } from './outlook.js';
import { beginActs, type VmOpAsk } from './vm-acts.js';

/** Empties nodes and fills them again; the node that is emptied comes first, as it knows best. */
export class DrainDesk {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'node.drain' || o.kind === 'node.return',
      first: (o) => drainArgs(o)?.node ?? null,
      act: (k, s) => this.act(k, drainArgs(k.value), s),
    });
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, args: DrainArgs | null, s: Snapshot): Promise<void> {
    const { env } = this;
    const op = k.value;
    if (args === null) {
      await this.rota.write(k, s, { ...op, state: 'failed', step: 'it cannot be read' });
      return;
    }
    const outlook = outlookOf(s, env.radio.heard(), op.kind === 'node.drain' ? { emptied: args.node } : {});
    const step = decideDrain({
      op,
      args,
      outlook,
      owners: [...s.owns].map(([vm, own]) => [vm, own.value.owner] as const),
      twins: [...s.owns.values()].filter((own) => own.value.lockstep?.twin === args.node).length,
      unread: s.unreadable.filter((key) => kinds.vmOwn.idOf(key) !== null).length,
      anOp: (id) => s.ops.get(id)?.value,
      vm: (id): DrainSubject | null => {
        const spec = s.specs.get(id)?.value;
        const own = s.owns.get(id)?.value;
        return spec === undefined || own === undefined ? null : { spec, own, phase: outlook.phase(id, own) };
      },
    });
    await this.commit(k, args, step, s);
  }

  private async commit(k: Kept<Op>, args: DrainArgs, step: DrainStep, s: Snapshot): Promise<void> {
    const { vms, compare, writes } = beginActs(this.env, s, step, (a: VmDrainAct) => askOf(a, k.value));
    const { end } = step;
    const next = opAfter(k.value, { vms }, step);
    if (end?.state === 'done' && args.leave) {
      const node = s.nodes.get(args.node);
      if (node !== undefined) {
        compare.push({ key: kinds.node.key(args.node), modRevision: node.modRevision });
        const value = writeRecord(kinds.node, { ...node.value, desired: 'leaving' });
        writes.push({ put: kinds.node.key(args.node), value });
      }
    }
    if (writes.length === 0 && sameOp(k.value, next)) return;
    await this.rota.write(k, s, next, compare, writes);
    if (end !== null)
      announce(
        this.env,
        end.state === 'failed' ? 'warning' : 'info',
        args.node,
        next.error?.message ?? next.step,
      );
  }
}

type VmDrainAct = Exclude<DrainAct, { readonly do: 'cancel' }>;

const askOf = (a: VmDrainAct, op: Op): VmOpAsk => ({
  kind: `vm.${a.do}`,
  askedBy: `${op.kind} of ${op.subject.name}`,
  args:
    a.do === 'migrate'
      ? { from: a.from, to: a.to, policy: migratePolicyDefault, for: op.id }
      : a.do === 'relocate'
        ? { from: a.from, to: a.to, for: op.id }
        : { for: op.id },
  spec: (spec) => (a.do === 'stop' || a.do === 'start' ? withPower(spec, a.do) : null),
});
