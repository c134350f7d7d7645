/** Up to this many nodes everyone listens to everyone: 63 connections cost under 1 % of a core. */
export const fullMeshNodesMax = 64;
/** Above that, so many next nodes on the ring of ids are listened to: two dead in a row are still seen by six. */
export const ringNeighbours = 8;

/**
 * Which peers a node's agent listens to. The rule that keeps growth a number: everyone up to
 * {@link fullMeshNodesMax}, then the ledger's voters, the nodes this one shares disks with, and the next
 * {@link ringNeighbours} ids on the ring. Controllers listen to all and do not ask.
 *
 * @param me - this node; never in the answer
 * @param nodes - ids of all nodes, in any order
 * @returns ids, sorted, each once
 * @see gossip-consensus 1.3: 25 connections at 1,000 nodes
 */
export function watchSet(
  me: string,
  nodes: readonly string[],
  o: { readonly voters: readonly string[]; readonly partners: readonly string[] },
): readonly string[] {
  const known = new Set(nodes);
  known.delete(me);
  const sorted = [...known].sort();
  if (sorted.length + 1 <= fullMeshNodesMax) return sorted;
  const after = sorted.findIndex((id) => id > me);
  const start = after === -1 ? 0 : after;
  const ring = Array.from(
    { length: ringNeighbours },
    (_, i) => sorted[(start + i) % sorted.length] as string,
  );
  const chosen = new Set([...o.voters, ...o.partners, ...ring].filter((id) => known.has(id)));
  return [...chosen].sort();
}
