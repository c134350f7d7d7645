import t from 'tap';
import { MemoryLedger } from '../../../sim/memory-ledger.js';
import { behaviour } from './behaviour.js';
import { FakeClock } from './fake-clock.js';

await behaviour('memory', async () => {
  const clock = new FakeClock();
  const store = new MemoryLedger(clock);
  return {
    a: store.client('a'),
    b: store.client('b'),
    until: async (what, holds) => {
      for (let i = 0; i < 1000; i++) {
        if (await holds()) return;
        await clock.advance(50);
      }
      throw new Error(`waited in vain for ${what}`);
    },
  };
});

void t.test('faults: an unknown outcome may have been done, or not', async (t) => {
  const store = new MemoryLedger(new FakeClock());
  const a = store.client('a');
  const unknown = { code: 'ledger-unavailable', details: { outcome: 'unknown' } };
  a.failNext('unknown', { only: 'txn' });
  await t.resolves(a.get('/flotilla/x'), 'reads are spared');
  await t.rejects(a.txn([], [{ put: '/flotilla/x', value: '1' }]), unknown);
  t.equal(store.peek('/flotilla/x')?.value, '1');
  a.failNext('unknown-not-done');
  await t.rejects(a.txn([], [{ put: '/flotilla/x', value: '2' }]), unknown);
  t.equal(store.peek('/flotilla/x')?.value, '1');
  a.failNext('full');
  await t.rejects(a.txn([], [{ put: '/flotilla/x', value: '2' }]), { code: 'ledger-full' });
  await t.resolves(a.txn([], [{ put: '/flotilla/x', value: '3' }]), 'one fault each');
});

void t.test(
  'faults: cut off, no call ends before its deadline and its watches are silent; mending rings',
  async (t) => {
    const clock = new FakeClock();
    const store = new MemoryLedger(clock);
    const a = store.client('a');
    const b = store.client('b');
    let rings = 0;
    a.watch('/flotilla/', () => rings++);
    await clock.advance(0);
    t.equal(rings, 1);
    a.partitioned = true;
    const call = t.rejects(a.get('/flotilla/x'), { code: 'ledger-unavailable' });
    await b.txn([], [{ put: '/flotilla/x', value: '1' }]);
    await clock.advance(2_000);
    await call;
    t.equal(rings, 1);
    a.partitioned = false;
    await clock.advance(0);
    t.equal(rings, 2);
  },
);

void t.test('a lease ends by the clock, not by a call', async (t) => {
  const clock = new FakeClock();
  const store = new MemoryLedger(clock);
  const a = store.client('a');
  const lease = await a.grantLease(3);
  await a.txn([], [{ put: '/flotilla/live/a', value: '', lease }]);
  let rings = 0;
  store.client('b').watch('/flotilla/live/', () => rings++);
  await clock.advance(2_999);
  t.equal(rings, 1);
  await clock.advance(2);
  t.equal(rings, 2);
  t.equal(store.peek('/flotilla/live/a'), null);
});
