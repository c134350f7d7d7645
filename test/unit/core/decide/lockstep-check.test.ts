import t from 'tap';
import { checkLockstep, lockstepText, type LockstepView } from '../../../../core/decide/lockstep-check.js';
import { admit } from '../../../../core/decide/plan/admission.js';
import { clusterNode, planCluster, promisedBy, twinName } from '../../../../core/decide/plan/gather.js';
import type { PlanRule } from '../../../../core/decide/plan/model.js';
import { State } from '../../../../core/decide/plan/state.js';
import { type Disk } from '../../../../core/domain/disk.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { NodeState } from '../../../../core/domain/node.js';
import type { Pool } from '../../../../core/domain/pool.js';
import type { VmOwn, VmSpec } from '../../../../core/domain/vm.js';
import { firstOwn } from '../../../../core/decide/vm-make.js';
import { keeper } from '../../controller/ha-rig.js';
import { GiB, nodeRecord, nodeState } from '../../controller/rig.js';

const pool: Pool = { id: 'p', name: 'local', kind: 'local', path: '/srv/vms', nodes: null, reservePct: 5 };
const disk: Disk = {
  id: 'd1',
  name: 'root',
  vm: 'v1',
  pool: 'p',
  node: 'n1',
  format: 'raw',
  sizeBytes: GiB,
  madeBytes: GiB,
  source: { kind: 'blank' },
  state: 'ready',
  error: null,
};
const spec: VmSpec = {
  id: 'v1',
  name: 'web',
  generation: 1,
  note: '',
  tags: [],
  cpus: 1,
  memoryMiB: 1024,
  firmware: 'bios',
  boot: ['disk'],
  disks: [{ disk: 'd1', bus: 'virtio' }],
  cdroms: [],
  nics: [{ id: 'x', network: 'n', mac: '52:54:00:00:00:01', address: null, model: 'virtio' }],
  cloudInit: null,
  power: 'running',
  powerGeneration: 1,
  stopTimeoutS: 90,
  onCrash: 'restart',
  ha: { ...vmHaDefault, enabled: true, lockstep: true },
};
const own: VmOwn = { ...firstOwn('n1', null), state: 'running' };

const facts: NonNullable<NodeState['facts']> = {
  cpuModel: '',
  cpuCores: 4,
  cpuMHz: 3_000,
  memoryBytes: 4 * GiB,
  drives: [],
  nics: [],
  temperatureC: null,
  uuid: null,
  os: 'Debian 13',
  kernel: '6.12',
};

interface NodeOptions {
  readonly state?: Partial<NodeState>;
  readonly rack?: string | null;
  readonly desired?: 'active' | 'maintenance';
  readonly live?: boolean;
  readonly silent?: boolean;
}

/** A VM of that node which starts on n2 when it fails. */
const onStandby = (owner: string): { readonly spec: VmSpec; readonly own: VmOwn } => ({
  spec: {
    ...spec,
    id: 'ha',
    name: 'ha',
    memoryMiB: 2800,
    disks: [],
    ha: { ...vmHaDefault, enabled: true },
  },
  own: { ...firstOwn(owner, null), standby: 'n2' },
});

/** Nodes of 4 GiB, of which one can do all, and the VM with others. */
function view(
  nodes: Record<string, NodeOptions>,
  o: Partial<LockstepView> & {
    readonly others?: readonly { readonly spec: VmSpec; readonly own: VmOwn }[];
    readonly rules?: readonly PlanRule[];
  } = {},
): LockstepView {
  const { others = [], rules = [], ...rest } = o;
  const mine = { spec: o.spec ?? spec, own: o.own ?? own };
  const all = [mine, ...others];
  const sums = promisedBy(all);
  const use = { pool: 'p', totalBytes: 100 * GiB, freeBytes: 80 * GiB, ok: true, text: '' };
  const seen = Object.entries(nodes).map(([id, n], i) =>
    clusterNode(
      { ...nodeRecord(id, i), rack: n.rack ?? null, desired: n.desired ?? 'active' },
      {
        presence: n.silent === true ? 'silent' : 'here',
        state: {
          ...nodeState(id, [use]),
          memoryBytes: 4 * GiB,
          lockstep: '',
          keeper: keeper(),
          ...n.state,
        },
      },
      n.live ?? true,
      sums.get(id),
    ),
  );
  const reach = { ok: false as const, why: 'local' };
  const cluster = planCluster(
    seen,
    all.map((x) => ({ ...x, load: null, reach, pools: [pool] })),
    rules,
  );
  return {
    ...mine,
    disks: [disk],
    pool: (id) => (id === 'p' ? pool : undefined),
    networks: [],
    nodes: seen,
    cluster,
    admission: 'enforce',
    node: null,
    ...rest,
  };
}
const other = (name: string, owner: string, memoryMiB: number, o: Partial<VmSpec> = {}) => ({
  spec: { ...spec, id: name, name, memoryMiB, disks: [], ha: vmHaDefault, ...o },
  own: firstOwn(owner, null),
});
const three = { n1: {}, n2: {}, n3: {} };

