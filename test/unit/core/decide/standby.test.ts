import fc from 'fast-check';
import t from 'tap';
import { chooseStandby, reachOf, standbyText, type StandbyNode } from '../../../../core/decide/standby.js';
import type { NodeKeeper } from '../../../../core/domain/node.js';
import type { Pool } from '../../../../core/domain/pool.js';

const GiB = 2 ** 30;
const pool: Pool = { id: 'p', name: 'share', kind: 'shared', path: '/srv/share', nodes: null, reservePct: 5 };
const use = { pool: 'p', totalBytes: 1e12, freeBytes: 5e11, ok: true, text: '', ageMs: 1_000 };
const keeper: NodeKeeper = {
  mode: 'run',
  armable: true,
  why: '',
  watchdog: 'hardware',
  armed: 0,
  held: [],
  text: '',
};
const line = { ageMs: 1_000, keeper, pools: [use], memoryBytes: 8 * GiB, unwell: [] };
const none = { vms: 0, memoryMiB: 0 };
const node = (id: string, o: Partial<StandbyNode> = {}): StandbyNode => ({
  id,
  alive: true,
  desired: 'active',
  witness: false,
  line,
  owned: none,
  promised: none,
  promisedTogether: none,
  ...o,
});
const vm = { owner: 'n1', standby: null, memoryMiB: 1024, pools: [pool], only: null };
const nodes = [node('n1'), node('n2'), node('n3')];

await t.test('the least loaded by what it owns and promised, ties by name, kept while it fits', async (t) => {
  t.same(chooseStandby(vm, nodes), { ok: true, node: 'n2' });
  const busy = [node('n1'), node('n2', { promised: { vms: 1, memoryMiB: 512 } }), node('n3')];
  t.same(chooseStandby(vm, busy), { ok: true, node: 'n3' });
  t.same(chooseStandby({ ...vm, standby: 'n2' }, busy), { ok: true, node: 'n2' });
});

await t.test('each reason against a node is said', async (t) => {
  const why = (o: Partial<StandbyNode>): string => {
    const c = chooseStandby(vm, [node('n1'), node('n2', o)]);
    t.notOk(c.ok);
    return standbyText(c);
  };
  t.match(why({ alive: false }), /n2 is not alive/);
  t.match(why({ desired: 'maintenance' }), /maintenance/);
  t.match(why({ witness: true }), /witness/);
  t.match(why({ line: null }), /never heard/);
  t.match(why({ line: { ...line, ageMs: 61_000 } }), /not heard for 61 s/);
  t.match(why({ line: { ...line, keeper: null } }), /keeper does not answer/);
  t.match(
    why({ line: { ...line, keeper: { ...keeper, armable: false, why: 'no watchdog' } } }),
    /no watchdog/,
  );
  t.match(
    why({ line: { ...line, unwell: ['its hypervisor is not well: gone'] } }),
    /n2 its hypervisor is not/,
  );
  t.match(why({ line: { ...line, pools: [] } }), /has not said how the pool "share" is/);
  t.match(why({ line: { ...line, pools: [{ ...use, ok: false, text: 'not mounted' }] } }), /not mounted/);
  t.match(why({ line: { ...line, pools: [{ ...use, ageMs: 29_500 }] } }), /the last time 31 s ago/);
  t.match(why({ promisedTogether: { vms: 6, memoryMiB: 6 * 1024 } }), /needs 1088 MiB/);
  t.match(standbyText(chooseStandby(vm, [node('n1')])), /no other node/);
  const elsewhere = { ...vm, pools: [{ ...pool, nodes: ['n1', 'n3'] }] };
  t.same(chooseStandby(elsewhere, nodes), { ok: true, node: 'n3' });
});

await t.test(
  'a VM with a disk on a local pool is reached by nobody else, and it is said which',
  async (t) => {
    const local: Pool = { ...pool, id: 'l', name: 'fast', kind: 'local' };
    const disks = new Map([
      ['d', { name: 'root', pool: 'p' }],
      ['e', { name: 'data', pool: 'l' }],
    ]);
    const pools = new Map([
      ['p', pool],
      ['l', local],
    ]);
    const of = (...ids: string[]) =>
      reachOf({ disks: ids.map((disk) => ({ disk, bus: 'virtio' as const })) }, disks, pools);
    t.same(of('d'), { ok: true, copied: false, pools: [pool] });
    t.match(of('d', 'e'), { ok: false, why: /disk "data" is on the local pool "fast"/ });
    t.match(of('x'), { ok: false, why: /no record/ });
  },
);

await t.test(
  'never the owner, a dead one or one without room; the order of the nodes changes nothing',
  async (t) => {
    const any = (id: string) =>
      fc
        .record({ alive: fc.boolean(), armable: fc.boolean(), owned: fc.integer({ min: 0, max: 9000 }) })
        .map((r) =>
          node(id, {
            alive: r.alive,
            line: { ...line, keeper: { ...keeper, armable: r.armable } },
            owned: { vms: 1, memoryMiB: r.owned },
          }),
        );
    fc.assert(
      fc.property(
        fc.tuple(any('n1'), any('n2'), any('n3'), any('n4')),
        fc.constantFrom(null, 'n1', 'n2', 'n3'),
        (all, standby) => {
          const c = chooseStandby({ ...vm, standby }, all);
          if (JSON.stringify(chooseStandby({ ...vm, standby }, [...all].reverse())) !== JSON.stringify(c))
            return false;
          if (!c.ok) return c.nodes.length === 3;
          const n = all.find((x) => x.id === c.node);
          return (
            c.node !== 'n1' &&
            n?.alive === true &&
            n.line?.keeper?.armable === true &&
            n.owned.memoryMiB < 7000
          );
        },
      ),
      { numRuns: 1_000 },
    );
    t.pass();
  },
);
