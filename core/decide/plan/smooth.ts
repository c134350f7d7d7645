import type { NodePressure } from '../../domain/node.js';
import type { LoadVector } from './model.js';

/** A load that stands for so long is nearly all of the smoothed one, ms: longer than a burst, shorter than a meal. */
export const smoothMs = 5 * 60_000;

/** A VM that is not heard for so long is measured anew, ms: a migration leaves a gap that is much shorter. */
const silentMs = 2 * 60_000;

/** A load as it would be if nothing had to wait: what is short shows as use too small. */
export const unpressed = (load: LoadVector, p: NodePressure | undefined): LoadVector =>
  p === undefined
    ? load
    : [
        load[0] * (1 + p.cpuPct / 100),
        load[1] * (1 + p.memoryPct / 100),
        load[2] * (1 + p.ioPct / 100),
        load[3],
      ];

/** Loads smoothed over time, so that a burst is no reason to move anything. */
export class Smoothed {
  private readonly of = new Map<string, { load: LoadVector; atMs: number }>();

  /** Takes what is measured now. VMs that were not in it for long are forgotten. @param nowMs - monotonic */
  take(nowMs: number, measured: Iterable<readonly [vm: string, load: LoadVector]>): void {
    for (const [vm, load] of measured) {
      const was = this.of.get(vm);
      if (was === undefined) {
        this.of.set(vm, { load, atMs: nowMs });
        continue;
      }
      const keep = Math.exp(-Math.max(0, nowMs - was.atMs) / (smoothMs / 3));
      const mix = (k: 0 | 1 | 2 | 3): number => was.load[k] * keep + load[k] * (1 - keep);
      this.of.set(vm, { load: [mix(0), mix(1), mix(2), mix(3)], atMs: nowMs });
    }
    for (const [vm, { atMs }] of this.of) if (nowMs - atMs > silentMs) this.of.delete(vm);
  }

  load(vm: string): LoadVector | null {
    return this.of.get(vm)?.load ?? null;
  }
}
