import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { LedgerMembers } from '../../../../agent/ledger/members.js';
import { behaviour } from './behaviour.js';
import { TestCluster, until } from './real-etcd.js';

const cluster = new TestCluster(t.testdir());
t.teardown(() => cluster.stop());
await cluster.start(['n1', 'n2', 'n3']);
const ledger = await cluster.client();
t.teardown(() => ledger.close());
await cluster.ready(ledger);
const members = new LedgerMembers(ledger.gateway);

await behaviour('three voters with mutual TLS', async () => ({
  a: await cluster.client(),
  b: await cluster.client({ endpoints: [...cluster.endpoints].reverse() }),
  until,
}));

await t.test('members, status, alarms, compaction, defragmentation, snapshot', async (t) => {
  const list = await members.list();
  t.same(list.map((m) => m.name).sort(), ['n1', 'n2', 'n3']);
  t.notOk(list.some((m) => m.learner));
  const status = await members.status(cluster.endpoints[0] ?? '');
  t.match(status, { version: /^3\.\d+\.\d+$/, learner: false, leader: /^\d+$/, errors: [] });
  t.same(await members.alarms(), []);
  const { revision } = await ledger.txn([], [{ put: '/flotilla/x', value: 'y'.repeat(60_000) }]);
  const file = path.join(t.testdir(), 'snapshot.db');
  const bytes = await members.snapshot(file);
  t.equal((await stat(file)).size, bytes);
  t.ok((await readFile(file)).includes('y'.repeat(4000)), 'with what was written');
  t.notOk(existsSync(`${file}.part`));
  await members.compact(revision);
  await members.defragment(cluster.endpoints[1] ?? '');
  await t.rejects(members.compact(1n), { code: 'bad-input' }, 'compacted already');
  await t.rejects(members.promote('12345'), { code: 'not-found' });
  t.equal((await ledger.get('/flotilla/x'))?.value.length, 60_000);
});

await t.test('nobody without a certificate of ours gets in', async (t) => {
  const foreignDir = t.testdir();
  const foreign = new TestCluster(foreignDir);
  const { makeCa } = await import('../../../../agent/pki/certificates.js');
  const { ensurePrivateKey } = await import('../../../../agent/pki/keys.js');
  const keyFile = path.join(foreignDir, 'ca.key');
  await ensurePrivateKey(keyFile);
  foreign.ca = {
    keyFile,
    cert: await makeCa({ clusterId: '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11', keyFile, wallMs: Date.now() }),
  };
  const forged = await foreign.tls('n1', ['127.0.0.10']);
  const expired = await cluster.tls('late', [], Date.now() - 1000 * 86_400_000);
  for (const [who, tls] of [
    ['a forged certificate', { ...forged, ca: cluster.ca.cert }],
    ['an expired one', expired],
  ] as const) {
    const c = await cluster.client({ tls });
    await t.rejects(c.get('/flotilla/x'), { code: 'ledger-unavailable' }, who);
    await c.close();
  }
  const strict = await cluster.client({ tls: { ...(await cluster.tls('n1b', [])), ca: foreign.ca.cert } });
  await t.rejects(
    strict.get('/flotilla/x'),
    { code: 'ledger-unavailable' },
    'a server of another CA is refused',
  );
  await strict.close();
});

await t.test('plain http is refused outside tests', async (t) => {
  await t.rejects(cluster.client({ endpoints: ['http://127.0.0.1:1'] }), { code: 'bad-input' });
});

await t.test('a dead first endpoint costs a client nothing but a moment', async (t) => {
  const c = await cluster.client({ endpoints: ['https://127.0.0.99:9', ...cluster.endpoints] });
  t.ok((await c.txn([], [{ put: '/flotilla/x', value: '1' }])).done, 'a write too: it was not sent');
  t.not(c.gateway.current, 'https://127.0.0.99:9', 'and it stays with the one that answered');
  await c.close();
});

