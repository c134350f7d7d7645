import t, { type Test } from 'tap';
import type { Op } from '../../core/domain/op.js';
import { migrateArgs } from '../../core/domain/migration.js';
import { Drills } from '../lab/drill.js';
import { waitFor } from '../lab/harness.js';

/**
 * A cluster on emulated machines loses power, cables and keepers; its VM is watched from outside. What the lab's containers
 * cannot show: watchdogs that reset a machine, and kernels that boot again.
 */

/** Moments of a migration are drawn from it; the same number is the same run. */
const seed = Number(process.env['METAL_SEED'] ?? Math.floor(Math.random() * 1e6));
const d = await Drills.up({ kind: 'metal', id: 'rigdrill' });
const { c, lab, ear } = d;
t.teardown(() => d.down());
t.comment(`METAL_SEED=${seed}`);

let state = seed;
/** From 0 to below 1. @see mulberry32 */
const drawn = (): number => {
  state = (state + 0x6d2b79f5) | 0;
  let x = Math.imul(state ^ (state >>> 15), 1 | state);
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
};

const bootOf = (node: string): Promise<string> => lab.sh(node, 'cat /proc/sys/kernel/random/boot_id');
const other = (node: string): string => d.nodes.find((n) => n !== node) ?? '';
/** Waits until another kernel runs there than the one that was. */
const bootsAgain = (node: string, was: string): Promise<unknown> =>
  waitFor(`${node} boots again`, async () => (await bootOf(node)) !== was, { everyMs: 1_000 });
/** Nodes with a machine of the VM. */
const machines = async (): Promise<string[]> => {
  const on = await lab.nodes();
  const lists = d.nodes
    .filter((n) => on.includes(n))
    .map(async (n) => (await d.machines(n, 'web')).map(() => n));
  return (await Promise.all(lists)).flat();
};
const oneMachine = (): Promise<unknown> =>
  waitFor('one machine, on the node that owns it', async () => {
    const [found, owner] = [await machines(), await d.ownerOf('web')];
    if (found.join() !== owner) throw new Error(`machines on ${found.join()}, owner ${owner}`);
    return true;
  });

const drill = (name: string, act: (t: Test) => Promise<void>): Promise<unknown> =>
  t.test(name, async (t) => {
    const began = Date.now();
    try {
      await act(t);
    } catch (e) {
      t.comment(await d.words());
      await lab.heal();
      await lab.must('boot', ...d.nodes);
      await d.allThere();
      throw e;
    } finally {
      t.comment(`${Math.round((Date.now() - began) / 1000)} s`);
      t.same(d.violations(), [], 'no VM twice, no flushed write lost');
    }
  });

await drill('a VM with HA on emulated machines is armed, on the chip set’s watchdog', async (t) => {
  await d.witness('web', 'n1');
  t.match(await lab.sh('n1', 'cat /sys/class/watchdog/watchdog0/identity'), /^i6300ESB/);
  t.equal(await lab.sh('n1', 'cat /sys/class/watchdog/watchdog0/state'), 'active');
});

await drill('the keeper hangs: the watchdog resets the machine, the VM comes back elsewhere', async (t) => {
  const owner = await d.ownerOf('web');
  const [before, boot, ops] = [await bootOf(owner), d.bootOf('web'), await d.failoverOps('web')];
  await d.signal(owner, await d.pidOf(owner, 'flotilla-keeper'), 'STOP');
  await bootsAgain(owner, before);
  await d.takenOver('web', ops);
  await d.bootsAfter('web', boot);
  t.equal(await d.ownerOf('web'), other(owner));
  await d.allThere();
  await d.untilProtected('web');
});

await drill(
  'the keeper dies and nobody starts it again: the watchdog was kept open, and bites',
  async (t) => {
    const owner = await d.ownerOf('web');
    const [before, boot, ops] = [await bootOf(owner), d.bootOf('web'), await d.failoverOps('web')];
    await lab.sh(
      owner,
      'systemctl mask --runtime flotilla-keeper 2>/dev/null; systemctl kill -s KILL flotilla-keeper',
    );
    await bootsAgain(owner, before);
    await d.takenOver('web', ops);
    await d.bootsAfter('web', boot);
    t.equal(await d.ownerOf('web'), other(owner));
    await d.allThere();
    await d.untilProtected('web');
  },
);

const migrate = (node: string): Promise<{ op: Op }> =>
  c.must<{ op: Op }>('POST', 'vms/web/migrate', { node });

await drill('it moves there and back while it runs, and its guest notices nothing', async (t) => {
  const home = await d.ownerOf('web');
  const boot = d.bootOf('web');
  for (const to of [other(home), home]) {
    await d.untilProtected('web');
    const { op } = await migrate(to);
    const end = await c.opEnd(op);
    t.match(end, { state: 'done', error: null }, JSON.stringify(end));
    t.comment(JSON.stringify(migrateArgs(end)?.result));
    t.equal(await d.ownerOf('web'), to);
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot, 'the same boot');
    await oneMachine();
  }
});

/** Whose death it is, and whether the machine is gone with it. */
const victims = ['source', 'target', 'agent of the source', 'agent of the target'] as const;

for (let round = 1; round <= 3; round++) {
  const victim = victims[Math.floor(drawn() * victims.length)] ?? 'source';
  const afterMs = Math.floor(drawn() * 6_000);
  await drill(
    `a migration loses its ${victim} ${afterMs} ms after it began: one machine is left`,
    async (t) => {
      await d.untilProtected('web');
      const from = await d.ownerOf('web');
      const struck = victim.endsWith('source') ? from : other(from);
      const { op } = await migrate(other(from));
      const asked = ear.nowMs;
      await waitFor('its moment', () => ear.nowMs - asked >= afterMs, { everyMs: 20 });
      if (victim.startsWith('agent')) await d.signal(struck, await d.pidOf(struck, 'flotilla-agent'), 'KILL');
      else {
        await lab.kill(struck);
        await lab.boot(struck);
      }
      const end = await c.opEnd(op);
      t.ok(
        ['done', 'failed', 'canceled'].includes(end.state),
        `${end.state}: ${end.error?.message ?? end.step}`,
      );
      await d.allThere();
      await oneMachine();
      await d.goesOn('web');
    },
  );
}

for (const [how, cut] of [
  ['is mute', (n: string) => lab.cut(n, 'one-way')],
  [
    'hears nothing',
    (n: string) => Promise.all(d.voters.filter((v) => v !== n).map((v) => lab.cut(v, n, 'one-way'))),
  ],
] as const) {
  await drill(`its owner ${how}: the VM comes back elsewhere, and the old one gives it up`, async (t) => {
    await d.untilProtected('web');
    const owner = await d.ownerOf('web');
    const [boot, ops] = [d.bootOf('web'), await d.failoverOps('web')];
    await cut(owner);
    await d.takenOver('web', ops);
    await d.bootsAfter('web', boot);
    t.equal(await d.ownerOf('web'), other(owner));
    await lab.heal();
    await d.allThere();
    await oneMachine();
    await d.untilProtected('web');
  });
}

await drill('its owner loses power: it comes back elsewhere with all it had flushed', async (t) => {
  const owner = await d.ownerOf('web');
  const [boot, ops] = [d.bootOf('web'), await d.failoverOps('web')];
  await lab.kill(owner);
  const line = await d.takenOver('web', ops);
  t.comment(JSON.stringify(line.phasesMs));
  await d.bootsAfter('web', boot);
  t.equal(await d.ownerOf('web'), other(owner));
  await lab.boot(owner);
  await d.allThere();
  await oneMachine();
});
