import fc from 'fast-check';
import t from 'tap';
import type { PastPower, PowerStep } from '../../../../../core/domain/power.js';
import { admit } from '../../../../../core/decide/plan/admission.js';
import type { PlanCluster, PlanNode, PlanVm } from '../../../../../core/decide/plan/model.js';
import { Moves } from '../../../../../core/decide/plan/move.js';
import {
  forecastCpus,
  planPower,
  quarterOf,
  type PowerPlan,
  type PowerView,
} from '../../../../../core/decide/plan/power.js';
import {
  decidePower,
  onMsMin,
  restMs,
  sleepBrake,
  sleepHoldMs,
  type PowerAutoView,
} from '../../../../../core/decide/plan/power-auto.js';
import { nowhere } from '../../../../../core/decide/plan/state.js';
import type { Op } from '../../../../../core/domain/op.js';
import { node, vm } from './cluster.js';

const minute = 60_000;
const hour = 60 * minute;

const big = (name: string, o: Partial<PlanNode> = {}): PlanNode =>
  node(name, { diskMiB: 1, vmDiskMiB: 1, cpus: 16, ownCpus: 0, carries: [16, 65536, 500, 125], ...o });
/** A VM with a load of its own CPUs only. */
const small = (name: string, owner: string, standby: string, o: Partial<PlanVm> = {}): PlanVm =>
  vm(name, owner, standby, { diskMiB: 0, spindles: 0, load: [0.2, 0, 0, 0], ...o });

function plan(cluster: PlanCluster, o: Partial<PowerView> = {}): PowerPlan {
  const cpus = cluster.vms.reduce((sum, v) => sum + v.load[0], 0);
  const steps = planPower({
    cluster,
    sleepers: new Set(cluster.nodes.map((n) => n.name)),
    asleep: [],
    gone: [],
    wakeCpus: cpus,
    sleepCpus: cpus,
    may: () => true,
    ...o,
  });
  for (let s = steps.next(); ; s = steps.next()) if (s.done === true) return s.value;
}

const four: PlanCluster = {
  nodes: ['a', 'b', 'c', 'd'].map((n) => big(n)),
  vms: [small('v1', 'a', 'b'), small('v2', 'b', 'c'), small('v3', 'c', 'a'), small('v4', 'd', 'a')],
};

void t.test('the node with the least on it could sleep; what is on it moves before', async (t) => {
  const { step, moves } = plan(four);
  t.match(step, { do: 'sleep', node: 'a', for: 'idle', why: /the other 3 nodes have room for all/ });
  t.equal(moves.length, 1);
  t.match(plan(four, { sleepers: new Set(['d']) }).step, { node: 'd' });
  t.equal(plan(four, { sleepers: new Set() }).step, null);
  t.equal(plan(four, { may: () => false }).step, null, 'where nothing can move, nobody sleeps');
});

void t.test('two nodes with protected VMs both stay on; of VMs without standby one is enough', async (t) => {
  const two = { nodes: [big('a'), big('b')], vms: [small('v', 'a', 'b')] };
  t.equal(plan(two).step, null);
  const alone = { ...two, vms: [small('v', 'a', '', { alone: true })] };
  t.match(plan(alone).step, { do: 'sleep', node: 'b' });
});

void t.test('where load is expected nobody sleeps, and who sleeps wakes', async (t) => {
  t.equal(plan(four, { sleepCpus: 0.51 * 48 }).step, null);
  const d = big('d', { state: 'dead' });
  const three = { nodes: [...four.nodes.slice(0, 3), d], vms: four.vms.slice(0, 3) };
  const asleep = [big('d'), big('e', { memoryMiB: 131072 })];
  t.equal(plan(three, { asleep, sleepers: new Set() }).step, null);
  t.match(plan(three, { asleep, wakeCpus: 0.71 * 48 }).step, {
    do: 'wake',
    node: 'e',
    for: 'load',
    why: '71 % of the CPUs that are on will be busy',
  });
});

void t.test('a node wakes when a promise does not hold, and when one more VM would be refused', async (t) => {
  const nodes = [big('a'), big('b'), big('c', { state: 'dead' })];
  const vms = [small('v', 'a', 'b', { memoryMiB: 20000 }), small('w', 'b', 'a', { memoryMiB: 30000 })];
  const asleep = [big('c')];
  t.match(plan({ nodes, vms }, { asleep, sleepers: new Set() }).step, {
    do: 'wake',
    node: 'c',
    for: 'room',
    why: 'no room for one more VM as large as "w"',
  });
  const bare = [small('v', 'a', '', { memoryMiB: 63000 }), small('w', 'b', '', { memoryMiB: 63000 })];
  t.match(plan({ nodes, vms: bare }, { asleep, sleepers: new Set() }).step, { why: '"v" has no standby' });
  const nohelp = bare.map((v) => ({ ...v, on: ['a', 'b'] }));
  t.equal(
    plan({ nodes, vms: nohelp }, { asleep: [big('c', { memoryMiB: 1, vmMemoryMiB: 1 })] }).step,
    null,
    'not for nothing',
  );
});

