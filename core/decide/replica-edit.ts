import type { Disk } from '../domain/disk.js';
import { isReplicated } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { groupPath } from '../domain/pool.js';
import {
  minorRange,
  portRange,
  volumeMax,
  volumesOf,
  type Replica,
  type ReplicaVolume,
} from '../domain/replica.js';
import type { VmOwn } from '../domain/vm.js';

/** What of the cluster's numbers is given out already. */
export interface Taken {
  readonly minors: ReadonlySet<number>;
  readonly ports: ReadonlySet<number>;
}

/** A node with its addresses, the management one first. */
export interface CopyNode {
  readonly id: string;
  readonly addresses: readonly string[];
}

/** Bits that two addresses must share to be taken for one network beside the management one. */
const sharedBits = 16;

/**
 * The addresses at which two nodes exchange blocks: those of a network of their own where both have one, told by the
 * longest beginning that they share, else the management ones.
 */
export function copyAddresses(a: CopyNode, b: CopyNode): readonly [string, string] {
  let best: { readonly pair: readonly [string, string]; readonly bits: number } | null = null;
  for (const x of a.addresses.slice(1))
    for (const y of b.addresses.slice(1)) {
      const bits = Math.clz32((bitsOf(x) ^ bitsOf(y)) >>> 0);
      if (bits >= sharedBits && bits > (best?.bits ?? 0)) best = { pair: [x, y], bits };
    }
  return best?.pair ?? [a.addresses[0] ?? '', b.addresses[0] ?? ''];
}

const bitsOf = (ipv4: string): number => ipv4.split('.').reduce((n, part) => n * 256 + Number(part), 0);

/** The record of the two copies of a new VM's disks; null: it has no such disk. */
export function newReplica(o: {
  readonly vm: string;
  readonly disks: readonly Disk[];
  /** Owner, and the node of the other copy. */
  readonly nodes: readonly [CopyNode, CopyNode];
  readonly secret: string;
  readonly taken: Taken;
}): Replica | null {
  const disks = o.disks.filter(isReplicated);
  if (disks.length === 0) return null;
  const [a, b] = o.nodes;
  const [x, y] = copyAddresses(a, b);
  return {
    vm: o.vm,
    port: free(portRange, o.taken.ports, 'ports'),
    secret: o.secret,
    nodes: [
      { node: a.id, address: x },
      { node: b.id, address: y },
    ],
    volumes: newVolumes(disks, [], o.taken),
  };
}

/** Volumes for new disks beside those that there are, also such as are still being taken away. */
export function newVolumes(
  disks: readonly Disk[],
  beside: readonly ReplicaVolume[],
  taken: Pick<Taken, 'minors'>,
): ReplicaVolume[] {
  const minors = new Set(taken.minors);
  const numbers = new Set(beside.map((v) => v.volume));
  return disks.filter(isReplicated).map((d) => {
    const minor = free(minorRange, minors, 'device numbers');
    minors.add(minor);
    const volume = free({ first: 0, last: volumeMax }, numbers, 'volumes of one VM');
    numbers.add(volume);
    return { disk: d.id, volume, minor, pool: d.pool, below: `${groupPath(d.pool)}/d-${d.id}` };
  });
}

/** A disk of the pair is to be taken away, on both nodes: the record, and what the ownership says of copies then. */
export function withoutVolume(own: VmOwn, r: Replica, disk: string): [VmOwn, Replica] {
  const nodes = r.nodes.map((n) => n.node);
  const volumes = r.volumes.map((v) => (v.disk === disk ? { ...v, deleting: nodes } : v));
  const next = { ...r, volumes };
  const synced = own.synced.filter((d) => d !== disk);
  if (volumesOf(next).length > 0) return [{ ...own, synced }, next];
  return [{ ...own, copies: [], standby: null, sync: 'none', synced: [] }, next];
}

/** What the ownership of a new VM says of copies: nothing is in sync before it has been seen so. */
export const newCopies = (owner: string, other: string): Pick<VmOwn, 'standby' | 'copies' | 'sync'> => ({
  standby: other,
  sync: 'stale',
  copies: [
    { node: owner, state: 'ok', epoch: 0 },
    { node: other, state: 'stale', epoch: 0 },
  ],
});

function free(
  range: { readonly first: number; readonly last: number },
  taken: ReadonlySet<number>,
  what: string,
): number {
  for (let n: number = range.first; n <= range.last; n++) if (!taken.has(n)) return n;
  throw new FlotillaError('no-node-fits', `The cluster has no ${what} left for disks with two copies`, {
    hint: 'Delete VMs with such disks that are no longer needed.',
  });
}
