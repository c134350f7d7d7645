import type { Accel, NodeKeeper, NodePresence, NodeRecord, NodeState } from '../../domain/node.js';
import { poolHasNode } from '../../domain/pool.js';
import type { VmOwn, VmSpec, VmStats } from '../../domain/vm.js';
import type { Reach } from '../standby.js';
import { placementPolicy, reserveMiB, type PlacementNode } from './fit.js';
import type { LoadVector, PlanCluster, PlanNode, PlanRule, PlanVm } from './model.js';

const MiB = 1024 * 1024;
/** What a node's drives and network are taken to carry where it does not say, MiB/s. */
const diskMiBps = 500;
const netMiBps = 125;

/** A node with all that is asked of it before a VM goes there. */
export interface ClusterNode extends PlacementNode {
  readonly rack: string | null;
  /** Its lease in the ledger stands. */
  readonly live: boolean;
  /** Null: it has not said. */
  readonly accel: Accel | null;
  readonly qemu: string | null;
  readonly keeper: NodeKeeper | null;
  /** MiB/s of its network cards together. */
  readonly netMiBps: number;
}

/** A VM with an owner. */
export interface OwnedVm {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  /** What it uses, smoothed; null: it is off, or nothing was heard. */
  readonly load: LoadVector | null;
  readonly reach: Reach;
}

/** What a node has promised to the VMs it owns, running or not. */
export interface Promised {
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly vms: number;
}

const nothing: Promised = { cpus: 0, memoryMiB: 0, vms: 0 };

/** Sums by owner: each VM may be started at any time. */
export function promisedBy(
  vms: Iterable<{ readonly spec: VmSpec | undefined; readonly own: VmOwn }>,
): Map<string, Promised> {
  const sums = new Map<string, Promised>();
  for (const { spec, own } of vms) {
    const s = sums.get(own.owner) ?? nothing;
    sums.set(own.owner, {
      cpus: s.cpus + (spec?.cpus ?? 0),
      memoryMiB: s.memoryMiB + (spec?.memoryMiB ?? 0),
      vms: s.vms + 1,
    });
  }
  return sums;
}

/** A node from what the ledger and the radio say of it. */
export function clusterNode(
  record: NodeRecord,
  said: { readonly presence: NodePresence; readonly state: NodeState | null } | undefined,
  live: boolean,
  promised: Promised = nothing,
): ClusterNode {
  const state = said?.state ?? null;
  const mbit = (state?.facts?.nics ?? []).reduce((sum, n) => sum + (n.up ? (n.mbit ?? 0) : 0), 0);
  return {
    id: record.id,
    rack: record.rack,
    presence: said?.presence ?? 'never-heard',
    desired: record.desired,
    ...(record.asleep === undefined ? {} : { asleep: true }),
    witness: record.witness,
    cpus: state?.cpus ?? 0,
    memoryBytes: state?.memoryBytes ?? 0,
    committedCpus: promised.cpus,
    committedMemoryMiB: promised.memoryMiB,
    vms: promised.vms,
    pools: state?.pools ?? [],
    replication: state?.replication,
    health: state?.health ?? [],
    live,
    accel: state?.accel ?? null,
    qemu: state?.qemu ?? null,
    keeper: state?.keeper ?? null,
    netMiBps: mbit > 0 ? (mbit * 1e6) / 8 / MiB : netMiBps,
  };
}

/** What a VM uses, as its node says: CPUs, MiB of memory, MiB/s of disk and network. */
export function loadOf(spec: Pick<VmSpec, 'cpus'>, s: VmStats): LoadVector {
  return [
    (s.cpuPct / 100) * spec.cpus,
    s.memoryUsedBytes / MiB,
    (s.diskReadBps + s.diskWriteBps) / MiB,
    (s.netRxBps + s.netTxBps) / MiB,
  ];
}

/**
 * The cluster as the planner sees it: nodes that run VMs, and all VMs with an owner. Disks take no room of a node here:
 * those on shared pools do not, and others stay where they are.
 */
export function planCluster(
  nodes: readonly ClusterNode[],
  vms: Iterable<OwnedVm>,
  rules: readonly PlanRule[] = [],
): PlanCluster {
  const running = nodes.filter((n) => !n.witness);
  const ids = new Set(running.map((n) => n.id));
  const names = new Set<string>();
  const out: PlanVm[] = [];
  for (const { spec, own, load, reach } of vms) {
    if (!ids.has(own.owner)) continue;
    const name = names.has(spec.name) ? spec.id : spec.name;
    names.add(name);
    const pools = reach.ok ? reach.pools : [];
    const kept = spec.ha.enabled && reach.ok;
    const { owner, standby } = own;
    out.push({
      name,
      memoryMiB: spec.memoryMiB + placementPolicy.vmOverheadMiB,
      diskMiB: 0,
      cpus: spec.cpus,
      spindles: 0,
      load: load ?? [0, 0, 0, 0],
      owner,
      standby: kept && standby !== null && standby !== owner && ids.has(standby) ? standby : '',
      apart: [],
      ...(kept ? {} : { alone: true as const }),
      on: !reach.ok
        ? [owner]
        : reach.copied
          ? [...new Set([owner, ...own.copies.map((c) => c.node)])]
          : running.filter((n) => pools.every((p) => poolHasNode(p, n.id))).map((n) => n.id),
    });
  }
  return { nodes: running.map(planNode), vms: out, rules };
}

export function planNode(n: ClusterNode): PlanNode {
  const here = n.live && (n.presence === 'here' || n.presence === 'suspect');
  const memoryMiB = Math.floor(n.memoryBytes / MiB);
  const cpus = Math.max(1, n.cpus);
  return {
    name: n.id,
    state: !here ? 'dead' : n.desired === 'active' ? 'online' : 'drained',
    group: '',
    // A node that was never heard has said no sizes; shares are taken of these.
    memoryMiB: Math.max(1, memoryMiB),
    vmMemoryMiB: memoryMiB - reserveMiB(n.memoryBytes, placementPolicy),
    diskMiB: 1,
    vmDiskMiB: 1,
    cpus,
    cpuSpeed: 1,
    ownCpus: 0,
    cpuRatioMax: placementPolicy.cpuOvercommit,
    spindles: 1,
    domains: n.rack === null ? [] : [n.rack],
    carries: [cpus, Math.max(1, memoryMiB), diskMiBps, n.netMiBps],
  };
}
