import t from 'tap';
import { Outbox } from '../../../../agent/radio/outbox.js';
import { Slots } from '../../../../agent/radio/slots.js';
import { sampleState, sampleVm } from './samples.js';

const vm = '0b8e1c9e-7a43-4a8e-9a64-0d1b6d4a1f55';
const seqs = (box: Outbox, now: number): number[] =>
  box.due(now).map((d) => (JSON.parse(d.text) as { seq: number }).seq);

await t.test('a change is said at once, the next not before a second', async (t) => {
  const box = new Outbox();
  box.put('state', null, sampleState('n1', { seq: 1 }));
  t.same(seqs(box, 0), [1]);
  t.same(seqs(box, 100), []);
  box.put('state', null, sampleState('n1', { seq: 2, version: '2' }));
  box.put('state', null, sampleState('n1', { seq: 3, version: '3' }));
  t.same(seqs(box, 999), []);
  t.same(seqs(box, 1_000), [3], 'only the newest');
});

await t.test('gauges alone wait five seconds; nothing new is said again after thirty', async (t) => {
  const box = new Outbox();
  box.put('state', null, sampleState('n1', { seq: 1 }));
  box.put('vm', vm, sampleVm('n1', vm, { seq: 1 }));
  t.same(seqs(box, 0), [1, 1]);
  box.put('state', null, sampleState('n1', { seq: 2, atMs: 5, cpuUsedPct: 99, hears: {} }));
  box.put('vm', vm, sampleVm('n1', vm, { seq: 2, atMs: 77 }));
  t.same(seqs(box, 4_999), []);
  t.same(seqs(box, 5_000), [2], 'the VM line has only a newer time: nothing new');
  t.same(seqs(box, 29_999), []);
  t.same(seqs(box, 30_000), [2]);
  t.same(seqs(box, 35_000), [2]);
  box.put('state', null, sampleState('n1', { seq: 3, cpuUsedPct: 99, hears: { n2: 400 } }));
  t.same(seqs(box, 36_000), [3], 'a node newly heard is news');
});

await t.test('each VM has its own pace, and a broker that comes back gets all', async (t) => {
  const box = new Outbox();
  const other = '1b8e1c9e-7a43-4a8e-9a64-0d1b6d4a1f55';
  box.put('vm', vm, sampleVm('n1', vm, { seq: 1 }));
  t.same(seqs(box, 0), [1]);
  box.put('vm', other, sampleVm('n1', other, { seq: 2 }));
  t.same(seqs(box, 10), [2]);
  box.sayAll();
  t.same(seqs(box, 20), [1, 2]);
  box.takeBack('vm', vm);
  t.same(box.due(30), [{ kind: 'vm', id: vm, text: '' }]);
  t.same(box.due(40), []);
  box.sayAll();
  t.same(seqs(box, 50), [2]);
  box.takeBack('vm', other);
  box.put('vm', other, sampleVm('n1', other, { seq: 3 }));
  t.same(seqs(box, 60), [3], 'back before the withdrawal was said');
});

await t.test('slots: so many at a time, in order, and a slot given back twice counts once', async (t) => {
  const slots = new Slots(2);
  const first = await slots.take();
  const second = await slots.take();
  const order: number[] = [];
  const third = slots.take().then((free) => (order.push(3), free));
  const fourth = slots.take().then((free) => (order.push(4), free));
  t.equal(slots.taken, 2);
  first();
  first();
  (await third)();
  second();
  (await fourth)();
  t.same(order, [3, 4]);
  t.equal(slots.taken, 0);
});
