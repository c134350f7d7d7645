import t, { type Test } from 'tap';
import { World } from './cluster/world.js';

/** A VM in lockstep on n1, protected; and what happens then. */
async function protectedVm(seed: number, nodes = 4): Promise<{ w: World; vm: string; twin: string }> {
  const w = new World({ seed, nodes, lockstep: true, log: true });
  w.boot();
  const vm = w.createLockstep('web', 'n1');
  await w.until('it is protected', () => w.own(vm)?.lockstep?.state === 'protected');
  await w.pass(15_000);
  return { w, vm, twin: w.own(vm)?.lockstep?.twin ?? '' };
}

const isProtected = (w: World, vm: string): boolean => w.own(vm)?.lockstep?.state === 'protected';

/** Nothing that was promised is broken; else what happened is shown. */
function sound(t: Test, w: World): void {
  if (!t.same(w.checks.violations, [], 'no promise is broken')) t.comment(w.lines.slice(-120).join('\n'));
  w.end();
}

/** How long nobody let anything of the VM out, ms, until `holds`. */
async function gap(w: World, vm: string, holds: () => boolean): Promise<number> {
  const fromMs = w.time.nowMs;
  while (!holds() || w.runsOn(vm).length === 0) {
    await w.pass(10);
    if (w.time.nowMs - fromMs > 60_000) throw new Error('it does not go on');
  }
  return w.time.nowMs - fromMs;
}

await t.test('a VM gets its twin, and keeps it', async (t) => {
  const { w, vm, twin } = await protectedVm(1);
  t.not(twin, 'n1');
  t.same(w.runsOn(vm), ['n1']);
  t.equal(w.lockstep?.joined, 1, 'one twin was enough');
  t.equal(w.node('n1').host.libvirt.starts.length, 1);
  t.same(w.own(vm)?.lockstep?.left, [], 'nothing is left anywhere');
  sound(t, w);
});

await t.test('its node loses its power: the twin goes on, and gets a twin of its own', async (t) => {
  const { w, vm, twin } = await protectedVm(2);
  w.node('n1').powerLoss();
  const ms = await gap(w, vm, () => w.own(vm)?.owner === twin);
  t.comment(`goes on after ${ms} ms`);
  t.same(w.runsOn(vm), [twin]);
  await w.until('it is protected again', () => isProtected(w, vm));
  t.equal(w.node(twin).host.libvirt.starts.length, 0, 'it was never started anew');
  w.node('n1').powerOn();
  await w.until('n1 has wiped what was left', () => w.own(vm)?.lockstep?.left?.length === 0);
  t.notOk(w.lockstep?.files.get(vm)?.has('n1'));
  await w.pass(20_000);
  t.same(w.runsOn(vm), [twin]);
  sound(t, w);
});

await t.test("its twin's node loses its power: it goes on alone, and gets another twin", async (t) => {
  const { w, vm, twin } = await protectedVm(3);
  w.node(twin).powerLoss();
  const ms = await gap(w, vm, () => w.own(vm)?.lockstep?.twin === null);
  t.comment(`goes on after ${ms} ms`);
  t.same(w.runsOn(vm), ['n1']);
  await w.until('it is protected again', () => isProtected(w, vm));
  t.not(w.own(vm)?.lockstep?.twin, twin);
  sound(t, w);
});