void t.test('a failure wakes the largest, whatever else holds', async (t) => {
  const gone = [{ node: 'b', about: 'b 7' }];
  t.match(plan(four, { gone, asleep: [big('e'), big('f')] }).step, {
    do: 'wake',
    node: 'e',
    for: 'failure',
    about: 'b 7',
    why: 'b is gone',
  });
  t.equal(plan(four, { gone }).step, null, 'and nobody sleeps meanwhile');
});

/** Clusters whose VMs are protected, or not. */
const clusters = fc
  .record({
    nodes: fc.array(fc.constantFrom(32768, 65536), { minLength: 2, maxLength: 6 }),
    vms: fc.array(
      fc.record({
        memory: fc.constantFrom(512, 4096, 16384),
        owner: fc.nat(),
        standby: fc.nat(),
        busy: fc.integer({ min: 0, max: 40 }),
        alone: fc.boolean(),
      }),
      { maxLength: 16 },
    ),
    asleep: fc.integer({ min: 0, max: 2 }),
    grows: fc.double({ min: 1, max: 3, noNaN: true }),
  })
  .map(({ nodes, vms, asleep, grows }) => {
    const made = nodes.map((memory, i) =>
      big(`n${i}`, { memoryMiB: memory, vmMemoryMiB: memory - 2048, carries: [16, memory, 500, 125] }),
    );
    const name = (n: number): string => `n${n % made.length}`;
    const cluster: PlanCluster = {
      nodes: [...made, ...Array.from({ length: asleep }, (_, i) => big(`z${i}`, { state: 'dead' }))],
      vms: vms.map((v, i) => {
        const [owner, other] = [name(v.owner), name(v.standby)];
        return small(`v${i}`, owner, v.alone || owner === other ? '' : other, {
          memoryMiB: v.memory,
          load: [v.busy / 10, 0, 0, 0],
          ...(v.alone ? { alone: true as const } : {}),
        });
      }),
    };
    return { cluster, asleep: Array.from({ length: asleep }, (_, i) => big(`z${i}`)), grows };
  });

const view = (
  { cluster, asleep, grows }: { cluster: PlanCluster; asleep: PlanNode[]; grows: number },
  o: Partial<PowerView> = {},
): PowerPlan => {
  const cpus = cluster.vms.reduce((sum, v) => sum + v.load[0], 0);
  return plan(cluster, { asleep, wakeCpus: cpus, sleepCpus: grows * cpus, ...o });
};

/** The cluster as it is when the node sleeps. */
function after(cluster: PlanCluster, { step, moves }: PowerPlan): PlanCluster {
  const to = new Map(moves.map((m) => [m.vm, m.to]));
  return {
    nodes: cluster.nodes.map((n) => (n.name === step?.node ? { ...n, state: 'dead' } : n)),
    vms: cluster.vms.map((v) => {
      const owner = to.get(v.name) ?? v.owner;
      return { ...v, owner, standby: v.standby === step?.node || v.standby === owner ? '' : v.standby };
    }),
  };
}

void t.test(
  'whoever sleeps leaves every promise kept, nothing on it, and no reason to wake it',
  async (t) => {
    let slept = 0;
    fc.assert(
      fc.property(clusters, (c) => {
        const found = view(c);
        if (found.step?.do !== 'sleep') return;
        slept++;
        const then = after(c.cluster, found);
        const { s } = new Moves(then);
        const gone = found.step.node;
        if (then.vms.some((v) => v.owner === gone)) throw new Error('something is left on it');
        if (!admit(s).ok) throw new Error('a promise is broken');
        for (let v = 0; v < s.vmCount; v++)
          if (s.alone[v] === 0 && s.standby[v] === nowhere) throw new Error(`${s.vms[v]!.name} is bare`);
        const asleep = [...c.asleep, c.cluster.nodes.find((n) => n.name === gone)!];
        const again = view({ ...c, cluster: then, asleep }, { sleepers: new Set() });
        if (again.step !== null) throw new Error(`it would wake at once: ${again.step.why}`);
      }),
      { numRuns: 400 },
    );
    t.ok(slept > 40, `${slept} times somebody could sleep`);
  },
);

void t.test('the order of the input changes nothing', async (t) => {
  fc.assert(
    fc.property(clusters, (c) => {
      const turned: PlanCluster = {
        nodes: [...c.cluster.nodes].reverse(),
        vms: [...c.cluster.vms].reverse(),
      };
      t.same(view({ ...c, cluster: turned, asleep: [...c.asleep].reverse() }), view(c));
    }),
    { numRuns: 300 },
  );
});

