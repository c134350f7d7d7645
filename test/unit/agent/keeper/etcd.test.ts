import t from 'tap';
import { KeeperEtcd } from '../../../../agent/keeper/etcd.js';
import { timingProfiles } from '../../../../core/domain/timing.js';
import { TestCluster, until } from '../ledger/real-etcd.js';

/** Three real voters with the settings and certificates of nodes. */

const timing = timingProfiles.production;
const cluster = new TestCluster(t.testdir());
await cluster.start(['a', 'b', 'c']);
t.teardown(() => cluster.stop());
const tls = await cluster.tls('client', []);
const make = (urls: readonly string[]): KeeperEtcd => {
  const k = new KeeperEtcd({ timing });
  k.set(urls, tls);
  return k;
};
const etcd = make(cluster.endpoints);
t.teardown(() => etcd.close());
await until('the ledger to answer', () =>
  etcd.read(['x']).then(
    () => true,
    () => false,
  ),
);

await t.test('several keys at one revision; one that is not there is not in the answer', async (t) => {
  const w = await etcd.txn(
    [{ key: 'k/1', createRevision: 0n }],
    [
      { put: 'k/1', value: 'ä' },
      { put: 'k/2', value: '' },
    ],
  );
  t.ok(w.done);
  const at = await etcd.read(['k/1', 'k/2', 'k/3']);
  t.same([...at.keys()], ['k/1', 'k/2']);
  t.same(at.get('k/1'), {
    key: 'k/1',
    value: 'ä',
    createRevision: w.revision,
    modRevision: w.revision,
    lease: '0',
  });
  t.notOk((await etcd.txn([{ key: 'k/1', createRevision: 0n }], [{ del: 'k/1' }])).done);
  t.ok((await etcd.txn([{ key: 'k/1', value: 'ä' }], [{ del: 'k/1' }])).done);
  t.equal((await etcd.read(['k/1'])).size, 0);
});

await t.test('leases: the key lives with it; one that is unknown has no time left', async (t) => {
  const lease = await etcd.grantLease(3);
  await etcd.txn([], [{ put: 'k/live', value: 'x', lease }]);
  t.equal((await etcd.read(['k/live'])).get('k/live')?.lease, lease);
  t.equal(await etcd.keepAlive(lease), 3);
  await etcd.revokeLease(lease);
  t.equal(await etcd.keepAlive(lease), 0);
  await etcd.revokeLease(lease);
  t.equal((await etcd.read(['k/live'])).size, 0);
});

await t.test('an endpoint that hangs costs a moment, and is not asked first again', async (t) => {
  // Nobody answers there: a black hole of a documentation network, or an error at once.
  const k = make(['https://192.0.2.1:2379', ...cluster.endpoints.slice(1)]);
  t.teardown(() => k.close());
  const began = performance.now();
  await k.read(['x']);
  t.ok(performance.now() - began < timing.renewDeadlineMs);
  const again = performance.now();
  await k.read(['x']);
  t.ok(
    performance.now() - again < timing.renewDeadlineMs * 0.2 + 50,
    'the one that answered is the first now',
  );
});

await t.test('no certificate of the cluster, no answer; no endpoint, no answer', async (t) => {
  const k = new KeeperEtcd({ timing });
  t.teardown(() => k.close());
  await t.rejects(k.read(['x']), { code: 'ledger-unavailable' });
  await t.rejects(k.grantLease(3), { code: 'ledger-unavailable' });
  k.set(cluster.endpoints, { ...tls, ca: (await cluster.tls('other', [])).cert });
  await t.rejects(k.read(['x']), { code: 'ledger-unavailable' });
});

await t.test('one voter dead: goes on. Without a majority: an error in time, never an answer', async (t) => {
  const lease = await etcd.grantLease(60);
  await cluster.members[0]?.kill();
  await until('the others', () =>
    etcd.read(['x']).then(
      () => true,
      () => false,
    ),
  );
  t.ok((await etcd.keepAlive(lease)) > 0);
  await cluster.members[1]?.kill();
  // A member that just lost its leader still tells what it held for some moments; then it refuses.
  await until('the end of answers', () =>
    etcd.read(['x']).then(
      () => false,
      () => true,
    ),
  );
  const began = performance.now();
  await t.rejects(etcd.read(['x']), { code: 'ledger-unavailable' });
  t.ok(performance.now() - began < timing.renewDeadlineMs + 300);
  await t.rejects(etcd.txn([], [{ del: 'x' }]));
});
