import t from 'tap';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** Two nodes and a witness: three voters, no VM on the witness; then the witness is removed. */
const c = new LabCluster({ id: 'flrec', net: '10.84.0', guestNet: '10.84.100' });
const { lab } = c;
t.teardown(() => c.down());

const agent = 'node /usr/lib/flotilla/flotilla-agent.mjs';
/** Asks another node's agent for its journal, with this node's certificate. */
const ask = `
  const read = (f) => require("fs").readFileSync("/var/lib/flotilla/pki/" + f);
  const tls = { ca: read("ca.crt"), cert: read("node.crt"), key: read("node.key"), servername: "" };
  const o = { host: process.argv[1], port: 7443, path: "/v1/journal", ...tls };
  require("https").get(o, (res) => { console.log(res.statusCode); res.destroy(); });`;
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
      if (n3?.live !== true || n3.problems.length > 0) throw new Error(JSON.stringify(n3?.problems));
      return true;
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

await t.test('one of the three may die: the ledger goes on', async (t) => {
  await lab.kill('n2');
  await waitFor('its lease to end', async () => (await nodes()).find((n) => n.id === 'n2')?.live === false);
  t.equal(
    (await c.must<{ name: string }>('POST', 'pools', { name: 'p', kind: 'local', path: '/srv/p' })).name,
    'p',
  );
  await lab.boot('n2');
  await waitFor('all are well again', async () => {
    const ill = (await nodes()).filter((n) => !n.live || n.problems.length > 0);
    if (ill.length > 0) throw new Error(JSON.stringify(ill.map((n) => [n.id, n.live, n.problems])));
    return true;
  });
});

await t.test('a node that is removed votes no more, and its certificate is refused', async (t) => {
  const journal = () => lab.sh('n3', `node -e '${ask}' ${lab.address('n1')}`);
  t.equal(await journal(), '200');
  t.equal((await c.call('DELETE', 'nodes/n3')).status, 409, 'not before it is set to leave');
  await c.must('PATCH', 'nodes/n3', { desired: 'leaving' });
  await waitFor('the node is removed', async () => (await c.call('DELETE', 'nodes/n3')).status === 204, {
    limitMs: 120_000,
  });
  await waitFor('one voter', async () => (await voters()).join() === 'n1');
  await waitFor('its certificate is refused', async () => (await journal()) === '403');
  await waitFor('its etcd has ended', async () => {
    const { code } = await lab.exec('n3', 'test', '-e', '/var/lib/flotilla/etcd.env');
    return code === 1;
  });
  t.pass();
});
