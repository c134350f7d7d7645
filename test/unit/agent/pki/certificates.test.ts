import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import https from 'node:https';
import path from 'node:path';
import t from 'tap';
import { certificateSha256 } from '../../../../agent/pki/bundle.js';
import {
  certificateFault,
  certificateInfo,
  checkCsr,
  dueForRenewal,
  makeCa,
  makeCsr,
  signNode,
} from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey, fingerprintOfPrivateKey, newPrivateKey } from '../../../../agent/pki/keys.js';
import { openssl } from '../../../../agent/pki/openssl.js';
import { peerNode, type PeerNode } from '../../../../agent/pki/identity.js';
import { clientTlsOptions, httpsServerOptions } from '../../../../agent/pki/tls.js';

const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
const dayMs = 86_400_000;

async function cluster(dir: string) {
  const keyFile = path.join(dir, 'ca.key');
  await ensurePrivateKey(keyFile);
  const wallMs = Date.now();
  return { keyFile, cert: await makeCa({ clusterId, keyFile, wallMs }) };
}

async function node(dir: string, ca: { keyFile: string; cert: string }, name: string, wallMs = Date.now()) {
  const keyFile = path.join(dir, `${name}.key`);
  const key = await ensurePrivateKey(keyFile);
  const csr = await makeCsr({ keyFile, commonName: 'whatever-it-claims' });
  await checkCsr(csr);
  const cert = await signNode(ca, csr, { node: name, addresses: ['10.0.0.7', '127.0.0.1'] }, wallMs);
  return { key, cert, ca: ca.cert, csr };
}

void t.test('keys are made once, 0600, and kept', async (t) => {
  const file = path.join(t.testdir(), 'sub', 'node.key');
  const key = await ensurePrivateKey(file);
  t.equal(await ensurePrivateKey(file), key);
  t.equal((await stat(file)).mode & 0o777, 0o600);
  t.same(await readdir(path.dirname(file)), ['node.key'], 'no temporary file stays');
  await writeFile(file, 'rubbish');
  await t.rejects(ensurePrivateKey(file), { code: 'bad-input' }, 'a broken key is not silently replaced');
});

void t.test('a node certificate says what the signer decided, not what the request claims', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const { cert, key } = await node(dir, ca, 'n7');
  const x = new X509Certificate(cert);
  const c = new X509Certificate(ca.cert);
  t.equal(x.subject, 'CN=n7');
  t.equal(x.subjectAltName, 'DNS:n7, DNS:localhost, IP Address:10.0.0.7, IP Address:127.0.0.1');
  t.same([...x.keyUsage].sort(), ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
  t.notOk(x.ca);
  t.ok(c.ca);
  t.ok(x.checkIssued(c) && x.verify(c.publicKey) && c.verify(c.publicKey));
  const info = certificateInfo(cert);
  t.equal(info.fingerprint, fingerprintOfPrivateKey(key));
  t.ok(info.notBeforeMs < Date.now() - dayMs / 2, 'good also where the clock is some hours behind');
  const days = (info.notAfterMs - Date.now()) / dayMs;
  t.ok(days > 824 && days < 826);
  const again = await signNode(
    ca,
    (await node(dir, ca, 'n8')).csr,
    { node: 'n8', addresses: [] },
    Date.now(),
  );
  t.not(certificateInfo(again).serial, info.serial);
  t.ok(info.serial.length >= 30, 'serials are long and random');
  t.match(certificateSha256(ca.cert), /^[0-9a-f]{64}$/);
});

void t.test('subjects that are no node names or addresses are not signed', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const { csr } = await node(dir, ca, 'n1');
  for (const bad of ['a/CN=b', 'n1\nsubjectAltName=DNS:x', '', 'N1', 'x'.repeat(40)]) {
    await t.rejects(signNode(ca, csr, { node: bad, addresses: [] }, Date.now()));
  }
  for (const bad of ['10.0.0.1,DNS:evil', '::1', 'evil', '10.0.0.1\n']) {
    await t.rejects(signNode(ca, csr, { node: 'n1', addresses: [bad] }, Date.now()));
  }
});

void t.test('hostile certificate requests are refused', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const { csr } = await node(dir, ca, 'n1');
  await t.rejects(checkCsr('x'.repeat(1024 * 1024)), { code: 'too-large' });
  await t.rejects(checkCsr(''), { code: 'bad-input' });
  await t.rejects(checkCsr(csr + csr), { code: 'bad-input' }, 'two blocks');
  await t.rejects(checkCsr(ca.cert), { code: 'bad-input' }, 'a certificate');
  // One bit of the signature changed, in the middle of the base64 of its last line.
  const lines = csr.trimEnd().split('\n');
  const at = lines.length - 2;
  const line = lines[at] ?? '';
  lines[at] = (line.startsWith('A') ? 'B' : 'A') + line.slice(1);
  await t.rejects(checkCsr(`${lines.join('\n')}\n`), { code: 'bad-input' }, 'a forged signature');
  const rsa = path.join(dir, 'rsa.key');
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
  await writeFile(rsa, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const weak = await makeCsr({ keyFile: rsa, commonName: 'x' });
  await t.rejects(checkCsr(weak), { code: 'bad-input', message: /P-256/ });
});

