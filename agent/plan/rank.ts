import type { AgentEnv } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/** A record of what one node does for all is written again unchanged after this, ms: a sign that somebody does it, and when. */
const againMs = 5 * 60_000;
/** One that stands for so long is taken over by the next node by name, ms. */
const patienceMs = 2 * againMs;

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

/** Whose turn it is to do what one node does for all and keeps a record of in the ledger. */
export class RecordTurn {
  private readonly env: Pick<AgentEnv, 'clock' | 'node'>;
  /** Since when the record stands as it does, monotonic ms. */
  private at: { readonly rev: bigint | null; readonly sinceMs: number } | null = null;

  constructor(env: Pick<AgentEnv, 'clock' | 'node'>) {
    this.env = env;
  }

  /** @param rev - the record's revision now; null: there is none */
  mine(s: Snapshot, rev: bigint | null): boolean {
    const nowMs = this.env.clock.nowMs();
    if (this.at?.rev !== rev) this.at = { rev, sinceMs: nowMs };
    return nowMs - this.at.sinceMs >= rankOf(s, this.env.node) * patienceMs;
  }
}

/** Whether such a record is written again though it says nothing new. */
export const isOld = (
  before: { readonly by: string; readonly atMs: number },
  now: { readonly by: string; readonly atMs: number },
): boolean => now.atMs - before.atMs >= againMs || before.by !== now.by;
