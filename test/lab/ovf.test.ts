import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { manifestOf, tarOf } from '../unit/agent/ovf/make.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** A package of two systems becomes two VMs that run: real node, qemu-img, libvirt, and the command line. */

const c = new LabCluster({ id: 'flovf', net: '10.75.0', guestNet: '10.75.100' });
const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-lab-ovf-'));
t.teardown(async () => {
  await c.down();
  rmSync(dir, { recursive: true, force: true });
});

const vmdk = path.join(dir, 'tiny.vmdk');
execFileSync('qemu-img', [
  ...['convert', '-f', 'qcow2', '-O', 'vmdk', '-o', 'subformat=streamOptimized'],
  ...['build/images/tiny.qcow2', vmdk],
]);
const capacity = (
  JSON.parse(execFileSync('qemu-img', ['info', '--output=json', vmdk], { encoding: 'utf8' })) as {
    'virtual-size': number;
  }
)['virtual-size'];
const ns = 'http://schemas.dmtf.org/ovf/envelope/1';
const device = (id: number, type: number, more: string): string =>
  `<Item><rasd:ElementName>d${id}</rasd:ElementName><rasd:InstanceID>${id}</rasd:InstanceID><rasd:ResourceType>${type}</rasd:ResourceType>${more}</Item>`;
const system = (id: string): string => `
  <VirtualSystem ovf:id="${id}">
    <Info>${id}</Info>
    <ProductSection ovf:class="org.example.${id}"><Info/><Property ovf:key="greeting" ovf:type="string" ovf:userConfigurable="true" ovf:value="hello"/></ProductSection>
    <OperatingSystemSection ovf:id="96"><Info/><Description>Debian GNU/Linux (64-bit)</Description></OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso"><Info/>
      ${device(1, 3, '<rasd:VirtualQuantity>1</rasd:VirtualQuantity>')}
      ${device(2, 4, '<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>96</rasd:VirtualQuantity>')}
      ${device(3, 20, '<rasd:ResourceSubType>vmware.nvme.controller</rasd:ResourceSubType>')}
      ${device(4, 17, '<rasd:HostResource>ovf:/disk/root</rasd:HostResource><rasd:Parent>3</rasd:Parent>')}
      ${device(5, 10, '<rasd:Connection>VM Network</rasd:Connection><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>')}
    </VirtualHardwareSection>
  </VirtualSystem>`;
const descriptor = `<Envelope xmlns="${ns}" xmlns:ovf="${ns}" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:id="f" ovf:href="tiny.vmdk"/></References>
<DiskSection><Info/><Disk ovf:diskId="root" ovf:fileRef="f" ovf:capacity="${capacity}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<NetworkSection><Info/><Network ovf:name="VM Network"/></NetworkSection>
<VirtualSystemCollection ovf:id="pair"><Info/>
  <StartupSection><Info/><Item ovf:id="second" ovf:order="2"/><Item ovf:id="first" ovf:order="1" ovf:startDelay="1"/></StartupSection>${system('second')}${system('first')}
</VirtualSystemCollection></Envelope>`;
const files = { 'pair.ovf': descriptor, 'tiny.vmdk': readFileSync(vmdk) };
const ova = path.join(dir, 'pair.ova');
writeFileSync(
  ova,
  tarOf([
    { name: 'pair.ovf', data: descriptor },
    { name: 'pair.mf', data: manifestOf(files) },
    { name: 'tiny.vmdk', data: files['tiny.vmdk'] },
  ]),
);

await c.up(1);
await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
await c.must('POST', 'networks', {
  name: 'lan',
  bridge: 'flt0',
  uplink: 'eth1',
  subnet: '10.75.100.0/24',
  gateway: '10.75.100.254',
  range: ['10.75.100.10', '10.75.100.99'],
});
await waitFor('the pool is known of the node', async () => {
  const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
  return body.items.some((p) => p.use.some((u) => u.ok));
});

await t.test('an OVA with a stream-optimised vmdk becomes VMs that run, in their order', async (t) => {
  const args = [
    'ovf',
    'import',
    ova,
    '--network',
    'VM Network=lan',
    '--start',
    '--property',
    'org.example.first.greeting=good day',
  ];
  const { code, text } = await c.cli(dir, ...args);
  if (!t.equal(code, 0, text)) return;
  for (const name of ['first', 'second']) {
    const vm = await c.untilPhase(name, 'running');
    await waitFor(
      `the guest of ${name} speaks`,
      async () =>
        /TINY ready/.test(
          await c.lab.sh('n1', `cat /var/lib/flotilla/consoles/${vm.id}.log 2>/dev/null || true`),
        ),
      { limitMs: 180_000 },
    );
  }
  const { body } = await c.get<{ items: { name: string }[] }>('images');
  t.strictSame(body.items, [], 'images are gone');
  const first = await c.vm('first');
  const told = await c.lab.sh(
    'n1',
    `cat /var/lib/flotilla/seeds/${first.id}.iso | grep -a 'oe:key="org.example.first' || true`,
  );
  t.match(told, 'oe:value="good day"', 'the guest’s seed has its properties');
});

await t.test('a VM that runs is exported as it runs, and what comes of it runs too', async (t) => {
  const file = path.join(dir, 'first.ova');
  const boot = async (): Promise<unknown> =>
    (await c.get<{ upSinceMs: number; phase: string }>('vms/first')).body;
  const before = await boot();
  const { code, text } = await c.cli(dir, 'export', 'first', '-o', file);
  if (!t.equal(code, 0, text)) return;
  t.match(
    await boot(),
    { phase: 'running', upSinceMs: (before as { upSinceMs: number }).upSinceMs },
    'it ran on',
  );
  await waitFor('its snapshot is gone', async () => {
    const { body } = await c.get<{ items: unknown[] }>('vms/first/snapshots');
    return body.items.length === 0;
  });
  t.match(await c.cli(dir, 'vm', 'delete', 'first', '--force'), { code: 0 });
  const back = await c.cli(dir, 'ovf', 'import', file, '--start');
  if (!t.equal(back.code, 0, back.text)) return;
  const vm = await c.untilPhase('first', 'running');
  await waitFor(
    'the guest speaks',
    async () => /TINY ready/.test(await c.lab.sh('n1', `cat /var/lib/flotilla/consoles/${vm.id}.log`)),
    { limitMs: 180_000 },
  );
});
