import type { VappOpView } from '../../core/decide/vapp.js';
import type { Op } from '../../core/domain/op.js';
import type { AgentEnv } from '../env.js';
import { outlookOf } from '../plan/outlook.js';
import type { Snapshot } from '../snapshot.js';

/** What an operation on several VMs sees of them, of their snapshots, and of what it began on them. */
export function memberView(
  env: AgentEnv,
  op: Op,
  s: Snapshot,
): Pick<VappOpView, 'vm' | 'snapshot' | 'begun'> {
  const outlook = outlookOf(s, env.radio.heard());
  const heard = new Map(env.radio.heard().map((h) => [h.node, h]));
  return {
    vm: (id) => {
      const spec = s.specs.get(id)?.value;
      const own = s.owns.get(id)?.value;
      if (spec === undefined || own === undefined) return null;
      const guestAgent = heard.get(own.owner)?.vms.get(id)?.state.guestAgent === true;
      return { spec, own, phase: outlook.phase(id, own), guestAgent };
    },
    snapshot: (id) => s.vmSnapshots.get(id)?.value ?? null,
    begun: (vm, kind) =>
      [...s.ops.values()]
        .map((o) => o.value)
        .filter((o) => o.subject.id === vm && o.kind === kind && o.args['for'] === op.id)
        .sort((a, b) => b.createdMs - a.createdMs)[0],
  };
}
