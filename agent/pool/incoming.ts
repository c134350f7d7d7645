import { z } from 'zod';
import { setTimeout as sleep } from 'node:timers/promises';
import { FlotillaError } from '../../core/domain/error.js';
import { virtualSizeBytesMax, type Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { WorkOptions } from '../env.js';
import { isAbsent, isFull, type Files } from './files.js';
import type { PoolGuard } from './guard.js';
import { headBytes } from './header.js';
import { Intake, type TakenIn } from './intake.js';
import { incomingFactsPath, incomingPath, tempPath, type Worker } from './layout.js';
import type { Source } from './source.js';
import { VmdkFault } from './vmdk-reader.js';
import { streamedVmdk } from './vmdk-stream.js';

/** After so many bytes what came is flushed and counted as safe: what a power loss costs at most. */
const flushEveryBytes = 64 * 1024 * 1024;
/** The pool's space is looked at after so many bytes: half of the least reserve, so it is never used up. */
const lookEveryBytes = 8 * 1024 * 1024;
/** Uploads that broke off and are converted as they come hold a thread and 25 MB of memory each. */
const intakesMax = 4;
/** Attempts of a download without a single new byte between them. */
const attemptsMax = 5;

const factsSchema = z.object({
  /** Who wrote last. Another worker trusts only what was flushed. */
  node: z.string(),
  boot: z.string(),
  safeBytes: z.number().int().nonnegative(),
  /** The server's mark of the file being downloaded, and its length. */
  version: z.string().nullable(),
  totalBytes: z.number().nullable(),
  /** It is converted as it comes: `open` counts for nothing once its writer is gone; then, of what came it was made. */
  taken: z
    .union([
      z.literal('open'),
      z.object({ sha256: z.string(), virtualSizeBytes: z.number().int().nonnegative() }),
    ])
    .nullable()
    .default(null),
});
type Facts = z.output<typeof factsSchema>;

/**
 * Images on their way in: uploads and downloads that may break off at any byte and go on from there, also after a
 * crash. Beside each file stands how much of it was flushed and who writes it.
 */
export class Incoming {
  readonly #files: Files;
  readonly #guard: PoolGuard;
  readonly #worker: Worker;
  readonly #source: Source;
  readonly #intakeProgram: URL | string | undefined;
  /** What is converted as it comes, by the same keys. */
  readonly #intakes = new Map<string, Intake>();
  readonly #writing = new Map<string, { stop: AbortController; done: Promise<unknown> }>();

  /** @param intakeProgram - see {@link IntakeOptions} */
  constructor(
    files: Files,
    guard: PoolGuard,
    worker: Worker,
    source: Source,
    intakeProgram: URL | string | undefined,
  ) {
    this.#intakeProgram = intakeProgram;
    this.#files = files;
    this.#guard = guard;
    this.#worker = worker;
    this.#source = source;
  }

  /** Bytes that are here and can be built upon. */
  async offset(imageId: string, pool: Pool): Promise<number> {
    const intake = this.#intakes.get(`${pool.id}/${imageId}`);
    if (intake) return intake.offset;
    const stat = await this.#files.stat(incomingPath(imageId, pool));
    if (!stat) return 0;
    const facts = await this.facts(imageId, pool);
    return this.#trusted(facts, stat.sizeBytes);
  }

  /** What came is an image already: its file is a qcow2 of our making. Null: it has to be converted. */
  async taken(imageId: string, pool: Pool): Promise<TakenIn | null> {
    const taken = (await this.facts(imageId, pool))?.taken ?? null;
    return taken === 'open' ? null : taken;
  }

  /** Whether this worker is writing it right now. */
  isWriting(imageId: string, pool: Pool): boolean {
    return this.#writing.has(`${pool.id}/${imageId}`);
  }

  async facts(imageId: string, pool: Pool): Promise<Facts | null> {
    const text = await this.#files.readText(incomingFactsPath(imageId, pool));
    if (text === null) return null;
    try {
      return factsSchema.parse(JSON.parse(text));
    } catch {
      return null;
    }
  }

  /**
   * Appends at `offset`. A newer call for the same image ends an older one: the older client is gone, its connection
   * just does not know it yet.
   *
   * @returns bytes here now
   * @throws FlotillaError `offset-mismatch` with the right offset in its details; `no-space`; `too-large`; `cancelled`
   */
  async append(
    image: Image,
    pool: Pool,
    offset: number,
    data: AsyncIterable<Uint8Array>,
    about: { version: string | null; totalBytes: number | null; moved?: (bytes: number) => void } = {
      version: null,
      totalBytes: null,
    },
  ): Promise<number> {
    const key = `${pool.id}/${image.id}`;
    for (let other = this.#writing.get(key); other; other = this.#writing.get(key)) {
      other.stop.abort();
      await other.done.catch(() => undefined);
    }
    const stop = new AbortController();
    const done = this.#append(image, pool, offset, data, about, stop.signal);
    const entry = { stop, done };
    this.#writing.set(key, entry);
    try {
      return await done;
    } finally {
      if (this.#writing.get(key) === entry) this.#writing.delete(key);
    }
  }

  async #append(
    image: Image,
    pool: Pool,
    offset: number,
    data: AsyncIterable<Uint8Array>,
    about: { version: string | null; totalBytes: number | null; moved?: (bytes: number) => void },
    stop: AbortSignal,
  ): Promise<number> {
    const path = incomingPath(image.id, pool);
    const maxBytes = image.expectedBytes ?? virtualSizeBytesMax;
    const here = await this.offset(image.id, pool);
    if (offset !== here) throw mismatch(image, offset, here);
    if ((about.totalBytes ?? 0) > maxBytes) throw tooLarge(image, maxBytes);
    await this.#checkSpace(
      image,
      pool,
      Math.max(0, (about.totalBytes ?? image.expectedBytes ?? here) - here),
    );
    const iterator = data[Symbol.asyncIterator]();
    const totalBytes = image.expectedBytes ?? about.totalBytes;
    const key = `${pool.id}/${image.id}`;
    const begun: Uint8Array[] = [];
    const broke: { why?: Error } = {};
    let noted: Promise<void> = Promise.resolve();
    if (here === 0 && totalBytes !== null && image.format === 'qcow2') {
      await this.#intakes.get(key)?.close();
      this.#intakes.delete(key);
      const head = await beginning(iterator, begun, stop, () => overtaken(image)).catch((e: unknown) => {
        broke.why = e instanceof Error ? e : new Error('it broke off', { cause: e });
        return Buffer.alloc(0);
      });
      const facts = streamedVmdk(head, totalBytes);
      if (facts && this.#haveRoom()) {
        // Its flush is not waited for: without it nothing of what came counts, either.
        noted = this.#note(image, pool, {
          ...this.#worker,
          safeBytes: 0,
          version: about.version,
          totalBytes,
          taken: 'open',
        });
        noted.catch(() => undefined);
        const file = await this.#files.calls.open(path, 'w+', 0o600);
        this.#intakes.set(
          key,
          new Intake(file, facts, {
            program: this.#intakeProgram,
            room: () => this.#checkSpace(image, pool, 0),
          }),
        );
      }
    }
    const intake = this.#intakes.get(key);
    if (intake) return this.#takeIn(intake, image, pool, { begun, iterator, totalBytes, about, stop, noted });
    const handle = await this.#files.calls.open(path, (await this.#files.stat(path)) ? 'r+' : 'w+', 0o600);
    let at = here;
    let safe = here;
    let looked = here;
    const flush = async () => {
      await handle.sync();
      safe = at;
      await this.#note(image, pool, {
        ...this.#worker,
        safeBytes: safe,
        version: about.version,
        totalBytes: about.totalBytes,
        taken: null,
      });
    };
    try {
      await handle.truncate(here);
      await flush();
      for (;;) {
        // A source that ignores being ended must not keep the file: the wait for it ends with the signal.
        const first = begun.shift();
        // What came before it broke off counts.
        if (first === undefined && broke.why !== undefined) throw broke.why;
        const next =
          first === undefined
            ? await unlessStopped(iterator.next(), stop, () => overtaken(image))
            : { done: false as const, value: first };
        if (next.done) break;
        const chunk = next.value;
        if (at + chunk.length > maxBytes) throw tooLarge(image, maxBytes);
        for (let p = 0; p < chunk.length;) {
          const { bytesWritten } = await handle.write(chunk, p, chunk.length - p, at);
          p += bytesWritten;
          at += bytesWritten;
        }
        if (at - looked >= lookEveryBytes) {
          looked = at;
          await this.#checkSpace(image, pool, 0);
        }
        about.moved?.(at);
        if (at - safe >= flushEveryBytes) {
          await flush();
          const now = await this.facts(image.id, pool);
          if (now && (now.node !== this.#worker.node || now.boot !== this.#worker.boot))
            throw overtaken(image);
        }
      }
      if (at > safe) await flush();
      return at;
    } catch (e) {
      // As far as it goes: what cannot be noted as safe any more is sent once more.
      if (at > safe) await flush().catch(() => undefined);
      throw isFull(e) ? noSpace(image, pool, 'the file system is full', e) : e;
    } finally {
      // The source is told, but not waited for.
      void iterator.return?.().catch(() => undefined);
      await handle.close();
    }
  }

  /** What comes goes into an image at once: neither is it stored, nor is it gone through again. */
  async #takeIn(
    intake: Intake,
    image: Image,
    pool: Pool,
    o: {
      begun: Uint8Array[];
      iterator: AsyncIterator<Uint8Array>;
      totalBytes: number | null;
      about: { version: string | null; moved?: (bytes: number) => void };
      stop: AbortSignal;
      /** When it is written that it is being taken in. */
      noted: Promise<void>;
    },
  ): Promise<number> {
    const key = `${pool.id}/${image.id}`;
    const totalBytes = o.totalBytes ?? virtualSizeBytesMax;
    let broken = false;
    try {
      while (intake.offset < totalBytes) {
        const first = o.begun.shift();
        const next =
          first === undefined
            ? await unlessStopped(o.iterator.next(), o.stop, () => overtaken(image))
            : { done: false as const, value: first };
        if (next.done) break;
        if (intake.offset + next.value.length > totalBytes) throw tooLarge(image, totalBytes);
        broken = true;
        await intake.push(next.value);
        broken = false;
        o.about.moved?.(intake.offset);
      }
      if (intake.offset < totalBytes) return intake.offset;
      broken = true;
      const taken = await intake.end();
      await o.noted;
      await this.#note(image, pool, {
        ...this.#worker,
        safeBytes: totalBytes,
        version: o.about.version,
        totalBytes,
        taken,
      });
      return totalBytes;
    } catch (e) {
      if (e instanceof VmdkFault) {
        await o.noted.catch(() => undefined);
        await this.#files.remove(incomingPath(image.id, pool));
        await this.#files.remove(incomingFactsPath(image.id, pool));
        throw damaged(image, e);
      }
      throw isFull(e) ? noSpace(image, pool, 'the file system is full', e) : e;
    } finally {
      void o.iterator.return?.().catch(() => undefined);
      // Who removes it next finds all there.
      await o.noted.catch(() => undefined);
      // Of use again only where it stopped between two pieces.
      if (broken) {
        if (this.#intakes.get(key) === intake) this.#intakes.delete(key);
        await intake.close();
      }
    }
  }

  /** Room for another one: what nobody sends any more begins anew when it is gone on with. */
  #haveRoom(): boolean {
    for (const [key, intake] of this.#intakes) {
      if (this.#intakes.size < intakesMax) break;
      if (this.#writing.has(key)) continue;
      this.#intakes.delete(key);
      void intake.close().catch(() => undefined);
    }
    return this.#intakes.size < intakesMax;
  }

  /** Fetches `image.source`, going on where an earlier attempt broke off. @returns bytes here when it is whole */
  async download(image: Image, pool: Pool, source: string, o: WorkOptions): Promise<number> {
    let attempts = 0;
    for (;;) {
      const before = await this.offset(image.id, pool);
      try {
        return await this.#downloadOnce(image, pool, source, before, o);
      } catch (e) {
        if (o.signal.aborted || !isPassing(e)) throw e;
        attempts = (await this.offset(image.id, pool)) > before ? 1 : attempts + 1;
        if (attempts >= attemptsMax) throw e;
        o.progress(0, `fetching: attempt ${attempts + 1} of ${attemptsMax}`);
        await sleep(500 * 2 ** attempts, undefined, { signal: o.signal });
      }
    }
  }

  async #downloadOnce(
    image: Image,
    pool: Pool,
    source: string,
    here: number,
    o: WorkOptions,
  ): Promise<number> {
    const facts = await this.facts(image.id, pool);
    if (facts && here > 0 && facts.totalBytes === here) return here;
    const got = await this.#source.open(source, here, facts?.version ?? null, o.signal);
    if (got.offset !== here) await this.remove(image.id, pool);
    const end = await this.append(image, pool, got.offset, got.data, {
      version: got.version,
      totalBytes: got.totalBytes,
      moved: (bytes) => got.totalBytes && o.progress(Math.min(1, bytes / got.totalBytes), 'fetching'),
    });
    if (got.totalBytes !== null && end < got.totalBytes) {
      throw new FlotillaError(
        'tool-failed',
        `Image "${image.name}": ${end} of ${got.totalBytes} bytes came`,
        {
          hint: 'The server broke off; the part received is kept.',
        },
      );
    }
    return end;
  }

  /** Forgets what came so far. */
  async remove(imageId: string, pool: Pool): Promise<void> {
    const writing = this.#writing.get(`${pool.id}/${imageId}`);
    writing?.stop.abort();
    await writing?.done.catch(() => undefined);
    const intake = this.#intakes.get(`${pool.id}/${imageId}`);
    this.#intakes.delete(`${pool.id}/${imageId}`);
    await intake?.close().catch(() => undefined);
    await this.#files.remove(incomingPath(imageId, pool));
    await this.#files.remove(incomingFactsPath(imageId, pool));
  }

  /** What of a file a worker may build upon: all it wrote itself, of others' only what was flushed. */
  #trusted(facts: Facts | null, sizeBytes: number): number {
    if (!facts || facts.taken === 'open') return 0;
    if (facts.taken !== null) return facts.safeBytes;
    const mine = facts.node === this.#worker.node && facts.boot === this.#worker.boot;
    return mine ? sizeBytes : Math.min(sizeBytes, facts.safeBytes);
  }

  async #note(image: Image, pool: Pool, facts: Facts): Promise<void> {
    const path = incomingFactsPath(image.id, pool);
    try {
      await this.#files.writeText(
        tempPath(pool, 'incoming', image.id, this.#worker),
        path,
        `${JSON.stringify(facts)}\n`,
      );
    } catch (e) {
      // The folder is gone: the image was removed meanwhile.
      if (!isAbsent(e)) throw e;
    }
  }

  async #checkSpace(image: Image, pool: Pool, moreBytes: number): Promise<void> {
    const space = await this.#guard.space(pool);
    if (space.usableBytes <= 0 || moreBytes > space.usableBytes)
      throw noSpace(
        image,
        pool,
        `${moreBytes} bytes are still to come, ${space.usableBytes} are free besides the reserve`,
      );
  }
}

