import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import {
  EVENTS,
  LibvirtError,
  LibvirtHypervisor,
  PROCEDURES,
  RpcConnection,
  type HostEvent,
} from '../../../agent/libvirt/index.js';
import { cannotRun, eventually, LabDaemon } from './daemon.js';
import { ARMS_WATCHDOG, debianGuest, DIRTIES_MEMORY, tinyGuest, WRITES_DISK } from './guest.js';

/*
 * Every row of the procedure table against a real libvirtd, with virsh as the oracle. Numbers and field orders
 * are pinned here: a daemon that answers differently fails this test, not a VM.
 */

const why = cannotRun();
if (why !== false) {
  t.plan(0, why);
  process.exit();
}
t.setTimeout(900_000);

async function connected(socketPath: string): Promise<Socket> {
  const socket = connect(socketPath);
  await once(socket, 'connect');
  return socket;
}

/** Booting a Debian without KVM, with the machine busy. */
const BOOT_MS = 300_000;

const n1 = await LabDaemon.start('n1');
t.teardown(() => n1.stop());
const n2 = await LabDaemon.start('n2');
t.teardown(() => n2.stop());
await n1.wire(n2, '10.9.0.1', '10.9.0.2');

const h1 = new LibvirtHypervisor({ socketPath: n1.socketPath });
t.teardown(() => h1.close());
const h2 = new LibvirtHypervisor({ socketPath: n2.socketPath });
t.teardown(() => h2.close());

/** every event so far */
const seen: HostEvent[] = [];
const reading = (async () => {
  for await (const event of h1.events()) seen.push(event);
})();
h1.open();
h2.open();
await Promise.all([h1.waitConnected(), h2.waitConnected()]);

type EventOf<T extends HostEvent['type']> = Extract<HostEvent, { type: T }>;

/** the first event of that type about that domain, from `from` on */
function event<T extends HostEvent['type']>(
  type: T,
  fits: (e: EventOf<T>) => boolean = () => true,
  from = 0,
  limitMs?: number,
): Promise<EventOf<T>> {
  return eventually(
    `event ${type}`,
    () => seen.slice(from).find((e): e is EventOf<T> => e.type === type && fits(e as EventOf<T>)),
    limitMs,
  );
}

async function fails(code: LibvirtError['code'], promise: Promise<unknown>): Promise<LibvirtError> {
  const error: unknown = await promise.then(
    () => null,
    (e: unknown) => e,
  );
  if (!(error instanceof LibvirtError)) throw new Error(`LibvirtError ${code} wanted`, { cause: error });
  t.equal(error.code, code, `${error.procedure}: ${error.message}`);
  return error;
}

/** text of an element in XML, for comparing */
function inside(xml: string, element: string): string {
  return new RegExp(`<${element}[^>]*>([^<]*)<`).exec(xml)?.[1] ?? '';
}

const GROUPS = ['--state', '--cpu-total', '--balloon', '--vcpu', '--interface', '--block', '--vm'];

const guest = tinyGuest(n1, { name: 'alpha' });
const { uuid } = guest;

await t.test('the machine', async (t) => {
  const facts = await h1.facts();
  const version = await n1.virsh('version');
  t.equal(facts.hostname, await n1.virsh('hostname'));
  t.equal(facts.hostUuid, n1.hostUuid);
  t.match(version, `Using library: libvirt ${facts.libvirtVersion}`);
  t.match(version, `Running hypervisor: QEMU ${facts.qemuVersion}`);
  t.equal(facts.capabilitiesXml.trim(), (await n1.virsh('capabilities')).trim());
  const info = await n1.virsh('nodeinfo');
  const field = (name: string): string => new RegExp(`^${name}: +(\\S+)`, 'm').exec(info)?.[1] ?? '';
  t.equal(facts.arch, field('CPU model'));
  t.equal(String(facts.cpus), field('CPU\\(s\\)'));
  t.equal(String(facts.socketsPerNode), field('CPU socket\\(s\\)'));
  t.equal(String(facts.coresPerSocket), field('Core\\(s\\) per socket'));
  t.equal(String(facts.threadsPerCore), field('Thread\\(s\\) per core'));
  t.equal(String(facts.numaNodes), field('NUMA cell\\(s\\)'));
  t.equal(String(facts.memoryKiB), field('Memory size'));

  const caps = await h1.domainCapabilities({ virtType: 'qemu' });
  t.equal(caps.xml.trim(), (await n1.virsh('domcapabilities', '--virttype', 'qemu')).trim());
  t.equal(caps.emulator, '/usr/bin/qemu-system-x86_64');
  t.ok(caps.maxVcpus > 1);
  await fails('invalid-argument', h1.domainCapabilities({ arch: 'no-such-arch' }));

  writeFileSync(`${n1.root}/tmp/caps.xml`, caps.xml);
  const baseline = await h1.baselineCpu([caps.xml], { virtType: 'qemu' });
  t.equal(
    baseline.trim(),
    (await n1.virsh('hypervisor-cpu-baseline', '--virttype', 'qemu', '/tmp/caps.xml')).trim(),
  );
});