void t.test(
  'what will be busy: now, the line of the last half hour, and yesterday at this time',
  async (t) => {
    const now = 20_000 * 24 * hour + 8 * hour;
    const none = new Array<number>(96).fill(-1);
    const points = (of: (min: number) => number) =>
      Array.from({ length: 31 }, (_, i) => ({ atMs: now - (30 - i) * minute, cpus: of(i) }));
    const ahead = (p: ReturnType<typeof points>, day = none, ms = 15 * minute): number =>
      Math.round(forecastCpus(p, day, now, ms) * 10) / 10;
    t.equal(ahead(points(() => 4)), 4);
    t.equal(ahead(points((i) => 4 + i / 10)), 8.5, 'it rises by 0.1 a minute');
    t.equal(ahead(points((i) => 8 - i / 10)), 5, 'what falls may rise again');
    t.equal(
      ahead(
        points((i) => i),
        none,
        60 * minute,
      ),
      60,
      'at most to twice of now',
    );
    t.equal(ahead(points((i) => i).slice(-4)), 30, 'few points are no line');
    t.equal(quarterOf(now), 32);
    const day = none.with(33, 9).with(34, 20);
    t.equal(
      ahead(
        points(() => 4),
        day,
      ),
      9,
    );
    t.equal(
      ahead(
        points(() => 4),
        day,
        30 * minute,
      ),
      20,
    );
    t.equal(ahead([], none), 0);
  },
);

const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const sleep: PowerStep = { do: 'sleep', node: 'd', for: 'idle', about: '', why: 'idle' };
const wake: PowerStep = { do: 'wake', node: 'e', for: 'failure', about: 'b 7', why: 'b is gone' };
const was = (o: Partial<PastPower>): PastPower => ({
  ...sleep,
  op: id(1),
  atMs: 100 * hour,
  endMs: 100 * hour,
  outcome: 'done',
  text: '',
  ...o,
});
const auto = (o: Partial<PowerAutoView> = {}): PowerAutoView => ({
  mode: 'automatic',
  nowMs: 200 * hour,
  past: [],
  step: sleep,
  wantedMs: sleepHoldMs,
  open: null,
  holds: [],
  asleep: 0,
  newId: () => id(2),
  ...o,
});

void t.test(
  'brakes: a sleep is wanted for long, after a rest, with nothing under way; a wake needs none',
  async (t) => {
    t.match(decidePower(auto()).begin, { do: 'sleep', node: 'd', op: id(2), outcome: null });
    t.equal(decidePower(auto({ wantedMs: sleepHoldMs - 1 })).begin, null);
    t.equal(decidePower(auto({ mode: 'recommend' })).begin, null);
    const held = decidePower(auto({ holds: ['HA is paused'] }));
    t.match(held, { begin: null, sentence: /that waits: HA is paused/ });
    const rests = [was({ endMs: 200 * hour - restMs + 1 })];
    t.equal(decidePower(auto({ past: rests })).begin, null);
    t.match(decidePower(auto({ past: rests, step: wake, holds: ['n2 is not alive'], wantedMs: 0 })).begin, {
      do: 'wake',
      node: 'e',
    });
    t.match(decidePower(auto({ step: wake, mode: 'recommend' })), {
      begin: null,
      sentence: /e should wake: b is gone/,
    });
    const open = {
      id: id(3),
      kind: 'node.sleep',
      subject: { id: 'd', name: 'd' },
      step: '',
      state: 'running',
    } as Op;
    t.match(decidePower(auto({ open })), { begin: null, cancel: null });
    t.match(
      decidePower(auto({ open, step: wake })),
      { begin: null, cancel: { id: id(3) } },
      'a sleep ends for it',
    );
    t.match(decidePower(auto({ open: { ...open, kind: 'node.wake' }, step: wake })), {
      begin: null,
      cancel: null,
    });
    t.equal(decidePower(auto({ past: Array.from({ length: 32 }, () => was({})) })).past.length, 32);
  },
);

void t.test('a node that was just switched on, or that failed at it, does not sleep', async (t) => {
  const now = 200 * hour;
  t.equal(sleepBrake('d', 0, [], now), null);
  t.match(sleepBrake('d', now - onMsMin + 1, [], now), /switched on within the hour/);
  t.match(sleepBrake('d', null, [], now), /switched on/, 'who has not said since when');
  const woken = was({ do: 'wake', endMs: now - onMsMin + 1 });
  t.match(sleepBrake('d', 0, [woken], now), /woken/);
  t.equal(sleepBrake('c', 0, [woken], now), null);
  t.match(
    sleepBrake('d', 0, [was({ outcome: 'failed', endMs: now - 23 * hour, text: 'no' })], now),
    /failed: no/,
  );
  t.equal(sleepBrake('d', 0, [was({ outcome: 'failed', endMs: now - 25 * hour })], now), null);
});
