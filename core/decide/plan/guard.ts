import type { PlanOp } from './model.js';
import type { State } from './state.js';

/**
 * What no step may break, as it was at the start: a node that could take over what it promised still can, and the
 * memory that one failure would leave without a place does not grow.
 */
export class Guard {
  private readonly s: State;
  private readonly exposureMax: number;

  constructor(s: State) {
    this.s = s;
    // Sums of MiB are whole; half of one is rounding.
    this.exposureMax = s.exposure() + 0.5;
  }

  /** Is the state sound? */
  holds(): boolean {
    return this.s.brokenNodes === 0 && this.s.exposure() <= this.exposureMax;
  }

  /** The operations that bring a VM from where it is to two nodes, if each is possible now; else null. */
  ops(vm: number, owner: number, standby: number): Op[] | null {
    return opsOf(this.s, vm, owner, standby);
  }

  /**
   * Moves a VM if the operations are possible and what they lead to is sound; else changes nothing.
   *
   * @returns the operations, or null
   */
  move(vm: number, owner: number, standby: number): Op[] | null {
    const { s } = this;
    const ops = opsOf(s, vm, owner, standby);
    if (ops === null) return null;
    const o = s.owner[vm]!;
    const sb = s.standby[vm]!;
    s.put(vm, owner, standby);
    if (this.holds()) return ops;
    s.put(vm, o, sb);
    return null;
  }
}

/** `-1`: swap; otherwise the node copied to. */
export type Op = number;
export const swap: Op = -1;

export const namedOp = (s: State, op: Op): PlanOp =>
  op === swap ? { op: 'swap' } : { op: 'copy', node: s.nodes[op]!.name };

function opsOf(s: State, vm: number, a: number, b: number): Op[] | null {
  const p = s.owner[vm]!;
  const q = s.standby[vm]!;
  if (a === p && b === q) return [];
  const lost = s.dead[p] === 1;
  const owns = (n: number): boolean => s.online[n] === 1 && (n === p || s.freeMem[n]! - s.memory[vm]! > 0);
  const stores = (n: number): boolean =>
    s.online[n] === 1 && s.group[n] === s.group[p] && s.freeDsk[n]! - s.disk[vm]! > 0;
  if (a === q && b === p) return owns(q) ? [swap] : null;
  if (a === p) return !lost && stores(b) ? [b] : null;
  if (b === p) return !lost && stores(a) && owns(a) ? [a, swap] : null;
  if (a === q) return owns(q) && stores(b) ? [swap, b] : null;
  if (b === q) return owns(q) && stores(a) && owns(a) ? [swap, a, swap] : null;
  if (!stores(a) || !owns(a) || !stores(b)) return null;
  if (!lost) return [a, swap, b];
  return owns(q) ? [swap, a, swap, b] : null;
}
