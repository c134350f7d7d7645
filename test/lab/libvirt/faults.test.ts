import { readdirSync } from 'node:fs';
import t from 'tap';
import { LibvirtError, LibvirtHypervisor, type HostEvent } from '../../../agent/libvirt/index.js';
import { cannotRun, eventually, LabDaemon } from './daemon.js';
import { tinyGuest } from './guest.js';

/* What happens to the client when the daemon or a QEMU dies or hangs. */

const why = cannotRun();
if (why !== false) {
  t.plan(0, why);
  process.exit();
}
t.setTimeout(300_000);

const node = await LabDaemon.start('n1');
t.teardown(() => node.stop());
const hypervisor = new LibvirtHypervisor({ socketPath: node.socketPath });
t.teardown(() => hypervisor.close());
const seen: HostEvent[] = [];
void (async () => {
  for await (const event of hypervisor.events()) seen.push(event);
})();
hypervisor.open();
await hypervisor.waitConnected();

async function failure(promise: Promise<unknown>): Promise<LibvirtError> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (e: unknown) => e,
  );
  if (!(error instanceof LibvirtError)) throw error;
  return error;
}

function sinceReconnect(from: number): Promise<unknown> {
  return eventually('a resync after the reconnect', () =>
    seen.slice(from).find((e) => e.type === 'resync' && e.why === 'reconnected'),
  );
}

async function started(name: string): Promise<{ uuid: string; qemu: number }> {
  const guest = tinyGuest(node, { name });
  await hypervisor.define(guest.xml);
  await hypervisor.start(guest.uuid);
  return { uuid: guest.uuid, qemu: await eventually(`QEMU of ${name}`, () => node.qemuPid(name)) };
}

const alpha = await started('alpha');

await t.test('a QEMU that hangs costs its own calls only', async (t) => {
  const hung = await Promise.all(['h1', 'h2', 'h3'].map((name) => started(name)));
  const fresh = await started('h4');
  for (const { qemu } of [...hung, fresh]) process.kill(qemu, 'SIGSTOP');
  t.teardown(() => {
    for (const { uuid } of [...hung, fresh]) void hypervisor.stop(uuid, 'destroy').catch(() => undefined);
  });
  for (const { uuid } of hung) {
    const error = await failure(hypervisor.blockInfo(uuid, 'vda', { deadlineMs: 200 }));
    t.match(error, { code: 'deadline', outcome: 'unknown', domainId: uuid });
    t.match(await failure(hypervisor.blockInfo(uuid, 'vda')), { code: 'busy', outcome: 'not-sent' });
    t.same(await hypervisor.state(uuid), { state: 'running', reason: 'booted' }, 'state needs no QEMU');
  }
  t.equal((await hypervisor.blockInfo(alpha.uuid, 'vda', { deadlineMs: 5000 })).capacityBytes, 1 << 20);
  // the first statistics to meet a hanging QEMU hang with it, the next ones leave it out
  const met = await failure(hypervisor.stats({ deadlineMs: 500 }));
  t.match(met, { code: 'deadline', outcome: 'unknown' });
  // On a busy machine the first may be given up before it has come so far.
  await eventually('it hangs in the last of them', async () =>
    (await node.virsh('domcontrol', 'h4')).includes('occupied'),
  );
  const stats = await hypervisor.stats({ deadlineMs: 5000 });
  t.equal(stats.length, 5, 'figures of all, as far as they can be had');
  const [first, ...others] = hung;
  if (first === undefined) throw new Error('unreachable');
  await hypervisor.stop(first.uuid, 'destroy');
  t.match(await hypervisor.state(first.uuid), { state: 'shut-off' });
  for (const { uuid, qemu } of [...others, fresh]) {
    process.kill(qemu, 'SIGCONT');
    await eventually('it answers again', () => hypervisor.blockInfo(uuid, 'vda'));
  }
  for (const { uuid } of [...others, fresh]) await hypervisor.stop(uuid, 'destroy');
  for (const { uuid } of [...hung, fresh]) await hypervisor.undefine(uuid);
});

