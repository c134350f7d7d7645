import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import { vappStartDefault, vappStopDefault, type Vapp } from '../../core/domain/vapp.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';
import { vappOf } from './vapps.js';

/**
 * A vApp of three is made, started in its order, stopped and deleted, while agents die at each of their acts. In the end
 * all of it is there once, or nothing.
 */

const id = '00000000-0000-4000-8000-0000000000aa';
const tiers = ['db', 'app', 'web'];

function shop(o: { readonly memoryMiB?: number } = {}): Vapp {
  const v = vappOf(
    id,
    'shop',
    tiers.map((name, i) => ({
      name,
      group: null,
      vm: `00000000-0000-4000-8000-00000000000${i + 1}`,
      start: { ...vappStartDefault, order: i + 1, delayS: i === 0 ? 2 : 0 },
      stop: vappStopDefault,
      make: {
        name: `shop-${name}`,
        memoryMiB: name === 'web' ? (o.memoryMiB ?? 128) : 128,
        stopTimeoutS: 10,
      },
      leaving: false,
    })),
  );
  return { ...v, rules: [{ kind: 'apart', must: true, over: 'node', members: ['db', 'app'] }] };
}

async function cluster(): Promise<World> {
  const w = new World({ seed: 11, nodes: 3, log: true, locks: null });
  w.boot();
  await w.pass(25_000);
  return w;
}

const vm = (_: World, name: string): string => shop().members.find((m) => m.name === name)?.vm ?? '';
const runs = (w: World): boolean => tiers.every((name) => w.runsOn(vm(w, name)).length === 1);
const starts = (w: World): number =>
  [...w.nodes.values()].reduce((sum, n) => sum + n.host.libvirt.starts.length, 0);
const there = (w: World, prefix: string): string[] =>
  w.voters.store.peekAll(`/flotilla/${prefix}`).map((e) => e.key);

async function life(
  death: { readonly who: string; readonly n: number; readonly when: Death['when'] } | null,
) {
  const w = await cluster();
  const node = w.node(death?.who ?? 'n1');
  const before = node.agent?.acts ?? 0;
  if (death !== null) node.dieAt('agent', death.n, death.when);
  const op = w.deployVapp(shop(), true);
  await w
    .until('it is made', () => opFinished(w.op(op)), 300_000)
    .catch((e: unknown) => {
      throw new Error(
        `${JSON.stringify(death)} ${JSON.stringify(w.op(op))}\n${w.lines.slice(-40).join('\n')}`,
        { cause: e },
      );
    });
  await w.until('all run', () => runs(w), 60_000).catch(() => undefined);
  const made = { state: w.op(op).state, error: w.op(op).error, runs: runs(w), starts: starts(w) };
  const acts = (node.agent?.acts ?? 0) - before;
  return { w, made, acts };
}

