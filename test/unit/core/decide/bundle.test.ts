import t from 'tap';
import fc from 'fast-check';
import { bundleMemoryMiB, cpuTuneOf, reservedMiB } from '../../../../core/decide/bundle.js';
import type { Vapp } from '../../../../core/domain/vapp.js';
import type { VmSpec } from '../../../../core/domain/vm.js';

type Allocation = Vapp['cpuAllocation'];
const spec = (id: string, o: Partial<VmSpec> = {}): VmSpec =>
  ({ id, cpus: 1, memoryMiB: 1024, ...o }) as VmSpec;
const bundle = (
  vms: readonly (VmSpec | { readonly id: string; readonly make: object })[],
  o: { readonly cpu?: Allocation; readonly memory?: Allocation },
) => ({
  members: vms.map((v) => ({
    vm: v.id,
    leaving: false,
    make: 'make' in v ? v.make : null,
  })) as never as Vapp['members'],
  cpuAllocation: o.cpu ?? null,
  memoryAllocation: o.memory ?? null,
});
const made = (...specs: VmSpec[]) => ({
  get: (id: string) => {
    const value = specs.find((s) => s.id === id);
    return value && { value };
  },
});
const none = { reservation: null, limit: null, weight: null };

void t.test(
  'what is reserved beyond the members is kept for them, in parts; those not made yet count too',
  (t) => {
    const [a, b] = [spec('a'), spec('b', { memoryMiB: 3072 })];
    const v = bundle([a, b], { memory: { ...none, reservation: 8192 } });
    t.same(
      [a, b].map((s) => reservedMiB(s, v, made(a, b))),
      [2048, 6144],
    );
    t.equal(reservedMiB(a, bundle([a, b], { memory: { ...none, reservation: 4000 } }), made(a, b)), 1024);
    t.equal(reservedMiB(a, undefined, made(a)), 1024);
    const unmade = bundle([a, { id: 'b', make: { memoryMiB: 3072 } }], {
      memory: { ...none, reservation: 8192 },
    });
    t.equal(bundleMemoryMiB(unmade, made(a)), 4096);
    t.equal(reservedMiB(a, unmade, made(a)), 2048);
    t.equal(reservedMiB(b, unmade, made(a)), 6144, 'as it is about to be made');
    t.end();
  },
);

void t.test(
  'property: all that is kept is what is reserved, or what the members have where that is more',
  (t) => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 32, max: 100_000 }), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 1_000_000 }),
        (sizes, reservation) => {
          const specs = sizes.map((memoryMiB, i) => spec(`vm${i}`, { memoryMiB }));
          const v = bundle(specs, { memory: { ...none, reservation } });
          const kept = specs.reduce((n, s) => n + reservedMiB(s, v, made(...specs)), 0);
          const want = Math.max(
            reservation,
            sizes.reduce((n, x) => n + x, 0),
          );
          return kept >= want && kept <= want + specs.length;
        },
      ),
    );
    t.end();
  },
);

void t.test('weight and limit of CPU are divided by CPUs and own shares', (t) => {
  const [a, b] = [spec('a', { cpuShares: 300 }), spec('b', { cpus: 3 })];
  const v = bundle([a, b], { cpu: { reservation: null, limit: 4000, weight: 1200 } });
  t.same(cpuTuneOf(a, v, made(a, b), 2000), { shares: 600, quotaUs: 50_000 });
  t.same(cpuTuneOf(b, v, made(a, b), 2000), { shares: 600, quotaUs: 150_000 });
  t.same(cpuTuneOf(a, v, made(a, b), 0), { shares: 600, quotaUs: null }, 'a speed that is not known');
  t.same(cpuTuneOf(a, undefined, made(a), 2000), { shares: 300, quotaUs: null });
  const tiny = bundle([a], { cpu: { reservation: null, limit: 1, weight: 0 } });
  t.same(cpuTuneOf(a, tiny, made(a), 5000), { shares: 1, quotaUs: 1000 }, 'the least there is');
  t.end();
});
