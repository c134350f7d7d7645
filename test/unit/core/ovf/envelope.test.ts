import t from 'tap';
import { readXml } from '../../../../agent/ovf/xml-reader.js';
import { unitBytes } from '../../../../core/ovf/units.js';
import { fixture, item, packageOf, read } from './read.js';

const GiB = 2 ** 30;

void t.test('three tiers of OVF 1.1: systems, sizes, order, properties', (t) => {
  const p = read(fixture('three-tier.ovf'));
  t.match(p, { version: '1', versionText: '1.1.0', id: 'shop', name: 'Shop', configuration: 'usual' });
  t.strictSame(
    p.systems.map((s) => [s.id, s.name, s.collection, s.cpus, s.memoryMiB, s.firmware]),
    [
      ['database', 'Database', 'shop', 2, 2048, 'bios'],
      ['application', 'application', 'tiers', 1, 1024, 'bios'],
      ['web', 'web', 'tiers', 1, 512, 'uefi'],
    ],
  );
  t.strictSame(
    p.collections.map((c) => [c.id, c.collection]),
    [
      ['shop', null],
      ['tiers', 'shop'],
    ],
  );
  t.match(p.collections[0], {
    annotation: "Built for the reader's tests.",
    cpuAllocation: { reservation: 500, limit: 4000, weight: 2000 },
    memoryAllocation: { reservation: 2048, limit: null },
  });
  const [database, application, web] = p.systems;
  t.match(database, {
    families: ['vmx-13', 'kvm'],
    transports: ['iso', 'com.vmware.guestInfo'],
    os: { id: 96, type: 'debian12_64Guest', version: '13', description: 'Debian GNU/Linux 13 (64-bit)' },
    disks: [
      { disk: 'root', bus: 'scsi', controller: 'virtio', unit: 0, capacityBytes: 8 * GiB, file: 'base' },
      { disk: 'records', unit: 1, capacityBytes: 20 * GiB },
    ],
    nics: [{ network: 'back', model: 'vmxnet3' }],
  });
  t.equal(database?.disks.length, 2);
  t.match(application, {
    disks: [{ bus: 'sata', controller: 'AHCI', capacityBytes: GiB }],
    drives: [{ kind: 'cdrom', file: 'tools', bus: 'sata' }],
  });
  t.strictSame(
    application?.nics.map((n) => [n.network, n.model]),
    [
      ['back', 'e1000'],
      ['front', 'e1000'],
    ],
    'a device that names two networks is two',
  );
  t.match(web, {
    secureBoot: true,
    tpm: true,
    disks: [{ bus: 'nvme', file: null, capacityBytes: GiB / 2 }],
    nics: [{ mac: '52:54:00:ab:cd:ef', model: 'vmxnet3', network: 'front' }],
    others: [{ name: 'Sound', type: 'sound card', required: false }],
  });
  t.strictSame(
    p.startOrder.map((s) => [
      s.collection,
      s.id,
      s.order,
      s.startDelayS,
      s.waitForGuest,
      s.startAction,
      s.stopAction,
    ]),
    [
      ['shop', 'database', 1, 120, true, 'powerOn', 'guestShutdown'],
      ['shop', 'tiers', 2, 30, false, 'powerOn', 'powerOff'],
      ['tiers', 'application', 1, 0, false, 'powerOn', 'powerOff'],
      ['tiers', 'web', 2, 0, false, 'none', 'powerOff'],
    ],
  );
  t.strictSame(
    p.properties.map((x) => [x.id, x.owner, x.type, x.default, x.userConfigurable, x.secret, x.category]),
    [
      ['org.example.shop.title', 'shop', 'string', 'My shop', true, false, 'General'],
      ['org.example.shop.admin', 'shop', 'string', null, true, true, 'General'],
      ['org.example.shop.records.size', 'shop', 'uint16', '20', false, false, 'Sizes'],
      ['org.example.db.port.main', 'database', 'uint16', '5432', true, false, null],
    ],
  );
  t.ok(p.properties[1]?.hasDefault, 'a secret default is known to be there, and not shown');
  t.notMatch(JSON.stringify(p), 'changeme');
  t.match(p.products[0], {
    name: 'Example Shop',
    vendor: 'Example',
    version: '3.1',
    fullVersion: '3.1.4-build7',
  });
  t.strictSame(p.eulas, [{ owner: 'shop', text: 'You may use it.' }]);
  t.strictSame(
    p.deploymentOptions.map((c) => [c.id, c.default, c.systems[0]?.cpus, c.systems[0]?.memoryMiB]),
    [
      ['small', false, 2, 2048],
      ['usual', true, 2, 2048],
      ['big', false, 8, 16384],
    ],
  );
  t.match(p.files, [
    { id: 'base', sizeBytes: 4096 },
    { id: 'data', href: 'data%20disk.img.gz', compression: 'gzip' },
    { id: 'large', chunkBytes: 1000, sizeBytes: 2500 },
    { id: 'texts-de' },
    { id: 'tools' },
  ]);
  t.strictSame(
    p.disks.map((d) => [d.id, d.format, d.capacityProperty]),
    [
      ['root', 'vmdk', null],
      ['records', 'raw', 'records.size'],
      ['archive', 'vmdk', null],
      ['scratch', 'unknown', null],
    ],
  );
  t.strictSame(
    p.kept.map((k) => [k.owner, k.name]),
    [
      ['shop', 'IpAssignmentSection'],
      ['web', 'BootOrderSection'],
    ],
  );
  t.match(p.kept[0]?.xml, /^<vmw:IpAssignmentSection [\s\S]*<\/vmw:IpAssignmentSection>$/);
  t.equal(p.kept[0]?.namespaces['vmw'], 'http://www.vmware.com/schema/ovf');
  t.end();
});

