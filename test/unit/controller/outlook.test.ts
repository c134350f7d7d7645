import t from 'tap';
import type { CapacityView, RollingView } from '../../../core/wire/rest.js';
import { armed, haRig, made } from './ha-rig.js';
import { GiB } from './rig.js';

const disks = [{ pool: 'shared', sizeBytes: GiB }];

void t.test('capacity: how many more fit, and until when what there is will do', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const ask = async (q: string) => (await r.call('GET', `/api/v1/capacity?${q}`)).body as CapacityView;
  const bare = await ask('memoryMiB=1024&ha=false');
  const kept = await ask('memoryMiB=1024');
  t.ok(bare.vms > kept.vms && kept.vms > 0, `${bare.vms} and ${kept.vms}`);
  t.match(kept.sentence, /more VMs of 1 CPUs and 1 GiB fit, each with a standby/);
  t.equal((await ask('memoryMiB=16000000')).vms, 0);
  const small = await ask(`memoryMiB=64&diskBytes=${400 * GiB}&pool=shared`);
  t.match(small.sentence, /the pool "shared" ends it/);
  t.match(await r.call('GET', '/api/v1/capacity'), { status: 400 });
  t.match(await r.call('GET', '/api/v1/capacity?memoryMiB=-4'), { status: 400 });
  t.match(await r.call('GET', '/api/v1/capacity?memoryMiB=64&diskBytes=1&pool=none'), { status: 404 });

  t.equal(kept.memoryMiB.daysUntilFull, null, 'nothing is known yet');
  await made(r, { name: 'web', disks, memoryMiB: 1024 });
  const now = Date.now();
  const day = 86_400_000;
  const use = [2, 1].map((d) => ({ atMs: now - d * day, memoryMiB: 1088 - d * 100, diskBytes: 5 }));
  const record = { by: 'n1', atMs: now, sentence: '', moves: [], past: [], use };
  r.memory.poke('/flotilla/balance/cluster', JSON.stringify(record));
  await r.view.ledger.refresh();
  const { memoryMiB } = await ask('memoryMiB=1024');
  t.equal(memoryMiB.used, 1088);
  const days = (memoryMiB.total - 1088) / 100;
  t.ok(Math.abs((memoryMiB.daysUntilFull ?? 0) - days) < 1, `${memoryMiB.daysUntilFull} days, not ${days}`);
});

void t.test(
  'rolling work: an order of all nodes, with what moves; what cannot be emptied is told',
  async (t) => {
    const r = await haRig();
    t.teardown(() => r.stop());
    const ask = async (q = '') => (await r.call('GET', `/api/v1/rolling${q}`)).body as RollingView;
    t.match(await ask(), {
      groups: [{ nodes: ['n1'], moves: [] }, { nodes: ['n2'] }, { nodes: ['n3'] }],
      blocked: [],
    });
    await made(r, { name: 'web', disks, node: 'n1', power: 'running' });
    await armed(r, 'web', 'n2');
    const plan = await ask();
    t.same(
      plan.groups.map((g) => g.nodes.join()),
      ['n2', 'n3', 'n1'],
      'those with the least on them first',
    );
    t.match(plan.groups[2]?.moves, [{ name: 'web' }]);
    t.match(plan.sentence, /3 nodes could go down in 3 turns, with 1 moves of VMs/);
    await made(r, {
      name: 'bound',
      disks: [{ pool: 'local', sizeBytes: GiB }],
      node: 'n2',
      power: 'running',
    });
    await armed(r, 'bound', 'n2');
    t.match(await ask(), { blocked: [{ node: 'n2', reason: /"bound" cannot leave it/ }] });
    t.match(await r.call('GET', '/api/v1/rolling?atOnce=0'), { status: 400 });
  },
);
