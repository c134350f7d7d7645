import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { readClusterCache } from '../../../../agent/cluster/cache.js';
import { agentConfigSchema } from '../../../../agent/cluster/config.js';
import { adminTokenFile, found } from '../../../../agent/cluster/found.js';
import { certificateInfo } from '../../../../agent/pki/certificates.js';
import { parseApiToken, secretMatches } from '../../../../agent/pki/tokens.js';
import { RecordStore } from '../../../../agent/ledger/records.js';
import { systemRandom } from '../../../../agent/system.js';
import { epochKey, ledger as kinds, metaKey, unique } from '../../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';
import { FakeClock } from '../ledger/fake-clock.js';
import { FakeServices, KeptLog, TestClock } from './rig.js';

function setup(stateDir: string) {
  const memory = new MemoryLedger(new FakeClock());
  const services = new FakeServices();
  const log = new KeptLog();
  const config = agentConfigSchema.parse({ name: 'n1', address: '10.1.2.3', stateDir });
  const deps = {
    config,
    services,
    clock: new TestClock(),
    random: systemRandom,
    log,
    ledger: async () => memory.client('founder'),
  };
  return { memory, services, log, config, deps };
}

void t.test('a founded node: keys, voter, broker, records, token', async (t) => {
  const dir = t.testdir();
  const { memory, services, log, deps } = setup(dir);
  const { clusterId, apiToken, name } = await found(deps, 'My Cluster');
  t.equal(name, 'My Cluster');
  t.same(services.calls, ['enable flotilla-etcd', 'enable flotilla-mosquitto']);

  const { store, meta } = await RecordStore.open(memory.client('x'));
  t.match(meta, {
    id: clusterId,
    name: 'My Cluster',
    epoch: 1,
    founder: 'n1',
    ca: await readFile(path.join(dir, 'pki/ca.crt'), 'utf8'),
  });
  t.equal(memory.peek(epochKey)?.value, '1');
  t.equal(memory.peek(unique.nodeAddress('10.1.2.3'))?.value, 'n1');
  const node = await store.read(kinds.node, 'n1');
  const cert = await readFile(path.join(dir, 'pki/node.crt'), 'utf8');
  t.match(node?.value, {
    voter: true,
    addresses: ['10.1.2.3'],
    fingerprint: certificateInfo(cert).fingerprint,
  });
  const bearer = parseApiToken(apiToken);
  const token = await store.read(kinds.token, bearer?.id ?? '');
  t.ok(token && secretMatches(token.value, bearer?.secret ?? ''));
  t.notOk(token && secretMatches(token.value, 'x'));
  t.equal((await readFile(adminTokenFile(dir), 'utf8')).trim(), apiToken);

  for (const f of ['pki/ca.key', 'pki/node.key', 'admin-token', 'etcd.env']) {
    t.equal((await stat(path.join(dir, f))).mode & 0o777, 0o600, f);
  }
  const everything = [...memory.history.map((c) => c.value), ...log.lines].join('\n');
  t.notMatch(everything, new RegExp(bearer?.secret ?? 'x'), 'the secret is nowhere but in its file');
  t.notMatch(everything, /PRIVATE KEY/);

  const env = await readFile(path.join(dir, 'etcd.env'), 'utf8');
  t.match(env, /^ETCD_CLIENT_CERT_AUTH=true$/m);
  t.match(env, /^ETCD_PEER_CLIENT_CERT_AUTH=true$/m);
  t.match(env, /^ETCD_LISTEN_CLIENT_URLS=https:\/\/0\.0\.0\.0:2379$/m);
  t.match(env, /^ETCD_INITIAL_CLUSTER=n1=https:\/\/10\.1\.2\.3:2380$/m);
  t.match(env, /^ETCD_QUOTA_BACKEND_BYTES=2147483648$/m);
  const conf = await readFile(path.join(dir, 'mosquitto/mosquitto.conf'), 'utf8');
  t.match(conf, /^require_certificate true$/m);
  t.match(conf, /^use_identity_as_username true$/m);
  t.same((await readdir(path.join(dir, 'mosquitto'))).sort(), [
    'acl',
    'ca.crl',
    'ca.crt',
    'mosquitto.conf',
    'node.crt',
    'node.key',
  ]);
  t.match(await readClusterCache(dir), {
    clusterId,
    node: 'n1',
    ledgerEndpoints: ['https://10.1.2.3:2379'],
    peers: [{ node: 'n1', address: '10.1.2.3' }],
  });
  t.notOk((await readdir(dir)).includes('founding.json'));
  await t.rejects(found(deps, 'My Cluster'), { code: 'already-founded', message: /n1.*My Cluster/ });
});

