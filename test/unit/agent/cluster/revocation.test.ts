import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { etcdEnvFile } from '../../../../agent/cluster/etcd-settings.js';
import { installMosquitto } from '../../../../agent/cluster/mosquitto.js';
import { join, request } from '../../../../agent/cluster/join.js';
import { Membership } from '../../../../agent/cluster/membership.js';
import { Revocation } from '../../../../agent/cluster/revocation.js';
import { absent, putRecord } from '../../../../agent/ledger/records.js';
import { certificateInfo, makeCa, makeCsr } from '../../../../agent/pki/certificates.js';
import { crlMark, makeCrl, readCrl } from '../../../../agent/pki/crl.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { pkiPaths, readIfThere, readTls, writePublic } from '../../../../agent/pki/store.js';
import type { TlsMaterial } from '../../../../agent/pki/tls.js';
import { Snapshots } from '../../../../agent/snapshot.js';
import { perKeyMax } from '../../../../core/decide/revocation.js';
import type { CrlRecord } from '../../../../core/domain/certificate.js';
import { crlKey, leadKey, ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { FakeServices, KeptLog, Rig } from './rig.js';

async function rig(t: { testdir(): string; teardown(f: () => void): void }) {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  const config = r.nodeConfig('n2', '127.0.0.12');
  const deps = { config, services: new FakeServices(), clock: r.clock, log: r.log, limitMs: 0 };
  await join(deps, await r.token());
  const serialOf = async (name: string) =>
    certificateInfo((await readTls(path.join(r.dir, name))).cert).serial;
  /** One that works on the node of that name. */
  const worker = (name: string, o: { leads?: boolean; lease?: string; witness?: boolean } = {}) => {
    const services = new FakeServices();
    const did: string[] = [];
    const given: TlsMaterial[] = [];
    const wrong: { port: string | null } = { port: null };
    const revocation = new Revocation({
      config: name === 'n1' ? r.config : r.nodeConfig(name, '127.0.0.12'),
      witness: o.witness === true,
      services,
      connections: {
        async reloadMigrationPort() {
          if (wrong.port !== null) throw new Error(wrong.port);
          did.push('libvirt');
        },
        async cut(ports) {
          did.push(`cut ${ports.join(' ')}`);
        },
      },
      store: () => r.store,
      live: {
        compare: () => (o.lease === undefined ? null : absent('/flotilla/nothing')),
        lease: () => o.lease ?? null,
      },
      leads: () => o.leads === true,
      votersFault: async () => null,
      keeperTrusts: () => null,
      renew: () => undefined,
      onTls: (m) => void given.push(m),
      clock: r.clock,
      log: new KeptLog(),
    });
    const step = async () => revocation.step(await new Snapshots(r.client).read());
    return { revocation, services, did, given, wrong, step };
  };
  const revoke = async (serial: string) => {
    const c = await r.store.require(kinds.cert, serial, 'certificate');
    const revoked = { atMs: r.clock.wallMs(), why: 'removed' as const };
    await r.store.txn([], [putRecord(kinds.cert, serial, { ...c.value, pem: null, revoked })]);
  };
  const kept = async () => JSON.parse((await r.client.get(crlKey))?.value ?? 'null') as CrlRecord;
  const snapshots = new Snapshots(r.client);
  const used = path.join(r.config.stateDir, 'pki', 'ca.crl.used');
  let changes = 0;
  /** Something changes. @returns whether it has looked at what is on n1's disk */
  const looks = async (revocation: Revocation): Promise<boolean> => {
    await r.client.txn([], [{ put: `/flotilla/x/${++changes}`, value: 'of no interest' }]);
    await rm(used, { force: true });
    snapshots.changed();
    await revocation.look(await snapshots.read());
    return (await readIfThere(used)) !== null;
  };
  return { r, deps, serialOf, worker, revoke, kept, looks };
}

void t.test(
  'founding and joining write down each certificate, and bring the list before the daemons',
  async (t) => {
    const { r, deps, serialOf, kept } = await rig(t);
    for (const name of ['n1', 'n2']) {
      const c = await r.store.require(kinds.cert, await serialOf(name), name);
      t.match(c.value, { node: name, revoked: null, pem: /BEGIN CERTIFICATE/ });
      t.equal(await readFile(path.join(r.dir, name, 'pki', 'ca.crl'), 'utf8'), (await kept()).pem);
      t.match(await readFile(path.join(r.dir, name, 'mosquitto', 'mosquitto.conf'), 'utf8'), /^crlfile /m);
    }
    t.match(
      await readFile(etcdEnvFile(r.config.stateDir), 'utf8'),
      /^ETCD_CLIENT_CRL_FILE=.*\nETCD_PEER_CRL_FILE=/m,
    );
    // Its answer got lost: it asks again, and gets the same certificate.
    await rm(path.join(deps.config.stateDir, 'cluster.json'));
    const before = await serialOf('n2');
    await join(deps, await r.token());
    t.equal(await serialOf('n2'), before);
    t.equal((await r.store.list(kinds.cert)).items.length, 2);
  },
);

void t.test('a witness has no libvirt to tell', async (t) => {
  const { worker } = await rig(t);
  const [n1, n2] = [worker('n1', { leads: true }), worker('n2', { witness: true })];
  await n1.step();
  n2.wrong.port = 'virt-admin is not there';
  await n2.step();
  t.same(n2.did, []);
  t.same(n2.services.calls.slice(-1), ['reload flotilla-mosquitto']);
});

void t.test(
  'a revoked certificate: the leader signs, each node takes it and cuts what others have open',
  async (t) => {
    const { r, serialOf, worker, revoke, kept } = await rig(t);
    const [n1, n2] = [worker('n1', { leads: true }), worker('n2')];
    await n1.step();
    await n2.step();
    t.same(
      [n1.did.splice(0), n2.did.splice(0)],
      [['libvirt'], ['libvirt']],
      'nobody is revoked: nothing is cut',
    );
    await n1.step();
    await n2.step();
    t.same([n1.did, n2.did], [[], []], 'and once is enough');
    const gone = await serialOf('n2');
    const was = await kept();
    await revoke(gone);
    await n2.step();
    t.same(await kept(), was, 'one that does not lead, and has no key, signs nothing');
    await n1.step();
    t.same(await kept(), was, 'a removed node may read that it was, first');
    r.clock.passedMs += 10_000;
    await n1.step();
    n1.wrong.port = 'virt-admin is not there';
    await t.rejects(n1.step(), { message: /virt-admin/ });
    n1.wrong.port = null;
    await n1.step();
    t.same(n1.did, ['cut 8883', 'cut 2379 2380', 'libvirt', 'cut 16514'], 'libvirt alone is tried again');
    await n2.step();
    t.same(n2.did, ['cut 8883', 'libvirt', 'cut 16514'], 'no voter, no etcd');
    t.same(n2.services.calls.slice(-1), ['reload flotilla-mosquitto']);
    const list = await kept();
    t.ok(list.number > was.number);
    for (const name of ['n1', 'n2']) {
      const pem = await readFile(path.join(r.dir, name, 'pki', 'ca.crl'), 'utf8');
      t.same((await readCrl(pem, r.meta.ca)).serials, [gone]);
      t.equal(await readFile(path.join(r.dir, name, 'mosquitto', 'ca.crl'), 'utf8'), pem);
    }
    t.same(n1.given.at(-1)?.crl, [list.pem], 'connections get it');
  },
);

void t.test('a list that is older, forged or damaged is not taken; a lost one is made anew', async (t) => {
  const { r, serialOf, worker, revoke, kept } = await rig(t);
  const [n1, n2] = [worker('n1', { leads: true }), worker('n2')];
  const first = await kept();
  await revoke(await serialOf('n2'));
  await n1.step();
  r.clock.passedMs += 10_000;
  await n1.step();
  await n1.step();
  await n2.step();
  const list = await kept();
  const file = pkiPaths(path.join(r.dir, 'n2')).crl;
  const put = (c: CrlRecord) => r.memory.poke(crlKey, JSON.stringify(c));
  const onDisk = () => readFile(file, 'utf8');
  t.equal(await onDisk(), list.pem);
  put(first);
  await n2.step();
  t.equal(await onDisk(), list.pem, 'whoever can write the ledger cannot take a revocation back');
  const keyFile = path.join(r.dir, 'evil.key');
  await ensurePrivateKey(keyFile);
  const cert = await makeCa({ clusterId: r.meta.id, keyFile, wallMs: Date.now() });
  const pem = await makeCrl({ cert, keyFile }, list.number + 9, []);
  put({ number: list.number + 9, mark: crlMark([]), pem });
  await t.rejects(n2.step(), { code: 'bad-input' });
  put({ ...first, number: list.number + 9 });
  await n2.step();
  t.equal(await onDisk(), list.pem, 'the number that counts is the signed one');
  put(first);
  await n1.step();
  await n2.step();
  t.ok((await kept()).number > list.number, 'the leader knows better than a ledger of the past');
  t.same((await readCrl(await onDisk(), r.meta.ca)).serials, [await serialOf('n2')]);
  await writePublic(file, 'rubbish');
  const again = worker('n2');
  await again.step();
  t.equal(await onDisk(), (await kept()).pem, 'put right');
});

void t.test(
  'a cluster of before there were lists: each node writes its certificate down, voters restart in turn',
  async (t) => {
    const { r, serialOf, worker } = await rig(t);
    const serials = [await serialOf('n1'), await serialOf('n2')];
    const env = etcdEnvFile(r.config.stateDir);
    await r.client.txn([], [{ del: crlKey }, ...serials.map((s) => ({ del: kinds.cert.key(s) }))]);
    for (const name of ['n1', 'n2']) await rm(pkiPaths(path.join(r.dir, name)).crl);
    await installMosquitto(r.nodeConfig('n2', '127.0.0.12'));
    const old = (await readFile(env, 'utf8')).replace(/^.*CRL.*\n/gm, '');
    await writePublic(env, `${old}# member 77\n`);
    const lease = await r.client.grantLease(60);
    const n1 = worker('n1', { leads: true, lease });
    const n2 = worker('n2');
    await n2.step();
    await n1.step();
    t.same((await r.store.list(kinds.cert)).items.map((c) => c.id).sort(), serials.sort());
    t.notMatch(await readFile(env, 'utf8'), /CRL/, 'there is no file to name yet');
    await r.client.txn([], [{ put: leadKey('etcd-restart'), value: 'n3' }]);
    await n1.step();
    t.notMatch(await readFile(env, 'utf8'), /CRL/, 'it is the turn of another voter');
    await r.client.txn([], [{ del: leadKey('etcd-restart') }]);
    await n1.step();
    t.match(
      await readFile(env, 'utf8'),
      /# member 77\nETCD_CLIENT_CRL_FILE=.*ca\.crl\nETCD_PEER_CRL_FILE=.*\n$/,
    );
    t.same(
      n1.services.calls.filter((c) => c.includes('etcd')),
      ['restart flotilla-etcd'],
    );
    t.equal(await r.client.get(leadKey('etcd-restart')), null, 'the turn is given back');
    await n1.step();
    t.equal(n1.services.calls.filter((c) => c.includes('etcd')).length, 1);
    await n2.step();
    t.ok((await readTls(path.join(r.dir, 'n2'))).crl);
    t.match(n2.services.calls, ['restart flotilla-mosquitto'], 'its configuration names the list now');
  },
);

void t.test('a removed node does not come back with its key, and is told why nobody answers', async (t) => {
  const { r, deps, serialOf, revoke } = await rig(t);
  const tls = await readTls(deps.config.stateDir);
  const ask = async () =>
    request({ address: '127.0.0.11', port: r.port, path: '/membership', method: 'GET', tls });
  t.match(await ask(), { state: 'member' });
  const membership = new Membership({
    peers: () => ['127.0.0.11'],
    port: r.port,
    tls: () => tls,
    catchUp: async () => undefined,
    clock: r.clock,
    log: r.log,
  });
  await revoke(await serialOf('n2'));
  const node = await r.store.require(kinds.node, 'n2', 'node');
  await r.store.txn([], [{ del: node.key }, { del: `/flotilla/node-address/127.0.0.12` }]);
  t.match(await ask(), { state: 'removed', sinceMs: Number });
  t.equal(membership.text, null);
  membership.look(20_000);
  while (membership.text === null) await r.clock.sleep(20);
  t.match(membership.text, /was removed from the cluster on \d{4}-.*does not come back by itself/);
  membership.look(100);
  t.equal(membership.text, null, 'the ledger answers: it counts');

  await rm(path.join(deps.config.stateDir, 'cluster.json'));
  const token = await r.token({ uses: 5 });
  await t.rejects(join(deps, token), { code: 'forbidden', message: /that of node "n2", revoked on/ });
  t.equal(await r.client.get(kinds.node.key('n2')), null);
  await rm(path.join(deps.config.stateDir, 'pki'), { recursive: true });
  t.match(await join(deps, token), { node: 'n2' }, 'with a new key it is a new machine');
});

void t.test('renewals are written down too, and no key has many', async (t) => {
  const { r, deps, serialOf } = await rig(t);
  const tls = await readTls(deps.config.stateDir);
  const csr = await makeCsr({ keyFile: pkiPaths(deps.config.stateDir).nodeKey, commonName: 'n2' });
  const renew = async () =>
    (await request({
      address: '127.0.0.11',
      port: r.port,
      path: '/renew',
      method: 'POST',
      body: { csr },
      tls,
    })) as {
      cert: string;
    };
  const { serial } = certificateInfo((await renew()).cert);
  t.match((await r.store.require(kinds.cert, serial, 'it')).value, { node: 'n2', revoked: null });
  t.not(serial, await serialOf('n2'));
  for (let i = 2; i < perKeyMax; i++) await renew();
  await t.rejects(renew(), { code: 'wrong-state' });
});

void t.test('the one that is removed leads: another with the key signs before long', async (t) => {
  const { r, serialOf, worker, revoke, kept } = await rig(t);
  const other = worker('n1');
  await revoke(await serialOf('n2'));
  const was = await kept();
  await other.step();
  r.clock.passedMs += 10_000;
  await other.step();
  t.same(await kept(), was, 'it is the part of who leads');
  r.clock.passedMs += 16_000;
  await other.step();
  t.same((await readCrl((await kept()).pem, r.meta.ca)).serials, [await serialOf('n2')]);
});

void t.test('what is well on disk is not read again each time that some VM changes', async (t) => {
  const { r, worker, looks, revoke, serialOf } = await rig(t);
  const { revocation } = worker('n1', { leads: true });
  t.equal(await looks(revocation), true);
  t.equal(await looks(revocation), false);
  r.clock.passedMs += 60_000;
  t.equal(await looks(revocation), true, 'a minute later');
  t.equal(await looks(revocation), false);
  await revoke(await serialOf('n2'));
  t.equal(await looks(revocation), true, 'something that it is about');
});

void t.test('a voter that may not start anew yet is looked at again with whatever changes', async (t) => {
  const { r, worker, looks } = await rig(t);
  const { revocation } = worker('n1', { leads: true });
  const settings = etcdEnvFile(r.config.stateDir);
  await writeFile(settings, (await readFile(settings, 'utf8')).replace(/^.*_CRL_FILE=.*\n/gm, ''));
  t.equal(await looks(revocation), true);
  t.equal(await looks(revocation), true, 'its node has no lease just now');
});
