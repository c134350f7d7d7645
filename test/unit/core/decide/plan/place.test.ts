import fc from 'fast-check';
import t from 'tap';
import { admit } from '../../../../../core/decide/plan/admission.js';
import { capacity, daysUntilFull } from '../../../../../core/decide/plan/capacity.js';
import type { PlanCluster, PlanVm } from '../../../../../core/decide/plan/model.js';
import { placeBatch, placeOne } from '../../../../../core/decide/plan/place.js';
import { rollingPlan } from '../../../../../core/decide/plan/rolling.js';
import { State } from '../../../../../core/decide/plan/state.js';
import { clusters, node, vm } from './cluster.js';
import { Replay } from './replay.js';

const placed = (s: State): PlanVm[] =>
  s.vms.flatMap((v, i) => {
    const [o, sb] = [s.owner[i] as number, s.standby[i] as number];
    return o < 0 ? [] : [{ ...v, owner: s.nodes[o]?.name ?? '', standby: s.nodes[sb]?.name ?? '' }];
  });

await t.test('what is placed can be drained: every VM has its room on its standby', async (t) => {
  const sizes = fc.array(fc.constantFrom(512, 4096, 16384, 40000), { minLength: 1, maxLength: 12 });
  let seated = 0;
  let refused = 0;
  fc.assert(
    fc.property(clusters, sizes, (cluster, news) => {
      const lacks = (c: PlanCluster): number[] => {
        const replay = new Replay(c);
        return c.nodes.map((n) => replay.lack(n.name));
      };
      const before = lacks(cluster);
      const more = news.map((memoryMiB, i) => vm(`w${i}`, '', '', { memoryMiB }));
      const s = new State({ nodes: cluster.nodes, vms: [...cluster.vms, ...more] });
      const answers = placeBatch(
        s,
        s.vms.flatMap((v, i) => (v.owner === '' ? [i] : [])),
      );
      const after = lacks({ nodes: cluster.nodes, vms: placed(s) });
      after.forEach((lack, i) =>
        t.ok(lack === 0 || (before[i] as number) > 0, 'no node is short that was not'),
      );
      for (const [name, answer] of answers) {
        if (answer.ok) seated++;
        else {
          refused++;
          t.ok(
            answer.refused.length > 0 && answer.refused.every((r) => r.reasons.length > 0),
            `${name}: reasons`,
          );
        }
      }
    }),
    { seed: 7, numRuns: 60 },
  );
  t.ok(seated > 50 && refused > 5, `${seated} placed, ${refused} refused`);
});

await t.test('placing asks and changes nothing; ties break by name', async (t) => {
  const s = new State({ nodes: ['c', 'b', 'a'].map((n) => node(n)), vms: [vm('x', '', '')] });
  const score = s.score();
  const answer = placeOne(s, 0);
  t.match(answer, { ok: true, owner: 'a', standby: 'b', refused: [] });
  t.ok(Math.abs(s.score() - score) < 1e-9);
  t.same(placeOne(s, 0), answer);
});

await t.test('a node that is refused says all that speaks against it', async (t) => {
  const tight = node('full', { vmMemoryMiB: 1024, vmDiskMiB: 100, cpus: 1, cpuRatioMax: 1 });
  const nodes = [node('a'), tight, node('gone', { state: 'dead' })];
  const answer = placeOne(new State({ nodes, vms: [vm('x', '', '')] }), 0);
  t.equal(answer.ok, false, 'a has no partner');
  const reasons = (name: string, as: string) =>
    answer.refused.find((r) => r.node === name && r.as === as)?.reasons.join('; ');
  t.match(
    reasons('full', 'owner'),
    /4096 MiB of memory, 1024 MiB are free; .*20480 MiB of disk.*; needs 2 vCPUs/,
  );
  t.match(reasons('gone', 'owner'), /is dead/);
  t.match(reasons('full', 'standby'), /could not take over: 4096 MiB if a fails, 1024 MiB are free/);
});

