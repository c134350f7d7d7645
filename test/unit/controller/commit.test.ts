import t from 'tap';
import { Change, commit } from '../../../controller/api/commit.js';
import type { View } from '../../../controller/view.js';
import type { Write } from '../../../agent/ledger/ledger.js';
import { FakeClock } from '../agent/ledger/fake-clock.js';
import { MemoryLedger, type Fault } from '../../sim/memory-ledger.js';

const key = '/flotilla/x';

/** A record that says `old`, and a request that writes `new` over what it read. */
function setup() {
  const clock = new FakeClock();
  const memory = new MemoryLedger(clock);
  memory.poke(key, 'old');
  const client = memory.client('controller');
  const applied: { revision: bigint; writes: readonly Write[] }[] = [];
  const view = {
    ledger: { epoch: null, refresh: () => Promise.resolve() },
    apply: (revision: bigint, writes: readonly Write[]) => void applied.push({ revision, writes }),
  } as unknown as View;
  let plans = 0;
  const ask = (fill: (change: Change, modRevision: bigint) => Change) =>
    commit({ ledger: client, view, clock }, 'It', async () => {
      plans++;
      const read = await client.get(key);
      return { change: fill(new Change(), read?.modRevision ?? 0n), answer: () => read?.value };
    });
  const write = () => ask((c, modRevision) => c.at(key, { modRevision }).write({ put: key, value: 'new' }));
  /** The request's end, as time goes on. */
  const ended = async <T>(request: Promise<T>): Promise<T> => {
    let over = false;
    const done = (): void => void (over = true);
    request.then(done, done);
    for (let i = 0; i < 100 && !over; i++) await clock.advance(100);
    return request;
  };
  const history = () => memory.history.filter((c) => c.key === key).map((c) => c.value);
  return { clock, memory, client, applied, ask, write, ended, history, plans: () => plans };
}

const elections: readonly (readonly Fault[])[] = [
  ['refused', 'refused', 'refused'],
  ['unknown'],
  ['unknown-not-done'],
  ['unknown', 'refused', 'refused'],
  ['unknown-not-done', 'refused', 'unknown'],
  ['refused', 'unknown-not-done', 'unknown-not-done', 'unknown'],
];
for (const faults of elections) {
  void t.test(`an election costs a change time, and makes it once: ${faults.join(', ')}`, async (t) => {
    const r = setup();
    for (const fault of faults) r.client.failNext(fault, { only: 'txn' });
    t.equal(await r.ended(r.write()), 'old');
    t.same(r.history(), ['old', 'new']);
    t.equal(r.plans(), 1);
    t.same(
      r.applied.map((a) => a.revision),
      [r.memory.peek(key)?.modRevision],
      'the view has it by the revision it was written at',
    );
  });
}

void t.test('the ledger cannot be read during an election: the plan is made when it can', async (t) => {
  const r = setup();
  r.client.failNext('refused', { times: 3 });
  t.equal(await r.ended(r.write()), 'old');
  t.equal(r.plans(), 4);
  t.same(r.history(), ['old', 'new']);
});

void t.test('somebody wrote after it was lost: nobody knows whether it was done', async (t) => {
  for (const fault of ['unknown', 'unknown-not-done'] as const) {
    const r = setup();
    r.client.failNext(fault, { only: 'txn' });
    const request = r.write();
    request.catch(() => undefined);
    await r.clock.advance(100);
    r.memory.poke(key, 'of another');
    await t.rejects(r.ended(request), { code: 'ledger-unavailable', details: { outcome: 'unknown' } });
    t.equal(r.memory.peek(key)?.value, 'of another', 'and it is not planned anew over that');
    t.equal(r.plans(), 1);
  }
});

void t.test('what was lost stays unknown, whatever the ledger says of it later', async (t) => {
  for (const later of ['full', 'refused'] as const) {
    const r = setup();
    r.client.failNext('unknown-not-done', { only: 'txn' });
    r.client.failNext(later, { only: 'txn', times: 50 });
    await t.rejects(
      r.ended(r.write()),
      { code: 'ledger-unavailable', details: { outcome: 'unknown' } },
      later,
    );
  }
});

void t.test('a change that could be done twice is asked for once', async (t) => {
  const r = setup();
  r.client.failNext('unknown', { only: 'txn' });
  const blind = r.ask((c) => c.write({ put: key, value: 'new' }));
  await t.rejects(r.ended(blind), { code: 'ledger-unavailable', details: { outcome: 'unknown' } });
  t.same(r.history(), ['old', 'new']);
});

void t.test('a ledger without its voters is given up, and nothing was changed', async (t) => {
  const r = setup();
  r.memory.quorum = false;
  const began = r.clock.nowMs();
  await t.rejects(r.ended(r.write()), { code: 'ledger-unavailable' });
  t.ok(r.clock.nowMs() - began < 10_000);
  t.same(r.history(), ['old']);
});
