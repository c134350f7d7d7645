import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Load } from './client.js';
import { guestAddress, inOwnNetwork, makePair, protect, startGuest, until } from './pair.js';

inOwnNetwork(fileURLToPath(import.meta.url));

/** Two QEMUs, a guest under TCG, on a machine that may be ten times slower than this one. */
const limitMs = 600_000;

let gen = 1;
const checkpoints = 20;

await t.test('a VM in lockstep loses nothing by the death of its node or of its twin', async (t) => {
  const pair = await makePair();
  t.teardown(() => pair.end());
  const { a, b, vm } = pair;
  await startGuest(pair, a, gen, limitMs);
  t.match(await a.hypervisor.state(vm), { state: 'running' });
  const load = new Load(guestAddress);
  await load.start();

  await protect(pair, { owner: a, twin: b, gen: ++gen, checkpoints, limitMs });
  t.match(await a.lockstep.observe(), [{ role: 'primary', running: true, broken: null, gen: 1 }]);
  t.match(await b.lockstep.observe(), [{ role: 'twin', running: true, broken: null, gen }]);
  t.same(await b.hypervisor.list(), [], 'a twin is no VM of its node');

  await t.test('the twin dies', async (t) => {
    await b.lockstep.end(vm);
    await a.lockstep.goAlone(vm, ++gen);
    t.match(await a.lockstep.observe(), [{ role: 'alone', running: true, gen, broken: null }]);
    const before = load.counts;
    await until('answers', limitMs, () => load.counts > before + 10);
    t.same(load.wrong, []);
  });

  await protect(pair, { owner: a, twin: b, gen: ++gen, checkpoints, limitMs });

  await t.test('the guest of its twin panics, and not its own', async (t) => {
    await b.machines.get(vm)?.qmp().ask('inject-nmi');
    await until('it is known', limitMs, async () => (await b.lockstep.observe())[0]?.panicked === true);
    t.match(await a.lockstep.observe(), [{ role: 'primary', panicked: false }]);
    await b.lockstep.end(vm);
    await a.lockstep.goAlone(vm, ++gen);
    const before = load.counts;
    await until('answers', limitMs, () => load.counts > before + 10);
    t.same(load.wrong, []);
  });

  await protect(pair, { owner: a, twin: b, gen: ++gen, checkpoints, limitMs });
  t.match(await b.lockstep.observe(), [{ panicked: false }], 'another twin, and whole');

  await t.test('the owner dies', async (t) => {
    await a.lockstep.end(vm);
    await b.lockstep.shut(vm);
    await b.lockstep.takeOver(vm, ++gen);
    t.match(await b.lockstep.observe(), [{ role: 'alone', running: true, gen, broken: null }]);
    t.match(await b.hypervisor.list(), [{ uuid: vm, active: true }]);
    const before = load.counts;
    await until('answers', limitMs, () => load.counts > before + 10);
    t.same(load.wrong, []);
  });

  await t.test('an agent that begins anew takes up what runs, and a twin dies', async (t) => {
    await a.hypervisor.undefine(vm);
    await protect(pair, { owner: b, twin: a, gen: ++gen, checkpoints, limitMs });
    const b2 = await b.again();
    const a2 = await a.again();
    t.match(await b2.lockstep.observe(), [{ role: 'primary', running: true, gen: gen - 1 }]);
    t.match(await a2.lockstep.observe(), [{ role: 'twin', gen }]);
    await a2.lockstep.end(vm);
    await b2.lockstep.goAlone(vm, ++gen);
    const before = load.counts;
    await until('answers', limitMs, () => load.counts > before + 10);
  });

  const account = await load.stop();
  t.same(account.wrong, [], `${account.counts} counted, ${account.writes} written`);
});
