import type { Accel, NodeKeeper, NodePresence, NodeRecord, NodeState } from '../../domain/node.js';
import { poolHasNode, type Pool } from '../../domain/pool.js';
import type { VmOwn, VmSpec, VmStats } from '../../domain/vm.js';
import type { Reach } from '../standby.js';
import { protectionLevel } from '../../domain/ha.js';
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
  /** Its processors' name. Absent: it has not said. */
  readonly cpuModel?: string | undefined;
  readonly keeper: NodeKeeper | null;
  /** Why no machine can be in lockstep there; empty: one can. Absent: it has no part for that, or has not said. */
  readonly lockstep?: string | undefined;
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
  /** Of its disks, where a twin of it needs them on its own node. Absent: none. */
  readonly pools?: readonly Pool[];
}

/** What a node has promised to the VMs it owns, running or not, and to twins of others, which take as much. */
export interface Promised {
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly vms: number;
  readonly twins: number;
}

const nothing: Promised = { cpus: 0, memoryMiB: 0, vms: 0, twins: 0 };

/** Sums by node: each VM may be started at any time. */
export function promisedBy(
  vms: Iterable<{ readonly spec: VmSpec | undefined; readonly own: VmOwn }>,
): Map<string, Promised> {
  const sums = new Map<string, Promised>();
  const add = (node: string, spec: VmSpec | undefined, what: 'vms' | 'twins'): void => {
    const s = sums.get(node) ?? nothing;
    sums.set(node, {
      ...s,
      cpus: s.cpus + (spec?.cpus ?? 0),
      memoryMiB: s.memoryMiB + (spec?.memoryMiB ?? 0),
      [what]: s[what] + 1,
    });
  };
  for (const { spec, own } of vms) {
    add(own.owner, spec, 'vms');
    const twin = own.lockstep?.twin ?? null;
    if (twin !== null) add(twin, spec, 'twins');
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
    vms: promised.vms + promised.twins,
    pools: state?.pools ?? [],
    replication: state?.replication,
    health: state?.health ?? [],
    live,
    accel: state?.accel ?? null,
    qemu: state?.qemu ?? null,
    cpuModel: state?.facts?.cpuModel,
    keeper: state?.keeper ?? null,
    lockstep: state?.lockstep,
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

/** The planner's name for a VM's twin, which is a VM of its own there. */
export const twinName = (vm: string): string => `twin of ${vm}`;

/** A VM's twin as the planner sees it. @param on - the nodes that it may be on, its owner not among them */
export const planTwin = (
  spec: Pick<VmSpec, 'id' | 'cpus' | 'memoryMiB'>,
  node: string,
  on: readonly string[],
  load: LoadVector | null = null,
): PlanVm => ({
  name: twinName(spec.id),
  memoryMiB: spec.memoryMiB + placementPolicy.vmOverheadMiB,
  diskMiB: 0,
  cpus: spec.cpus,
  spindles: 0,
  load: load ?? [0, 0, 0, 0],
  owner: node,
  standby: '',
  alone: true,
  on,
  // In another rack than its VM, where there is one.
  apart: [twinName(spec.id)],
});

/**
 * Gives each twin that is still to be made the node with the most memory left, the largest first, so that its room is not
 * promised away meanwhile. Where none has it, it is left out.
 */
function seatTwins(nodes: readonly PlanNode[], vms: readonly PlanVm[], twins: readonly PlanVm[]): PlanVm[] {
  const left = new Map(nodes.flatMap((n) => (n.state === 'online' ? [[n.name, n.vmMemoryMiB]] : [])));
  const take = (v: PlanVm): void => {
    const has = left.get(v.owner);
    if (has !== undefined) left.set(v.owner, has - v.memoryMiB);
  };
  for (const v of [...vms, ...twins]) take(v);
  const order = [...twins].sort((a, b) => b.memoryMiB - a.memoryMiB || (a.name < b.name ? -1 : 1));
  return order.flatMap((twin) => {
    if (twin.owner !== '') return [twin];
    const owner = [...left]
      .filter(([n, has]) => twin.on?.includes(n) === true && has > twin.memoryMiB)
      .sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))[0]?.[0];
    if (owner === undefined) return [];
    const seated = { ...twin, owner };
    take(seated);
    return [seated];
  });
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
  const twins: PlanVm[] = [];
  for (const { spec, own, load, reach, ...x } of vms) {
    if (!ids.has(own.owner)) continue;
    const name = names.has(spec.name) ? spec.id : spec.name;
    names.add(name);
    const pools = reach.ok ? reach.pools : [];
    const { owner, standby } = own;
    const twin = own.lockstep?.twin ?? null;
    const pair = twin !== null || protectionLevel(spec.ha) === 'lockstep';
    // Nothing is started for one that has its twin.
    const kept = spec.ha.enabled && reach.ok && !pair;
    if (pair) {
      const fits = (n: ClusterNode): boolean =>
        n.id !== owner && (x.pools ?? []).every((p) => poolHasNode(p, n.id));
      const others = running.filter(fits).map((n) => n.id);
      twins.push(
        planTwin(spec, twin !== null && ids.has(twin) ? twin : '', others, twin === null ? null : load),
      );
    }
    out.push({
      name,
      memoryMiB: spec.memoryMiB + placementPolicy.vmOverheadMiB,
      diskMiB: 0,
      cpus: spec.cpus,
      spindles: 0,
      load: load ?? [0, 0, 0, 0],
      owner,
      standby: kept && standby !== null && standby !== owner && ids.has(standby) ? standby : '',
      apart: pair ? [twinName(spec.id)] : [],
      ...(kept ? {} : { alone: true as const }),
      on: pair
        ? [owner, ...(twin === null ? [] : [twin])]
        : !reach.ok
          ? [owner]
          : reach.copied
            ? [...new Set([owner, ...own.copies.map((c) => c.node)])]
            : running.filter((n) => pools.every((p) => poolHasNode(p, n.id))).map((n) => n.id),
    });
  }
  const planned = running.map(planNode);
  return { nodes: planned, vms: [...out, ...seatTwins(planned, out, twins)], rules };
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
