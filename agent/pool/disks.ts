import { FlotillaError } from '../../core/domain/error.js';
import { isLinked, type Disk } from '../../core/domain/disk.js';
import type { Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { DiskFrom, WorkOptions } from '../env.js';
import { building, needSpace } from './building.js';
import type { Catalogue } from './catalogue.js';
import { virtualSizeOf } from './facts.js';
import { diskFormats, diskPath, folderPath, imagePath, tempPath } from './layout.js';
import type { Parts } from './parts.js';
import { reflink, type SnapshotVolumes } from './snapshot-volumes.js';

/** What is copied to a new disk, within reach of this node. */
interface Data {
  readonly path: string;
  readonly format: Image['format'];
  /** Of the data, not of the file. */
  readonly virtualBytes: number;
  /** Of a device that goes on behind its data. */
  readonly sizeBytes?: number;
}

/** Disks of VMs as files. */
export class Disks {
  readonly #parts: Parts;
  readonly #catalogue: Catalogue;
  readonly #snapshots: SnapshotVolumes;

  constructor(parts: Parts, catalogue: Catalogue, snapshots: SnapshotVolumes) {
    this.#parts = parts;
    this.#catalogue = catalogue;
    this.#snapshots = snapshots;
  }

  async make(disk: Disk, pool: Pool, from: DiskFrom | null, o: WorkOptions): Promise<void> {
    this.#check(disk, pool, from);
    if (pool.kind === 'thin') return this.#makeThin(disk, pool, from, o);
    await this.#parts.turns.take(`disk ${disk.id}`, async () => {
      const space = await this.#parts.guard.require(pool);
      const path = diskPath(disk, pool);
      if (await this.#parts.files.stat(path)) return;
      if (from && 'image' in from && disk.source.kind === 'image' && disk.source.mode === 'moved')
        return this.#move(disk, pool, from.image);
      if (disk.sizeBytes > space.totalBytes) {
        throw new FlotillaError(
          'no-space',
          `Disk "${disk.name}" of ${disk.sizeBytes} bytes can never fit into pool "${pool.name}" of ${space.totalBytes} bytes`,
          {
            hint: 'Make the disk smaller or choose a larger pool.',
            details: { sizeBytes: disk.sizeBytes, ...space },
          },
        );
      }
      needSpace(`Disk "${disk.name}"`, pool, space, 1);
      const data = from && (await this.#data(disk, pool, from, o));
      const temp = tempPath(pool, 'disks', disk.id, this.#parts.worker);
      await building(this.#parts, temp, pool, `Disk "${disk.name}"`, o.signal, async (signal) => {
        if (data)
          await this.#fill(disk, pool, data, temp, {
            signal,
            progress: (share, step) => o.progress(share, step),
          });
        else await this.#parts.qemuImg.create(disk.format, temp, disk.sizeBytes, null, signal);
        // Its VM may be another node's by now, which has made the disk, too, and runs on it.
        await this.#parts.files.publishNew(temp, path);
      });
      o.progress(1, 'ready');
    });
  }

  async grow(disk: Disk, pool: Pool): Promise<void> {
    if (pool.kind === 'thin')
      return this.#parts.turns.take(`disk ${disk.id}`, () => this.#parts.thin.grow(disk, pool));
    await this.#parts.turns.take(`disk ${disk.id}`, async () => {
      const space = await this.#parts.guard.require(pool);
      const path = diskPath(disk, pool);
      const now = await virtualSizeOf(this.#parts.files, disk.format, path, `Disk "${disk.name}"`);
      if (now === disk.sizeBytes) return;
      if (now > disk.sizeBytes) {
        throw new FlotillaError(
          'unsupported',
          `Disk "${disk.name}" has ${now} bytes and cannot shrink to ${disk.sizeBytes}`,
          {
            hint: 'Make a new, smaller disk and copy inside the guest.',
          },
        );
      }
      if (disk.sizeBytes > space.totalBytes) needSpace(`Disk "${disk.name}"`, pool, space, disk.sizeBytes);
      await this.#parts.qemuImg.resize(disk.format, path, disk.sizeBytes);
      await this.#parts.files.sync(path);
    });
  }

  async fit(disk: Disk, pool: Pool, bytes: number): Promise<void> {
    await this.#parts.turns.take(`disk ${disk.id}`, async () => {
      await this.#parts.guard.require(pool);
      const path = diskPath(disk, pool);
      const now = await virtualSizeOf(this.#parts.files, disk.format, path, `Disk "${disk.name}"`);
      if (now !== bytes) await this.#parts.qemuImg.resize(disk.format, path, bytes, { shrink: now > bytes });
    });
  }

  async remove(disk: Disk, pool: Pool): Promise<void> {
    if (pool.kind === 'thin')
      return this.#parts.turns.take(`disk ${disk.id}`, () => this.#parts.thin.remove(disk, pool));
    await this.#parts.turns.take(`disk ${disk.id}`, async () => {
      // On a pool that is not there nothing can be said to be removed.
      await this.#parts.guard.require(pool);
      for (const format of diskFormats)
        await this.#parts.files.remove(diskPath({ id: disk.id, format }, pool));
      await this.#parts.files.syncDir(folderPath(pool, 'disks'));
    });
  }

  #check(disk: Disk, pool: Pool, from: DiskFrom | null): void {
    const what = `Disk "${disk.name}"`;
    if (pool.kind !== 'shared' && disk.node !== this.#parts.worker.node) {
      throw new FlotillaError(
        'not-owner',
        `${what} belongs to node ${disk.node ?? 'none'}, not ${this.#parts.worker.node}`,
        {
          hint: 'A disk in a local or thin pool is made by its own node.',
        },
      );
    }
    if (pool.kind === 'thin' && (disk.format !== 'raw' || isLinked(disk)))
      throw new FlotillaError('bad-input', `${what}: disks of a thin pool are raw volumes of their own`, {
        hint: 'Use format raw and a full copy; it takes only what is really written.',
      });
    const bad = (why: string, hint: string) => new FlotillaError('bad-input', `${what}: ${why}`, { hint });
    const { source } = disk;
    const given =
      from === null
        ? 'blank'
        : 'image' in from
          ? source.kind === 'image' && source.image === from.image.id
          : source.kind === 'snapshot' && source.volume === from.snapshot.id;
    if (given === 'blank' ? source.kind !== 'blank' : !given)
      throw new FlotillaError('internal', `${what} was given what it does not come from`, {
        hint: 'This is a defect: please report it.',
      });
    if (from !== null && 'snapshot' in from && disk.sizeBytes < from.snapshot.sizeBytes)
      throw bad(
        `${disk.sizeBytes} bytes are too few for a snapshot of ${from.snapshot.sizeBytes}`,
        `Give it at least ${from.snapshot.sizeBytes} bytes.`,
      );
    if (from !== null && isLinked(disk)) {
      if (disk.format !== 'qcow2')
        throw bad('a linked disk must be qcow2', 'Use format qcow2, or a full copy.');
      if (from.pool.id !== pool.id)
        throw bad(
          'a linked disk must be in the pool of what it is made of',
          `Use pool "${from.pool.name}", or a full copy.`,
        );
    }
    if (!from || !('image' in from) || disk.source.kind !== 'image') return;
    if (from.image.state !== 'ready') {
      throw new FlotillaError(
        'wrong-state',
        `${what}: image "${from.image.name}" is ${from.image.state}, not ready`,
        {
          hint: 'Wait until its import is done.',
        },
      );
    }
    if (from.image.format === 'iso')
      throw bad(`image "${from.image.name}" is an ISO`, 'Put it into a CD drive instead.');
    if (disk.sizeBytes < from.image.virtualSizeBytes)
      throw bad(
        `${disk.sizeBytes} bytes are too few for image "${from.image.name}" of ${from.image.virtualSizeBytes}`,
        `Give it at least ${from.image.virtualSizeBytes} bytes.`,
      );
    if (disk.source.mode === 'moved' && (disk.format !== from.image.format || from.pool.id !== pool.id))
      throw bad('what is moved keeps its format and pool', 'Make a full copy.');
  }

  /** A volume of its own: tagged as half-made until all of the image is on it. */
  async #makeThin(disk: Disk, pool: Pool, from: DiskFrom | null, o: WorkOptions): Promise<void> {
    const { thin, turns } = this.#parts;
    await turns.take(`disk ${disk.id}`, async () => {
      // Of the same pool it shares what neither has overwritten; one of two copies has notes behind its data.
      if (from && 'snapshot' in from && from.pool.id === pool.id && !from.snapshot.replicated)
        return thin.makeFrom(disk, pool, from.snapshot);
      const data = from && (await this.#data(disk, pool, from, o));
      const path = await thin.make(disk, pool);
      if (path === null) return;
      if (data) await this.#onto(data, path, 'zeros', o);
      await thin.done(disk, pool);
      o.progress(1, 'ready');
    });
  }

  /** Writes it to a device that reads as zeros, or as an earlier try has left it; of a snapshot to one with any data. */
  async fillThin(disk: Disk, pool: Pool, from: DiskFrom, device: string, o: WorkOptions): Promise<void> {
    await this.#parts.turns.take(`disk ${disk.id}`, async () =>
      this.#onto(await this.#data(disk, pool, from, o), device, 'snapshot' in from ? 'data' : 'zeros', o),
    );
  }

  async #onto(data: Data, path: string, onto: 'zeros' | 'data', o: WorkOptions): Promise<void> {
    const { files, qemuImg } = this.#parts;
    await files.written(path, () =>
      qemuImg.convert(
        data,
        { format: 'raw', path },
        {
          signal: o.signal,
          progress: (share) => o.progress(share * 0.95, 'copying'),
          onto,
        },
      ),
    );
  }

  /** What the disk is made from, here. @throws FlotillaError `bad-input`: it is larger than the disk */
  async #data(disk: Disk, pool: Pool, from: DiskFrom, o: WorkOptions): Promise<Data> {
    if ('snapshot' in from)
      return {
        ...(await this.#snapshots.open(from.snapshot, from.pool)),
        virtualBytes: from.snapshot.sizeBytes,
      };
    const image = await this.#catalogue.here(from.image, from.pool, pool, o);
    const { name } = from.image;
    const virtualBytes = await virtualSizeOf(this.#parts.files, image.format, image.path, `Image "${name}"`);
    if (virtualBytes > disk.sizeBytes)
      throw new FlotillaError(
        'bad-input',
        `Disk "${disk.name}": ${disk.sizeBytes} bytes are too few for image "${name}" of ${virtualBytes}`,
        { hint: `Give it at least ${virtualBytes} bytes.` },
      );
    return { ...image, virtualBytes };
  }

  /** Makes the image's own file the disk. Only of the disk's own size: whatever breaks off is either not begun or done. */
  async #move(disk: Disk, pool: Pool, image: Image): Promise<void> {
    const { files, turns } = this.#parts;
    await turns.take(`image ${image.id}`, async () => {
      const from = imagePath(image, pool);
      const virtual = await virtualSizeOf(files, image.format, from, `Image "${image.name}"`);
      const refuse = (why: string, hint: string) =>
        new FlotillaError('unsupported', `Image "${image.name}" cannot become disk "${disk.name}": ${why}`, {
          hint,
        });
      if (virtual !== disk.sizeBytes)
        throw refuse(`it has ${virtual} bytes, not ${disk.sizeBytes}`, 'Make a full copy of it.');
      if ((await this.#catalogue.linkedTo(image.id, pool)).length > 0)
        throw refuse('other disks are linked to it', 'Make a full copy of it.');
      await files.publish(from, diskPath(disk, pool));
      await this.#catalogue.drop(image.id, pool);
    });
  }

  /** Writes the data, and the disk's own size, to `temp`. */
  async #fill(disk: Disk, pool: Pool, data: Data, temp: string, o: WorkOptions): Promise<void> {
    const { files, run, guard, qemuImg } = this.#parts;
    if (isLinked(disk)) return qemuImg.create('qcow2', temp, disk.sizeBytes, data, o.signal);
    const same = disk.format === data.format && data.sizeBytes === undefined;
    if (!same || !(await reflink({ files, run }, data.path, temp, o.signal))) {
      const stat = await files.stat(data.path);
      needSpace(`Disk "${disk.name}"`, pool, await guard.space(pool), stat?.allocatedBytes ?? 0);
      await qemuImg.convert(
        data,
        { format: disk.format, path: temp },
        {
          signal: o.signal,
          progress: (share) => o.progress(share * 0.95, 'copying'),
        },
      );
    }
    if (data.virtualBytes < disk.sizeBytes)
      await qemuImg.resize(disk.format, temp, disk.sizeBytes, { signal: o.signal });
  }
}
