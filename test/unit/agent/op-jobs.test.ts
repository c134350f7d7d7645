import t from 'tap';
import { queuedOp, type Op } from '../../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../../../agent/env.js';
import { OpJobs } from '../../../agent/op-jobs.js';
import type { Snapshot } from '../../../agent/snapshot.js';
import { FakeClock } from './ledger/fake-clock.js';
import { MemoryLedger } from '../../sim/memory-ledger.js';

const op: Op = queuedOp(
  {
    id: '00000000-0000-4000-8000-000000000001',
    kind: 'vm.export',
    subject: { kind: 'vm', id: '00000000-0000-4000-8000-000000000002', name: 'web' },
    node: 'n1',
    askedBy: 'admin',
    args: {},
  },
  1,
);

void t.test('what ended since it was looked at is not worked on again', async (t) => {
  const memory = new MemoryLedger(new FakeClock());
  const put = (o: Op): void => memory.poke(kinds.op.key(o.id), writeRecord(kinds.op, o));
  put(op);
  const seen = { ops: new Map([[op.id, { value: op, modRevision: 1n }]]) } as unknown as Snapshot;
  const worked: string[] = [];
  const woken: (() => void)[] = [];
  const env = { node: 'n1', live: { compare: () => ({}) }, ledger: memory.client('n1') };
  const jobs = new OpJobs(env as unknown as AgentEnv, {
    atOnce: 1,
    takes: (o) => o.kind === 'vm.export' && o.args['made'] === undefined,
    work: async (k) => void worked.push(k.value.state),
    wake: () => woken.shift()?.(),
  });
  const looked = (): Promise<void> =>
    new Promise((resolve) => {
      woken.push(resolve);
      jobs.look(seen);
    });
  await looked();
  t.same(worked, ['queued']);
  put({ ...op, state: 'running', args: { made: 1 } });
  await looked();
  put({ ...op, state: 'done' });
  await looked();
  t.same(worked, ['queued']);
});
