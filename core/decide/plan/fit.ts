import type { Image } from '../../domain/image.js';
import type { Health, NodeDesired, NodePresence, PoolUse } from '../../domain/node.js';
import { poolHasNode, type Pool } from '../../domain/pool.js';
import { formatSize } from '../../domain/units.js';

const MiB = 1024 * 1024;

/** A node as the check sees it whether a VM fits there. */
export interface PlacementNode {
  readonly id: string;
  readonly presence: NodePresence;
  readonly desired: NodeDesired;
  /** Powered off on purpose. */
  readonly asleep?: boolean;
  /** Votes only: it never gets a VM. */
  readonly witness: boolean;
  /** Logical CPUs and memory; 0 while the node has not said. */
  readonly cpus: number;
  readonly memoryBytes: number;
  /** Sums over all VMs it owns, running or not: each of them may be started at any time. */
  readonly committedCpus: number;
  readonly committedMemoryMiB: number;
  readonly vms: number;
  readonly pools: readonly PoolUse[];
  /** Why no disk can have a copy there; empty: it can. Absent: it has not said. */
  readonly replication?: string | undefined;
  readonly health: readonly Health[];
}

export interface PlacementDisk {
  readonly name: string;
  readonly pool: Pool;
  readonly sizeBytes: number;
  /** It has a copy on a second node. */
  readonly replicated?: boolean;
  /** Bytes of a snapshot that are copied to it; none where blocks are shared. */
  readonly copiedBytes?: number;
  /**
   * What it is made from. An image on another node's local pool is fetched from there: `sourceHere` says that
   * this node is heard now.
   */
  readonly image: {
    readonly image: Image;
    readonly pool: Pool;
    readonly mode: 'full' | 'linked' | 'moved';
    readonly sourceHere: boolean;
  } | null;
}

export interface PlacementRequest {
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly disks: readonly PlacementDisk[];
  /** ISOs in its CD drives. */
  readonly isos: readonly { readonly image: Image; readonly pool: Pool; readonly sourceHere: boolean }[];
  readonly networks: readonly { readonly name: string }[];
  /** The only node wanted; null: any. */
  readonly node: string | null;
}

/** How full a node may be made. */
export interface PlacementPolicy {
  /** Kept for the node itself: this share of its memory, but between the two bounds. */
  readonly reservePct: number;
  readonly reserveMinMiB: number;
  readonly reserveMaxMiB: number;
  /** QEMU's own memory beside the guest's, per VM. */
  readonly vmOverheadMiB: number;
  /** vCPUs promised per logical CPU, at most. */
  readonly cpuOvercommit: number;
}

/**
 * 10 % of the memory, 256 MiB to 2 GiB, is what agent, broker, ledger and kernel take. 64 MiB per VM is QEMU 10
 * with virtio devices and VNC. 16 vCPUs per CPU: idle guests are many, and CPU, unlike memory, can be shared out.
 */
export const placementPolicy: PlacementPolicy = {
  reservePct: 10,
  reserveMinMiB: 256,
  reserveMaxMiB: 2048,
  vmOverheadMiB: 64,
  cpuOvercommit: 16,
};

/** Why a node does not fit, in words, and what would help. */
export interface PlacementReason {
  readonly reason:
    | 'not-asked'
    | 'not-here'
    | 'not-active'
    | 'witness'
    | 'unwell'
    | 'no-memory'
    | 'no-cpus'
    | 'no-pool'
    | 'pool-unwell'
    | 'no-space'
    | 'no-replication'
    | 'image-out-of-reach'
    | 'rule'
    | 'no-failover-room';
  readonly text: string;
  readonly hint: string;
}

export interface NodeRefusal {
  readonly node: string;
  readonly reasons: readonly PlacementReason[];
}

/** Memory kept for the node itself, MiB. */
export function reserveMiB(memoryBytes: number, p: PlacementPolicy): number {
  const share = Math.floor(((memoryBytes / MiB) * p.reservePct) / 100);
  return Math.min(p.reserveMaxMiB, Math.max(p.reserveMinMiB, share));
}

/**
 * Picks the node of the other copy of a new VM's disks: one that could run it, too.
 *
 * @param preferred - taken where it fits
 */
