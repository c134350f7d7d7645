import { placementPolicy, reserveMiB } from '../core/decide/placement.js';
import type { PlanCluster, PlanNode, PlanVm } from '../core/decide/plan/model.js';
import type { View } from './view.js';

const MiB = 1024 * 1024;

/** VMs of nodes that run VMs, with the memory QEMU takes beside them. */
interface Owned {
  readonly protectedVms: PlanVm[];
  /** Memory of the VMs that nobody takes over, by owner, MiB. */
  readonly otherMiB: Map<string, number>;
}

/**
 * The cluster as the planner sees it: nodes that run VMs, and the VMs that a standby takes over. What other VMs take of a
 * node is taken off its memory. Disks are left out: replicas on shared pools take no room of a node.
 */
export function planCluster(view: View): PlanCluster {
  const nodes = view.placementNodes().filter((n) => !n.witness);
  const owned = ownedBy(view, new Set(nodes.map((n) => n.id)));
  const records = view.ledger.tables.node;
  return {
    nodes: nodes.map((n): PlanNode => {
      const here = view.isLive(n.id) && (n.presence === 'here' || n.presence === 'suspect');
      const memoryMiB = Math.floor(n.memoryBytes / MiB);
      const own = reserveMiB(n.memoryBytes, placementPolicy) + (owned.otherMiB.get(n.id) ?? 0);
      const rack = records.get(n.id)?.value.rack ?? null;
      return {
        name: n.id,
        state: !here ? 'dead' : n.desired === 'active' ? 'online' : 'drained',
        group: '',
        // A node that was never heard has said no sizes; shares are taken of these.
        memoryMiB: Math.max(1, memoryMiB),
        vmMemoryMiB: memoryMiB - own,
        diskMiB: 1,
        vmDiskMiB: 1,
        cpus: Math.max(1, n.cpus),
        cpuSpeed: 1,
        ownCpus: 0,
        cpuRatioMax: placementPolicy.cpuOvercommit,
        spindles: 1,
        domains: rack === null ? [] : [rack],
      };
    }),
    vms: owned.protectedVms,
  };
}

function ownedBy(view: View, nodes: ReadonlySet<string>): Owned {
  const out: Owned = { protectedVms: [], otherMiB: new Map() };
  const { vmOwn, vmSpec } = view.ledger.tables;
  for (const [id, { value: own }] of vmOwn) {
    const spec = vmSpec.get(id)?.value;
    if (spec === undefined || !nodes.has(own.owner)) continue;
    const memoryMiB = spec.memoryMiB + placementPolicy.vmOverheadMiB;
    const { owner, standby } = own;
    if (!spec.ha.enabled || standby === null || standby === owner || !nodes.has(standby)) {
      out.otherMiB.set(owner, (out.otherMiB.get(owner) ?? 0) + memoryMiB);
      continue;
    }
    out.protectedVms.push({
      name: spec.name,
      memoryMiB,
      diskMiB: 0,
      cpus: spec.cpus,
      spindles: 0,
      load: [0, 0, 0, 0],
      owner,
      standby,
      apart: [],
    });
  }
  return out;
}
