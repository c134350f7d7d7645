import fc from 'fast-check';
import t from 'tap';
import {
  balancePastMax,
  type BalanceMove,
  type BalanceRecord,
  type PastMove,
} from '../../../../../core/domain/balance.js';
import {
  brakeOf,
  decideBalance,
  followed,
  holdMs,
  settleMs,
  urgentMs,
  type AutoView,
} from '../../../../../core/decide/plan/auto.js';
import { evenOut } from '../../../../../core/decide/plan/even.js';
import type { PlanCluster, PlanVm } from '../../../../../core/decide/plan/model.js';
import { Smoothed, unpressed } from '../../../../../core/decide/plan/smooth.js';
import type { Op } from '../../../../../core/domain/op.js';
import { node, vm } from './cluster.js';

const hour = 3_600_000;
const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const move = (n: number, o: Partial<BalanceMove> = {}): BalanceMove => ({
  vm: id(n),
  name: `v${n}`,
  from: 'a',
  to: 'b',
  for: 'load',
  why: 'a is full',
  before: 1,
  after: 0.5,
  memoryMiB: 1024,
  ...o,
});
const past = (n: number, atMs: number, o: Partial<PastMove> = {}): PastMove => ({
  ...move(n),
  op: id(900 + n),
  atMs,
  outcome: 'done',
  tookMs: 1000,
  text: '',
  vmCpus: 2,
  fromShare: 0.6,
  toShare: 0.2,
  ...o,
});
const recordOf = (p: PastMove[]): BalanceRecord => ({
  by: 'a',
  atMs: 0,
  sentence: '',
  moves: [],
  past: p,
  use: [],
});
const loads = { vmCpus: () => 2, cpuShare: () => 0.6, shareWithout: (n: string) => (n === 'a' ? 0.6 : 0.2) };
const now = 100 * hour;
const view = (o: Partial<AutoView> = {}): AutoView => ({
  me: 'a',
  nowMs: now,
  mode: 'automatic',
  movesPerHourMax: 3,
  record: null,
  found: [move(1), move(2)],
  wantedMs: () => holdMs,
  holds: [],
  loads,
  use: { memoryMiB: 1, diskBytes: 2 },
  newId: () => id(999),
  ...o,
});

void t.test('the first move that was wanted for long enough is begun, and told with why', (t) => {
  const { begin, record } = decideBalance(view());
  t.match(begin, {
    vm: id(1),
    op: id(999),
    atMs: now,
    outcome: null,
    vmCpus: 2,
    fromShare: 0.6,
    toShare: 0.2,
  });
  t.equal(record.past.at(-1), begin);
  t.equal(record.sentence, '"v1" moves from a to b: a is full');
  t.match(decideBalance(view({ wantedMs: (v) => (v === id(2) ? holdMs : 0) })).begin, { vm: id(2) });
  t.end();
});

void t.test('what holds it back is said', (t) => {
  const held = (o: Partial<AutoView>): string => {
    const { begin, record } = decideBalance(view(o));
    t.equal(begin, null);
    return record.sentence;
  };
  t.match(held({ mode: 'recommend' }), /2 moves would help; nothing is moved by itself/);
  t.match(held({ mode: 'rules-only' }), /none of them for a rule/);
  const full = { ...loads, cpuShare: (n: string) => (n === 'a' ? 0.9 : 0.2) };
  const soon = { loads: full, wantedMs: () => urgentMs, record: recordOf([past(3, now - 2 * urgentMs)]) };
  t.equal(decideBalance(view(soon)).begin?.vm, id(1), 'a full node waits a minute, not five');
  t.match(held({ ...soon, wantedMs: () => urgentMs - 1 }), /measured anew/);
  t.match(held({ found: [] }), /is even/);
  t.match(held({ holds: ['HA is paused'] }), /and wait: HA is paused/);
  t.match(held({ wantedMs: () => holdMs - 1 }), /until that has been so for 5 minutes/);
  t.match(held({ record: recordOf([past(1, now, { outcome: null })]) }), /"v1" moves from a to b/);
  t.match(held({ record: recordOf([past(3, now - settleMs)]) }), /measured anew/);
  const three = [3, 4, 5].map((n) => past(n, now - hour / 2));
  t.match(held({ record: recordOf(three) }), /3 moves were made within the hour/);
  t.equal(
    decideBalance(view({ mode: 'rules-only', found: [move(1), move(2, { for: 'rule' })] })).begin?.vm,
    id(2),
  );
  t.end();
});

