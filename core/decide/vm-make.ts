import { isLinked, isReplicated } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import type { AdmissionMode } from '../domain/ha.js';
import type { Image } from '../domain/image.js';
import { poolHasNode, type Pool } from '../domain/pool.js';
import type { VmOwn, VmSpec } from '../domain/vm.js';
import {
  placeCopy,
  placementPolicy,
  placementText,
  type NodeRefusal,
  type PlacementRequest,
} from './plan/fit.js';
import type { ClusterNode } from './plan/gather.js';
import type { PlanCluster, PlanVm } from './plan/model.js';
import { place } from './plan/placement.js';
import { newCopies } from './replica-edit.js';
import type { VmEdit } from './vm-edit.js';

/** The owner record of a VM that was never started. @param copy - the node of its disks' other copies; null: none have */
export const firstOwn = (node: string, copy: string | null): VmOwn => ({
  owner: node,
  standby: null,
  copies: [],
  gen: 1,
  state: 'stopped',
  sync: 'none',
  fence: { armed: false, waitMs: 0 },
  op: null,
  synced: [],
  syncEpoch: 0,
  failoversMs: [],
  ...(copy === null ? {} : newCopies(node, copy)),
});

/** What is looked up of pools and images. */
export interface MakeLookup {
  /** @throws FlotillaError `not-found` */
  pool(id: string): Pool;
  /** The node that has an image's file is heard now. */
  sourceHere(image: Image): boolean;
}

/** How much of a snapshot is copied to a new disk: on a thin pool both share it, unless one of them has two copies. */
function copied({ disk, pool, snapshot }: VmEdit['made'][number]): { readonly copiedBytes?: number } {
  const { source } = disk;
  if (snapshot === undefined || source.kind !== 'snapshot' || isLinked(disk)) return {};
  const volume = snapshot.disks.find((d) => d.id === source.volume);
  if (pool.kind === 'thin' && !isReplicated(disk) && volume?.replicated === false) return {};
  return { copiedBytes: volume?.usedBytes ?? 0 };
}

/** What placement must know of a VM with these new disks. @param node - the only one wanted; null: any */
export const placementRequest = (
  spec: VmSpec,
  edit: Pick<VmEdit, 'made' | 'images' | 'networks'>,
  node: string | null,
  at: MakeLookup,
): PlacementRequest => ({
  cpus: spec.cpus,
  memoryMiB: spec.memoryMiB,
  node,
  networks: edit.networks,
  isos: edit.images
    .filter((i) => i.format === 'iso')
    .map((image) => ({ image, pool: at.pool(image.pool), sourceHere: at.sourceHere(image) })),
  disks: edit.made.map((m) => ({
    name: m.disk.name,
    pool: m.pool,
    sizeBytes: m.disk.sizeBytes,
    replicated: isReplicated(m.disk),
    ...copied(m),
    image:
      m.image === null || m.disk.source.kind !== 'image'
        ? null
        : {
            image: m.image,
            pool: at.pool(m.image.pool),
            mode: m.disk.source.mode,
            sourceHere: at.sourceHere(m.image),
          },
  })),
});

/** Where a new VM goes. */
export interface Placed {
  readonly node: string;
  /** The node of its disks' other copies. */
  readonly copy: string | null;
  readonly standby: string | null;
  /** Promises that are not kept so, in words. */
  readonly warnings: readonly string[];
}

export interface PlaceNew {
  readonly nodes: readonly ClusterNode[];
  readonly cluster: PlanCluster;
  readonly admission: AdmissionMode;
  readonly at: MakeLookup;
}

/**
 * Places new VMs one after the other, each as if those before it were there: all of them, or none.
 *
 * @param vms - with the only node wanted of each; null: any
 * @returns by the VM's id
 * @throws FlotillaError `no-node-fits`, `no-failover-room`, `no-space`
 */
