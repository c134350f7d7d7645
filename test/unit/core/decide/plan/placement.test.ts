import fc from 'fast-check';
import t from 'tap';
import type { PlacementNode, PlacementRequest } from '../../../../../core/decide/plan/fit.js';
import { refusals } from '../../../../../core/decide/plan/fit.js';
import { clusterNode, planCluster, type ClusterNode } from '../../../../../core/decide/plan/gather.js';
import type { PlanCluster, PlanRule, PlanVm } from '../../../../../core/decide/plan/model.js';
import { Moves } from '../../../../../core/decide/plan/move.js';
import { place, protectionOf, type PlaceAsk } from '../../../../../core/decide/plan/placement.js';
import { nodeRecord, nodeState } from '../../../controller/rig.js';
import { vm } from './cluster.js';

const MiB = 2 ** 20;

interface Size {
  readonly memoryMiB?: number;
  readonly cpus?: number;
  readonly presence?: PlacementNode['presence'];
  readonly desired?: PlacementNode['desired'];
}

function cluster(sizes: Record<string, Size>, vms: PlanVm[] = [], rules: PlanRule[] = []) {
  const nodes = Object.entries(sizes).map(([id, o], i): ClusterNode => {
    const own = vms.filter((v) => v.owner === id);
    const state = { ...nodeState(id), cpus: o.cpus ?? 8, memoryBytes: (o.memoryMiB ?? 16_384) * MiB };
    const record = { ...nodeRecord(id, i), desired: o.desired ?? ('active' as const) };
    return clusterNode(record, { presence: o.presence ?? 'here', state }, true, {
      cpus: own.reduce((a, v) => a + v.cpus, 0),
      memoryMiB: own.reduce((a, v) => a + v.memoryMiB - 64, 0),
      vms: own.length,
      twins: 0,
    });
  });
  return { nodes, cluster: { ...planCluster(nodes, [], rules), vms } satisfies PlanCluster };
}

const small = (name: string, owner: string, standby: string, o: Partial<PlanVm> = {}): PlanVm =>
  vm(name, owner, standby, { memoryMiB: 1088, diskMiB: 0, cpus: 1, spindles: 0, load: [0, 0, 0, 0], ...o });

const lone = { alone: true } as const;
const kept = (memoryMiB: number): Partial<PlanVm> => ({ memoryMiB });

function ask(
  c: ReturnType<typeof cluster>,
  o: Partial<PlanVm> = lone,
  more: Partial<PlaceAsk> = {},
): PlaceAsk {
  const wanted = small('new', '', '', o);
  const request: PlacementRequest = {
    cpus: wanted.cpus,
    memoryMiB: wanted.memoryMiB - 64,
    disks: [],
    isos: [],
    networks: [],
    node: null,
  };
  return { ...c, vm: wanted, request, admission: 'enforce', ...more };
}
void t.test('the node that leaves the cluster most even; ties break by name', (t) => {
  t.match(place(ask(cluster({ b: {}, a: {} }))), { ok: true, node: 'a', standby: null, warnings: [] });
  t.match(place(ask(cluster({ a: {}, b: {} }, [small('x', 'a', '', { alone: true })]))), { node: 'b' });
  const large = cluster({ a: {}, z: { memoryMiB: 65_536 } }, [
    small('x', 'a', '', { alone: true }),
    small('y', 'z', '', { alone: true, memoryMiB: 2112 }),
  ]);
  t.match(place(ask(large)), { node: 'z' }, 'by share, not by sum');
  const busy = cluster({ a: {}, b: {} }, [small('x', 'a', '', { alone: true, load: [7, 0, 0, 0] })]);
  t.match(place(ask(busy)), { node: 'b' }, 'measured load counts');
  t.match(place(ask(cluster({}))), { ok: false, code: 'no-node-fits', nodes: [] });
  t.end();
});

void t.test(
  'a protected VM gets a standby that has the memory, or a refusal that says what would help',
  (t) => {
    const three = cluster({ a: { memoryMiB: 4096 }, b: { memoryMiB: 4096 }, c: { memoryMiB: 2048 } });
    t.match(place(ask(three, kept(3072))), { ok: true, node: 'a', standby: 'b' });
    const narrow = cluster({ a: { memoryMiB: 4096 }, b: { memoryMiB: 2048 } });
    const no = place(ask(narrow, kept(3072)));
    t.match(no, {
      ok: false,
      code: 'no-failover-room',
      shortfalls: [{ text: /take over VM "new"/, help: /3072 MiB/ }],
    });
    t.match(
      no.ok
        ? ''
        : no.nodes
            .find((n) => n.node === 'b')
            ?.reasons.map((r) => r.text)
            .join(),
      /as standby: could not/,
    );
    const warned = place(ask(narrow, kept(3072), { admission: 'warn' }));
    t.match(warned, { ok: true, node: 'a', standby: null, warnings: [/take over VM "new"/] });
    t.match(place(ask(narrow, kept(3072), { admission: 'off' })), { ok: true, node: 'a', warnings: [] });
    t.end();
  },
);

