import t from 'tap';
import { planImport, type ImportChoices } from '../../../../core/ovf/plan.js';
import { fixture, item, packageOf, read } from './read.js';

const GiB = 2 ** 30;

const choices = (o: Partial<ImportChoices> = {}): ImportChoices => ({
  networks: new Map([
    ['front', 'lan'],
    ['back', 'inner'],
  ]),
  prefix: '',
  present: new Set(['base', 'data', 'large', 'tools', 'f']),
  tag: 'ovf-1',
  ...o,
});

void t.test('three tiers become three VMs, in their order', (t) => {
  const p = read(fixture('three-tier.ovf'), {
    values: new Map([
      ['org.example.shop.title', 'Bär & "Söhne"'],
      ['org.example.shop.admin', 's3cret'],
    ]),
  });
  const plan = planImport(p, choices({ prefix: 'test-', pool: 'fast' }));
  t.strictSame(plan.refusals, []);
  t.strictSame(
    plan.images.map((i) => [i.file, i.name, i.iso]),
    [
      ['base', 'test-Shop-base', false],
      ['data', 'test-Shop-data-20disk', false],
      ['large', 'test-Shop-large', false],
      ['tools', 'test-Shop-tools', true],
    ],
  );
  t.strictSame(plan.stages, [
    { vms: ['test-Database'], waitForGuest: true, delayS: 120 },
    { vms: ['test-application'], waitForGuest: false, delayS: 0 },
  ]);
  const [database, application, web] = plan.vms;
  t.match(database, {
    system: 'database',
    body: {
      name: 'test-Database',
      cpus: 2,
      memoryMiB: 2048,
      tags: ['ovf-1'],
      disks: [
        { name: 'disk1', bus: 'scsi', pool: 'fast', sizeBytes: 8 * GiB, image: 'test-Shop-base' },
        { name: 'disk2', bus: 'scsi', sizeBytes: 20 * GiB, image: 'test-Shop-data-20disk' },
      ],
      nics: [{ network: 'inner', model: 'virtio' }],
    },
    changes: ['NIC: vmxnet3 becomes virtio'],
  });
  t.match(application, {
    body: {
      disks: [{ bus: 'sata', sizeBytes: GiB }],
      cdroms: [{ image: 'test-Shop-tools' }],
      nics: [
        { network: 'inner', model: 'e1000e' },
        { network: 'lan', model: 'e1000e' },
      ],
      ha: { after: ['test-Database'] },
    },
  });
  t.match(web, { body: { firmware: 'uefi', disks: [{ bus: 'sata', sizeBytes: GiB / 2 }] } });
  t.equal(web?.body.disks[0]?.image, undefined, 'an empty disk');
  t.strictSame(web?.changes, [
    'disk "Scratch": vmware.nvme.controller becomes sata',
    'NIC: vmxnet3 becomes e1000e',
    'NIC: it gets a MAC address of the cluster',
    'its TPM is left out: what is sealed in one does not come along',
    'secure boot is off',
  ]);
  const environment = database?.body.cloudInit?.ovfEnvironment ?? '';
  t.match(environment, '<Property oe:key="org.example.db.port.main" oe:value="5432"/>');
  t.match(environment, '<Property oe:key="org.example.shop.title" oe:value="Bär &amp; &quot;Söhne&quot;"/>');
  t.match(environment, '<Property oe:key="org.example.shop.admin" oe:value="s3cret"/>');
  t.ok(
    environment.indexOf('org.example.db') < environment.indexOf('org.example.shop'),
    'its own stand first',
  );
  t.equal(application?.body.cloudInit, undefined, 'a system that takes none is told none');
  t.end();
});

void t.test('VMs are made in the order they start, whatever the order they stand in', (t) => {
  const systems = ['c', 'b', 'a', 'd'].map((id) => `<VirtualSystem ovf:id="${id}"/>`).join('');
  const order = ['a', 'b', 'c'].map((id, i) => `<Item ovf:id="${id}" ovf:order="${i + 1}"/>`).join('');
  const source = packageOf({}).replace(
    /<VirtualSystem[\s\S]*VirtualSystem>/,
    `<VirtualSystemCollection ovf:id="all"><Info/><StartupSection><Info/>${order}</StartupSection>${systems}</VirtualSystemCollection>`,
  );
  const plan = planImport(read(source), choices());
  t.strictSame(
    plan.stages.map((x) => x.vms),
    [['d'], ['a'], ['b'], ['c']],
  );
  const made = new Set<string>();
  for (const { body } of plan.vms) {
    for (const before of body.ha?.after ?? [])
      t.ok(made.has(before), `${before} is there before ${body.name}`);
    made.add(body.name);
  }
  t.equal(made.size, 4);
  t.end();
});

