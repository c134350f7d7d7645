import type { Disk } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Takeover } from '../../core/domain/ha.js';
import type { Image } from '../../core/domain/image.js';
import type { PoolUse } from '../../core/domain/node.js';
import type { Pool } from '../../core/domain/pool.js';
import type { SnapshotDisk } from '../../core/domain/vm-snapshot.js';
import type { DiskFrom, VolumeAt, Volumes as VolumesContract, WorkOptions } from '../env.js';
import { PackageWriter } from '../export/package-writer.js';
import { Lvm } from '../lvm/lvm.js';
import { thinPath, ThinPools } from '../lvm/thin.js';
import { Catalogue, type FetchImage } from './catalogue.js';
import { Disks } from './disks.js';
import type { ImageFacts } from './facts.js';
import { Files } from './files.js';
import { PoolGuard } from './guard.js';
import { Importer, type Imported } from './import.js';
import { Incoming } from './incoming.js';
import {
  diskPath,
  folderPath,
  folders,
  imagePath,
  parseFinalName,
  parseTempName,
  takeoverPath,
  tempPath,
  type Worker,
} from './layout.js';
import type { Parts } from './parts.js';
import { QemuImg } from './qemu-img.js';
import { SnapshotVolumes } from './snapshot-volumes.js';
import { Source, type SourceOptions } from './source.js';
import { runTool, type Tool } from './tool.js';
import { Turns } from './turn.js';

export interface VolumesOptions extends Worker {
  /** The agent's own directory: here it keeps which pools it has had. */
  readonly stateDir: string;
  readonly fetchImage: FetchImage;
  /** What a pool has to answer within, ms. */
  readonly probeMs?: number;
  /** @see GuardOptions */
  readonly sharedNeedsMount?: boolean;
  readonly source?: SourceOptions;
  readonly files?: Files;
  readonly run?: Tool;
  /** @see IntakeOptions.program */
  readonly intakeProgram?: string;
}

/** A pool on a busy server answers within this, ms. */
const probeMsDefault = 5_000;

/** The pools of this node as directories of files. @see layout.ts for what stands where */
export class Volumes implements VolumesContract {
  readonly #parts: Parts;
  readonly #incoming: Incoming;
  readonly #catalogue: Catalogue;
  readonly #importer: Importer;
  readonly #disks: Disks;
  readonly #snapshots: SnapshotVolumes;

  constructor(o: VolumesOptions) {
    const worker = { node: o.node, boot: o.boot };
    const files = o.files ?? new Files();
    const run = o.run ?? runTool;
    const guard = new PoolGuard({
      files,
      run,
      worker,
      stateDir: o.stateDir,
      probeMs: o.probeMs ?? probeMsDefault,
      sharedNeedsMount: o.sharedNeedsMount ?? true,
    });
    const turns = new Turns();
    const thin = new ThinPools({
      node: o.node,
      lvm: new Lvm(run),
      turns,
      had: (pool) => guard.hadBefore(pool),
      remember: (pool) => guard.remember(pool),
    });
    this.#parts = { worker, files, run, guard, qemuImg: new QemuImg(run), thin, turns };
    this.#incoming = new Incoming(files, guard, worker, new Source(o.source), o.intakeProgram);
    this.#catalogue = new Catalogue(this.#parts, o.fetchImage);
    this.#importer = new Importer(this.#parts, this.#catalogue, this.#incoming);
    this.#snapshots = new SnapshotVolumes(this.#parts);
    this.#disks = new Disks(this.#parts, this.#catalogue, this.#snapshots);
  }

  probe(pool: Pool): Promise<PoolUse> {
    return pool.kind === 'thin' ? this.#parts.thin.probe(pool) : this.#parts.guard.probe(pool);
  }

  /** Makes a disk's volume appear, which after a boot is switched off. */
  async openDisk(disk: Disk, pool: Pool): Promise<void> {
    if (pool.kind === 'thin') await this.#parts.thin.activate(disk, pool);
  }

  /** This node's copy of a disk that lies on two. @see ThinPools.openCopy */
  openCopy(disk: Disk, pool: Pool, format: (() => Promise<void>) | null): Promise<void> {
    return this.#parts.turns.take(`disk ${disk.id}`, () => this.#parts.thin.openCopy(disk, pool, format));
  }

  fillDisk(disk: Disk, pool: Pool, from: DiskFrom, device: string, o: WorkOptions): Promise<void> {
    return this.#disks.fillThin(disk, pool, from, device, o);
  }

  takeSnapshot(disk: Disk, pool: Pool, volume: SnapshotDisk, o: WorkOptions): Promise<number> {
    return this.#snapshots.take(disk, pool, volume, o);
  }

  snapshotDraft(volume: SnapshotDisk, pool: Pool): Promise<string> {
    return this.#snapshots.draft(volume, pool);
  }

  keepDraft(volume: SnapshotDisk, pool: Pool): Promise<number> {
    return this.#snapshots.keepDraft(volume, pool);
  }

  removeSnapshot(volume: SnapshotDisk, pool: Pool): Promise<void> {
    return this.#snapshots.remove(volume, pool);
  }

  diskPath(disk: Pick<Disk, 'id' | 'format'>, pool: Pool): string {
    return pool.kind === 'thin' ? thinPath(disk, pool) : diskPath(disk, pool);
  }

  imagePath(image: Pick<Image, 'id' | 'format'>, pool: Pool): string {
    return imagePath(image, pool);
  }

  makeDisk(disk: Disk, pool: Pool, from: DiskFrom | null, o: WorkOptions): Promise<void> {
    return this.#disks.make(disk, pool, from, o);
  }

