import t from 'tap';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { powerRecordSchema, type PowerRecord } from '../../core/domain/power.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';

/** Nodes that are not needed sleep, and wake before they are missed, on simulated time. */

const minute = 60_000;

async function cluster(o: { readonly nodes?: number; readonly seed?: number } = {}): Promise<World> {
  const w = new World({ seed: o.seed ?? 5, nodes: o.nodes ?? 5, log: true, locks: null, bmc: true });
  w.boot();
  for (const n of w.nodes.keys()) w.bmcTried(n);
  for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) w.createVm(name, `n${i + 1}`);
  await w.until('all run, protected', () =>
    [...w.vms.values()].every((vm) => w.runsOn(vm).length === 1 && w.own(vm)?.standby !== null),
  );
  await w.pass(2_000);
  return w;
}

const node = (w: World, id: string): NodeRecord =>
  JSON.parse(w.voters.store.peek(`/flotilla/node/${id}`)?.value ?? '{}') as NodeRecord;
const record = (w: World): PowerRecord | null => {
  const e = w.voters.store.peek('/flotilla/power/cluster');
  return e === null ? null : powerRecordSchema.parse(JSON.parse(e.value));
};
const ended = async (w: World, op: string, limitMs = 40 * minute): Promise<Op> => {
  await w
    .until('the op ends', () => opFinished(w.op(op)), limitMs)
    .catch((e: unknown) => {
      throw new Error(`${JSON.stringify(w.op(op))}\n${w.lines.slice(-40).join('\n')}`, { cause: e });
    });
  return w.op(op);
};
const oneEach = (w: World): boolean => [...w.vms.values()].every((vm) => w.runsOn(vm).length === 1);
const failovers = (w: World): number => w.ops().filter((o) => o.kind === 'vm.failover').length;

