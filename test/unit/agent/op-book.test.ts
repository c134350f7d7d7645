import t from 'tap';
import { queuedOp, type Op } from '../../../core/domain/op.js';
import { ledger as kinds, readRecord, writeRecord } from '../../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../../../agent/env.js';
import { OpBook } from '../../../agent/op-book.js';
import type { Kept, Snapshot } from '../../../agent/snapshot.js';
import { MemoryLedger } from '../../sim/memory-ledger.js';
import { FakeClock } from './ledger/fake-clock.js';

const op = (n: number, node: string | null, more: Partial<Op> = {}): Op => ({
  ...queuedOp(
    {
      id: `00000000-0000-4000-8000-00000000000${n}`,
      kind: 'vm.snapshot',
      subject: { kind: 'vm', id: '00000000-0000-4000-8000-0000000000ff', name: 'web' },
      node,
      askedBy: 'admin',
      args: {},
    },
    1,
  ),
  ...more,
});

void t.test('what was for a node to do ends when that is in the cluster no more', async (t) => {
  const clock = new FakeClock();
  const memory = new MemoryLedger(clock);
  const ops = [
    op(1, 'n9'),
    op(2, 'n1'),
    op(3, null),
    op(4, 'n9', { state: 'done' }),
    op(5, 'n9', { kind: 'vm.revert', args: { generation: 3 } }),
    op(6, 'n8'),
  ];
  const kept = new Map<string, Kept<Op>>();
  for (const o of ops) {
    memory.poke(kinds.op.key(o.id), writeRecord(kinds.op, o));
    kept.set(o.id, { value: o, modRevision: memory.peek(kinds.op.key(o.id))?.modRevision ?? 0n });
  }
  const said: string[] = [];
  const book = new OpBook({
    clock,
    ledger: memory.client('n1'),
    radio: { say: (_kind: string, _op: Op, id: string) => void said.push(id) },
  } as unknown as AgentEnv);
  // A node whose record cannot be read is a node; so is one that has come since the look.
  memory.poke(kinds.node.key('n8'), '{}');
  const look = {
    ops: kept,
    nodes: new Map([['n1', {}]]),
    unreadable: [] as string[],
  } as unknown as Snapshot;
  await book.endOrphans({ ...look, unreadable: [kinds.node.key('n9')] });
  t.same(said, []);
  await book.endOrphans(look);
  const states = ops.map(({ id }) => {
    const e = memory.peek(kinds.op.key(id));
    return readRecord(kinds.op, '', e?.value ?? '').state;
  });
  t.same(states, ['failed', 'queued', 'queued', 'done', 'queued', 'queued']);
  t.same(said, [ops[0]?.id]);
});

void t.test('what was ended is not ended again by a reading from before', async (t) => {
  const clock = new FakeClock();
  const memory = new MemoryLedger(clock);
  const said: string[] = [];
  const book = new OpBook({
    clock,
    ledger: memory.client('n1'),
    radio: { say: () => undefined },
    log: { info: (text: string) => void said.push(text), warn: (text: string) => void said.push(text) },
  } as unknown as AgentEnv);
  const kept = (o: Op): Kept<Op> => {
    memory.poke(kinds.op.key(o.id), writeRecord(kinds.op, o));
    return { value: o, modRevision: memory.peek(kinds.op.key(o.id))?.modRevision ?? 0n };
  };
  const old = kept(op(1, null));
  await book.finish(old, 'done', 'runs');
  await book.finish(old, 'done', 'runs');
  await book.fail(old, new Error('late'));
  t.same(said, ['op vm.snapshot done']);
  t.ok(book.hasEnded(old.value));
  // One that somebody else changed meanwhile was not ended: the next reading says how it stands.
  const changed = kept(op(2, null));
  kept({ ...changed.value, step: 'another one' });
  await book.finish(changed, 'done', 'runs');
  t.notOk(book.hasEnded(changed.value));
  t.equal(said.length, 1);
  await book.trim({ ops: new Map() } as unknown as Snapshot);
  t.notOk(book.hasEnded(old.value), 'forgotten with its op');
});
