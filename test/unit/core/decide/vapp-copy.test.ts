import fc from 'fast-check';
import t from 'tap';
import { copyOf, linkedCopy, type CopySource } from '../../../../core/decide/vapp-copy.js';
import { planVapp, type VappContext } from '../../../../core/decide/vapp-doc.js';
import { snapshotsOf, type VappOpView } from '../../../../core/decide/vapp.js';
import type { Disk } from '../../../../core/domain/disk.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { Network } from '../../../../core/domain/network.js';
import type { Op } from '../../../../core/domain/op.js';
import { vappStartDefault, vappStopDefault, type Vapp } from '../../../../core/domain/vapp.js';
import type { VmSpec } from '../../../../core/domain/vm.js';
import { vappDocSchema } from '../../../../core/wire/rest.js';

const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const [shared, thin, lan, back] = [id(201), id(202), id(301), id(302)];

const network = (n: string, own: boolean): Network => ({
  id: n,
  name: own ? 'shop-back' : 'lan',
  bridge: own ? 'fvb1000' : 'fll0',
  uplink: null,
  subnet: own ? '10.9.0.0/24' : '10.7.0.0/24',
  gateway: null,
  dns: [],
  range: own ? ['10.9.0.10', '10.9.0.99'] : ['10.7.0.10', '10.7.0.99'],
  ...(own ? { vni: 4096, vapp: id(1) } : {}),
});

const disk = (n: number, vm: string, pool: string, o: Partial<Disk> = {}): Disk => ({
  id: id(n),
  name: `disk${n}`,
  vm,
  pool,
  node: null,
  format: pool === thin ? 'raw' : 'qcow2',
  sizeBytes: 2 ** 30,
  madeBytes: 2 ** 30,
  source: { kind: 'image', image: id(900), mode: 'full' },
  state: 'ready',
  error: null,
  ...o,
});

const spec = (n: number, name: string, disks: readonly Disk[], o: Partial<VmSpec> = {}): VmSpec => ({
  id: id(n),
  name,
  generation: 4,
  note: '',
  tags: [],
  cpus: 1,
  memoryMiB: 256,
  firmware: 'bios',
  boot: ['disk'],
  disks: disks.map((d) => ({ disk: d.id, bus: 'virtio' })),
  cdroms: [{ image: id(901) }],
  nics: [
    { id: id(n + 50), mac: `52:54:00:00:00:${n}`, network: lan, address: '10.7.0.11', model: 'virtio' },
    { id: id(n + 60), mac: `52:54:00:00:01:${n}`, network: back, address: `10.9.0.${n}`, model: 'virtio' },
  ],
  cloudInit: {
    hostname: name,
    user: null,
    sshKeys: [],
    userData: 'port: "@{port}"',
    networkConfig: null,
    ovfEnvironment: null,
  },
  power: 'running',
  powerGeneration: 1,
  stopTimeoutS: 30,
  onCrash: 'restart',
  ha: { ...vmHaDefault, enabled: true },
  vapp: { id: id(1), member: name },
  ...o,
});

const dbDisks = [disk(401, id(11), shared), disk(402, id(11), shared, { name: 'data' })];
const webDisks = [disk(403, id(12), thin, { replicas: 2 })];
const specs = new Map(
  [
    spec(11, 'shop-db', dbDisks, {
      disks: [
        { disk: id(401), bus: 'virtio' },
        { disk: id(402), bus: 'scsi', detached: true },
      ],
    }),
    spec(12, 'web-by-hand', webDisks, {
      cloudInit: {
        hostname: 'web',
        user: null,
        sshKeys: [],
        userData: null,
        networkConfig: null,
        ovfEnvironment: null,
      },
    }),
    spec(13, 'shop-bare', [], { ha: vmHaDefault }),
  ].map((s) => [s.id, s]),
);

const member = (name: string, vm: number, group: string | null = null): Vapp['members'][number] => ({
  name,
  group,
  vm: id(vm),
  start: vappStartDefault,
  stop: vappStopDefault,
  make: null,
  leaving: false,
});