await t.test('define, look, rename', async (t) => {
  await fails('invalid-xml', h1.define('<domain'));
  await fails('invalid-xml', h1.define(guest.xml.replace('<vcpu', '<nonsense/><vcpu'), { validate: true }));
  t.same(await h1.define(guest.xml), { uuid, name: 'alpha', id: null, active: false });
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'defined' && e.detail === 'added');
  t.same(await h1.list(), [{ uuid, name: 'alpha', id: null, active: false }]);
  t.same(await h1.byName('alpha'), await h1.byUuid(uuid));
  await fails('no-such-domain', h1.byName('nobody'));
  const missing = await fails('no-such-domain', h1.state(randomUUID()));
  t.equal(missing.libvirtCode, 42);
  t.equal(missing.outcome, 'refused');
  t.same(await h1.state(uuid), { state: 'shut-off', reason: 'unknown' });
  t.equal(await h1.xml(uuid, { inactive: true }), `${await n1.virsh('dumpxml', '--inactive', 'alpha')}\n`);

  await h1.rename(uuid, 'ärger "& <x>');
  t.equal(await n1.virsh('domname', uuid), 'ärger "& <x>');
  await h1.rename(uuid, 'alpha');
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'defined' && e.detail === 'renamed');
  await fails('invalid-argument', h1.rename(uuid, 'with\0nul'));
});

await t.test('start, pause, resume, reset, kill', async (t) => {
  await h1.start(uuid, { paused: true });
  t.same(await h1.state(uuid), { state: 'paused', reason: 'user' });
  t.match(await n1.virsh('domstate', '--reason', 'alpha'), 'paused (user)');
  await h1.resume(uuid);
  t.same(await h1.state(uuid), { state: 'running', reason: 'unpaused' });
  await h1.suspend(uuid);
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'suspended' && e.detail === 'paused');
  await h1.resume(uuid);
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'resumed' && e.detail === 'unpaused');
  await h1.reset(uuid);
  await h1.monitor(uuid, 'system_reset');
  await event('reboot', (e) => e.uuid === uuid);
  // nobody listens in the guest, so being accepted is all there is to see
  await h1.reboot(uuid, 'acpi');
  await h1.stop(uuid, 'acpi');
  const ref = (await h1.list())[0];
  t.equal(String(ref?.id), await n1.virsh('domid', 'alpha'));
  await fails('invalid-state', h1.start(uuid));
  await h1.stop(uuid, 'graceful-destroy');
  t.same(await h1.state(uuid), { state: 'shut-off', reason: 'destroyed' });
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'stopped' && e.detail === 'destroyed');
  await fails('invalid-state', h1.stop(uuid, 'destroy'));
  await h1.start(uuid);
  await event('lifecycle', (e) => e.uuid === uuid && e.event === 'started' && e.detail === 'booted');
  t.same(await h1.state(uuid), { state: 'running', reason: 'booted' });
});

await t.test('a QEMU that dies is told apart from a guest that stops', async (t) => {
  const guest = tinyGuest(n1, { name: 'mortal' });
  await h1.define(guest.xml);
  await h1.start(guest.uuid);
  const qemu = await eventually('its QEMU', () => n1.qemuPid('mortal'));
  process.kill(qemu, 'SIGKILL');
  const stopped = await event('lifecycle', (e) => e.uuid === guest.uuid && e.event === 'stopped');
  t.equal(stopped.detail, 'failed');
  t.same(await h1.state(guest.uuid), { state: 'shut-off', reason: 'crashed' });
  t.match(await n1.virsh('domstate', '--reason', 'mortal'), 'shut off (crashed)');
  await h1.undefine(guest.uuid);
  // a transient one leaves nothing at all
  const transient = tinyGuest(n1, { name: 'transient' });
  t.match(await h1.create(transient.xml, { paused: true }), { uuid: transient.uuid, active: true });
  await h1.stop(transient.uuid, 'destroy');
  t.notOk((await h1.list()).some((d) => d.uuid === transient.uuid));
});

