import { createHash } from 'node:crypto';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { parseSource, Source } from '../../../../agent/pool/source.js';
import { codeOf, faultOf, filesBelow, imageOf, MiB, noise, poolAt, volumesAt, work } from './fixture.js';

type Handler = (req: http.IncomingMessage, res: http.ServerResponse) => void;

async function serve(t: { teardown: (f: () => void) => void }, handler: Handler): Promise<string> {
  const server = http.createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const data = noise(3 * MiB);
const sum = createHash('sha256').update(data).digest('hex');

/** Serves `data` with ranges, as a mirror does; breaks off each answer after `pieceBytes`. */
function mirror(pieceBytes: number, asked: string[], etag: () => string = () => '"v1"'): Handler {
  return (req, res) => {
    asked.push(req.headers.range ?? 'all');
    const m = /bytes=(\d+)-/.exec(req.headers.range ?? '');
    const from = m && req.headers['if-range'] === etag() ? Number(m[1]) : 0;
    res.writeHead(from > 0 ? 206 : 200, {
      etag: etag(),
      'content-length': data.length - from,
      ...(from > 0 && { 'content-range': `bytes ${from}-${data.length - 1}/${data.length}` }),
    });
    if (data.length - from <= pieceBytes) return res.end(data.subarray(from));
    res.write(data.subarray(from, from + pieceBytes), () => res.destroy());
  };
}

await t.test('a download goes on where the server broke off', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const asked: string[] = [];
  const url = await serve(t, mirror(2 * MiB, asked));
  const image = imageOf(pool, { source: `${url}/disk.raw`, state: 'importing', sha256: sum });
  const got = await volumesAt(dir).importImage(image, pool, work());
  t.match(got, { format: 'qcow2', sha256: sum, virtualSizeBytes: data.length });
  t.equal(asked[0], 'all');
  t.match(asked[1], /^bytes=\d+-$/);
  t.strictSame(filesBelow(pool.path), [`images/${image.id}.json`, `images/${image.id}.qcow2`]);
});

await t.test('a file that changed on the server meanwhile is fetched anew', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const asked: string[] = [];
  const url = await serve(t, (req, res) =>
    mirror(asked.length === 0 ? MiB : 99 * MiB, asked, () => (asked.length <= 1 ? '"v1"' : '"v2"'))(req, res),
  );
  const image = imageOf(pool, { source: url, state: 'importing', sha256: sum });
  t.match(await volumesAt(dir).importImage(image, pool, work()), { sha256: sum });
});

await t.test('redirects are followed, but not for ever and not from https down', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const url = await serve(t, (req, res) => {
    const n = Number(req.url?.slice(1));
    if (n === 0) return mirror(99 * MiB, [])(req, res);
    res.writeHead(302, { location: n > 50 ? '/99' : `/${n - 1}` }).end();
  });
  const v = volumesAt(dir);
  t.match(await v.importImage(imageOf(pool, { source: `${url}/3` }), pool, work()), { sha256: sum });
  t.match(await faultOf(v.importImage(imageOf(pool, { source: `${url}/99` }), pool, work())), {
    message: /redirects more than/,
  });
});

await t.test('a node is never made to ask itself or its link', async (t) => {
  const url = await serve(t, (_req, res) => res.end('secret'));
  const port = new URL(url).port;
  const source = new Source();
  const signal = new AbortController().signal;
  for (const bad of [
    url,
    `http://localhost:${port}/`,
    `http://[::1]:${port}/`,
    `http://[::ffff:127.0.0.1]:${port}/`,
    `http://0.0.0.0:${port}/`,
    `http://2130706433:${port}/`,
    'http://169.254.169.254/latest/meta-data/',
    'http://[fe80::1]/',
    'http://[64:ff9b::7f00:1]/',
  ])
    t.equal(await codeOf(source.open(bad, 0, null, signal)), 'forbidden', bad);
  // A redirect leads there no more than an address does.
  const trap = await serve(t, (_req, res) =>
    res.writeHead(302, { location: `http://localhost:${port}/` }).end(),
  );
  const first = new URL(trap).hostname;
  let hops = 0;
  const once = new Source({ allowAddress: (a) => a === first && hops++ === 0 });
  t.equal(await codeOf(once.open(trap, 0, null, signal)), 'forbidden');
});

await t.test('only http and https, and no passwords, which all could read', async (t) => {
  for (const bad of [
    'file:///etc/passwd',
    'ftp://a/b',
    'nbd://x',
    '/etc/passwd',
    'json:{}',
    '',
    'http://u:p@h/',
  ])
    t.throws(() => parseSource(bad), { code: 'bad-input' }, bad);
});

await t.test('what the server says is passed on in words', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const url = await serve(t, (req, res) => {
    if (req.url === '/404') return res.writeHead(404).end();
    if (req.url === '/huge') return res.writeHead(200, { 'content-length': 2 ** 50 }).write('x');
    if (req.url === '/page') return res.end('<!DOCTYPE html>'.padEnd(1024));
    res.writeHead(200);
    return res.write('x');
  });
  const v = volumesAt(dir, { source: { allowAddress: () => true, stallMs: 10_000 } });
  const fault = async (path: string) =>
    faultOf(v.importImage(imageOf(pool, { source: url + path }), pool, work()));
  t.equal((await fault('/404'))?.code, 'not-found');
  t.equal((await fault('/huge'))?.code, 'too-large');
  t.match(await fault('/page'), { code: 'image-refused', message: /web page/ });
  t.equal(
    await codeOf(
      new Source({ allowAddress: () => true, stallMs: 100 })
        .open(`${url}/x`, 0, null, new AbortController().signal)
        .then(async (r) => {
          for await (const _ of r.data);
        }),
    ),
    'timeout',
  );
});

await t.test('cancelled in the middle, it ends and keeps its place', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const stop = new AbortController();
  const url = await serve(t, (_req, res) => {
    res.writeHead(200, { 'content-length': data.length, etag: '"v1"' });
    res.write(data.subarray(0, MiB));
  });
  const v = volumesAt(dir);
  const image = imageOf(pool, { source: url });
  const code = await codeOf(
    v.importImage(image, pool, work({ signal: stop.signal, progress: (s) => s > 0 && stop.abort() })),
  );
  t.equal(code, 'cancelled');
  t.ok((await v.uploadOffset(image, pool)) > 0);
});
