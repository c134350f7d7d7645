import t from 'tap';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** Two nodes and a witness: three voters, no VM on the witness. */
const c = new LabCluster({ id: 'flrec', net: '10.84.0', guestNet: '10.84.100' });
const { lab } = c;
t.teardown(() => c.down());

const agent = 'node /usr/lib/flotilla/flotilla-agent.mjs';
interface Seen {
  readonly id: string;
  readonly live: boolean;
  readonly record: { readonly voter: boolean; readonly witness: boolean };
  readonly problems: readonly string[];
}
const nodes = async (): Promise<Seen[]> => (await c.get<{ items: Seen[] }>('nodes')).body.items;
const voters = async (): Promise<string[]> => (await nodes()).flatMap((n) => (n.record.voter ? [n.id] : []));

await c.up(2);

await t.test(
  'a machine without hypervisor joins as a witness, and two nodes and it have three voters',
  async (t) => {
    t.same(await voters(), ['n1']);
    await lab.boot('n3');
    await lab.sh(
      'n3',
      'systemctl stop libvirtd.socket libvirtd.service 2>/dev/null; rm -f /run/libvirt/libvirt-sock',
    );
    const token = await lab.sh('n1', `${agent} token create 2>/dev/null`);
    await lab.sh('n3', `echo ${token} | ${agent} join --witness >/dev/null 2>&1`);
    await waitFor('three voters', async () => (await voters()).length === 3);
    const w = (await nodes()).find((n) => n.id === 'n3');
    t.equal(w?.record.witness, true);
    await waitFor('it is well', async () => {
      const n3 = (await nodes()).find((n) => n.id === 'n3');
      return n3?.live === true && n3.problems.length === 0;
    });
  },
);

await t.test('no VM comes to it', async (t) => {
  await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
  const asked = await c.call<{ message: string }>('POST', 'vms', {
    name: 'x',
    node: 'n3',
    memoryMiB: 64,
    disks: [{ name: 'root', pool: 'local', sizeBytes: 2 ** 20 }],
  });
  t.equal(asked.status, 409);
  t.match(asked.body.message, /is a witness/);
});