await t.test('console: output, echo, one reader at a time', async (t) => {
  const console1 = await h1.console(uuid);
  let text = '';
  console1.on('data', (chunk: Buffer) => (text += chunk.toString()));
  console1.on('error', () => undefined);
  await eventually('dots', () => text.includes('..'));
  console1.write('xyz');
  await eventually('echo', () => /x\.*y\.*z/.test(text));
  await fails('refused', h1.console(uuid));
  const console2 = await h1.console(uuid, { force: true });
  await eventually('the first reader was thrown out', () => console1.destroyed);
  await new Promise<void>((resolve) => console2.once('data', () => resolve()));
  console2.end();
  await eventually('the second closes by itself', () => console2.destroyed);
  const again = await h1.console(uuid);
  again.destroy();
  const device = inside(await h1.xml(uuid), 'alias name="serial0"');
  t.equal(device, '');
  (await h1.console(uuid, { device: 'serial0' })).destroy();
  await fails('refused', h1.console(uuid, { device: 'serial9' }));
});

await t.test('screenshot', async (t) => {
  const { mime, image } = await h1.screenshot(uuid);
  t.match(mime, /^image\//);
  await n1.virsh('screenshot', 'alpha', '/tmp/screen');
  t.equal(image.length, Number(await n1.exec('stat', '-c', '%s', '/tmp/screen')));
});

await t.test('statistics of all domains in one call', async (t) => {
  const off = tinyGuest(n1, { name: 'off' });
  await h1.define(off.xml);
  const before = h1.counters.answered.get('connectGetAllDomainStats') ?? 0;
  const all = await h1.stats({ raw: true });
  t.equal(h1.counters.answered.get('connectGetAllDomainStats'), before + 1);
  t.same(all.map((s) => s.name).sort(), ['alpha', 'off']);
  const alpha = all.find((s) => s.name === 'alpha');
  t.same(alpha?.state, { state: 'running', reason: 'booted' });
  t.ok((alpha?.cpu?.timeNs ?? 0) > 0);
  t.equal(alpha?.vcpu?.current, 1);
  t.equal(alpha?.vcpu?.maximum, 2);
  t.equal(alpha?.vcpu?.each[0]?.state, 'running');
  t.equal(alpha?.balloon?.maximumKiB, 131072);
  t.same(
    alpha?.block?.map((b) => b.name),
    ['vda', 'vdb', 'hdc'],
  );
  t.ok((alpha?.block?.[0]?.readBytes ?? 0) >= 512);
  t.equal(alpha?.block?.[1]?.capacityBytes, 16 << 20);
  t.same(all.find((s) => s.name === 'off')?.state, { state: 'shut-off', reason: 'unknown' });
  // every name virsh prints was read too
  const raw = (await n1.virsh('domstats', '--nowait', ...GROUPS, 'alpha')).split('\n').slice(1);
  const names = raw.map((line) => line.trim().split('=')[0] ?? '');
  for (const name of names) t.ok(name in (alpha?.raw ?? {}), `has ${name}`);
  t.ok(all.some((s) => s.uuid === off.uuid));
  t.notOk(
    (await h1.stats({ running: true })).some((s) => s.uuid === off.uuid),
    'nothing is read for one that is off',
  );
  const some = await h1.stats({ groups: ['state'], domains: [off.uuid] });
  t.equal(some.length, 1);
  t.equal(some[0]?.block, undefined);

  const memory = await h1.memoryStats(uuid);
  t.equal(String(memory.actualKiB), /^actual (\d+)$/m.exec(await n1.virsh('dommemstat', 'alpha'))?.[1]);
  await h1.setMemoryStatsPeriod(uuid, 7, { live: true });
  t.match(await n1.virsh('dumpxml', 'alpha'), /<stats period='7'\/>/);
  await h1.undefine(off.uuid);
  await event('lifecycle', (e) => e.uuid === off.uuid && e.event === 'undefined' && e.detail === 'removed');
});

await t.test('devices: attach, detach, update', async (t) => {
  writeFileSync(`${n1.root}/tmp/stick.img`, Buffer.alloc(1 << 20));
  const stick = `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/tmp/stick.img'/><target dev='sdx' bus='usb'/></disk>`;
  await h1.attachDevice(uuid, stick, { live: true, config: true });
  await event('device-added', (e) => e.uuid === uuid && e.alias === 'usb-disk23');
  t.match(await n1.virsh('domblklist', 'alpha'), /sdx +\/tmp\/stick.img/);
  t.match(await n1.virsh('domblklist', '--inactive', 'alpha'), /sdx +\/tmp\/stick.img/);
  await fails('invalid-xml', h1.attachDevice(uuid, stick, { live: true }));
  await h1.detachDevice(uuid, stick, { live: true, config: true });
  await event('device-removed', (e) => e.uuid === uuid && e.alias === 'usb-disk23');
  t.notMatch(await n1.virsh('domblklist', 'alpha'), 'sdx');
  await fails('device-missing', h1.detachDevice(uuid, stick, { config: true }));

  writeFileSync(`${n1.root}/tmp/disc.iso`, Buffer.alloc(1 << 20));
  const disc = (source: string): string =>
    `<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>${source}<target dev='hdc' bus='ide'/><readonly/></disk>`;
  await h1.updateDevice(uuid, disc(`<source file='/tmp/disc.iso'/>`), { live: true });
  t.match(await n1.virsh('domblklist', 'alpha'), /hdc +\/tmp\/disc.iso/);
  await h1.updateDevice(uuid, disc(''), { live: true, force: true });
  t.match(await n1.virsh('domblklist', 'alpha'), /hdc +-/);
  await event('tray-change', (e) => e.uuid === uuid && e.tray === 'open');
});

await t.test('vCPUs, memory, disk size, metadata', async (t) => {
  await h1.setVcpus(uuid, 2, { live: true });
  t.equal(await n1.virsh('vcpucount', '--live', '--current', 'alpha'), '2');
  await h1.setVcpus(uuid, 4, { config: true, maximum: true });
  t.equal(await n1.virsh('vcpucount', '--config', '--maximum', 'alpha'), '4');
  await fails('invalid-argument', h1.setVcpus(uuid, 9, { live: true }));

  await h1.setCpuTune(uuid, { shares: 300, quotaUs: 50_000 }, { config: true });
  t.match(await h1.xml(uuid, { inactive: true }), /<global_quota>50000</);
  await h1.setCpuTune(uuid, { quotaUs: null }, { config: true });
  t.notMatch(await h1.xml(uuid, { inactive: true }), /<global_quota>[1-9]/);
  t.match(await h1.xml(uuid, { inactive: true }), /<shares>300</);
  await h1.setMemory(uuid, 98304, { config: true });
  t.match(await h1.xml(uuid, { inactive: true }), /<currentMemory unit='KiB'>98304</);
  await h1.setMemory(uuid, 262144, { config: true, maximum: true });
  t.match(await n1.virsh('dumpxml', '--inactive', 'alpha'), /<memory unit='KiB'>262144</);
  await fails('invalid-argument', h1.setMemory(uuid, -1, { config: true }));

  await h1.blockResize(uuid, 'vdb', 32 << 20);
  const info = await h1.blockInfo(uuid, 'vdb');
  t.equal(info.capacityBytes, 32 << 20);
  const told = await n1.virsh('domblkinfo', 'alpha', 'vdb');
  const figure = (name: string): number => Number(new RegExp(`${name}: +(\\d+)`).exec(told)?.[1]);
  t.same(info, {
    capacityBytes: figure('Capacity'),
    allocationBytes: figure('Allocation'),
    physicalBytes: figure('Physical'),
  });

  const flotilla = { uri: 'urn:test:flotilla', prefix: 'f' };
  await fails('no-metadata', h1.metadata(uuid, flotilla));
  await h1.setMetadata(uuid, flotilla, '<vm generation="7">é</vm>', { live: true, config: true });
  t.equal(
    await h1.metadata(uuid, flotilla, { config: true }),
    await n1.virsh('metadata', 'alpha', flotilla.uri, '--config'),
  );
  t.match(await h1.metadata(uuid, flotilla), 'generation="7"');
  await event('metadata-change', (e) => e.uuid === uuid && e.uri === flotilla.uri && e.kind === 'element');
  await h1.setMetadata(uuid, flotilla, null, { live: true, config: true });
  await fails('no-metadata', h1.metadata(uuid, flotilla));
  await h1.setMetadata(uuid, 'title', 'A title', { config: true });
  await h1.setMetadata(uuid, 'description', 'Says\nmore', { config: true });
  t.equal(await h1.metadata(uuid, 'title', { config: true }), 'A title');
  t.equal(await n1.virsh('desc', '--config', 'alpha'), 'Says\nmore');
});

await t.test('block jobs: copy and pivot, cancel, leave, limit, commit', async (t) => {
  const guest = tinyGuest(n1, { name: 'jobs' });
  await h1.create(guest.xml);
  const copy = (file: string): string =>
    `<disk type='file'><driver type='raw'/><source file='${file}'/></disk>`;

  const pivot = h1.blockCopy(guest.uuid, 'vdb', copy('/tmp/copy1.img'), {
    finish: 'pivot',
    progressMs: 10,
    bandwidthBytes: 32 << 20,
    granularityBytes: 65536,
    bufferBytes: 1 << 20,
  });
  const fractions: number[] = [];
  for await (const { fraction } of pivot.progress()) fractions.push(fraction);
  await pivot.done;
  t.ok(
    fractions.some((f) => f > 0),
    'told how far it was',
  );
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/copy1.img/);
  await event(
    'block-job',
    (e) => e.uuid === guest.uuid && e.job === 'copy' && e.status === 'ready' && e.disk === 'vdb',
  );
  await event('block-job', (e) => e.uuid === guest.uuid && e.job === 'copy' && e.status === 'completed');

  const slow = h1.blockCopy(guest.uuid, 'vdb', copy('/tmp/copy2.img'), {
    finish: 'pivot',
    bandwidthBytes: 65536,
  });
  const info = await eventually('the job is known', () => h1.blockJobInfo(guest.uuid, 'vdb'));
  t.equal(info.type, 'copy');
  t.equal(info.bandwidthBytes, 65536);
  await fails(
    'block-copy-active',
    h1.blockCopy(guest.uuid, 'vdb', copy('/tmp/copy3.img'), { finish: 'pivot' }).done,
  );
  await h1.blockJobSetSpeed(guest.uuid, 'vdb', 131072);
  t.equal((await h1.blockJobInfo(guest.uuid, 'vdb'))?.bandwidthBytes, 131072);
  await slow.cancel();
  await fails('aborted', slow.done);
  t.equal(await h1.blockJobInfo(guest.uuid, 'vdb'), null);
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/copy1.img/);

  await h1.blockCopy(guest.uuid, 'vdb', copy('/tmp/copy4.img'), { finish: 'leave', synchronousWrites: true })
    .done;
  const equal = /cur=(\d+)[\s\S]*end=(\d+)/.exec(await n1.virsh('blockjob', 'jobs', 'vdb', '--raw'));
  t.equal(equal?.[1], equal?.[2]);
  await h1.blockJobAbort(guest.uuid, 'vdb', { pivot: true });
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/copy4.img/);
  await h1.blockCopy(guest.uuid, 'vdb', copy('/tmp/copy5.img'), { finish: 'cancel' }).done;
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/copy4.img/);

  const snapshot = `<domainsnapshot><name>s1</name><disks><disk name='vda' snapshot='no'/><disk name='vdb' snapshot='external' type='file'><source file='/tmp/s1.qcow2'/></disk></disks></domainsnapshot>`;
  const ref = await h1.snapshot(guest.uuid, snapshot, { diskOnly: true, atomic: true });
  t.same(ref, { name: 's1', domain: guest.uuid });
  t.same(await h1.snapshots(guest.uuid), [ref]);
  t.equal(await n1.virsh('snapshot-list', 'jobs', '--name'), 's1');
  t.equal((await h1.snapshotXml(ref)).trim(), (await n1.virsh('snapshot-dumpxml', 'jobs', 's1')).trim());
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/s1.qcow2/);
  await fails('no-such-snapshot', h1.snapshotXml({ name: 'nope', domain: guest.uuid }));
  await h1.deleteSnapshot(ref, { metadataOnly: true });
  t.same(await h1.snapshots(guest.uuid), []);
  await h1.blockCommit(guest.uuid, 'vdb').done;
  t.match(await n1.virsh('domblklist', 'jobs'), /vdb +\/tmp\/copy4.img/);
  await h1.stop(guest.uuid, 'destroy');
});

