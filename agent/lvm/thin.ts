import { isReplicated, type Disk } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import { poolUnwell, type PoolUse } from '../../core/domain/node.js';
import { drivesOn, groupName, thinPieceBytes, type Pool } from '../../core/domain/pool.js';
import { idSchema } from '../../core/domain/schema.js';
import { formatSize } from '../../core/domain/units.js';
import type { SnapshotDisk } from '../../core/domain/vm-snapshot.js';
import type { Turns } from '../pool/turn.js';
import { driveFault, driveHasData, mayWipe, type Lvm } from './lvm.js';
import type { BlockDevice, Groups, VolumeRow } from './report.js';

const MiB = 1024 * 1024;
/** The thin pool's own name in its group. */
const poolVolume = 'pool';
/** On a volume that is not filled yet: found after a crash, it is made anew. */
const makingTag = 'flotilla.making';
/** Above these shares of data or metadata people are warned; above the others nothing new is made or grown. */
const warnPct = 80;
const stopPct = { data: 95, metadata: 90 } as const;
/** Above this share of data no snapshot is taken: it makes guests' writes cost room that they cost not before. */
const snapshotStopPct = 85;
/** Metadata of a thin pool is enlarged by itself above this share: it is small, and full it ends all writes. */
const growMetadataPct = 50;
/** lvm2's greatest; 64 MiB describe about 4 TiB that guests have written, at 64 KiB each. */
const metadataBytesMax = 15 * 1024 * MiB;

export interface ThinPoolsOptions {
  readonly node: string;
  readonly lvm: Lvm;
  readonly turns: Turns;
  /** Whether this node had that pool before: then it is never made again from what looks empty. */
  had(pool: Pool): Promise<boolean>;
  remember(pool: Pool): Promise<void>;
}

const tagOf = (pool: Pool): string => `flotilla.${idSchema.parse(pool.id)}`;
const volumeName = (diskId: string): string => `d-${idSchema.parse(diskId)}`;
const snapshotName = (volume: Pick<SnapshotDisk, 'id'>): string => `s-${idSchema.parse(volume.id)}`;

export const thinPath = (disk: Pick<Disk, 'id'>, pool: Pick<Pool, 'id'>): string =>
  `/dev/${groupName(pool.id)}/${volumeName(disk.id)}`;

/** Pools of kind `thin`: on each node a volume group of the drives named in the record, with one thin pool in it. */
export class ThinPools {
  readonly #o: ThinPoolsOptions;

  constructor(o: ThinPoolsOptions) {
    this.#o = o;
  }

  /** How the pool is here, made or enlarged first where drives were named for it. Never throws for a sick pool. */
  async probe(pool: Pool): Promise<PoolUse> {
    try {
      return await this.#o.turns.take(`thin ${pool.id}`, () => this.#probe(pool));
    } catch (e) {
      const text = e instanceof Error ? e.message : String(e);
      return { pool: pool.id, totalBytes: 0, freeBytes: 0, ok: false, text: text.slice(0, 500) };
    }
  }

  /** Makes an empty volume, tagged until {@link done}; one left half-made is made anew. @returns its path; null: it is done */
  async make(disk: Disk, pool: Pool): Promise<string | null> {
    const { lvm } = this.#o;
    const group = groupName(pool.id);
    const found = this.#volume(await this.#ready(pool, `Disk "${disk.name}"`), pool, volumeName(disk.id));
    if (found !== undefined && !found.lv_tags.includes(makingTag)) {
      await lvm.activate(group, found.lv_name);
      return null;
    }
    if (found !== undefined) await lvm.remove(group, found.lv_name);
    await lvm.createThin(group, poolVolume, volumeName(disk.id), disk.sizeBytes, makingTag);
    return thinPath(disk, pool);
  }

  /**
   * A volume that is one of two copies, with room for what DRBD notes at its end; `format` writes that before anybody
   * takes it for whole.
   *
   * @param format - null: it may not be made, since it is known to have held data
   * @throws FlotillaError `not-found`: it is not there and may not be made
   */
  async openCopy(disk: Disk, pool: Pool, format: (() => Promise<void>) | null): Promise<void> {
    const { lvm } = this.#o;
    const group = groupName(pool.id);
    const name = volumeName(disk.id);
    const found = this.#volume(await lvm.look(), pool, name);
    if (found !== undefined && !found.lv_tags.includes(makingTag)) return lvm.activate(group, name);
    if (format === null) throw gone(disk, pool);
    await this.make({ ...disk, sizeBytes: disk.sizeBytes + notesBytes(disk.sizeBytes) }, pool);
    await format();
    await this.done(disk, pool);
  }