void t.test('cut off at any point, the same command goes on to the same cluster', async (t) => {
  // Each try is cut off at one more step: the services and the ledger fail in turn.
  const dir = t.testdir();
  const { memory, services, deps } = setup(dir);
  services.onEnable = () => {
    throw new Error('power cut at etcd');
  };
  await t.rejects(found(deps, 'c'), /power cut/);
  const ca = await readFile(path.join(dir, 'pki/ca.crt'), 'utf8');
  services.onEnable = () => undefined;

  const broken = memory.client('founder');
  broken.failNext('unknown', { only: 'txn' });
  await t.rejects(found({ ...deps, ledger: async () => broken }, 'c'), { code: 'ledger-unavailable' });
  t.ok(memory.peek(metaKey), 'it was written, only nobody knows');
  const token = await readFile(adminTokenFile(dir), 'utf8');
  t.equal(await readClusterCache(dir), null);

  services.onEnable = (unit) => {
    if (unit === 'flotilla-mosquitto') throw new Error('power cut at mosquitto');
  };
  await t.rejects(found(deps, 'c'), /power cut at mosquitto/);
  services.onEnable = () => undefined;
  await t.rejects(found(deps, 'another'), { code: 'already-founded', message: /"c"/ });

  const done = await found(deps, 'c');
  t.equal(`${done.apiToken}\n`, token, 'the token that is in the ledger');
  t.equal(await readFile(path.join(dir, 'pki/ca.crt'), 'utf8'), ca);
  const { meta, store } = await RecordStore.open(memory.client('x'));
  t.equal(meta.id, done.clusterId);
  t.equal((await store.list(kinds.token)).items.length, 1);
  const bearer = parseApiToken(done.apiToken);
  const record = await store.read(kinds.token, bearer?.id ?? '');
  t.ok(record && secretMatches(record.value, bearer?.secret ?? ''));
});

void t.test('another cluster in the ledger, a foreign certificate, a broken cache: refused', async (t) => {
  const dir = t.testdir({ a: {}, b: { pki: { 'ca.crt': 'x' } }, c: { 'cluster.json': '{' } });
  const a = setup(path.join(dir, 'a'));
  a.memory.found(
    {
      schema: 1,
      id: '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11',
      name: 'old',
      epoch: 1,
      ca: 'x',
      foundedMs: 0,
      founder: 'x',
    },
    [],
  );
  await t.rejects(found(a.deps, 'new'), { code: 'already-founded' });
  await t.rejects(found(setup(path.join(dir, 'b')).deps, 'new'), {
    code: 'already-founded',
    hint: /join again/,
  });
  await t.rejects(found(setup(path.join(dir, 'c')).deps, 'new'), { code: 'unreadable-record' });
  await writeFile(path.join(dir, 'c', 'cluster.json'), '{"clusterId":"x"}');
  await t.rejects(found(setup(path.join(dir, 'c')).deps, 'new'), { code: 'unreadable-record' });
});

void t.test('names that are none', async (t) => {
  for (const bad of ['', '/', 'a/b', 'x'.repeat(1024 * 1024), 'a\nb', ' a']) {
    const { deps, services } = setup(t.testdir());
    await t.rejects(found(deps, bad), { code: 'bad-input' });
    t.same(services.calls, []);
  }
});