await t.test('a full disk and a biting watchdog are reported', async (t) => {
  await n1.exec('mkdir', '/tmp/small');
  await n1.exec('mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', '/tmp/small');
  await n1.exec('truncate', '-s', '16M', '/tmp/small/data.img');
  const guest = tinyGuest(n1, {
    name: 'writer',
    mode: WRITES_DISK | ARMS_WATCHDOG,
    secondDisk: '/tmp/small/data.img',
  });
  await h1.create(guest.xml);
  const error = await event('io-error', (e) => e.uuid === guest.uuid);
  t.same(
    { path: error.path, alias: error.alias, action: error.action, reason: error.reason },
    { path: '/tmp/small/data.img', alias: 'virtio-disk1', action: 'pause', reason: 'enospc' },
  );
  await eventually('paused', async () => (await h1.state(guest.uuid)).reason === 'io-error');
  t.equal((await event('watchdog', (e) => e.uuid === guest.uuid)).action, 'none');
  await h1.stop(guest.uuid, 'destroy');
});

await t.test('undefine says what else goes', async (t) => {
  await h1.stop(uuid, 'destroy');
  const uefi = tinyGuest(n1, { name: 'uefi' });
  const loader = `<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>`;
  const xml = uefi.xml
    .replace(/<os>.*<\/os>/, loader)
    .replace(/<disk type='file' device='cdrom'>.*<\/disk>/, '')
    .replace(`<watchdog model='ib700' action='none'/>`, '');
  await h1.define(xml);
  await h1.start(uefi.uuid, { paused: true });
  await h1.stop(uefi.uuid, 'destroy');
  const nvram = '/var/lib/libvirt/qemu/nvram/uefi_VARS.fd';
  await n1.exec('test', '-e', nvram);
  await fails('invalid-state', h1.undefine(uefi.uuid));
  await h1.undefine(uefi.uuid, { nvram: 'keep', managedSave: true, snapshotsMetadata: true });
  await n1.exec('test', '-e', nvram);
  await h1.define(xml);
  await h1.undefine(uefi.uuid, { nvram: 'delete', checkpointsMetadata: true });
  await t.rejects(n1.exec('test', '-e', nvram));
  await h1.undefine(uuid);
  t.same(await h1.list(), []);
});