const shop: Vapp = {
  id: id(1),
  name: 'shop',
  generation: 7,
  note: 'sells',
  tags: ['prod'],
  owner: 'anna',
  class: null,
  members: [member('db', 11, 'tiers'), member('web', 12), member('bare', 13)],
  groups: [{ name: 'tiers', group: null, note: '', start: vappStartDefault, stop: vappStopDefault }],
  networks: [
    { name: 'front', network: lan, own: false },
    { name: 'back', network: back, own: true },
  ],
  properties: [
    {
      name: 'port',
      type: 'integer',
      label: '',
      description: '',
      userConfigurable: true,
      secret: false,
      default: 80,
      value: 8080,
    },
    {
      name: 'password',
      type: 'string',
      label: '',
      description: '',
      userConfigurable: true,
      secret: true,
      default: null,
      value: null,
    },
  ],
  failover: 'members',
  rules: [{ kind: 'apart', must: true, over: 'node', members: ['db', 'web'] }],
  eulas: ['read me'],
  cpuAllocation: null,
  memoryAllocation: null,
  ovf: null,
};

const at: CopySource = {
  spec: (vm) => specs.get(vm),
  disks: (vm) => [...dbDisks, ...webDisks].filter((d) => d.vm === vm),
  network: (n) => network(n, n === back),
};

/** A cluster that knows its objects by id only: names may be others by the time that a copy is made. */
const context = (from: number): VappContext => {
  let n = from;
  return {
    newId: () => id(n++),
    find: (_, ref) => ([shared, thin, lan, back].includes(ref) ? ref : null),
    defaultPool: () => shared,
    network: (x) => network(x, x === back),
    spec: (vm) => specs.get(vm),
    disks: (vm) => at.disks(vm),
    freeVni: () => 5_000,
    taken: () => false,
    usersOf: () => [],
  };
};

await t.test('a copy has what its original has, and nothing of who it is', (t) => {
  const { document, sources } = copyOf(shop, at, 'second');
  t.same(vappDocSchema.parse(document).name, 'second');
  t.same([...sources].sort(), [
    ['db', id(11)],
    ['web', id(12)],
  ]);
  const { vapp, networks, births, secrets } = planVapp(
    document,
    { port: 9090 },
    null,
    { password: 'hunter2' },
    context(7_000),
  );
  t.equal(vapp.owner, '', 'it is nobody’s');
  t.same([vapp.note, vapp.tags, vapp.rules, vapp.eulas], [shop.note, shop.tags, shop.rules, shop.eulas]);
  t.same(secrets, { password: 'hunter2' });
  t.equal(vapp.properties[0]?.value, 9090);
  t.match(networks, [{ name: 'second-back', subnet: '10.9.0.0/24', vapp: vapp.id }]);
  t.not(networks[0]?.id, back);
  t.equal(vapp.networks[0]?.network, lan, 'networks of the cluster are the same');
  const body = (name: string): Record<string, unknown> => births.find((b) => b.name === name)?.make ?? {};
  t.match(body('db'), {
    name: 'second-db',
    disks: [{ name: 'disk401', pool: shared }],
    cdroms: [{ image: null }],
    cloudInit: { hostname: null, userData: 'port: "@{port}"' },
    nics: [{ network: lan, address: 'auto' }, { address: '10.9.0.11' }],
    ha: { enabled: true },
  });
  t.equal((body('db')['disks'] as unknown[]).length, 1, 'what is detached is not copied');
  t.match(body('web'), { name: 'second-web', cloudInit: { hostname: 'web' }, disks: [{ replicas: 2 }] });
  t.same(body('bare')['disks'], []);
  t.equal(vapp.members.find((m) => m.name === 'db')?.group, 'tiers');
  for (const disks of births.map((b) => b.make?.['disks'] as Record<string, unknown>[]))
    for (const d of disks) t.notOk('image' in d || 'sizeBytes' in d, 'its disks come from snapshots alone');
  t.end();
});

