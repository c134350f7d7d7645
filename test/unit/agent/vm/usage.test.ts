import t from 'tap';
import type { AgentEnv } from '../../../../agent/env.js';
import type { StatsOptions } from '../../../../agent/libvirt/hypervisor.js';
import { Usage } from '../../../../agent/vm/usage.js';

await t.test('figures are of running machines alone, and of none while one ends', async (t) => {
  const asked: (StatsOptions | undefined)[] = [];
  let nowMs = 0;
  const env = {
    clock: { nowMs: () => nowMs, wallMs: () => nowMs },
    hypervisor: { stats: (o?: StatsOptions) => (asked.push(o), Promise.resolve([])) },
  } as unknown as AgentEnv;
  const usage = new Usage(env, () => Promise.resolve());
  usage.look(true);
  t.same(asked, [], 'it is off before its turn in the answer comes');
  usage.look(false);
  t.match(asked, [{ running: true }]);
  nowMs += 5_000;
  await new Promise(setImmediate);
  usage.look(true);
  t.equal(asked.length, 1);
  usage.look(false);
  t.equal(asked.length, 2);
});
