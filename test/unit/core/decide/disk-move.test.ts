import t from 'tap';
import {
  decideDiskMove,
  movedDisk,
  withMoved,
  type DiskMoveView,
} from '../../../../core/decide/disk-move.js';
import { diskSchema, type Disk } from '../../../../core/domain/disk.js';
import { poolSchema } from '../../../../core/domain/pool.js';
import type { VmSpec } from '../../../../core/domain/vm.js';

const MiB = 2 ** 20;
const id = (n: number): string => `22222222-2222-4222-8222-22222222222${n}`;
const disk = (n: number, o: Partial<Disk> = {}): Disk =>
  diskSchema.parse({
    id: id(n),
    name: 'data',
    vm: id(9),
    pool: id(7),
    node: 'n1',
    format: 'raw',
    sizeBytes: 64 * MiB,
    madeBytes: 64 * MiB,
    source: { kind: 'blank' },
    state: 'ready',
    error: null,
    ...o,
  });
const to = disk(1, { pool: id(8), instead: id(0) });
const spec = { power: 'running' as const, disks: [{ disk: id(0), bus: 'virtio' as const }] };
const view = (o: Partial<DiskMoveView> = {}): DiskMoveView => ({
  me: 'n1',
  op: { cancelAsked: false },
  spec,
  own: { owner: 'n1', state: 'running' },
  from: disk(0),
  to,
  toPath: '/new',
  active: true,
  inMachine: { path: '/old', mirror: null },
  ...o,
});
const step = (o: Partial<DiskMoveView> = {}) => decideDiskMove(view(o));

void t.test('while it runs QEMU copies; what it began for an earlier agent is found again', async (t) => {
  t.same(step(), { do: 'mirror', adopt: false });
  const mirror = { path: '/new', ready: false };
  t.same(step({ inMachine: { path: '/old', mirror } }), { do: 'mirror', adopt: true });
  t.match(step({ inMachine: { path: '/old', mirror: { path: '/x', ready: true } } }), { do: 'undo' });
  t.match(step({ own: { owner: 'n1', state: 'migrating' } }), { do: 'wait' });
  t.match(step({ to: { ...to, state: 'wanted' } }), { do: 'wait' });
});

void t.test('past the change nothing is undone: the ledger is told first', async (t) => {
  const there = { path: '/new', mirror: null };
  t.equal(step({ inMachine: there }).do, 'swap');
  t.equal(step({ inMachine: there, op: { cancelAsked: true } }).do, 'swap');
  t.equal(step({ inMachine: there, from: null }).do, 'swap');
  const done = { ...spec, disks: [{ disk: id(1), bus: 'virtio' as const }] };
  t.equal(step({ spec: done, inMachine: there, op: { cancelAsked: true } }).do, 'finish');
  t.match(step({ own: { owner: 'n2', state: 'running' }, inMachine: there }), { do: 'wait' });
});

void t.test('off, or not in the machine: a plain copy, while nobody can start it', async (t) => {
  const off = { active: false, inMachine: null, own: { owner: 'n1', state: 'stopped' as const } };
  t.match(step(off), { do: 'wait' }, 'it is about to start');
  t.equal(step({ ...off, spec: { ...spec, power: 'stopped' } }).do, 'copy');
  const out = { ...spec, disks: [{ disk: id(0), bus: 'virtio' as const, detached: true }] };
  t.equal(step({ spec: out, inMachine: null }).do, 'copy');
  t.match(step({ inMachine: null }), { do: 'wait' });
});

void t.test('it ends: cancelled, its volume cannot be made, or another node owns the VM', async (t) => {
  t.same(step({ op: { cancelAsked: true } }), { do: 'undo', why: null });
  t.match(step({ to: { ...to, state: 'failed' } }), { do: 'undo', why: /cannot be made/ });
  t.match(step({ to: { ...to, node: 'n2' } }), { do: 'undo', why: /n2, which does not own/ });
  t.match(step({ from: disk(0, { state: 'deleting' }) }), { do: 'undo' });
});

void t.test('what takes its place keeps its device, however often it moves', async (t) => {
  const one = withMoved(spec as unknown as VmSpec, disk(0), to);
  t.match(one.spec, { disks: [{ disk: id(1), bus: 'virtio' }] });
  t.match([one.from.state, one.to.device, one.to.instead], ['deleting', id(0), undefined]);
  const two = withMoved(one.spec, one.to, disk(2, { instead: id(1) }));
  t.equal(two.to.device, id(0));
});

void t.test('where it may go', async (t) => {
  const pool = (kind: 'local' | 'shared' | 'thin') =>
    poolSchema.parse({ id: id(8), name: kind, kind, path: '/p', nodes: null, reservePct: 5 });
  const go = (
    from: Disk,
    kind: 'local' | 'shared' | 'thin',
    o: { format?: 'raw' | 'qcow2'; replicas?: 1 | 2 } = {},
  ) =>
    movedDisk(
      'VM "x"',
      from,
      { pool: pool(kind), format: o.format, replicas: o.replicas },
      { id: id(3), owner: 'n1' },
    );
  t.match(go(disk(0, { format: 'qcow2' }), 'shared'), { node: null, format: 'qcow2', instead: id(0) });
  t.match(go(disk(0, { format: 'qcow2', sizeBytes: 65 * MiB, madeBytes: 65 * MiB }), 'thin'), {
    node: 'n1',
    format: 'raw',
    sizeBytes: 68 * MiB,
    madeBytes: 0,
    state: 'wanted',
  });
  t.match(go(disk(0), 'thin', { replicas: 2 }), { node: null, replicas: 2 });
  const twice = disk(0, { replicas: 2, node: null });
  t.equal(go(twice, 'thin').replicas, 2, 'as many as before');
  t.equal(go(twice, 'thin', { replicas: 1 }).sizeBytes, 68 * MiB, 'room for the whole device of a pair');
  t.throws(() => go(twice, 'local'), { code: 'bad-input' });
  t.throws(() => go(disk(0), 'local', { replicas: 2 }), { code: 'bad-input' });
  t.throws(() => go(disk(0), 'thin', { format: 'qcow2' }), { code: 'bad-input' });
  t.throws(() => go(disk(0, { pool: id(8) }), 'local'), { code: 'bad-input', message: /there already/ });
  t.throws(() => go(disk(0, { sizeBytes: 128 * MiB }), 'local'), { code: 'wrong-state' });
});
