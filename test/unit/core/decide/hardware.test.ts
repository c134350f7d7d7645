import fc from 'fast-check';
import t from 'tap';
import { diffHardware, type HotStep } from '../../../../core/decide/hardware.js';
import type { Hardware } from '../../../../core/domain/hardware.js';

const base: Hardware = {
  cpus: 2,
  cpusMax: 4,
  memoryMiB: 512,
  memoryMaxMiB: 512,
  firmware: 'bios',
  boot: ['disk'],
  disks: [{ id: 'd1', bus: 'virtio', path: '/p/d1', format: 'qcow2' }],
  cdroms: [null],
  nics: [{ id: 'n1', mac: '02:00:00:00:00:01', bridge: 'br0', model: 'virtio' }],
  watchdog: false,
  cpuShares: 100,
  cpuQuotaUs: null,
  seed: null,
};

await t.test(
  'what can be changed while it runs is a step, the rest waits for a restart in words',
  async (t) => {
    const d = diffHardware(
      {
        ...base,
        cpus: 3,
        memoryMiB: 1024,
        disks: [{ id: 'd2', bus: 'scsi', path: '/p/d2', format: 'raw' }],
        cdroms: ['/i.iso'],
        nics: [{ id: 'n1', mac: '02:00:00:00:00:01', bridge: 'br1', model: 'virtio' }],
        firmware: 'uefi',
      },
      base,
    );
    t.same(
      d.hot.map((s) => s.do),
      ['detach-disk', 'detach-nic', 'attach-disk', 'attach-nic', 'set-cdrom', 'set-cpus'],
    );
    t.same(d.pendingRestart, [
      'memory changes from 512 MiB to 1024 MiB',
      'firmware changes from bios to uefi',
    ]);
  },
);

await t.test('a SATA disk is never plugged or unplugged in a running machine', async (t) => {
  const sata = { ...base.disks[0]!, id: 's', bus: 'sata' as const };
  t.equal(diffHardware({ ...base, disks: [...base.disks, sata] }, base).hot.length, 0);
  t.equal(diffHardware(base, { ...base, disks: [...base.disks, sata] }).hot.length, 0);
});

/** A machine after a step, as QEMU would have it. */
function after(h: Hardware, s: HotStep): Hardware {
  switch (s.do) {
    case 'attach-disk':
      return { ...h, disks: [...h.disks, s.disk] };
    case 'detach-disk':
      return { ...h, disks: h.disks.filter((d) => d.id !== s.disk.id) };
    case 'attach-nic':
      return { ...h, nics: [...h.nics, s.nic] };
    case 'detach-nic':
      return { ...h, nics: h.nics.filter((n) => n.mac !== s.nic.mac) };
    case 'set-cdrom':
      return { ...h, cdroms: h.cdroms.map((c, i) => (i === s.index ? s.path : c)) };
    case 'set-cpus':
      return { ...h, cpus: s.cpus };
    case 'set-memory':
      return { ...h, memoryMiB: s.memoryMiB };
    case 'set-cpu-tune':
      return { ...h, cpuShares: s.cpuShares, cpuQuotaUs: s.cpuQuotaUs };
  }
}

await t.test(
  'property: once all steps are done, none is left, and what is pending has not changed',
  async (t) => {
    const id = fc.constantFrom('a', 'b', 'c', 'd');
    const hardware: fc.Arbitrary<Hardware> = fc.record({
      cpus: fc.integer({ min: 1, max: 8 }),
      cpusMax: fc.constant(8),
      memoryMiB: fc.integer({ min: 64, max: 128 }),
      memoryMaxMiB: fc.constant(128),
      firmware: fc.constantFrom('bios' as const, 'uefi' as const),
      boot: fc.constant(['disk' as const]),
      disks: fc.uniqueArray(
        fc.record({
          id,
          bus: fc.constantFrom('virtio' as const, 'scsi' as const, 'sata' as const),
          path: fc.constant('/p'),
          format: fc.constant('qcow2' as const),
        }),
        { selector: (d) => d.id },
      ),
      cdroms: fc.array(fc.option(fc.constantFrom('/x.iso', '/y.iso')), { maxLength: 2 }),
      nics: fc.uniqueArray(
        fc.record({
          id,
          mac: id,
          bridge: fc.constantFrom('br0', 'br1'),
          model: fc.constantFrom('virtio' as const, 'e1000e' as const),
        }),
        { selector: (n) => n.mac },
      ),
      watchdog: fc.constant(false),
      cpuShares: fc.constantFrom(100, 300),
      cpuQuotaUs: fc.constantFrom(null, 50_000),
      seed: fc.constant(null),
    });
    fc.assert(
      fc.property(hardware, hardware, (want, have) => {
        const first = diffHardware(want, have);
        const then = diffHardware(want, first.hot.reduce(after, have));
        t.same(then.hot, []);
        t.same(then.pendingRestart, first.pendingRestart);
      }),
      { numRuns: 300 },
    );
  },
);
