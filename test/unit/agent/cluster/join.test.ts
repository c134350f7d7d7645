import { readFile, readdir, rm } from 'node:fs/promises';
import https from 'node:https';
import path from 'node:path';
import tls from 'node:tls';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { readClusterCache } from '../../../../agent/cluster/cache.js';
import { fetchCa, fetchCaKeys, join, request } from '../../../../agent/cluster/join.js';
import { certificateSha256 } from '../../../../agent/pki/bundle.js';
import { renewAnswerSchema } from '../../../../agent/cluster/join-wire.js';
import { addressesMax, perAddress, RateLimit } from '../../../../agent/cluster/rate-limit.js';
import { certificateInfo, makeCa, makeCsr, signNode, isFor } from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { readTls } from '../../../../agent/pki/store.js';
import { httpsServerOptions } from '../../../../agent/pki/tls.js';
import { parseJoinToken } from '../../../../agent/pki/tokens.js';
import { ledger as kinds, unique } from '../../../../core/wire/ledger-keys.js';
import { FakeServices, KeptLog, Rig } from './rig.js';

async function rig(t: { testdir(): string; teardown(f: () => void): void }): Promise<Rig> {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  return r;
}
type JoinArgs = Parameters<typeof join>[0];

function joiner(r: Rig, name: string, address: string, o: Partial<JoinArgs> = {}) {
  const services = new FakeServices();
  const log = new KeptLog();
  const config = r.nodeConfig(name, address);
  return { services, log, config, deps: { config, services, clock: r.clock, log, limitMs: 0, ...o } };
}

/** A request as an attacker writes it. */
async function raw(r: Rig, body: unknown, o: { from?: string } = {}): Promise<unknown> {
  return request({
    address: r.config.address,
    port: r.port,
    path: '/join',
    method: 'POST',
    body,
    tls: { ca: r.meta.ca },
    localAddress: o.from ?? '127.0.0.66',
  });
}

async function validBody(r: Rig, tokenText: string, name = 'n9', address = '127.0.0.66') {
  const { id, secret } = parseJoinToken(tokenText);
  const keyFile = path.join(r.dir, `${name}-raw.key`);
  await ensurePrivateKey(keyFile);
  return { tokenId: id, secret, csr: await makeCsr({ keyFile, commonName: 'x' }), name, address };
}

void t.test('a node joins: certificate, broker, cache, record; the token is used up', async (t) => {
  const r = await rig(t);
  const token = await r.token();
  const j = joiner(r, 'n2', '127.0.0.12');
  const joined = await join(j.deps, `${token}\n`);
  t.match(joined, { clusterId: r.founded.clusterId, name: 'test', node: 'n2' });
  t.same(j.services.calls, ['enable flotilla-mosquitto'], 'no etcd: it is a client');
  const material = await readTls(j.config.stateDir);
  const info = certificateInfo(material.cert);
  t.equal(info.commonName, 'n2');
  const node = await r.store.read(kinds.node, 'n2');
  t.match(node?.value, {
    voter: false,
    desired: 'active',
    addresses: ['127.0.0.12'],
    fingerprint: info.fingerprint,
  });
  t.equal(joined.fingerprint, info.fingerprint);
  t.equal(r.memory.peek(unique.nodeAddress('127.0.0.12'))?.value, 'n2');
  t.match(await readClusterCache(j.config.stateDir), {
    node: 'n2',
    address: '127.0.0.12',
    ledgerEndpoints: ['https://127.0.0.11:2379'],
    peers: [{ node: 'n1' }, { node: 'n2' }],
  });
  t.notOk((await readdir(path.join(j.config.stateDir, 'pki'))).includes('ca.key'), 'a client has no CA key');
  const { secret, id } = parseJoinToken(token);
  t.equal((await r.store.read(kinds.token, id))?.value.usesLeft, 0);
  for (const text of [...r.log.lines, ...j.log.lines, ...r.memory.history.map((c) => c.value ?? '')]) {
    if (text.includes(secret)) t.fail('the secret is written somewhere');
  }
  await t.rejects(join(j.deps, token), { code: 'already-founded' });
  await t.rejects(join(joiner(r, 'n3', '127.0.0.13').deps, token), { code: 'token-used-up' });
});