  /** A disk that begins as that snapshot, and shares with it what neither has overwritten. */
  async makeFrom(disk: Disk, pool: Pool, volume: SnapshotDisk): Promise<void> {
    const { lvm } = this.#o;
    const group = groupName(pool.id);
    const g = await this.#ready(pool, `Disk "${disk.name}"`);
    const name = volumeName(disk.id);
    if (this.#volume(g, pool, name) === undefined) {
      if (this.#volume(g, pool, snapshotName(volume)) === undefined) throw gone(volume, pool);
      await lvm.snapshotThin(group, snapshotName(volume), name, []);
    } else await lvm.activate(group, name);
    await this.grow(disk, pool);
  }

  /** @returns bytes it holds, most of them the disk's too */
  async snapshot(disk: Disk, pool: Pool, volume: SnapshotDisk): Promise<number> {
    const { lvm } = this.#o;
    const g = await this.#ready(pool, `A snapshot of disk "${disk.name}"`, snapshotStopPct);
    const name = snapshotName(volume);
    if (this.#volume(g, pool, name) === undefined) {
      if (this.#volume(g, pool, volumeName(disk.id)) === undefined) throw gone(disk, pool);
      await lvm.snapshotThin(groupName(pool.id), volumeName(disk.id), name, []);
    }
    const made = this.#volume(await lvm.look(), pool, name);
    return Math.round(((made?.lv_size ?? 0) * (made?.data_percent ?? 0)) / 100);
  }

  /** @returns its path, and bytes of the data in it: behind that of one of two copies stand DRBD's notes */
  async openSnapshot(
    volume: SnapshotDisk,
    pool: Pool,
  ): Promise<{ readonly path: string; readonly bytes: number }> {
    const { lvm } = this.#o;
    const group = groupName(pool.id);
    const found = this.#volume(await lvm.look(), pool, snapshotName(volume));
    if (found === undefined) throw gone(volume, pool);
    await lvm.activate(group, snapshotName(volume));
    const bytes = found.lv_size - (volume.replicated ? notesBytes(found.lv_size) : 0);
    return { path: `/dev/${group}/${snapshotName(volume)}`, bytes };
  }

  removeSnapshot(volume: SnapshotDisk, pool: Pool): Promise<void> {
    return this.#remove(snapshotName(volume), pool);
  }

  async done(disk: Disk, pool: Pool): Promise<void> {
    await this.#o.lvm.untag(groupName(pool.id), volumeName(disk.id), makingTag);
  }

  async grow(disk: Disk, pool: Pool): Promise<void> {
    const g = await this.#ready(pool, `Disk "${disk.name}"`);
    const v = this.#volume(g, pool, volumeName(disk.id));
    if (v === undefined) throw gone(disk, pool);
    const wanted = disk.sizeBytes + (isReplicated(disk) ? notesBytes(disk.sizeBytes) : 0);
    const size = Math.ceil(wanted / thinPieceBytes) * thinPieceBytes;
    if (v.lv_size > size) {
      throw new FlotillaError(
        'unsupported',
        `Disk "${disk.name}" has ${v.lv_size} bytes and cannot shrink to ${disk.sizeBytes}`,
        { hint: 'Make a new, smaller disk and copy inside the guest.' },
      );
    }
    if (v.lv_size < size) await this.#o.lvm.extend(groupName(pool.id), v.lv_name, size);
  }

  remove(disk: Disk, pool: Pool): Promise<void> {
    return this.#remove(volumeName(disk.id), pool);
  }

  async #remove(name: string, pool: Pool): Promise<void> {
    const g = await this.#o.lvm.look();
    const use = await this.#use(pool, g);
    // On a pool that is not there nothing can be said to be removed.
    if (!use.ok) throw unwell(pool, this.#o.node, use.text);
    if (this.#volume(g, pool, name) !== undefined) await this.#o.lvm.remove(groupName(pool.id), name);
  }

  /** A disk's volume is switched on: after a boot none is. */
  async activate(disk: Pick<Disk, 'id'>, pool: Pool): Promise<void> {
    await this.#o.lvm.activate(groupName(pool.id), volumeName(disk.id));
  }

  async #probe(pool: Pool): Promise<PoolUse> {
    const { lvm } = this.#o;
    const before = await lvm.look();
    const { changed, faults } = await this.#tend(pool, before);
    const use = await this.#use(pool, changed ? await lvm.look() : before);
    return {
      ...use,
      text: [use.text, ...faults]
        .filter((x) => x !== '')
        .join('; ')
        .slice(0, 500),
    };
  }

  /** Makes what the record names and is not there. @returns whether anything was changed, and what could not be */
  async #tend(
    pool: Pool,
    g: Groups,
  ): Promise<{ readonly changed: boolean; readonly faults: readonly string[] }> {
    const { lvm, node } = this.#o;
    const wanted = drivesOn(pool, node);
    const group = g.groups.find((x) => x.vg_name === groupName(pool.id));
    if (group !== undefined && !group.vg_tags.includes(tagOf(pool)))
      throw new FlotillaError('in-use', `the volume group ${group.vg_name} here is not this pool's`, {
        hint: 'Somebody else made it: rename it, or make the pool anew.',
      });
    if (group === undefined) {
      if (wanted.length === 0) return { changed: false, faults: [] };
      if (await this.#o.had(pool))
        throw new FlotillaError('pool-unavailable', 'its volume group is missing: are its drives there?', {
          hint: 'Bring the drives back; the pool is not made anew while they may hold disks.',
        });
      const devices: string[] = [];
      for (const d of wanted) devices.push(await this.#empty(d.drive, d.wipe));
      await lvm.createGroup(groupName(pool.id), tagOf(pool), devices);
      await this.#o.remember(pool);
      await this.#fill(pool, await lvm.look());
      return { changed: true, faults: [] };
    }
    await this.#o.remember(pool);
    let changed = false;
    const faults: string[] = [];
    const present = await lvm.devices();
    for (const d of wanted) {
      const device = resolve(d.drive, present);
      const mine = g.drives.find((p) => p.pv_name === device?.path);
      if (mine?.vg_name === group.vg_name) continue;
      try {
        await lvm.extendGroup(group.vg_name, await this.#empty(d.drive, d.wipe));
        changed = true;
      } catch (e) {
        // What is there goes on, and is kept up, without it.
        faults.push(`the drive "${d.drive}" is not taken: ${e instanceof Error ? e.message : String(e)}`);
      }
    }
    const filled = await this.#fill(pool, changed ? await lvm.look() : g);
    return { changed: filled || changed, faults };
  }

  /** Looked at twice: by what the kernel knows, and by what stands on the drive. @returns its device */
  async #empty(drive: string, wipe: boolean): Promise<string> {
    const { lvm } = this.#o;
    const d = resolve(drive, await lvm.devices());
    if (d === null)
      throw new FlotillaError('not-found', `the drive "${drive}" is not in ${this.#o.node}`, {
        hint: 'See its drives: flotilla node show.',
      });
    const signatures = await lvm.signatures(d.path);
    const fault = driveFault(d, signatures);
    if (fault === null) return d.path;
    if (!wipe || !mayWipe(d, signatures)) throw driveHasData(d.path, fault);
    await lvm.wipe(d.path);
    return d.path;
  }

  /** Gives the thin pool what is free in its group, and metadata before it is short. @returns whether it did */
  async #fill(pool: Pool, g: Groups): Promise<boolean> {
    const { lvm } = this.#o;
    const name = groupName(pool.id);
    const group = g.groups.find((x) => x.vg_name === name);
    if (group === undefined) return false;
    const thin = this.#volume(g, pool, poolVolume);
    const extent = group.vg_extent_size;
    const whole = (bytes: number): number => Math.floor(bytes / extent) * extent;
    // Kept: metadata to come, its spare of the same size, and room to move a drive's last pieces.
    const kept = (metadata: number): number => Math.max(whole(group.vg_size / 50), 2 * metadata) + extent;
    if (thin === undefined) {
      const metadata = Math.min(metadataBytesMax, Math.max(16 * MiB, whole(group.vg_size / 1000)));
      const size = whole(group.vg_free - 2 * metadata - kept(metadata));
      if (size <= 0)
        throw new FlotillaError('no-space', `its drives are too small: ${formatSize(group.vg_size)}`, {
          hint: 'Give it larger ones.',
        });
      await lvm.createThinPool(name, poolVolume, size, metadata);
      return true;
    }
    if (thin.lv_active !== 'active') {
      await lvm.activate(name, poolVolume);
      return true;
    }
    const metadata = thin.lv_metadata_size ?? 0;
    if ((thin.metadata_percent ?? 0) > growMetadataPct && group.vg_free > 2 * metadata && metadata > 0) {
      await lvm.extendMetadata(name, poolVolume, Math.min(metadata, metadataBytesMax - metadata));
      return true;
    }
    const more = whole(group.vg_free - kept(metadata));
    // Small rests are left: each enlarging stops the pool for a moment.
    if (more < Math.max(16 * extent, group.vg_size / 20)) return false;
    await lvm.extend(name, poolVolume, thin.lv_size + more);
    return true;
  }

  async #ready(pool: Pool, what: string, stop: number = stopPct.data): Promise<Groups> {
    const g = await this.#o.lvm.look();
    const use = await this.#use(pool, g);
    if (!use.ok) throw unwell(pool, this.#o.node, use.text);
    const thin = this.#volume(g, pool, poolVolume);
    const data = thin?.data_percent ?? 100;
    const metadata = thin?.metadata_percent ?? 100;
    const limit = Math.min(stop, 100 - pool.reservePct);
    if (data >= limit || metadata >= stopPct.metadata)
      throw new FlotillaError(
        'no-space',
        `${what}: pool "${pool.name}" is ${data} % full on ${this.#o.node}, its metadata ${metadata} %`,
        { hint: `Above ${limit} % nothing is made or grown: give it a drive, or delete disks.` },
      );
    return g;
  }

  async #use(pool: Pool, g: Groups): Promise<PoolUse> {
    const bad = (text: string): PoolUse => poolUnwell(pool.id, text);
    const name = groupName(pool.id);
    const group = g.groups.find((x) => x.vg_name === name);
    if (group === undefined)
      return bad(
        (await this.#o.had(pool))
          ? 'its volume group is missing: are its drives there?'
          : 'no drive of this node was given to it',
      );
    const lost = g.drives.filter((d) => d.vg_name === name && d.pv_missing !== '').length;
    if (lost > 0) return bad(`${lost} of its drives are missing`);
    const thin = this.#volume(g, pool, poolVolume);
    if (thin === undefined) return bad('its thin pool is missing');
    if (thin.data_percent === null || thin.metadata_percent === null)
      return bad('its thin pool is switched off');
    if (thin.lv_health_status !== '' && thin.lv_health_status !== 'out_of_data')
      return bad(`its thin pool says: ${thin.lv_health_status}`);
    const freeBytes = Math.floor(thin.lv_size * (1 - thin.data_percent / 100));
    const full: string[] = [];
    if (thin.data_percent >= warnPct) full.push(`${thin.data_percent} % full`);
    if (thin.metadata_percent >= warnPct) full.push(`its metadata ${thin.metadata_percent} % full`);
    const stopped = thin.metadata_percent >= stopPct.metadata;
    const text = full.length === 0 ? '' : `${full.join(', ')}: give it a drive before guests’ writes wait`;
    // Nothing is written to a snapshot: it promises nobody anything.
    const disks = g.volumes.filter(
      (v) => v.vg_name === name && v.pool_lv === poolVolume && v.lv_name.startsWith('d-'),
    );
    return {
      pool: pool.id,
      totalBytes: thin.lv_size,
      freeBytes: stopped ? 0 : freeBytes,
      ok: true,
      text,
      thin: {
        dataPct: thin.data_percent,
        metadataPct: thin.metadata_percent,
        promisedBytes: disks.reduce((n, v) => n + v.lv_size, 0),
      },
    };
  }

  #volume(g: Groups, pool: Pool, name: string): VolumeRow | undefined {
    return g.volumes.find((v) => v.vg_name === groupName(pool.id) && v.lv_name === name);
  }
}

/** What DRBD 8.4 keeps behind the data: a bit for each 4 KiB, in pages, and 36 KiB. @see drbdmeta(8), internal meta data */
const notesBytes = (bytes: number): number => Math.ceil(bytes / 2 ** 27) * 4096 + 36 * 1024;

const gone = (disk: Pick<Disk, 'name'>, pool: Pick<Pool, 'name'>): FlotillaError =>
  new FlotillaError('not-found', `Disk "${disk.name}" is not in pool "${pool.name}" here`, {
    hint: 'Its drive may be missing: see the pool on the node’s page.',
  });

/** A drive by its serial number (as the node lists it) or its device; names like /dev/sda may change with each boot. */
function resolve(drive: string, devices: readonly BlockDevice[]): BlockDevice | null {
  const found = devices.filter((d) => d.type === 'disk' && d.serial !== '' && d.serial === drive);
  return found.length === 1 ? (found[0] as BlockDevice) : null;
}

const unwell = (pool: Pool, node: string, text: string): FlotillaError =>
  new FlotillaError('pool-unavailable', `Pool "${pool.name}" cannot be used on ${node}: ${text}`, {
    hint: 'Mend that, or choose another pool or node; the node page shows when it is well again.',
  });