/**
 * A wait that ends early when it is told to. Not by `Promise.race` with one promise for all parts: that one would keep
 * every part until the whole upload ends, in memory.
 */
function unlessStopped<T>(work: Promise<T>, stop: AbortSignal, why: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = (): void => reject(why());
    stop.addEventListener('abort', end, { once: true });
    if (stop.aborted) end();
    void work.then(resolve, reject).finally(() => stop.removeEventListener('abort', end));
  });
}

/** The first parts, enough to tell what comes; they are left in `parts`. */
async function beginning(
  iterator: AsyncIterator<Uint8Array>,
  parts: Uint8Array[],
  stop: AbortSignal,
  why: () => Error,
): Promise<Buffer> {
  for (let length = 0; length < headBytes;) {
    // The next part may come in the place of the one before.
    const last = parts.pop();
    if (last !== undefined) parts.push(Buffer.from(last));
    const next = await unlessStopped(iterator.next(), stop, why);
    if (next.done) break;
    parts.push(next.value);
    length += next.value.length;
  }
  return Buffer.concat(parts).subarray(0, headBytes);
}

/** Faults that another attempt may not meet. */
const isPassing = (e: unknown): boolean =>
  e instanceof FlotillaError && (e.code === 'tool-failed' || e.code === 'timeout');

