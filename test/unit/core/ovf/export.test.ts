import t from 'tap';
import { descriptorOf, fileNameOf, type ExportedVm } from '../../../../core/ovf/export.js';
import { planImport } from '../../../../core/ovf/plan.js';
import { read } from './read.js';

/** What is exported is imported as the same VM, and needs no change of its hardware. */

const vm = (o: Partial<ExportedVm['spec']> = {}): ExportedVm => ({
  spec: {
    name: 'Shop <1> & "co"',
    note: 'line 1\nline 2 <b>',
    cpus: 3,
    memoryMiB: 1536,
    firmware: 'uefi',
    cdroms: [{ image: null }],
    ...o,
  },
  disks: (['virtio', 'scsi', 'sata', 'virtio'] as const).map((bus, i) => ({
    bus,
    name: `disk${i + 1}`,
    capacityBytes: (i + 1) * 1024 * 1024 * 3,
    href: `Shop-disk${i + 1}.vmdk`,
    storedBytes: 1000 + i,
  })),
  nics: [
    { network: 'front & back', model: 'virtio' },
    { network: 'inner', model: 'e1000e' },
    { network: 'inner', model: 'virtio' },
  ],
});

const imported = (v: ExportedVm): ReturnType<typeof planImport> => {
  const p = read(descriptorOf(v));
  return planImport(p, {
    networks: new Map(p.networks.map((n) => [n.name, n.name])),
    prefix: '',
    present: new Set(p.files.map((f) => f.id)),
    tag: 'x',
  });
};

void t.test('a round trip changes nothing', (t) => {
  for (const firmware of ['bios', 'uefi'] as const) {
    const v = vm({ firmware });
    const plan = imported(v);
    t.strictSame(plan.refusals, []);
    const [made] = plan.vms;
    t.strictSame(made?.changes, [], 'no hardware is replaced');
    t.match(made?.body, {
      name: 'Shop -1- - -co',
      note: v.spec.note,
      cpus: 3,
      memoryMiB: 1536,
      firmware,
      cdroms: [{ image: null }],
      nics: v.nics,
    });
    t.strictSame(
      made?.body.disks.map((d) => [d.bus, d.sizeBytes]),
      v.disks.map((d) => [d.bus, d.capacityBytes]),
    );
    t.strictSame(read(descriptorOf(v)).warnings, [], 'nor is there anything to warn of');
  }
  t.end();
});

void t.test('a VM without disks, networks and notes', (t) => {
  const v: ExportedVm = { ...vm({ note: '', cdroms: [] }), disks: [], nics: [] };
  const plan = imported(v);
  t.strictSame([plan.refusals, plan.vms[0]?.changes], [[], []]);
  t.match(plan.vms[0]?.body, { note: '', disks: [], nics: [], cdroms: [] });
  t.end();
});

void t.test('names of files', (t) => {
  t.equal(fileNameOf('../../etc/passwd'), 'etc-passwd');
  t.match(fileNameOf('Größe 1'), /^[A-Za-z0-9._-]+$/);
  t.equal(fileNameOf('...'), 'vm');
  t.equal(fileNameOf('a'.repeat(200)).length, 60);
  t.end();
});
