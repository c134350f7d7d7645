import { Guard } from './guard.js';
import type { PlanCluster } from './model.js';
import { canStand, giveStandbys } from './place.js';
import { Rules } from './rules.js';
import { measuredEmphasis, nowhere, State } from './state.js';

/** Where a VM would be after a live migration. */
export interface Seat {
  readonly node: number;
  readonly standby: number;
  /** The imbalance then, with what broken wishes weigh. */
  readonly score: number;
}

/** A cluster whose VMs move one at a time while they run, to any node that reaches their disks. */
export class Moves {
  readonly s: State;
  readonly rules: Rules;
  readonly guard: Guard;

  /** Promises to VMs that are off, and have no standby for that, are counted as they will be given. */
  constructor(cluster: PlanCluster) {
    this.s = new State(cluster, measuredEmphasis);
    giveStandbys(this.s);
    this.rules = new Rules(this.s, cluster.rules);
    this.guard = new Guard(this.s);
  }

  /** The imbalance as it is, seen from that VM. */
  score(vm: number): number {
    return this.s.score() + this.rules.cost(vm, this.s.owner[vm]!);
  }

  /**
   * The seat of a VM on a node, where it may go there: room for it, its disks in reach, no rule and no promise broken that
   * holds now. The state is as before afterwards.
   *
   * @param loose - promises may be broken
   */
  seat(vm: number, n: number, loose = false): Seat | null {
    const { s } = this;
    const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
    if (n === o || s.online[n] === 0 || !s.reaches(vm, n)) return null;
    if (s.freeMem[n]! < s.memory[vm]! || s.ownerCpus[n]! + s.cpus[vm]! > s.cpuMax[n]!) return null;
    if (this.rules.bars(vm, n).length > 0) return null;
    let best: Seat | null = null;
    for (const standby of this.standbys(vm, n, o, sb)) {
      s.put(vm, n, standby);
      const score = loose || this.guard.holds() ? s.score() + this.rules.cost(vm, n) : null;
      s.put(vm, o, sb);
      if (score !== null && (best === null || score < best.score - 1e-12)) best = { node: n, standby, score };
    }
    return best;
  }

  /** The best seat among all nodes, or those named. */
  best(vm: number, among: (n: number) => boolean = () => true, loose = false): Seat | null {
    let best: Seat | null = null;
    for (let n = 0; n < this.s.nodeCount; n++) {
      const seat = among(n) ? this.seat(vm, n, loose) : null;
      if (seat !== null && (best === null || seat.score < best.score - 1e-12)) best = seat;
    }
    return best;
  }

  take(vm: number, seat: Seat): void {
    this.s.put(vm, seat.node, seat.standby);
  }

  /** Whom it may have as standby there: the one it has, who owned it, and where neither can, all others. */
  private standbys(vm: number, n: number, o: number, sb: number): number[] {
    const { s } = this;
    if (s.alone[vm] === 1) return [nowhere];
    s.leave(vm);
    const can = (x: number): boolean => canStand(s, vm, n, x) && this.rules.bars(vm, x).length === 0;
    const near = [sb, o].filter((x) => x !== nowhere && can(x));
    const out = near.length > 0 ? near : s.nodes.flatMap((_, x) => (can(x) ? [x] : []));
    s.enter(vm, o, sb);
    return out.length > 0 ? out : [nowhere];
  }
}
