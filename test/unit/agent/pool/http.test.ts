import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import https from 'node:https';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { serve } from '@hono/node-server';
import fc from 'fast-check';
import { Hono } from 'hono';
import t from 'tap';
import { imagesApp, rangeOf } from '../../../../agent/pool/http.js';
import { peerImages } from '../../../../agent/pool/peer.js';
import type { Image } from '../../../../core/domain/image.js';
import type { Pool } from '../../../../core/domain/pool.js';
import { codeOf, imageOf, importFile, MiB, noise, poolAt, volumesAt, work } from './fixture.js';

interface Home {
  readonly images: Map<string, { image: Image; pool: Pool }>;
  readonly app: Hono;
  readonly v: ReturnType<typeof volumesAt>;
  readonly pool: Pool;
  readonly dir: string;
}

function home(t: { testdir: () => string }): Home {
  const dir = t.testdir();
  const v = volumesAt(dir);
  const images = new Map<string, { image: Image; pool: Pool }>();
  const app = new Hono().route(
    '/v1/images',
    imagesApp({ volumes: v, image: async (id) => images.get(id) ?? null }),
  );
  return { images, app, v, pool: poolAt(`${dir}/pool`), dir };
}

await t.test('an upload by pieces, with the offset asked in between', async (t) => {
  const { app, images, pool, v } = home(t);
  const data = noise(MiB);
  const image = imageOf(pool, { expectedBytes: data.length });
  images.set(image.id, { image, pool });
  const at = `/v1/images/${image.id}`;
  const put = async (offset: number | string, body: Buffer) => {
    const r = await app.request(`${at}/content?offset=${offset}`, {
      method: 'PUT',
      headers: { 'content-length': String(body.length) },
      body,
    });
    return [r.status, await r.json()] as [
      number,
      { offset?: number; error?: { code: string; details: unknown } },
    ];
  };
  t.strictSame(await put(0, data.subarray(0, 1000)), [200, { offset: 1000 }]);
  t.strictSame(await (await app.request(`${at}/offset`)).json(), { offset: 1000 });
  const [status, body] = await put(5, data);
  t.equal(status, 413, 'more than announced');
  t.equal(body.error?.code, 'too-large');
  t.match(await put(7, data.subarray(0, 10)), [
    409,
    { error: { code: 'offset-mismatch', details: { offset: 1000 } } },
  ]);
  t.match(await put('x', data), [400, { error: { code: 'bad-input' } }]);
  t.strictSame(await put(1000, data.subarray(1000)), [200, { offset: data.length }]);
  t.match(await v.importImage(image, pool, work()), {
    sha256: createHash('sha256').update(data).digest('hex'),
  });
  images.set(image.id, { image: { ...image, state: 'ready' }, pool });
  t.match(await put(data.length, Buffer.alloc(1)), [409, { error: { code: 'wrong-state' } }]);
  t.equal((await app.request('/v1/images/nonsense/offset')).status, 404);
  t.equal((await app.request(`/v1/images/${imageOf(pool).id}/content`)).status, 404);
});

await t.test('a slow drive slows the sender: what is not written is not taken', async (t) => {
  const pool = poolAt('/nowhere');
  const image = imageOf(pool);
  let taken = 0;
  let sawBytes = (): void => undefined;
  const saw = new Promise<void>((resolve) => (sawBytes = resolve));
  const app = imagesApp({
    volumes: {
      imageFacts: async () => null,
      imagePath: () => '',
      uploadOffset: async () => 0,
      upload: async (_i, _p, _o, data) => {
        for await (const chunk of data) {
          taken += chunk.length;
          sawBytes();
          await new Promise(() => undefined);
        }
        return taken;
      },
    },
    image: async () => ({ image, pool }),
  });
  const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }) as http.Server;
  await listening(server);
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const req = http.request({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    method: 'PUT',
    path: `/${image.id}/content?offset=0`,
  });
  req.on('error', () => undefined);
  t.teardown(() => req.destroy());
  const chunk = Buffer.alloc(MiB);
  let sent = 0;
  while (req.write(chunk) || req.writableLength < 8 * MiB) sent += chunk.length;
  await saw;
  const before = req.writableLength;
  t.ok(before > 0, 'most of it still waits at the sender');
  t.ok(taken <= MiB, 'one piece was taken');
  t.ok(sent > taken);
});

await t.test('ranges are exact', async (t) => {
  fc.assert(
    fc.property(fc.nat(2000), fc.nat(2000), fc.integer({ min: 1, max: 1500 }), (a, b, size) => {
      const r = rangeOf(`bytes=${a}-${b}`, size);
      if (b < a) t.equal(r, null);
      else if (a >= size) t.equal(r, 'unsatisfiable');
      else t.strictSame(r, [a, Math.min(b, size - 1)]);
    }),
  );
  t.strictSame(rangeOf('bytes=-5', 100), [95, 99]);
  t.strictSame(rangeOf('bytes=5-', 100), [5, 99]);
  t.equal(rangeOf('bytes=0-1,5-6', 100), null);
  t.equal(rangeOf(undefined, 100), null);
  t.equal(rangeOf('bytes=-0', 100), 'unsatisfiable');
});

