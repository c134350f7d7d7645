import t from 'tap';
import { domainXml, parseDomain } from '../../../../agent/vm/domain-xml.js';
import { filesystems } from '../../../../agent/vm/guest-info.js';
import { diffHardware } from '../../../../core/decide/hardware.js';
import type { Hardware } from '../../../../core/domain/hardware.js';

const hardware: Hardware = {
  cpus: 2,
  cpusMax: 4,
  memoryMiB: 256,
  memoryMaxMiB: 512,
  firmware: 'uefi',
  boot: ['cdrom', 'disk', 'network'],
  disks: [
    { id: 'd1', bus: 'virtio', path: '/p/d1.qcow2', format: 'qcow2' },
    { id: 'd2', bus: 'sata', path: '/p/d2.raw', format: 'raw' },
    { id: 'd3', bus: 'scsi', path: '/dev/flotilla-1/d-3', format: 'raw' },
  ],
  cdroms: ['/i/a.iso', null],
  nics: [{ id: 'n1', mac: '02:f1:00:00:00:01', bridge: 'br0', model: 'virtio' }],
  watchdog: true,
  cpuShares: 100,
  cpuQuotaUs: null,
  seed: '/seeds/x.iso',
};
const plan = {
  id: '11111111-2222-4333-8444-555555555555',
  name: 'web <1> & "co"',
  hardware,
  accel: 'tcg' as const,
  mark: { gen: 7, generation: 3, startedMs: 1234 },
  paths: { serial: '/run/s', vnc: '/run/v', serialLog: '/log' },
  inSlice: true,
};

await t.test('what is written into a domain is read back: it differs in nothing', async (t) => {
  const facts = parseDomain(domainXml(plan));
  t.same(facts.mark, plan.mark);
  t.same(facts.hardware, hardware);
  t.match(
    domainXml(plan),
    /<disk type="block" .*<source dev="\/dev\/flotilla-1\/d-3"/s,
    'a device is no file',
  );
  const d = diffHardware(hardware, facts.hardware);
  t.same(d, { hot: [], pendingRestart: [] });
});

await t.test('a name cannot leave its element', async (t) => {
  const xml = domainXml({ ...plan, name: '</title><devices><disk type="file"/></devices><title>' });
  t.equal(parseDomain(xml).hardware.disks.length, 3);
  t.notMatch(xml, /<title><\/title>/);
});

await t.test('targets are all different, boot orders are 1..n', async (t) => {
  const xml = domainXml(plan);
  const devs = [...xml.matchAll(/<target dev="([a-z]+)"/g)].map((m) => m[1]);
  t.equal(new Set(devs).size, devs.length);
  const orders = [...xml.matchAll(/<boot order="(\d+)"/g)].map((m) => Number(m[1])).sort((a, b) => a - b);
  t.same(
    orders,
    orders.map((_, i) => i + 1),
  );
});

await t.test('a domain of somebody else has no mark, and a text that is none is refused', async (t) => {
  t.equal(parseDomain('<domain><name>x</name></domain>').mark, null);
  t.match(
    parseDomain(
      '<domain><cputune><shares>250</shares><global_period>100000</global_period><global_quota>150000</global_quota></cputune></domain>',
    ).hardware,
    { cpuShares: 250, cpuQuotaUs: 150_000 },
  );
  t.match(parseDomain('<domain><cputune><global_quota>-1</global_quota></cputune></domain>').hardware, {
    cpuShares: 100,
    cpuQuotaUs: null,
  });
  t.throws(() => parseDomain('<html/>'), { code: 'hypervisor-error' });
});

await t.test('a guest agent that lies about its filesystems harms nobody', async (t) => {
  t.same(filesystems('no'), []);
  t.same(filesystems([null, 5, { mountpoint: '/', type: 'ext4', 'total-bytes': 'x', 'used-bytes': 1 }]), []);
  t.same(filesystems([{ mountpoint: '/', type: 'ext4', 'total-bytes': 2, 'used-bytes': 1 }]), [
    { mount: '/', type: 'ext4', totalBytes: 2, usedBytes: 1 },
  ]);
});
