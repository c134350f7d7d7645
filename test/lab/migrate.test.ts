import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { migrateArgs } from '../../core/domain/migration.js';
import type { MigrateCheckAnswer } from '../../core/wire/rest.js';
import { Drills } from './drill.js';
import { waitFor } from './harness.js';

/** VMs move while they run; whoever dies at whatever moment, in the end one machine runs, and no flushed write is lost. */

const d = await Drills.up({ id: 'flmove', net: '10.62.0', guestNet: '10.62.100' });
const { c, lab } = d;
t.teardown(() => d.down());

const migrate = (name: string, body: Record<string, unknown> = {}): Promise<{ op: Op }> =>
  c.must<{ op: Op }>('POST', `vms/${name}/migrate`, body);

await t.test('a VM with HA moves, and its guest notices nothing', async (t) => {
  await d.witness('web', 'n2');
  const boot = d.bootOf('web');
  const { op } = await migrate('web', { node: 'n1' });
  const end = await c.opEnd(op);
  t.match(end, { state: 'done', error: null }, JSON.stringify(end));
  t.comment(JSON.stringify(migrateArgs(end)?.result));
  t.equal(await d.ownerOf('web'), 'n1');
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot, 'the same boot');
  t.same(await d.machines('n2', 'web'), []);
  t.equal((await d.machines('n1', 'web')).length, 1);
  t.not(await d.untilProtected('web'), 'n1');
  await waitFor('the source has forgotten it', async () => {
    const { body } = await c.get<MigrateCheckAnswer>('vms/web/migrate?node=n2');
    return body.to === 'n2' && (await c.virsh('n2', 'list --all --name')) === '';
  });
  t.same(d.violations(), []);
});

/** Slow enough that whoever is to die does so in the middle. */
const slowMiBps = 8;

for (const [who, strike] of [
  [
    "the source's agent",
    async (from: string) => d.signal(from, await d.pidOf(from, 'flotilla-agent'), 'KILL'),
  ],
  [
    "the target's agent",
    async (_: string, to: string) => d.signal(to, await d.pidOf(to, 'flotilla-agent'), 'KILL'),
  ],
  ["the source's libvirtd", async (from: string) => d.signal(from, await d.pidOf(from, 'libvirtd'), 'KILL')],
  [
    "the target's libvirtd",
    async (_: string, to: string) => d.signal(to, await d.pidOf(to, 'libvirtd'), 'KILL'),
  ],
  ["the target's power", async (_: string, to: string) => lab.kill(to)],
] as const) {
  await t.test(`${who} goes in the middle of a migration: the guest goes on, once`, async (t) => {
    await d.untilProtected('web');
    const from = await d.ownerOf('web');
    const to = d.nodes.find((n) => n !== from) ?? '';
    await c.controllerOn(d.nodes.find((n) => n !== from && n !== to) ?? '');
    const boot = d.bootOf('web');
    await waitFor('the controller has heard all', async () => {
      const { body } = await c.get<MigrateCheckAnswer>(`vms/web/migrate?node=${to}`);
      return body.to === to;
    });
    const { op } = await migrate('web', { node: to, bandwidthMiBps: slowMiBps });
    await waitFor('memory is sent', async () => {
      const { body } = await c.get<Op>(`ops/${op.id}`);
      return (body.progress ?? 0) > 0.05;
    });
    const beganMs = Date.now();
    await strike(from, to);
    const end = await c.opEnd(op);
    t.comment(`${end.state} after ${Date.now() - beganMs} ms: ${end.error?.message ?? end.step}`);
    t.ok(['done', 'failed'].includes(end.state));
    await lab.must('boot', ...d.nodes);
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot, 'the same boot');
    const owner = await d.ownerOf('web');
    await waitFor('one machine is left', async () => {
      const all = await Promise.all(d.nodes.map(async (n) => (await d.machines(n, 'web')).map(() => n)));
      return all.flat().join() === owner;
    });
    await d.allThere();
    t.same(d.violations(), []);
  });
}
