import t from 'tap';
import { refreshedCache, type ClusterCache } from '../../../../agent/cluster/cache.js';
import type { NodeRecord } from '../../../../core/domain/node.js';

const cache: ClusterCache = {
  clusterId: '00000000-0000-4000-8000-000000000001',
  name: 'test',
  node: 'b',
  address: '10.0.0.2',
  witness: false,
  ledgerEndpoints: ['https://10.0.0.9:2379'],
  peers: [],
};
const node = (id: string, addresses: string[], voter = true): NodeRecord => ({
  id,
  addresses,
  voter,
  desired: 'active',
  rack: null,
  witness: false,
  fingerprint: '0'.repeat(64),
  joinedMs: 0,
});
const endpoints = (nodes: readonly NodeRecord[]): string[] =>
  refreshedCache(cache, { name: 'test' }, nodes, { ledger: 2379 }).ledgerEndpoints.map(
    (e) => new URL(e).hostname,
  );

void t.test(
  'every voter at all its addresses; whichever voter or network is gone, the second answers',
  async (t) => {
    const two = (k: number): string[] => [`10.0.0.${k}`, `10.1.0.${k}`];
    const found = endpoints([
      node('a', two(1)),
      node('b', two(2)),
      node('c', two(3)),
      node('d', two(4), false),
    ]);
    t.same(
      found,
      ['10.0.0.2', '10.1.0.1', '10.0.0.3', '10.1.0.2', '10.0.0.1', '10.1.0.3'],
      'the own one first',
    );
    t.same(endpoints([node('a', ['10.0.0.1']), node('b', two(2)), node('c', ['10.0.0.3'])]), [
      '10.0.0.2',
      '10.0.0.1',
      '10.0.0.3',
      '10.1.0.2',
    ]);
  },
);

void t.test('without voters the list stays; where nothing changed the object does', async (t) => {
  t.same(endpoints([node('a', ['10.0.0.1'], false)]), ['10.0.0.9']);
  const nodes = [node('a', ['10.0.0.1']), node('b', ['10.0.0.2'])];
  const next = refreshedCache(cache, { name: 'test' }, nodes, { ledger: 2379 });
  t.same(
    next.peers.map((p) => p.address),
    ['10.0.0.1', '10.0.0.2'],
  );
  t.equal(refreshedCache(next, { name: 'test' }, nodes, { ledger: 2379 }), next);
});
