import t from 'tap';
import type { Policy } from '../../core/domain/ha.js';
import { balanceRecordSchema, type BalanceRecord } from '../../core/domain/balance.js';
import { World } from './cluster/world.js';

/** The cluster evens itself out, on simulated time: with brakes, one move at a time, whoever plans. */

const minute = 60_000;

async function cluster(plan: Partial<Policy['plan']>): Promise<World> {
  const w = new World({ seed: 11, nodes: 3, log: true, locks: null });
  w.boot();
  for (const name of ['a', 'b', 'c', 'd']) w.createVm(name, 'n1');
  w.createVm('idle', 'n2');
  const busy = new Set(['a', 'b', 'c', 'd'].map((n) => w.vms.get(n)));
  for (const n of w.nodes.values()) n.host.libvirt.busy = (vm) => (busy.has(vm) ? 0.9 : 0);
  w.policy({}, plan);
  await w.until('all run', () => [...w.vms.values()].every((vm) => w.runsOn(vm).length === 1));
  return w;
}

function record(w: World): BalanceRecord | null {
  const e = w.voters.store.peek('/flotilla/balance/cluster');
  return e === null ? null : balanceRecordSchema.parse(JSON.parse(e.value));
}

const busyOn = (w: World, node: string): number =>
  ['a', 'b', 'c', 'd'].filter((n) => w.own(w.vms.get(n) ?? '')?.owner === node).length;
const moves = (w: World): number => w.checks.seen.filter((s) => s.what === 'migrate').length;

await t.test('it recommends and moves nothing; switched to automatic, it does', async (t) => {
  const w = await cluster({});
  await w.until('it has planned', () => (record(w)?.moves.length ?? 0) > 0, 10 * minute);
  t.match(record(w), { by: 'n1', sentence: /moves? would help; nothing is moved by itself/ });
  t.match(record(w)?.moves[0], { from: 'n1', for: 'load', why: /n1 has \d+ % of its CPUs busy/ });
  await w.pass(7 * minute);
  t.equal(moves(w), 0);
  w.policy({}, { balance: 'automatic' });
  await w.until('n1 is relieved', () => busyOn(w, 'n1') === 2, 40 * minute);
  t.same([busyOn(w, 'n2'), busyOn(w, 'n3')], [1, 1]);
  const done = moves(w);
  await w.pass(20 * minute);
  t.equal(moves(w), done, 'an even cluster is left alone');
  const past = record(w)?.past ?? [];
  t.same(
    past.map((m) => m.outcome),
    ['done', 'done'],
  );
  for (const [i, m] of past.entries()) {
    const before = past[i - 1];
    if (before !== undefined)
      t.ok(m.atMs >= before.atMs + (before.tookMs ?? 0) + 3 * minute, 'one after the other');
    t.match(w.op(m.op), {
      kind: 'vm.migrate',
      state: 'done',
      askedBy: 'balancing',
      args: { why: /imbalance/ },
    });
  }
  t.match(record(w), { moves: [], sentence: 'the cluster is even' });
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'who plans goes, in the middle of a move and for good: the next one goes on from there',
  async (t) => {
    const w = await cluster({ balance: 'automatic' });
    await w.until('a move is under way', () => record(w)?.past[0]?.outcome === null, 20 * minute);
    const [first] = record(w)?.past ?? [];
    w.node('n1').agent?.kill();
    await w.until(
      'the move has ended, and is noted',
      () => (record(w)?.past[0]?.outcome ?? null) !== null,
      40 * minute,
    );
    w.node('n1').powerLoss();
    await w.until('n2 plans', () => record(w)?.by === 'n2', 60 * minute);
    t.equal(record(w)?.past[0]?.op, first?.op, 'what was done is known');
    await w.pass(5 * minute);
    t.match(record(w)?.sentence, /even|wait|help/);
    t.same(w.checks.violations, []);
    t.ok([...w.vms.values()].every((vm) => w.runsOn(vm).length <= 1));
    w.end();
  },
);

await t.test(
  'nothing moves while HA is paused, a node is emptied or gone; a VM that shall stay stays',
  async (t) => {
    const w = await cluster({ balance: 'automatic' });
    w.policy({ paused: true });
    await w.until(
      'it says what it waits for',
      () => /wait: .*HA is paused/.test(record(w)?.sentence ?? ''),
      20 * minute,
    );
    await w.pass(8 * minute);
    t.equal(moves(w), 0);
    for (const n of ['a', 'b', 'c', 'd']) w.edit(w.vms.get(n) ?? '', { autoMove: false });
    w.policy({ paused: false });
    await w.pass(8 * minute);
    t.equal(moves(w), 0);
    t.same(record(w)?.moves, []);
    w.edit(w.vms.get('d') ?? '', { autoMove: true });
    await w.until(
      'the one that may move does',
      () => w.own(w.vms.get('d') ?? '')?.owner !== 'n1',
      20 * minute,
    );
    t.equal(moves(w), 1);
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('as many moves an hour as are allowed', async (t) => {
  const w = await cluster({ balance: 'automatic', movesPerHourMax: 1 });
  await w.until('one is made', () => record(w)?.past[0]?.outcome === 'done', 30 * minute);
  await w.until(
    'the next waits',
    () => /1 moves were made within the hour/.test(record(w)?.sentence ?? ''),
    20 * minute,
  );
  await w.pass(10 * minute);
  t.equal(moves(w), 1);
  w.end();
});

await t.test('rules only: what breaks a rule moves, and standbys are where rules let them be', async (t) => {
  const w = await cluster({ balance: 'rules-only' });
  const [a, b, c] = ['a', 'b', 'c'].map((n) => w.vms.get(n) ?? '') as [string, string, string];
  const rule = (id: string, o: object): void =>
    w.voters.store.poke(
      `/flotilla/rule/${id}`,
      JSON.stringify({
        ...{
          id,
          name: id.slice(0, 2),
          must: true,
          over: 'node',
          tags: [],
          nodes: [],
          racks: [],
          nodeTags: [],
        },
        ...o,
      }),
    );
  rule('11111111-1111-4111-8111-111111111111', { kind: 'apart', vms: [a, b] });
  rule('22222222-2222-4222-8222-222222222222', { kind: 'not-on', vms: [c], nodes: ['n2'] });
  await w.until('they are apart', () => w.own(a)?.owner !== w.own(b)?.owner, 30 * minute);
  await w.until('c has a standby', () => w.own(c)?.standby === 'n3', 5 * minute);
  t.equal(moves(w), 1, 'nothing moves for load');
  t.match(record(w)?.past[0], { for: 'rule', why: /the rule "11" is broken: . is there/ });
  w.node('n1').powerLoss();
  await w.until('c runs on', () => w.runsOn(c)[0] === 'n3', 5 * minute);
  t.same(w.checks.violations, []);
  w.end();
});
