import { FlotillaError } from '../../core/domain/error.js';
import type { Disk } from '../../core/domain/disk.js';
import type { Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { WorkOptions } from '../env.js';
import { building, needSpace } from './building.js';
import type { Catalogue } from './catalogue.js';
import { virtualSizeOf } from './facts.js';
import { diskFormats, diskPath, folderPath, imagePath, tempPath } from './layout.js';
import type { Parts } from './parts.js';

/** Disks of VMs as files. */
export class Disks {
  readonly #parts: Parts;
  readonly #catalogue: Catalogue;

  constructor(parts: Parts, catalogue: Catalogue) {
    this.#parts = parts;
    this.#catalogue = catalogue;
  }

  async make(
    disk: Disk,
    pool: Pool,
    from: { image: Image; pool: Pool } | null,
    o: WorkOptions,
  ): Promise<void> {
    this.#check(disk, pool, from);
    if (pool.kind === 'thin') return this.#makeThin(disk, pool, from, o);
    await this.#parts.turns.take(`disk ${disk.id}`, async () => {
      const space = await this.#parts.guard.require(pool);
      const path = diskPath(disk, pool);
      if (await this.#parts.files.stat(path)) return;
      if (from && disk.source.kind === 'image' && disk.source.mode === 'moved')
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
      const image = from && {
        ...(await this.#catalogue.here(from.image, from.pool, pool, o)),
        name: from.image.name,
      };
      const temp = tempPath(pool, 'disks', disk.id, this.#parts.worker);
      await building(this.#parts, temp, pool, `Disk "${disk.name}"`, o.signal, async (signal) => {
        if (image)
          await this.#fill(disk, pool, image, temp, {
            signal,
            progress: (share, step) => o.progress(share, step),
          });
        else await this.#parts.qemuImg.create(disk.format, temp, disk.sizeBytes, null, signal);
        await this.#parts.files.publish(temp, path);
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

  #check(disk: Disk, pool: Pool, from: { image: Image; pool: Pool } | null): void {
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
    if (
      pool.kind === 'thin' &&
      (disk.format !== 'raw' || (disk.source.kind === 'image' && disk.source.mode === 'linked'))
    )
      throw new FlotillaError('bad-input', `${what}: disks of a thin pool are raw volumes of their own`, {
        hint: 'Use format raw and a full copy; it takes only what is really written.',
      });
    if (
      (disk.source.kind === 'image') !== (from !== null) ||
      (from && disk.source.kind === 'image' && from.image.id !== disk.source.image)
    )
      throw new FlotillaError('internal', `${what} was given an image it does not come from`, {
        hint: 'This is a defect: please report it.',
      });
    if (!from || disk.source.kind !== 'image') return;
    const bad = (why: string, hint: string) => new FlotillaError('bad-input', `${what}: ${why}`, { hint });
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
    if (disk.source.mode !== 'linked') return;
    if (disk.format !== 'qcow2')
      throw bad('a linked disk must be qcow2', 'Use format qcow2, or a full copy.');
    if (from.pool.id !== pool.id)
      throw bad('a linked disk must be in its image’s pool', `Use pool "${from.pool.name}", or a full copy.`);
  }

  /** A volume of its own: tagged as half-made until all of the image is on it. */
  async #makeThin(
    disk: Disk,
    pool: Pool,
    from: { image: Image; pool: Pool } | null,
    o: WorkOptions,
  ): Promise<void> {
    const { thin, turns } = this.#parts;
    await turns.take(`disk ${disk.id}`, async () => {
      const image = from && (await this.#catalogue.here(from.image, from.pool, pool, o));
      const path = await thin.make(disk, pool);
      if (path === null) return;
      if (image) await this.#onto(disk, image, path, o);
      await thin.done(disk, pool);
      o.progress(1, 'ready');
    });
  }

  /** Writes the image to a device that reads as zeros, or as an earlier try has left it. */
  async fillThin(
    disk: Disk,
    pool: Pool,
    from: { image: Image; pool: Pool },
    device: string,
    o: WorkOptions,
  ): Promise<void> {
    await this.#parts.turns.take(`disk ${disk.id}`, async () =>
      this.#onto(disk, await this.#catalogue.here(from.image, from.pool, pool, o), device, o),
    );
  }

  async #onto(
    disk: Disk,
    image: { path: string; format: Image['format'] },
    path: string,
    o: WorkOptions,
  ): Promise<void> {
    const { qemuImg, files } = this.#parts;
    const virtual = await virtualSizeOf(files, image.format, image.path, `Disk "${disk.name}"`);
    if (virtual > disk.sizeBytes)
      throw new FlotillaError(
        'bad-input',
        `Disk "${disk.name}": ${disk.sizeBytes} bytes are too few for its image of ${virtual}`,
        { hint: `Give it at least ${virtual} bytes.` },
      );
    await qemuImg.convert(
      image,
      { format: 'raw', path },
      {
        signal: o.signal,
        progress: (share) => o.progress(share * 0.95, 'copying'),
        onto: 'zeros',
      },
    );
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

  /** Writes the image's data, and the disk's own size, to `temp`. */
  async #fill(
    disk: Disk,
    pool: Pool,
    image: { path: string; format: Image['format']; name: string },
    temp: string,
    o: WorkOptions,
  ): Promise<void> {
    const linked = disk.source.kind === 'image' && disk.source.mode === 'linked';
    const virtual = await virtualSizeOf(this.#parts.files, image.format, image.path, `Image "${image.name}"`);
    if (virtual > disk.sizeBytes) {
      throw new FlotillaError(
        'bad-input',
        `Disk "${disk.name}": ${disk.sizeBytes} bytes are too few for image "${image.name}" of ${virtual}`,
        {
          hint: `Give it at least ${virtual} bytes.`,
        },
      );
    }
    if (linked) return this.#parts.qemuImg.create('qcow2', temp, disk.sizeBytes, image, o.signal);
    const copied = disk.format === image.format && (await this.#reflink(image.path, temp, o.signal));
    if (!copied) {
      const stat = await this.#parts.files.stat(image.path);
      needSpace(`Disk "${disk.name}"`, pool, await this.#parts.guard.space(pool), stat?.allocatedBytes ?? 0);
      await this.#parts.qemuImg.convert(
        image,
        { format: disk.format, path: temp },
        {
          signal: o.signal,
          progress: (share) => o.progress(share * 0.95, 'copying'),
        },
      );
    }
    if (virtual < disk.sizeBytes)
      await this.#parts.qemuImg.resize(disk.format, temp, disk.sizeBytes, o.signal);
  }

  /** Shares the blocks where the file system can: at once and without space. @returns whether it could */
  async #reflink(from: string, to: string, signal: AbortSignal): Promise<boolean> {
    const r = await this.#parts.run('cp', ['--reflink=always', '--', from, to], {
      signal,
      deadlineMs: 60_000,
      codes: [1],
    });
    if (r.code !== 0) await this.#parts.files.remove(to);
    return r.code === 0;
  }
}
