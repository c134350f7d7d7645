import t from 'tap';
import { decideSchedule, newSnapshot, revertTo, scheduledName } from '../../../../core/decide/vm-snapshot.js';
import { firstOwn } from '../../../../core/decide/vm-make.js';
import type { Disk } from '../../../../core/domain/disk.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { Pool } from '../../../../core/domain/pool.js';
import type { SnapshotKind } from '../../../../core/domain/snapshot-schedule.js';
import type { VmSpec } from '../../../../core/domain/vm.js';
import type { VmSnapshot } from '../../../../core/domain/vm-snapshot.js';

const hour = 3_600_000;
const day = 24 * hour;
/** A Monday, midnight. */
const monday = Date.UTC(2026, 10, 30);
const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const ids = (from: number): (() => string) => {
  let n = from;
  return () => id(n++);
};

const pools: Record<string, Pool> = Object.fromEntries(
  (['local', 'shared', 'thin'] as const).map((kind, i) => [
    id(100 + i),
    { id: id(100 + i), name: kind, kind, path: '/p', nodes: null, reservePct: 5 },
  ]),
);
const [local = '', shared = '', thin = ''] = Object.keys(pools);
const disk = (n: number, pool: string, o: Partial<Disk> = {}): Disk => ({
  id: id(n),
  name: `disk${n}`,
  vm: id(1),
  pool,
  node: pool === shared ? null : 'n1',
  format: pool === thin ? 'raw' : 'qcow2',
  sizeBytes: 2 ** 30,
  madeBytes: 2 ** 30,
  source: { kind: 'blank' },
  state: 'ready',
  error: null,
  ...o,
});
const spec = (disks: readonly Disk[], o: Partial<VmSpec> = {}): VmSpec => ({
  id: id(1),
  name: 'web',
  generation: 4,
  note: '',
  tags: [],
  cpus: 1,
  memoryMiB: 128,
  firmware: 'bios',
  boot: ['disk'],
  disks: disks.map((d) => ({ disk: d.id, bus: 'virtio' })),
  cdroms: [],
  nics: [],
  cloudInit: null,
  power: 'stopped',
  powerGeneration: 1,
  stopTimeoutS: 30,
  onCrash: 'restart',
  ha: vmHaDefault,
  ...o,
});
const subject = (disks: readonly Disk[], o: Partial<VmSpec> = {}, snapshots: readonly VmSnapshot[] = []) => ({
  spec: spec(disks, o),
  own: firstOwn('n1', null),
  disks,
  pool: (p: string) => pools[p],
  snapshots,
});
const ask = {
  id: id(50),
  name: 'x',
  note: '',
  consistency: 'auto',
  keptFor: [] as SnapshotKind[],
  nowMs: monday,
  newId: ids(60),
} as const;
const taken = (disks: readonly Disk[]): VmSnapshot => ({
  ...newSnapshot(subject(disks), ask),
  state: 'ready',
});
const why = (act: () => unknown): string => {
  try {
    act();
  } catch (e) {
    if (e instanceof FlotillaError) return `${e.code}: ${e.message}`;
    throw e;
  }
  return '';
};

void t.test('what a snapshot is of, and where it lies', async (t) => {
  const here = newSnapshot(subject([disk(2, thin), disk(3, shared)]), ask);
  t.match(here, { node: 'n1', state: 'wanted', disks: [{ disk: id(2) }, { disk: id(3) }] });
  t.equal(newSnapshot(subject([disk(3, shared)]), ask).node, null, 'every node of a shared pool reaches it');
  const growing = newSnapshot(subject([disk(2, thin, { sizeBytes: 2 ** 31 })]), ask);
  t.equal(growing.disks[0]?.sizeBytes, 2 ** 30, 'an enlargement that is not made is not in it');
  t.match(
    why(() => newSnapshot(subject([]), ask)),
    /^wrong-state: .*no disk/,
  );
  t.match(
    why(() => newSnapshot(subject([disk(2, thin, { state: 'wanted' })]), ask)),
    /disk2 is not ready/,
  );
  t.match(
    why(() => newSnapshot(subject([disk(2, thin)], {}, [here]), ask)),
    /^name-taken/,
  );
  const many = Array.from({ length: 48 }, (_, n) => ({ ...here, name: `s${n}` }));
  t.match(
    why(() => newSnapshot(subject([disk(2, thin)], {}, many), ask)),
    /^ledger-full/,
  );
});

void t.test('a revert gives new disks of the same names, and the old ones go', async (t) => {
  const disks = [disk(2, thin), disk(3, local)];
  const x = taken(disks);
  const back = revertTo(subject(disks), x, { newId: ids(80) });
  t.equal(back.spec.generation, 5);
  t.same(
    back.spec.disks.map((d) => d.disk),
    [id(80), id(81)],
  );
  t.match(
    back.disks.map((d) => [d.id, d.name, d.state, d.source.kind]),
    [
      [id(80), 'disk2', 'wanted', 'snapshot'],
      [id(2), 'disk2', 'deleting', 'blank'],
      [id(81), 'disk3', 'wanted', 'snapshot'],
      [id(3), 'disk3', 'deleting', 'blank'],
    ],
  );
  const fewer = revertTo(subject([disk(2, thin)]), x, { newId: ids(80) });
  t.equal(fewer.spec.disks.length, 2, 'one that was removed since is back');
  const no = (o: Parameters<typeof revertTo>[0], y: VmSnapshot = x): string =>
    why(() => revertTo(o, y, { newId: ids(80) }));
  t.match(no(subject([...disks, disk(4, thin)])), /"disk4" is not in snapshot/);
  t.match(no(subject(disks, { power: 'running' })), /it is not off/);
  t.match(no({ ...subject(disks), own: { ...firstOwn('n1', null), state: 'running' } }), /it is not off/);
  t.match(no({ ...subject(disks), own: firstOwn('n2', null) }), /lies on n1, not on n2/);
  t.match(no(subject(disks), { ...x, state: 'failed' }), /is failed, not ready/);
});

