import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import type { Disk } from '../../core/domain/disk.js';
import {
  imageFormatSchema,
  virtualSizeBytesMax,
  type Image,
  type ImageFormat,
} from '../../core/domain/image.js';
import type { PoolUse } from '../../core/domain/node.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import type { Volumes as VolumesContract, WorkOptions } from '../env.js';
import { Files, isFull } from './files.js';
import { PoolGuard, type Space } from './guard.js';
import { headBytes, judgeHeader, readQcow2Header, tailBytes } from './header.js';
import { Incoming } from './incoming.js';
import {
  diskFormats,
  diskPath,
  folderPath,
  folders,
  imageFactsPath,
  imageFormats,
  imagePath,
  incomingPath,
  parseFinalName,
  parseTempName,
  tempPath,
  type Worker,
} from './layout.js';
import { QemuImg } from './qemu-img.js';
import { Source, type SourceOptions } from './source.js';
import { runTool, type Tool } from './tool.js';
import { Turns } from './turn.js';

/** An image's file on its way from another node. */
export interface FetchedImage {
  readonly format: Image['format'];
  /** Of the whole file, whatever the offset. */
  readonly sizeBytes: number;
  readonly virtualSizeBytes: number;
  /** SHA-256 of the stored file, hex. */
  readonly storedSha256: string;
  readonly data: AsyncIterable<Uint8Array>;
}

/** Gets the file of an image from the node that has it, from `offset` on. */
export interface FetchImage {
  (image: Image, offset: number, signal: AbortSignal): Promise<FetchedImage>;
}

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
}

/** What stands beside an image, and what a peer that fetches it is told. */
const imageFactsSchema = z.object({
  format: imageFormatSchema.extract(['raw', 'qcow2', 'iso']),
  sizeBytes: z.number().int().nonnegative(),
  virtualSizeBytes: z.number().int().nonnegative(),
  /** Of the bytes as they came in. */
  sha256: z.string().nullable(),
  /** Of the file as it is stored: what a fetching node compares. */
  storedSha256: z.string(),
  /** A copy of another node's image: may be removed and fetched again. */
  cached: z.boolean(),
});
export type ImageFacts = z.output<typeof imageFactsSchema>;

/** How often a growing file's pool is looked at, ms: at 2 GB/s it loses 1 GB between two looks at most. */
const watchEveryMs = 500;
/** A pool on a busy server answers within this, ms. */
const probeMsDefault = 5_000;
/** Hashing at 20 MB/s, the slowest drive we met, takes so long per byte, ms; plus a base. */
const hashMsPerByte = 1 / 20_000;
const attemptsMax = 5;

/** The pools of this node as directories of files. @see layout.ts for what stands where */
export class Volumes implements VolumesContract {
  readonly #worker: Worker;
  readonly #files: Files;
  readonly #run: Tool;
  readonly #guard: PoolGuard;
  readonly #qemuImg: QemuImg;
  readonly #incoming: Incoming;
  readonly #fetchImage: FetchImage;
  readonly #turns = new Turns();