await t.test('a real guest: agent, filesystems, addresses, balloon', async (t) => {
  const guest = await debianGuest(n1, 'debian');
  await h1.define(guest.xml);
  await h1.start(guest.uuid);
  await fails('agent-unresponsive', h1.agent(guest.uuid, 'guest-ping', undefined, { deadlineMs: 1000 }));
  const up = await event(
    'agent-lifecycle',
    (e) => e.uuid === guest.uuid && e.state === 'connected',
    0,
    BOOT_MS,
  ).catch(async (cause: unknown) => {
    throw new Error(`the guest got this far: ${await n1.exec('tail', '-c', '2000', '/tmp/debian.log')}`, {
      cause,
    });
  });
  t.equal(up.reason, 'channel');
  t.match(await h1.agent(guest.uuid, 'guest-info'), { version: String, supported_commands: Array });
  await fails('agent-failed', h1.agent(guest.uuid, 'guest-no-such-command'));
  const echo = await h1.agent(guest.uuid, 'guest-exec', {
    path: '/bin/echo',
    arg: ['ä'],
    'capture-output': true,
  });
  t.match(echo, { pid: Number });

  const filesystems = await h1.filesystems(guest.uuid);
  const root = filesystems.find((f) => f.mountpoint === '/');
  t.ok(root);
  t.match(
    await n1.virsh('domfsinfo', 'debian'),
    new RegExp(`/ +${root?.name} +${root?.type} +${root?.devices.join(',')}`),
  );
  t.equal(await h1.fsFreeze(guest.uuid), filesystems.length);
  t.equal(await h1.agent(guest.uuid, 'guest-fsfreeze-status'), 'frozen');
  t.equal(await h1.fsThaw(guest.uuid), filesystems.length);

  const interfaces = await h1.addresses(guest.uuid);
  const loopback = interfaces.find((i) => i.name === 'lo');
  t.ok(loopback?.addresses.some((a) => a.address === '127.0.0.1' && a.prefix === 8 && a.family === 'ipv4'));
  t.ok(loopback?.addresses.some((a) => a.address === '::1' && a.family === 'ipv6'));
  t.match(await n1.virsh('domifaddr', '--source', 'agent', 'debian'), '127.0.0.1/8');

  await h1.setMemory(guest.uuid, 393216, { live: true });
  await event('balloon-change', (e) => e.uuid === guest.uuid);
  await eventually(
    'the guest gave memory back',
    async () =>
      (await h1.stats({ groups: ['balloon'], domains: [guest.uuid] }))[0]?.balloon?.currentKiB === 393216,
  );
  await eventually('the guest tells what it uses', async () => (await h1.memoryStats(guest.uuid)).usableKiB);

  const nic = `<interface type='user'><mac address='52:54:00:00:00:77'/><model type='virtio'/></interface>`;
  const from = seen.length;
  await h1.reboot(guest.uuid, 'agent');
  await event('agent-lifecycle', (e) => e.state === 'disconnected', from);
  await h1.stop(guest.uuid, 'destroy');
  await h1.attachDevice(guest.uuid, nic, { config: true });
  t.match(await n1.virsh('domiflist', 'debian', '--inactive'), '52:54:00:00:00:77');
  await h1.undefine(guest.uuid);
});

