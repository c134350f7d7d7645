import type { Disk } from '../domain/disk.js';
import { isReplicated } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { groupPath } from '../domain/pool.js';
import { minorRange, portRange, type Replica } from '../domain/replica.js';
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
  const minors = new Set(o.taken.minors);
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
    volumes: disks.map((d, volume) => {
      const minor = free(minorRange, minors, 'device numbers');
      minors.add(minor);
      return { disk: d.id, volume, minor, pool: d.pool, below: `${groupPath(d.pool)}/d-${d.id}` };
    }),
  };
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

function free(range: typeof minorRange | typeof portRange, taken: ReadonlySet<number>, what: string): number {
  for (let n: number = range.first; n <= range.last; n++) if (!taken.has(n)) return n;
  throw new FlotillaError('no-node-fits', `The cluster has no ${what} left for disks with two copies`, {
    hint: 'Delete VMs with such disks that are no longer needed.',
  });
}
