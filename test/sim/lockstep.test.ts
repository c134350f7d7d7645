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

const failovers = (w: World) => w.ops().filter((o) => o.kind === 'vm.failover');

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
  t.same(w.own(vm)?.left ?? [], [], 'nothing is left anywhere');
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
  const [op, ...more] = failovers(w);
  t.match(
    op,
    { state: 'done', args: { from: 'n1', to: twin, fence: 'twin' } },
    'people find it among failovers',
  );
  t.same(more, []);
  w.node('n1').powerOn();
  await w.until('n1 has wiped what was left', () => w.own(vm)?.left?.length === 0);
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

/** Half of the acts have their effect when the agent dies at them. */
const when = (n: number): 'before' | 'after' => (n % 2 === 0 ? 'before' : 'after');

for (const [what, of, fail] of [
  ['its owner is lost, and the agent of its twin', 'twin', (w: World, _: string) => w.node('n1').powerLoss()],
  [
    'its twin is lost, and the agent of its owner',
    'n1',
    (w: World, twin: string) => w.node(twin).powerLoss(),
  ],
  [
    "QEMU of its owner dies, and the twin's agent",
    'twin',
    (w: World, _: string, vm: string) => w.node('n1').host.libvirt.die(vm, 'crashed'),
  ],
] as const)
  await t.test(`${what} dies at each of its acts`, async (t) => {
    for (let n = 0; n < 36; n += 3) {
      const { w, vm, twin } = await protectedVm(100 + n);
      fail(w, twin, vm);
      w.node(of === 'twin' ? twin : of).dieAt('agent', n, when(n / 3));
      await w.until(
        'it goes on',
        () => w.runsOn(vm).length === 1 && w.own(vm)?.lockstep?.twin !== twin,
        40_000,
      );
      await w.until('it is protected again', () => isProtected(w, vm), 120_000);
      const starts = [...w.nodes.values()].reduce((sum, x) => sum + x.host.libvirt.starts.length, 0);
      if (w.checks.violations.length > 0 || starts !== 1) {
        t.equal(starts, 1, `act ${n}: it was started once, and went on since`);
        sound(t, w);
      } else w.end();
    }
    t.pass('it went on each time');
  });

await t.test('the agents of both nodes die at each act of making a twin', async (t) => {
  for (let n = 0; n < 60; n += 5) {
    const w = new World({ seed: 200 + n, nodes: 3, lockstep: true, log: true });
    w.boot();
    const vm = w.createLockstep('web', 'n1');
    await w.until('a twin is begun', () => w.own(vm)?.lockstep?.state === 'preparing');
    const twin = w.own(vm)?.lockstep?.twin ?? '';
    w.node(n % 2 === 0 ? 'n1' : twin).dieAt('agent', n, when(n / 5));
    await w.until('it is protected', () => isProtected(w, vm), 120_000);
    await w.pass(2_000);
    if (w.checks.violations.length > 0 || w.runsOn(vm)[0] !== 'n1') {
      t.same(w.runsOn(vm), ['n1'], `act ${n}`);
      sound(t, w);
    } else w.end();
  }
  t.pass('it got one each time');
});

await t.test('the guest of its twin panics: it goes on alone, and gets another one', async (t) => {
  const { w, vm, twin } = await protectedVm(5);
  const pair = w.own(vm)?.lockstep?.pair;
  w.lockstep?.panics(twin, vm);
  await w.until('it lets go of it', () => w.own(vm)?.lockstep?.pair !== pair);
  t.same(w.runsOn(vm), ['n1']);
  await w.until('it is protected again', () => isProtected(w, vm));
  t.equal(w.node('n1').host.libvirt.starts.length, 1);
  sound(t, w);
});

await t.test('its owner is lost as well: it is started from the disk of its twin', async (t) => {
  for (const lossFirst of [false, true]) {
    const { w, vm, twin } = await protectedVm(6);
    if (lossFirst) w.node('n1').powerLoss();
    w.lockstep?.panics(twin, vm);
    if (!lossFirst) w.node('n1').powerLoss();
    await w.until('its twin owns it', () => w.own(vm)?.owner === twin);
    await w.until('it runs there', () => w.runsOn(vm)[0] === twin, 60_000);
    t.equal(w.node(twin).host.libvirt.starts.length, 1, 'started, not gone on with');
    await w.until('it is protected again', () => isProtected(w, vm));
    sound(t, w);
  }
});

await t.test('both agents are killed while it is protected: nothing happens', async (t) => {
  const { w, vm, twin } = await protectedVm(4);
  const gen = w.own(vm)?.gen;
  for (const n of ['n1', twin]) w.node(n).kill('agent');
  await w.pass(10_000);
  t.equal(w.own(vm)?.gen, gen, 'the ledger was not written');
  t.same(w.runsOn(vm), ['n1']);
  sound(t, w);
});

