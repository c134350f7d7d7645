import t from 'tap';
import { opFinished, type Op } from '../../core/domain/op.js';
import { vappArgs, vappStartDefault, vappStopDefault, type Vapp } from '../../core/domain/vapp.js';
import { World } from './cluster/world.js';
import { vappOf } from './vapps.js';

/** What a vApp does when a member's node fails: who is restarted, in which order, once. */

const id = '00000000-0000-4000-8000-0000000000bb';
const tiers = ['db', 'app', 'web', 'side'];
const vmOf = (name: string): string => `00000000-0000-4000-8000-00000000010${tiers.indexOf(name)}`;

const shop = (failover: Vapp['failover']): Vapp => ({
  ...vappOf(
    id,
    'shop',
    tiers.map((name, i) => ({
      name,
      group: null,
      vm: vmOf(name),
      // `side` begins with the first.
      start: { ...vappStartDefault, order: name === 'side' ? 0 : i },
      stop: vappStopDefault,
      make: { name: `shop-${name}`, memoryMiB: 128, stopTimeoutS: 10, ha: { enabled: true } },
      leaving: false,
    })),
  ),
  failover,
  rules: [{ kind: 'apart', must: true, over: 'node', members: ['db', 'app', 'web', 'side'] }],
});

async function cluster(failover: Vapp['failover']): Promise<World> {
  const w = new World({ seed: 12, nodes: 5, log: true, locks: null });
  w.boot();
  await w.pass(25_000);
  const op = w.deployVapp(shop(failover), true);
  await w.until('it is made', () => opFinished(w.op(op)), 300_000);
  await w.until('all are protected', () => tiers.every((m) => w.own(vmOf(m))?.fence.armed === true), 120_000);
  return w;
}

const nodeOf = (w: World, member: string): string => w.runsOn(vmOf(member))[0] ?? '';
const starts = (w: World): Record<string, number> =>
  Object.fromEntries(
    tiers.map((m) => [
      m,
      [...w.nodes.values()].reduce(
        (n, x) => n + x.host.libvirt.starts.filter((s) => s.uuid === vmOf(m)).length,
        0,
      ),
    ]),
  );
const restarts = (w: World): Op[] => w.ops().filter((o) => o.kind === 'vapp.restart');
const allRun = (w: World): boolean => tiers.every((m) => w.runsOn(vmOf(m)).length === 1);

async function lose(w: World, member: string): Promise<void> {
  const node = nodeOf(w, member);
  w.node(node).powerLoss();
  await w.until('it runs elsewhere', () => ![node, ''].includes(nodeOf(w, member)), 300_000);
}

await t.test('members: who failed comes back, and nothing else is touched', async (t) => {
  const w = await cluster('members');
  await lose(w, 'db');
  await w.pass(200_000);
  t.same(starts(w), { db: 2, app: 1, web: 1, side: 1 });
  t.same(restarts(w), []);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'dependents: those after it are restarted in their order, those before it are not',
  async (t) => {
    const w = await cluster('dependents');
    await lose(w, 'app');
    await w.until('the restart is over', () => restarts(w).some(opFinished), 600_000);
    t.match(restarts(w), [{ state: 'done', error: null, args: { members: ['web'] } }]);
    await w.pass(200_000);
    t.ok(allRun(w));
    t.same(starts(w), { db: 1, app: 2, web: 2, side: 1 });
    t.equal(restarts(w).length, 1, 'once');
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('all: the whole begins anew; what was off stays off', async (t) => {
  const w = await cluster('all');
  w.action('stop', vmOf('side'));
  await w.until('side is off', () => w.runsOn(vmOf('side')).length === 0, 120_000);
  await lose(w, 'web');
  await w.until('the restart is over', () => restarts(w).some(opFinished), 600_000);
  t.match(restarts(w), [{ state: 'done', error: null, args: { members: ['db', 'app', 'web'] } }]);
  t.same(starts(w), { db: 2, app: 2, web: 3, side: 1 });
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('two of it are lost at once, and agents die meanwhile: one restart for both', async (t) => {
  const w = await cluster('dependents');
  const left = [...w.nodes.values()].filter((n) => ![nodeOf(w, 'db'), nodeOf(w, 'web')].includes(n.id));
  w.node(nodeOf(w, 'web')).powerLoss();
  await lose(w, 'db');
  for (const n of left) {
    n.kill('agent');
    await w.pass(3_000);
  }
  await w.until('the restart is over', () => restarts(w).some(opFinished), 600_000);
  await w.until('all run', () => allRun(w), 120_000);
  await w.pass(200_000);
  t.equal(restarts(w).length, 1);
  t.same(vappArgs(restarts(w)[0] as Op)?.members, ['app', 'web']);
  t.ok(allRun(w));
  t.same(w.checks.violations, []);
  w.end();
});
