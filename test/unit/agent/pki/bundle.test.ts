import { X509Certificate } from 'node:crypto';
import path from 'node:path';
import type { AddressInfo } from 'node:net';
import tls from 'node:tls';
import t from 'tap';
import {
  chainOf,
  chainText,
  isVouched,
  issuerIn,
  pemsIn,
  rootIn,
  successorIn,
} from '../../../../agent/pki/bundle.js';
import { makeCa, makeCsr, signNode, vouch, type Ca } from '../../../../agent/pki/certificates.js';
import { crlMark, makeCrls, readCrl } from '../../../../agent/pki/crl.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { clientTlsOptions, httpsServerOptions, type TlsMaterial } from '../../../../agent/pki/tls.js';
import { Broker, freePort } from '../radio/broker.js';
import { TestCluster } from '../ledger/real-etcd.js';

const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
const dir = t.testdir();
const file = (name: string): string => path.join(dir, `${name}.key`);
const wallMs = Date.now();
const caOf = async (mark?: string): Promise<Ca> => {
  const keyFile = file(mark ?? 'first');
  await ensurePrivateKey(keyFile);
  return {
    keyFile,
    cert: await makeCa({ clusterId, keyFile, wallMs, ...(mark === undefined ? {} : { mark }) }),
  };
};
const [old, next, evil] = [await caOf(), await caOf('next'), await caOf('evil')];
const key = await ensurePrivateKey(file('node'));
const csr = await makeCsr({ keyFile: file('node'), commonName: 'n1' });
const leafOf = (ca: Ca): Promise<string> =>
  signNode(ca, csr, { node: 'n1', addresses: ['127.0.0.1'] }, wallMs);
const [oldLeaf, nextLeaf] = [await leafOf(old), await leafOf(next)];
const word = await vouch(old, next, wallMs);
const handover = `${word}${old.cert}`;
const x = (pem: string): X509Certificate => new X509Certificate(pem);
const both = `${next.cert}${old.cert}`;
const crl = pemsIn(await makeCrls([next, old], 7, []));

void t.test('a CA counts as the next one only by the word of one that is trusted', async (t) => {
  const trusted = [x(old.cert)];
  t.ok(isVouched(x(next.cert), [x(word)], trusted));
  t.notOk(isVouched(x(evil.cert), [x(word)], trusted), 'the word is for another one');
  t.notOk(isVouched(x(next.cert), [], trusted));
  t.notOk(isVouched(x(next.cert), [x(next.cert), x(await vouch(evil, next, wallMs))], trusted));
  t.notOk(isVouched(x(word), [x(word)], trusted), 'the word itself is no CA to trust');
  t.notOk(isVouched(x(oldLeaf), [x(oldLeaf)], trusted), 'nor is a node');
  // A node's certificate is signed by the CA, and is of no CA.
  const node: Ca = { cert: oldLeaf, keyFile: file('node') };
  t.notOk(isVouched(x(next.cert), [x(await vouch(node, next, wallMs)), x(oldLeaf)], trusted));
  t.equal(issuerIn(nextLeaf, both), next.cert);
  t.equal(issuerIn(nextLeaf, old.cert), null);
  t.not(crlMark([], both), crlMark([], next.cert), 'lists of two CAs are others than those of one');
  t.same(
    await readCrl(crl.join(''), old.cert),
    { number: 7, serials: [], pem: crl[1] },
    'of a CA not known yet: left out',
  );
});

/** Shakes hands. @returns what the client saw, and whether each took the other */
function shake(server: tls.TlsOptions, client: tls.ConnectionOptions) {
  return new Promise<{ chain: X509Certificate[]; client: string; server: string }>((resolve) => {
    const s = tls.createServer(server, (socket) => {
      socket.on('error', () => undefined);
      socket.end(socket.authorized ? 'yes' : String(socket.authorizationError));
    });
    s.on('tlsClientError', () => undefined);
    s.listen(0, '127.0.0.1', () => {
      const { port } = s.address() as AddressInfo;
      const done = (r: { chain: X509Certificate[]; client: string; server: string }): void => {
        s.close();
        resolve(r);
      };
      const socket = tls.connect({ host: '127.0.0.1', port, ...client }, () => {
        const chain = chainOf(socket);
        let text = '';
        socket.on('data', (d: Buffer) => (text += d.toString()));
        socket.on('end', () => done({ chain, client: 'yes', server: text }));
      });
      socket.on('error', (e: NodeJS.ErrnoException) => done({ chain: [], client: e.code ?? '', server: '' }));
    });
  });
}