void t.test('another deployment option changes sizes and values, another language the texts', (t) => {
  const source = fixture('three-tier.ovf');
  const big = read(source, { configuration: 'big' });
  t.match(big.systems[0], { cpus: 8, memoryMiB: 16384 });
  t.equal(big.disks[1]?.capacityBytes, 200 * GiB);
  const strings = new Map([['texts-de', readXml(fixture('texts-de.xml'), 'texts-de.xml')]]);
  const de = read(source, { language: 'de-DE', strings });
  t.equal(de.deploymentOptions[0]?.label, 'Klein');
  t.equal(de.networks[0]?.description, 'Hier kommen die Kunden herein');
  t.equal(de.eulas[0]?.text, 'Sie dürfen es benutzen.');
  t.equal(de.networks[1]?.description, 'Between the tiers');
  t.equal(read(source, { language: 'fr', strings }).deploymentOptions[0]?.label, 'Petit');
  t.equal(read(source, { strings }).deploymentOptions[0]?.label, 'Small', 'its own language');
  t.match(read(source).warnings.at(-1), { line: 136, text: /texts in file "texts-de" are not here/ });
  t.throws(() => read(source, { configuration: 'huge' }), { code: 'bad-input', hint: /small, usual, big/ });
  t.end();
});

void t.test('drafts of before 1.0, with prefixes of their own', (t) => {
  const p = read(fixture('draft-0.9.ovf'));
  t.match(p, {
    version: '0.9',
    id: 'old',
    networks: [{ name: 'bridged' }],
    disks: [{ id: 'd1', file: 'f1', format: 'vmdk' }],
    eulas: [{ owner: 'old', text: 'As is.' }],
    properties: [{ id: 'hostname', default: 'old1' }],
  });
  t.match(p.systems, [
    {
      cpus: 1,
      memoryMiB: 256,
      annotation: 'Keep me',
      families: ['vmx-04'],
      disks: [{ disk: 'd1', bus: 'scsi', controller: 'lsilogic', name: 'disk1' }],
      nics: [{ network: 'bridged', model: 'pcnet32' }],
    },
  ]);
  t.strictSame(p.warnings, []);
  t.end();
});

