import t from 'tap';
import { historyOf, type HistoryPoint, type HistoryView } from '../../../core/domain/history.js';
import { lab } from './cli-rig.js';

const l = await lab();
const { r } = l;
t.teardown(() => l.stop());

const t0 = 20_000 * 86_400;
const point = (atS: number, n: number): HistoryPoint => ({
  atS,
  avg: [n, n * 2 ** 20, n, n, n, n],
  max: [n, n * 2 ** 20, n, n, n, n],
});
const made = (await r.call('POST', '/api/v1/vms', { name: 'web', node: 'n2' })).body as {
  vm: { id: string };
};
const { id } = made.vm;
const kept = (node: string, of: string, points: HistoryPoint[], span: 'day' | 'month' = 'day'): void =>
  void r.ask.answers.set(`${node} /v1/history/${of}?span=${span}`, historyOf(span, points));

await t.test(
  'a VM’s past is put together of all nodes; the owner’s word counts where two speak',
  async (t) => {
    kept('n1', id, [point(t0, 10), point(t0 + 30, 20)]);
    kept('n2', id, [point(t0 + 30, 40), point(t0 + 60, 50)]);
    const a = await r.call('GET', '/api/v1/vms/web/history');
    const h = a.body as HistoryView;
    t.same(
      h.atMs.map((ms) => ms / 1000 - t0),
      [0, 30, 60],
    );
    t.same(h.avg.cpuPct, [10, 40, 50]);
    t.same(h.silent, ['n3'], 'and who did not answer is named');
  },
);

await t.test('an answer that is none of ours is no answer', async (t) => {
  r.ask.answers.set('n1 /v1/history/node?span=month', { atMs: 'x' });
  const h = (await r.call('GET', '/api/v1/nodes/n1/history?span=month')).body as HistoryView;
  t.same(h.silent, ['n1']);
  t.same(h.atMs, []);
  t.equal((await r.call('GET', '/api/v1/nodes/n1/history?span=year')).status, 400);
  t.equal((await r.call('GET', '/api/v1/nodes/n9/history')).status, 404);
});

await t.test('flotilla vm history, node history', async (t) => {
  kept('n1', 'node', [point(t0, 10), point(t0 + 90, 30)]);
  const text = await l.run('node', 'history', 'n1');
  t.equal(text.code, 0);
  t.match(text.out, /CPU\s+30 %\s+20 %\s+30 %\s+▃··█/);
  t.match(text.out, /Memory in use\s+30 MiB\s+20 MiB/);
  const json = await l.run('vm', 'history', 'web', '--span', 'day', '--json');
  t.equal((JSON.parse(json.out) as HistoryView).atMs.length, 3);
});