const mismatch = (image: Image, offset: number, here: number): FlotillaError =>
  new FlotillaError(
    'offset-mismatch',
    `Image "${image.name}": the upload is at byte ${here}, not ${offset}`,
    {
      hint: `Go on from byte ${here}.`,
      details: { offset: here },
    },
  );

const tooLarge = (image: Image, maxBytes: number): FlotillaError =>
  new FlotillaError('too-large', `Image "${image.name}" is larger than the ${maxBytes} bytes announced`, {
    hint: 'Create the image anew with the right size.',
  });

const overtaken = (image: Image): FlotillaError =>
  new FlotillaError('cancelled', `This upload of image "${image.name}" was ended by a newer one`, {
    hint: 'Only one upload of an image goes on at a time.',
  });

const damaged = (image: Image, cause: VmdkFault): FlotillaError =>
  new FlotillaError('image-refused', `Image "${image.name}" is not taken: ${cause.message}`, {
    hint: 'It is damaged, cut off, or made to do harm: get it again and compare its checksum.',
    cause,
  });

const noSpace = (image: Image, pool: Pool, why: string, cause?: unknown): FlotillaError =>
  new FlotillaError('no-space', `Image "${image.name}" does not fit into pool "${pool.name}": ${why}`, {
    hint: 'Make room in the pool or choose another one; then go on with the upload.',
    cause,
  });
