import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import t from 'tap';
import { PeerSockets } from '../../../../agent/http/peer-sockets.js';
import { certificateRecord, makeCa, makeCsr, signNode } from '../../../../agent/pki/certificates.js';
import { crlMark, makeCrl, nextCrlNumber, readCrl } from '../../../../agent/pki/crl.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { openssl } from '../../../../agent/pki/openssl.js';
import { peerNode } from '../../../../agent/pki/identity.js';
import { pkiPaths, readTls, writePublic } from '../../../../agent/pki/store.js';
import { clientTlsOptions, httpsServerOptions, type TlsMaterial } from '../../../../agent/pki/tls.js';
import { isOver, revokedKey, revokedMax, revokedNow } from '../../../../core/decide/revocation.js';
import type { CertificateRecord } from '../../../../core/domain/certificate.js';
import { Broker, freePort, until } from '../radio/broker.js';
import { TestCluster } from '../ledger/real-etcd.js';

const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
const dayMs = 86_400_000;
const dir = t.testdir();

async function newCa(name: string) {
  const keyFile = path.join(dir, `${name}.key`);
  await ensurePrivateKey(keyFile);
  return { keyFile, cert: await makeCa({ clusterId, keyFile, wallMs: Date.now() }) };
}
const ca = await newCa('ca');

async function node(name: string): Promise<TlsMaterial> {
  const keyFile = path.join(dir, `${name}.key`);
  const key = await ensurePrivateKey(keyFile);
  const csr = await makeCsr({ keyFile, commonName: name });
  const subject = { node: name, addresses: ['127.0.0.1'] };
  return { key, ca: ca.cert, cert: await signNode(ca, csr, subject, Date.now()) };
}
const [n1, n2] = [await node('n1'), await node('n2')];
const revoked = (pem: string, atMs = Date.now()): CertificateRecord => ({
  ...certificateRecord(pem, Date.now()),
  revoked: { atMs, why: 'removed' },
});
const gone = revoked(n2.cert);
const none = await makeCrl(ca, 7, []);
const list = await makeCrl(ca, 8, [gone]);

void t.test('a list says what it was told, as long as the CA lives', async (t) => {
  t.same(await readCrl(none, ca.cert), { number: 7, serials: [], pem: none });
  t.same(await readCrl(list, ca.cert), { number: 8, serials: [gone.serial], pem: list });
  const many = Array.from({ length: revokedMax }, (_, i) => ({
    ...gone,
    serial: (0xabcd000000n + BigInt(i)).toString(16).padStart(40, '7').toUpperCase(),
  }));
  const full = await makeCrl(ca, Date.now(), many);
  t.ok(JSON.stringify(full).length < 63_000, 'the longest one fits the ledger');
  t.equal((await readCrl(full, ca.cert)).serials.length, revokedMax);
  await writeFile(path.join(dir, 'crl'), list);
  const { stdout } = await openssl(['crl', '-in', 'crl', '-noout', '-lastupdate', '-nextupdate'], {
    cwd: dir,
  });
  const [from = 0, to = 0] = stdout.split('\n').map((l) => Date.parse(l.split('=')[1] ?? ''));
  t.ok(from < Date.now() - dayMs / 2, 'valid also where the clock is some hours behind');
  t.ok(to > Date.now() + 7_000 * dayMs, 'and when nobody makes a new one for years');
  t.equal(crlMark(['B', 'A']), crlMark(['A', 'B']));
  t.equal(nextCrlNumber(5, 9_000), 9);
  t.equal(nextCrlNumber(12, 9_000), 13, 'clocks may go back, numbers do not');
});

void t.test('a list of somebody else, or a damaged one, is refused', async (t) => {
  const other = await newCa('other');
  await t.rejects(readCrl(await makeCrl(other, 9, []), ca.cert), { code: 'bad-input' });
  for (const bad of ['', 'junk', ca.cert, list.slice(0, 200), list.replace(/[A-P]/, 'Q')])
    await t.rejects(readCrl(bad, ca.cert), { code: 'bad-input' });
});

void t.test('which certificates a list names', async (t) => {
  const nowMs = Date.now();
  const good = certificateRecord(n1.cert, nowMs);
  t.same(revokedNow([good, gone], nowMs), [gone]);
  t.same(revokedNow([gone], gone.notAfterMs + 2 * dayMs), [], 'not those that nobody could use any more');
  t.ok(isOver(gone, gone.notAfterMs + 2 * dayMs) && !isOver(gone, gone.notAfterMs));
  const all = Array.from({ length: revokedMax + 2 }, (_, i) => ({
    ...gone,
    serial: String(i).padStart(40, '0'),
    revoked: { atMs: i, why: 'removed' as const },
  }));
  const named = revokedNow(all, 0);
  t.equal(named.length, revokedMax);
  t.notOk(
    named.some((c) => c.revoked !== null && c.revoked.atMs < 2),
    'of too many the last ones',
  );
  t.equal(revokedKey([good, gone], good.fingerprint), null);
  t.equal(revokedKey([good, gone], gone.fingerprint), gone);
});

void t.test('a damaged list on disk does not take the node off the cluster', async (t) => {
  const stateDir = t.testdir();
  const p = pkiPaths(stateDir);
  await writePublic(p.caCert, ca.cert);
  await writePublic(p.nodeCert, n1.cert);
  await writePublic(p.nodeKey, n1.key);
  t.notOk('crl' in (await readTls(stateDir)));
  await writePublic(p.crl, list);
  t.same((await readTls(stateDir)).crl, [list]);
  await writePublic(p.crl, list.slice(0, 150));
  t.notOk('crl' in (await readTls(stateDir)));
});

