import { open, readdir, stat, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import type { HeardNode } from '../../../../agent/env.js';
import { historyApp } from '../../../../agent/history/http.js';
import { HistoryKeeper } from '../../../../agent/history/keep.js';
import { problemResponse } from '../../../../agent/http/problem.js';
import { historyFileBytes, putPoint, readPoints } from '../../../../agent/history/ring.js';
import { historySchema, historySpans, type HistoryPoint } from '../../../../core/domain/history.js';
import { runningVm, sampleHeard, sampleVms } from '../status/samples.js';

const dayS = 86_400;
const point = (atS: number, n: number): HistoryPoint => ({
  atS,
  avg: [n, n, n, n, n, n],
  max: [n + 1, n + 1, n + 1, n + 1, n + 1, n + 1],
});
/** The beginning of today, so that it is one of every span's slots, and files are of then. */
const t0 = Math.floor(Date.now() / 1000 / dayS) * dayS;

await t.test(
  'a day is kept by half minutes, a month by half hours, in a file that never grows',
  async (t) => {
    const file = path.join(t.testdir(), 'x.ring');
    const step = historySpans.day.stepS;
    // The ring's end is passed twice; most of the time between is left out, as a node that is off does.
    const times = [0, 1, 59, 60, 2_879, 2_880, 2_881, 5_759, 5_760, 48 * 60 * 40].map((n) => t0 + n * step);
    for (const [i, at] of times.entries()) await putPoint(file, point(at, i));
    t.ok((await stat(file)).size <= historyFileBytes);
    const last = times.at(-1) ?? 0;
    t.same(
      (await readPoints(file, 'day', last)).map((p) => p.atS),
      [last],
      'what is older than a day is not shown',
    );
    t.same(
      (await readPoints(file, 'day', t0 + 2_881 * step)).map((p) => (p.atS - t0) / step),
      [59, 60, 2_881],
      'what was written later is overwritten or lies ahead',
    );
    const month = await readPoints(file, 'month', t0 + 30 * dayS - 1);
    t.same(
      month.map((p) => (p.atS - t0) / 1800),
      [0, 1, 47, 48, 95, 96],
    );
    t.equal(month[0]?.avg[0], 1, 'the mean of 0, 1 and 2');
    t.equal(month[0]?.max[0], 3, 'and the highest');
  },
);

await t.test('a slot that a crash tore, and a file of something else, are nothing', async (t) => {
  const file = path.join(t.testdir(), 'x.ring');
  await putPoint(file, point(t0, 1));
  await putPoint(file, point(t0 + 30, 2));
  const f = await open(file, 'r+');
  await f.write(Buffer.from([7]), 0, 1, 64 + 56 + 20);
  await f.close();
  t.same(
    (await readPoints(file, 'day', t0 + 60)).map((p) => p.atS),
    [t0],
  );
  await putPoint(file, point(t0 + 60, 3));
  t.equal((await readPoints(file, 'day', t0 + 60)).length, 2, 'it goes on');
  await writeFile(file, 'something else that is long enough to be a head of something');
  t.same(await readPoints(file, 'day', t0 + 60), []);
  await putPoint(file, point(t0 + 90, 4));
  t.equal((await readPoints(file, 'day', t0 + 90)).length, 1, 'it is begun anew');
  t.same(await readPoints(path.join(t.testdir(), 'none.ring'), 'day', t0), []);
});

const clockAt = (ms: { now: number }) => ({
  nowMs: () => ms.now,
  wallMs: () => ms.now,
  sleep: (_: number, signal?: AbortSignal) =>
    new Promise<void>((done) => signal?.addEventListener('abort', () => done())),
});

await t.test('the keeper gathers what the node and its VMs said, and serves it', async (t) => {
  const dir = path.join(t.testdir(), 'history');
  const at = { now: t0 * 1000 };
  let own: HeardNode | undefined;
  const said = (ms: number, cpuPct: number): HeardNode => {
    const vm = runningVm(1);
    const stats = vm.stats === null ? null : { ...vm.stats, atMs: ms, cpuPct };
    const n = sampleHeard('n1', { vms: sampleVms({ ...vm, stats }, runningVm(2, { stats: null })) });
    return { ...n, state: n.state === null ? null : { ...n.state, atMs: ms, cpuUsedPct: 2 * cpuPct } };
  };
  const gone = new Set<string>();
  const make = (): HistoryKeeper =>
    new HistoryKeeper({
      dir,
      own: () => own,
      isVm: (id) => !gone.has(id),
      clock: clockAt(at),
      log: { info: () => undefined, warn: (w) => t.fail(w), error: (w) => t.fail(w) },
    });
  const k = make();
  await k.look();
  for (const [s, cpu] of [
    [0, 10],
    [5, 30],
    [6, 30],
    [31, 50],
  ] as const) {
    at.now = (t0 + s) * 1000;
    // At 6 s nothing new was said.
    own = said(s === 6 ? (t0 + 5) * 1000 : at.now, cpu);
    await k.look();
  }
  const id = runningVm(1).vm;
  const app = historyApp(k).onError((e) => problemResponse(e));
  const day = historySchema.parse(await (await app.request(`/${id}`)).json());
  t.same(day.atMs, [t0 * 1000]);
  t.same(day.avg.cpuPct, [20]);
  t.same(day.max.cpuPct, [30]);
  t.same((await k.read('node', 'day')).avg.cpuPct, [40]);
  t.same((await k.read('node', 'day')).avg.diskWriteBps, day.avg.diskWriteBps, 'the traffic of its VMs');
  t.equal((await readdir(dir)).length, 2, 'a VM that is off has none');
  await k.stop();
  at.now += 1000;
  const again = make();
  t.equal((await again.read(id, 'day')).atMs.length, 2, 'what was gathered is written at the end');
  t.same((await again.read(id, 'month')).atMs, [t0 * 1000]);
  gone.add(id);
  await again.look();
  t.same(await readdir(dir), ['node.ring'], 'of a deleted VM nothing stays');
  await utimes(path.join(dir, 'node.ring'), t0 - 40 * dayS, t0 - 40 * dayS);
  await make().look();
  t.same(await readdir(dir), [], 'nor of what is a month old');
  await again.stop();

  t.equal((await app.request('/..%2f..%2fetc%2fpasswd')).status, 400, 'a path is no subject');
  t.equal((await app.request(`/${id}?span=year`)).status, 400);
});

await t.test('a disk that takes nothing ends nothing, and is told once', async (t) => {
  const at = { now: t0 * 1000 };
  const warned: string[] = [];
  const k = new HistoryKeeper({
    dir: path.join(t.testdir({ file: '' }), 'file', 'below'),
    own: () => sampleHeard('n1', { vms: sampleVms(runningVm(1)) }),
    isVm: () => null,
    clock: clockAt(at),
    log: { info: () => undefined, warn: (w) => warned.push(w), error: (w) => t.fail(w) },
  });
  for (let i = 0; i < 5; i++) {
    at.now += 30_000;
    await k.look();
  }
  t.equal(warned.length, 1);
  t.match(warned[0], /the history cannot be written/);
});
