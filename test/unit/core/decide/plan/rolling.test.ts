import fc from 'fast-check';
import t from 'tap';
import { rollingMoves, type RollingPlan } from '../../../../../core/decide/plan/rolling.js';
import type { PlanCluster } from '../../../../../core/decide/plan/model.js';
import { clusters } from './cluster.js';

function plan(c: PlanCluster, atOnceMax: number): RollingPlan {
  const steps = rollingMoves(c, {
    atOnceMax,
    runs: () => true,
    may: () => true,
    both: (a, b) => [a, b].sort().join() !== 'n0,n1',
  });
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

void t.test(
  'laws: each node once or not at all with why; when a group goes nothing runs on it; memory does',
  (t) => {
    fc.assert(
      fc.property(clusters, fc.integer({ min: 1, max: 3 }), (c, atOnceMax) => {
        const p = plan(c, atOnceMax);
        const named = [...p.groups.flatMap((g) => g.nodes), ...p.blocked.map((b) => b.node)].sort();
        const online = c.nodes.filter((n) => n.state === 'online').map((n) => n.name);
        if (named.join() !== online.sort().join()) return false;
        if (p.blocked.some((b) => b.reason === '')) return false;
        const at = new Map(c.vms.map((v) => [v.name, v.owner]));
        const memory = (node: string): number =>
          c.vms.reduce((sum, v) => sum + (at.get(v.name) === node ? v.memoryMiB : 0), 0);
        const before = new Map(c.nodes.map((n) => [n.name, memory(n.name)]));
        for (const g of p.groups) {
          if (g.nodes.length > atOnceMax || (g.nodes.includes('n0') && g.nodes.includes('n1'))) return false;
          for (const m of g.swaps) {
            if (!g.nodes.includes(at.get(m.vm) ?? '')) return false;
            at.set(m.vm, m.to);
            const node = c.nodes.find((n) => n.name === m.to);
            if (node?.state !== 'online' || g.nodes.includes(m.to)) return false;
            if (memory(m.to) > Math.max(node.vmMemoryMiB, before.get(m.to) ?? 0)) return false;
          }
          if (g.nodes.some((n) => [...at.values()].includes(n))) return false;
        }
        const again = plan({ nodes: [...c.nodes].reverse(), vms: [...c.vms].reverse() }, atOnceMax);
        return JSON.stringify(again) === JSON.stringify(p);
      }),
      { numRuns: 60 },
    );
    t.pass('all held');
    t.end();
  },
);