await t.test('a node sleeps when it is empty, is no failure, and wakes', async (t) => {
  const w = await cluster();
  const op = w.power('sleep', 'n4');
  t.match(await ended(w, op), { state: 'done', step: 'n4 is asleep: its power is off' });
  t.equal(w.node('n4').host.powered, false);
  t.match(node(w, 'n4'), { desired: 'maintenance', asleep: { by: 'somebody' } });
  await w.pass(5 * minute);
  t.ok(oneEach(w));
  t.equal(failovers(w), 0);
  t.match(await ended(w, w.power('wake', 'n4')), { state: 'done', step: 'n4 is awake' });
  t.equal(node(w, 'n4').asleep, undefined);
  t.equal(node(w, 'n4').desired, 'active');
  t.ok(w.node('n4').host.powered);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('a voter stays on', async (t) => {
  const w = await cluster();
  t.match(await ended(w, w.power('sleep', 'n2')), { state: 'failed', error: { code: 'wrong-state' } });
  t.equal(node(w, 'n2').desired, 'active');
  w.end();
});

await t.test('cancelled while it is emptied, it stays on and is active again', async (t) => {
  const w = await cluster();
  const op = w.power('sleep', 'n4');
  await w.until('it is being emptied', () => w.op(op).args['drain'] !== undefined);
  w.cancel(op);
  t.match(await ended(w, op), { state: 'cancelled' });
  t.equal(node(w, 'n4').desired, 'active');
  await w.pass(2 * minute);
  t.ok(w.node('n4').host.powered);
  t.ok(oneEach(w));
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('its BMC does not answer: it stays on, is active again, and the op says why', async (t) => {
  const w = await cluster();
  w.bmcAnswers = false;
  t.match(await ended(w, w.power('sleep', 'n4')), {
    state: 'failed',
    error: { message: /n4 stays on: its BMC did not confirm that it is off: The BMC does not answer/ },
    args: { tries: 3 },
  });
  t.equal(node(w, 'n4').desired, 'active');
  t.equal(node(w, 'n4').asleep, undefined);
  t.ok(w.node('n4').host.powered);
  w.end();
});

await t.test('a node that does not come back counts as down, and another one is woken', async (t) => {
  const w = await cluster();
  for (const n of ['n5', 'n4']) t.match(await ended(w, w.power('sleep', n)), { state: 'done' });
  w.broken.add('n4');
  w.policy({}, { power: 'automatic' });
  t.match(await ended(w, w.power('wake', 'n4')), {
    state: 'failed',
    error: { code: 'timeout', message: /n4 did not come back/ },
  });
  t.equal(node(w, 'n4').desired, 'active');
  t.equal(node(w, 'n4').asleep, undefined);
  await w.until('n5 wakes for it', () => node(w, 'n5').asleep === undefined, 20 * minute);
  t.match(record(w)?.past.at(-1), { do: 'wake', node: 'n5', for: 'failure', why: 'n4 is gone' });
  t.same(w.checks.violations, []);
  w.end();
});

async function night(
  does: 'sleep' | 'wake',
  who: string,
  death: { n: number; when: Death['when'] } | null,
): Promise<{ w: World; op: string; acts: number }> {
  const w = await cluster({ nodes: 4 });
  if (does === 'wake') await ended(w, w.power('sleep', 'n4'));
  const before = w.node(who).agent?.acts ?? 0;
  if (death !== null) w.node(who).dieAt('agent', death.n, death.when);
  const op = w.power(does, 'n4');
  await ended(w, op);
  // The agent of the node itself is gone with its power.
  return { w, op, acts: who === 'n4' ? 12 : (w.node(who).agent?.acts ?? 0) - before };
}

for (const does of ['sleep', 'wake'] as const)
  await t.test(`whoever does it dies at any act, before and after it: ${does}`, async (t) => {
    for (const who of does === 'sleep' ? ['n1', 'n4'] : ['n1']) {
      const whole = await night(does, who, null);
      whole.w.end();
      let nights = 0;
      for (let n = 0; n < whole.acts; n += Math.max(1, Math.floor(whole.acts / 8)))
        for (const when of ['before', 'after'] as const) {
          const { w, op } = await night(does, who, { n, when });
          nights++;
          const well =
            w.op(op).state === 'done' &&
            w.node('n4').host.powered === (does === 'wake') &&
            (node(w, 'n4').asleep === undefined) === (does === 'wake') &&
            w.checks.violations.length === 0 &&
            oneEach(w) &&
            failovers(w) === 0;
          if (!well) {
            t.fail(`${who} act ${n} ${when}: ${JSON.stringify(w.op(op))}`);
            t.comment(w.lines.slice(-60).join('\n'));
          }
          w.end();
        }
      t.ok(nights > 10, `${nights} nights`);
    }
  });

await t.test('it recommends; automatic, an idle node sleeps, and the voters stay', async (t) => {
  const w = await cluster({ nodes: 4 });
  await w.until('it says what could sleep', () => record(w)?.next?.do === 'sleep', 10 * minute);
  t.match(
    record(w)?.sentence,
    /^n4 could sleep: the other 3 nodes have room for all.*; nothing is done by itself/,
  );
  await w.pass(3 * minute);
  t.notOk(w.ops().some((o) => o.kind === 'node.sleep'));
  w.policy({}, { power: 'automatic' });
  await w.until('it sleeps', () => node(w, 'n4').asleep !== undefined, 25 * minute);
  await w.until(
    'that is noted',
    () => record(w)?.past[0]?.outcome === 'done' && record(w)?.next === null,
    5 * minute,
  );
  t.match(record(w), {
    past: [{ do: 'sleep', node: 'n4', for: 'idle' }],
    kept: [{ node: 'n1', why: 'votes in the ledger' }],
  });
  t.equal(failovers(w), 0);
  t.ok(oneEach(w));
  t.same(w.checks.violations, []);

  await t.test('a node fails: it wakes at once; VMs fail over as ever', async (t) => {
    const fromMs = w.time.nowMs;
    w.node('n1').powerLoss();
    await w.until('it is being woken', () => w.ops().some((o) => o.kind === 'node.wake'), 15 * minute);
    t.comment(`after ${(w.time.nowMs - fromMs) / 1000} s`);
    await w.until('it is awake', () => node(w, 'n4').asleep === undefined, 10 * minute);
    await w.pass(2 * minute);
    t.ok(oneEach(w));
    t.same(w.checks.violations, []);
  });
  w.end();
});

await t.test('load comes back: a node wakes, and does not sleep again at once', async (t) => {
  const w = await cluster({ nodes: 4 });
  t.match(await ended(w, w.power('sleep', 'n4')), { state: 'done' });
  w.policy({}, { power: 'automatic' });
  for (const vm of w.vms.values()) w.edit(vm, { cpus: 4 });
  for (const n of w.nodes.values()) n.host.libvirt.busy = () => 0.9;
  await w.until('it wakes', () => w.ops().some((o) => o.kind === 'node.wake'), 15 * minute);
  t.match(record(w)?.past.at(-1), { do: 'wake', for: 'load', why: /% of the CPUs that are on will be busy/ });
  await w.until('it is awake', () => node(w, 'n4').asleep === undefined, 10 * minute);
  for (const n of w.nodes.values()) n.host.libvirt.busy = () => 0;
  await w.pass(18 * minute);
  t.equal(w.ops().filter((o) => o.kind === 'node.sleep').length, 1);
  t.match(
    record(w)?.kept.find((k) => k.node === 'n4'),
    { why: 'was woken within the hour' },
  );
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('somebody switches a sleeping node on: it is awake, whatever the mode', async (t) => {
  const w = await cluster();
  await ended(w, w.power('sleep', 'n4'));
  w.policy({}, { power: 'off' });
  w.node('n4').powerOn();
  await w.until('it is active', () => node(w, 'n4').desired === 'active', 20 * minute);
  t.match(record(w)?.past.at(-1), { do: 'wake', node: 'n4', why: 'somebody has switched it on' });
  w.end();
});
