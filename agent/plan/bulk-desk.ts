import { decideBulk, type BulkAct, type BulkStep, type BulkSubject } from '../../core/decide/bulk.js';
import { withPower } from '../../core/decide/vm-edit.js';
import { bulkArgs, type BulkArgs } from '../../core/domain/bulk.js';
import { migratePolicyDefault } from '../../core/domain/migration.js';
import { opAfter, type Op } from '../../core/domain/op.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { OpRota, sameOp } from './op-rota.js';
import { outlookOf } from './outlook.js';
import { beginActs, type VmOpAsk } from './vm-acts.js';

/** Does the same with many VMs, some at a time. Any agent can: what is left to do is in the ledger. */
export class BulkDesk {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'vm.bulk',
      first: () => null,
      act: (k, s) => this.act(k, bulkArgs(k.value), s),
    });
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, args: BulkArgs | null, s: Snapshot): Promise<void> {
    if (args === null) {
      await this.rota.write(k, s, { ...k.value, state: 'failed', step: 'it cannot be read' });
      return;
    }
    const outlook = outlookOf(s, this.env.radio.heard());
    const step = decideBulk({
      op: k.value,
      args,
      outlook,
      anOp: (id) => s.ops.get(id)?.value,
      vm: (id): BulkSubject | null => {
        const spec = s.specs.get(id)?.value;
        const own = s.owns.get(id)?.value;
        return spec === undefined || own === undefined ? null : { spec, own, phase: outlook.phase(id, own) };
      },
    });
    await this.commit(k, step, s);
  }

  private async commit(k: Kept<Op>, step: BulkStep, s: Snapshot): Promise<void> {
    const { vms, compare, writes } = beginActs(this.env, s, step, (a: VmBulkAct) => askOf(a, k.value));
    const next = opAfter(k.value, { vms }, step);
    if (writes.length === 0 && sameOp(k.value, next)) return;
    if (!(await this.rota.write(k, s, next, compare, writes)) || step.end === null) return;
    const { name } = k.value.subject;
    announce(
      this.env,
      step.end.state === 'failed' ? 'warning' : 'info',
      name,
      next.error?.message ?? next.step,
    );
  }
}

type VmBulkAct = Exclude<BulkAct, { readonly do: 'cancel' }>;

const askOf = (a: VmBulkAct, op: Op): VmOpAsk => ({
  kind: `vm.${a.do}`,
  askedBy: op.askedBy,
  args:
    a.do === 'migrate'
      ? { from: a.from, to: a.to, policy: migratePolicyDefault, for: op.id }
      : { for: op.id },
  spec: (spec) => (a.do === 'migrate' ? null : withPower(spec, a.do)),
});
