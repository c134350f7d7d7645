import { randomUUID } from 'node:crypto';
import t from 'tap';
import { keptOrNow, Snapshots } from '../../../agent/snapshot.js';
import type { Listing } from '../../../agent/ledger/ledger.js';
import { ledger as kinds, ledgerRoot, metaKey, writeRecord } from '../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../sim/memory-ledger.js';
import { FakeClock } from './ledger/fake-clock.js';

function setup() {
  const memory = new MemoryLedger(new FakeClock());
  const client = memory.client('n1');
  const asked: string[] = [];
  const meta = {
    schema: 1 as const,
    id: randomUUID(),
    name: 'c',
    epoch: 1,
    ca: 'x',
    foundedMs: 0,
    founder: 'n1',
  };
  const node = {
    id: 'n1',
    addresses: ['10.0.0.1'],
    desired: 'active' as const,
    rack: null,
    fingerprint: 'a'.repeat(64),
    joinedMs: 0,
    voter: true,
    witness: false,
  };
  memory.found(meta, [node]);
  const list = async (prefix: string): Promise<Listing> => {
    asked.push(prefix);
    return client.list(prefix);
  };
  return { memory, client, asked, meta, node, snapshots: new Snapshots({ list }) };
}
const poolKey = kinds.pool.key(randomUUID());

await t.test('a ledger in which nothing was written is not read again', async (t) => {
  const { memory, asked, snapshots } = setup();
  const first = await snapshots.read();
  t.equal(first.nodes.get('n1')?.value.voter, true);
  t.equal(await snapshots.read(), first, 'the same object');
  t.strictSame(asked, [ledgerRoot, metaKey]);
  memory.poke(poolKey, 'rubbish');
  const second = await snapshots.read();
  t.strictSame(second.unreadable, [poolKey], 'no bell is needed');
  t.strictSame(asked.slice(2), [metaKey, ledgerRoot]);
});

await t.test('a deletion is noticed, and a write of the same value', async (t) => {
  const { memory, client, snapshots } = setup();
  memory.poke(poolKey, 'rubbish');
  const first = await snapshots.read();
  memory.poke(poolKey, 'rubbish');
  const second = await snapshots.read();
  t.ok(second.revision > first.revision);
  await client.txn([], [{ del: poolKey }]);
  t.strictSame((await snapshots.read()).unreadable, []);
});

await t.test('after a bell the ledger is read without asking first', async (t) => {
  const { asked, snapshots } = setup();
  const first = await snapshots.read();
  snapshots.changed();
  t.not(await snapshots.read(), first);
  t.strictSame(asked, [ledgerRoot, ledgerRoot]);
});

await t.test('a restored ledger that came to the same revision is read', async (t) => {
  const { memory, client, asked, meta } = setup();
  const was = await client.list(ledgerRoot);
  const snapshots = new Snapshots({
    list: async (prefix) => {
      asked.push(prefix);
      return { ...(await client.list(prefix)), revision: was.revision };
    },
  });
  const first = await snapshots.read();
  t.equal(await snapshots.read(), first);
  memory.poke(metaKey, JSON.stringify({ ...meta, epoch: 2 }));
  t.not(await snapshots.read(), first);
});

await t.test('a failure is told, and the next reading is a whole one or a proven same', async (t) => {
  const { client } = setup();
  let fails = false;
  const snapshots = new Snapshots({
    list: async (prefix) => (fails ? Promise.reject(new Error('away')) : client.list(prefix)),
  });
  const first = await snapshots.read();
  fails = true;
  await t.rejects(snapshots.read(), /away/);
  snapshots.changed();
  await t.rejects(snapshots.read(), /away/);
  fails = false;
  t.equal(await snapshots.read(), first);
});

void t.test('a record that is newer than the last reading is there; what is in neither is not', async (t) => {
  const { memory, client, node } = setup();
  const read = new Map([['n1', { value: { ...node, rack: 'as read' }, modRevision: 1n }]]);
  memory.poke(kinds.node.key('n2'), writeRecord(kinds.node, { ...node, id: 'n2' }));
  const of = (id: string) => keptOrNow(read, client, kinds.node, id);
  t.equal((await of('n1'))?.value.rack, 'as read', 'what was read is not read again');
  t.equal((await of('n2'))?.value.id, 'n2');
  t.equal(await of('n3'), null);
  t.equal((await keptOrNow(undefined, client, kinds.node, 'n1'))?.value.id, 'n1', 'before the first reading');
});
