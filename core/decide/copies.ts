import type { Disk } from '../domain/disk.js';
import {
  hasCopy,
  otherNode,
  volumesOf,
  type CopyState,
  type PairSeen,
  type Replica,
  type ReplicaVolume,
  type VolumeSeen,
} from '../domain/replica.js';
import type { VmOwn } from '../domain/vm.js';
import { decideSync, inSync } from './replica.js';

/** What of a disk matters to its copies. */
export type DiskSeen = Pick<Disk, 'id' | 'state'> & Partial<Pick<Disk, 'sizeBytes' | 'madeBytes'>>;

/** What a node sees of the pair of one VM of which it has a copy. */
export interface CopiesView {
  readonly me: string;
  /** This node holds a live lease of this boot. */
  readonly live: boolean;
  readonly replica: Replica;
  /** Null: there is none, or it cannot be read. */
  readonly own: VmOwn | null;
  /** Of the VM. */
  readonly disks: { get(id: string): DiskSeen | undefined };
  /** Null: the pair is not open here. */
  readonly pair: PairSeen | null;
  /** The pair was made as the record says now. */
  readonly asRecorded: boolean;
  /** Where its two nodes are reached for copies, in the record's order; null: one of them has no record. */
  readonly addresses: readonly [string, string] | null;
  /** Its machine is here, or something else writes to the disks on behalf of this node. */
  readonly inUse: boolean;
  /** It is being deleted by its owner. */
  readonly ending: boolean;
  /** It is known that the kernel here lets one node write only: not after a migration, nor after an agent's death. */
  readonly oneWriter: boolean;
}

export type CopiesStep =
  | { readonly do: 'none' }
  /** Volumes below and what is configured: as the record says. `make`: those that may be made new. */
  | { readonly do: 'open'; readonly make: readonly ReplicaVolume[] }
  /** Say in the record where the two nodes are reached now. */
  | { readonly do: 'readdress'; readonly addresses: readonly [string, string] }
  /** Bring a pair that is open into the state of its record. */
  | { readonly do: 'adjust' }
  /** Volumes of disks that were taken from the VM: nobody writes to them any more, and they leave their disks. */
  | { readonly do: 'close-volumes'; readonly minors: readonly number[] }
  /** Ask the ledger once more whether frozen writes may go on. */
  | { readonly do: 'ask' }
  /** Let the writes of a machine that is gone end, and no longer be the one that writes. */
  | { readonly do: 'let-go' }
  | { readonly do: 'connect'; readonly discardMine: boolean }
  /** Both copies are new: the same without copying. */
  | { readonly do: 'skip-first-sync'; readonly volumes: readonly ReplicaVolume[] }
  /** A live migration brings the machine: it is opened here, too, while its owner still writes. */
  | { readonly do: 'open-second' }
  /** Two nodes may no longer write at a time. */
  | { readonly do: 'one-writer' }
  /** Say in the ledger that the copies are the same. */
  | { readonly do: 'note-sync' }
  /** Say in the ledger that the other copy is behind, though nobody asked: the kernel asks only where it loses the peer. */
  | { readonly do: 'note-behind' }
  /** Of disks that are to grow: make room below, and say so. */
  | { readonly do: 'make-room'; readonly volumes: readonly ReplicaVolume[] }
  /** Disks that were taken from the VM: their copies here go. */
  | { readonly do: 'remove'; readonly volumes: readonly ReplicaVolume[] }
  /** Take the copy here away. */
  | { readonly do: 'drop' };

/** Disks of the VM that have data, and their volumes. */
export function syncedDisks(v: Pick<CopiesView, 'replica' | 'disks'>): { disk: string; volume: number }[] {
  return volumesOf(v.replica)
    .filter((x) => v.disks.get(x.disk)?.state === 'ready')
    .map(({ disk, volume }) => ({ disk, volume }));
}

