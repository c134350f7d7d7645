import t from 'tap';
import { LiveLease } from '../../../../agent/ledger/live.js';
import { RecordStore } from '../../../../agent/ledger/records.js';
import { timingFaults, timingProfiles } from '../../../../core/domain/timing.js';
import { ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';
import { FakeClock } from './fake-clock.js';

const timing = timingProfiles.production;
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

function setup(o: { boot?: string; store?: MemoryLedger; clock?: FakeClock } = {}) {
  const clock = o.clock ?? new FakeClock();
  const memory = o.store ?? new MemoryLedger(clock);
  const client = memory.client(o.boot ?? 'boot1');
  client.deadlineMs = timing.renewDeadlineMs;
  const live = new LiveLease({
    ledger: client,
    store: new RecordStore(client, null),
    clock,
    log,
    node: 'n1',
    boot: o.boot ?? 'boot1',
    version: '0',
    timing,
  });
  return { clock, memory, client, live };
}

/** Stops it; a call in flight ends by the clock. */
async function ended(clock: FakeClock, live: LiveLease): Promise<void> {
  const stopped = live.stop();
  await clock.advance(5_000);
  await stopped;
}
const key = kinds.live.key('n1');

void t.test('the profiles keep the rules of the model', async (t) => {
  for (const p of Object.values(timingProfiles)) t.same(timingFaults(p), [], p.name);
  t.same(timingFaults({ ...timing, fenceWaitMs: 6_999 }).length, 1);
  t.same(timingFaults({ ...timing, renewalGoodMs: 3_000 }).length, 1);
  t.same(timingFaults({ ...timing, watchdogMs: 2_500, fenceWaitMs: 9_000 }).length, 1);
});

void t.test('alive while it renews; gone at once when it stops', async (t) => {
  const { clock, memory, live } = setup();
  t.equal(live.mine(), null);
  t.equal(live.compare(), null);
  live.start();
  await clock.advance(10);
  const mine = live.mine();
  t.ok(mine);
  t.equal(memory.peek(key)?.createRevision, mine?.createRevision);
  t.same(live.compare(), { key, createRevision: mine?.createRevision });
  await clock.advance(60_000);
  t.equal(live.mine()?.createRevision, mine?.createRevision, 'a minute later still the same incarnation');
  t.ok((live.renewalAgeMs() ?? 1e9) <= timing.renewEveryMs + 20);
  await ended(clock, live);
  t.equal(live.mine(), null);
  t.equal(memory.peek(key), null);
});

void t.test('cut off: not mine before the lease can have ended; later a new incarnation', async (t) => {
  const { clock, memory, client, live } = setup();
  live.start();
  await clock.advance(10);
  const first = live.mine();
  let changes = 0;
  live.onChange(() => changes++);
  client.partitioned = true;
  for (let ms = 0; ms < 10_000; ms += 50) {
    await clock.advance(50);
    if (live.mine() !== null && memory.peek(key) === null)
      t.fail(`still believed alive ${ms} ms after the cut`);
  }
  t.equal(live.mine(), null);
  t.equal(memory.peek(key), null);
  t.ok(live.failure());
  client.partitioned = false;
  await clock.advance(3_000);
  const second = live.mine();
  t.ok(second && first && second.createRevision > first.createRevision);
  t.equal(live.failure(), null);
  t.ok(changes >= 2);
  await ended(clock, live);
});

void t.test('a keepalive that is answered does not count without the read of the own key', async (t) => {
  const { clock, memory, client, live } = setup();
  live.start();
  await clock.advance(10);
  // A deposed leader: keepalives succeed, reads fail.
  client.get = async () => {
    await clock.sleep(700);
    throw new Error('no linearizable read');
  };
  await clock.advance(timing.renewalGoodMs + 1_000);
  t.ok(memory.peek(key), 'the lease is alive');
  t.equal(live.mine(), null, 'and proves nothing');
  await ended(clock, live);
});

void t.test('a renewal is dated at its sending, not at its answer', async (t) => {
  const { clock, client, live } = setup();
  live.start();
  await clock.advance(10);
  client.delayMs = 600;
  await clock.advance(10_000);
  // keepalive and read take 1.2 s together: when the answer comes, the renewal is that old already.
  t.ok((live.renewalAgeMs() ?? 0) >= 1_200 - timing.renewEveryMs);
  let oldest = 0;
  for (let i = 0; i < 100; i++) {
    await clock.advance(50);
    oldest = Math.max(oldest, live.renewalAgeMs() ?? 0);
  }
  t.ok(oldest >= 2_300, `sent 1.2 s before its answer, next answer 1.2 s later: ${oldest}`);
  await ended(clock, live);
});

void t.test('a lease that ends early is noticed, and replaced by a new incarnation', async (t) => {
  const { clock, memory, live } = setup();
  live.start();
  await clock.advance(10);
  const first = live.mine();
  memory.expireNow(memory.peek(key)?.lease ?? '');
  await clock.advance(3_000);
  t.ok((live.mine()?.createRevision ?? 0n) > (first?.createRevision ?? 0n));
  await ended(clock, live);
});

void t.test('a key that somebody else wrote is not taken for ours', async (t) => {
  const { clock, memory, live } = setup();
  live.start();
  await clock.advance(10);
  const first = live.mine();
  memory.poke(key, '{"node":"n1","boot":"other","version":"0"}');
  await clock.advance(timing.renewEveryMs);
  t.equal(live.mine(), null);
  await clock.advance(3_000);
  t.ok((live.mine()?.createRevision ?? 0n) > (first?.createRevision ?? 0n));
  await ended(clock, live);
});

void t.test('a new start of the agent gets its own lease; it never takes over the former one', async (t) => {
  const { clock, memory, live, client } = setup();
  live.start();
  await clock.advance(10);
  const first = live.mine();
  const firstLease = memory.peek(key)?.lease;
  // The agent dies without a word.
  await client.close();
  const next = setup({ boot: 'boot2', store: memory, clock });
  next.live.start();
  await clock.advance(500);
  const second = next.live.mine();
  t.ok(first && second && second.createRevision > first.createRevision);
  t.not(memory.peek(key)?.lease, firstLease);
  await clock.advance(10_000);
  t.equal(
    next.live.mine()?.createRevision,
    second?.createRevision,
    'the end of the old lease does not touch it',
  );
  await ended(clock, next.live);
  void live.stop();
});

void t.test('an acquisition whose answer was lost ends in one live incarnation', async (t) => {
  const { clock, memory, client, live } = setup();
  client.failNext('unknown', { only: 'txn' });
  live.start();
  await clock.advance(5_000);
  t.equal(memory.peek(key)?.createRevision, live.mine()?.createRevision);
  t.ok(live.mine());
  await ended(clock, live);
});
