import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { createAgentHttp } from '../../../agent/http/server.js';
import { imagesApp } from '../../../agent/pool/http.js';
import { makeCa, makeCsr, signNode } from '../../../agent/pki/certificates.js';
import { newPrivateKey } from '../../../agent/pki/keys.js';
import type { TlsMaterial } from '../../../agent/pki/tls.js';
import { HttpsUploads } from '../../../controller/api/uploads.js';
import { systemClock as clock } from '../../../controller/system.js';
import { FlotillaError } from '../../../core/domain/error.js';
import type { Image } from '../../../core/domain/image.js';

const imageId = '00000000-0000-4000-8000-000000000001';

async function certificates(): Promise<{ of(node: string): Promise<TlsMaterial>; remove(): Promise<void> }> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-uploads-'));
  const caKey = path.join(dir, 'ca.key');
  await writeFile(caKey, newPrivateKey(), { mode: 0o600 });
  const ca = await makeCa({
    clusterId: '00000000-0000-4000-8000-0000000000c1',
    keyFile: caKey,
    wallMs: Date.now(),
  });
  return {
    async of(node) {
      const keyFile = path.join(dir, `${node}.key`);
      await writeFile(keyFile, newPrivateKey(), { mode: 0o600 });
      const csr = await makeCsr({ keyFile, commonName: node });
      const subject = { node, addresses: ['127.0.0.1'] };
      const cert = await signNode({ cert: ca, keyFile: caKey }, csr, subject, Date.now());
      return { ca, cert, key: await readFile(keyFile, 'utf8') };
    },
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

const streamOf = (bytes: Uint8Array): ReadableStream<Uint8Array> =>
  new ReadableStream<Uint8Array>({
    start(c) {
      for (let i = 0; i < bytes.length; i += 65_536) c.enqueue(bytes.subarray(i, i + 65_536));
      c.close();
    },
  });

void t.test('bytes go to the agent over mutual TLS; its refusals come back as they are', async (t) => {
  const pki = await certificates();
  const [n1, n2] = [await pki.of('n1'), await pki.of('n2')];
  let file = Buffer.alloc(0);
  let known = true;
  const image = { id: imageId, name: 'img', state: 'uploading', expectedBytes: null } as unknown as Image;
  const app = imagesApp({
    image: async () => (known ? { image, pool: {} as never } : null),
    volumes: {
      uploadOffset: async () => file.length,
      imageFacts: async () => null,
      imagePath: () => '',
      async upload(_image, _pool, offset, data) {
        if (offset !== file.length)
          throw new FlotillaError('offset-mismatch', `it is at ${file.length}`, { hint: 'ask' });
        for await (const part of data) {
          if (file.length + part.length > 3_000_000)
            throw new FlotillaError('no-space', 'the pool is full', { hint: 'free some' });
          file = Buffer.concat([file, part]);
        }
        return file.length;
      },
    },
  });
  const agent = createAgentHttp({
    host: '127.0.0.1',
    port: 0,
    node: 'n2',
    tls: () => n2,
    verifyToken: () => ({ ok: false, code: 'token-unknown' }),
    health: () => ({ ok: true, node: 'n2', version: '0', fingerprint: '' }),
    page: () => '',
    metrics: () => '',
    mounts: [{ path: '/v1/images', app, allow: 'node', bodyBytesMax: null }],
    clock,
    log: { info: () => undefined, warn: () => undefined, error: () => undefined },
  });
  await agent.start();
  const uploads = new HttpsUploads({ tls: () => n1, port: agent.port });
  t.teardown(async () => {
    uploads.close();
    await agent.stop();
    await pki.remove();
  });
  const at = { id: 'n2', address: '127.0.0.1' };
  const { signal } = new AbortController();
  const send = (offset: number, bytes: Uint8Array) =>
    uploads.append(at, imageId, { offset, body: streamOf(bytes), length: String(bytes.length), signal });

  t.equal(await uploads.offset(at, imageId, signal), 0);
  const bytes = Buffer.alloc(2_000_000, 'flotilla');
  t.equal(await send(0, bytes), 2_000_000);
  t.ok(file.equals(bytes));
  await t.rejects(send(7, bytes), { code: 'offset-mismatch' });
  await t.rejects(
    send(2_000_000, Buffer.alloc(50_000_000)),
    { code: 'no-space' },
    'in the middle of a stream, too',
  );
  known = false;
  await t.rejects(uploads.offset(at, imageId, signal), { code: 'not-found' });
  await t.rejects(
    uploads.offset({ id: 'n3', address: '127.0.0.1' }, imageId, signal),
    { code: 'node-unreachable' },
    'whoever answers there must be that node',
  );
});