/**
 * The next step for the pair on one of its two nodes. Each is safe to repeat, and none lets anybody write: that is for the
 * start of a machine, and the kernel asks the ledger then. @see safety 2, 7, 8
 */
export function decideCopies(v: CopiesView): CopiesStep {
  const { me, replica, own, pair } = v;
  if (!hasCopy(replica, me)) return { do: 'none' };
  const volumes = volumesOf(replica);
  if (volumes.length === 0)
    return replica.volumes.some((x) => x.deleting?.includes(me) === true) ? { do: 'drop' } : { do: 'none' };
  // An error is not an absence: without its owner's record nothing is made, opened or given up.
  if (own === null) return { do: 'none' };
  const mine = own.owner === me;
  const leaving = replica.volumes.filter((x) => x.deleting?.includes(me) === true);
  const stale = own.copies.find((c) => c.node === me)?.state === 'stale';
  const peerWhole = own.copies.find((c) => c.node === own.owner)?.state === 'ok';
  if (pair?.suspended === true && mine) return { do: 'ask' };
  if (pair?.role === 'Primary' && !v.inUse && own.state !== 'migrating') return { do: 'let-go' };
  if (v.ending) return { do: 'none' };
  if (pair !== null && v.live && mayOpenSecond(own, me, pair) && pair.role === 'Secondary')
    return { do: 'open-second' };
  const open = (x: ReplicaVolume): boolean => pair?.volumes.some((s) => s.volume === x.volume) === true;
  const moving = own.state === 'migrating' || (pair?.role === 'Primary' && pair.peerRole === 'Primary');
  const shut = pair === null || moving ? [] : closing(replica, pair);
  // Who owns it leaves them first, and nobody forgets them before both have: the kernels ask each other.
  const held = pair?.connection === 'Connected' && shut.some((x) => x.there !== 'Diskless');
  const mineShut = shut.filter((x) => x.here !== 'Diskless').map((x) => x.minor);
  if (mineShut.length > 0 && (mine || !held)) return { do: 'close-volumes', minors: mineShut };
  if (held) return { do: 'none' };
  if (pair === null || !volumes.every(open)) {
    // What may have data is never made anew, but where the ledger says that it is out of date all the same.
    const mayMake = (x: ReplicaVolume): boolean =>
      v.disks.get(x.disk)?.state === 'wanted' || (!mine && stale && peerWhole);
    return { do: 'open', make: volumes.filter(mayMake) };
  }
  if (!v.asRecorded) return moving ? { do: 'none' } : { do: 'adjust' };
  if (leaving.length > 0) return { do: 'remove', volumes: leaving };
  const narrow = mine ? [] : volumes.filter((x) => isToGrow(v.disks.get(x.disk)) && !hasRoom(x, me, v.disks));
  if (narrow.length > 0) return { do: 'make-room', volumes: narrow };
  const at = v.addresses;
  if (mine && v.live && !moving && at !== null && replica.nodes.some((n, i) => n.address !== at[i]))
    return { do: 'readdress', addresses: at };
  // Nobody asked for it: both were written while apart, or one refused the other. What is written here was acknowledged
  // to nobody where the ledger calls this copy stale and its owner's whole: the owner took over while they were the same.
  if (pair.connection === 'StandAlone') {
    if (mine) return { do: 'connect', discardMine: false };
    if (pair.role === 'Secondary') return { do: 'connect', discardMine: stale && peerWhole };
    return { do: 'none' };
  }
  // The kernel refuses while both write: first the one that does not own it lets go.
  if (!v.oneWriter && !moving) return { do: 'one-writer' };
  if (!mine || !v.live) return { do: 'none' };
  const fresh = volumes.filter((x) => {
    const s = pair.volumes.find((y) => y.volume === x.volume);
    const empty = s?.here === 'Inconsistent' && s.there === 'Inconsistent' && s.replication === 'Established';
    return empty && pair.connection === 'Connected' && v.disks.get(x.disk)?.state === 'wanted';
  });
  if (fresh.length > 0) return { do: 'skip-first-sync', volumes: fresh };
  if (isBehind(own, syncedDisks(v), pair)) return { do: 'note-behind' };
  return decideSync(own, me, syncedDisks(v), pair) === null ? { do: 'none' } : { do: 'note-sync' };
}