await t.test('linked, a disk has one copy, and HA ends where no other node reaches it', (t) => {
  const { document } = copyOf(shop, at, 'second');
  const kinds: Record<string, 'shared' | 'thin'> = { [shared]: 'shared', [thin]: 'thin' };
  const linked = linkedCopy(
    document,
    (p) => ({ kind: kinds[p] ?? 'shared' }),
    () => false,
  );
  t.same(linked.warnings, [
    '"web" has no HA: a linked disk has one copy, and is on one node',
    '"web": all of disk403 is copied, not linked: the original is on two nodes',
  ]);
  const web = linked.document.members['web']?.vm;
  t.match(web, { disks: [{ replicas: 1 }], ha: { enabled: false } });
  const db = linked.document.members['tiers']?.vapp?.members['db']?.vm;
  t.match(db, { disks: [{ format: 'qcow2' }], ha: { enabled: true } });
  t.notOk('replicas' in (db?.disks?.[0] ?? {}), 'no own word where a class speaks of others only');
  t.end();
});

await t.test('property: no id, name, MAC or address of the original comes back in its copy', (t) => {
  const ids = new Set([shop.id, back, ...specs.keys(), ...[...dbDisks, ...webDisks].map((d) => d.id)]);
  fc.assert(
    fc.property(
      fc.subarray(shop.members.map((m) => m.name)),
      fc.boolean(),
      fc.stringMatching(/^[a-z]{1,20}$/),
      (leaving, linked, name) => {
        const v: Vapp = {
          ...shop,
          rules: [],
          members: shop.members.map((m) => ({ ...m, leaving: leaving.includes(m.name) })),
        };
        if (v.members.every((m) => m.leaving)) return;
        const copy = copyOf(v, at, name);
        const { document } = linked
          ? linkedCopy(
              copy.document,
              () => ({ kind: 'thin' }),
              () => true,
            )
          : copy;
        const { vapp, networks } = planVapp(document, {}, null, {}, context(7_000));
        const text = JSON.stringify([vapp, networks]);
        for (const x of ids) t.notOk(text.includes(x), x);
        t.notMatch(text, /52:54|10\.7\.0\.11|shop-db|web-by-hand/);
        t.equal(vapp.members.length, v.members.length - leaving.length);
      },
    ),
  );
  t.end();
});

await t.test('of the snapshots of a copy: asked for once, waited for, and what fails is told', (t) => {
  const from = (n: number): NonNullable<Vapp['members'][number]['from']> => ({
    vm: id(n),
    snapshot: id(n + 800),
    linked: false,
    keep: false,
  });
  const members = [{ name: 'db', from: from(11) }, { name: 'web', from: from(12) }, { name: 'bare' }];
  const look = (
    snapshots: Record<string, 'wanted' | 'ready' | 'failed' | 'deleting'>,
    ops: Record<string, Partial<Op>>,
    gone: readonly string[] = [],
  ) =>
    snapshotsOf(members, {
      vm: (vm) => {
        const s = specs.get(vm);
        return s === undefined || gone.includes(vm)
          ? null
          : ({ spec: s, own: { owner: 'n1' } } as ReturnType<VappOpView['vm']>);
      },
      snapshot: (x) => {
        const state = snapshots[x];
        const error = state === 'failed' ? ({ code: 'no-space', message: 'full' } as never) : null;
        return state === undefined ? null : { state, error };
      },
      begun: (vm) => (ops[vm] === undefined ? undefined : ({ node: 'n1', progress: null, ...ops[vm] } as Op)),
    });
  t.match(look({}, {}), { ask: [from(11), from(12)], taken: 0, of: 2, error: null });
  const under = look(
    { [id(811)]: 'wanted', [id(812)]: 'ready' },
    { [id(11)]: { progress: 0.4 }, [id(12)]: {} },
  );
  t.match(under, { ask: [], waits: ['db (40 %)'], taken: 1, error: null });
  t.match(look({ [id(811)]: 'failed' }, { [id(11)]: {} }).error, { code: 'no-space' });
  t.match(look({ [id(811)]: 'deleting' }, { [id(11)]: {} }).error, { code: 'not-found' });
  t.match(look({}, { [id(11)]: {} }).error, { code: 'not-found' }, 'it was there, and is gone');
  t.match(look({}, {}, [id(12)]).error, { code: 'not-found', message: /"web" begins as is gone/ });
  t.match(look({ [id(811)]: 'wanted' }, { [id(11)]: { node: 'n2' } }).error, { code: 'wrong-state' });
  t.end();
});
