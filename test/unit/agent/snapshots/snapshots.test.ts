import { copyFile, mkdir, open, readdir, readFile, truncate, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { snapshotFault } from '../../../../agent/snapshots/check.js';
import { SnapshotKeeper, snapshotEveryMs, takeSnapshot } from '../../../../agent/snapshots/keep.js';
import {
  alone,
  daysKept,
  newestKept,
  snapshotName,
  storedSnapshots,
  toForget,
  type StoredSnapshot,
} from '../../../../agent/snapshots/shelf.js';
import { LedgerMembers } from '../../../../agent/ledger/members.js';
import { epochKey } from '../../../../core/wire/ledger-keys.js';
import { FakeClock } from '../ledger/fake-clock.js';
import { TestCluster } from '../ledger/real-etcd.js';
import { KeptLog } from '../cluster/rig.js';

const hourMs = 3_600_000;
const stored = (takenMs: number, bytes = 1_000): StoredSnapshot => ({
  file: snapshotName(takenMs, 1, 5n),
  takenMs,
  epoch: 1,
  revision: '5',
  bytes,
});

void t.test(
  'which snapshots stay: the newest day of hourly ones, then one a day, within the bound',
  async (t) => {
    const now = Date.UTC(2026, 10, 25, 16);
    const all = Array.from({ length: 24 * 12 }, (_, i) => stored(now - i * hourMs));
    const gone = new Set(toForget(all, now));
    const kept = all.filter((s) => !gone.has(s));
    t.ok(kept.length <= newestKept + daysKept, `${kept.length} stay`);
    t.same(kept.slice(0, newestKept), all.slice(0, newestKept));
    const days = new Set(kept.map((s) => Math.floor(s.takenMs / 86_400_000)));
    t.equal(days.size, daysKept);
    t.same(toForget(kept, now), [], 'and it stays so');
    const big = all.slice(0, 5).map((s) => ({ ...s, bytes: 400 }));
    t.same(toForget(big, now, 1_000), big.slice(2), 'as many as fit');
    t.same(toForget(big, now, 100), big.slice(1), 'the newest in any case');
  },
);

void t.test('one at a time, also among processes; a dead holder holds nothing', async (t) => {
  const dir = path.join(t.testdir(), 'shelf');
  const inner = await alone(dir, () => alone(dir, async () => 'inner'));
  t.equal(inner, null);
  t.equal(await alone(dir, async () => 'after'), 'after');
  const lock = path.join(dir, '.lock');
  await writeFile(lock, '4194304');
  t.equal(await alone(dir, async () => 'dead'), 'dead');
  await writeFile(lock, '');
  t.equal(await alone(dir, async () => 'young'), null);
  await utimes(lock, new Date(0), new Date(0));
  t.equal(await alone(dir, async () => 'stale'), 'stale');
});

void t.test('of a real etcd: taken, checked, found again; damage is seen', async (t) => {
  const dir = t.testdir();
  const cluster = new TestCluster(path.join(dir, 'etcd'));
  t.teardown(() => cluster.stop());
  await cluster.start(['a']);
  const ledger = await cluster.client();
  t.teardown(() => ledger.close());
  await cluster.ready(ledger);
  await ledger.txn([], [{ put: epochKey, value: '3' }]);
  const members = new LedgerMembers(ledger.gateway);
  const clock = new FakeClock();
  const shelf = path.join(dir, 'shelf');
  const d = { dir: shelf, ledger, members, clock, log: new KeptLog() };
  await mkdir(shelf, { recursive: true });
  await writeFile(path.join(shelf, 'ledger-x.db.new'), 'of one that was killed');
  const taken = await takeSnapshot(d);
  t.equal(taken.epoch, 3);
  t.same(await storedSnapshots(shelf), [taken]);
  t.same(await readdir(shelf), [path.basename(taken.file)]);
  t.equal(await snapshotFault(taken.file), null);

  const bad = path.join(dir, 'bad.db');
  await copyFile(taken.file, bad);
  await truncate(bad, taken.bytes - 700);
  t.match(await snapshotFault(bad), /no checksum/);
  await copyFile(taken.file, bad);
  const handle = await open(bad, 'r+');
  await handle.write(Buffer.from('x'), 0, 1, 5_000);
  await handle.close();
  t.match(await snapshotFault(bad), /checksum does not fit/);
  await writeFile(bad, 'not a database at all'.repeat(100));
  t.match(await snapshotFault(bad), /no database/);
  await writeFile(bad, '');
  t.match(await snapshotFault(bad), /no database/);
  await t.rejects(snapshotFault(path.join(dir, 'none')), { code: 'ENOENT' });

  // A stream that breaks leaves what was there.
  const broken = {
    snapshot: async (f: string) => (
      await writeFile(f, (await readFile(taken.file)).subarray(0, 9_000)),
      9_000
    ),
  };
  await t.rejects(takeSnapshot({ ...d, members: broken }), { code: 'checksum-mismatch' });
  t.same(await storedSnapshots(shelf), [taken]);

  const keeper = new SnapshotKeeper(d);
  const next = await keeper.step();
  t.ok(next > snapshotEveryMs / 2 && next <= snapshotEveryMs, 'not due yet');
  clock.wallOffsetMs += 2 * hourMs;
  await keeper.step();
  t.equal((await storedSnapshots(shelf)).length, 2);
});

void t.test('health: an old snapshot is said, with the reason', async (t) => {
  const dir = t.testdir();
  const clock = new FakeClock();
  const failing = { list: async () => Promise.reject(new Error('no ledger today')) };
  const members = { snapshot: async () => 0 };
  const k = new SnapshotKeeper({ dir, ledger: failing, members, clock, log: new KeptLog() });
  t.same(k.health(), []);
  k.start();
  t.same(k.health(), []);
  await k.step();
  clock.wallOffsetMs += 4 * hourMs;
  t.match(k.health(), [{ part: 'ledger snapshots', ok: false, text: /none was taken: no ledger today/ }]);
  await k.stop();
});