void t.test('extensions of a request do not get into the certificate', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const keyFile = path.join(dir, 'evil.key');
  await ensurePrivateKey(keyFile);
  const conf = '[req]\ndistinguished_name=dn\n[dn]\n';
  await writeFile(path.join(dir, 'conf'), conf);
  const ask = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'subjectAltName=IP:10.0.0.1'];
  const { stdout: csr } = await openssl(
    ['req', '-new', '-config', 'conf', '-key', keyFile, '-subj', '/CN=founder/O=root', ...ask],
    { cwd: dir },
  );
  await checkCsr(`${csr}\n`);
  const x = new X509Certificate(await signNode(ca, csr, { node: 'n9', addresses: ['10.0.0.9'] }, Date.now()));
  t.equal(x.subject, 'CN=n9');
  t.notOk(x.ca);
  t.notMatch(x.subjectAltName, /10\.0\.0\.1$/);
});

void t.test('no temporary directory and no key in it stays behind', async (t) => {
  const dir = t.testdir({ tmp: {} });
  const tmp = path.join(dir, 'tmp');
  const was = process.env['TMPDIR'];
  process.env['TMPDIR'] = tmp;
  t.teardown(() => (was === undefined ? delete process.env['TMPDIR'] : (process.env['TMPDIR'] = was)));
  const ca = await cluster(dir);
  await node(dir, ca, 'n1');
  await t.rejects(
    signNode({ ...ca, keyFile: '/nonexistent' }, 'x', { node: 'n1', addresses: [] }, Date.now()),
    {
      code: 'tool-failed',
    },
  );
  t.same(await readdir(tmp), []);
});

void t.test('expiry is told in time', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const { cert } = await node(dir, ca, 'n1');
  const now = Date.now();
  t.equal(certificateFault(cert, now), null);
  t.notOk(dueForRenewal(cert, now));
  t.ok(dueForRenewal(cert, now + 740 * dayMs));
  t.match(certificateFault(cert, now + 800 * dayMs), /expires in 2\d days/);
  t.match(certificateFault(cert, now + 900 * dayMs), /expired/);
  t.match(certificateFault(cert, now - 10 * dayMs), /not valid yet/);
});

void t.test('who is it: a node of ours, somebody else, nobody', async (t) => {
  const dir = t.testdir();
  const ca = await cluster(dir);
  const server = await node(dir, ca, 'n1');
  const client = await node(dir, ca, 'n2');
  const foreignDir = path.join(dir, 'foreign');
  const foreignCa = await cluster(foreignDir);
  const foreign = await node(foreignDir, foreignCa, 'n2');
  const expired = await node(dir, ca, 'n3', Date.now() - 1000 * dayMs);
  const seen: (PeerNode | 'wrong' | null)[] = [];
  const s = https.createServer(httpsServerOptions(server), (req, res) => {
    seen.push(peerNode(req.socket));
    res.end();
  });
  await new Promise<void>((resolve) => s.listen(0, '127.0.0.1', resolve));
  const { port } = s.address() as AddressInfo;
  const ask = (o: https.RequestOptions) =>
    new Promise<void>((resolve, reject) => {
      const req = https.request({ host: '127.0.0.1', port, agent: false, ...o }, (res) => {
        res.resume().on('end', resolve);
      });
      req.on('error', reject);
      req.end();
    });
  await ask(clientTlsOptions(client));
  await ask({ ...clientTlsOptions(foreign), ca: ca.cert });
  await ask({ ...clientTlsOptions(expired), ca: ca.cert });
  await ask({ ca: ca.cert });
  t.match(seen, [{ node: 'n2', fingerprint: fingerprintOfPrivateKey(client.key) }, 'wrong', 'wrong', null]);
  await t.rejects(ask(clientTlsOptions(foreign)), 'and the client refuses a server of another CA');
  s.close();
  const plain = createServer((socket) => {
    t.equal(peerNode(socket), null);
    socket.end();
  });
  plain.close();
});

void t.test('the fingerprint is of the public key', async (t) => {
  const pem = newPrivateKey();
  t.equal(
    fingerprintOfPrivateKey(pem),
    fingerprintOfPrivateKey(createPublicKey(pem).export({ type: 'spki', format: 'pem' }) as string),
  );
});