await t.test('a VM that can: the roomiest other node, and nothing against it', async (t) => {
  const c = checkLockstep(view(three, { others: [other('big', 'n2', 1500)] }));
  t.match(c, { to: 'n3', blockers: [], nodes: [], warnings: [] });
  t.equal(lockstepText(c), '');
});

await t.test('all blockers are told, not just the first', async (t) => {
  const bad: VmSpec = {
    ...spec,
    cpus: 4,
    firmware: 'uefi',
    boot: ['network'],
    ha: { ...spec.ha, onHang: 'reset' },
    disks: [
      { disk: 'd1', bus: 'sata' },
      { disk: 'gone', bus: 'virtio', detached: true },
    ],
    nics: [...spec.nics, { id: 'y', network: 'n', mac: '52:54:00:00:00:02', address: null, model: 'e1000e' }],
    cdroms: [{ image: null }, { image: 'iso' }],
  };
  const qcow2: Disk = {
    ...disk,
    format: 'qcow2',
    pool: 'q',
    source: { kind: 'image', image: 'i', mode: 'linked' },
  };
  const shared: Pool = { ...pool, id: 'q', name: 'share', kind: 'shared' };
  const c = checkLockstep(view(three, { spec: bad, disks: [qcow2], pool: () => shared }));
  t.equal(c.to, null);
  t.same(
    c.blockers.map((b) => b.code),
    [
      'cpus',
      'firmware',
      'network-boot',
      'watchdog',
      'disks',
      'pool',
      'format',
      'linked',
      'bus',
      'no-record',
      'nics',
      'nic-model',
      'cdrom',
    ],
  );
  for (const b of c.blockers) t.ok(b.text.length > 0 && b.hint.length > 0, b.code);
  t.match(lockstepText(c), /4 vCPUs; .*UEFI.*shared pool "share"/);
  t.same(checkLockstep(view(three, { spec: { ...spec, disks: [] } })).blockers[0]?.code, 'no-disk');
  t.same(
    checkLockstep(view(three, { spec: { ...spec, disks: [{ disk: 'd1', bus: 'virtio', detached: true }] } }))
      .blockers[0]?.code,
    'detached',
  );
});

await t.test('its disk lies on one node: a file or a thin volume, never one of two copies', async (t) => {
  const thin: Pool = { ...pool, kind: 'thin', drives: [], path: '/dev/flotilla-p' };
  t.match(checkLockstep(view(three, { pool: () => thin })), { to: 'n2', blockers: [] });
  const two = checkLockstep(view(three, { disks: [{ ...disk, node: null, replicas: 2 }], pool: () => thin }));
  t.match(two.blockers, [{ code: 'pool', text: /two copies/, hint: /--replicas 1/ }]);
});

await t.test('its own node must have the part for it', async (t) => {
  const c = checkLockstep(view({ n1: { state: { lockstep: 'QEMU 11.1 is missing' } }, n2: {} }));
  t.match(c, { to: null, blockers: [{ code: 'no-lockstep', text: /n1.*QEMU 11.1 is missing/ }] });
});

await t.test('what speaks against each node', async (t) => {
  const why = (n: NodeOptions, o: Parameters<typeof view>[1] = {}): string =>
    checkLockstep(view({ n1: {}, n2: n }, o))
      .nodes.flatMap((x) => x.blockers.map((b) => b.code))
      .join();
  t.equal(why({}), '');
  t.equal(why({ state: { lockstep: 'no' } }), 'no-lockstep');
  t.equal(why({ state: { accel: 'kvm' } }), 'other-cpu');
  t.equal(why({ state: { keeper: null } }), 'no-keeper');
  t.equal(why({ live: false }), 'not-alive');
  t.equal(why({ desired: 'maintenance' }), 'not-active');
  t.match(why({ silent: true }), /not-here/);
  t.equal(why({}, { others: [other('big', 'n2', 3000)] }), 'no-memory');
  t.equal(
    why({}, { disks: [{ ...disk, sizeBytes: 79 * GiB }] }),
    'no-space',
    'a raw copy is written in full',
  );
  t.equal(
    why({}, { rules: [{ name: 'r', kind: 'not-on', must: true, vms: ['web'], nodes: ['n2'] }] }),
    'rule',
    'what is wanted of the VM is wanted of its twin',
  );
  const apart: PlanRule = { name: 'a', kind: 'apart', must: true, vms: ['db', 'web'], nodes: [] };
  t.equal(why({}, { rules: [apart], others: [other('db', 'n2', 100)] }), 'rule');
  t.match(checkLockstep(view({ n1: {} })), { to: null, nodes: [], blockers: [] });
  t.equal(lockstepText(checkLockstep(view({ n1: {} }))), 'there is no other node');
});