void t.test(
  'refusals: their codes, nothing written, all counted, no key left behind by the server',
  async (t) => {
    const r = await rig(t);
    const good = await r.token({ uses: 5 });
    const expired = await r.token({ ttlMs: 1 });
    const api = await r.token({ kind: 'api' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    const p = parseJoinToken(good);
    const wrongSecret = good.replace(p.secret, 'A'.repeat(43));
    const wrongId = good.replace(`.${p.id}.`, '.zzzzzzzz.');
    const before = r.memory.revision;
    for (const [token, code] of [
      [expired, 'token-expired'],
      [wrongSecret, 'token-unknown'],
      [wrongId, 'token-unknown'],
      [api, 'token-unknown'],
      ['flt1.rubbish', 'bad-input'],
      ['', 'bad-input'],
      [good.replace('127.0.0.11', '999.0.0.1'), 'bad-input'],
    ] as const) {
      await t.rejects(join(joiner(r, 'n2', '127.0.0.12').deps, token), { code });
    }
    const impostor = joiner(r, 'n1', '127.0.0.12');
    await t.rejects(
      join({ ...impostor.deps, config: { ...impostor.config, stateDir: path.join(r.dir, 'n1b') } }, good),
      { code: 'name-taken' },
    );
    await t.rejects(join(joiner(r, 'n5', '127.0.0.11').deps, good), { code: 'address-taken' });
    t.equal(r.memory.revision, before, 'nothing was written');
    t.match(r.join.refused(), {
      'token-expired': 1,
      'token-unknown': 3,
      'name-taken': 1,
      'address-taken': 1,
    });
  },
);

void t.test('a node with a storage address joins: record and certificate have it', async (t) => {
  const r = await rig(t);
  const storage = async (name: string, address: string, storageAddress: string) => {
    const j = joiner(r, name, address);
    return { ...j, done: join({ ...j.deps, config: { ...j.config, storageAddress } }, await r.token()) };
  };
  const j = await storage('n2', '127.0.0.12', '127.9.0.2');
  await j.done;
  t.same((await r.store.read(kinds.node, 'n2'))?.value.addresses, ['127.0.0.12', '127.9.0.2']);
  const { cert } = await readTls(j.config.stateDir);
  t.same(
    ['127.0.0.12', '127.9.0.2', '127.9.0.3'].map((a) => isFor(cert, a)),
    [true, true, false],
  );
  await t.rejects((await storage('n3', '127.0.0.13', '127.9.0.2')).done, { code: 'address-taken' });
  await t.rejects((await storage('n3', '127.0.0.13', '127.0.0.11')).done, { code: 'address-taken' });
});

void t.test('hostile requests', async (t) => {
  const r = await rig(t);
  const good = await r.token({ uses: 5 });
  const body = await validBody(r, good);
  const before = r.memory.revision;
  let n = 0;
  // Each from its own address: the limit per address is another test.
  const refused = async (value: unknown, code: string, what: string) =>
    t.rejects(raw(r, value, { from: `127.0.66.${++n}` }), { code }, what);
  await refused({ ...body, csr: 'x'.repeat(1024 * 1024) }, 'too-large', 'a CSR of 1 MB');
  await refused({ ...body, csr: 'x'.repeat(10_000) }, 'bad-input', 'a CSR of 10 kB');
  await refused({ ...body, name: 'a/b' }, 'bad-input', 'a name with a slash');
  await refused({ ...body, name: '../../etc/passwd' }, 'bad-input', 'a name as a path');
  await refused({ ...body, name: 'n9\n' }, 'bad-input', 'a name with a line break');
  await refused({ ...body, name: 'x'.repeat(33) }, 'bad-input', 'a long name');
  await refused({ ...body, address: '127.0.0.11' }, 'bad-input', "the voter's address, from elsewhere");
  await refused({ ...body, address: '10.0.0.1, DNS:n1' }, 'bad-input', 'an address with more in it');
  await refused({ ...body, voter: true }, 'unknown-field', 'a field of its own');
  await refused({ ...body, tokenId: '../meta' }, 'bad-input', 'an id that is a path');
  await refused([], 'bad-input', 'an array');
  await refused(null, 'bad-input', 'null');
  await refused(undefined, 'bad-input', 'nothing');
  t.equal(r.memory.revision, before);
  t.equal(JSON.stringify(r.join.refused()).includes('internal'), false);
  await t.resolves(raw(r, body, { from: '127.0.0.66' }), 'and the honest one passes');
});

void t.test('the small limit on bodies is not that of the server it is mounted in', async (t) => {
  const r = await rig(t);
  const size = await new Promise<string>((resolve, reject) => {
    const req = https.request(
      {
        host: r.config.address,
        port: r.port,
        path: '/upload',
        method: 'POST',
        ca: r.meta.ca,
        servername: '',
        agent: false,
      },
      (res) => {
        let text = '';
        res.on('data', (d: Buffer) => (text += d.toString())).on('end', () => resolve(text));
      },
    );
    req.on('error', reject);
    req.end(Buffer.alloc(1024 * 1024));
  });
  t.equal(size, String(1024 * 1024));
});

void t.test(
  'a lost answer: the same key is answered again, another key is refused, one use is taken',
  async (t) => {
    const r = await rig(t);
    const token = await r.token();
    const j = joiner(r, 'n2', '127.0.0.12');
    // The transaction is done, its answer lost: the first try ends with an error, the second by the same key is answered.
    r.client.failNext('unknown', { only: 'txn' });
    await t.rejects(join(j.deps, token), { code: 'ledger-unavailable' });
    t.ok(r.memory.peek(kinds.node.key('n2')), 'it was admitted');
    t.equal(await readClusterCache(j.config.stateDir), null, 'and does not know');
    await t.rejects(
      join(joiner(r, 'n3', '127.0.0.13').deps, token),
      { code: 'token-used-up' },
      'somebody else',
    );
    await t.rejects(
      join({ ...j.deps, config: { ...j.config, stateDir: path.join(r.dir, 'thief') } }, token),
      { code: 'token-used-up' },
      'the same name with another key',
    );
    const joined = await join(j.deps, token);
    t.equal(joined.node, 'n2');
    t.equal((await r.store.list(kinds.node)).items.length, 2);
    t.equal(r.memory.history.filter((c) => c.key === kinds.node.key('n2')).length, 1, 'written once');
  },
);

void t.test('a lost answer is asked for again by itself', async (t) => {
  const r = await rig(t);
  const token = await r.token();
  const j = joiner(r, 'n2', '127.0.0.12', { limitMs: 60_000 });
  r.client.failNext('unknown', { only: 'txn' });
  r.client.failNext('refused', { only: 'any' });
  t.equal((await join(j.deps, token)).node, 'n2');
  t.match(j.log.lines, [/tried again/]);
});

void t.test('cut off after the answer, before the cache: joining again goes on', async (t) => {
  const r = await rig(t);
  const token = await r.token();
  const j = joiner(r, 'n2', '127.0.0.12');
  j.services.onEnable = () => {
    throw new Error('power cut');
  };
  await t.rejects(join(j.deps, token), /power cut/);
  j.services.onEnable = () => undefined;
  t.equal((await join(j.deps, token)).node, 'n2');
});

void t.test(
  'many join at once with one token: as many as it has uses, no name and no address twice',
  async (t) => {
    const r = await rig(t);
    const token = await r.token({ uses: 3 });
    const results = await Promise.allSettled(
      [12, 13, 14, 15, 16].map((i) => join(joiner(r, `n${i}`, `127.0.0.${i}`).deps, token)),
    );
    t.equal(results.filter((x) => x.status === 'fulfilled').length, 3);
    for (const x of results) if (x.status === 'rejected') t.match(x.reason, { code: 'token-used-up' });
    t.equal((await r.store.read(kinds.token, parseJoinToken(token).id))?.value.usesLeft, 0);

    const same = await r.token({ uses: 5 });
    const twins = await Promise.allSettled(
      ['a', 'b', 'c'].map((dir, i) => {
        const j = joiner(r, 'twin', `127.0.0.2${i}`);
        return join({ ...j.deps, config: { ...j.config, stateDir: path.join(r.dir, `twin-${dir}`) } }, same);
      }),
    );
    t.equal(twins.filter((x) => x.status === 'fulfilled').length, 1);
    for (const x of twins) if (x.status === 'rejected') t.match(x.reason, { code: 'name-taken' });
    t.equal((await r.store.read(kinds.token, parseJoinToken(same).id))?.value.usesLeft, 4);

    const cousins = await Promise.allSettled(
      ['p', 'q'].map((name) => join(joiner(r, name, '127.0.0.30').deps, same)),
    );
    t.equal(cousins.filter((x) => x.status === 'fulfilled').length, 1);
    for (const x of cousins) if (x.status === 'rejected') t.match(x.reason, { code: 'address-taken' });
  },
);

void t.test(
  'clock skew: a signer that is a day behind still gives a certificate that counts now',
  async (t) => {
    const r = await rig(t);
    const token = await r.token();
    r.clock.wallOffsetMs = -12 * 3_600_000;
    const j = joiner(r, 'n2', '127.0.0.12');
    await join(j.deps, token);
    r.clock.wallOffsetMs = 0;
    const { cert } = await readTls(j.config.stateDir);
    t.ok(certificateInfo(cert).notBeforeMs < Date.now() - 86_400_000);
    const late = await r.token();
    r.clock.wallOffsetMs = 2 * 86_400_000;
    await t.rejects(join(joiner(r, 'n3', '127.0.0.13').deps, late), {
      code: 'token-expired',
      hint: /clocks/,
    });
  },
);

void t.test('a server that is not of the token gets no secret', async (t) => {
  const r = await rig(t);
  const token = await r.token();
  const dir = path.join(r.dir, 'evil');
  const keyFile = path.join(dir, 'ca.key');
  await ensurePrivateKey(keyFile);
  const cert = await makeCa({ clusterId: r.founded.clusterId, keyFile, wallMs: Date.now() });
  const nodeKey = path.join(dir, 'node.key');
  const key = await ensurePrivateKey(nodeKey);
  const csr = await makeCsr({ keyFile: nodeKey, commonName: 'n1' });
  const own = await signNode({ cert, keyFile }, csr, { node: 'n1', addresses: ['127.0.0.11'] }, Date.now());
  let bytes = 0;
  const serve = async (options: tls.TlsOptions) => {
    const s = tls.createServer(options, (socket) => socket.on('data', (d: Buffer) => (bytes += d.length)));
    s.on('tlsClientError', () => undefined);
    await new Promise<void>((resolve) => s.listen(0, '127.0.0.11', resolve));
    t.teardown(() => s.close());
    return (s.address() as AddressInfo).port;
  };
  const p = parseJoinToken(token);
  const at = (port: number) => token.replace(`:${p.port}`, `:${port}`);
  const evil = await serve(httpsServerOptions({ ca: cert, cert: own, key }));
  await t.rejects(join(joiner(r, 'n2', '127.0.0.12').deps, at(evil)), {
    code: 'wrong-certificate',
    hint: /secret was not sent/,
  });
  // It shows the true CA in its chain, which is public, with a certificate that this CA did not sign.
  const liar = await serve({ key, cert: `${own}${r.meta.ca}` });
  await t.rejects(join(joiner(r, 'n2', '127.0.0.12').deps, at(liar)), {
    code: /wrong-certificate|node-unreachable/,
  });
  // A node of the cluster that sits at an address that is not its own.
  const j = joiner(r, 'n7', '127.0.0.17');
  await join(j.deps, await r.token());
  const insider = await serve(httpsServerOptions(await readTls(j.config.stateDir)));
  await t.rejects(join(joiner(r, 'n2', '127.0.0.12').deps, at(insider)), { code: 'node-unreachable' });
  t.equal(bytes, 0, 'none of them got a byte');
  await t.rejects(fetchCa({ address: '127.0.0.11', port: 1, caSha256: '' }), { code: 'node-unreachable' });
});

void t.test('guessing is slowed down, with bounded memory', async (t) => {
  const r = await rig(t);
  const guesses = await Promise.allSettled(
    Array.from({ length: perAddress.burst + 3 }, () =>
      raw(r, { tokenId: 'aaaaaaaa', secret: 'A'.repeat(43), csr: '', name: 'n9', address: '127.0.0.66' }),
    ),
  );
  const codes = guesses.map((g) => (g.status === 'rejected' ? (g.reason as { code: string }).code : 'fine'));
  t.equal(codes.filter((c) => c === 'rate-limited').length, 3);
  t.equal(codes.filter((c) => c === 'token-unknown').length, perAddress.burst);

  const limit = new RateLimit(0);
  for (let i = 0; i < addressesMax * 3; i++) limit.take(`10.${i >> 8}.${i & 255}.1`, i * 60_000);
  t.ok(limit.size <= addressesMax);
  const l = new RateLimit(0);
  for (let i = 0; i < perAddress.burst; i++) t.ok(l.take('a', 0));
  t.notOk(l.take('a', 0));
  t.ok(l.take('b', 0), 'others are not punished for it');
  t.notOk(l.take('a', 5_000));
  t.ok(l.take('a', 60_000 / perAddress.perMinute + 1));
});

void t.test('the key of the CA: only to a node that the members name', async (t) => {
  const r = await rig(t);
  const j = joiner(r, 'n2', '127.0.0.12');
  await join(j.deps, await r.token());
  const material = await readTls(j.config.stateDir);
  const ask = (o: Parameters<typeof fetchCaKeys>[0]['tls']) =>
    fetchCaKeys({ address: r.config.address, port: r.port, tls: o });
  await t.rejects(ask({ ca: r.meta.ca }), { code: 'unauthenticated' });
  await t.rejects(ask(material), { code: 'forbidden' }, 'a node, but no voter');
  r.members = [{ id: '2', name: '', peerUrls: ['https://127.0.0.12:2380'], clientUrls: [], learner: true }];
  t.same(await ask(material), [await readFile(path.join(r.config.stateDir, 'pki/ca.key'), 'utf8')]);

  // Signed by our CA, but the node was removed: its record is gone.
  r.memory.client('x');
  await r.store.txn([], [{ del: kinds.node.key('n2') }]);
  await t.rejects(ask(material), { code: 'wrong-certificate' });
});

void t.test('renewal: the same key, the addresses of the record, nothing of what is asked', async (t) => {
  const r = await rig(t);
  const j = joiner(r, 'n2', '127.0.0.12');
  await join(j.deps, await r.token());
  const material = await readTls(j.config.stateDir);
  const pki = path.join(j.config.stateDir, 'pki');
  const renew = async (csr: string, o: object = material) =>
    renewAnswerSchema.parse(
      await request({
        address: r.config.address,
        port: r.port,
        path: '/renew',
        method: 'POST',
        body: { csr },
        tls: { ca: r.meta.ca, ...o },
      }),
    ).cert;
  const cert = await renew(await makeCsr({ keyFile: path.join(pki, 'node.key'), commonName: 'n1' }));
  t.match(certificateInfo(cert), {
    commonName: 'n2',
    fingerprint: certificateInfo(material.cert).fingerprint,
  });
  t.not(certificateInfo(cert).serial, certificateInfo(material.cert).serial);
  // One that was off for years: its key is as good as ever, and is what the ledger has of it.
  const ca = { cert: r.meta.ca, keyFile: path.join(r.config.stateDir, 'pki/ca.key') };
  const own = await makeCsr({ keyFile: path.join(pki, 'node.key'), commonName: 'n2' });
  const subject = { node: 'n2', addresses: ['127.0.0.12'] };
  const expired = await signNode(ca, own, subject, Date.now() - 1_000 * 86_400_000);
  t.match(certificateInfo(await renew(own, { ...material, cert: expired })), { commonName: 'n2' });
  const other = path.join(r.dir, 'other.key');
  await ensurePrivateKey(other);
  const thief = await signNode(
    ca,
    await makeCsr({ keyFile: other, commonName: 'n2' }),
    subject,
    Date.now() - 1_000 * 86_400_000,
  );
  const shown = { cert: thief, key: await readFile(other, 'utf8') };
  await t.rejects(renew(own, shown), { code: 'wrong-certificate' }, 'another key of that name');
  const foreign = await makeCsr({ keyFile: other, commonName: 'n2' });
  await t.rejects(renew(foreign), { code: 'bad-input', message: /another key/ });
  await t.rejects(renew(foreign, { cert: undefined, key: undefined }), { code: 'unauthenticated' });
});

void t.test('a node that cannot sign says who can', async (t) => {
  const r = await rig(t);
  const token = await r.token();
  await rm(path.join(r.config.stateDir, 'pki/ca.key'));
  await t.rejects(join(joiner(r, 'n2', '127.0.0.12').deps, token), {
    code: 'wrong-state',
    details: { signers: ['127.0.0.11'] },
  });
  t.equal(certificateSha256(r.meta.ca), parseJoinToken(token).caSha256);
});
