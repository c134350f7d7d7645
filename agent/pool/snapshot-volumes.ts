import { FlotillaError } from '../../core/domain/error.js';
import { isLinked, type Disk } from '../../core/domain/disk.js';
import type { Pool } from '../../core/domain/pool.js';
import type { SnapshotDisk } from '../../core/domain/vm-snapshot.js';
import type { WorkOptions } from '../env.js';
import { building, needSpace } from './building.js';
import { linkedFiles } from './catalogue.js';
import { diskPath, folderPath, snapshotPath, tempPath } from './layout.js';
import type { Parts } from './parts.js';

/** Sharing blocks writes metadata only, ms. */
const reflinkMs = 60_000;

/** Disks as they were: each a volume of its own, that needs nothing of the disk it was taken of. */
export class SnapshotVolumes {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async take(disk: Disk, pool: Pool, volume: SnapshotDisk, o: WorkOptions): Promise<number> {
    const { thin, turns, guard, files, qemuImg } = this.#parts;
    return turns.take(`disk ${disk.id}`, async () => {
      if (pool.kind === 'thin') return thin.snapshot(disk, pool, volume);
      await guard.require(pool);
      const path = snapshotPath(volume, pool);
      const done = await files.stat(path);
      if (done !== null) return done.allocatedBytes;
      const from = diskPath(disk, pool);
      await files.makeDir(folderPath(pool, 'snapshots'));
      const temp = this.#temp(volume, pool);
      const what = `Snapshot of disk "${disk.name}"`;
      await building(this.#parts, temp, pool, what, o.signal, async (signal) => {
        // A file over another would need that for ever.
        if (isLinked(disk) || !(await reflink(this.#parts, from, temp, signal))) {
          const bytes = (await files.stat(from))?.allocatedBytes ?? 0;
          needSpace(what, pool, await guard.space(pool), bytes);
          await qemuImg.convert(
            { format: disk.format, path: from },
            { format: volume.format, path: temp },
            { signal, progress: (share) => o.progress(share * 0.95, 'copying') },
          );
        }
        await files.publish(temp, path);
      });
      return (await files.stat(path))?.allocatedBytes ?? 0;
    });
  }

  async draft(volume: SnapshotDisk, pool: Pool): Promise<string> {
    const { guard, files } = this.#parts;
    await guard.require(pool);
    needSpace(`Snapshot of disk "${volume.name}"`, pool, await guard.space(pool), 1);
    await files.makeDir(folderPath(pool, 'snapshots'));
    const temp = this.#temp(volume, pool);
    await files.remove(temp);
    return temp;
  }

  async keepDraft(volume: SnapshotDisk, pool: Pool): Promise<number> {
    const { files } = this.#parts;
    const path = snapshotPath(volume, pool);
    await files.publish(this.#temp(volume, pool), path);
    return (await files.stat(path))?.allocatedBytes ?? 0;
  }

  async remove(volume: SnapshotDisk, pool: Pool): Promise<void> {
    const { thin, guard, files, turns } = this.#parts;
    if (pool.kind === 'thin') return thin.removeSnapshot(volume, pool);
    await turns.take(`disk ${volume.disk}`, async () => {
      // On a pool that is not there nothing can be said to be removed.
      await guard.require(pool);
      const users = await linkedFiles(files, pool, new Set([snapshotPath(volume, pool)]));
      if (users.length > 0)
        throw new FlotillaError(
          'in-use',
          `The snapshot of disk "${volume.name}" is the base of ${users.length} linked disk(s)`,
          {
            hint: 'It goes when they are deleted.',
            details: { disks: users.slice(0, 20) },
          },
        );
      for (const path of [this.#temp(volume, pool), snapshotPath(volume, pool)]) await files.remove(path);
      if ((await files.stat(folderPath(pool, 'snapshots'))) !== null)
        await files.syncDir(folderPath(pool, 'snapshots'));
    });
  }

  /** Makes it readable. @throws FlotillaError `not-found` */
  async open(
    volume: SnapshotDisk,
    pool: Pool,
  ): Promise<{ path: string; format: 'raw' | 'qcow2'; sizeBytes?: number }> {
    const { thin, guard, files } = this.#parts;
    const { format } = volume;
    if (pool.kind === 'thin') {
      // All that its machine saw, which is more than the disk's own size: something may stand at its very end.
      const { path, bytes } = await thin.openSnapshot(volume, pool);
      return { path, format, ...(volume.replicated ? { sizeBytes: bytes } : {}) };
    }
    await guard.require(pool);
    const path = snapshotPath(volume, pool);
    if ((await files.stat(path)) === null)
      throw new FlotillaError(
        'not-found',
        `The snapshot of disk "${volume.name}" is not in pool "${pool.name}"`,
        {
          hint: 'Its file was removed outside of Flotilla. Delete the snapshot.',
        },
      );
    return { path, format };
  }

  #temp(volume: SnapshotDisk, pool: Pool): string {
    return tempPath(pool, 'snapshots', volume.id, this.#parts.worker);
  }
}

/** Shares the blocks where the file system can: at once and without space. @returns whether it could */
export async function reflink(
  { run, files }: Pick<Parts, 'run' | 'files'>,
  from: string,
  to: string,
  signal: AbortSignal,
): Promise<boolean> {
  const r = await run('cp', ['--reflink=always', '--', from, to], {
    signal,
    deadlineMs: reflinkMs,
    codes: [1],
  });
  if (r.code !== 0) await files.remove(to);
  return r.code === 0;
}