void t.test('OVF 2.0 as VirtualBox writes it', (t) => {
  const p = read(fixture('two-zero.ovf'));
  t.match(p, { version: '2', versionText: '2.0', language: 'en-US' });
  t.match(p.systems, [
    {
      cpus: 2,
      memoryMiB: 1024,
      firmware: 'uefi',
      tpm: true,
      os: { id: 94, type: 'Ubuntu_64' },
      disks: [{ disk: 'd', bus: 'sata', capacityBytes: 2 * GiB }],
      drives: [{ kind: 'cdrom', bus: 'ide', file: null }],
      nics: [{ network: 'NAT', model: 'e1000' }],
    },
  ]);
  t.strictSame(
    p.kept.map((k) => k.name),
    ['PlacementGroupSection', 'Machine'],
  );
  t.end();
});

void t.test('as oVirt writes it', (t) => {
  const p = read(fixture('ovirt.ovf'));
  t.match(p.systems, [
    {
      name: 'engine-made',
      cpus: 4,
      coresPerSocket: 2,
      memoryMiB: 1024,
      firmware: 'uefi',
      disks: [{ disk: 'volume1', bus: 'scsi', capacityBytes: 10 * GiB, file: 'volume1' }],
      nics: [{ name: 'nic', network: 'mgmt', model: 'virtio', mac: '00:1a:4a:16:01:51' }],
      others: [{ type: 'storage controller', name: 'Graphical Controller' }],
    },
  ]);
  t.match(p.disks, [{ format: 'qcow2' }]);
  t.end();
});

void t.test('controllers and NICs of all kinds', (t) => {
  const controllers: [Record<string, string | number>, string][] = [
    [{ ResourceType: 5, ResourceSubType: 'PIIX4' }, 'ide'],
    [{ ResourceType: 5 }, 'ide'],
    [{ ResourceType: 6, ResourceSubType: 'buslogic' }, 'scsi'],
    [{ ResourceType: 6, ResourceSubType: 'lsilogicsas' }, 'scsi'],
    [{ ResourceType: 6, ResourceSubType: 'VirtualSCSI' }, 'scsi'],
    [{ ResourceType: 20, ResourceSubType: 'vmware.sata.ahci' }, 'sata'],
    [{ ResourceType: 20, ElementName: 'SATA Controller' }, 'sata'],
    [{ ResourceType: 20, ResourceSubType: 'NVMe' }, 'nvme'],
    [{ ResourceType: 20, ResourceSubType: 'VirtioSCSI' }, 'scsi'],
    [{ ResourceType: 1, ResourceSubType: 'vmware.nvme.controller' }, 'nvme'],
  ];
  for (const [fields, bus] of controllers) {
    const p = read(
      packageOf({
        disks: '<Disk ovf:diskId="d" ovf:capacity="1"/>',
        items:
          item(fields) + item({ InstanceID: 2, ResourceType: 17, Parent: 1, HostResource: 'ovf:/disk/d' }),
      }),
    );
    t.equal(p.systems[0]?.disks[0]?.bus, bus, JSON.stringify(fields));
  }
  for (const model of ['E1000', 'e1000e', 'VMXNET3', 'Vmxnet2', 'virtio', 'PCNet32'])
    t.match(read(packageOf({ items: item({ ResourceType: 10, ResourceSubType: model }) })).systems[0]?.nics, [
      { model: model.toLowerCase(), network: null },
    ]);
  t.match(
    read(packageOf({ items: item({ ResourceType: 10, VirtualQuantity: 3, Connection: 'n' }) })).systems[0]
      ?.nics,
    { length: 3 },
  );
  for (const ref of ['ovf:/disk/d', '/disk/d', 'ovf://disk/d', 'disk/d', 'd'])
    t.equal(
      read(
        packageOf({
          disks: '<Disk ovf:diskId="d" ovf:capacity="7"/>',
          items: item({ ResourceType: 17, HostResource: ref }),
        }),
      ).systems[0]?.disks[0]?.capacityBytes,
      7,
      ref,
    );
  t.end();
});

