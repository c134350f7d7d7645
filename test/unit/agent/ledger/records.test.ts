import t from 'tap';
import { changeTriesMax, RecordStore } from '../../../../agent/ledger/records.js';
import type { NodeRecord } from '../../../../core/domain/node.js';
import { epochKey, ledger as kinds, metaKey } from '../../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';
import { FakeClock } from './fake-clock.js';

const node = (id: string): NodeRecord => ({
  id,
  addresses: ['10.0.0.1'],
  voter: false,
  desired: 'active',
  rack: null,
  witness: false,
  fingerprint: 'a'.repeat(64),
  joinedMs: 0,
});
const meta = {
  schema: 1 as const,
  id: '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11',
  name: 'test',
  epoch: 1,
  ca: 'x',
  foundedMs: 0,
  founder: 'n1',
};

function setup() {
  const memory = new MemoryLedger(new FakeClock());
  memory.found(meta, [node('n1'), node('n2')]);
  const client = memory.client('a');
  return { memory, client, store: new RecordStore(client, 1) };
}

void t.test('opening needs a founded cluster', async (t) => {
  const { client } = setup();
  const { store, meta: read } = await RecordStore.open(client);
  t.equal(store.epoch, 1);
  t.match(read, { name: 'test' });
  const empty = new MemoryLedger(new FakeClock()).client('a');
  await t.rejects(RecordStore.open(empty), { code: 'not-found' });
});

void t.test('an unreadable record is shown beside the good ones, and is never an absence', async (t) => {
  const { memory, store } = setup();
  memory.poke(kinds.node.key('n3'), '{"id":"n3"');
  memory.poke(kinds.node.key('n4'), JSON.stringify({ ...node('n4'), voter: 'maybe' }));
  memory.poke(kinds.node.key('n5/deep'), '{}');
  const l = await store.list(kinds.node);
  t.same(
    l.items.map((i) => i.id),
    ['n1', 'n2'],
  );
  t.same(
    l.unreadable.map((u) => u.key),
    [kinds.node.key('n3'), kinds.node.key('n4')],
  );
  t.equal(l.revision, memory.revision);
  await t.rejects(store.read(kinds.node, 'n3'), { code: 'unreadable-record' });
  t.equal(await store.read(kinds.node, 'n9'), null);
  await t.rejects(store.require(kinds.node, 'n9', 'node n9'), { code: 'not-found', message: /node n9/ });
  await t.rejects(
    store.change(kinds.node, 'n3', () => node('n3')),
    { code: 'unreadable-record' },
    'nor is it overwritten',
  );
});

void t.test('a change is done on the newest record, however many race', async (t) => {
  const { memory, store } = setup();
  await Promise.all(
    Array.from({ length: 5 }, (_, i) =>
      store.change(kinds.node, 'n1', (old) => ({ ...(old ?? node('n1')), rack: `${old?.rack ?? ''}${i}` })),
    ),
  );
  const n1 = await store.read(kinds.node, 'n1');
  t.same([...(n1?.value.rack ?? '')].sort(), ['0', '1', '2', '3', '4'], 'none was lost');
  const before = memory.revision;
  t.equal((await store.change(kinds.node, 'n1', () => null))?.value.rack, n1?.value.rack, 'null leaves it');
  t.equal(await store.change(kinds.node, 'n7', () => null), null);
  t.equal(memory.revision, before);
  t.equal((await store.change(kinds.node, 'n7', () => node('n7')))?.value.id, 'n7', 'an absent one is made');
});

void t.test('a change gives up against a writer that never stops', async (t) => {
  const { memory, store } = setup();
  let calls = 0;
  await t.rejects(
    store.change(kinds.node, 'n1', (old) => {
      calls++;
      memory.poke(kinds.node.key('n1'), JSON.stringify(node('n1')));
      return old;
    }),
    { code: 'edit-conflict' },
  );
  t.equal(calls, changeTriesMax);
});

void t.test('a transaction of unknown outcome is not repeated', async (t) => {
  const { memory, client, store } = setup();
  client.failNext('unknown', { only: 'txn' });
  let calls = 0;
  await t.rejects(
    store.change(kinds.node, 'n1', () => ({ ...node('n1'), rack: String(++calls) })),
    { code: 'ledger-unavailable', details: { outcome: 'unknown' } },
  );
  t.equal(calls, 1);
  t.match(memory.peek(kinds.node.key('n1'))?.value, /"rack":"1"/);
});

void t.test('what we write is of its schema, and not too long', async (t) => {
  const { memory, store } = setup();
  const before = memory.revision;
  await t.rejects(
    store.change(kinds.node, 'n1', () => ({ ...node('n1'), rack: 'x'.repeat(64) })),
    { code: 'bad-input' },
  );
  t.equal(memory.revision, before);
});

void t.test('after a restore of the ledger nothing of before is written', async (t) => {
  const { memory, store } = setup();
  memory.poke(metaKey, JSON.stringify({ ...meta, epoch: 2 }));
  memory.poke(epochKey, '2');
  const before = memory.revision;
  await t.rejects(
    store.change(kinds.node, 'n1', () => ({ ...node('n1'), rack: 'r' })),
    { code: 'stale-generation' },
  );
  await t.rejects(store.txn([], [{ del: kinds.node.key('n1') }]), { code: 'stale-generation' });
  t.equal(memory.revision, before);
  const r = await new RecordStore(memory.client('b'), 2).txn(
    [{ key: kinds.node.key('n1'), createRevision: 0n }],
    [],
  );
  t.notOk(r.done, 'an ordinary lost race stays one');
});