await t.test('the daemon killed in the middle of calls', async (t) => {
  const from = seen.length;
  process.kill(alpha.qemu, 'SIGSTOP');
  const console = await hypervisor.console(alpha.uuid);
  const cut = new Promise<unknown>((resolve) => console.once('error', resolve));
  const pending = [
    hypervisor.blockInfo(alpha.uuid, 'vda'),
    hypervisor.suspend(alpha.uuid),
    hypervisor.agent(alpha.uuid, 'guest-ping'),
    hypervisor.migrate(alpha.uuid, { uri: 'qemu+tcp://127.0.0.1:1/system' }, { mode: 'live' }).done,
    hypervisor.blockCopy(alpha.uuid, 'vdb', '<disk type="file"><source file="/tmp/x"/></disk>', {
      finish: 'pivot',
    }).done,
  ].map(failure);
  await eventually('the first hangs in QEMU', async () =>
    (await node.virsh('domcontrol', 'alpha')).includes('occupied'),
  );
  const old = node.daemonPid();
  node.signalDaemon('SIGKILL');
  process.kill(alpha.qemu, 'SIGCONT');
  const errors = await Promise.all(pending);
  const [info, suspend, ...others] = errors;
  t.match(info, { code: 'disconnected', outcome: 'unknown' });
  t.match(suspend, { code: 'disconnected', outcome: 'not-sent' }, 'the second on one domain waited its turn');
  for (const error of others)
    t.ok(['disconnected', 'agent-unresponsive', 'refused'].includes(error.code), error.message);
  t.match(await cut, { code: 'disconnected' });

  await sinceReconnect(from);
  t.ok(seen.slice(from).some((e) => e.type === 'disconnected'));
  t.not(node.daemonPid(), old);
  t.same(
    (await hypervisor.list()).map(({ uuid, active }) => ({ uuid, active })),
    [{ uuid: alpha.uuid, active: true }],
    'the guest went on',
  );
  t.equal(node.qemuPid('alpha'), alpha.qemu);
  await eventually('its monitor is reconnected', () => hypervisor.blockInfo(alpha.uuid, 'vda'));
});

await t.test('a guest that died while the daemon was away reads so', async (t) => {
  const guest = await started('lost');
  const from = seen.length;
  await node.exec('touch', '/run/hold');
  node.signalDaemon('SIGKILL');
  await eventually('disconnected', () => seen.slice(from).some((e) => e.type === 'disconnected'));
  t.match(await failure(hypervisor.list()), { code: 'disconnected', outcome: 'not-sent' });
  process.kill(guest.qemu, 'SIGKILL');
  await node.exec('rm', '/run/hold');
  await sinceReconnect(from);
  const state = await eventually('it is off', async () => {
    const now = await hypervisor.state(guest.uuid);
    return now.state === 'shut-off' && now;
  });
  // libvirtd 11.3 saw the monitor's socket refuse; "crashed" when it was still there, "unknown" or "daemon" else
  t.ok(['crashed', 'unknown', 'failed', 'daemon'].includes(state.reason), state.reason);
  await hypervisor.undefine(guest.uuid);
});

await t.test('a daemon that hangs: deadlines, then lost, then found again', async (t) => {
  const from = seen.length;
  node.signalDaemon('SIGSTOP');
  for (let i = 0; i < 4; i++) {
    t.match(await failure(hypervisor.list({ deadlineMs: 100 })), { code: 'deadline', outcome: 'unknown' });
  }
  await eventually('given up', () => seen.slice(from).some((e) => e.type === 'disconnected'));
  t.equal(hypervisor.connected, false);
  t.match(await failure(hypervisor.list()), { code: 'disconnected', outcome: 'not-sent' });
  node.signalDaemon('SIGCONT');
  await sinceReconnect(from);
  t.equal((await hypervisor.list()).length, 1);
});

await t.test('nothing is left open', async (t) => {
  await hypervisor.stop(alpha.uuid, 'destroy');
  await hypervisor.close();
  const clients = async (): Promise<number> => {
    const list = await node.exec('virt-admin', 'client-list', 'libvirtd');
    return list.split('\n').filter((line) => line.includes('unix')).length;
  };
  await eventually('the daemon has no client', async () => (await clients()) === 0);
  const sockets = readdirSync('/proc/self/fd').length;
  const again = new LibvirtHypervisor({ socketPath: node.socketPath });
  again.open();
  await again.waitConnected();
  await again.list();
  await again.close();
  await eventually('no descriptor more than before', () => readdirSync('/proc/self/fd').length <= sockets);
  t.equal(again.connected, false);
});
