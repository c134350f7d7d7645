import fc from 'fast-check';
import t from 'tap';
import { fullMeshNodesMax, ringNeighbours, watchSet } from '../../../../core/decide/watch-set.js';

const ids = (n: number): string[] => Array.from({ length: n }, (_, i) => `n${String(i).padStart(4, '0')}`);
const none = { voters: [], partners: [] };

await t.test('up to 64 nodes everyone listens to all others', async (t) => {
  t.same(watchSet('n0001', ids(3), none), ['n0000', 'n0002']);
  t.equal(watchSet('n0001', ids(fullMeshNodesMax), none).length, fullMeshNodesMax - 1);
  t.same(watchSet('n0000', ['n0000'], none), []);
});

await t.test('beyond that voters, partners and the ring', async (t) => {
  const all = ids(1000);
  const set = watchSet('n0998', all, { voters: ['n0500', 'gone'], partners: ['n0007', 'n0998'] });
  t.same(set, ['n0000', 'n0001', 'n0002', 'n0003', 'n0004', 'n0005', 'n0006', 'n0007', 'n0500', 'n0999']);
});

await t.test('every node is listened to by as many as it has neighbours on the ring', async (t) => {
  fc.assert(
    fc.property(fc.integer({ min: fullMeshNodesMax + 1, max: 200 }), (n) => {
      const all = ids(n);
      const count = new Map(all.map((id) => [id, 0]));
      for (const me of all) {
        const set = watchSet(me, [...all].reverse(), none);
        if (set.includes(me) || set.length !== ringNeighbours) return false;
        for (const id of set) count.set(id, (count.get(id) ?? 0) + 1);
      }
      return [...count.values()].every((c) => c === ringNeighbours);
    }),
    { numRuns: 20 },
  );
  t.pass();
});
