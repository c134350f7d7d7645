import type { Snapshot } from '../snapshot.js';

/**
 * Whose turn it is to do what one node does for all: 0, this node's; 1, the next one's where that one does nothing; and so
 * on by name. What they do is compared and swapped, so two at a time are no harm.
 *
 * @param first - who comes before all others, knowing best
 */
export function rankOf(s: Snapshot, node: string, first?: string): number {
  const order = [...s.lives.keys()].filter((n) => s.nodes.get(n)?.value.witness !== true).sort();
  const ranks =
    first !== undefined && order.includes(first) ? [first, ...order.filter((n) => n !== first)] : order;
  const rank = ranks.indexOf(node);
  return rank < 0 ? Infinity : rank;
}