  growDisk(disk: Disk, pool: Pool): Promise<void> {
    return this.#disks.grow(disk, pool);
  }

  fitDisk(disk: Disk, pool: Pool, bytes: number): Promise<void> {
    return this.#disks.fit(disk, pool, bytes);
  }

  removeDisk(disk: Disk, pool: Pool): Promise<void> {
    return this.#disks.remove(disk, pool);
  }

  async copyDisk(from: VolumeAt, to: VolumeAt, o: WorkOptions): Promise<void> {
    const { files, qemuImg } = this.#parts;
    await files.written(to.path, () =>
      qemuImg.convert(from, to, {
        signal: o.signal,
        progress: (share) => o.progress(share),
        onto: 'data',
      }),
    );
  }

  importImage(image: Image, pool: Pool, o: WorkOptions): Promise<Imported> {
    return this.#importer.run(image, pool, o);
  }

  /** Facts of a finished image of this directory; null: not here, or not finished. */
  imageFacts(imageId: string, pool: Pool): Promise<ImageFacts | null> {
    return this.#catalogue.facts(imageId, pool);
  }

  async removeImage(image: Image, pool: Pool): Promise<void> {
    await this.#incoming.remove(image.id, pool);
    await this.#parts.turns.take(`image ${image.id}`, async () => {
      await this.#parts.guard.require(pool);
      const users = await this.#catalogue.linkedTo(image.id, pool);
      if (users.length > 0) {
        throw new FlotillaError(
          'in-use',
          `Image "${image.name}" is the base of ${users.length} linked disk(s)`,
          {
            hint: 'Delete those disks first; a linked disk holds only its changes.',
            details: { disks: users.slice(0, 20) },
          },
        );
      }
      await this.#catalogue.drop(image.id, pool);
      await this.#incoming.remove(image.id, pool);
    });
  }

  async uploadOffset(image: Image, pool: Pool): Promise<number> {
    await this.#parts.guard.require(pool);
    return this.#incoming.offset(image.id, pool);
  }

  async upload(image: Image, pool: Pool, offset: number, data: AsyncIterable<Uint8Array>): Promise<number> {
    await this.#parts.guard.require(pool);
    return this.#incoming.append(image, pool, offset, data);
  }

  /**
   * Makes sure that an image's file is on this node, fetching it from its own node where needed: for CD drives.
   *
   * @returns its path
   */
  async haveImage(image: Image, pool: Pool, o: WorkOptions): Promise<string> {
    await this.#parts.guard.require(pool);
    return (await this.#catalogue.here(image, pool, pool, o)).path;
  }

  /** Packages of VMs in these pools. */
  exports(): PackageWriter {
    const { files, run, qemuImg, guard } = this.#parts;
    return new PackageWriter({
      files,
      run,
      qemuImg,
      open: async (d) => {
        if ('snapshot' in d) return this.#snapshots.open(d.snapshot, d.pool);
        await this.openDisk(d.disk, d.pool);
        return { path: this.diskPath(d.disk, d.pool), format: d.disk.format };
      },
      usableBytes: async (pool) => {
        await guard.require(pool);
        return (await guard.space(pool)).usableBytes;
      },
    });
  }

  async recordTakeover(pool: Pool, t: Takeover): Promise<void> {
    const { guard, files, worker } = this.#parts;
    await guard.require(pool);
    const temp = tempPath(pool, 'takeover', t.vm, worker);
    await files.makeDir(folderPath(pool, 'takeover'));
    await files.writeText(temp, takeoverPath(t.vm, pool), `${JSON.stringify(t)}\n`);
  }

  takeoverPath(vmId: string, pool: Pool): string {
    return takeoverPath(vmId, pool);
  }

  async sweep(
    pool: Pool,
    known: { disks: ReadonlySet<string>; images: ReadonlySet<string> },
  ): Promise<readonly string[]> {
    // Half-made volumes are made anew when their disk is.
    if (pool.kind === 'thin') return [];
    await this.#parts.guard.require(pool);
    const removed: string[] = [];
    const remove = async (path: string) => {
      if (await this.#parts.files.remove(path)) removed.push(path);
    };
    for (const folder of folders) {
      for (const name of await this.#parts.files.list(folderPath(pool, folder))) {
        const temp = parseTempName(name);
        if (temp && temp.node === this.#parts.worker.node && temp.boot !== this.#parts.worker.boot)
          await remove(`${folderPath(pool, folder)}/${name}`);
      }
    }
    await this.#sweepIncoming(pool, known.images, remove);
    await this.#catalogue.sweepCopies(pool, known.images, removed);
    if (removed.length > 0)
      for (const folder of folders) await this.#parts.files.syncDir(folderPath(pool, folder));
    return removed;
  }

  /** Uploads of images that are no more, which an earlier boot of this node received. */
  async #sweepIncoming(
    pool: Pool,
    known: ReadonlySet<string>,
    remove: (path: string) => Promise<void>,
  ): Promise<void> {
    for (const name of await this.#parts.files.list(folderPath(pool, 'incoming'))) {
      const id = parseFinalName(name)?.id;
      if (id === undefined || known.has(id)) continue;
      const facts = await this.#incoming.facts(id, pool);
      // Without facts a file is either about to get them, or of no use: on a shared pool its maker cannot be told.
      const mine = facts
        ? facts.node === this.#parts.worker.node && facts.boot !== this.#parts.worker.boot
        : pool.kind === 'local';
      if (!mine || (facts === null && this.#incoming.isWriting(id, pool))) continue;
      await remove(`${folderPath(pool, 'incoming')}/${name}`);
    }
  }
}