await t.test('migration: there and back, progress, cancel, post-copy', async (t) => {
  const guest = tinyGuest(n1, { name: 'walker', mode: DIRTIES_MEMORY });
  // the same disks on both nodes: what the guest reads must be there
  tinyGuest(n2, { name: 'walker' });
  await h1.define(guest.xml);
  await h1.start(guest.uuid);
  const to2 = { uri: 'qemu+tcp://10.9.0.2/system', migrateUri: 'tcp://10.9.0.2' };
  const to1 = { uri: 'qemu+tcp://10.9.0.1/system' };

  const slow = h1.migrate(guest.uuid, to2, {
    mode: 'live',
    bandwidthMiBps: 1,
    copyDisks: ['vdb'],
    progressMs: 20,
    maxDowntimeMs: 1,
  });
  const progress = slow.progress()[Symbol.asyncIterator]();
  await eventually(
    'it copies',
    async () => ((await progress.next()).value as { phase: string } | undefined)?.phase === 'copying',
  );
  t.ok(await h1.jobProgress(guest.uuid));
  await slow.cancel();
  const aborted = await fails('aborted', slow.done);
  t.equal(aborted.outcome, 'refused');
  t.match(await h1.state(guest.uuid), { state: 'running' });
  t.same(await h2.list(), []);
  t.equal(await h1.jobProgress(guest.uuid), null);
  await fails('invalid-state', h1.abortJob(guest.uuid));

  const late = h1.migrate(guest.uuid, to2, {
    mode: 'live',
    bandwidthMiBps: 1,
    copyDisks: ['vdb'],
    deadlineMs: 500,
  });
  await fails('deadline', late.done);
  t.match(await h1.state(guest.uuid), { state: 'running' });

  const held = h1.migrate(guest.uuid, to2, {
    mode: 'live',
    leavePaused: true,
    persistDest: true,
    undefineSource: true,
    copyDisks: ['vda', 'vdb'],
    autoConverge: true,
  });
  const result = await held.done;
  t.ok((result.totalMs ?? 0) > 0, 'has its figures');
  t.same(await h1.list(), []);
  t.same(await h2.state(guest.uuid), { state: 'paused', reason: 'user' });
  t.equal((await event('job-completed', (e) => e.uuid === guest.uuid)).operation, 'migration-out');
  await event('lifecycle', (e) => e.uuid === guest.uuid && e.event === 'stopped' && e.detail === 'migrated');
  await h2.resume(guest.uuid);

  await h2.migrate(guest.uuid, to1, { mode: 'paused', unsafe: true }).done;
  t.match(await h1.state(guest.uuid), { state: 'running' });

  // The phases driven from here: with the whole copy there, one of the two goes.
  const driven = { ...to2, uri: n2.socketPath, peer: () => connected(n2.socketPath) };
  const paused: string[] = [];
  const arrive = (what: 'go' | 'stay') => async () => {
    for (const h of [h1, h2]) paused.push((await h.state(guest.uuid)).state);
    return what;
  };
  const how = { mode: 'live', leavePaused: true, unsafe: true } as const;
  await fails('aborted', h1.migrate(guest.uuid, driven, { ...how, onArrived: arrive('stay') }).done);
  t.match(await h1.state(guest.uuid), { state: 'running' }, 'it stayed');
  // Nobody's copy any more: whoever decided ends it.
  await h2.stop(guest.uuid, 'destroy');
  await h1.migrate(guest.uuid, driven, { ...how, onArrived: arrive('go') }).done;
  t.same(paused, ['paused', 'paused', 'paused', 'paused'], 'both stood still while it was decided');
  t.match(await h2.state(guest.uuid), { state: 'paused' });
  await h2.resume(guest.uuid);
  await h2.migrate(guest.uuid, to1, { mode: 'live', unsafe: true }).done;
  await h1.migrate(guest.uuid, to2, { mode: 'post-copy', bandwidthMiBps: 1, unsafe: true, maxDowntimeMs: 1 })
    .done;
  await event('migration-iteration', (e) => e.uuid === guest.uuid);
  t.match(await h2.state(guest.uuid), { state: 'running' });
  await fails(
    'refused',
    h2.migrate(guest.uuid, { uri: 'qemu+tcp://10.9.0.77/system' }, { mode: 'live' }).done,
  );

  await fails('refused', h2.migrate(guest.uuid, to1, { mode: 'live', tls: true, unsafe: true }).done);
  t.match(await h2.state(guest.uuid), { state: 'running' }, 'no certificates, no encryption: it stayed');
  await LabDaemon.certify([n1, '10.9.0.1'], [n2, '10.9.0.2']);
  await h2.migrate(guest.uuid, to1, { mode: 'live', tls: true, unsafe: true }).done;
  await h1.migrate(guest.uuid, to2, { mode: 'live', tls: true, copyDisks: ['vdb'], unsafe: true }).done;
  await h2.stop(guest.uuid, 'destroy');
});