  constructor(o: VolumesOptions) {
    this.#worker = { node: o.node, boot: o.boot };
    this.#files = o.files ?? new Files();
    this.#run = o.run ?? runTool;
    this.#guard = new PoolGuard({
      files: this.#files,
      run: this.#run,
      worker: this.#worker,
      stateDir: o.stateDir,
      probeMs: o.probeMs ?? probeMsDefault,
      sharedNeedsMount: o.sharedNeedsMount ?? true,
    });
    this.#qemuImg = new QemuImg(this.#run);
    this.#incoming = new Incoming(this.#files, this.#guard, this.#worker, new Source(o.source));
    this.#fetchImage = o.fetchImage;
  }

  probe(pool: Pool): Promise<PoolUse> {
    return this.#guard.probe(pool);
  }

  diskPath(disk: Pick<Disk, 'id' | 'format'>, pool: Pool): string {
    return diskPath(disk, pool);
  }

  imagePath(image: Pick<Image, 'id' | 'format'>, pool: Pool): string {
    return imagePath(image, pool);
  }

  async makeDisk(
    disk: Disk,
    pool: Pool,
    from: { image: Image; pool: Pool } | null,
    o: WorkOptions,
  ): Promise<void> {
    this.#checkDisk(disk, pool, from);
    await this.#turns.take(`disk ${disk.id}`, async () => {
      const space = await this.#guard.require(pool);
      const path = diskPath(disk, pool);
      if (await this.#files.stat(path)) return;
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
        ...(await this.#imageHere(from.image, from.pool, pool, o)),
        name: from.image.name,
      };
      const temp = tempPath(pool, 'disks', disk.id, this.#worker);
      await this.#building(temp, pool, `Disk "${disk.name}"`, o.signal, async (signal) => {
        if (image)
          await this.#fill(disk, pool, image, temp, {
            signal,
            progress: (share, step) => o.progress(share, step),
          });
        else await this.#qemuImg.create(disk.format, temp, disk.sizeBytes, null, signal);
        await this.#files.publish(temp, path);
      });
      o.progress(1, 'ready');
    });
  }

  async growDisk(disk: Disk, pool: Pool): Promise<void> {
    await this.#turns.take(`disk ${disk.id}`, async () => {
      const space = await this.#guard.require(pool);
      const path = diskPath(disk, pool);
      const now = await this.#virtualSize(disk.format, path, `Disk "${disk.name}"`);
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
      await this.#qemuImg.resize(disk.format, path, disk.sizeBytes);
      await this.#files.sync(path);
    });
  }

  async removeDisk(disk: Disk, pool: Pool): Promise<void> {
    await this.#turns.take(`disk ${disk.id}`, async () => {
      // On a pool that is not there nothing can be said to be removed.
      await this.#guard.require(pool);
      for (const format of diskFormats) await this.#files.remove(diskPath({ id: disk.id, format }, pool));
      await this.#files.syncDir(folderPath(pool, 'disks'));
    });
  }

  async importImage(
    image: Image,
    pool: Pool,
    o: WorkOptions,
  ): Promise<Pick<Image, 'format' | 'sizeBytes' | 'virtualSizeBytes' | 'sha256'>> {
    return this.#turns.take(`image ${image.id}`, async () => {
      await this.#guard.require(pool);
      const done = await this.imageFacts(image.id, pool);
      if (done) {
        await this.#incoming.remove(image.id, pool);
        return outside(done);
      }
      // Which part of the whole each step is, by time on an ordinary drive.
      const part = (from: number, to: number, step: string) => (share: number, text?: string) =>
        o.progress(from + (to - from) * share, text ?? step);
      const fetched = image.source !== null;
      if (image.source !== null)
        await this.#incoming.download(image, pool, image.source, {
          signal: o.signal,
          progress: part(0, 0.5, 'fetching'),
        });
      const base = fetched ? 0.5 : 0;
      const path = incomingPath(image.id, pool);
      const cameBytes = await this.#arrived(image, pool);
      o.progress(base, 'computing the checksum');
      try {
        const sha256 = await this.#sha256(path, cameBytes, o.signal);
        if (image.sha256 !== null && image.sha256 !== sha256) {
          throw new FlotillaError(
            'checksum-mismatch',
            `Image "${image.name}" came with checksum ${sha256}, not ${image.sha256}`,
            {
              hint: 'It changed on the way, or the checksum is of another file. Create the image anew.',
            },
          );
        }
        o.progress(base + 0.1, 'looking into it');
        const judged = await this.#judge(image, pool, path, cameBytes, o.signal);
        const facts = await this.#store(image, pool, judged, sha256, {
          signal: o.signal,
          progress: part(base + 0.2, 0.9, 'converting'),
        });
        await this.#incoming.remove(image.id, pool);
        o.progress(1, 'ready');
        return outside(facts);
      } catch (e) {
        // What is refused for what it is will be refused again: it need not take up space until someone notices.
        if (e instanceof FlotillaError && (e.code === 'image-refused' || e.code === 'checksum-mismatch'))
          await this.#incoming.remove(image.id, pool);
        throw e;
      }
    });
  }

  async removeImage(image: Image, pool: Pool): Promise<void> {
    await this.#incoming.remove(image.id, pool);
    await this.#turns.take(`image ${image.id}`, async () => {
      await this.#guard.require(pool);
      const users = await this.#linkedTo(image.id, pool);
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
      await this.#dropImage(image.id, pool);
      await this.#incoming.remove(image.id, pool);
    });
  }

  async uploadOffset(image: Image, pool: Pool): Promise<number> {
    await this.#guard.require(pool);
    return this.#incoming.offset(image.id, pool);
  }

  async upload(image: Image, pool: Pool, offset: number, data: AsyncIterable<Uint8Array>): Promise<number> {
    await this.#guard.require(pool);
    return this.#incoming.append(image, pool, offset, data);
  }

  /** Facts of a finished image of this directory; null: not here, or not finished. */
  async imageFacts(imageId: string, pool: Pool): Promise<ImageFacts | null> {
    const text = await this.#files.readText(imageFactsPath(imageId, pool));
    if (text === null) return null;
    let facts: ImageFacts;
    try {
      facts = imageFactsSchema.parse(JSON.parse(text));
    } catch {
      return null;
    }
    const stat = await this.#files.stat(imagePath({ id: imageId, format: facts.format }, pool));
    return stat?.sizeBytes === facts.sizeBytes ? facts : null;
  }

  /**
   * Makes sure that an image's file is on this node, fetching it from its own node where needed: for CD drives.
   *
   * @returns its path
   */
  async haveImage(image: Image, pool: Pool, o: WorkOptions): Promise<string> {
    await this.#guard.require(pool);
    return (await this.#imageHere(image, pool, pool, o)).path;
  }

  async sweep(
    pool: Pool,
    known: { disks: ReadonlySet<string>; images: ReadonlySet<string> },
  ): Promise<readonly string[]> {
    await this.#guard.require(pool);
    const removed: string[] = [];
    const remove = async (path: string) => {
      if (await this.#files.remove(path)) removed.push(path);
    };
    for (const folder of folders) {
      for (const name of await this.#files.list(folderPath(pool, folder))) {
        const temp = parseTempName(name);
        if (temp && temp.node === this.#worker.node && temp.boot !== this.#worker.boot)
          await remove(`${folderPath(pool, folder)}/${name}`);
      }
    }
    await this.#sweepIncoming(pool, known.images, remove);
    await this.#sweepImages(pool, known.images, removed);
    if (removed.length > 0) for (const folder of folders) await this.#files.syncDir(folderPath(pool, folder));
    return removed;
  }

  /** Uploads of images that are no more, which an earlier boot of this node received. */
  async #sweepIncoming(
    pool: Pool,
    known: ReadonlySet<string>,
    remove: (path: string) => Promise<void>,
  ): Promise<void> {
    for (const name of await this.#files.list(folderPath(pool, 'incoming'))) {
      const id = parseFinalName(name)?.id;
      if (id === undefined || known.has(id)) continue;
      const facts = await this.#incoming.facts(id, pool);
      // Without facts a file is either about to get them, or of no use: on a shared pool its maker cannot be told.
      const mine = facts
        ? facts.node === this.#worker.node && facts.boot !== this.#worker.boot
        : pool.kind === 'local';
      if (!mine || (facts === null && this.#incoming.isWriting(id, pool))) continue;
      await remove(`${folderPath(pool, 'incoming')}/${name}`);
    }
  }

  /** Copies of other nodes' images that are no more, and facts without their file. Originals are never swept. */
  async #sweepImages(pool: Pool, known: ReadonlySet<string>, removed: string[]): Promise<void> {
    for (const name of await this.#files.list(folderPath(pool, 'images'))) {
      const final = parseFinalName(name);
      if (!final || final.ext !== 'json' || known.has(final.id)) continue;
      await this.#turns.take(`image ${final.id}`, async () => {
        const facts = await this.imageFacts(final.id, pool);
        if (facts && (!facts.cached || (await this.#linkedTo(final.id, pool)).length > 0)) return;
        if (facts) await this.#dropImage(final.id, pool);
        else if (pool.kind === 'local') await this.#files.remove(imageFactsPath(final.id, pool));
        else return;
        removed.push(`${folderPath(pool, 'images')}/${name}`);
      });
    }
  }

  #checkDisk(disk: Disk, pool: Pool, from: { image: Image; pool: Pool } | null): void {
    const what = `Disk "${disk.name}"`;
    if (pool.kind === 'local' && disk.node !== this.#worker.node) {
      throw new FlotillaError(
        'not-owner',
        `${what} belongs to node ${disk.node ?? 'none'}, not ${this.#worker.node}`,
        {
          hint: 'A disk in a local pool is made by its own node.',
        },
      );
    }
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
    if (disk.source.mode !== 'linked') return;
    if (disk.format !== 'qcow2')
      throw bad('a linked disk must be qcow2', 'Use format qcow2, or a full copy.');
    if (from.pool.id !== pool.id)
      throw bad('a linked disk must be in its image’s pool', `Use pool "${from.pool.name}", or a full copy.`);
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
    const virtual = await this.#virtualSize(image.format, image.path, `Image "${image.name}"`);
    if (virtual > disk.sizeBytes) {
      throw new FlotillaError(
        'bad-input',
        `Disk "${disk.name}": ${disk.sizeBytes} bytes are too few for image "${image.name}" of ${virtual}`,
        {
          hint: `Give it at least ${virtual} bytes.`,
        },
      );
    }
    if (linked) return this.#qemuImg.create('qcow2', temp, disk.sizeBytes, image, o.signal);
    const copied = disk.format === image.format && (await this.#reflink(image.path, temp, o.signal));
    if (!copied) {
      const stat = await this.#files.stat(image.path);
      needSpace(`Disk "${disk.name}"`, pool, await this.#guard.space(pool), stat?.allocatedBytes ?? 0);
      await this.#qemuImg.convert(
        image,
        { format: disk.format, path: temp },
        {
          signal: o.signal,
          progress: (share) => o.progress(share * 0.95, 'copying'),
        },
      );
    }
    if (virtual < disk.sizeBytes) await this.#qemuImg.resize(disk.format, temp, disk.sizeBytes, o.signal);
  }

  /** Shares the blocks where the file system can: at once and without space. @returns whether it could */
  async #reflink(from: string, to: string, signal: AbortSignal): Promise<boolean> {
    const r = await this.#run('cp', ['--reflink=always', '--', from, to], {
      signal,
      deadlineMs: 60_000,
      codes: [1],
    });
    if (r.code !== 0) await this.#files.remove(to);
    return r.code === 0;
  }

  /**
   * Runs a step that fills `temp`. While it runs, the pool is watched so that it is never filled to the brim; whatever
   * way it fails, the file is gone afterwards.
   */
  async #building<T>(
    temp: string,
    pool: Pool,
    what: string,
    signal: AbortSignal,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const stop = new AbortController();
    let full: FlotillaError | null = null;
    let looking = false;
    const watch = setInterval(() => {
      if (looking) return;
      looking = true;
      this.#guard
        .space(pool)
        .then((space) => {
          if (space.usableBytes > 0 || full) return;
          full = outOfSpace(what, pool, space, 1);
          stop.abort(full);
        })
        .catch(() => undefined)
        .finally(() => (looking = false));
    }, watchEveryMs);
    try {
      signal.throwIfAborted();
      await this.#files.remove(temp);
      return await work(AbortSignal.any([signal, stop.signal]));
    } catch (e) {
      await this.#files.remove(temp).catch(() => undefined);
      if (full) throw full as FlotillaError;
      if (signal.aborted && !(e instanceof FlotillaError && e.code === 'cancelled'))
        throw new FlotillaError('cancelled', `${what} was cancelled`, {
          hint: 'Nothing half-made was kept.',
          cause: e,
        });
      if (isFull(e) || (e instanceof FlotillaError && e.code === 'no-space')) {
        const space = await this.#guard.space(pool).catch(() => null);
        throw space ? outOfSpace(what, pool, space, 1, e) : e;
      }
      throw e;
    } finally {
      clearInterval(watch);
    }
  }

  /** @returns bytes of the whole file @throws FlotillaError `not-found`, `offset-mismatch` while it is not whole */
  async #arrived(image: Image, pool: Pool): Promise<number> {
    const here = await this.#incoming.offset(image.id, pool);
    const stat = await this.#files.stat(incomingPath(image.id, pool));
    if (!stat || here === 0) {
      throw new FlotillaError('not-found', `Nothing of image "${image.name}" has been uploaded`, {
        hint: 'Upload it, or give a source.',
      });
    }
    if (here < stat.sizeBytes || (image.expectedBytes !== null && here !== image.expectedBytes)) {
      throw new FlotillaError(
        'offset-mismatch',
        `Image "${image.name}": ${here} of ${image.expectedBytes ?? stat.sizeBytes} bytes are here`,
        {
          hint: `Go on with the upload from byte ${here}.`,
          details: { offset: here },
        },
      );
    }
    return here;
  }

  async #sha256(path: string, sizeBytes: number, signal: AbortSignal): Promise<string> {
    const r = await this.#run('sha256sum', ['--binary', '--', path], {
      signal,
      deadlineMs: 60_000 + sizeBytes * hashMsPerByte,
    });
    return z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .parse(r.stdout.slice(0, 64));
  }

  /** Whether what came may enter. Our own reading of the header comes first: nothing unjudged is given to QEMU. */
  async #judge(
    image: Image,
    pool: Pool,
    path: string,
    sizeBytes: number,
    signal: AbortSignal,
  ): Promise<{ format: ImageFormat; virtualSizeBytes: number }> {
    const refuse = (reason: string, hint: string, cause?: unknown) =>
      new FlotillaError('image-refused', `Image "${image.name}" is not taken: ${reason}`, { hint, cause });
    const head = await this.#files.readAt(path, 0, headBytes);
    const tail = await this.#files.readAt(path, Math.max(0, sizeBytes - tailBytes), tailBytes);
    const verdict = judgeHeader({ head, tail, sizeBytes });
    if (!verdict.ok) throw refuse(verdict.reason, verdict.hint);
    const { format } = verdict;
    let virtualSizeBytes = verdict.virtualSizeBytes ?? 0;
    if (format !== 'iso' && format !== 'raw') {
      const info = await this.#qemuImg.info(format, path, signal).catch((e: unknown) => {
        if (e instanceof FlotillaError && e.code === 'cancelled') throw e;
        throw refuse(
          'qemu-img cannot read it',
          'It is damaged, cut off, or of a kind QEMU does not know.',
          e,
        );
      });
      const data = info['format-specific']?.data ?? {};
      if (
        info['backing-filename'] !== undefined ||
        info['full-backing-filename'] !== undefined ||
        'data-file' in data
      )
        throw refuse('it needs another file', 'Flatten it first: qemu-img convert -O qcow2 IMAGE NEW.qcow2');
      if (info.encrypted)
        throw refuse('it is encrypted', 'Send it decrypted: Flotilla could not start a VM from it.');
      virtualSizeBytes = info['virtual-size'];
      const fault = format === 'vpc' ? null : await this.#qemuImg.check(format, path, signal);
      if (fault !== null)
        throw refuse(
          `it is damaged or cut off: ${fault}`,
          'Get the file again and compare its checksum with the publisher’s.',
        );
    }
    if (virtualSizeBytes <= 0 || virtualSizeBytes > virtualSizeBytesMax)
      throw refuse(
        `its disk would have ${virtualSizeBytes} bytes`,
        `Flotilla takes disks up to ${virtualSizeBytesMax} bytes.`,
      );
    const space = await this.#guard.space(pool);
    if (virtualSizeBytes > space.totalBytes) {
      throw new FlotillaError(
        'no-space',
        `Image "${image.name}" claims a disk of ${virtualSizeBytes} bytes, pool "${pool.name}" has ${space.totalBytes} in all`,
        { hint: 'Choose a larger pool, or shrink the image.', details: { virtualSizeBytes, ...space } },
      );
    }
    return { format, virtualSizeBytes };
  }

  /** Puts what was judged into the catalogue: an ISO as it is, all else as a standalone qcow2 written by our own tool. */
  async #store(
    image: Image,
    pool: Pool,
    judged: { format: ImageFormat; virtualSizeBytes: number },
    sha256: string,
    o: WorkOptions,
  ): Promise<ImageFacts> {
    const came = incomingPath(image.id, pool);
    if (judged.format === 'iso') {
      const facts = {
        format: 'iso',
        sizeBytes: judged.virtualSizeBytes,
        virtualSizeBytes: judged.virtualSizeBytes,
        sha256,
        storedSha256: sha256,
        cached: false,
      } as const;
      await this.#publishImage(image.id, pool, came, facts);
      return facts;
    }
    const temp = tempPath(pool, 'images', image.id, this.#worker);
    return this.#building(temp, pool, `Image "${image.name}"`, o.signal, async (signal) => {
      await this.#qemuImg
        .convert(
          { format: judged.format, path: came },
          { format: 'qcow2', path: temp },
          { signal, hostile: true, progress: (share) => o.progress(share, 'converting') },
        )
        .catch((e: unknown) => {
          if (!(e instanceof FlotillaError) || e.code !== 'tool-failed') throw e;
          throw new FlotillaError(
            'image-refused',
            `Image "${image.name}" is not taken: it cannot be read to its end`,
            {
              hint: 'It is damaged or cut off: get it again and compare its checksum with the publisher’s.',
              cause: e,
            },
          );
        });
      const header = readQcow2Header(await this.#files.readAt(temp, 0, headBytes));
      if (!header || header.backing !== null || header.dataFile)
        throw new FlotillaError('internal', `Image "${image.name}" was not converted to a file of its own`, {
          hint: 'This is a defect: please report it.',
        });
      const sizeBytes = (await this.#files.stat(temp))?.sizeBytes ?? 0;
      o.progress(1, 'computing the stored checksum');
      const storedSha256 = await this.#sha256(temp, sizeBytes, signal);
      const facts = {
        format: 'qcow2',
        sizeBytes,
        virtualSizeBytes: header.virtualSizeBytes,
        sha256,
        storedSha256,
        cached: false,
      } as const;
      await this.#publishImage(image.id, pool, temp, facts);
      return facts;
    });
  }

  /** Facts first: an image file that is there always has them. */
  async #publishImage(id: string, pool: Pool, from: string, facts: ImageFacts): Promise<void> {
    const factsTemp = tempPath(pool, 'images', id, this.#worker, 'facts');
    await this.#files.writeText(factsTemp, imageFactsPath(id, pool), `${JSON.stringify(facts)}\n`);
    await this.#files.publish(from, imagePath({ id, format: facts.format }, pool));
  }

  async #dropImage(id: string, pool: Pool): Promise<void> {
    // The file first: facts without a file are harmless, a file without facts would be a riddle.
    for (const format of imageFormats) await this.#files.remove(imagePath({ id, format }, pool));
    await this.#files.remove(imageFactsPath(id, pool));
    await this.#files.syncDir(folderPath(pool, 'images'));
  }

  /** The image's file on this node: in its own pool, or a copy fetched from its node. */
  async #imageHere(
    image: Image,
    imagePool: Pool,
    diskPool: Pool,
    o: WorkOptions,
  ): Promise<{ path: string; format: Image['format'] }> {
    const pool = poolHasNode(imagePool, this.#worker.node) ? imagePool : diskPool;
    return this.#turns.take(`image ${image.id}`, async () => {
      if (pool.id !== diskPool.id) await this.#guard.require(pool);
      const facts = await this.imageFacts(image.id, pool);
      if (facts)
        return { path: imagePath({ id: image.id, format: facts.format }, pool), format: facts.format };
      const elsewhere = imagePool.kind === 'local' && image.node !== null && image.node !== this.#worker.node;
      if (!elsewhere && pool.id === imagePool.id) {
        const path = imagePath(image, pool);
        if (await this.#files.stat(path)) return { path, format: image.format };
        throw new FlotillaError(
          'not-found',
          `The file of image "${image.name}" is not in pool "${pool.name}"`,
          {
            hint: 'It was removed by hand, or the pool is not the one it was: import the image again.',
          },
        );
      }
      return this.#fetch(image, pool, o);
    });
  }

  async #fetch(image: Image, pool: Pool, o: WorkOptions): Promise<{ path: string; format: Image['format'] }> {
    const what = `Image "${image.name}"`;
    const temp = tempPath(pool, 'images', image.id, this.#worker);
    return this.#building(temp, pool, what, o.signal, async (signal) => {
      let at = 0;
      let failures = 0;
      for (;;) {
        const before = at;
        try {
          const got = await this.#fetchImage(image, at, signal);
          needSpace(what, pool, await this.#guard.space(pool), got.sizeBytes - at);
          at = await this.#receive(temp, at, got, signal, (bytes) => {
            at = bytes;
            o.progress(
              Math.min(1, bytes / Math.max(1, got.sizeBytes)),
              `fetching from ${image.node ?? 'its node'}`,
            );
          });
          if (at < got.sizeBytes)
            throw new FlotillaError('node-unreachable', `${what}: ${at} of ${got.sizeBytes} bytes came`, {
              hint: 'It is tried again.',
            });
          const sum = await this.#sha256(temp, at, signal);
          if (sum !== got.storedSha256 || at !== got.sizeBytes) {
            throw new FlotillaError(
              'checksum-mismatch',
              `${what} came from ${image.node ?? 'its node'} with checksum ${sum}, not ${got.storedSha256}`,
              {
                hint: 'Its file there is damaged, or it changed on the way: try again, then import it anew.',
              },
            );
          }
          const facts: ImageFacts = {
            format: got.format,
            sizeBytes: at,
            virtualSizeBytes: got.virtualSizeBytes,
            sha256: image.sha256,
            storedSha256: sum,
            cached: true,
          };
          await this.#publishImage(image.id, pool, temp, facts);
          return { path: imagePath({ id: image.id, format: got.format }, pool), format: got.format };
        } catch (e) {
          const passing =
            !(e instanceof FlotillaError) || e.code === 'node-unreachable' || e.code === 'timeout';
          failures = at > before ? 1 : failures + 1;
          if (signal.aborted || !passing || isFull(e) || failures >= attemptsMax) throw e;
        }
      }
    });
  }

  async #receive(
    temp: string,
    offset: number,
    got: FetchedImage,
    signal: AbortSignal,
    moved: (bytes: number) => void,
  ): Promise<number> {
    const handle = await this.#files.calls.open(temp, offset === 0 ? 'w' : 'r+', 0o600);
    let at = offset;
    try {
      for await (const chunk of got.data) {
        signal.throwIfAborted();
        if (at + chunk.length > got.sizeBytes)
          throw new FlotillaError(
            'checksum-mismatch',
            `More came than the ${got.sizeBytes} bytes announced`,
            { hint: 'Import the image anew.' },
          );
        for (let p = 0; p < chunk.length;) {
          const { bytesWritten } = await handle.write(chunk, p, chunk.length - p, at);
          p += bytesWritten;
          at += bytesWritten;
        }
        moved(at);
      }
      return at;
    } finally {
      await handle.close();
    }
  }

  /** Disks of this pool whose backing file is that image. */
  async #linkedTo(imageId: string, pool: Pool): Promise<string[]> {
    const users: string[] = [];
    const bases = new Set<string>(imageFormats.map((format) => imagePath({ id: imageId, format }, pool)));
    for (const name of await this.#files.list(folderPath(pool, 'disks'))) {
      const final = parseFinalName(name);
      if (final?.ext !== 'qcow2' && !parseTempName(name)) continue;
      const head = await this.#files
        .readAt(`${folderPath(pool, 'disks')}/${name}`, 0, headBytes)
        .catch(() => Buffer.alloc(0));
      const backing = readQcow2Header(head)?.backing;
      if (backing !== undefined && backing !== null && bases.has(backing)) users.push(final?.id ?? name);
    }
    return users;
  }

  async #virtualSize(format: string, path: string, what: string): Promise<number> {
    const stat = await this.#files.stat(path);
    if (!stat) {
      throw new FlotillaError('not-found', `The file of ${what} is not there`, {
        hint: 'It was removed by hand, or the pool is not the one it was.',
      });
    }
    if (format !== 'qcow2') return stat.sizeBytes;
    const header = readQcow2Header(await this.#files.readAt(path, 0, headBytes));
    if (!header)
      throw new FlotillaError('tool-failed', `${what} is no qcow2 file`, {
        hint: 'It was overwritten by hand.',
      });
    return header.virtualSizeBytes;
  }
}

const outside = (f: ImageFacts): Pick<Image, 'format' | 'sizeBytes' | 'virtualSizeBytes' | 'sha256'> => ({
  format: f.format,
  sizeBytes: f.sizeBytes,
  virtualSizeBytes: f.virtualSizeBytes,
  sha256: f.sha256,
});

function needSpace(what: string, pool: Pool, space: Space, bytes: number): void {
  if (bytes > space.usableBytes) throw outOfSpace(what, pool, space, bytes);
}

function outOfSpace(what: string, pool: Pool, space: Space, bytes: number, cause?: unknown): FlotillaError {
  return new FlotillaError(
    'no-space',
    `${what} does not fit into pool "${pool.name}": ${bytes} bytes more wanted, ${space.usableBytes} of ${space.totalBytes} may be used`,
    {
      hint: `Make room or choose another pool; ${pool.reservePct} % of it are kept free. Nothing half-made was kept.`,
      details: { neededBytes: bytes, ...space },
      cause,
    },
  );
}