void t.test('what is detached is left aside', async (t) => {
  const disks = [disk(2, thin), disk(3, local)];
  const x = taken(disks);
  const off = {
    ...subject(disks),
    spec: {
      ...spec(disks),
      disks: disks.map((d, i) => ({
        disk: d.id,
        bus: 'virtio' as const,
        ...(i === 1 ? { detached: true } : {}),
      })),
    },
  };
  const y: VmSnapshot = { ...newSnapshot(off, { ...ask, newId: ids(90) }), state: 'ready' };
  t.same(
    y.disks.map((d) => d.disk),
    [id(2)],
  );
  t.match(
    why(() => revertTo(off, x, { newId: ids(80) })),
    /"disk3" is detached/,
  );
  t.same(
    revertTo(off, y, { newId: ids(80) }).spec.disks.map((d) => d.disk),
    [id(80), id(3)],
    'it stays',
  );
});

void t.test('a disk with two copies is written over, while both are the same', async (t) => {
  const two = disk(2, thin, { replicas: 2, node: null });
  const x = taken([two]);
  t.match(x, { node: 'n1', disks: [{ replicated: true }] });
  const back = revertTo(subject([two]), x, { newId: ids(80) });
  t.match(back.disks, [{ id: id(2), state: 'wanted', replicas: 2, source: { kind: 'snapshot' } }]);
  t.equal(back.disks.length, 1);
  const stale = { ...subject([two]), own: { ...firstOwn('n1', 'n2'), sync: 'stale' as const } };
  t.match(
    why(() => revertTo(stale, x, { newId: ids(80) })),
    /out of date/,
  );
  const grown = { ...two, sizeBytes: 2 ** 31, madeBytes: 2 ** 31 };
  t.match(
    why(() => revertTo(subject([grown]), x, { newId: ids(80) })),
    /vm clone|another size/,
  );
});

const at = (takenMs: number, keptFor: SnapshotKind[], o: Partial<VmSnapshot> = {}): VmSnapshot => ({
  ...taken([disk(2, thin)]),
  id: id(1000 + Math.floor(takenMs / hour) - Math.floor(monday / hour)),
  takenMs,
  keptFor,
  ...o,
});
const schedule = { hourly: 2, daily: 2, weekly: 1 };

void t.test('what is due, and for how long one is kept', async (t) => {
  t.same(decideSchedule(schedule, [], monday).due, ['hourly', 'daily', 'weekly']);
  const first = at(monday + 5, ['hourly', 'daily', 'weekly']);
  t.same(decideSchedule(schedule, [first], monday + hour - 1).due, []);
  t.same(decideSchedule(schedule, [first], monday + hour).due, ['hourly']);
  t.same(decideSchedule(schedule, [first], monday + day).due, ['hourly', 'daily']);
  t.same(decideSchedule(schedule, [first], monday + 6 * day + 23 * hour).due, ['hourly', 'daily']);
  t.same(decideSchedule(schedule, [first], monday + 7 * day).due, ['hourly', 'daily', 'weekly']);
  t.same(
    decideSchedule(schedule, [first], monday + 40 * day).due,
    ['hourly', 'daily', 'weekly'],
    'missed: one',
  );
  t.same(decideSchedule(schedule, [first], monday - 2 * day).due, [], 'the clock was set back');
  const hours = [0, 1, 2, 3].map((n) => at(monday + n * hour, n === 0 ? ['hourly', 'daily'] : ['hourly']));
  t.same(
    decideSchedule(schedule, hours, monday + 3.5 * hour).expired.map((x) => x.takenMs - monday),
    [hour],
    'the first is kept as that of the day',
  );
  t.same(decideSchedule(undefined, hours, monday + 9 * day), { due: [], expired: [] }, 'ended: all stay');
  t.same(decideSchedule(schedule, [at(monday, [])], monday + 9 * day).expired, [], 'a person’s stays');
});

void t.test('one that failed is tried again, and says why until then', async (t) => {
  const bad = at(monday + 1, ['hourly'], { state: 'failed' });
  const d = decideSchedule({ hourly: 2, daily: 0, weekly: 0 }, [bad], monday + 2);
  t.same([d.due, d.expired], [['hourly'], []]);
  const good = at(monday + hour / 2, ['hourly'], { id: id(7) });
  t.match(decideSchedule({ hourly: 2, daily: 0, weekly: 0 }, [bad, good], monday + hour - 1), {
    due: [],
    expired: [{ id: bad.id }],
  });
  const wanted = at(monday + 1, ['hourly'], { state: 'wanted' });
  t.same(decideSchedule({ hourly: 2, daily: 0, weekly: 0 }, [wanted], monday + 2).due, [], 'under way');
  t.equal(scheduledName(['hourly', 'daily'], monday + 65 * 60_000), 'daily-2026-11-30-0105');
});
