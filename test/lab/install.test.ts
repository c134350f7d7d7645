import { cpSync, mkdirSync, readdirSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import type { NodeView } from '../../core/wire/rest-objects.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';
import { tinyImage } from './witness.js';

/**
 * Hosts that run Debian 13 already become nodes and a witness by `scripts/install`, and are themselves again after
 * `scripts/uninstall`: its VMs go on. The hosts are the lab's, booted from Debian without any file of ours.
 */

const [base] = readdirSync('build')
  .filter((name) => name.startsWith('base-'))
  .map((name) => path.join('build', name))
  .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
process.env['LAB_ROOT'] = realpathSync(base ?? '');
const c = new LabCluster({ id: 'flinst', net: '10.62.0', guestNet: '10.62.100' });
const { lab } = c;
t.teardown(() => lab.down());

const install = (node: string, words = ''): Promise<string> =>
  lab.sh(node, `cd /srv/shared/checkout && scripts/install ${words} 2>&1`);
const nodes = async (): Promise<NodeView[]> => (await c.get<{ items: NodeView[] }>('nodes')).body.items;
const well = (what: string): Promise<boolean> =>
  waitFor(
    what,
    async () => {
      const problems = (await nodes()).flatMap((n) => n.problems);
      if (problems.length > 0) throw new Error(problems.join('; '));
      return true;
    },
    { limitMs: 240_000 },
  );
const settings = '/etc/libvirt/qemu.conf';

await t.test('three hosts with Debian alone', async (t) => {
  await lab.down();
  await lab.up(3);
  const checkout = path.join(lab.share, 'checkout');
  for (const part of [
    'scripts/install',
    'scripts/uninstall',
    'images/lib',
    'images/packages.list',
    'images/rootfs',
    'systemd',
    'build/dist',
  ]) {
    mkdirSync(path.dirname(path.join(checkout, part)), { recursive: true });
    cpSync(part, path.join(checkout, part), { recursive: true, verbatimSymlinks: true });
  }
  for (const n of ['n1', 'n2', 'n3']) {
    t.not((await lab.exec(n, 'test', '-e', '/usr/lib/flotilla')).code, 0, `${n} has nothing of ours`);
    // The lab has no mirror; a host whose time is kept by another program needs no package for it.
    await lab.sh(
      n,
      `rm /etc/flotilla/agent.json
       printf '[Service]\\nExecStart=/usr/bin/sleep infinity\\n' >/etc/systemd/system/chrony.service
       systemctl daemon-reload; systemctl start chrony`,
    );
  }
});

await t.test('a host whose ports are taken is left as it is', async (t) => {
  await lab.sh('n1', 'systemctl start etcd');
  const refused = await lab.exec('n1', 'sh', '-c', 'cd /srv/shared/checkout && scripts/install');
  t.equal(refused.code, 1);
  t.match(refused.stderr, /ports that a node needs: 2379 \(etcd\) 2380 \(etcd\)/);
  t.not((await lab.exec('n1', 'test', '-e', '/usr/lib/flotilla')).code, 0);
  // Debian starts them as soon as they are installed; a plain host has none of them.
  for (const n of ['n1', 'n2', 'n3']) await lab.sh(n, 'systemctl disable -q --now etcd mosquitto');
});

await t.test('a node that waits; then it founds the cluster', async (t) => {
  const before = await lab.sh('n1', `cat ${settings}`);
  const said = await install('n1');
  t.match(said, /n1 at 10\.62\.0\.1: waits to be admitted/);
  t.match(said, /fingerprint ([0-9a-f]{4} ){15}[0-9a-f]{4}/);
  t.equal(await lab.sh('n1', `cat ${settings}.before-flotilla`), before, 'what was there is kept beside it');
  await c.found();
  await c.controllerOn('n1');
  await c.untilHere(1);
  await well('nothing is wrong with it');
  t.equal(await lab.sh('n1', 'readlink /etc/pki/CA/cacert.pem'), '/var/lib/flotilla/pki/ca.crt');
});

await t.test('a node and a witness join with a token: three voters', async (t) => {
  for (const [n, words] of [
    ['n2', ''],
    ['n3', '--witness --name w1'],
  ] as const) {
    const token = await waitFor('a token', () =>
      lab.sh('n1', 'node /usr/lib/flotilla/flotilla-agent.mjs token create 2>/dev/null'),
    );
    await lab.sh(n, `umask 077; echo ${token} >/root/token`);
    t.match(await install(n, `${words} --token-file /root/token`), /joins with its token/);
  }
  await c.untilHere(3);
  await waitFor('three voters', async () => (await nodes()).filter((n) => n.record.voter).length === 3, {
    limitMs: 240_000,
  });
  t.match((await nodes()).find((n) => n.id === 'w1')?.record, { witness: true, voter: true });
  t.not(
    (await lab.exec('n3', 'test', '-e', `${settings}.before-flotilla`)).code,
    0,
    'a witness leaves libvirt alone',
  );
  t.match(
    await lab.sh(
      'n3',
      'curl -sk https://127.0.0.1:7443/healthz || wget -qO- --no-check-certificate https://127.0.0.1:7443/healthz || node -e \'require("https").get({host:"127.0.0.1",port:7443,path:"/healthz",rejectUnauthorized:false},(r)=>r.pipe(process.stdout))\'',
    ),
    /"node":"w1"/,
  );
  for (const unit of ['flotilla-etcd', 'flotilla-mosquitto'])
    t.equal(
      (await lab.exec('n1', 'systemd-analyze', 'security', '--threshold=25', `${unit}.service`)).code,
      0,
      `${unit} is kept within 2.5`,
    );
  t.equal(
    (await lab.exec('n1', 'systemd-analyze', 'security', '--threshold=25', 'flotilla-controller.service'))
      .code,
    0,
  );
});

await t.test('the same again, for newer programs: nothing else changes', async (t) => {
  const config = await lab.sh('n2', 'cat /etc/flotilla/agent.json');
  t.match(await install('n2'), /only its programs are made new[\s\S]*in a cluster/);
  t.equal(await lab.sh('n2', 'cat /etc/flotilla/agent.json'), config);
  await c.untilHere(3);
});

await t.test('uninstalled under a VM that runs: it goes on, and its disk stays', async (t) => {
  await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/srv/local' });
  await c.image('tiny', 'local', tinyImage());
  await well('all nodes are well');
  await waitFor('the pool is well on n2', async () => {
    const { body } = await c.get<{ items: { use: { node: string; ok: boolean }[] }[] }>('pools');
    return body.items[0]?.use.some((u) => u.node === 'n2' && u.ok) ?? false;
  });
  const { op } = await c.must<{ op: Op }>('POST', 'vms', {
    name: 'web',
    node: 'n2',
    memoryMiB: 96,
    disks: [{ name: 'root', pool: 'local', image: 'tiny', mode: 'full' }],
    power: 'running',
  });
  const end = await c.opEnd(op);
  t.match(end, { state: 'done' }, JSON.stringify(end.error));
  const pid = await lab.sh('n2', 'pgrep -f [q]emu-system.*guest=');
  const disks = await lab.sh('n2', 'find /srv/local -type f | sort');
  t.match(
    await lab.sh('n2', 'cd /srv/shared/checkout && scripts/uninstall 2>&1'),
    /\/var\/lib\/flotilla and \/etc\/flotilla are kept/,
  );
  t.equal(await lab.sh('n2', 'pgrep -f [q]emu-system.*guest='), pid);
  t.equal(await lab.sh('n2', 'find /srv/local -type f | sort'), disks);
  for (const gone of [
    '/usr/lib/flotilla',
    '/usr/bin/flotilla',
    '/usr/lib/systemd/system/flotilla-agent.service',
  ])
    t.not((await lab.exec('n2', 'test', '-e', gone)).code, 0, `${gone} is gone`);
  t.equal(
    await lab.sh('n2', `cat ${settings}`),
    await lab.sh('n1', `cat ${settings}.before-flotilla`),
    'its own settings are back',
  );
  t.equal((await lab.exec('n2', 'test', '-e', '/var/lib/flotilla/pki/node.key')).code, 0);
  // What was uninstalled can be installed again: it is the node that it was.
  t.match(await install('n2'), /in a cluster/);
  await c.untilHere(3);
  await waitFor('its VM is known as before', async () => (await c.vm('web')).phase === 'running');
  t.equal(await lab.sh('n2', 'pgrep -f [q]emu-system.*guest='), pid);
  t.notMatch(await lab.sh('n3', 'cd /srv/shared/checkout && scripts/uninstall --state 2>&1'), /are kept/);
  t.not((await lab.exec('n3', 'test', '-e', '/var/lib/flotilla')).code, 0);
});