await t.test('by KVM a twin has the processor of its owner', (t) => {
  const kvm = (cpuModel: string | null, accel: 'kvm' | 'tcg' = 'kvm'): NodeOptions => ({
    state: { accel, facts: cpuModel === null ? null : { ...facts, cpuModel } },
  });
  const why = (n1: NodeOptions, n2: NodeOptions): string =>
    checkLockstep(view({ n1, n2 }))
      .nodes.flatMap((x) => x.blockers.map((b) => b.text))
      .join();
  t.equal(why(kvm('EPYC 7'), kvm('EPYC 7')), '');
  t.equal(why(kvm('EPYC 7'), kvm('Xeon 5')), 'has another processor (Xeon 5) than n1 (EPYC 7)');
  t.equal(why(kvm('EPYC 7', 'tcg'), kvm('Xeon 5', 'tcg')), '', 'emulated ones are all alike');
  t.equal(why(kvm(null), kvm('Xeon 5')), '', 'not known yet');
  t.end();
});

await t.test('another rack first', async (t) => {
  const c = checkLockstep(
    view({ n1: { rack: 'a' }, n2: { rack: 'a' }, n3: { rack: 'b' } }, { others: [other('x', 'n3', 1000)] }),
  );
  t.equal(c.to, 'n3', 'though it has less memory left');
  t.match(c.reasons.join(), /another rack/);
  t.match(checkLockstep(view({ n1: { rack: 'a' }, n2: { rack: 'a' } })).reasons.join(), /fail together/);
});

await t.test('a twin that is there stays where it is, and its memory is not asked for again', async (t) => {
  const paired: VmOwn = { ...own, lockstep: { twin: 'n2', state: 'protected' } };
  const full = { others: [other('big', 'n2', 2200)], own: paired };
  t.match(checkLockstep(view(three, full)), { to: 'n2', reasons: ['its twin is there'] });
  const leaving = checkLockstep(view({ ...three, n2: { desired: 'maintenance' } }, full));
  t.equal(leaving.to, 'n3', 'another one is made elsewhere');
});

await t.test('its memory is counted twice: of nodes, and of what may fail', async (t) => {
  const paired: VmOwn = { ...own, lockstep: { twin: 'n2', state: 'protected' } };
  const sums = promisedBy([{ spec, own: paired }]);
  t.match(sums.get('n1'), { memoryMiB: 1024, cpus: 1, vms: 1, twins: 0 });
  t.match(sums.get('n2'), { memoryMiB: 1024, cpus: 1, vms: 0, twins: 1 });
  const ran = (o: Parameters<typeof view>[1]): number[] => {
    const { cluster } = view(three, o);
    const s = new State(cluster);
    return s.nodes.map((_, n) => s.ranMiB(n));
  };
  t.same(ran({ own: paired }), [1088, 1088, 0]);
  t.same(
    ran({ own: { ...own, lockstep: { twin: null, state: 'alone' } } }),
    [1088, 1088, 0],
    'kept for the next',
  );
  t.same(ran({ spec: { ...spec, ha: { ...spec.ha, lockstep: false } } }), [1088, 0, 0]);
  t.same(
    ran({ others: [other('a', 'n2', 3500), other('b', 'n3', 3500)] }),
    [1088, 3564, 3564],
    'where no node has the room it is promised nowhere',
  );
  // n2 stands by for "ha" of n3; with the twin it could not start it.
  const ha = onStandby('n3');
  const admits = (o: VmOwn) => {
    const v = view(three, { own: o });
    const reach = { ok: true as const, pools: [], copied: false };
    const cluster = planCluster(v.nodes, [
      { spec, own: o, load: null, reach: { ok: false, why: '' } },
      { ...ha, load: null, reach },
    ]);
    return admit(new State(cluster));
  };
  t.match(admits(paired), { ok: false, shortfalls: [{ node: 'n2', fails: 'n3', vms: ['ha'] }] });
  t.match(admits({ ...own, lockstep: { twin: 'n3', state: 'protected' } }), { ok: true });
  t.equal(view(three, { own: paired }).cluster.vms.find((v) => v.name === twinName('v1'))?.memoryMiB, 1088);
});

await t.test('a twin that would break a promise is refused, or told of where that is allowed', async (t) => {
  const ha = onStandby('n1');
  const at = (admission: LockstepView['admission']) => {
    const v = view({ n1: { state: { memoryBytes: 16 * GiB } }, n2: {} }, { admission, own });
    const reach = { ok: true as const, pools: [], copied: false };
    const cluster = planCluster(v.nodes, [
      { spec, own, load: null, reach: { ok: false, why: '' } },
      { ...ha, load: null, reach },
    ]);
    return checkLockstep({ ...v, cluster });
  };
  t.match(at('enforce'), { to: null, nodes: [{ node: 'n2', blockers: [{ code: 'no-failover-room' }] }] });
  const warned = at('warn');
  t.equal(warned.to, 'n2');
  t.match(warned.warnings.join(), /ha would stay off/);
});