void t.test('units of sizes', (t) => {
  const known: Record<string, number> = {
    byte: 1,
    bytes: 1,
    'byte * 2^20': 2 ** 20,
    'byte * 2 ^ 30': 2 ** 30,
    'byte*2^40': 2 ** 40,
    'byte*1024*1024': 2 ** 20,
    'byte * 10^9': 1e9,
    MegaBytes: 2 ** 20,
    MB: 2 ** 20,
    GigaBytes: 2 ** 30,
    GB: 2 ** 30,
    KiB: 1024,
    KiloBytes: 1024,
  };
  for (const [text, bytes] of Object.entries(known)) t.equal(unitBytes(text), bytes, text);
  for (const text of ['', 'hertz * 10^6', 'byte * 2^999', 'byte * x', 'byte ^ 2', 'megahertz', 'byte * 0'])
    t.equal(unitBytes(text), null, text);
  const memory = (n: number): unknown =>
    read(packageOf({ items: item({ ResourceType: 4, VirtualQuantity: n }) })).systems[0]?.memoryMiB;
  t.equal(memory(512), 512, 'without a unit: what makes sense');
  t.equal(memory(2 ** 21), 2048);
  t.equal(memory(2 ** 30), 1024);
  t.end();
});

void t.test('what products do otherwise is read, with a remark', (t) => {
  const warned = (source: string): string[] => read(source).warnings.map((w) => w.text);
  t.match(warned(packageOf({ items: item({ ResourceType: 3 }) })), [/without VirtualQuantity counts as one/]);
  t.match(warned(packageOf({ items: item({ ResourceType: 4, VirtualQuantity: 512 }) })), [
    /memory without a unit: read as MiB/,
  ]);
  t.match(warned(packageOf({ items: item({ ResourceType: 10, Connection: 'lost' }) })), [
    /network "lost", which no NetworkSection describes/,
  ]);
  t.match(warned(packageOf({ items: item({ ResourceType: 17, HostResource: 'elsewhere', Parent: 9 }) })), [
    /no disk in the package/,
    /controller 9, which there is not/,
  ]);
  t.match(
    warned(packageOf({ items: item({ ResourceType: 3, VirtualQuantity: 1 }, 'ovf:configuration="none"') })),
    [/no deployment option "none"/],
  );
  t.match(warned(packageOf({ files: '<File ovf:id="f" ovf:href="https://example.org/d.vmdk"/>' })), [
    /fetched from elsewhere/,
  ]);
  t.match(
    warned(
      packageOf({
        sections:
          '<ProductSection><Info/><Property ovf:key="a" ovf:type="uint8" ovf:value="300"/><Property ovf:key="b" ovf:type="odd"/><Property ovf:key="c"/></ProductSection>',
      }),
    ),
    [/type uint8, and its default "300" is not/, /type "odd", which is not known/, /has no type/],
  );
  const twice = packageOf({}).replace('</VirtualSystem>', '</VirtualSystem><VirtualSystem ovf:id="b"/>');
  t.match(warned(twice), [/2 systems stand beside each other/, /says nothing of its hardware/]);
  const both = packageOf({ items: item({ ResourceType: 3, VirtualQuantity: 1 }) }).replace(
    '<VirtualHardwareSection>',
    '<VirtualHardwareSection><Info/><System><VirtualSystemType>xen-3</VirtualSystemType></System></VirtualHardwareSection><VirtualHardwareSection><Info/><System><VirtualSystemType>kvm</VirtualSystemType></System>',
  );
  t.match(read(both).systems, [{ families: ['kvm'], cpus: 1 }]);
  const same = fixture('three-tier.ovf')
    .replace('ovf:id="tiers">', 'ovf:id="web">')
    .replace('"tiers"', '"web"');
  t.match(
    read(same).systems[2],
    { id: 'web', collection: 'web-2' },
    'a collection with the id of a system in it',
  );
  t.strictSame(
    read(same).startOrder.map((x) => x.id),
    ['database', 'web-2', 'application', 'web'],
  );
  const nameless = fixture('three-tier.ovf').replace('Collection ovf:id="shop"', 'Collection');
  t.match(read(nameless).systems[0], { collection: 'collection' });
  const speed =
    item({ ResourceType: 3, VirtualQuantity: 2 }) +
    item({ ResourceType: 3, ResourceSubType: 'cpuspeed', Reservation: 2000 });
  t.match(read(packageOf({ items: speed })).systems[0], { cpus: 2, cpuAllocation: { reservation: 2000 } });
  t.end();
});
