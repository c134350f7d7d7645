import type { PairSeen } from '../../core/domain/replica.js';

/** The speed is that of the last so many ms. */
const spanMs = 15_000;

/** How fast what differs between copies is copied, by what is seen to be left. */
export class SyncRate {
  private readonly seen = new Map<number, { readonly atMs: number; readonly left: number }[]>();

  take(pairs: ReadonlyMap<string, PairSeen>, atMs: number): void {
    const open = new Set<number>();
    for (const p of pairs.values())
      for (const v of p.volumes) {
        if (v.replication !== 'SyncSource' && v.replication !== 'SyncTarget') continue;
        open.add(v.minor);
        const before = (this.seen.get(v.minor) ?? []).filter((x) => atMs - x.atMs <= spanMs);
        this.seen.set(v.minor, [...before, { atMs, left: v.behindBytes }]);
      }
    for (const minor of this.seen.keys()) if (!open.has(minor)) this.seen.delete(minor);
  }

  /** Null: not known yet, or nothing is copied. */
  of(minor: number): number | null {
    const all = this.seen.get(minor) ?? [];
    const [first, last] = [all[0], all.at(-1)];
    if (first === undefined || last === undefined || last.atMs <= first.atMs) return null;
    const bytes = first.left - last.left;
    return bytes <= 0 ? null : (bytes / (last.atMs - first.atMs)) * 1000;
  }
}
