import { readdirSync } from 'node:fs';
import t, { type Test } from 'tap';
import { environmentOf } from '../../../../core/ovf/environment.js';
import type { OvfPackage } from '../../../../core/ovf/model.js';
import { planImport, type ImportPlan } from '../../../../core/ovf/plan.js';
import { fixture, read } from './read.js';

/** One descriptor for each construct of OVF: what is understood of it, and what an import makes of it. */

const GiB = 2 ** 30;
const load = (name: string, o: Parameters<typeof read>[1] = {}): OvfPackage =>
  read(fixture(`constructs/${name}.ovf`), o);

const planOf = (p: OvfPackage): ImportPlan =>
  planImport(p, {
    networks: new Map(p.networks.map((n) => [n.name, n.name])),
    prefix: '',
    present: new Set(p.files.filter((f) => !f.remote).map((f) => f.id)),
    tag: 'x',
  });

/** That the only disk of a package hangs on `bus`, of which an import makes `becomes`, saying `change`. */
const onBus = (bus: string, becomes: string, changes: RegExp[]) => (p: OvfPackage, t: Test) => {
  t.match(p.systems[0]?.disks, [{ bus, disk: 'd', unit: 0, capacityBytes: 4 * GiB }]);
  const plan = planOf(p);
  t.match(plan.vms[0]?.body.disks, [{ bus: becomes, sizeBytes: 4 * GiB }]);
  t.match(plan.vms[0]?.changes, changes);
  t.equal(plan.vms[0]?.changes.length, changes.length);
};
const nicOf = (model: string, becomes: string, changes: RegExp[]) => (p: OvfPackage, t: Test) => {
  t.match(p.systems[0]?.nics, [{ model, network: 'lan' }]);
  const plan = planOf(p);
  t.match(plan.vms[0]?.body.nics, [{ model: becomes, network: 'lan' }]);
  t.match(plan.vms[0]?.changes, changes);
};
const formatOf = (format: string) => (p: OvfPackage, t: Test) => {
  t.match(p.disks, [{ format, capacityBytes: 4 * GiB }]);
  t.strictSame(planOf(p).refusals, []);
  t.match(planOf(p).images, [{ file: 'f', iso: false, name: 'vm-disk' }]);
};
const ofVersion = (version: string, text: string) => (p: OvfPackage, t: Test) => {
  t.match(p, { version, versionText: text, systems: [{ id: 'vm', cpus: 2, memoryMiB: 1024 }] });
};

