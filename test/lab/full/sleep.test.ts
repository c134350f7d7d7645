import t from 'tap';
import type { BmcTest } from '../../../core/domain/fencing.js';
import type { NodeRecord } from '../../../core/domain/node.js';
import type { Op } from '../../../core/domain/op.js';
import { LabBmc } from '../bmc.js';
import { Drills } from '../drill.js';
import { waitFor } from '../harness.js';

/** A node that is not needed is emptied, powered off and powered on by its BMC; a VM that ran on it goes on in the same boot. */

const d = await Drills.up({ id: 'flsleep', net: '10.67.0', guestNet: '10.67.100', timing: 'lab', nodes: 4 });
const { c, lab } = d;
t.teardown(() => d.down());

const records = async (): Promise<NodeRecord[]> =>
  (await c.get<{ items: { record: NodeRecord }[] }>('nodes')).body.items.map((n) => n.record);
const record = async (node: string): Promise<NodeRecord> => {
  const found = (await records()).find((r) => r.id === node);
  if (found === undefined) throw new Error(`no node ${node}`);
  return found;
};

const node = (await records()).find((r) => !r.voter)?.id;
if (node === undefined) throw new Error('all four vote');
const bmc = new LabBmc(lab, node);
await bmc.start();
t.teardown(() => bmc.stop());

await t.test('who votes, or whose BMC was not tried, stays on', async (t) => {
  const asked = (n: string) => c.call<{ message: string }>('POST', `nodes/${n}/actions/sleep`);
  t.match(await asked('n1'), { status: 409, body: { message: /votes/ } });
  await c.must('PUT', `nodes/${node}/bmc`, bmc.device);
  t.match(await asked(node), { status: 409, body: { message: /was not tried/ } });
  await c.must('POST', `nodes/${node}/bmc/test`);
  const { result } = await waitFor('it is tried', async () => {
    const { body } = await c.get<BmcTest>(`nodes/${node}/bmc/test`);
    return body.result === null ? null : body;
  });
  t.match(result, { power: 'on' }, result?.text ?? '');
});

await t.test('it sleeps: what ran on it has moved, and nobody takes it for a failure', async (t) => {
  await d.witness('web', node);
  await d.untilProtected('web');
  const boot = d.bootOf('web');
  const { op } = await c.must<{ op: Op }>('POST', `nodes/${node}/actions/sleep`);
  const end = await c.opEnd(op, 600_000);
  t.match(end, { state: 'done' }, JSON.stringify(end));
  t.notOk((await lab.nodes()).includes(node), 'its power is off');
  t.ok((await record(node)).asleep, 'the ledger knows');
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot, 'the same boot of the guest');
  t.not(await d.ownerOf('web'), node);
  t.same(await d.failoverOps('web'), []);
});

await t.test('it wakes, and takes VMs again', async (t) => {
  const boot = d.bootOf('web');
  const { op } = await c.must<{ op: Op }>('POST', `nodes/${node}/actions/wake`);
  const end = await c.opEnd(op, 600_000);
  t.match(end, { state: 'done' }, JSON.stringify(end));
  t.match(await record(node), { desired: 'active', asleep: undefined });
  await d.allThere();
  await d.untilProtected('web');
  const { op: move } = await c.must<{ op: Op }>('POST', 'vms/web/migrate', { node });
  t.match(await c.opEnd(move, 400_000), { state: 'done' });
  t.equal(await d.ownerOf('web'), node);
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot);
  t.same(d.violations(), []);
});