void t.test('what cloud images ask for is told by cloud-init’s own seed', (t) => {
  const properties = ['instance-id', 'hostname', 'public-keys', 'user-data']
    .map((key) => `<Property ovf:key="${key}" ovf:type="string" ovf:userConfigurable="true" ovf:value=""/>`)
    .join('');
  const told = (values: Record<string, string>): unknown =>
    planImport(
      read(packageOf({ system: `<ProductSection><Info/>${properties}</ProductSection>` }), {
        values: new Map(Object.entries(values)),
      }),
      choices(),
    ).vms[0]?.body.cloudInit;
  t.match(
    told({ hostname: 'web-1', 'public-keys': 'ssh-ed25519 AAAA ann', 'user-data': btoa('#cloud-config\n') }),
    {
      hostname: 'web-1',
      sshKeys: ['ssh-ed25519 AAAA ann'],
      userData: '#cloud-config\n',
      ovfEnvironment: /oe:key="hostname" oe:value="web-1"/,
    },
  );
  t.match(told({ hostname: 'not a host', 'user-data': '#!/bin/sh' }), {
    hostname: undefined,
    userData: '#!/bin/sh',
  });
  t.strictSame(Object.keys(told({}) as object), ['ovfEnvironment']);
  t.end();
});

void t.test('what cannot be imported, all reasons at once', (t) => {
  const p = read(fixture('three-tier.ovf'));
  t.match(
    planImport(p, choices({ networks: new Map([['back', null]]), present: new Set(['base']) })).refusals,
    [
      /"data%20disk\.img\.gz" is not here/,
      /"large\.vmdk" is not here/,
      /"tools\.iso" is not here/,
      /^say which network "front" is/,
    ],
  );
  const of = (o: Parameters<typeof packageOf>[0]): readonly string[] =>
    planImport(read(packageOf(o)), choices()).refusals;
  const disk = item({ ResourceType: 17, HostResource: 'ovf:/disk/d' });
  const file = '<File ovf:id="f" ovf:href="d.vmdk"/>';
  t.match(
    of({
      files: file,
      disks:
        '<Disk ovf:diskId="b" ovf:capacity="1"/><Disk ovf:diskId="d" ovf:capacity="1" ovf:fileRef="f" ovf:parentRef="b"/>',
      items: disk,
    }),
    [/only what differs from another disk/],
  );
  t.match(
    of({
      files: file.replace('d.vmdk', 'd.vdi'),
      disks: '<Disk ovf:diskId="d" ovf:capacity="1" ovf:fileRef="f"/>',
      items: disk,
    }),
    [/is a vdi/],
  );
  t.match(
    of({
      files: file.replace('d.vmdk', 'https://example.org/d.vmdk'),
      disks: '<Disk ovf:diskId="d" ovf:capacity="1" ovf:fileRef="f"/>',
      items: disk,
    }),
    [/fetched from elsewhere/],
  );
  const many = Array.from({ length: 25 }, (_, i) =>
    item({ InstanceID: i, ResourceType: 17, HostResource: 'ovf:/disk/d' }),
  );
  t.match(of({ disks: '<Disk ovf:diskId="d" ovf:capacity="1"/>', items: many.join('') }), [
    /25 disks, and a VM at most 24/,
  ]);
  t.match(of({ items: item({ ResourceType: 17 }) }), [/disk "x" has no size/]);
  const long = 'v'.repeat(17_000);
  t.match(
    of({
      system: `<ProductSection><Info/><Property ovf:key="k" ovf:type="string" ovf:value="${long}"/></ProductSection>`,
    }),
    [/its properties are too long/],
  );
  t.end();
});