void t.test(
  'HTTPS of ours: a revoked one is nobody, at either end, and what it has open is cut',
  async (t) => {
    const server = https.createServer(httpsServerOptions({ ...n1, crl: [none] }), (req, res) =>
      res.end(JSON.stringify(peerNode(req.socket))),
    );
    const peers = new PeerSockets(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      server.closeAllConnections();
      server.close();
    });
    const { port } = server.address() as AddressInfo;
    const get = (m: TlsMaterial) =>
      new Promise<unknown>((resolve, reject) => {
        const req = https.get({ host: '127.0.0.1', port, agent: false, ...clientTlsOptions(m) }, (res) => {
          let text = '';
          res.on('data', (d: Buffer) => (text += d.toString()));
          res.on('end', () => resolve(JSON.parse(text)));
        });
        req.on('error', reject);
      });
    t.match(await get(n2), { node: 'n2', serial: gone.serial });
    const open = (m: TlsMaterial) => {
      const socket = tlsConnect({ host: '127.0.0.1', port, ...clientTlsOptions(m) });
      socket.on('error', () => undefined);
      const closed = new Promise<string>((resolve) => socket.once('close', () => resolve('cut')));
      return { socket, closed, up: new Promise<void>((resolve) => socket.once('secureConnect', resolve)) };
    };
    const [bad, good] = [open(n2), open(n1)];
    await Promise.all([bad.up, good.up, get(n1)]);
    await get(n1);
    peers.cut((p) => p.node !== 'n2');
    t.equal(await bad.closed, 'cut');
    t.notOk(good.socket.destroyed);
    good.socket.destroy();
    server.setSecureContext(httpsServerOptions({ ...n1, crl: [list] }));
    t.equal(await get(n2), 'wrong');
    t.match(await get({ ...n1, crl: [list] }), { node: 'n1' });
    server.setSecureContext(httpsServerOptions({ ...n2, crl: [none] }));
    await t.rejects(get({ ...n1, crl: [list] }), { code: 'CERT_REVOKED' }, 'a server with a stolen key');
  },
);

void t.test('etcd: from one handshake to the next, clients and members', async (t) => {
  const cluster = new TestCluster(t.testdir());
  t.teardown(() => cluster.stop());
  await cluster.start(['n1']);
  const [tls, other] = [await cluster.tls('client', []), await cluster.tls('n7', [])];
  const ask = async (m: TlsMaterial): Promise<string> => {
    const ledger = await cluster.client({ tls: m, deadlineMs: 30_000 });
    return ledger
      .get('/flotilla/x')
      .then(
        () => 'let in',
        () => 'refused',
      )
      .finally(() => ledger.close());
  };
  const first = await cluster.client({ tls });
  t.teardown(() => first.close());
  await cluster.ready(first);
  t.same([await ask(tls), await ask(other)], ['let in', 'let in']);
  await cluster.revoke(other.cert);
  t.same([await ask(tls), await ask(other)], ['let in', 'refused']);
  const [member] = cluster.members;
  const log = (): string => member?.log() ?? '';
  await until('etcd to say so', () => /rejected connection on client endpoint.*revoked/.test(log()));
  const peer = member?.address ?? '';
  const socket = tlsConnect({
    host: peer,
    port: cluster.ports.ledgerPeer,
    ...clientTlsOptions(other),
    checkServerIdentity: () => undefined,
  });
  socket.on('error', () => undefined);
  socket.resume();
  await new Promise((resolve) => socket.once('close', resolve));
  await until('etcd to say so', () => /rejected connection on peer endpoint.*revoked/.test(log()));
});

void t.test('mosquitto: after a reload', async (t) => {
  const broker = new Broker({ dir: t.testdir(), port: await freePort(), tls: { ...n1, crl: [none] } });
  t.teardown(() => broker.stop('SIGKILL'));
  await broker.start();
  const shake = (m: TlsMaterial): Promise<string> =>
    new Promise((resolve) => {
      const socket = tlsConnect({
        host: '127.0.0.1',
        port: broker.port,
        ...clientTlsOptions(m),
        minVersion: 'TLSv1.3',
      });
      let why = 'closed';
      socket.on('error', (e: NodeJS.ErrnoException) => (why = e.code ?? e.message));
      socket.once('close', () => resolve(why));
      // With TLS 1.3 the client is done before the server has looked at its certificate: an MQTT CONNECT tells.
      socket.once('secureConnect', () =>
        socket.write(Buffer.from('100e00044d5154540502003c00000178', 'hex')),
      );
      socket.once('data', (d: Buffer) => {
        why = d[0] === 0x20 ? 'let in' : 'no CONNACK';
        socket.destroy();
      });
    });
  t.equal(await shake(n2), 'let in');
  await writePublic(path.join(broker.dir, 'ca.crl'), list);
  broker.reload();
  await until('the revoked one to be refused', async () => /REVOKED/.test(await shake(n2)), 60_000);
  t.equal(await shake(n1), 'let in');
  t.match(await readFile(`${broker.dir}/mosquitto.conf`, 'utf8'), /^crlfile /m);
});