await t.test('it is made and started in its order, stopped the other way round, and deleted', async (t) => {
  const w = await cluster();
  const op = w.deployVapp(shop(), true);
  const times: number[] = [];
  for (const name of tiers) {
    await w
      .until(`${name} runs`, () => w.runsOn(vm(w, name)).length === 1, 120_000)
      .catch((e: unknown) => {
        throw new Error(`${JSON.stringify(w.op(op))}\n${w.lines.slice(-30).join('\n')}`, { cause: e });
      });
    times.push(w.time.nowMs);
  }
  await w.until('it is made', () => opFinished(w.op(op)), 60_000);
  t.match(w.op(op), { state: 'done', error: null });
  t.equal(starts(w), 3);
  t.ok((times[1] ?? 0) - (times[0] ?? 0) >= 2_000, `the delay is kept: ${times.join()}`);
  t.ok((times[1] ?? 0) < (times[2] ?? 0), 'web comes last');
  t.not(w.runsOn(vm(w, 'db'))[0], w.runsOn(vm(w, 'app'))[0], 'they are apart');
  t.same(w.spec(vm(w, 'web')).vapp, { id, member: 'web' });
  t.same(w.spec(vm(w, 'web')).ha.after, [vm(w, 'app')], 'a failover keeps the order');
  const stop = w.onVapp('vapp.stop', id);
  await w.until('it is stopped', () => opFinished(w.op(stop)), 120_000);
  t.match(w.op(stop), { state: 'done', error: null });
  t.ok(tiers.every((name) => w.runsOn(vm(w, name)).length === 0));
  const gone = w.onVapp('vapp.delete', id);
  await w.until('it is deleted', () => opFinished(w.op(gone)), 120_000);
  t.match(w.op(gone), { state: 'done', error: null });
  t.same([...there(w, 'vm/'), ...there(w, 'vapp/'), ...there(w, 'name/')], [], 'nothing is left');
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('it is suspended in the reverse order, and resumed: no machine is started anew', async (t) => {
  const w = await cluster();
  const op = w.deployVapp(shop(), true);
  await w.until('it is made', () => opFinished(w.op(op)), 300_000);
  await w.until('all run', () => runs(w), 60_000);
  const db = w.node(w.runsOn(vm(w, 'db'))[0] ?? 'n1');
  const stands = (name: string): boolean => w.spec(vm(w, name)).power === 'paused';
  const suspend = w.onVapp('vapp.suspend', id);
  await w.until('web stands still', () => stands('web'), 60_000);
  t.notOk(stands('db'), 'what others need goes on longest');
  db.kill('agent'); // another one goes on, or it does
  await w.until('all stand still', () => opFinished(w.op(suspend)), 120_000);
  t.match(w.op(suspend), { state: 'done', step: 'suspended', error: null });
  t.ok(tiers.every(stands));
  const resume = w.onVapp('vapp.resume', id);
  await w.until('db goes on', () => !stands('db'), 60_000);
  t.ok(stands('web'));
  await w.until('all go on', () => opFinished(w.op(resume)), 120_000);
  t.match(w.op(resume), { state: 'done', error: null });
  t.equal(starts(w), 3, 'none was started anew');

  const again = w.onVapp('vapp.suspend', id);
  await w.until('all stand still', () => opFinished(w.op(again)), 120_000);
  db.powerLoss();
  await w.pass(10_000);
  db.powerOn();
  await w.pass(60_000);
  const back = w.onVapp('vapp.resume', id);
  await w.until('all go on', () => opFinished(w.op(back)), 300_000);
  t.match(w.op(back), { state: 'done', error: null }, 'what lost its memory with its node boots');
  await w.until('all run', () => runs(w) && !tiers.some(stands), 60_000);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('one of it fits nowhere: all that was made is taken back, and it says why', async (t) => {
  const w = await cluster();
  const op = w.deployVapp(shop({ memoryMiB: 9_000_000 }), true);
  await w.until('it ends', () => opFinished(w.op(op)), 120_000);
  t.match(w.op(op), { state: 'failed', error: { code: 'no-node-fits' } });
  t.same([...there(w, 'vm/'), ...there(w, 'vapp/'), ...there(w, 'name/')], [], 'nothing is left');
  w.end();
});

await t.test('a deployment is cancelled: nothing is left of it', async (t) => {
  const w = await cluster();
  const op = w.deployVapp(shop(), false);
  await w.until('one is made', () => there(w, 'vm/').length > 0);
  w.cancel(op);
  await w.until('it ends', () => opFinished(w.op(op)), 120_000);
  t.equal(w.op(op).state, 'cancelled');
  t.same([...there(w, 'vm/'), ...there(w, 'vapp/')], []);
  w.end();
});

for (const who of ['n1', 'n2']) {
  await t.test(`the agent of ${who} dies at each of its acts: another one goes on`, async (t) => {
    const { w, acts } = await life(null);
    w.end();
    let nights = 0;
    for (let n = 0; n < Math.min(acts, 200); n += 9)
      for (const when of ['before', 'after'] as const) {
        const { w, made } = await life({ who, n, when });
        nights++;
        const well = made.state === 'done' && made.runs && w.checks.violations.length === 0;
        if (!well) {
          t.fail(`act ${n} ${when}: ${JSON.stringify(made)}`);
          t.comment(w.lines.slice(-40).join('\n'));
        }
        w.end();
      }
    t.ok(nights > 4, `${nights} nights`);
  });
}
