import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import { vappStartDefault, vappStopDefault, type Vapp } from '../../core/domain/vapp.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Disk } from '../../core/domain/disk.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';
import { records, vappOf } from './vapps.js';

/**
 * A vApp is made beside two VMs, as they are now, while agents die at each of their acts: in the end all of it is there
 * once, or nothing, and no snapshot is left that nothing needs.
 */

const id = '00000000-0000-4000-8000-0000000000bb';
const parts = ['db', 'web'];
const uuid = (n: number): string => `00000000-0000-4000-8000-0000000001${String(n).padStart(2, '0')}`;

interface Shop {
  readonly w: World;
  /** The originals, by member. */
  readonly of: ReadonlyMap<string, string>;
  copy(o?: { readonly memoryMiB?: number; readonly linked?: boolean }): Vapp;
}

async function shop(): Promise<Shop> {
  const w = new World({ seed: 12, nodes: 3, log: true, locks: null });
  w.boot();
  await w.pass(25_000);
  const of = new Map(
    parts.map((name, i) => [
      name,
      w.createVm(`old-${name}`, `n${i + 1}`, { power: 'stopped', ha: { enabled: false } as never }),
    ]),
  );
  await w.pass(3_000);
  return {
    w,
    of,
    copy: (o = {}) =>
      vappOf(
        id,
        'copy',
        parts.map((name, i) => ({
          name,
          group: null,
          vm: uuid(i),
          start: { ...vappStartDefault, order: i + 1 },
          stop: vappStopDefault,
          make: {
            name: `copy-${name}`,
            memoryMiB: name === 'web' ? (o.memoryMiB ?? 128) : 128,
            stopTimeoutS: 10,
            disks: [{ name: 'root', pool: w.sharedPool }],
          },
          from: { vm: of.get(name) ?? '', snapshot: uuid(10 + i), linked: o.linked === true, keep: false },
          leaving: false,
        })),
      ),
  };
}

const vms = (w: World): string[] =>
  w.voters.store
    .peekAll('/flotilla/vm/')
    .filter((e) => e.key.endsWith('/spec'))
    .map((e) => e.key);

/** What is left to find of a copy that was not made. */
function leftovers(s: Shop): readonly unknown[] {
  const { w } = s;
  return [
    ...vms(w).filter((k) => ![...s.of.values()].some((v) => k.includes(v))),
    ...records(w, kinds.vmSnapshot.prefix),
    ...records(w, kinds.vapp.prefix),
    ...w.pool.snapshots.keys(),
    ...records<Disk>(w, kinds.disk.prefix).filter((d) => ![...s.of.values()].includes(d.vm)),
  ];
}

const gone = (s: Shop): boolean => leftovers(s).length === 0;

async function life(
  death: { readonly who: string; readonly n: number; readonly when: Death['when'] } | null,
) {
  const s = await shop();
  const { w } = s;
  const node = w.node(death?.who ?? 'n1');
  const before = node.agent?.acts ?? 0;
  if (death !== null) node.dieAt('agent', death.n, death.when);
  const op = w.deployVapp(s.copy(), true);
  await w.until('it ends', () => opFinished(w.op(op)), 400_000);
  await w
    .until(
      'its snapshots go',
      () => w.pool.snapshots.size === 0 && records(w, kinds.vmSnapshot.prefix).length === 0,
      120_000,
    )
    .catch(() => undefined);
  const made = {
    state: w.op(op).state,
    error: w.op(op).error?.message ?? '',
    runs: parts.every((_, i) => w.runsOn(uuid(i)).length === 1),
    snapshots: w.pool.snapshots.size + records(w, kinds.vmSnapshot.prefix).length,
    disks: records<Disk>(w, kinds.disk.prefix).filter((d) => d.state === 'ready').length,
  };
  return { w, s, made, acts: (node.agent?.acts ?? 0) - before };
}

const well = { state: 'done', error: '', runs: true, snapshots: 0, disks: 4 };