void t.test('hardware by what the guest is known to have drivers for', (t) => {
  const of = (os: string, subType: string, type = 6): unknown => {
    const source = packageOf({
      disks: '<Disk ovf:diskId="d" ovf:capacity="1000"/>',
      items:
        item({ ResourceType: type, ResourceSubType: subType }) +
        item({ InstanceID: 2, ResourceType: 17, Parent: 1, HostResource: 'ovf:/disk/d' }),
      system: `<OperatingSystemSection ovf:id="1"><Info/><Description>${os}</Description></OperatingSystemSection>`,
    });
    const [vm] = planImport(read(source), choices()).vms;
    return [vm?.body.disks[0]?.bus, vm?.body.disks[0]?.sizeBytes];
  };
  t.strictSame(of('Debian GNU/Linux', 'lsilogic'), ['scsi', 1024]);
  t.strictSame(of('Debian GNU/Linux', 'AHCI', 20), ['sata', 1024]);
  t.strictSame(of('Debian GNU/Linux', 'PIIX4', 5), ['sata', 1024]);
  t.strictSame(of('Debian GNU/Linux', 'NVMe', 20), ['virtio', 1024]);
  t.strictSame(of('Microsoft Windows Server 2022', 'lsilogicsas'), ['sata', 1024]);
  t.strictSame(of('Windows Subsystem for Linux', 'lsilogicsas'), ['sata', 1024]);
  t.strictSame(of('Something', 'virtio'), ['scsi', 1024]);
  const [vm] = planImport(read(packageOf({})), choices()).vms;
  t.match(vm, {
    body: { cpus: 1, memoryMiB: 1024 },
    changes: [/nothing is said of CPUs: 1/, /1024 are given/],
  });
  t.end();
});

void t.test('values that a person gives', (t) => {
  const source = fixture('three-tier.ovf');
  const given = (id: string, value: string) => () => read(source, { values: new Map([[id, value]]) });
  t.throws(given('org.example.nothing', 'x'), {
    message: /there is no property "org\.example\.nothing"/,
    hint: /It asks for: org\.example\.shop\.title, org\.example\.shop\.admin, org\.example\.db\.port\.main/,
  });
  t.throws(given('org.example.db.port.main', 'http'), { message: /got a value that is not of its type/ });
  t.throws(given('org.example.shop.records.size', '5'), { message: /is not one to be set/ });
  t.throws(given('org.example.shop.title', 'x'.repeat(20_000)), { message: /overlong/ });
  const own = source.replace(
    'ovf:type="uint16" ovf:value="20"',
    'ovf:type="uint16" ovf:userConfigurable="true"',
  );
  t.match(planImport(read(own), choices()).refusals, []);
  const p = read(own, { values: new Map([['org.example.shop.records.size', '33']]) });
  t.equal(p.disks[1]?.capacityBytes, 33 * GiB, 'a size may be a value');
  t.end();
});

void t.test('a disk that is said to be outside of the package is not imported', (t) => {
  const p = read(
    packageOf({
      files: '<File ovf:id="f" ovf:href="../disks/a.vmdk"/>',
      disks: '<Disk ovf:diskId="d" ovf:capacity="1073741824" ovf:fileRef="f"/>',
      items: item({ ResourceType: 17, HostResource: 'ovf:/disk/d' }),
    }),
  );
  t.strictSame(planImport(p, choices()).refusals, [
    '"../disks/a.vmdk" is outside of the package: put it beside the descriptor, and write its name so there',
  ]);
  t.end();
});

void t.test('a disk with an address is fetched only where that is allowed, and only as it is', (t) => {
  const plan = (file: string, fetch: boolean) =>
    planImport(
      read(
        packageOf({
          files: `<File ovf:id="f" ${file}/>`,
          disks: '<Disk ovf:diskId="d" ovf:capacity="1073741824" ovf:fileRef="f"/>',
          items: item({ ResourceType: 17, HostResource: 'ovf:/disk/d' }),
        }),
      ),
      { ...choices(), present: new Set(), fetch },
    );
  const href = 'ovf:href="https://example.org/disk.vmdk"';
  t.match(plan(href, false).refusals, [/is to be fetched from elsewhere: allow it \(--allow-fetch\)/]);
  t.strictSame(plan(href, true).refusals, []);
  t.match(plan(href, true).images, [{ file: 'f', name: 'vm-disk', iso: false }]);
  t.match(plan(`${href} ovf:compression="gzip"`, true).refusals, [/is not fetched/]);
  t.match(plan(`${href} ovf:chunkSize="100"`, true).refusals, [/is not fetched/]);
  t.match(plan('ovf:href="ftp://example.org/disk.vmdk"', true).refusals, [/is not fetched/]);
  t.end();
});