/** Volumes that are open and no longer of the pair. */
const closing = (r: Replica, pair: PairSeen | null): VolumeSeen[] =>
  (pair?.volumes ?? []).filter((s) => !volumesOf(r).some((v) => v.volume === s.volume));

const isToGrow = (d: DiskSeen | undefined): boolean =>
  d?.state === 'ready' && (d.madeBytes ?? 0) < (d.sizeBytes ?? 0);

const hasRoom = (x: ReplicaVolume, node: string, disks: CopiesView['disks']): boolean =>
  x.room?.node === node && x.room.sizeBytes >= (disks.get(x.disk)?.sizeBytes ?? Infinity);

/**
 * Why a disk with two copies cannot be enlarged now, in words; null: it can. First there is room on the other node, and both
 * copies are the same: what is new is then copied, too.
 */
export function cannotGrow(
  disk: Pick<Disk, 'id' | 'name' | 'state' | 'sizeBytes'>,
  v: { readonly me: string; readonly replica: Replica | null; readonly pair: PairSeen | null },
): string | null {
  const x = v.replica === null ? undefined : volumesOf(v.replica).find((y) => y.disk === disk.id);
  if (v.replica === null || x === undefined) return `disk "${disk.name}" has no pair`;
  const peer = otherNode(v.replica, v.me);
  if (v.pair === null || !pairSame(v.pair))
    return `disk "${disk.name}" grows when its copies here and on ${peer} are the same`;
  return hasRoom(x, peer, { get: () => disk }) ? null : `disk "${disk.name}" waits for room on ${peer}`;
}

/**
 * The ledger calls both copies the same, and the other one is being copied to, or its drive is lost, with its node there all the
 * time: its owner crashed and is back, or the drive failed alone. Started from, it would not be what the guest was told of.
 */
function isBehind(own: VmOwn, disks: readonly { disk: string; volume: number }[], pair: PairSeen): boolean {
  return disks.some(({ disk, volume }) => {
    const v = pair.volumes.find((x) => x.volume === volume);
    return own.synced.includes(disk) && v?.here === 'UpToDate' && behind.has(v.there);
  });
}

const behind: ReadonlySet<CopyState> = new Set([
  'Inconsistent',
  'Outdated',
  'Diskless',
  'Failed',
  'Detaching',
]);

/**
 * Whether a node opens the disks of a VM for the copy that migrates to it: only while the ledger says that it comes here, and
 * only where this node has every write, with the owner at the other end of the line. What it opens nobody writes to before the
 * hand-over: the copy stands still. @see docs/migration.md
 */
export function mayOpenSecond(own: VmOwn, me: string, pair: PairSeen): boolean {
  const m = own.migration;
  if (own.owner === me || own.state !== 'migrating' || m?.to !== me || m.handedOver) return false;
  return own.sync === 'ok' && pair.peerRole === 'Primary' && pairSame(pair);
}

/** Connected, nothing frozen, every volume whole on both nodes. */
export const pairSame = (pair: PairSeen): boolean =>
  pair.volumes.length > 0 && pair.volumes.every((v) => inSync(pair, v));

/** A new disk whose copies are both there and the same, so that it can be filled or used. */
export function isPaired(disk: string, replica: Replica, pair: PairSeen | null): boolean {
  const volume = volumesOf(replica).find((x) => x.disk === disk)?.volume;
  const seen = pair?.volumes.find((s) => s.volume === volume);
  return pair !== null && seen !== undefined && inSync(pair, seen);
}