await t.test('a node fetches an image from another over mutual TLS, from the middle too', async (t) => {
  const { app, images, pool, v, dir } = home(t);
  fs.writeFileSync(`${dir}/src.raw`, noise(2 * MiB));
  const image = await importFile(v, pool, `${dir}/src.raw`);
  images.set(image.id, { image, pool });
  const ca = authority(dir);
  const n1 = ca.issue('n1');
  const server = serve({
    fetch: app.fetch,
    port: 0,
    hostname: '127.0.0.1',
    createServer: https.createServer,
    serverOptions: { ...n1, requestCert: true, rejectUnauthorized: true },
  }) as https.Server;
  await listening(server);
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const fetcher = (tls: { ca: Buffer; cert: Buffer; key: Buffer }) =>
    peerImages({ addressOf: (n) => (n === 'n1' ? '127.0.0.1' : null), port, tls: () => tls });
  const stored = fs.readFileSync(v.imagePath(image, pool));
  const signal = new AbortController().signal;
  for (const offset of [0, 1000, stored.length - 1]) {
    const got = await fetcher(ca.issue('n2'))(image, offset, signal);
    const parts: Uint8Array[] = [];
    for await (const chunk of got.data) parts.push(chunk);
    t.ok(Buffer.concat(parts).equals(stored.subarray(offset)), `from ${offset}`);
    t.match(got, { format: 'qcow2', sizeBytes: stored.length, virtualSizeBytes: 2 * MiB });
    t.equal(got.storedSha256, createHash('sha256').update(stored).digest('hex'));
  }
  const there = { ...pool, path: `${dir}/n2pool` };
  const n2 = volumesAt(`${dir}/n2`, { node: 'n2', fetchImage: fetcher(ca.issue('n2')) });
  t.ok(fs.readFileSync(await n2.haveImage(image, there, work())).equals(stored), 'end to end');

  t.equal(
    await codeOf(fetcher(authority(fs.mkdtempSync(`${dir}/ca`)).issue('n2'))(image, 0, signal)),
    'node-unreachable',
    'a stranger',
  );
  t.equal(
    await codeOf(fetcher(ca.issue('n2'))({ ...image, node: 'n9' }, 0, signal)),
    'node-unreachable',
    'a node unknown',
  );
  t.equal(
    await codeOf(fetcher(ca.issue('n2'))({ ...image, id: imageOf(pool).id }, 0, signal)),
    'node-unreachable',
    'no such image',
  );
  const wrongName = serve({
    fetch: app.fetch,
    port: 0,
    hostname: '127.0.0.1',
    createServer: https.createServer,
    serverOptions: ca.issue('n3'),
  }) as https.Server;
  await listening(wrongName);
  t.teardown(() => void wrongName.close());
  const misled = peerImages({
    addressOf: () => '127.0.0.1',
    port: (wrongName.address() as AddressInfo).port,
    tls: () => ca.issue('n2'),
  });
  t.equal(await codeOf(misled(image, 0, signal)), 'node-unreachable', 'another node at that address');
});

/** A certificate authority for one test, by openssl. */
function authority(dir: string) {
  const ssl = (...args: string[]) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' });
  const key = ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out'];
  const tag = randomBytes(4).toString('hex');
  ssl(...key, `${tag}.key`);
  ssl('req', '-x509', '-new', '-key', `${tag}.key`, '-subj', '/CN=test', '-days', '2', '-out', `${tag}.crt`);
  return {
    issue(name: string) {
      ssl(...key, `${name}.key`);
      ssl('req', '-new', '-key', `${name}.key`, '-subj', `/CN=${name}`, '-out', `${name}.csr`);
      fs.writeFileSync(`${dir}/${name}.ext`, `subjectAltName=DNS:${name}\n`);
      ssl(
        'x509',
        '-req',
        '-in',
        `${name}.csr`,
        '-CA',
        `${tag}.crt`,
        '-CAkey',
        `${tag}.key`,
        '-CAcreateserial',
        '-days',
        '2',
        '-extfile',
        `${name}.ext`,
        '-out',
        `${name}.crt`,
      );
      return {
        ca: fs.readFileSync(`${dir}/${tag}.crt`),
        cert: fs.readFileSync(`${dir}/${name}.crt`),
        key: fs.readFileSync(`${dir}/${name}.key`),
      };
    },
  };
}

async function listening(server: http.Server | https.Server): Promise<void> {
  if (!server.listening) await new Promise((resolve) => server.once('listening', resolve));
}
