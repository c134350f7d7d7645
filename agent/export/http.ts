import { Readable } from 'node:stream';
import { Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import { idSchema } from '../../core/domain/schema.js';
import { rangeOf } from '../pool/http.js';
import type { ExportArchive } from './package-writer.js';

/**
 * Packages for the controller. Mounted at `/v1/exports` behind the agent's mutual TLS.
 *
 * - `GET /:op/content`, with `Range: bytes=N-`: the archive
 */
export function exportsApp(open: (op: string) => Promise<ExportArchive | null>): Hono {
  const app = new Hono();
  app.onError((error, c) =>
    c.json(
      { error: errorRecord(error) },
      (error instanceof FlotillaError ? error.status : 500) as ContentfulStatusCode,
    ),
  );
  app.get('/:op/content', async (c) => {
    const id = idSchema.safeParse(c.req.param('op'));
    const archive = id.success ? await open(id.data) : null;
    if (archive === null)
      throw new FlotillaError('not-found', 'There is no such export on this node', {
        hint: 'It is kept for a day: export the VM again.',
      });
    const size = archive.sizeBytes;
    const headers = {
      'accept-ranges': 'bytes',
      'content-type': 'application/x-tar',
      'content-disposition': `attachment; filename="${archive.name}.ova"`,
    };
    const wanted = rangeOf(c.req.header('range'), size);
    if (wanted === 'unsatisfiable')
      return c.body(null, 416, { ...headers, 'content-range': `bytes */${size}` });
    // To its end always: nobody asks for less.
    const start = wanted?.[0] ?? 0;
    const all: Record<string, string> = { ...headers, 'content-length': String(size - start) };
    if (wanted) all['content-range'] = `bytes ${start}-${size - 1}/${size}`;
    const data = Readable.from(archive.read(start), { objectMode: false });
    c.req.raw.signal.addEventListener('abort', () => data.destroy(), { once: true });
    return c.body(Readable.toWeb(data) as ReadableStream, wanted ? 206 : 200, all);
  });
  return app;
}
