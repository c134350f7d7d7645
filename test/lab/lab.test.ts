import { existsSync, readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import t from 'tap';
import { Lab, noTraces, waitFor } from './harness.js';

const lab = new Lab({ id: 'labtest', net: '10.77.0', guestNet: '10.77.100' });

const pings = async (from: string, to: string) => (await lab.exec(from, 'ping', '-c1', '-W1', to)).code === 0;

t.teardown(() => lab.down());

void t.test('up, on a machine without traces of it', async (t) => {
  await lab.down(); // what an interrupted run may have left
  t.same(await lab.traces(), noTraces);
  await lab.up(3);
});

void t.test('a lab is three systems with a network', async (t) => {
  t.same(await lab.nodes(), ['n1', 'n2', 'n3']);
  t.equal(await lab.sh('n2', 'hostname'), 'n2');
  const ids = await Promise.all(['n1', 'n2', 'n3'].map((node) => lab.sh(node, 'cat /etc/machine-id')));
  t.equal(new Set(ids).size, 3, 'each has its own machine id');
  t.ok(await pings('n1', 'n3'));
  t.ok((await lab.exec('n1', 'virsh', '-c', 'qemu:///system', 'list')).code === 0, 'libvirt answers');
  t.match(await lab.sh('n1', 'ip -br link show eth1'), /eth1/, 'a second card for guests');
  t.equal((await lab.exec('n1', 'sh', '-c', 'exit 7')).code, 7, 'the exit code of a command arrives');
  t.ok((await lab.traces())['loops']?.length === 3, 'and the traces that must be gone later can be seen now');
});

void t.test('a cut between two leaves the third, and is undone', async (t) => {
  await lab.cut('n1', 'n2');
  t.notOk(await pings('n1', 'n2'));
  t.notOk(await pings('n2', 'n1'));
  t.ok(await pings('n1', 'n3'));
  await lab.heal('n1', 'n2');
  await waitFor('an echo after healing', () => pings('n1', 'n2'));
});

void t.test('a node cut off hears nobody, and sees its link', async (t) => {
  await lab.cut('n3');
  t.notOk(await pings('n3', 'n1'));
  t.ok(await pings('n1', 'n2'));
  t.match(await lab.sh('n3', 'cat /sys/class/net/eth0/carrier'), '1');
  await lab.heal();
  await waitFor('an echo after healing', () => pings('n3', 'n1'));
});

void t.test('guests have a network of their own', async () => {
  const reached = async () =>
    (await lab.fabric('chroot', 'build/root', 'ping', '-c1', '-W1', '10.77.100.9')).code === 0;
  await lab.sh(
    'n1',
    'ip link add vmbr0 type bridge; ip link set vmbr0 up; ip link set eth1 master vmbr0; ip addr add 10.77.100.9/24 dev vmbr0',
  );
  await waitFor('an answer on the fabric', reached);
  await lab.cut('n1');
  await waitFor('an answer also while the node is cut off', reached);
  await lab.heal('n1');
});

void t.test('power loss keeps what was flushed, and nothing else', async (t) => {
  await lab.sh('n2', 'echo kept >/root/kept; sync /root/kept /root; echo lost >/root/lost');
  t.equal(await lab.sh('n2', 'cat /root/lost'), 'lost', 'it was there');
  await lab.sh('n2', 'echo shared >/srv/shared/of-n2');
  await lab.kill('n2');
  t.same(await lab.nodes(), ['n1', 'n3']);
  t.notOk(await pings('n1', 'n2'));
  t.equal(await lab.sh('n1', 'cat /srv/shared/of-n2'), 'shared', 'shared storage is not the node');
  await lab.boot('n2');
  t.equal(await lab.sh('n2', 'cat /root/kept'), 'kept');
  t.equal(await lab.sh('n2', 'test -e /root/lost || echo gone'), 'gone');
  await waitFor('an echo after the boot', () => pings('n1', 'n2'));
});

void t.test('a frozen node does nothing, and goes on when thawed', async (t) => {
  await lab.sh(
    'n1',
    'rm -f /srv/shared/tick; systemd-run -q --unit=ticker sh -c "while :; do echo x >>/srv/shared/tick; sleep 0.05; done"',
  );
  const ticks = () => readFileSync(path.join(lab.share, 'tick'), 'utf8').length;
  await waitFor('a ticking node', () => existsSync(path.join(lab.share, 'tick')) && ticks() > 2);
  await lab.freeze('n1');
  const before = ticks();
  t.ok(await pings('n2', 'n3'), 'the others do');
  t.equal(ticks(), before);
  await lab.thaw('n1');
  await waitFor('the node to go on', () => ticks() > before);
  await lab.sh('n1', 'systemctl stop ticker');
});

void t.test('a watchdog that is not fed any more takes the node down', async (t) => {
  const bitten = lab.call('watchdog', 'n3', '0.5');
  await lab.sh('n3', 'exec 3>/dev/watchdog; for k in 1 2 3; do printf x >&3; sleep 0.2; done; printf V >&3');
  const fed = Date.now();
  await waitFor('longer than the watchdog would wait', () => Date.now() - fed > 1000);
  t.same(await lab.nodes(), ['n1', 'n2', 'n3'], 'disarmed by the magic letter, it does not bite');
  await lab.exec('n3', 'sh', '-c', 'printf x >/dev/watchdog');
  t.match((await bitten).stdout, 'n3');
  t.same(await lab.nodes(), ['n1', 'n2']);
  await lab.boot('n3');
});

void t.test('a port of this machine leads into the lab', async (t) => {
  await lab.sh(
    'n2',
    `systemd-run -q --unit=echo node -e 'require("net").createServer((c) => c.end("hello from " + require("os").hostname())).listen(5555)'`,
  );
  const port = await lab.forward('n2:5555');
  const answer = await waitFor('an answer', async () => {
    const socket = net.connect(port, '127.0.0.1');
    let text = '';
    for await (const piece of socket) text += String(piece);
    return text !== '' && text;
  });
  t.equal(answer, 'hello from n2');
  await lab.must('forward', String(port), 'off');
  await t.rejects(
    new Promise((resolve, reject) => net.connect(port, '127.0.0.1', () => resolve(1)).on('error', reject)),
  );
});

void t.test('refusals name the object and the way out', async (t) => {
  const off = await lab.call('exec', 'n9', 'true');
  t.not(off.code, 0);
  t.match(off.stderr, /n9 is off[\s\S]*scripts\/lab boot n9/);
  t.match((await lab.call('kill', '../etc')).stderr, /is no node/);
  t.match((await lab.call('up', '-1')).stderr, /no number of nodes/);
  t.match((await lab.call('forward', '70000', 'n1:1')).stderr, /no port/);
});

void t.test('up again changes nothing, and a second lab does not disturb the first', async (t) => {
  const boot = await lab.sh(
    'n1',
    'cat /proc/sys/kernel/random/boot_id; systemctl show -p ActiveEnterTimestamp basic.target',
  );
  await lab.up(3);
  t.equal(
    await lab.sh(
      'n1',
      'cat /proc/sys/kernel/random/boot_id; systemctl show -p ActiveEnterTimestamp basic.target',
    ),
    boot,
  );
  const other = new Lab({ id: 'labtwo', net: lab.net, guestNet: lab.guestNet });
  t.teardown(() => other.down());
  await other.up(1);
  t.equal(
    await other.sh('n1', 'hostname -i || cat /etc/hostname'),
    await lab.sh('n1', 'hostname -i || cat /etc/hostname'),
    'same names and addresses',
  );
  await other.down();
  t.ok(await pings('n1', 'n2'));
});

void t.test('down leaves nothing, and may be said twice', async (t) => {
  await lab.down();
  t.same(await lab.traces(), noTraces);
  await lab.down();
});