await t.test(
  'kill -9 of the leader: writes go on, nothing acknowledged is lost, the watch rings again',
  async (t) => {
    const status = await members.status(cluster.endpoints[0] ?? '');
    const leader = (await members.list()).find((m) => m.id === status.leader);
    const victim = cluster.members.find((m) => m.name === leader?.name);
    if (victim === undefined) throw new Error('no leader');
    // A client that prefers the victim, so that it must move.
    const c = await cluster.client({
      endpoints: [victim.endpoint, ...cluster.endpoints.filter((e) => e !== victim.endpoint)],
    });
    let rings = 0;
    c.watch('/flotilla/kill/', () => rings++);
    await until('the watch to be open', () => rings > 0);
    const acknowledged: string[] = [];
    const unknown: string[] = [];
    let killed: Promise<void> | null = null;
    let sinceKill = 0;
    await until(
      'twenty writes after the kill',
      async () => {
        const key = `/flotilla/kill/${acknowledged.length + unknown.length}`;
        await c.txn([{ key, createRevision: 0n }], [{ put: key, value: 'v' }]).then(
          (r) => {
            t.ok(r.done, 'a write is never done twice');
            acknowledged.push(key);
            if (killed) sinceKill++;
          },
          (error: unknown) => {
            t.match(error, { code: 'ledger-unavailable' });
            unknown.push(key);
          },
        );
        if (acknowledged.length === 10) killed ??= victim.kill();
        return sinceKill >= 20;
      },
      60_000,
    );
    if (killed !== null) await (killed as Promise<void>);
    const there = new Set((await c.list('/flotilla/kill/')).entries.map((e) => e.key));
    t.same(
      acknowledged.filter((k) => !there.has(k)),
      [],
    );
    const before = rings;
    await ledger.txn([], [{ put: '/flotilla/kill/bell', value: '' }]);
    await until('the watch to ring at another endpoint', () => rings > before);
    await c.close();
    victim.start();
    await until('it to be back', () =>
      members.status(victim.endpoint).then(
        (s) => s.leader !== null,
        () => false,
      ),
    );
  },
);

await t.test(
  'without a majority: reads and writes end with an error in time, a write as unknown',
  async (t) => {
    const [one, two, three] = cluster.members;
    if (!one || !two || !three) throw new Error('three members');
    const c = await cluster.client({ endpoints: [one.endpoint] });
    t.teardown(() => c.close());
    await c.get('/flotilla/x');
    await Promise.all([two.kill(), three.kill()]);
    const write = c.txn([], [{ put: '/flotilla/lost', value: '1' }]);
    const read = c.get('/flotilla/x');
    await t.rejects(write, { code: 'ledger-unavailable', details: { outcome: /unknown|refused/ } });
    await t.rejects(read, { code: 'ledger-unavailable' });
    await until('the lone member to see that it has no leader', () =>
      members.status(one.endpoint).then(
        (s) => s.leader === null,
        () => false,
      ),
    );
    await t.rejects(
      c.txn([], [{ put: '/flotilla/lost', value: '2' }]),
      { code: 'ledger-unavailable', details: { outcome: 'refused' } },
      'then it says no at once: nothing was done',
    );
    two.start();
    three.start();
    await cluster.ready(c);
    const lost = await c.get('/flotilla/lost');
    t.ok(lost === null || lost.value === '1');
  },
);

await t.test('a full ledger says so; leases live on; compacting and defragmenting heals it', async (t) => {
  const small = new TestCluster(t.testdir());
  t.teardown(() => small.stop());
  await small.start(['s1'], { ETCD_QUOTA_BACKEND_BYTES: String(6 * 2 ** 20) });
  const c = await small.client();
  t.teardown(() => c.close());
  await small.ready(c);
  const lease = await c.grantLease(60);
  const value = 'x'.repeat(60_000);
  let refusal: unknown = null;
  for (let i = 0; i < 300 && refusal === null; i++) {
    await c.txn([], [{ put: '/flotilla/fill', value }]).catch((error: unknown) => (refusal = error));
  }
  t.match(refusal, { code: 'ledger-full', details: { outcome: 'refused' } });
  t.equal((await c.get('/flotilla/fill'))?.value, value, 'reading goes on');
  t.ok((await c.keepAlive(lease)) > 0, 'and so do leases');
  const care = new LedgerMembers(c.gateway);
  const alarms = await care.alarms();
  t.match(alarms, [{ alarm: 'NOSPACE' }]);
  const endpoint = small.endpoints[0] ?? '';
  await care.compact((await care.status(endpoint)).revision);
  await care.defragment(endpoint);
  await care.disarm(alarms[0]?.member ?? '', 'NOSPACE');
  t.ok((await c.txn([], [{ put: '/flotilla/fill', value: '' }])).done);
  t.same(await care.alarms(), []);
});
