import t from 'tap';
import { bulkArgs } from '../../core/domain/bulk.js';
import { opFinished } from '../../core/domain/op.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';

/**
 * The same with many VMs, some at a time, while agents die at each of their acts, before and after it took effect. In the
 * end each VM was asked once, and is as it was asked to be.
 */

const names = ['web', 'db', 'mail', 'wiki', 'files', 'ldap'];

async function cluster(power: 'running' | 'stopped'): Promise<{ w: World; vms: string[] }> {
  const w = new World({ seed: 11, nodes: 3, log: true, locks: null });
  w.boot();
  const vms = names.map((name, i) => w.createVm(name, `n${(i % 3) + 1}`, { power }));
  if (power === 'running')
    await w.until('all run, protected', () =>
      vms.every((vm) => w.runsOn(vm).length === 1 && w.own(vm)?.standby !== null),
    );
  await w.pass(2_000);
  return { w, vms };
}

const under = (w: World, op: string): number =>
  bulkArgs(w.op(op))?.vms.filter((x) => x.state === 'running').length ?? 0;
const states = (w: World, op: string): string[] => bulkArgs(w.op(op))?.vms.map((x) => x.state) ?? [];
const starts = (w: World): number =>
  [...w.nodes.values()].reduce((sum, n) => sum + n.host.libvirt.starts.length, 0);

async function started(
  who: string,
  death: { readonly n: number; readonly when: Death['when'] } | null,
): Promise<{ w: World; op: string; acts: number; most: number }> {
  const { w, vms } = await cluster('stopped');
  const node = w.node(who);
  const before = node.agent?.acts ?? 0;
  if (death !== null) node.dieAt('agent', death.n, death.when);
  const op = w.bulk('start', vms, { atOnce: 2 });
  let most = 0;
  await w.until(
    'the op ends',
    () => {
      most = Math.max(most, under(w, op));
      return opFinished(w.op(op));
    },
    300_000,
  );
  const acts = (node.agent?.acts ?? 0) - before;
  await w.until('it rests', () => w.checks.resting(), 60_000);
  await w.pass(15_000);
  w.checks.atRest();
  return { w, op, acts, most };
}

await t.test('two at a time are started, and all of them once', async (t) => {
  const { w, op, most } = await started('n1', null);
  t.same(w.checks.violations, []);
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  t.equal(most, 2);
  t.same([...new Set(states(w, op))], ['done']);
  t.equal(starts(w), names.length);
  w.end();
});

await t.test(
  'the agent that does it dies at each of its acts: another one goes on, nothing is asked twice',
  async (t) => {
    const { w, acts } = await started('n1', null);
    w.end();
    t.ok(acts > 3, String(acts));
    for (let n = 1; n <= Math.min(acts, 12); n++)
      for (const when of ['before', 'after'] as const) {
        const night = await started('n1', { n, when });
        const what = `act ${n}, ${when}`;
        t.same(night.w.checks.violations, [], what);
        t.equal(night.w.op(night.op).state, 'done', `${what}: ${JSON.stringify(night.w.op(night.op))}`);
        t.ok(
          [...night.w.vms.values()].every((vm) => night.w.runsOn(vm).length === 1),
          what,
        );
        night.w.end();
      }
  },
);

await t.test(
  'live migrations: what cannot go is named, the rest goes; those that are off are left',
  async (t) => {
    const { w, vms } = await cluster('running');
    const off = w.createVm('off', 'n1', { power: 'stopped' });
    await w.pass(5_000);
    const op = w.bulk('migrate', [...vms, off], { to: 'n2' });
    await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
    const { error, state } = w.op(op);
    t.equal(state, 'failed');
    t.match(error?.message, /1 of 7 VMs: "off": it does not run/);
    t.ok(vms.every((vm) => w.own(vm)?.owner === 'n2'));
    t.equal(starts(w), names.length, 'nothing was started anew');
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('it is cancelled: what is under way ends, the rest is left as it is', async (t) => {
  const { w, vms } = await cluster('running');
  const op = w.bulk('stop', vms, { atOnce: 2 });
  await w.until('two are asked', () => under(w, op) === 2);
  w.cancel(op);
  await w.until('the op ends', () => opFinished(w.op(op)), 120_000);
  t.equal(w.op(op).state, 'cancelled');
  const left = states(w, op).filter((s) => s === 'cancelled').length;
  t.ok(left >= 3, `${left} are left out`);
  t.equal(vms.filter((vm) => w.runsOn(vm).length === 1).length, left);
  w.end();
});
