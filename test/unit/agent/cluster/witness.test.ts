import t from 'tap';
import { readClusterCache } from '../../../../agent/cluster/cache.js';
import { found } from '../../../../agent/cluster/found.js';
import { join } from '../../../../agent/cluster/join.js';
import { noGuests, noHypervisor } from '../../../../agent/cluster/witness.js';
import { systemRandom } from '../../../../agent/system.js';
import { ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { FakeServices, KeptLog, Rig } from './rig.js';

void t.test('a witness joins as one, and founds nothing', async (t) => {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  const config = { ...r.nodeConfig('w', '127.0.0.12'), witness: true };
  const deps = { config, services: new FakeServices(), clock: r.clock, log: new KeptLog(), limitMs: 0 };
  await t.rejects(found({ ...deps, random: systemRandom }, 'other'), { code: 'wrong-state' });
  const token = await r.token();
  await join(deps, token);
  t.match((await r.store.read(kinds.node, 'w'))?.value, { witness: true, voter: false });
  t.match(await readClusterCache(config.stateDir), { witness: true });
});

void t.test('where there is no hypervisor there are no domains, and nothing happens to them', async (t) => {
  const h = noHypervisor();
  t.same(await h.list(), []);
  t.same(await h.stats(), []);
  t.notOk(h.connected);
  const stop = new AbortController();
  const events: unknown[] = [];
  const heard = (async () => {
    for await (const e of h.events(stop.signal)) events.push(e);
  })();
  stop.abort();
  await heard;
  t.same(events, []);
  await t.rejects(h.start('x'), { code: 'unsupported' });
  const machine = noGuests({
    isDead: async () => true,
    accel: async () => 'kvm',
    facts: () => null,
    cpuTune: () => ({ cpuMHz: 2000 }),
    use: async () => ({}) as never,
  });
  await t.rejects(machine.accel(), { code: 'unsupported' });
});
