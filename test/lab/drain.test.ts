import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import type { DrainAnswer } from '../../core/wire/rest.js';
import { Drills } from './drill.js';
import { waitFor } from './harness.js';

/** A node is emptied and filled again, by real daemons: its guests notice nothing. */

const d = await Drills.up({ id: 'fldrain', net: '10.63.0', guestNet: '10.63.100' });
const { c } = d;
t.teardown(() => d.down());

const names = ['web', 'db', 'mail'];

await t.test('three VMs leave a node and come back, in the same boot', async (t) => {
  for (const name of names) await d.witness(name, 'n1');
  const boots = names.map((name) => d.bootOf(name));
  let seen = '';
  await waitFor('the controller has heard all', async () => {
    const { body } = await c.get<DrainAnswer>('nodes/n1/drain');
    seen = JSON.stringify(body);
    return body.canGo && body.vms.every((v) => v.how === 'migrate');
  }).catch((e: unknown) => {
    throw new Error(seen, { cause: e });
  });
  const { op } = await c.must<{ op: Op }>('POST', 'nodes/n1/actions/drain', {});
  // The agent of the node that is emptied dies on the way: another one goes on, or the next of this node.
  await waitFor('one has left', async () => (await c.get<DrainAnswer>('nodes/n1/drain')).body.vms.length < 3);
  await d.signal('n1', await d.pidOf('n1', 'flotilla-agent'), 'KILL');
  const end = await c.opEnd(op);
  t.match(end, { state: 'done', error: null }, JSON.stringify(end));
  for (const name of names) {
    t.not(await d.ownerOf(name), 'n1');
    await d.goesOn(name);
    t.same(await d.machines('n1', name), []);
  }
  t.same(
    names.map((name) => d.bootOf(name)),
    boots,
    'the same boots',
  );
  const back = await c.must<{ op: Op }>('POST', 'nodes/n1/actions/activate', { bringBack: true });
  t.match(await c.opEnd(back.op), { state: 'done' });
  for (const name of names) {
    t.equal(await d.ownerOf(name), 'n1');
    await d.goesOn(name);
  }
  t.same(
    names.map((name) => d.bootOf(name)),
    boots,
    'nor on the way back',
  );
  t.same(d.violations(), []);
});
