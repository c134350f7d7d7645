import { FlotillaError } from '../../core/domain/error.js';
import { virtualSizeBytesMax, type Image, type ImageFormat } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { WorkOptions } from '../env.js';
import { building } from './building.js';
import type { Catalogue } from './catalogue.js';
import { sha256Of, type ImageFacts } from './facts.js';
import { headBytes, judgeHeader, readQcow2Header, tailBytes } from './header.js';
import type { Incoming } from './incoming.js';
import type { TakenIn } from './intake.js';
import { incomingPath, tempPath } from './layout.js';
import type { Parts } from './parts.js';

/** What the ledger keeps of an image when its import is done. */
export type Imported = Pick<Image, 'format' | 'sizeBytes' | 'virtualSizeBytes' | 'sha256'>;

/** The door of the catalogue: what came in is checked, converted and only then shown. */
export class Importer {
  readonly #parts: Parts;
  readonly #catalogue: Catalogue;
  readonly #incoming: Incoming;

  constructor(parts: Parts, catalogue: Catalogue, incoming: Incoming) {
    this.#parts = parts;
    this.#catalogue = catalogue;
    this.#incoming = incoming;
  }

  async run(image: Image, pool: Pool, o: WorkOptions): Promise<Imported> {
    return this.#parts.turns.take(`image ${image.id}`, async () => {
      await this.#parts.guard.require(pool);
      const done = await this.#catalogue.facts(image.id, pool);
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
      const taken = await this.#incoming.taken(image.id, pool);
      o.progress(base, 'computing the checksum');
      try {
        const sha256 = taken?.sha256 ?? (await sha256Of(this.#parts.run, path, cameBytes, o.signal));
        if (image.sha256 !== null && image.sha256 !== sha256) {
          throw new FlotillaError(
            'checksum-mismatch',
            `Image "${image.name}" came with checksum ${sha256}, not ${image.sha256}`,
            {
              hint: 'It changed on the way, or the checksum is of another file. Create the image anew.',
            },
          );
        }
        if (taken) {
          const facts = await this.#take(image, pool, taken);
          o.progress(1, 'ready');
          return outside(facts);
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

  /** @returns bytes of the whole file @throws FlotillaError `not-found`, `offset-mismatch` while it is not whole */
  async #arrived(image: Image, pool: Pool): Promise<number> {
    const here = await this.#incoming.offset(image.id, pool);
    const stat = await this.#parts.files.stat(incomingPath(image.id, pool));
    if (!stat || here === 0) {
      throw new FlotillaError('not-found', `Nothing of image "${image.name}" has been uploaded`, {
        hint: 'Upload it, or give a source.',
      });
    }
    const whole = (await this.#incoming.taken(image.id, pool)) !== null || here >= stat.sizeBytes;
    if (!whole || (image.expectedBytes !== null && here !== image.expectedBytes)) {
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
    const head = await this.#parts.files.readAt(path, 0, headBytes);
    const tail = await this.#parts.files.readAt(path, Math.max(0, sizeBytes - tailBytes), tailBytes);
    const verdict = judgeHeader({ head, tail, sizeBytes });
    if (!verdict.ok) throw refuse(verdict.reason, verdict.hint);
    const { format } = verdict;
    let virtualSizeBytes = verdict.virtualSizeBytes ?? 0;
    if (format !== 'iso' && format !== 'raw') {
      const info = await this.#parts.qemuImg.info(format, path, signal).catch((e: unknown) => {
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
      const fault = format === 'vpc' ? null : await this.#parts.qemuImg.check(format, path, signal);
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
    await this.#checkSize(image, pool, virtualSizeBytes);
    return { format, virtualSizeBytes };
  }

  /** @throws FlotillaError `no-space`: its disk could never be filled */
  async #checkSize(image: Image, pool: Pool, virtualSizeBytes: number): Promise<void> {
    const space = await this.#parts.guard.space(pool);
    if (virtualSizeBytes > space.totalBytes) {
      throw new FlotillaError(
        'no-space',
        `Image "${image.name}" claims a disk of ${virtualSizeBytes} bytes, pool "${pool.name}" has ${space.totalBytes} in all`,
        { hint: 'Choose a larger pool, or shrink the image.', details: { virtualSizeBytes, ...space } },
      );
    }
  }

  /** What was converted as it came is in the catalogue at once. */
  async #take(image: Image, pool: Pool, taken: TakenIn): Promise<ImageFacts> {
    const path = incomingPath(image.id, pool);
    await this.#checkSize(image, pool, taken.virtualSizeBytes);
    const facts = {
      format: 'qcow2',
      sizeBytes: (await this.#parts.files.stat(path))?.sizeBytes ?? 0,
      virtualSizeBytes: taken.virtualSizeBytes,
      sha256: taken.sha256,
      storedSha256: null,
      cached: false,
    } as const;
    await this.#catalogue.publish(image.id, pool, path, facts);
    await this.#incoming.remove(image.id, pool);
    return facts;
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
      await this.#catalogue.publish(image.id, pool, came, facts);
      return facts;
    }
    const temp = tempPath(pool, 'images', image.id, this.#parts.worker);
    return building(this.#parts, temp, pool, `Image "${image.name}"`, o.signal, async (signal) => {
      await this.#parts.qemuImg
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
      const header = readQcow2Header(await this.#parts.files.readAt(temp, 0, headBytes));
      if (!header || header.backing !== null || header.dataFile)
        throw new FlotillaError('internal', `Image "${image.name}" was not converted to a file of its own`, {
          hint: 'This is a defect: please report it.',
        });
      const sizeBytes = (await this.#parts.files.stat(temp))?.sizeBytes ?? 0;
      o.progress(1, 'computing the stored checksum');
      const storedSha256 = await sha256Of(this.#parts.run, temp, sizeBytes, signal);
      const facts = {
        format: 'qcow2',
        sizeBytes,
        virtualSizeBytes: header.virtualSizeBytes,
        sha256,
        storedSha256,
        cached: false,
      } as const;
      await this.#catalogue.publish(image.id, pool, temp, facts);
      return facts;
    });
  }
}

const outside = (f: ImageFacts): Imported => ({
  format: f.format,
  sizeBytes: f.sizeBytes,
  virtualSizeBytes: f.virtualSizeBytes,
  sha256: f.sha256,
});
