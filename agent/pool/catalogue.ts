import { FlotillaError } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import type { WorkOptions } from '../env.js';
import { building, needSpace } from './building.js';
import { imageFactsSchema, sha256Of, type ImageFacts } from './facts.js';
import { isFull } from './files.js';
import { headBytes, readQcow2Header } from './header.js';
import {
  folderPath,
  imageFactsPath,
  imageFormats,
  imagePath,
  parseFinalName,
  parseTempName,
  tempPath,
} from './layout.js';
import type { Parts } from './parts.js';

/** An image's file on its way from another node. */
export interface FetchedImage {
  readonly format: Image['format'];
  /** Of the whole file, whatever the offset. */
  readonly sizeBytes: number;
  readonly virtualSizeBytes: number;
  /** SHA-256 of the stored file, hex; null: its node has never read it. */
  readonly storedSha256: string | null;
  readonly data: AsyncIterable<Uint8Array>;
}

/** Gets the file of an image from the node that has it, from `offset` on. */
export interface FetchImage {
  (image: Image, offset: number, signal: AbortSignal): Promise<FetchedImage>;
}

/** Attempts to fetch an image without a single new byte between them. */
const attemptsMax = 5;

/** Finished images in pools, and copies of other nodes' images. */
export class Catalogue {
  readonly #parts: Parts;
  readonly #fetchImage: FetchImage;

  constructor(parts: Parts, fetchImage: FetchImage) {
    this.#parts = parts;
    this.#fetchImage = fetchImage;
  }

  /** Facts of a finished image of this directory; null: not here, or not finished. */
  async facts(imageId: string, pool: Pool): Promise<ImageFacts | null> {
    const text = await this.#parts.files.readText(imageFactsPath(imageId, pool));
    if (text === null) return null;
    let facts: ImageFacts;
    try {
      facts = imageFactsSchema.parse(JSON.parse(text));
    } catch {
      return null;
    }
    const stat = await this.#parts.files.stat(imagePath({ id: imageId, format: facts.format }, pool));
    return stat?.sizeBytes === facts.sizeBytes ? facts : null;
  }

  /** Facts first: an image file that is there always has them. */
  async publish(id: string, pool: Pool, from: string, facts: ImageFacts): Promise<void> {
    const factsTemp = tempPath(pool, 'images', id, this.#parts.worker, 'facts');
    await this.#parts.files.writeText(factsTemp, imageFactsPath(id, pool), `${JSON.stringify(facts)}\n`);
    await this.#parts.files.publish(from, imagePath({ id, format: facts.format }, pool));
  }

  /** The image's file on this node: in its own pool, or a copy fetched from its node. */
  async here(
    image: Image,
    imagePool: Pool,
    diskPool: Pool,
    o: WorkOptions,
  ): Promise<{ path: string; format: Image['format'] }> {
    const pool = poolHasNode(imagePool, this.#parts.worker.node) ? imagePool : diskPool;
    return this.#parts.turns.take(`image ${image.id}`, async () => {
      if (pool.id !== diskPool.id) await this.#parts.guard.require(pool);
      const facts = await this.facts(image.id, pool);
      if (facts)
        return { path: imagePath({ id: image.id, format: facts.format }, pool), format: facts.format };
      const elsewhere =
        imagePool.kind === 'local' && image.node !== null && image.node !== this.#parts.worker.node;
      if (!elsewhere && pool.id === imagePool.id) {
        const path = imagePath(image, pool);
        if (await this.#parts.files.stat(path)) return { path, format: image.format };
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

  /** Disks of this pool whose backing file is that image. */
  async linkedTo(imageId: string, pool: Pool): Promise<string[]> {
    const bases = imageFormats.map((format) => imagePath({ id: imageId, format }, pool));
    return linkedFiles(this.#parts.files, pool, new Set(bases));
  }

  /** Copies of other nodes' images that are no more, and facts without their file. Originals are never swept. */
  async sweepCopies(pool: Pool, known: ReadonlySet<string>, removed: string[]): Promise<void> {
    for (const name of await this.#parts.files.list(folderPath(pool, 'images'))) {
      const final = parseFinalName(name);
      if (!final || final.ext !== 'json' || known.has(final.id)) continue;
      await this.#parts.turns.take(`image ${final.id}`, async () => {
        const facts = await this.facts(final.id, pool);
        if (facts && (!facts.cached || (await this.linkedTo(final.id, pool)).length > 0)) return;
        if (facts) await this.drop(final.id, pool);
        else if (pool.kind === 'local') await this.#parts.files.remove(imageFactsPath(final.id, pool));
        else return;
        removed.push(`${folderPath(pool, 'images')}/${name}`);
      });
    }
  }

  async drop(id: string, pool: Pool): Promise<void> {
    // The file first: facts without a file are harmless, a file without facts would be a riddle.
    for (const format of imageFormats) await this.#parts.files.remove(imagePath({ id, format }, pool));
    await this.#parts.files.remove(imageFactsPath(id, pool));
    await this.#parts.files.syncDir(folderPath(pool, 'images'));
  }

  async #fetch(image: Image, pool: Pool, o: WorkOptions): Promise<{ path: string; format: Image['format'] }> {
    const what = `Image "${image.name}"`;
    const temp = tempPath(pool, 'images', image.id, this.#parts.worker);
    return building(this.#parts, temp, pool, what, o.signal, async (signal) => {
      let at = 0;
      let failures = 0;
      for (;;) {
        const before = at;
        try {
          const got = await this.#fetchImage(image, at, signal);
          needSpace(what, pool, await this.#parts.guard.space(pool), got.sizeBytes - at);
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
          const sum = await sha256Of(this.#parts.run, temp, at, signal);
          if ((got.storedSha256 !== null && sum !== got.storedSha256) || at !== got.sizeBytes) {
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
          await this.publish(image.id, pool, temp, facts);
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
    const handle = await this.#parts.files.calls.open(temp, offset === 0 ? 'w' : 'r+', 0o600);
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
}

/** Disks of a pool, half-made ones too, whose backing file is one of these. */
export async function linkedFiles(
  files: Parts['files'],
  pool: Pool,
  bases: ReadonlySet<string>,
): Promise<string[]> {
  const users: string[] = [];
  for (const name of await files.list(folderPath(pool, 'disks'))) {
    const final = parseFinalName(name);
    if (final?.ext !== 'qcow2' && !parseTempName(name)) continue;
    const head = await files
      .readAt(`${folderPath(pool, 'disks')}/${name}`, 0, headBytes)
      .catch(() => Buffer.alloc(0));
    const backing = readQcow2Header(head)?.backing;
    if (backing !== undefined && backing !== null && bases.has(backing)) users.push(final?.id ?? name);
  }
  return users;
}
