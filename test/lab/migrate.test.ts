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
  t.comment(JSON.stringify(migrateArgs(end)));
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
  void lab;
});
