import fc from 'fast-check';
import t from 'tap';
import { evenOut, type Recommendation } from '../../../../../core/decide/plan/even.js';
import type { PlanCluster } from '../../../../../core/decide/plan/model.js';
import { node, vm } from './cluster.js';

function all(c: PlanCluster, may: (vm: string, node: string) => boolean = () => true): Recommendation[] {
  const steps = evenOut(c, may);
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

const carries = [24, 65536, 500, 125] as const;
const nodes = ['a', 'b', 'c'].map((n) => node(n, { carries }));
const busy = (name: string, owner: string, cpus: number, o: object = {}) =>
  vm(name, owner, '', { alone: true, diskMiB: 0, load: [cpus, 1024, 0, 0], ...o });

void t.test('a busy node gives VMs away until no move gains what it costs', (t) => {
  const vms = ['v1', 'v2', 'v3', 'v4', 'v5', 'v6'].map((n) => busy(n, 'a', 3));
  const moves = all({ nodes, vms });
  t.ok(moves.length >= 3 && moves.length <= 4, `${moves.length} moves`);
  t.ok(moves.every((m) => m.from === 'a' && m.after < m.before));
  t.match(moves[0]?.why, /a has 75 % of its CPUs busy/);
  t.same(new Set(moves.map((m) => m.to)), new Set(['b', 'c']));
  const after = vms.map((v) => ({ ...v, owner: moves.find((m) => m.vm === v.name)?.to ?? v.owner }));
  t.same(all({ nodes, vms: after }), [], 'an even cluster yields no move');
  t.same(all({ nodes: [...nodes].reverse(), vms: [...vms].reverse() }), moves, 'order changes nothing');
  t.end();
});

void t.test('moves lead to a cluster that is even, each one nearer, and there to none', (t) => {
  const given = fc.array(
    fc.record({
      owner: fc.nat({ max: 3 }),
      cpus: fc.integer({ min: 0, max: 60 }),
      memory: fc.constantFrom(512, 4096, 16384),
    }),
    { minLength: 1, maxLength: 14 },
  );
  const four = ['a', 'b', 'c', 'd'].map((n) => node(n, { carries }));
  let moved = 0;
  fc.assert(
    fc.property(given, (loads) => {
      let vms = loads.map((l, i) => busy(`v${i}`, four[l.owner]!.name, l.cpus / 10, { memoryMiB: l.memory }));
      for (let round = 0; round < 12; round++) {
        const moves = all({ nodes: four, vms });
        if (moves.length === 0) return true;
        moved += moves.length;
        if (moves.some((m) => m.after >= m.before)) return false;
        vms = vms.map((v) => ({ ...v, owner: moves.find((m) => m.vm === v.name)?.to ?? v.owner }));
      }
      return false;
    }),
    { seed: 7, numRuns: 60 },
  );
  t.ok(moved > 60, `${moved} moves`);
  t.end();
});

void t.test('what may not move does not, and neither does what a rule or a promise holds', (t) => {
  const vms = ['v1', 'v2', 'v3', 'v4'].map((n) => busy(n, 'a', 5));
  t.same(
    all({ nodes, vms }, () => false),
    [],
  );
  t.ok(all({ nodes, vms }, (_, n) => n !== 'b').every((m) => m.to === 'c'));
  const rule = { name: 'r', kind: 'on' as const, must: true, vms: vms.map((v) => v.name), nodes: ['a'] };
  t.same(all({ nodes, vms, rules: [rule] }), []);
  const kept = [...vms, vm('db', 'c', 'b', { memoryMiB: 63_000, diskMiB: 0 })];
  t.ok(
    all({ nodes, vms: kept }).every((m) => m.to !== 'b'),
    'b keeps its memory for db',
  );
  t.end();
});