await t.test('a connection by itself, without a hypervisor around it', async (t) => {
  const kinds: string[] = [];
  const connection = new RpcConnection({
    socketPath: n1.socketPath,
    counters: h1.counters,
    onEvent: ({ kind }) => kinds.push(kind),
  });
  await connection.connect();
  const deadlineMs = 5000;
  const { callbackId } = await connection.call(
    'connectDomainEventCallbackRegisterAny',
    { eventId: EVENTS.lifecycle.eventId, domain: null },
    { deadlineMs },
  );
  const guest = tinyGuest(n1, { name: 'solo' });
  await h1.define(guest.xml);
  await eventually('one event', () => kinds.length === 1);
  await connection.call('connectDomainEventCallbackDeregisterAny', { callbackId }, { deadlineMs });
  await h1.undefine(guest.uuid);
  await event('lifecycle', (e) => e.uuid === guest.uuid && e.event === 'undefined');
  await connection.end();
  t.same(kinds, ['lifecycle']);
});

await t.test('the daemon asks whether we live, and we say so', async (t) => {
  await eventually('a pong', () => h1.counters.pongs > 0);
  t.equal(h1.counters.connects > 0, true);
  t.equal(h1.counters.unreadable, 0);
});

await t.test('every row of the table was answered', async (t) => {
  await h1.close();
  await reading;
  const rows = Object.keys(PROCEDURES) as (keyof typeof PROCEDURES)[];
  const never = rows.filter((row) => !h1.counters.answered.has(row) && !h2.counters.answered.has(row));
  t.same(never, []);
  const kinds = Object.keys(EVENTS) as (keyof typeof EVENTS)[];
  // a real guest always lets go of its devices, so this one is only in the unit tests
  t.same(
    kinds.filter((kind) => !h1.counters.events.has(kind)),
    ['deviceRemovalFailed'],
  );
});
