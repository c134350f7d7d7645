import t from 'tap';
import { commandLine, type MachinePlan } from '../../../../agent/lockstep/command-line.js';
import { tuned, withMark } from '../../../../agent/lockstep/definition.js';
import { isLockstep } from '../../../../agent/lockstep/machine.js';
import { domainXml, parseDomain } from '../../../../agent/vm/domain-xml.js';
import type { Hardware } from '../../../../core/domain/hardware.js';

const vm = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
const hardware: Hardware = {
  cpus: 2,
  cpusMax: 4,
  memoryMiB: 512,
  memoryMaxMiB: 512,
  firmware: 'bios',
  boot: ['disk'],
  disks: [{ id: 'd1', bus: 'virtio', path: '/pool/a,b.raw', format: 'raw' }],
  cdroms: [null],
  nics: [{ id: 'n1', mac: '52:54:00:00:00:01', bridge: 'br0', model: 'virtio' }],
  watchdog: false,
  cpuShares: 1024,
  cpuQuotaUs: null,
  seed: '/seeds/s.iso',
};
const plan: MachinePlan = {
  vm,
  hardware,
  accel: 'tcg',
  tap: 'lk0',
  qmp: '/run/q,x.sock',
  serial: '/run/s',
  serialLog: '/log',
  vnc: '/run/v',
  firmware: '/share',
  tlsDir: '/tls',
  twin: null,
};
const twin = {
  address: '10.0.0.2',
  ports: { memory: 1, disk: 2, input: 3, output: 4 },
  active: '/pool/.a',
  hidden: '/pool/.h',
};
/** The devices of the guest, in their order and places: both machines must have the same. */
const devices = (args: readonly string[]): string[] => args.filter((_, i) => args[i - 1] === '-device');

await t.test('a twin has the very devices of its owner, and waits for it', async (t) => {
  const own = commandLine(plan);
  const other = commandLine({ ...plan, twin });
  t.same(devices(own), devices(other));
  t.ok(own.includes(vm) && other.includes(vm), 'the id by itself, by which the keeper finds it');
  t.same(other.slice(-2), ['-incoming', 'defer']);
  t.notOk(own.includes('-incoming'));
  for (const args of [own, other]) t.ok(args.includes('-S') && args.includes('-no-shutdown'));
});

await t.test('all that another node may reach of a twin asks for a certificate', async (t) => {
  const args = commandLine({ ...plan, twin });
  const open = args.filter((a) => a.startsWith('socket,') && a.includes('port='));
  t.equal(open.length, 2);
  for (const a of open) t.match(a, /tls-creds=twin-tls/);
  t.match(
    args.find((a) => a.includes('tls-creds-x509')),
    /"endpoint":"server".*"verify-peer":true/,
  );
});

await t.test('a path cannot leave its word', async (t) => {
  const args = commandLine(plan);
  t.ok(args.some((a) => a.includes('path=/run/q,,x.sock,')));
  t.ok(
    args.some(
      (a) =>
        a.startsWith('{') &&
        (JSON.parse(a) as { file?: { filename?: string } }).file?.filename === '/pool/a,b.raw',
    ),
  );
});

await t.test('another hardware is refused in words', async (t) => {
  const { disks, nics } = hardware;
  for (const other of [
    { disks: [] },
    { disks: [...disks, ...disks] },
    { disks: disks.map((d) => ({ ...d, format: 'qcow2' as const })) },
    { nics: [] },
    { nics: nics.map((n) => ({ ...n, model: 'e1000e' as const })) },
    { firmware: 'uefi' as const },
  ])
    t.throws(() => commandLine({ ...plan, hardware: { ...hardware, ...other } }), { code: 'unsupported' });
});

await t.test('the definition keeps its mark and what the scheduler gives', async (t) => {
  const xml = domainXml({
    id: vm,
    name: 'x',
    hardware,
    accel: 'tcg',
    mark: { gen: 7, generation: 3, startedMs: 1 },
    paths: plan,
    inSlice: true,
    lockstep: true,
  });
  t.ok(isLockstep(xml));
  const next = tuned(withMark(xml, { gen: 8 }), { shares: 200, quotaUs: 50_000 });
  t.ok(isLockstep(next));
  t.match(parseDomain(next), {
    mark: { gen: 8, generation: 3, startedMs: 1 },
    hardware: { cpuShares: 200, cpuQuotaUs: 50_000 },
  });
  t.match(parseDomain(tuned(next, { quotaUs: null })).hardware, { cpuShares: 200, cpuQuotaUs: null });
});
