import path from 'node:path';
import { z } from 'zod';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { idSchema, ipv4Schema, nameSchema, nodeIdSchema, parse } from '../../core/domain/schema.js';
import { readIfThere, writePublic } from '../pki/store.js';
import { clientUrl } from './etcd-settings.js';
import type { Ports } from './config.js';

/** Five voters with eight addresses each, and one that is on its way. */
const endpointsMax = 48;

/**
 * `cluster.json`: which cluster this node is in and whom it can ask. A cache of what the ledger says, so that the
 * agent starts, and its page and radio work, while the ledger is away.
 */
export const clusterCacheSchema = z.object({
  clusterId: idSchema,
  name: nameSchema,
  node: nodeIdSchema,
  address: ipv4Schema,
  /** What the cluster admitted this node as. */
  witness: z.boolean().default(false),
  ledgerEndpoints: z.array(z.url()).min(1).max(endpointsMax),
  peers: z.array(z.object({ node: nodeIdSchema, address: ipv4Schema })).max(1024),
});
export type ClusterCache = z.output<typeof clusterCacheSchema>;

export const clusterCacheFile = (stateDir: string): string => path.join(stateDir, 'cluster.json');

/**
 * @returns null: this node has neither founded nor joined
 * @throws FlotillaError `unreadable-record`: there is one that cannot be read; it is not taken for none
 */
export async function readClusterCache(stateDir: string): Promise<ClusterCache | null> {
  const file = clusterCacheFile(stateDir);
  const text = await readIfThere(file);
  if (text === null) return null;
  try {
    return parse(clusterCacheSchema, JSON.parse(text), file);
  } catch (cause) {
    throw new FlotillaError('unreadable-record', `${file} cannot be read`, {
      hint: 'Restore it from another node and set "node" and "address" to this one\'s.',
      cause,
    });
  }
}

export async function writeClusterCache(stateDir: string, cache: ClusterCache): Promise<void> {
  await writePublic(
    clusterCacheFile(stateDir),
    `${JSON.stringify(clusterCacheSchema.parse(cache), null, 2)}\n`,
  );
}

/**
 * The cache as the ledger's records say it should be: voters at all their addresses as endpoints, all nodes as peers.
 *
 * @returns the same object when nothing changed, so that the caller writes only when needed
 */
export function refreshedCache(
  cache: ClusterCache,
  meta: Pick<ClusterMeta, 'name'>,
  nodes: readonly NodeRecord[],
  ports: Pick<Ports, 'ledger'>,
): ClusterCache {
  const sorted = [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1));
  const peers = sorted.flatMap((n) =>
    n.addresses[0] === undefined ? [] : [{ node: n.id, address: n.addresses[0] }],
  );
  const voters = sorted.filter((n) => n.voter);
  // This node's own voter first: the nearest one.
  voters.sort((a, b) => Number(b.id === cache.node) - Number(a.id === cache.node));
  const endpoints = alternating(voters.map((n) => n.addresses)).map((a) => clientUrl(a, ports));
  // A list without voters is a ledger we misread, not a cluster without one.
  const ledgerEndpoints = endpoints.length === 0 ? cache.ledgerEndpoints : endpoints;
  const next: ClusterCache = { ...cache, name: meta.name, peers, ledgerEndpoints };
  return JSON.stringify(next) === JSON.stringify(cache) ? cache : next;
}

/**
 * All addresses of all voters, each neighbour in the list another voter by another network: whichever of both is gone,
 * the second one that is asked answers.
 */
function alternating(voters: readonly (readonly string[])[]): string[] {
  const rounds = Math.max(0, ...voters.map((a) => a.length));
  const all = Array.from({ length: rounds }, (_, round) =>
    voters.flatMap((a, i) => (round < a.length ? [a[(i + round) % a.length] ?? ''] : [])),
  );
  return all.flat();
}