await t.test('admission: which failure, which node, what stays off, what helps', async (t) => {
  const small = node('small', { vmMemoryMiB: 6144 });
  const nodes = [node('a', { domains: ['r1'] }), node('b', { domains: ['r1'] }), small, node('roomy')];
  const vms = [vm('v1', 'a', 'small'), vm('v2', 'b', 'small')];
  const s = new State({ nodes, vms });
  t.same(admit(s), { ok: true }, 'one node may fail');
  const rack = admit(s, 'domain');
  t.match(rack, {
    ok: false,
    shortfalls: [{ fails: 'r1', node: 'small', needsMiB: 8192, freeMiB: 6144, vms: ['v2'] }],
  });
  t.match(rack.ok ? '' : rack.shortfalls[0]?.text, /if all of r1 fails, small has 6144 MiB for the 8192 MiB/);
  t.match(rack.ok ? '' : rack.shortfalls[0]?.help, /roomy could stand by for v2 instead/);
  const more = new State({ nodes, vms: [...vms, vm('v3', 'a', 'small')] });
  t.match(admit(more, 'node', s), { ok: false, shortfalls: [{ fails: 'a', node: 'small', vms: ['v3'] }] });
  t.same(admit(more, 'node', more), { ok: true }, 'what was short before is not the fault of the change');
});

await t.test('admission says yes exactly where no standby falls short', async (t) => {
  fc.assert(
    fc.property(clusters, (cluster) => {
      const replay = new Replay(cluster);
      t.equal(
        admit(new State(cluster)).ok,
        cluster.nodes.every((n) => replay.lack(n.name) === 0),
      );
    }),
    { seed: 7, numRuns: 100 },
  );
});

await t.test(
  'rolling groups: no VM has both nodes in one, what runs there fits elsewhere, none is forgotten',
  async (t) => {
    fc.assert(
      fc.property(clusters, (cluster) => {
        const plan = rollingPlan(new State(cluster));
        const replay = new Replay(cluster);
        for (const group of plan.groups) {
          for (const { vm: name, to } of group.swaps) {
            const from = replay.at.get(name)?.owner ?? '';
            const swap = { vm: name, owner: to, standby: from, ops: [{ op: 'swap' as const }] };
            const wrong = replay.step(swap).filter((w) => !w.startsWith('after '));
            t.same(wrong, []);
          }
          for (const { owner, standby } of replay.at.values()) {
            t.notOk(group.nodes.includes(owner), 'nothing runs on a node that goes down');
            t.notOk(group.nodes.includes(owner) && group.nodes.includes(standby));
          }
        }
        const online = cluster.nodes.filter((n) => n.state === 'online').map((n) => n.name);
        const named = [...plan.groups.flatMap((g) => g.nodes), ...plan.blocked.map((b) => b.node)];
        t.same(named.sort(), online.sort());
      }),
      { seed: 7, numRuns: 60 },
    );
  },
);

await t.test('capacity: with a standby for each, and days until full', async (t) => {
  const nodes = ['a', 'b', 'c'].map((n) => node(n, { vmMemoryMiB: 8192 }));
  const size = { memoryMiB: 2048, diskMiB: 1024, cpus: 1 };
  const fits = capacity({ nodes, vms: [] }, size);
  t.ok(fits >= 5 && fits <= 8, `${fits} VMs of 2 GiB on three nodes of 8 GiB, one of which may fail`);
  t.equal(capacity({ nodes, vms: [] }, { ...size, memoryMiB: 9000 }), 0);
  const day = 86_400_000;
  const line = [0, 1, 2, 3].map((d) => ({ atMs: d * day, used: 40 + 10 * d }));
  t.equal(Math.round(daysUntilFull(line, 100) ?? -1), 3);
  t.equal(
    daysUntilFull(
      [...line].reverse().map((p, i) => ({ ...p, atMs: i * day })),
      100,
    ),
    null,
  );
  t.equal(daysUntilFull(line.slice(0, 1), 100), null);
});
