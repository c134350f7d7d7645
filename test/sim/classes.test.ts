import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import type { ServiceClass } from '../../core/domain/service-class.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';

/** A class was changed: the agents have its VMs follow, whoever of them dies. */

const gold: ServiceClass = {
  id: '00000000-0000-4000-8000-0000000000cc',
  name: 'gold',
  generation: 2,
  note: '',
  settings: { ha: true, haPriority: 80, cpuShares: 400 },
};
const count = 15;

async function night(
  death: { readonly who: string; readonly n: number; readonly when: Death['when'] } | null,
) {
  const w = new World({ seed: 5, nodes: 3, log: true, locks: null });
  const names = Array.from({ length: count }, (_, i) => `vm${i}`);
  for (const name of names)
    w.createVm(name, 'n1', {
      power: name === 'vm0' ? 'running' : 'stopped',
      class: { id: gold.id, own: name === 'vm1' ? ['haPriority'] : [] },
    });
  w.createVm('other', 'n2', { power: 'stopped' });
  w.boot();
  await w.pass(25_000);
  const before = {
    other: w.spec(w.vms.get('other') ?? ''),
    acts: w.node(death?.who ?? 'n1').agent?.acts ?? 0,
  };
  if (death !== null) w.node(death.who).dieAt('agent', death.n, death.when);
  const op = w.changeClass(gold);
  await w.until('they follow', () => opFinished(w.op(op)), 300_000);
  const specs = names.map((n) => w.spec(w.vms.get(n) ?? ''));
  return {
    w,
    op: w.op(op),
    specs,
    before,
    acts: (w.node(death?.who ?? 'n1').agent?.acts ?? 0) - before.acts,
  };
}

const follow = (r: Awaited<ReturnType<typeof night>>): boolean =>
  r.op.state === 'done' &&
  r.specs.every(
    (s) => s.ha.priority === (s.name === 'vm1' ? 50 : 80) && s.cpuShares === 400 && s.generation === 2,
  );

await t.test('all of them follow, but for what is their own; others stay as they are', async (t) => {
  const r = await night(null);
  t.match(r.op, { state: 'done', step: `its ${count} VMs follow`, progress: 1 });
  t.ok(follow(r), JSON.stringify(r.specs.map((s) => [s.name, s.ha.priority, s.cpuShares, s.generation])));
  t.same(r.w.spec(r.w.vms.get('other') ?? ''), r.before.other);
  const vm = r.w.vms.get('vm0') ?? '';
  const xml = (): string => r.w.node('n1').host.libvirt.domains.get(vm)?.xml ?? '';
  await r.w.until('the running one has it at once', () => xml().includes('<shares>400</shares>'), 30_000);
  t.equal(r.w.runsOn(vm).length, 1);
  t.same(r.w.checks.violations, []);
  r.w.end();
});

await t.test('the agent that does it dies at each of its acts: another one goes on', async (t) => {
  const first = await night(null);
  first.w.end();
  let nights = 0;
  for (let n = 0; n < Math.min(first.acts, 30); n += 5)
    for (const when of ['before', 'after'] as const) {
      const r = await night({ who: 'n1', n, when });
      nights++;
      if (!follow(r) || r.w.checks.violations.length > 0)
        t.fail(`act ${n} ${when}: ${JSON.stringify(r.op)}\n${r.w.lines.slice(-20).join('\n')}`);
      r.w.end();
    }
  t.ok(nights >= 2, `${nights} nights`);
});
