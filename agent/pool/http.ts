import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import { idSchema } from '../../core/domain/schema.js';
import type { Volumes } from './volumes.js';

export interface ImagesAppDeps {
  readonly volumes: Pick<Volumes, 'upload' | 'uploadOffset' | 'imageFacts' | 'imagePath'>;
  /** The image and its pool as the ledger has them; null: there is none. */
  image(id: string): Promise<{ image: Image; pool: Pool } | null>;
}

/** Header with an image's virtual size, for the peer that fetches it. */
export const virtualSizeHeader = 'flotilla-virtual-size';
export const formatHeader = 'flotilla-format';

/**
 * Images between nodes, and from the controller, as streams: nothing is held in memory, a slow side slows the other.
 * Mounted at `/v1/images` behind the agent's mutual TLS: it trusts who comes in.
 *
 * - `GET /:id/offset` → `{offset}`: where an upload goes on
 * - `PUT /:id/content?offset=N` → `{offset}`: appends the body
 * - `GET /:id/content`, with `Range: bytes=N-` or `N-M`: the stored file, its SHA-256 in `Repr-Digest` where it is known
 */
export function imagesApp(deps: ImagesAppDeps): Hono {
  const app = new Hono();

  const find = async (idText: string): Promise<{ image: Image; pool: Pool }> => {
    const id = idSchema.safeParse(idText);
    const found = id.success ? await deps.image(id.data) : null;
    if (found) return found;
    throw new FlotillaError('not-found', 'There is no such image', { hint: 'See "flotilla image list".' });
  };
  const mustUpload = (image: Image): void => {
    if (image.state === 'uploading') return;
    throw new FlotillaError('wrong-state', `Image "${image.name}" is ${image.state}: it takes no upload`, {
      hint: 'Create a new image to upload another file.',
    });
  };

  app.onError((error, c) => {
    const record = errorRecord(error);
    return c.json(
      { error: record },
      (error instanceof FlotillaError ? error.status : 500) as ContentfulStatusCode,
    );
  });

  app.get('/:id/offset', async (c) => {
    const { image, pool } = await find(c.req.param('id'));
    mustUpload(image);
    return c.json({ offset: await deps.volumes.uploadOffset(image, pool) });
  });

  app.put('/:id/content', async (c) => {
    const { image, pool } = await find(c.req.param('id'));
    mustUpload(image);
    const offset = wholeNumber(c.req.query('offset') ?? '0');
    const length = c.req.header('content-length');
    if (offset === null)
      throw new FlotillaError('bad-input', 'offset is no whole number', { hint: 'Ask /offset first.' });
    if (
      length !== undefined &&
      image.expectedBytes !== null &&
      offset + Number(length) > image.expectedBytes
    ) {
      throw new FlotillaError(
        'too-large',
        `Image "${image.name}" is larger than the ${image.expectedBytes} bytes announced`,
        {
          hint: 'Create the image anew with the right size.',
        },
      );
    }
    return c.json({ offset: await deps.volumes.upload(image, pool, offset, chunks(c.req.raw.body)) });
  });

  app.get('/:id/content', async (c) => {
    const { image, pool } = await find(c.req.param('id'));
    const facts = await deps.volumes.imageFacts(image.id, pool);
    if (!facts) {
      throw new FlotillaError('not-found', `The file of image "${image.name}" is not on this node`, {
        hint: `It is ${image.state}${image.node === null ? '' : ` on ${image.node}`}.`,
      });
    }
    // A finished image never changes: its name and length tell it as well.
    const etag = `"${facts.storedSha256 ?? `${image.id}-${facts.sizeBytes}`}"`;
    const headers = {
      'accept-ranges': 'bytes',
      'content-type': 'application/octet-stream',
      etag,
      ...(facts.storedSha256 === null
        ? {}
        : {
            'repr-digest': `sha-256=:${Buffer.from(facts.storedSha256, 'hex').toString('base64')}:`,
          }),
      [formatHeader]: facts.format,
      [virtualSizeHeader]: String(facts.virtualSizeBytes),
    };
    const size = facts.sizeBytes;
    const ifRange = c.req.header('if-range');
    const wanted = ifRange !== undefined && ifRange !== etag ? null : rangeOf(c.req.header('range'), size);
    if (wanted === 'unsatisfiable')
      return c.body(null, 416, { ...headers, 'content-range': `bytes */${size}` });
    const [start, end] = wanted ?? [0, size - 1];
    const all = { ...headers, 'content-length': String(end - start + 1) };
    const status = wanted ? 206 : 200;
    if (wanted) Object.assign(all, { 'content-range': `bytes ${start}-${end}/${size}` });
    if (c.req.method === 'HEAD' || end < start) return c.body(null, status, all);
    const file = createReadStream(deps.volumes.imagePath({ id: image.id, format: facts.format }, pool), {
      start,
      end,
      highWaterMark: 256 * 1024,
    });
    c.req.raw.signal.addEventListener('abort', () => file.destroy(), { once: true });
    return c.body(Readable.toWeb(file) as ReadableStream, status, all);
  });

  return app;
}

/**
 * One range of bytes, both ends included.
 *
 * @returns null: none asked, or one we need not know (several, another unit): the whole is sent
 */
export function rangeOf(header: string | undefined, size: number): [number, number] | 'unsatisfiable' | null {
  const m = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!m) return null;
  const [, from = '', to = ''] = m;
  if (from === '' && to === '') return null;
  if (from === '') return Number(to) === 0 ? 'unsatisfiable' : [Math.max(0, size - Number(to)), size - 1];
  const start = Number(from);
  const end = to === '' ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== '' && Number(to) < start) return null;
  return start >= size ? 'unsatisfiable' : [start, end];
}

const wholeNumber = (text: string): number | null =>
  /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : null;

/** A request's body piece by piece; the next is only asked for when this one is written. */
async function* chunks(body: ReadableStream<Uint8Array> | null): AsyncGenerator<Uint8Array> {
  if (!body) return;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (cause) {
    throw new FlotillaError('cancelled', 'The upload broke off', {
      hint: 'What came is kept: ask where to go on and send the rest.',
      cause,
    });
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