await t.test('an owner that stands still, and wakes up, lets nothing out any more', async (t) => {
  for (const ms of [900, 1_500, 4_000, 20_000]) {
    const { w, vm, twin } = await protectedVm(ms);
    w.node('n1').stallAll(ms);
    await w.pass(ms + 20_000);
    t.same(w.runsOn(vm).length, 1, `after ${ms} ms one goes on`);
    if (ms > 1_400) t.equal(w.own(vm)?.owner, twin);
    t.equal(w.node('n1').host.exists(vm), w.own(vm)?.owner === 'n1', 'what woke up has ended');
    await w.until('it is protected again', () => isProtected(w, vm));
    sound(t, w);
  }
});

await t.test('cut off from its twin, and both from nothing else: one of them goes on', async (t) => {
  const { w, vm, twin } = await protectedVm(5);
  const mend = w.net.part(['n1'], [twin]);
  const ms = await gap(w, vm, () => w.own(vm)?.lockstep?.state !== 'protected');
  t.comment(`goes on after ${ms} ms`);
  t.equal(w.own(vm)?.owner, 'n1', 'the owner, which was quicker');
  mend();
  await w.until('it is protected again', () => isProtected(w, vm));
  sound(t, w);
});

await t.test('its node loses the ledger: the twin goes on', async (t) => {
  const w = new World({ seed: 6, nodes: 5, lockstep: true, log: true });
  w.boot();
  // Two nodes that do not vote: they hear each other, whatever becomes of the way to the ledger.
  for (const n of w.voters.voters) w.desired(n, 'maintenance');
  const vm = w.createLockstep('web', 'n4');
  await w.until('it is protected', () => isProtected(w, vm));
  await w.pass(10_000);
  t.equal(w.own(vm)?.lockstep?.twin, 'n5');
  w.net.part(['n4'], w.voters.voters);
  await w.until('it goes on', () => w.own(vm)?.owner === 'n5' && w.runsOn(vm)[0] === 'n5', 30_000);
  await w.pass(10_000);
  w.net.heal();
  await w.until('it is protected again', () => isProtected(w, vm), 120_000);
  t.equal(w.node('n5').host.libvirt.starts.length, 0, 'without a start');
  sound(t, w);
});

await t.test('a node with twins loses the ledger: its keeper ends them', async (t) => {
  const { w, vm, twin } = await protectedVm(7);
  w.net.isolate(twin);
  await w.until('the VM goes on alone', () => w.own(vm)?.lockstep?.twin !== twin, 30_000);
  await w.until('no twin is left there', () => w.lockstep?.twins(twin).length === 0, 30_000);
  t.same(w.runsOn(vm), ['n1']);
  w.net.heal();
  await w.until('it is protected again', () => isProtected(w, vm), 120_000);
  sound(t, w);
});

await t.test('both nodes lose their power: only the files of the owner start again', async (t) => {
  const { w, vm, twin } = await protectedVm(8, 5);
  for (const n of ['n1', twin]) w.node(n).powerLoss();
  await w.pass(30_000);
  t.same(w.runsOn(vm), [], 'no other node has its disk');
  w.node(twin).powerOn();
  await w.pass(30_000);
  t.same(w.runsOn(vm), [], "nor is the twin's file its data");
  w.node('n1').powerOn();
  await w.until('it runs', () => w.runsOn(vm)[0] === 'n1', 60_000);
  await w.until('it is protected again', () => isProtected(w, vm), 120_000);
  sound(t, w);
});

await t.test('a node that is to be emptied hands over; one with a twin lets it go', async (t) => {
  const { w, vm, twin } = await protectedVm(9);
  w.desired('n1', 'maintenance');
  const ms = await gap(w, vm, () => w.own(vm)?.owner === twin);
  t.comment(`goes on after ${ms} ms`);
  t.same(failovers(w), [], 'handed over, not failed over');
  await w.until('it is protected again', () => isProtected(w, vm));
  const next = w.own(vm)?.lockstep?.twin ?? '';
  t.not(next, 'n1');
  w.desired(next, 'maintenance');
  await w.until('its twin is elsewhere', () => isProtected(w, vm) && w.own(vm)?.lockstep?.twin !== next);
  t.same(w.runsOn(vm), [twin]);
  sound(t, w);
});

