import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { decodeXml, readXml } from '../../../../agent/ovf/xml-reader.js';
import { readEnvelope } from '../../../../core/ovf/envelope.js';
import type { OvfPackage } from '../../../../core/ovf/model.js';
import { planImport } from '../../../../core/ovf/plan.js';

/** Descriptors written for these tests in the way of each producer, with all that it does otherwise than the standard. */

const dir = 'test/fixtures/ovf/producers';
const GiB = 2 ** 30;

function readFile(name: string, o: { configuration?: string } = {}): OvfPackage {
  const source = decodeXml(readFileSync(path.join(dir, name)), name);
  return readEnvelope(readXml(source, name), { file: name, source, ...o });
}

const expected: Record<string, (p: OvfPackage, t: Test) => void> = {
  'ovftool-vapp.ovf': (p, t) => {
    t.match(p.collections, [
      {
        id: 'Books',
        cpuAllocation: { reservation: 1000, limit: 8000, weight: 4000 },
        memoryAllocation: { reservation: 4096 },
      },
    ]);
    t.match(p.systems, [
      {
        id: 'ledger',
        cpus: 4,
        coresPerSocket: 2,
        memoryMiB: 8192,
        firmware: 'uefi',
        secureBoot: true,
        tpm: true,
        disks: [
          { disk: 'vmdisk1', bus: 'scsi', controller: 'VirtualSCSI', capacityBytes: 40 * GiB },
          { disk: 'vmdisk2', bus: 'nvme', capacityBytes: 100 * GiB, file: null },
        ],
        nics: [{ model: 'vmxnet3', network: 'DPG-Prod' }],
      },
      {
        id: 'front',
        cpus: 2,
        memoryMiB: 4096,
        annotation: 'Faces the customers',
        disks: [{ bus: 'scsi', controller: 'lsilogicsas' }],
        drives: [{ kind: 'cdrom', bus: 'sata', file: null }],
        nics: [{ model: 'e1000', network: 'VM Network' }],
      },
    ]);
    t.match(p.startOrder, [
      { id: 'ledger', order: 1, startDelayS: 120, waitForGuest: true, stopAction: 'guestShutdown' },
      { id: 'front', order: 2, startDelayS: 60 },
    ]);
    t.strictSame(
      p.kept.map((k) => k.name),
      ['StorageGroupSection', 'IpAssignmentSection', 'BootOrderSection'],
    );
  },
  'virtualbox-1.ovf': (p, t) => {
    t.match(p.systems, [
      {
        id: 'Übung',
        cpus: 2,
        memoryMiB: 2048,
        firmware: 'uefi',
        tpm: true,
        os: { id: 96, type: 'Debian_64' },
        annotation: 'For lessons',
        disks: [{ disk: 'vmdisk1', bus: 'sata', capacityBytes: 20 * GiB }],
        drives: [{ kind: 'cdrom', bus: 'ide', file: 'file2' }],
        nics: [
          { network: 'NAT', model: 'e1000' },
          { network: 'HostOnly', model: 'virtio' },
        ],
      },
    ]);
    t.match(p.disks[1], { format: 'iso', capacityBytes: null });
    t.strictSame(p.eulas, [{ owner: 'Übung', text: 'Use it for lessons.' }]);
  },
  'xenserver.ovf': (p, t) => {
    t.match(p.systems, [
      {
        name: 'mail',
        cpus: 1,
        memoryMiB: 512,
        families: ['hvm-3.0-unknown'],
        disks: [{ capacityBytes: 8 * GiB }],
        nics: [{ network: 'Pool-wide network associated with eth0', mac: null }],
        others: [],
      },
    ]);
    t.match(p.disks, [{ format: 'vhd' }]);
    t.strictSame(
      p.kept.map((k) => k.name),
      ['StartupOptionsSection'],
    );
  },
  'rhev.ovf': (p, t) => {
    t.match(p.systems, [
      {
        name: 'rhel-one',
        cpus: 2,
        memoryMiB: 4096,
        firmware: 'bios',
        os: { id: null, description: 'rhel_8x64' },
        disks: [{ capacityBytes: 10 * GiB, file: '1b1b0000-0000-4000-8000-000000000002' }],
        nics: [{ network: 'ovirtmgmt', model: 'virtio', mac: '56:6f:11:22:00:01' }],
        drives: [{ kind: 'cdrom' }],
      },
    ]);
    t.match(p.disks, [{ format: 'qcow2', parent: null }]);
  },
  'network-appliance.ovf': (p, t) => {
    t.match(p, { configuration: 'small-1' });
    t.match(p.systems, [
      {
        name: 'Router 9',
        cpus: 1,
        memoryMiB: 4096,
        transports: ['iso'],
        families: ['vmx-10', 'vmx-11', 'vmx-13'],
        disks: [{ bus: 'scsi', controller: 'VirtualSCSI' }],
        drives: [{ file: 'file2', bus: 'ide' }],
        nics: [
          { model: 'vmxnet3', network: 'Management0-0' },
          { model: 'vmxnet3', network: 'Outside0-0' },
        ],
      },
    ]);
    t.match(p.deploymentOptions, [
      { id: 'small-1', default: true },
      { id: 'large-4', systems: [{ cpus: 4, memoryMiB: 8192 }] },
    ]);
    t.strictSame(
      p.properties.map((x) => [x.id, x.type, x.userConfigurable, x.secret, x.category]),
      [
        ['org.example.router.hostname.1', 'string', true, false, '1. Bootstrap'],
        ['org.example.router.login-password.1', 'string', true, true, '1. Bootstrap'],
        ['org.example.router.mgmt-addr.1', 'string', true, false, '1. Bootstrap'],
        ['org.example.router.ssh.1', 'boolean', true, false, '2. Features'],
        ['org.example.router.level.1', 'string', true, false, '2. Features'],
        ['org.example.router.config-version.1', 'string', false, false, '2. Features'],
      ],
    );
    t.match(p.eulas, [{ text: '(in the file file3)' }], 'a licence of which the text is elsewhere');
    const large = readFile('network-appliance.ovf', { configuration: 'large-4' });
    t.match(large.systems, [{ cpus: 4, memoryMiB: 8192 }]);
    t.equal(large.properties[4]?.default, 'security');
  },
  'cloud-image.ovf': (p, t) => {
    t.match(p.systems, [
      {
        cpus: 2,
        memoryMiB: 1024,
        os: { id: 94, type: 'ubuntu64Guest' },
        drives: [{ kind: 'cdrom' }, { kind: 'floppy' }],
        transports: ['iso'],
      },
    ]);
    t.equal(p.properties.length, 6);
  },
  'cloud-director.ovf': (p, t) => {
    t.match(p.systems, [
      {
        id: 'one',
        collection: 'lab',
        cpus: 2,
        memoryMiB: 4096,
        transports: [],
        disks: [{ capacityBytes: 16 * GiB, bus: 'scsi' }],
        nics: [{ network: 'Internal', mac: '00:50:56:01:00:0a', model: 'vmxnet3' }],
      },
    ]);
    t.equal(p.kept.length, 3);
  },
  'dotnet-writer.ovf': (p, t) => {
    t.match(p.systems, [
      {
        id: 'büro',
        line: 8,
        cpus: 2,
        memoryMiB: 2048,
        disks: [{ bus: 'ide', capacityBytes: 40 * GiB }],
        nics: [{ network: 'Büro' }],
      },
    ]);
    t.match(p.disks, [{ format: 'vhdx' }]);
  },
};

for (const [name, check] of Object.entries(expected))
  void t.test(name, (t) => {
    const p = readFile(name);
    check(p, t);
    const plan = planImport(p, {
      networks: new Map(p.networks.map((n) => [n.name, n.name])),
      prefix: '',
      present: new Set(p.files.map((f) => f.id)),
      tag: 'x',
    });
    t.strictSame(plan.refusals, [], 'and it can be imported');
    t.equal(plan.vms.length, p.systems.length);
    t.end();
  });

void t.test('each of the descriptors has its test', (t) => {
  t.strictSame(readdirSync(dir).sort(), Object.keys(expected).sort());
  t.end();
});
