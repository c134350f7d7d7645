import t, { type Test } from 'tap';
import { migrateArgs } from '../../core/domain/migration.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';

/**
 * A VM migrates, and whoever has a part in it dies at each of its acts in turn, before and after the act took effect.
 * In the end one machine runs, on its owner, no copy that is older than the disk ever ran, and where its disks have two
 * copies one node alone may write. @see docs/models.md
 */

interface Night {
  readonly w: World;
  readonly vm: string;
  readonly op: string;
  /** Acts of the agent that was to die between the wish and the end. */
  readonly acts: number;
}

async function cluster(copies: boolean, seed = 11): Promise<{ w: World; vm: string }> {
  const w = new World({ seed, nodes: 3, log: true, locks: null, copies });
  w.boot();
  const vm = w.createVm('web', 'n1', {}, copies ? 'n2' : null);
  await w.until('web runs, protected', () => {
    const own = w.own(vm);
    return (
      w.runsOn(vm)[0] === 'n1' && own?.standby !== null && own?.fence.armed === true && own.sync === 'ok'
    );
  });
  await w.pass(1_000);
  return { w, vm };
}

async function night(
  copies: boolean,
  who: 'n1' | 'n2',
  death: { readonly n: number; readonly when: Death['when'] } | null,
): Promise<Night> {
  const { w, vm } = await cluster(copies);
  const node = w.node(who);
  const before = node.agent?.acts ?? 0;
  if (death !== null) node.dieAt('agent', death.n, death.when);
  const op = w.migrate(vm, 'n2');
  await w.until('the op ends', () => opFinished(w.op(op)), 90_000);
  const acts = (node.agent?.acts ?? 0) - before;
  await w.until('it rests', () => w.checks.resting(), 60_000);
  await w.pass(15_000);
  w.checks.atRest();
  return { w, vm, op, acts };
}

/** It migrates there, and nothing is amiss. @returns the operation as it ended */
async function moved(t: Pick<Test, 'equal'>, w: World, vm: string, to: string): Promise<Op> {
  const op = w.migrate(vm, to);
  await w.until(`it is on ${to}`, () => opFinished(w.op(op)), 90_000);
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  return w.op(op);
}

const faults: readonly (readonly [string, (w: World) => void])[] = [
  ['the source loses power', (w) => w.reboot('n1', 20_000)],
  ['the target loses power', (w) => w.reboot('n2', 20_000)],
  ['the source is cut off', (w) => w.net.isolate('n1')],
  ['the target is cut off', (w) => w.net.isolate('n2')],
  ['the ledger is away', (w) => w.voters.voters.forEach((v) => w.net.isolate(v))],
  ['the keeper of the source dies', (w) => w.node('n1').kill('keeper')],
  ['the keeper of the target dies', (w) => w.node('n2').kill('keeper')],
  [
    'the guest shuts down',
    (w) => void ifThere(() => w.node('n1').host.libvirt.die(w.vms.get('web') ?? '', 'shutdown')),
  ],
  ['its last answer is lost', (w) => (w.node('n1').host.libvirt.loseFinish = () => undefined)],
  [
    'its last answer is lost, and its node is cut off',
    (w) => (w.node('n1').host.libvirt.loseFinish = () => void w.net.isolate('n1')),
  ],
];

/** Those of disks with two copies only. */
const faultsOfCopies: typeof faults = [
  ['the storage network is cut', (w) => (w.storage.cut = true)],
  [
    'the management network of the source is cut, the storage network is not',
    (w) => {
      w.storage.own = true;
      w.net.isolate('n1');
    },
  ],
  [
    'both agents die',
    (w) => {
      w.node('n1').kill('agent');
      w.node('n2').kill('agent');
    },
  ],
];

