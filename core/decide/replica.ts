import type { PairSeen, VolumeSeen } from '../domain/replica.js';
import type { CopyWords, VmOwn } from '../domain/vm.js';

/** What a node knows when its kernel asks whether the writes of a pair may go on without the peer. */
export interface FenceQuestion {
  readonly me: string;
  /** This node holds a live lease of this boot. */
  readonly live: boolean;
  /** Read after the kernel asked. Null: there is none, or it cannot be read. */
  readonly own: VmOwn | null;
  /** The pair, seen after the kernel asked. Null: it cannot be seen. */
  readonly pair: PairSeen | null;
  /** Volumes of disks that nobody has used yet: they have nothing that could be lost. */
  readonly unused?: ReadonlySet<number>;
}

export type FenceVerdict =
  /** Yes, once this is the ledger's record: a compare-and-swap at the revision read. */
  | { readonly ok: true; readonly own: VmOwn }
  /** The writes stay frozen, or the promotion is refused. */
  | { readonly ok: false; readonly why: string };

/**
 * May the writes of a VM's disks go on without the other copy? Only on the owner, only where all its own copies are whole,
 * and only after the ledger calls the other one stale, in a new epoch, also where it did already: somebody may be about to
 * call it in sync for what was seen before.
 *
 * @see safety 2 and 3, docs/models.md: repair
 */
export function decideFence(q: FenceQuestion): FenceVerdict {
  const no = (why: string): FenceVerdict => ({ ok: false, why });
  const { own, pair, me } = q;
  if (!q.live) return no(`${me} has no live lease`);
  if (own === null) return no('its ownership record is missing or cannot be read');
  if (own.owner !== me) return no(`${own.owner} owns it`);
  if (pair === null || pair.volumes.length === 0) return no('its copies here cannot be seen');
  // A booted node that is alone has `Consistent`: whole, as far as it knows. Then the ledger's word is needed, too.
  const mine = own.copies.find((c) => c.node === me)?.state;
  for (const v of pair.volumes) {
    if (q.unused?.has(v.volume) === true) continue;
    const whole = v.here === 'UpToDate' || (v.here === 'Consistent' && mine === 'ok');
    if (!whole)
      return no(`the copy of volume ${v.volume} here is ${v.here}: the other one may be the only whole one`);
  }
  if (mine !== 'ok') return no('the ledger does not call the copies here whole');
  return { ok: true, own: staleFor(own, me) };
}

/** The other copies called stale, in a new epoch. */
export function staleFor(own: VmOwn, me: string): VmOwn {
  const syncEpoch = own.syncEpoch + 1;
  const copies = own.copies.map((c) =>
    c.node === me ? { ...c, state: 'ok', epoch: syncEpoch } : { ...c, state: 'stale' },
  );
  return { ...own, sync: 'stale', synced: [], syncEpoch, copies };
}

/** Both copies of a disk are whole and the same, and stay so with every write. */
export const inSync = (p: PairSeen, v: VolumeSeen): boolean =>
  p.connection === 'Connected' &&
  !p.suspended &&
  v.replication === 'Established' &&
  v.here === 'UpToDate' &&
  v.there === 'UpToDate';

/**
 * What the owner writes after it read `own` and saw the pair *then*; null: nothing. In sync is said by the owner alone, and
 * only of disks whose copies it has just seen so; "stale" it never says here: that is for whoever lets writes go on.
 *
 * @param disks - the VM's disks with two copies, and their volumes
 * @see safety 2
 */
export function decideSync(
  own: VmOwn,
  me: string,
  disks: readonly { readonly disk: string; readonly volume: number }[],
  pair: PairSeen | null,
): VmOwn | null {
  // A former owner that still writes, frozen or not, has to let go first.
  if (own.owner !== me || pair === null || pair.peerRole === 'Primary' || disks.length === 0) return null;
  const synced = disks
    .filter((d) => {
      const v = pair.volumes.find((x) => x.volume === d.volume);
      // What was said once holds until somebody says "stale".
      return (v !== undefined && inSync(pair, v)) || own.synced.includes(d.disk);
    })
    .map((d) => d.disk)
    .sort();
  const all = synced.length === disks.length;
  const sync = all ? 'ok' : own.sync === 'ok' ? 'stale' : own.sync;
  if (sync === own.sync && synced.join() === [...own.synced].sort().join()) return null;
  const copies = own.copies.map((c) => ({
    ...c,
    state: c.node === me || all ? 'ok' : c.state,
    epoch: c.node === me || all ? own.syncEpoch : c.epoch,
  }));
  return { ...own, sync, synced, copies };
}

type Words = Omit<CopyWords, 'disk' | 'name' | 'peer'>;

/**
 * @param o.peer - the node of the other copy
 * @param o.split - the kernel told of a split brain and nobody has resolved it
 * @param o.bytesPerS - of the copying, measured; null: not yet known
 */
export function replicaWords(
  pair: PairSeen | null,
  v: VolumeSeen | undefined,
  o: { readonly peer: string; readonly split: boolean; readonly bytesPerS: number | null },
): Words {
  const say = (state: CopyWords['state'], text: string, hint = ''): Words => ({
    state,
    text,
    hint,
    done: null,
    leftS: null,
  });
  const { peer } = o;
  if (pair === null || v === undefined) return say('unknown', 'the copies of this disk cannot be seen here');
  if (o.split)
    return say(
      'split-brain',
      `the copies here and on ${peer} were both written while they were apart`,
      'It mends itself where the ledger proves whose writes count; else the node pages of both say what to do.',
    );
  if (pair.suspended)
    return say(
      'waiting',
      `${peer} is lost and the ledger has not yet noted that its copy is out of date: writes wait`,
      'Nothing is lost; bring the ledger or the node back.',
    );
  if (v.here === 'Diskless' || v.here === 'Failed' || v.here === 'Detaching')
    return say(
      'diskless',
      `the drive here failed or was taken away; the copy on ${peer} serves`,
      `Move the VM to ${peer}, then replace the drive.`,
    );
  if (v.replication === 'SyncSource' || v.replication === 'SyncTarget') {
    const done = v.sizeBytes === 0 ? null : Math.min(1, Math.max(0, 1 - v.behindBytes / v.sizeBytes));
    const leftS = o.bytesPerS === null || o.bytesPerS <= 0 ? null : Math.ceil(v.behindBytes / o.bytesPerS);
    const to = v.replication === 'SyncSource' ? `to ${peer}` : `from ${peer}`;
    return { state: 'syncing', text: `what differs is being copied ${to}`, hint: '', done, leftS };
  }
  if (inSync(pair, v)) return say('in-sync', `the copy on ${peer} is the same, with every write`);
  if (v.here === 'Inconsistent')
    return say(
      'inconsistent',
      `the copy here is half copied; only the one on ${peer} is whole`,
      `Bring ${peer} back: the copying goes on by itself.`,
    );
  if (pair.connection === 'StandAlone')
    return say(
      'apart',
      `the copies are not connected`,
      'They are connected again within seconds; if not, look at the storage network.',
    );
  if (pair.connection !== 'Connected')
    return say(
      'stale',
      `${peer} cannot be reached: its copy lacks what is written since`,
      `Bring ${peer} or the storage network back: the copying begins by itself.`,
    );
  return say('stale', `the copy on ${peer} is ${v.there}`, `It mends itself while ${peer} is there.`);
}
