import t from 'tap';
import type { PlanRule } from '../../../../core/decide/plan/model.js';
import { evenOut } from '../../../../core/decide/plan/even.js';
import { brokenBy, brokenRules, planRules, ruleConflicts } from '../../../../core/decide/rules.js';
import type { Rule } from '../../../../core/domain/rule.js';
import { node, vm } from './plan/cluster.js';

const rule = (name: string, kind: PlanRule['kind'], vms: string[], o: Partial<PlanRule> = {}): PlanRule => ({
  name,
  kind,
  must: true,
  vms,
  nodes: [],
  ...o,
});
const nodes = ['a', 'b', 'c'].map((n) => ({ name: n, domains: [n === 'c' ? 'r2' : 'r1'] }));
const texts = (rules: PlanRule[]): string[] => ruleConflicts(rules, nodes).map((c) => c.text);

void t.test('rules that cannot all be kept are found, and only those', (t) => {
  const apart = rule('apart', 'apart', ['x', 'y']);
  t.same(texts([apart, rule('near', 'together', ['y', 'z'])]), []);
  t.same(
    ruleConflicts([apart, rule('1', 'together', ['x', 'z']), rule('2', 'together', ['z', 'y'])], nodes),
    [{ rules: ['apart', '1', '2'], text: 'x and y must be together and apart' }],
  );
  t.same(texts([{ ...apart, must: false }, rule('near', 'together', ['x', 'y'])]), [], 'a wish is none');
  t.same(texts([rule('rack', 'together', ['x', 'y'], { over: 'rack' }), apart]), [], 'one rack, two nodes');
  t.same(
    texts([rule('on', 'on', ['x'], { nodes: ['a'] }), rule('off', 'not-on', ['x'], { nodes: ['b'] })]),
    [],
  );
  t.same(
    texts([rule('on', 'on', ['x'], { nodes: ['a'] }), rule('off', 'not-on', ['x'], { nodes: ['a', 'b'] })]),
    ['no node is left for x'],
  );
  t.same(
    texts([
      rule('near', 'together', ['x', 'y']),
      rule('1', 'on', ['x'], { nodes: ['a', 'b'] }),
      rule('2', 'on', ['y'], { nodes: ['c'] }),
    ]),
    ['no node is left for x and y'],
  );
  t.same(texts([rule('four', 'apart', ['w', 'x', 'y', 'z'])]), [
    '4 VMs must be apart, and there are nodes for 3 of them',
  ]);
  t.same(texts([rule('racks', 'apart', ['x', 'y', 'z'], { over: 'rack' })]), [
    '3 VMs must be apart, and there are racks for 2 of them',
  ]);
  const two = ['x', 'y'].map((v) => rule(v, 'on', [v], { nodes: ['a'] }));
  t.same(texts([apart, ...two]), ['2 VMs must be apart, and there are nodes for 1 of them']);
  t.end();
});

void t.test('names stand for ids, tags, racks and members of vApps', (t) => {
  const id = (n: number): string => `00000000-0000-4000-8000-00000000000${n}`;
  const made = planRules({
    rules: [
      {
        id: id(9),
        name: 'web',
        kind: 'on',
        must: true,
        over: 'node',
        vms: [id(1), id(8)],
        tags: ['front'],
        nodes: ['c'],
        racks: ['r1'],
        nodeTags: ['ssd'],
      } satisfies Rule,
    ],
    vapps: [
      {
        id: id(7),
        name: 'shop',
        rules: [{ kind: 'apart', must: true, over: 'rack', members: ['m1', 'm2'] }],
      } as never,
    ],
    vms: [
      { id: id(1), name: 'v1', tags: [], vapp: { id: id(7), member: 'm1' } },
      { id: id(2), name: 'v2', tags: ['front'], vapp: { id: id(7), member: 'm2' } },
      { id: id(3), name: 'v3', tags: ['back'] },
    ],
    nodes: [
      { id: 'a', rack: 'r1' },
      { id: 'b', rack: null, tags: ['ssd'] },
      { id: 'c', rack: null },
      { id: 'd', rack: null },
    ],
  });
  t.same(made, [
    { name: 'shop 1', kind: 'apart', must: true, over: 'rack', vms: ['v1', 'v2'], nodes: [] },
    { name: 'web', kind: 'on', must: true, over: 'node', vms: ['v1', 'v2'], nodes: ['a', 'b', 'c'] },
  ]);
  t.end();
});

void t.test('what breaks rules is told, and moved first; scattered VMs come together one by one', (t) => {
  const carries = [24, 65536, 500, 125] as const;
  const on = (name: string, owner: string) =>
    vm(name, owner, '', { alone: true, diskMiB: 0, load: [0.1, 100, 0, 0], memoryMiB: 512 });
  const three = ['a', 'b', 'c'].map((n) => node(n, { carries, domains: [n === 'c' ? 'r2' : 'r1'] }));
  const run = (rules: PlanRule[], vms = [on('x', 'a'), on('y', 'b'), on('z', 'c')], rulesOnly = true) => {
    const cluster = { nodes: three, vms, rules };
    const steps = evenOut(cluster, () => true, { rulesOnly });
    let step = steps.next();
    while (step.done !== true) step = steps.next();
    const at = new Map(vms.map((v) => [v.name, v.owner]));
    for (const m of step.value) at.set(m.vm, m.to);
    const left = brokenRules({ ...cluster, vms: vms.map((v) => ({ ...v, owner: at.get(v.name) ?? '' })) });
    return { moves: step.value, at, left, now: brokenRules(cluster) };
  };
  const near = run([rule('near', 'together', ['x', 'y', 'z'])]);
  t.equal(near.moves.length, 2);
  t.equal(new Set(near.at.values()).size, 1);
  t.ok(near.moves.every((m) => m.for === 'rule' && /the rule "near" is broken: . is on ./.test(m.why)));
  t.equal(near.left.size, 0);
  t.equal(near.now.get('near')?.length, 3);
  const racks = run([rule('racks', 'apart', ['x', 'y'], { over: 'rack' })]);
  t.equal(racks.moves.length, 1);
  t.match(racks.now.get('racks')?.[0], /x on a: y is on b, in the same rack/);
  t.equal(racks.left.size, 0);
  t.same(
    run([rule('on', 'on', ['z'], { nodes: ['b'] })]).moves.map((m) => [m.vm, m.to]),
    [['z', 'b']],
  );
  t.same(run([rule('on', 'on', ['z'], { nodes: ['c'] })]).moves, []);
  const wish = run([rule('wish', 'apart', ['x', 'y'], { must: false })], [on('x', 'a'), on('y', 'a')]);
  t.equal(wish.moves.length, 1, 'a wish is mended where that is worth it');
  t.same(run([], [on('x', 'a'), on('y', 'a')]).moves, [], 'nothing is moved for load alone');
  t.same(
    brokenBy({ nodes: three, vms: [on('z', 'c')], rules: [rule('on', 'on', ['z'], { nodes: ['b'] })] }, 'z'),
    ['it breaks the rule "on": only b'],
  );
  t.end();
});
