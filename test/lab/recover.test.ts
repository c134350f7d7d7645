import { readFile } from 'node:fs/promises';
import t from 'tap';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/**
 * Two of three nodes are gone for good: the ledger is rebuilt on the third, and what they ran comes back there only
 * after a person's word. One of them returns after all.
 */
const c = new LabCluster({ id: 'flrec', net: '10.84.0', guestNet: '10.84.100' });
const { lab } = c;
t.teardown(() => c.down());

const agent = 'node /usr/lib/flotilla/flotilla-agent.mjs';
const recover = (node: string, args: string) => lab.exec(node, 'sh', '-c', `${agent} recover ${args} 2>&1`);
const must = async (node: string, args: string): Promise<string> => {
  const r = await recover(node, args);
  if (r.code !== 0) throw new Error(`recover ${args}: ${r.stdout}`);
  return r.stdout;
};
const domains = (node: string) => c.virsh(node, 'list --all --uuid');
const running = (node: string) => c.virsh(node, 'list --uuid');
const nodes = async () =>
  (
    await c.get<{ items: { id: string; live: boolean; record: { voter: boolean }; problems: string[] }[] }>(
      'nodes',
    )
  ).body.items;

await c.up(3);
await waitFor('three voters', async () => (await nodes()).filter((n) => n.record.voter).length === 3);
await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
await waitFor('the pool is known of every node', async () => {
  const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
  return body.items.every((p) => p.use.length === 3 && p.use.every((u) => u.ok));
});
await c.image('tiny', 'shared', await readFile('build/images/tiny.qcow2'));
const made = await c.must<{ vm: { id: string } }>('POST', 'vms', {
  name: 'web',
  node: 'n2',
  memoryMiB: 96,
  disks: [{ name: 'root', pool: 'shared', image: 'tiny', mode: 'linked' }],
  power: 'running',
});
const { id } = made.vm;
await c.untilPhase('web', 'running');

await t.test('with a quorum nothing is rebuilt; every node can take a snapshot', async (t) => {
  const refused = await recover('n3', '--i-know-others-are-off');
  t.equal(refused.code, 1);
  t.match(refused.stdout, /it has a quorum/);
  const taken = JSON.parse(await lab.sh('n3', `${agent} ledger snapshot now`)) as {
    file: string;
    epoch: number;
  };
  t.equal(taken.epoch, 1);
  t.match(await lab.sh('n3', `${agent} ledger snapshots`), taken.file);
  t.match(await lab.sh('n2', 'cat /var/lib/flotilla/journal'), id);
  t.match(await must('n3', 'status'), /The ledger answers: epoch 1/);
});

await t.test('two nodes are lost: the third goes on alone, and starts nothing', async (t) => {
  await lab.kill('n1');
  await lab.kill('n2');
  await waitFor('the ledger without quorum', async () => /does not answer/.test(await must('n3', 'status')));
  const said = await must('n3', '--i-know-others-are-off');
  t.match(said, /as epoch 2\. Nothing is started/);
  const journals = await must('n3', 'journals');
  t.match(journals, /\? Is node n1 off\?/);
  t.match(journals, /\? Is node n2 off\? .*"web"/);
  await c.controllerOn('n3');
  await waitFor('the agent says that it waits', async () => {
    const n3 = (await nodes()).find((n) => n.id === 'n3');
    return n3?.problems.some((p) => /waits for the recovery/.test(p));
  });
  t.equal(await running('n3'), '', 'nothing runs on its own');
  const open = await recover('n3', 'confirm --off n1');
  t.equal(open.code, 1);
  t.match(open.stdout, /Is node n2 off\?/);
});

await t.test('after a word from a person its VM comes back here', async (t) => {
  const said = await must('n3', 'confirm --off n1 --off n2 --all');
  t.match(said, /VM web: n3 .*goes from n2, which is off, to n3/);
  const vm = await c.untilPhase('web', 'running');
  t.equal(vm.node, 'n3');
  t.equal(await running('n3'), id);
  const { own } = (await c.get<{ own: { gen: number } }>('vms/web')).body;
  t.ok(own.gen > 1_000, `generation ${own.gen}`);
});

await t.test(
  'a node that returns is refused until it is admitted, and its old copies are gone',
  async (t) => {
    await lab.boot('n2');
    await waitFor('its keeper refuses', async () =>
      /epoch 2.*admitted to epoch 1/.test(
        await lab.sh('n2', 'journalctl -u flotilla-keeper --no-pager | tail -n 50'),
      ),
    );
    await waitFor('its old ledger is put aside', async () => {
      const { code } = await lab.exec('n2', 'test', '-e', '/var/lib/flotilla/etcd.env');
      return code === 1;
    });
    t.equal(await running('n2'), '');
    t.equal((await nodes()).find((n) => n.id === 'n2')?.live, false);
    t.match(await must('n3', 'admit n2'), /n2 is admitted to epoch 2/);
    await waitFor('n2 lives', async () => (await nodes()).find((n) => n.id === 'n2')?.live === true);
    await waitFor('its definition of the VM is gone', async () => (await domains('n2')) === '');
    t.equal(await running('n3'), id);
    t.equal((await c.vm('web')).node, 'n3');
  },
);