await t.test('stopped, started, and no longer wanted in lockstep', async (t) => {
  const { w, vm, twin } = await protectedVm(10);
  w.action('stop', vm);
  await w.until('it is off', () => w.own(vm)?.state === 'stopped');
  await w.pass(3_000);
  t.equal(w.own(vm)?.owner, 'n1');
  t.equal(w.lockstep?.twins(twin).length, 0);
  w.action('start', vm);
  await w.until('it is protected again', () => isProtected(w, vm));
  w.edit(vm, { ha: { ...w.spec(vm).ha, lockstep: false } });
  await w.until('it has no twin', () => w.own(vm)?.lockstep?.state === 'alone');
  await w.pass(10_000);
  t.same(w.runsOn(vm), ['n1'], 'it runs on');
  t.equal(w.own(vm)?.lockstep?.state, 'alone');
  sound(t, w);
});

await t.test('a twin that owns the VM and does not go on: it is started from its disk there', async (t) => {
  const { w, vm, twin } = await protectedVm(12);
  if (w.lockstep === null) throw new Error('no lockstep');
  w.lockstep.takeOverFault = 'it stands still (colo)';
  w.node('n1').powerLoss();
  await w.until('it runs', () => w.runsOn(vm)[0] === twin, 60_000);
  t.equal(w.node(twin).host.libvirt.starts.length, 1, 'as after any failover');
  w.lockstep.takeOverFault = null;
  await w.until('it is protected again', () => isProtected(w, vm), 120_000);
  sound(t, w);
});

await t.test('a VM that is deleted leaves no files on the node of its twin', async (t) => {
  const { w, vm, twin } = await protectedVm(11);
  w.action('stop', vm);
  w.deleteVm(vm);
  await w.until('it is gone', () => w.own(vm) === null, 60_000);
  t.same([...(w.lockstep?.files.get(vm) ?? [])], [], `nor on ${twin}`);
  w.vms.delete('web');
  sound(t, w);
});

/* ---- nights of many faults ----------------------------------------------------------------------------- */

/** Nights that CI runs; `LOCKSTEP_NIGHTS=200` for more. */
const nights = Number(process.env['LOCKSTEP_NIGHTS'] ?? 8);

for (let seed = 1; seed <= nights; seed++)
  await t.test(`night ${seed}`, async (t) => {
    const { w, vm } = await protectedVm(1_000 + seed, 4);
    const { rng } = w;
    const ids = [...w.nodes.keys()];
    const anyOf = <T>(list: readonly T[]): T => list[rng.below(list.length)] as T;
    const pairNodes = (): string[] => {
      const own = w.own(vm);
      return own === null ? ids : [own.owner, own.lockstep?.twin ?? own.owner];
    };
    const faults: readonly ((n: string) => void)[] = [
      (n) => w.node(n).kill('agent'),
      (n) => w.node(n).kill('keeper'),
      (n) => w.node(n).dieAt('agent', rng.below(40), anyOf(['before', 'after'] as const)),
      (n) => w.node(n).stall('agent', rng.between(300, 8_000)),
      (n) => w.node(n).stallAll(rng.between(300, 12_000)),
      (n) => w.reboot(n, rng.between(1_000, 20_000)),
      (n) =>
        void w.time.after(
          rng.between(1_000, 15_000),
          w.net.isolate(n, anyOf(['both', 'in', 'out'] as const)),
        ),
      () => {
        const [a = '', b = ''] = pairNodes();
        if (a !== b) void w.time.after(rng.between(500, 15_000), w.net.part([a], [b]));
      },
      (n) => void w.time.after(rng.between(1_000, 15_000), w.net.part([n], w.voters.voters)),
      (n) => {
        if (w.node(n).host.exists(vm)) w.node(n).host.libvirt.die(vm, 'crashed');
        else w.lockstep?.killTwin(n, vm);
      },
      (n) => {
        w.desired(n, 'maintenance');
        w.time.after(rng.between(5_000, 20_000), () => w.desired(n, 'active'));
      },
      () => {
        w.action(w.spec(vm).power === 'running' ? 'stop' : 'start', vm);
        w.time.after(rng.between(1_000, 15_000), () => w.action('start', vm));
      },
    ];
    for (let i = 0; i < 8; i++) {
      anyOf(faults)(rng.below(4) === 0 ? anyOf(ids) : anyOf(pairNodes()));
      await w.pass(rng.below(3) === 0 ? rng.between(10, 600) : rng.between(500, 12_000));
    }
    await w.pass(25_000);
    w.net.heal();
    for (const n of ids) {
      w.desired(n, 'active');
      if (!w.node(n).host.powered) w.node(n).powerOn();
    }
    if (w.spec(vm).power !== 'running') w.action('start', vm);
    await w
      .until('it is protected again', () => isProtected(w, vm) && w.runsOn(vm).length === 1, 400_000)
      .catch((e: unknown) => t.fail(String(e)));
    await w.pass(20_000);
    t.equal(w.runsOn(vm)[0], w.own(vm)?.owner);
    t.ok(isProtected(w, vm), 'it stays protected');
    if (!t.passing()) t.comment(w.lines.slice(-150).join('\n'));
    sound(t, w);
  });
