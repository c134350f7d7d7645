import t from 'tap';
import { createVm, editVm, type EditContext } from '../../../../core/decide/vm-edit.js';
import type { Disk } from '../../../../core/domain/disk.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import type { Network } from '../../../../core/domain/network.js';
import { vmCreateSchema, vmPatchSchema } from '../../../../core/wire/rest.js';

const MiB = 2 ** 20;
const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const network: Network = {
  id: id(90),
  name: 'lan',
  bridge: 'lan0',
  uplink: null,
  subnet: '10.0.0.0/24',
  gateway: '10.0.0.1',
  dns: [],
  range: ['10.0.0.1', '10.0.0.4'],
};

function context(taken: string[] = []): EditContext {
  let n = 100;
  let mac = 0;
  return {
    newId: () => id(n++),
    newMac: () => `52:54:00:00:00:0${mac++}`,
    pool: () => ({ id: id(80), name: 'local', kind: 'local', path: '/p', nodes: null, reservePct: 5 }),
    image: (ref) => {
      throw new FlotillaError('not-found', ref, { hint: '' });
    },
    network: () => network,
    serviceClass: (ref) => {
      throw new FlotillaError('not-found', ref, { hint: '' });
    },
    addresses: () => new Set(taken),
    vms: {
      find: (ref) => ref,
      name: (id) => id,
      after: () => [],
    },
  };
}

const code = (f: () => unknown): string => {
  try {
    f();
    return 'done';
  } catch (e) {
    return e instanceof FlotillaError ? e.code : String(e);
  }
};

const made = createVm(
  id(1),
  vmCreateSchema.parse({
    name: 'Web',
    disks: [{ sizeBytes: 3 * MiB + 1 }, { name: 'disk2', sizeBytes: MiB }, { sizeBytes: MiB }],
    nics: [{ network: 'lan' }, { network: 'lan' }],
  }),
  context(['10.0.0.2']),
);
const disks = made.disks.map((d): Disk => ({ ...d, state: 'ready', node: 'n1' }));
const edit = (patch: object, phase: 'running' | 'stopped' = 'running', ctx = context()) =>
  editVm(made.spec, disks, vmPatchSchema.parse(patch), phase, 'n1', ctx);

void t.test('a new VM: names, whole sizes, addresses that are free and not the gateway, its keys', (t) => {
  t.same(
    made.disks.map((d) => [d.name, d.sizeBytes / MiB]),
    [
      ['disk0', 4],
      ['disk2', 1],
      ['disk1', 1],
    ],
  );
  t.same(
    made.spec.nics.map((n) => n.address),
    ['10.0.0.3', '10.0.0.4'],
  );
  t.same(made.take, [
    '/flotilla/name/vm/web',
    '/flotilla/mac/52:54:00:00:00:00',
    `/flotilla/address/${network.id}/10.0.0.3`,
    '/flotilla/mac/52:54:00:00:00:01',
    `/flotilla/address/${network.id}/10.0.0.4`,
  ]);
  const third = {
    name: 'x',
    nics: [{ network: 'lan' }, { network: 'lan' }, { network: 'lan' }, { network: 'lan' }],
  };
  t.equal(
    code(() => createVm(id(2), vmCreateSchema.parse(third), context())),
    'no-address-left',
  );
  t.end();
});

void t.test('an edit raises the generation by one and leaves the power to others', (t) => {
  const e = edit({ cpus: 3, name: 'WEB' });
  t.match(e.spec, { generation: 2, cpus: 3, name: 'WEB', powerGeneration: 1 });
  t.same([e.take, e.free], [[], []], 'a name in another case is the same name');
  const renamed = edit({ name: 'db' });
  t.same([renamed.take, renamed.free], [['/flotilla/name/vm/db'], ['/flotilla/name/vm/web']]);
  t.end();
});

void t.test('disks come, go and grow; they never shrink', (t) => {
  const e = edit({
    removeDisks: ['disk2'],
    addDisks: [{ sizeBytes: MiB }],
    growDisks: [{ disk: 'disk0', sizeBytes: 9 * MiB }],
  });
  t.same(
    e.disks.map((d) => [d.name, d.state, d.sizeBytes / MiB, d.node]),
    [
      ['disk2', 'deleting', 1, 'n1'],
      ['disk0', 'ready', 9, 'n1'],
      ['disk2', 'wanted', 1, 'n1'],
    ],
  );
  t.equal(e.spec.disks.length, 3);
  t.equal(
    code(() => edit({ growDisks: [{ disk: 'disk0', sizeBytes: MiB }] })),
    'unsupported',
  );
  t.equal(
    code(() => edit({ growDisks: [{ disk: 'nope', sizeBytes: MiB }] })),
    'not-found',
  );
  t.equal(
    code(() => edit({ removeDisks: ['disk0'], growDisks: [{ disk: 'disk0', sizeBytes: 99 * MiB }] })),
    'bad-input',
  );
  t.equal(
    code(() => edit({ addDisks: [{ name: 'disk0', sizeBytes: MiB }] })),
    'name-taken',
  );
  t.end();
});

void t.test('NICs give their keys back; firmware needs a stop', (t) => {
  const mac = made.spec.nics[0]?.mac ?? '';
  const e = edit({ removeNics: [mac.toUpperCase()] });
  t.same(e.free, [`/flotilla/mac/${mac}`, `/flotilla/address/${network.id}/10.0.0.3`]);
  t.equal(e.spec.nics.length, 1);
  t.equal(
    code(() => edit({ firmware: 'uefi' })),
    'needs-stop',
  );
  t.equal(
    code(() => edit({ firmware: 'bios' })),
    'done',
    'the same firmware is no change',
  );
  t.equal(
    code(() => edit({ firmware: 'uefi' }, 'stopped')),
    'done',
  );
  t.equal(
    code(() => edit({ addNics: [{ network: 'lan', address: '10.0.0.1' }] })),
    'address-taken',
    'the gateway',
  );
  t.equal(
    code(() => edit({ boot: ['disk', 'disk'] })),
    'bad-input',
  );
  t.end();
});
