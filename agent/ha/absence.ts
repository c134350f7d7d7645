import type { Absence } from '../../core/decide/failover.js';
import type { Snapshot } from '../snapshot.js';

/**
 * Since when the live keys of other nodes are gone, as this node's readings of the ledger showed it. Kept in memory
 * only: an agent that starts anew waits anew.
 *
 * A reading that could not be made changes nothing: the transaction of a failover compares `seen/<node>` and the
 * live key again, so a node that came back unseen is found there.
 */
export class AbsenceMemory {
  private readonly gone = new Map<string, Absence>();
  private epoch: number | null = null;

  /**
   * Takes a reading in.
   *
   * @param atMs - monotonic ms at its answer: the absence is at least as old
   * @param nodes - every node that owns or stands by for something
   */
  look(s: Snapshot, atMs: number, nodes: Iterable<string>): void {
    const epoch = s.meta?.value.epoch ?? null;
    if (epoch !== this.epoch) {
      // Another life of the ledger: nothing that was seen before counts.
      this.gone.clear();
      this.epoch = epoch;
    }
    const known = new Set(nodes);
    for (const node of this.gone.keys()) if (!known.has(node)) this.gone.delete(node);
    for (const node of known) {
      if (s.lives.has(node)) {
        this.gone.delete(node);
        continue;
      }
      const seenRevision = s.seen.get(node) ?? 0n;
      if (this.gone.get(node)?.seenRevision !== seenRevision)
        this.gone.set(node, { sinceMs: atMs, seenRevision });
    }
  }

  /** Null: it is alive, or not watched. */
  of(node: string): Absence | null {
    return this.gone.get(node) ?? null;
  }

  /** The shortest absence, ms; null: all are there. */
  newestMs(nowMs: number): number | null {
    const ages = [...this.gone.values()].map((a) => nowMs - a.sinceMs);
    return ages.length === 0 ? null : Math.min(...ages);
  }
}