void t.test('a VM without a standby may not take what others were promised', (t) => {
  const c = cluster({ a: { memoryMiB: 4096 }, b: { memoryMiB: 4096 } }, [
    small('web', 'a', 'b', { memoryMiB: 3072 }),
  ]);
  const no = place(ask(c, { ...lone, memoryMiB: 1088 }));
  t.match(no, {
    ok: false,
    code: 'no-failover-room',
    shortfalls: [{ text: /if a fails, b has 2599 MiB for the 3072 MiB it promised; web would stay off/ }],
  });
  t.match(place(ask(c, { ...lone, memoryMiB: 1088 }, { admission: 'warn' })), {
    ok: true,
    node: 'b',
    warnings: [/web/],
  });
  t.match(place(ask(c, { ...lone, memoryMiB: 512 })), { ok: true, node: 'b' }, 'what is left over it may');
  t.end();
});

void t.test('a promise that is kept no more, as its node went, is told', (t) => {
  const vms = [small('web', 'a', '', { memoryMiB: 3072 })];
  t.same(protectionOf(cluster({ a: {}, b: {} }, vms).cluster, 'web'), []);
  t.match(protectionOf(cluster({ a: {}, b: { presence: 'silent' } }, vms).cluster, 'web'), [
    { text: /take over VM "web"/ },
  ]);
  t.same(protectionOf(cluster({ a: {} }, [small('x', 'a', '', { alone: true })]).cluster, 'x'), []);
  t.end();
});

void t.test('rules: must bars, prefer weighs; VMs on nodes, together and apart', (t) => {
  const rule = (kind: PlanRule['kind'], o: Partial<PlanRule> = {}): PlanRule => ({
    name: 'r',
    kind,
    must: true,
    vms: ['new', 'x'],
    nodes: [],
    ...o,
  });
  const nodeOf = (r: PlanRule, nodes: Record<string, Size> = { a: {}, b: {} }) => {
    const answer = place(ask(cluster(nodes, [small('x', 'a', '', { alone: true })], [r])));
    return answer.ok ? answer.node : answer.nodes.map((n) => n.reasons.map((x) => x.reason).join()).join('|');
  };
  t.equal(nodeOf(rule('together')), 'a');
  t.equal(nodeOf(rule('together', { must: false })), 'a', 'a wish outweighs a little unevenness');
  t.equal(nodeOf(rule('apart')), 'b');
  t.equal(nodeOf(rule('apart'), { a: {} }), 'rule');
  t.equal(nodeOf(rule('apart', { must: false }), { a: {} }), 'a', 'a wish bars nothing');
  t.equal(nodeOf(rule('on', { nodes: ['a'] })), 'a');
  t.equal(nodeOf(rule('on', { nodes: [] })), 'rule|rule');
  t.equal(nodeOf(rule('not-on', { nodes: ['b'] })), 'a');
  t.end();
});

void t.test('a move keeps promises and rules, and leaves the state as it was', (t) => {
  const { cluster: c } = cluster({ a: { memoryMiB: 8192 }, b: { memoryMiB: 8192 }, c: { memoryMiB: 2048 } }, [
    small('web', 'a', 'b', { memoryMiB: 3072 }),
    small('db', 'a', 'b', { memoryMiB: 3072 }),
  ]);
  const moves = new Moves(c);
  const [db, b, cc] = [moves.s.vmNumber('db'), moves.s.nodeNumber('b'), moves.s.nodeNumber('c')];
  const before = moves.s.score();
  const seat = moves.seat(db, b);
  t.match(seat, { node: b, standby: moves.s.nodeNumber('a') }, 'it changes places with its standby');
  t.equal(moves.seat(db, cc), null, 'no room');
  t.ok(Math.abs(moves.s.score() - before) < 1e-9);
  t.equal(moves.best(db)?.node, b);
  t.end();
});

const arbSizes = fc.dictionary(
  fc.constantFrom('a', 'b', 'c', 'd', 'e'),
  fc.record({
    memoryMiB: fc.integer({ min: 512, max: 32_768 }),
    cpus: fc.integer({ min: 1, max: 32 }),
    presence: fc.constantFrom('here' as const, 'here' as const, 'silent' as const),
    desired: fc.constantFrom('active' as const, 'active' as const, 'maintenance' as const),
  }),
);

void t.test(
  'laws: what is chosen fits and keeps all promises; the order of nodes changes nothing; a no names all',
  (t) => {
    let [yes, no] = [0, 0];
    fc.assert(
      fc.property(
        arbSizes,
        fc.integer({ min: 128, max: 16_384 }),
        fc.boolean(),
        (sizes, memoryMiB, alone) => {
          const c = cluster(sizes);
          const o = alone ? { ...lone, memoryMiB } : kept(memoryMiB);
          const a = ask(c, o);
          const answer = place(a);
          const turned = ask(cluster(Object.fromEntries(Object.entries(sizes).reverse())), o);
          t.strictSame(place(turned), answer);
          if (!answer.ok) {
            no++;
            return answer.nodes.every((n) => n.reasons.length > 0);
          }
          yes++;
          const node = c.nodes.find((n) => n.id === answer.node);
          const standby = c.nodes.find((n) => n.id === answer.standby);
          // Derived from what was given, not from the function's own numbers.
          const room = (n: ClusterNode): number => n.memoryBytes / MiB - memoryMiB;
          return (
            node !== undefined &&
            refusals(a.request, node).length === 0 &&
            (alone
              ? answer.standby === null
              : standby !== undefined &&
                standby !== node &&
                standby.desired === 'active' &&
                room(standby) >= 256)
          );
        },
      ),
      { numRuns: 200, seed: 5 },
    );
    t.ok(yes > 30 && no > 30, `${yes} placed, ${no} refused`);
    t.end();
  },
);