void t.test('what a server sends leads from the CA of before to the new one', async (t) => {
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const look = async (m: TlsMaterial) =>
      (await shake(httpsServerOptions(m), { rejectUnauthorized: false, maxVersion })).chain;
    const now = await look({ key, cert: nextLeaf, ca: next.cert, handover });
    t.equal(rootIn(now)?.toString(), x(next.cert).toString(), 'who logs in compares this one');
    t.equal(successorIn(now, old.cert), x(next.cert).toString());
    t.equal(successorIn(now, next.cert), x(next.cert).toString());
    t.equal(successorIn(now, evil.cert), null);
    t.equal(successorIn([], old.cert), null);
    for (const ca of [both, `${old.cert}${next.cert}`]) {
      const before = await look({ key, cert: oldLeaf, ca, handover });
      t.equal(
        successorIn(before, old.cert),
        x(old.cert).toString(),
        'the new one is known, the old one signs',
      );
      const during = await look({ key, cert: nextLeaf, ca, handover });
      t.equal(successorIn(during, old.cert), x(next.cert).toString());
    }
    const forged = await look({ key, cert: await leafOf(evil), ca: evil.cert, handover });
    t.equal(successorIn(forged, old.cert), null);
  }
  t.equal(
    chainText({ cert: oldLeaf, ca: old.cert }),
    `${oldLeaf}${old.cert}`,
    'as ever where it was never replaced',
  );
});

void t.test(
  'HTTPS: with both CAs and their lists each takes each; at the end the old one is refused',
  async (t) => {
    const all = [oldLeaf, nextLeaf].map((cert): TlsMaterial => ({ key, cert, ca: both, crl, handover }));
    for (const s of all)
      for (const c of all)
        t.match(await shake(httpsServerOptions(s), clientTlsOptions(c)), { client: 'yes', server: 'yes' });
    const end: TlsMaterial = { key, cert: nextLeaf, ca: next.cert, crl: crl.slice(0, 1), handover };
    const [first] = all;
    if (first === undefined) throw new Error('none');
    t.match(await shake(httpsServerOptions(end), clientTlsOptions(end)), { client: 'yes', server: 'yes' });
    const late = await shake(httpsServerOptions(end), clientTlsOptions(first));
    t.match(late, { client: 'yes' });
    t.not(late.server, 'yes', 'a certificate of the old CA is of nobody');
    t.not((await shake(httpsServerOptions(first), clientTlsOptions(end))).client, 'yes');
    const only: TlsMaterial = { key, cert: oldLeaf, ca: old.cert, crl: crl.slice(1) };
    t.not(
      (await shake(httpsServerOptions(end), clientTlsOptions(only))).client,
      'yes',
      'by the word alone OpenSSL trusts nobody',
    );
  },
);

void t.test('mosquitto takes certificates of both, with the lists of both in one file', async (t) => {
  const broker = new Broker({
    dir: t.testdir(),
    port: await freePort(),
    tls: { key, cert: oldLeaf, ca: both, crl },
  });
  t.teardown(() => broker.stop('SIGKILL'));
  await broker.start();
  const takes = (cert: string): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = tls.connect({
        host: '127.0.0.1',
        port: broker.port,
        ...clientTlsOptions({ key, cert, ca: both, crl }),
        checkServerIdentity: () => undefined,
      });
      // A CONNECT of MQTT 5; who is not let in gets an alert instead of an answer.
      socket.on('secureConnect', () =>
        socket.write(Buffer.from('101000044d5154540502003c00000378797a', 'hex')),
      );
      socket.on('data', () => socket.destroy(new Error('yes')));
      socket.on('error', (e: Error) => resolve(e.message === 'yes'));
      socket.on('close', () => resolve(false));
    });
  t.same([await takes(oldLeaf), await takes(nextLeaf), await takes(await leafOf(evil))], [true, true, false]);
});

void t.test('etcd takes both after it was started anew', async (t) => {
  const cluster = new TestCluster(t.testdir());
  t.teardown(() => cluster.stop());
  await cluster.start(['n1']);
  const keyFile = path.join(dir, 'later.key');
  await ensurePrivateKey(keyFile);
  const later = { keyFile, cert: await makeCa({ clusterId, keyFile, wallMs, mark: 'later' }) };
  const mine = await cluster.tls('client', []);
  const theirs = { ...(await cluster.tls('client', [], wallMs, later)), ca: cluster.ca.cert };
  const asks = async (m: TlsMaterial): Promise<boolean> => {
    const ledger = await cluster.client({ tls: m, deadlineMs: 30_000 });
    return ledger
      .get('/x')
      .then(
        () => true,
        () => false,
      )
      .finally(() => ledger.close());
  };
  const first = await cluster.client({ tls: mine });
  await cluster.ready(first);
  await first.close();
  t.equal(await asks(theirs), false);
  await cluster.trust(`${later.cert}${cluster.ca.cert}`, await makeCrls([later, cluster.ca], 2, []));
  t.equal(await asks(theirs), false, 'etcd reads the CAs as it starts');
  const [member] = cluster.members;
  await member?.kill();
  member?.start();
  const again = await cluster.client({ tls: mine });
  await cluster.ready(again);
  await again.close();
  t.same([await asks(theirs), await asks(mine)], [true, true]);
});