const constructs: Record<string, (p: OvfPackage, t: Test) => void> = {
  'version-1.0': ofVersion('1', '1.0'),
  'version-1.1': ofVersion('1', '1.1.0'),
  'version-2.0': (p, t) => {
    ofVersion('2', '2.0')(p, t);
    t.match(p.systems[0], {
      disks: [{ disk: 'd', bus: 'sata' }],
      nics: [{ network: 'lan', model: 'e1000', mac: '52-54-00-00-00-01' }],
    });
  },
  'virtual-system': (p, t) => {
    t.match(p, { id: 'alone', collections: [], systems: [{ id: 'alone', collection: null }] });
  },
  'collections-nested': (p, t) => {
    t.strictSame(
      p.collections.map((c) => [c.id, c.name, c.collection]),
      [
        ['whole', 'The whole', null],
        ['inner', 'inner', 'whole'],
        ['innermost', 'innermost', 'inner'],
      ],
    );
    t.strictSame(
      p.systems.map((s) => [s.id, s.collection]),
      [
        ['a', 'whole'],
        ['b', 'inner'],
        ['c', 'innermost'],
      ],
    );
  },
  'references-chunked': (p, t) => {
    t.match(p.files, [{ chunkBytes: 1000, sizeBytes: 2500, compression: null }]);
  },
  'references-gzip': (p, t) => {
    t.match(p.files, [{ compression: 'gzip', chunkBytes: null }]);
    t.match(p.disks, [{ format: 'vmdk' }]);
    t.match(planOf(p).images, [{ name: 'vm-disk' }]);
  },
  'references-url': (p, t) => {
    t.match(p.files, [{ remote: true, href: 'https://example.org/disk.vmdk' }]);
    t.match(p.warnings, [{ line: 4, text: /fetched from elsewhere/ }]);
    t.match(planOf(p).refusals, [/"https:\/\/example\.org\/disk\.vmdk" is to be fetched from elsewhere/]);
  },
  disk: (p, t) => {
    t.match(p.disks, [
      { id: 'd', file: 'f', capacityBytes: 4 * GiB, parent: null, format: 'vmdk' },
      { id: 'empty', file: null, capacityBytes: GiB },
      { id: 'child', parent: 'd', populatedBytes: 100 },
    ]);
    t.match(planOf(p).refusals, [/differs from another disk/]);
  },
  network: (p, t) => {
    t.strictSame(p.networks, [
      { name: 'lan', description: 'Where all are' },
      { name: 'dmz', description: '' },
    ]);
    t.strictSame(
      p.systems[0]?.nics.map((n) => n.network),
      ['lan', 'dmz'],
    );
    const unnamed = planImport(p, { networks: new Map(), prefix: '', present: new Set(), tag: 'x' });
    t.match(unnamed.refusals, [/say which network "lan" is/, /say which network "dmz" is/]);
  },
  startup: (p, t) => {
    t.match(p.startOrder, [
      { id: 'db', order: 1, startDelayS: 300, waitForGuest: true, stopAction: 'powerOff' },
      { id: 'web', order: 2, startDelayS: 10, stopDelayS: 20, stopAction: 'guestShutdown' },
      { id: 'spare', order: 3, startAction: 'none' },
    ]);
    t.strictSame(planOf(p).stages, [
      { vms: ['db'], waitForGuest: true, delayS: 300 },
      { vms: ['web'], waitForGuest: false, delayS: 10 },
    ]);
  },
  'product-properties': (p, t) => {
    t.match(p.products, [{ name: 'Shop', vendor: 'Example', version: '3', class: 'org.example' }]);
    t.match(p.properties, [
      {
        id: 'org.example.port.1',
        type: 'uint16',
        default: '8080',
        userConfigurable: true,
        category: 'Network',
        label: 'Port',
      },
      { id: 'org.example.password.1', secret: true, default: null, qualifiers: 'MinLen(8)' },
      { id: 'org.example.debug.1', type: 'boolean', userConfigurable: false },
    ]);
    const [system] = p.systems;
    if (system === undefined) return;
    t.match(environmentOf(p, system), /oe:key="org\.example\.port\.1" oe:value="8080"/);
    const body = planOf(p).vms[0]?.body;
    t.match(body?.cloudInit?.ovfEnvironment, /org\.example\.debug\.1/, 'told by ISO and NoCloud');
  },
  'deployment-option': (p, t) => {
    t.match(p, { configuration: 'l', systems: [{ memoryMiB: 4096 }] });
    t.match(p.deploymentOptions, [
      { id: 's', label: 'Small', default: false, systems: [{ memoryMiB: 1024 }] },
      { id: 'l', label: 'Large', default: true, systems: [{ memoryMiB: 4096 }] },
    ]);
    t.match(load('deployment-option', { configuration: 's' }).systems, [{ memoryMiB: 1024 }]);
  },
  eula: (p, t) => {
    t.strictSame(p.eulas, [{ owner: 'vm', text: 'Use it.' }]);
    t.strictSame(load('eula', { language: 'de-DE' }).eulas, [{ owner: 'vm', text: 'Benutzt es.' }]);
  },
  annotation: (p, t) => {
    t.match(p.systems, [{ annotation: 'Two lines:\nthis is the second & last.' }]);
    t.match(planOf(p).vms, [{ body: { note: 'Two lines:\nthis is the second & last.' } }]);
  },
  'operating-system': (p, t) => {
    t.match(p.systems[0]?.os, {
      id: 103,
      version: '2022',
      type: 'windows2022srv_64Guest',
      description: 'Windows Server 2022',
    });
    t.match(planOf(p).vms[0]?.body.disks, [{ bus: 'sata' }], 'for which such a guest has drivers');
  },
  'hardware-ide': onBus('ide', 'sata', [/PIIX4 becomes sata/]),
  'hardware-sata': onBus('sata', 'sata', []),
  'hardware-scsi': onBus('scsi', 'scsi', [/lsilogicsas becomes virtio-scsi/]),
  'hardware-nvme': onBus('nvme', 'virtio', [/nvme.* becomes virtio/]),
  'hardware-e1000': nicOf('e1000', 'e1000e', [/e1000 becomes e1000e/]),
  'hardware-vmxnet3': nicOf('vmxnet3', 'virtio', [/vmxnet3 becomes virtio/]),
  'hardware-uefi': (p, t) => {
    t.match(p.systems, [{ firmware: 'uefi', secureBoot: true }]);
    t.match(planOf(p).vms, [{ body: { firmware: 'uefi' }, changes: [/secure boot is off/] }]);
  },
  'hardware-tpm': (p, t) => {
    t.match(p.systems, [{ tpm: true, others: [] }]);
    t.match(planOf(p).vms, [{ changes: [/TPM is left out/] }]);
  },
  'format-vmdk': formatOf('vmdk'),
  'format-vhd': formatOf('vhd'),
  'format-qcow2': formatOf('qcow2'),
  'format-raw': formatOf('raw'),
  'section-optional': (p, t) => {
    t.match(p.kept, [{ name: 'LicenceServerSection', namespace: 'http://example.org/odd', line: 6 }]);
    t.match(p.kept[0]?.xml, /<o:Server port="1"\/>/);
    t.match(p.warnings, [{ line: 6, text: /<LicenceServerSection> is kept/ }]);
  },
  'resource-allocation': (p, t) => {
    t.match(p.collections, [
      {
        cpuAllocation: { reservation: 1000, limit: 4000, weight: null },
        memoryAllocation: { reservation: null, limit: 8192, weight: 1000 },
      },
    ]);
  },
};

for (const [name, check] of Object.entries(constructs))
  void t.test(name, (t) => {
    check(load(name), t);
    t.end();
  });

void t.test('section-required', (t) => {
  t.throws(() => load('section-required'), {
    code: 'bad-input',
    message:
      'x.ovf line 6: the section <LicenceServerSection> of http://example.org/odd is required, and Flotilla does not know it',
  });
  t.end();
});

void t.test('each descriptor has its test', (t) => {
  t.strictSame(
    readdirSync('test/fixtures/ovf/constructs')
      .map((f) => f.replace(/\.ovf$/, ''))
      .sort(),
    [...Object.keys(constructs), 'section-required'].sort(),
  );
  t.end();
});