/** @param copies - its disk has a copy on n1 and on n2; else all nodes reach it */
export async function migrations(copies: boolean): Promise<void> {
  await t.test('a VM migrates: handed over once, never stopped, protected again', async (t) => {
    const { w, vm, op } = await night(copies, 'n1', null);
    t.same(w.checks.violations, []);
    t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
    t.same(w.runsOn(vm), ['n2']);
    t.same(
      w.checks.seen.map((s) => s.what).filter((x) => ['migrate', 'hand-over', 'break-off'].includes(x)),
      ['migrate', 'hand-over'],
    );
    t.ok((migrateArgs(w.op(op))?.result?.pauseMs ?? 1e9) < 500);
    t.equal(w.node('n1').host.libvirt.domains.size, 0, 'nothing is left where it was');
    t.equal(w.own(vm)?.fence.armed, true);
    t.equal(w.node('n2').host.libvirt.starts.length, 0, 'no machine was started there');
    if (copies) {
      t.match(w.own(vm), { sync: 'ok', standby: 'n1', copies: [{ node: 'n2' }, { node: 'n1' }] });
      t.same(w.copies?.lacks(vm), []);
      await moved(t, w, vm, 'n1');
      await w.pass(15_000);
      w.checks.atRest();
      t.same(w.checks.violations, []);
    }
    w.end();
  });

  await t.test(
    'a target that is slow to look at its machines: the guest does not stand still for that',
    async (t) => {
      const { w, vm } = await cluster(copies);
      const op = w.migrate(vm, 'n2');
      await w.until('it is sent', () => w.own(vm)?.state === 'migrating', 30_000);
      w.node('n2').host.libvirt.lookMs = 400;
      await w.until('its guest goes on', () => w.runsOn(vm)[0] === 'n2', 90_000);
      const wentOnMs = w.time.nowMs;
      await w.until('the op ends', () => opFinished(w.op(op)), 90_000);
      t.ok(w.time.nowMs - wentOnMs < 300, `whoever waits for it is told after ${w.time.nowMs - wentOnMs} ms`);
      await w.pass(5_000);
      t.equal(w.lines.filter((l) => l.includes('migration: runs on n2')).length, 1, 'and once');
      t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
      const pauseMs = migrateArgs(w.op(op))?.result?.pauseMs ?? 1e9;
      t.ok(pauseMs < 200, `${pauseMs} ms`);
      w.node('n2').host.libvirt.lookMs = 20;
      await w.until('it rests', () => w.checks.resting(), 60_000);
      w.checks.atRest();
      t.same(w.checks.violations, []);
      t.same(w.runsOn(vm), ['n2']);
      w.end();
    },
  );

  await t.test('asked back while its machine is still ending there: it waits for that', async (t) => {
    const { w, vm } = await cluster(copies);
    w.node('n1').host.libvirt.endMs = 3_000;
    await moved(t, w, vm, 'n2');
    t.equal(w.node('n1').host.libvirt.domains.get(vm)?.active, true, 'it has not ended yet');
    await moved(t, w, vm, 'n1');
    t.same(w.runsOn(vm), ['n1']);
    await w.pass(15_000);
    w.checks.atRest();
    t.same(w.checks.violations, []);
    w.end();
  });

  await t.test('there, back and there again, at once each time: each tells its own pause', async (t) => {
    const { w, vm } = await cluster(copies);
    for (const to of ['n2', 'n1', 'n2'] as const) {
      const op = await moved(t, w, vm, to);
      const pauseMs = migrateArgs(op)?.result?.pauseMs ?? 1e9;
      t.ok(pauseMs < 500, `to ${to}: ${pauseMs} ms`);
    }
    await w.pass(15_000);
    w.checks.atRest();
    t.same(w.checks.violations, []);
    w.end();
  });

  await t.test(
    'the keeper there counts it no more as it comes, and the agent dies at each of its acts: a guest that went on goes on',
    async (t) => {
      let died = 0;
      for (let n = 0; n < 24; n++) {
        const { w, vm } = await cluster(copies);
        const n2 = w.node('n2');
        const { agent } = n2;
        const op = w.migrate(vm, 'n2');
        await w.pass(3_100);
        n2.armsNothing = true;
        n2.dieAt('agent', n, 'after');
        await w.until('the op ends', () => opFinished(w.op(op)), 90_000);
        await w.until('it rests', () => w.checks.resting(), 60_000);
        if (n2.agent !== agent) died++;
        const [ran, started] = [/web runs on n2/, /web: start → n2/].map((l) =>
          w.lines.findIndex((x) => l.test(x)),
        );
        const well = started === -1 || (ran ?? -1) > (started ?? -1);
        if (!t.ok(well, `act ${n}: not ended once it had gone on`)) t.comment(w.lines.slice(-60).join('\n'));
        t.same(w.checks.violations, [], `act ${n}`);
        w.end();
      }
      t.ok(died > 12, `${died} times`);
    },
  );

  await t.test('deleted at one moment after the other: no operation is left open', async (t) => {
    let ended = 0;
    for (let afterMs = 3_000; afterMs <= 3_400; afterMs += 20) {
      const { w, vm } = await cluster(copies, afterMs);
      const op = w.migrate(vm, 'n2');
      await w.pass(afterMs);
      w.deleteVm(vm);
      await w.until('it is gone', () => w.own(vm) === null, 90_000);
      await w.pass(15_000);
      t.ok(opFinished(w.op(op)), `after ${afterMs} ms: ${JSON.stringify(w.op(op))}`);
      if (w.op(op).state !== 'done') ended++;
      t.same(w.checks.violations, []);
      w.end();
    }
    t.ok(ended > 0, `${ended} times before its end`);
  });

  for (const who of ['n1', 'n2'] as const) {
    await t.test(
      `the agent of ${who === 'n1' ? 'the source' : 'the target'} dies at each of its acts`,
      async (t) => {
        const whole = await night(copies, who, null);
        whole.w.end();
        // The loop reads all the time; each act beyond the last that matters is like any other.
        const acts = Math.min(whole.acts, 120);
        let [handed, stayed] = [0, 0];
        for (let n = 0; n < acts; n += who === 'n1' ? 3 : 5) {
          for (const when of ['before', 'after'] as const) {
            const { w, vm, op } = await night(copies, who, { n, when });
            const starts = [...w.nodes.values()].reduce((sum, x) => sum + x.host.libvirt.starts.length, 0);
            if (w.runsOn(vm)[0] === 'n2') handed++;
            else stayed++;
            const well = w.checks.violations.length === 0 && w.runsOn(vm).length === 1 && starts <= 2;
            if (!well) {
              t.same(w.checks.violations, [], `act ${n} ${when}`);
              t.ok(starts <= 2, `act ${n} ${when}: ${starts} starts; op ${JSON.stringify(w.op(op))}`);
              t.comment(w.lines.slice(-80).join('\n'));
            }
            w.end();
          }
        }
        t.ok(handed > 0, `${handed} times handed over, ${stayed} times it stayed`);
        t.comment(`${acts} acts; ${handed} times handed over, ${stayed} times it stayed`);
      },
    );
  }

  for (const [name, fault] of [...faults, ...(copies ? faultsOfCopies : [])]) {
    await t.test(`${name}, at one moment after the other`, async (t) => {
      for (const afterMs of [200, 1_700, 3_050, 3_110, 3_170, 3_230, 3_290, 3_400]) {
        const { w, vm } = await cluster(copies, afterMs);
        const op = w.migrate(vm, 'n2');
        await w.pass(afterMs);
        fault(w);
        await w.pass(12_000);
        w.net.heal();
        w.storage.cut = false;
        w.node('n1').host.libvirt.loseFinish = null;
        if (w.spec(vm).power === 'stopped') w.action('start', vm);
        await w.pass(30_000);
        await w.until('the op ends', () => opFinished(w.op(op)), 90_000).catch(() => undefined);
        await w.until('it rests', () => w.checks.resting(), 90_000).catch(() => undefined);
        await w.pass(copies ? 15_000 : 0);
        w.checks.atRest();
        if (w.checks.violations.length > 0) {
          t.same(w.checks.violations, [], `after ${afterMs} ms`);
          t.comment(w.lines.slice(-120).join('\n'));
        }
        w.end();
      }
      t.pass(name);
    });
  }
}

function ifThere(act: () => void): void {
  try {
    act();
  } catch {
    // it is gone already
  }
}