await t.test('it is made beside the originals, started in its order, and its snapshots go', async (t) => {
  const { w, made } = await life(null);
  t.same(made, well, w.lines.slice(-30).join('\n'));
  for (const [i, name] of parts.entries()) t.same(w.spec(uuid(i)).vapp, { id, member: name });
  const [record] = records<Vapp>(w, kinds.vapp.prefix);
  t.same(
    record?.members.map((m) => [m.make, m.from]),
    [
      [null, undefined],
      [null, undefined],
    ],
    'nothing of how it was made is kept',
  );
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'linked disks keep their snapshot, also when it is deleted, and let it go with them',
  async (t) => {
    const s = await shop();
    const { w } = s;
    const op = w.deployVapp(s.copy({ linked: true }), false);
    await w.until('it is made', () => opFinished(w.op(op)), 200_000);
    t.match(w.op(op), { state: 'done', error: null });
    await w.pass(120_000);
    t.same(
      records<VmSnapshot>(w, kinds.vmSnapshot.prefix).map((x) => x.state),
      ['deleting', 'deleting'],
    );
    t.equal(w.pool.snapshots.size, 2, 'their volumes are there');
    const end = w.onVapp('vapp.delete', id);
    await w.until('it is deleted', () => opFinished(w.op(end)), 200_000);
    await w.until('nothing is left', () => gone(s), 120_000);
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('one of it fits nowhere: members, snapshots and names are taken back', async (t) => {
  const s = await shop();
  const { w } = s;
  const op = w.deployVapp(s.copy({ memoryMiB: 9_000_000 }), true);
  await w.until('it ends', () => opFinished(w.op(op)), 200_000);
  t.match(w.op(op), { state: 'failed', error: { code: 'no-node-fits' } });
  await w.until('nothing is left', () => gone(s), 120_000).catch(() => undefined);
  t.same(leftovers(s), []);
  w.end();
});

await t.test('an original is deleted meanwhile: nothing is made, and it says so', async (t) => {
  const s = await shop();
  const { w } = s;
  const copy = s.copy();
  const lost = s.of.get('web') ?? '';
  w.vms.delete('old-web');
  for (const e of w.voters.store.peekAll('/flotilla/vm/'))
    if (e.key.includes(lost)) w.voters.store.drop(e.key);
  const op = w.deployVapp(copy, false);
  await w.until('it ends', () => opFinished(w.op(op)), 200_000);
  t.match(w.op(op), { state: 'failed', error: { code: 'not-found', message: /"web" begins as is gone/ } });
  await w.until('no snapshot is left', () => w.pool.snapshots.size === 0, 120_000);
  w.end();
});

await t.test('it is cancelled at any point: nothing is left of it', async (t) => {
  for (const point of ['snapshots', 'first', 'second']) {
    const s = await shop();
    const { w } = s;
    const op = w.deployVapp(s.copy(), false);
    await w.until(`${point} of it is there`, () =>
      point === 'snapshots'
        ? records(w, kinds.vmSnapshot.prefix).length > 0
        : vms(w).length > (point === 'first' ? 2 : 3),
    );
    w.cancel(op);
    await w.until('it ends', () => opFinished(w.op(op)), 200_000);
    t.equal(w.op(op).state, 'cancelled', point);
    await w.until('nothing is left', () => gone(s), 120_000).catch(() => undefined);
    t.same(leftovers(s), [], point);
    w.end();
  }
});

for (const who of ['n1', 'n2']) {
  await t.test(`the agent of ${who} dies at each of its acts: another one goes on`, async (t) => {
    const { w, acts } = await life(null);
    w.end();
    let nights = 0;
    for (let n = 0; n < Math.min(acts, 240); n += 15)
      for (const when of ['before', 'after'] as const) {
        const { w, made } = await life({ who, n, when });
        nights++;
        if (JSON.stringify(made) !== JSON.stringify(well) || w.checks.violations.length > 0) {
          t.fail(`act ${n} ${when}: ${JSON.stringify(made)} ${JSON.stringify(w.checks.violations)}`);
          t.comment(w.lines.slice(-40).join('\n'));
        }
        w.end();
      }
    t.ok(nights > 4, `${nights} nights`);
  });
}