void t.test('a VM that moved is left alone, and does not go back while loads are as they were', (t) => {
  const at = (ageMs: number, o: Partial<PastMove> = {}, l = loads) =>
    brakeOf(recordOf([past(1, now - ageMs, o)]), id(1), 'a', l, now);
  t.equal(at(hour - 1), 'cooldown');
  t.equal(at(2 * hour), 'undo');
  t.equal(at(25 * hour), null);
  t.equal(at(-hour), 'cooldown', 'a clock that was set back');
  t.equal(at(5 * hour, { outcome: 'failed' }), 'cooldown', 'a failure is not tried again at once');
  t.equal(brakeOf(recordOf([past(1, now - 2 * hour)]), id(1), 'c', loads, now), null, 'elsewhere it may go');
  t.equal(brakeOf(recordOf([past(1, now - 2 * hour)]), id(2), 'a', loads, now), null);
  t.equal(at(2 * hour, {}, { ...loads, vmCpus: () => 4 }), null, 'it does more than then');
  t.equal(at(2 * hour, {}, { ...loads, shareWithout: () => 0.6 }), null, 'the node it is on has filled up');
  t.end();
});

void t.test('what became of moves is noted; one whose operation is gone has ended', (t) => {
  const r = recordOf([past(1, now, { outcome: null }), past(2, now, { outcome: null })]);
  const op = (o: Partial<Op>): Op => ({ state: 'done', updatedMs: now + 5000, error: null, ...o }) as Op;
  t.equal(
    followed(r, () => op({ state: 'running' }), now),
    r,
  );
  const ops = new Map([[id(901), op({})]]);
  t.match(followed(r, (x) => ops.get(x), now + 6000).past, [
    { outcome: 'done', tookMs: 5000 },
    { outcome: 'cancelled' },
  ]);
  t.end();
});

void t.test('the ledger keeps a bounded past', (t) => {
  const r = recordOf(Array.from({ length: balancePastMax }, (_, i) => past(10 + i, now - 30 * hour)));
  t.equal(decideBalance(view({ record: r })).record.past.length, balancePastMax);
  t.end();
});

void t.test('while loads stay as they are, nothing is undone within a day', (t) => {
  const carries = [24, 65536, 500, 125] as const;
  const nodes = ['a', 'b', 'c', 'd'].map((n) => node(n, { carries }));
  const load = fc.record({ cpus: fc.double({ min: 0, max: 8, noNaN: true }), at: fc.nat({ max: 3 }) });
  fc.assert(
    fc.property(fc.array(load, { minLength: 2, maxLength: 14 }), (given) => {
      let vms: PlanVm[] = given.map((g, i) =>
        vm(`v${String(i).padStart(2, '0')}`, nodes[g.at]!.name, '', {
          alone: true,
          diskMiB: 0,
          load: [g.cpus, 1024, 0, 0],
        }),
      );
      const left = new Map<string, Set<string>>();
      for (let i = 0; i < 60; i++) {
        const cluster: PlanCluster = { nodes, vms };
        const steps = evenOut(cluster, () => true);
        let step = steps.next();
        while (step.done !== true) step = steps.next();
        const [m] = step.value;
        if (m === undefined) return true;
        if (left.get(m.vm)?.has(m.to) === true) return false;
        left.set(m.vm, (left.get(m.vm) ?? new Set()).add(m.from));
        vms = vms.map((v) => (v.name === m.vm ? { ...v, owner: m.to } : v));
      }
      return false;
    }),
    { numRuns: 60 },
  );
  t.end();
});

void t.test('loads are smoothed: a burst hardly shows, what lasts does; waiting counts as use', (t) => {
  const s = new Smoothed();
  const take = (ms: number, cpus: number): void => s.take(ms, [['v', [cpus, 100, 0, 0]]]);
  for (let ms = 0; ms <= 600_000; ms += 10_000) take(ms, 1);
  take(610_000, 9);
  t.ok((s.load('v')?.[0] ?? 9) < 2, 'ten seconds');
  for (let ms = 620_000; ms <= 920_000; ms += 10_000) take(ms, 9);
  t.ok((s.load('v')?.[0] ?? 0) > 8, 'five minutes');
  s.take(930_000, []);
  t.ok(s.load('v') !== null, 'a gap is no absence');
  s.take(1_100_000, []);
  t.equal(s.load('v'), null);
  t.same(
    unpressed([2, 100, 10, 5], { cpuPct: 50, memoryPct: 10, ioPct: 100 }),
    [3, 110.00000000000001, 20, 5],
  );
  t.same(unpressed([2, 100, 10, 5], undefined), [2, 100, 10, 5]);
  t.end();
});