export function placeNew(
  vms: readonly { readonly edit: VmEdit; readonly node: string | null }[],
  o: PlaceNew,
): Map<string, Placed> {
  const out = new Map<string, Placed>();
  let { nodes, cluster } = o;
  for (const { edit, node } of vms) {
    const { spec } = edit;
    const request = placementRequest(spec, edit, node, o.at);
    const vm = newcomer(edit, nodes);
    const placed = placeOne(request, vm, nodes, cluster, o.admission);
    out.set(spec.id, placed);
    const { standby } = placed;
    cluster = {
      ...cluster,
      vms: [...cluster.vms, { ...vm, owner: placed.node, standby: vm.alone === true ? '' : (standby ?? '') }],
    };
    nodes = nodes.map((n) =>
      n.id !== placed.node
        ? n
        : {
            ...n,
            committedCpus: n.committedCpus + spec.cpus,
            committedMemoryMiB: n.committedMemoryMiB + spec.memoryMiB,
            vms: n.vms + 1,
          },
    );
  }
  return out;
}

function placeOne(
  request: PlacementRequest,
  vm: PlanVm,
  nodes: readonly ClusterNode[],
  cluster: PlanCluster,
  admission: AdmissionMode,
): Placed {
  const answer = place({ request, vm, nodes, cluster, admission });
  if (answer.ok) {
    const { node, standby, warnings } = answer;
    if (!request.disks.some((d) => d.replicated === true)) return { node, copy: null, standby, warnings };
    const second = placeCopy(request, { owner: node, preferred: standby }, nodes);
    if (second.ok) return { node, copy: second.node, standby: second.node, warnings };
    throw refusal(`VM "${vm.name}" fits on ${node}, but no other node can hold its copies`, second.nodes);
  }
  const told = answer.nodes.filter((n) => n.reasons.every((r) => r.reason !== 'not-asked'));
  if (answer.code === 'no-node-fits') throw refusal(`VM "${vm.name}" fits on no node`, told);
  throw noFailoverRoom(`VM "${vm.name}" is not made`, answer.shortfalls, told);
}

/** A VM that is nowhere yet, as the planner sees it. */
function newcomer(edit: VmEdit, nodes: readonly ClusterNode[]): PlanVm {
  const { spec } = edit;
  const pools = edit.made.map((m) => m.pool);
  const reached = edit.made.every((m) => m.pool.kind === 'shared' || isReplicated(m.disk));
  return {
    name: spec.name,
    memoryMiB: spec.memoryMiB + placementPolicy.vmOverheadMiB,
    diskMiB: 0,
    cpus: spec.cpus,
    spindles: 0,
    load: [0, 0, 0, 0],
    owner: '',
    standby: '',
    apart: [],
    ...(!spec.ha.enabled || !reached ? { alone: true as const } : {}),
    on: nodes.filter((n) => pools.every((p) => poolHasNode(p, n.id))).map((n) => n.id),
  };
}

export function noFailoverRoom(
  message: string,
  shortfalls: readonly { readonly text: string; readonly help: string }[],
  nodes: readonly NodeRefusal[],
): FlotillaError {
  const help = [...new Set(shortfalls.map((x) => x.help))].slice(0, 3);
  return new FlotillaError(
    'no-failover-room',
    `${message}: ${shortfalls.map((x) => x.text).join(' · ') || placementText(nodes)}`,
    {
      hint: [...help, 'Or say that promises may be broken: flotilla ha admission warn.'].join(' '),
      details: { shortfalls, nodes },
    },
  );
}

export function refusal(
  message: string,
  nodes: readonly { node: string; reasons: readonly { reason: string; text: string; hint: string }[] }[],
): FlotillaError {
  const space = nodes.length > 0 && nodes.every((n) => n.reasons.every((r) => r.reason === 'no-space'));
  const hints = [...new Set(nodes.flatMap((n) => n.reasons.map((r) => r.hint)))].slice(0, 3);
  return new FlotillaError(
    space ? 'no-space' : 'no-node-fits',
    `${message}: ${placementText(nodes as never)}`,
    {
      hint: hints.join(' ') || 'Add a node to the cluster.',
      details: { nodes },
    },
  );
}