export function placeCopy(
  request: PlacementRequest,
  o: { readonly owner: string; readonly preferred: string | null },
  nodes: readonly PlacementNode[],
):
  | { readonly ok: true; readonly node: string }
  | { readonly ok: false; readonly nodes: readonly NodeRefusal[] } {
  const disks = request.disks.filter((d) => d.replicated === true).map((d) => ({ ...d, image: null }));
  const asked = { ...request, disks, isos: [], node: null };
  const refused: NodeRefusal[] = [];
  let best: { readonly id: string; readonly share: number } | null = null;
  for (const n of [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    if (n.id === o.owner) continue;
    const reasons = refusals(asked, n);
    if (reasons.length > 0) {
      refused.push({ node: n.id, reasons });
      continue;
    }
    const share = n.id === o.preferred ? -1 : (n.committedMemoryMiB * MiB) / n.memoryBytes;
    if (best === null || share < best.share) best = { id: n.id, share };
  }
  return best === null ? { ok: false, nodes: refused } : { ok: true, node: best.id };
}

/** All reasons against one node; empty: it fits. */
export function refusals(
  request: PlacementRequest,
  node: PlacementNode,
  policy: PlacementPolicy = placementPolicy,
): PlacementReason[] {
  const out: PlacementReason[] = [];
  const no = (reason: PlacementReason['reason'], text: string, hint: string): void => {
    out.push({ reason, text, hint });
  };
  if (request.node !== null && request.node !== node.id) {
    no('not-asked', `${request.node} was asked for`, 'Leave the node out to let placement choose.');
    return out;
  }
  if (node.witness) {
    no('witness', 'is a witness: it votes and runs no VMs', 'Choose another node.');
    return out;
  }
  if (node.asleep === true) {
    no('not-active', 'is asleep', `Wake it: flotilla node wake ${node.id}`);
    return out;
  }
  if (node.desired !== 'active') {
    const text = node.desired === 'maintenance' ? 'is in maintenance' : 'is leaving the cluster';
    no('not-active', text, `Set it active: flotilla node set ${node.id} --desired active`);
  }
  if (node.presence !== 'here') {
    const text = node.presence === 'never-heard' ? 'was never heard' : `is ${node.presence}`;
    no('not-here', text, 'Bring the node or its network back, or wait until it is heard.');
    return out;
  }
  for (const h of node.health) {
    const matters =
      h.part === 'hypervisor' ||
      (h.part === 'network' && request.networks.some((n) => h.text.includes(n.name)));
    if (!h.ok && matters) no('unwell', `${h.part}: ${h.text}`, 'Mend what the node names.');
  }
  checkMemoryAndCpus(request, node, policy, no);
  if (request.disks.some((d) => d.replicated === true) && node.replication !== '')
    no(
      'no-replication',
      `cannot hold one of two copies of a disk: ${node.replication ?? 'it has not said whether it can'}`,
      'Choose other nodes, or make the disks with replicas=1.',
    );
  checkPools(request, node, no);
  checkImages(request, node, no);
  return out;
}

type No = (reason: PlacementReason['reason'], text: string, hint: string) => void;

function checkMemoryAndCpus(r: PlacementRequest, node: PlacementNode, p: PlacementPolicy, no: No): void {
  const total = Math.floor(node.memoryBytes / MiB);
  const reserve = reserveMiB(node.memoryBytes, p);
  const committed = node.committedMemoryMiB + p.vmOverheadMiB * node.vms;
  const free = total - reserve - committed;
  const needs = r.memoryMiB + p.vmOverheadMiB;
  if (needs > free) {
    no(
      'no-memory',
      `needs ${needs} MiB of memory, ${Math.max(0, free)} MiB are free (${total} MiB, less ${committed} MiB promised to ${node.vms} VMs and ${reserve} MiB for the node)`,
      'Ask for less memory, delete or shrink other VMs, or add a node.',
    );
  }
  if (r.cpus > node.cpus) {
    no('no-cpus', `needs ${r.cpus} vCPUs, it has ${node.cpus} CPUs`, `Ask for at most ${node.cpus} vCPUs.`);
  } else if (node.committedCpus + r.cpus > node.cpus * p.cpuOvercommit) {
    no(
      'no-cpus',
      `${node.committedCpus} vCPUs are promised already, at most ${node.cpus * p.cpuOvercommit} may be (${p.cpuOvercommit} per CPU)`,
      'Delete or shrink other VMs, or add a node.',
    );
  }
}

/** Bytes new disks take at once: full copies of images, and images fetched; what guests write comes on top. */
function bytesAtOnce(disks: readonly PlacementDisk[], node: string): number {
  const fetched = new Map<string, number>();
  let bytes = 0;
  for (const { image: from, copiedBytes } of disks) {
    bytes += copiedBytes ?? 0;
    if (from === null) continue;
    if (from.mode === 'full') bytes += from.image.sizeBytes;
    if (from.image.node !== null && from.image.node !== node)
      fetched.set(from.image.id, from.image.sizeBytes);
  }
  return [...fetched.values()].reduce((a, b) => a + b, bytes);
}

function checkPools(r: PlacementRequest, node: PlacementNode, no: No): void {
  const byPool = new Map<string, PlacementDisk[]>();
  for (const d of r.disks) byPool.set(d.pool.id, [...(byPool.get(d.pool.id) ?? []), d]);
  for (const disks of byPool.values()) {
    const pool = (disks[0] as PlacementDisk).pool;
    if (!poolHasNode(pool, node.id)) {
      no(
        'no-pool',
        `does not have the pool "${pool.name}"`,
        'Choose another pool, or give the node this one.',
      );
      continue;
    }
    const use = poolUse(pool, node.pools);
    if (use === undefined) {
      no(
        'pool-unwell',
        `has not said how the pool "${pool.name}" is`,
        'Wait until it has, or look at its page.',
      );
      continue;
    }
    if (!use.ok) {
      no('pool-unwell', `the pool "${pool.name}" is not well: ${use.text}`, 'Mend the pool on that node.');
      continue;
    }
    for (const d of disks) {
      if (d.sizeBytes > use.totalBytes) {
        no(
          'no-space',
          `disk "${d.name}" of ${formatSize(d.sizeBytes)} is larger than the pool "${pool.name}" (${formatSize(use.totalBytes)})`,
          'Ask for a smaller disk or another pool.',
        );
      }
    }
    const needs = bytesAtOnce(disks, node.id);
    const kept = (use.totalBytes * pool.reservePct) / 100;
    if (use.freeBytes - needs < kept) {
      no(
        'no-space',
        `the pool "${pool.name}" has ${formatSize(use.freeBytes)} of ${formatSize(use.totalBytes)} free; ${formatSize(needs)} are needed at once and ${formatSize(kept)} stay free`,
        'Free space in the pool, choose another one, or clone linked.',
      );
    }
  }
}

function checkImages(r: PlacementRequest, node: PlacementNode, no: No): void {
  const seen = new Set<string>();
  const check = (image: Image, pool: Pool, fetchable: boolean): void => {
    if (seen.has(image.id)) return;
    seen.add(image.id);
    if (image.node === null ? poolHasNode(pool, node.id) : image.node === node.id || fetchable) return;
    const where = image.node === null ? `the pool "${pool.name}"` : `${image.node} only`;
    no(
      'image-out-of-reach',
      `the image "${image.name}" is on ${where}`,
      'Import it to a shared pool, or on this node too.',
    );
  };
  // A node fetches what its peer has; an ISO into its own directory of that pool, a disk's image also beside the disk.
  for (const i of r.isos) check(i.image, i.pool, i.sourceHere && poolHasNode(i.pool, node.id));
  // A thin pool has no directory to fetch into.
  for (const d of r.disks)
    if (d.image !== null)
      check(
        d.image.image,
        d.image.pool,
        d.image.mode !== 'moved' &&
          d.image.sourceHere &&
          (d.pool.kind !== 'thin' || poolHasNode(d.image.pool, node.id)),
      );
}

/** The pool's use among what a node says; agents name pools by id, early ones by name. */
export function poolUse(pool: Pick<Pool, 'id' | 'name'>, uses: readonly PoolUse[]): PoolUse | undefined {
  return uses.find((u) => u.pool === pool.id) ?? uses.find((u) => u.pool === pool.name);
}

/** The refusals in one text: shown where a list of nodes has no room. */
export function placementText(nodes: readonly NodeRefusal[]): string {
  if (nodes.length === 0) return 'the cluster has no node';
  return nodes.map((n) => `${n.node}: ${n.reasons.map((r) => r.text).join('; ')}`).join(' · ');
}
