import { newReplicas } from './descent.js';
import type { Guard } from './guard.js';
import type { Random } from './random.js';
import { noFigures, type Figures, type State } from './state.js';

const GiB = 1024;

/** A search's effort and what it pays. */
export interface SearchLimits {
  /** Places tried. */
  readonly tries: number;
  /** Disk that may be copied on the shortest way from the origin, MiB. */
  readonly diskMaxMiB: number;
  /** First and last temperature: imbalance by which a step may make it worse. */
  readonly hot: number;
  readonly cold: number;
  readonly prices: Prices;
}

/** What weighs beside the imbalance. */
export interface Prices {
  /** A replica on a node that is lost. */
  readonly stranded: number;
  /** A node that could not take over what it promised. */
  readonly short: number;
  /** On the way only, a GiB that such a node lacks: where it was well at the start, and anywhere. */
  readonly broken: number;
  readonly lack: number;
}

/** Where every VM is. */
export interface Assignment {
  readonly owner: Int32Array;
  readonly standby: Int32Array;
}

export const assignmentOf = (s: State): Assignment => ({
  owner: s.owner.slice(),
  standby: s.standby.slice(),
});

/** Puts VMs where an assignment has them. */
export function restore(s: State, to: Assignment): void {
  for (let vm = 0; vm < s.vmCount; vm++) s.put(vm, to.owner[vm]!, to.standby[vm]!);
}

/** Imbalance that a GiB of memory sent must gain at least. */
const memoryPrice = 1e-6;

/**
 * Looks for the assignment with the least imbalance that copies no more than a budget: simulated annealing over
 * single moves, moves back to the origin, and exchanges between two VMs. The price of a copied byte follows the
 * budget: it rises while more than the budget is spent and falls while less is.
 */
export class Search {
  private readonly s: State;
  private readonly guard: Guard;
  private readonly from: Assignment;
  private readonly random: Random;
  private price = 0;
  private diskMiB = 0;
  private memoryMiB = 0;
  private temperature = 0;
  private cost = 0;
  private readonly figures = noFigures();
  private prices: Prices;

  constructor(s: State, guard: Guard, from: Assignment, random: Random) {
    this.s = s;
    this.guard = guard;
    this.from = from;
    this.random = random;
    this.prices = { stranded: 0, short: 0, broken: 0, lack: 0 };
  }

  /** Runs from the state as it is; leaves the state at the best assignment within the budget, and returns it. */
  run(limits: SearchLimits): Assignment {
    const { s } = this;
    const budget = limits.diskMaxMiB;
    this.prices = limits.prices;
    this.recount();
    let best = assignmentOf(s);
    let bestCost = this.diskMiB <= budget ? this.worth() : Infinity;
    let since = 0;
    this.price = (s.score() * 0.1) / Math.max(budget / GiB, 1);
    const rounds = 400;
    const perRound = Math.ceil(limits.tries / rounds);
    for (let round = 0; round < rounds; round++) {
      this.temperature = limits.hot * (limits.cold / limits.hot) ** (round / (rounds - 1));
      s.figures(this.figures);
      this.cost = this.total(this.figures, this.diskMiB, this.memoryMiB);
      for (let i = 0; i < perRound; i++) {
        this.step();
        if (this.diskMiB <= budget && ++since > 50) {
          const worth = this.worth();
          if (worth < bestCost - 1e-9 && this.guard.holds()) {
            bestCost = worth;
            best = assignmentOf(s);
            since = 0;
          }
        }
      }
      s.settle();
      const over = this.diskMiB / Math.max(budget, 1);
      this.price = Math.max(1e-7, this.price * Math.min(1.5, Math.max(0.8, 1 + 0.3 * (over - 0.99))));
    }
    if (this.diskMiB <= budget && this.worth() < bestCost && this.guard.holds()) best = assignmentOf(s);
    restore(s, best);
    s.settle();
    return best;
  }

  private recount(): void {
    this.diskMiB = this.memoryMiB = 0;
    for (let vm = 0; vm < this.s.vmCount; vm++) this.count(vm, 1);
  }

  private count(vm: number, sign: 1 | -1): void {
    const { s, from } = this;
    const o = s.owner[vm]!;
    const before = from.owner[vm]!;
    if (o === before && s.standby[vm] === from.standby[vm]) return;
    this.diskMiB += sign * s.disk[vm]! * newReplicas(before, from.standby[vm]!, o, s.standby[vm]!);
    if (o !== before) this.memoryMiB += sign * s.memory[vm]!;
  }

  private worth(): number {
    const { s } = this;
    return (
      s.score() +
      this.prices.stranded * s.stranded() +
      this.prices.short * s.shortNodes +
      (memoryPrice / GiB) * this.memoryMiB
    );
  }

  private total(f: Figures, diskMiB: number, memoryMiB: number): number {
    return (
      f.score -
      f.brokenVms +
      this.prices.stranded * f.stranded +
      (memoryPrice / GiB) * memoryMiB +
      (this.price / GiB) * diskMiB +
      (this.prices.broken / GiB) * f.brokenLack +
      (this.prices.lack / GiB) * f.lack
    );
  }

  /** What is paid when a VM is there. */
  private tried(vm: number, o: number, sb: number): number {
    const { s, from, figures } = this;
    s.trial(vm, o, sb, figures);
    const [p, q] = [s.owner[vm]!, s.standby[vm]!];
    const [a, b] = [from.owner[vm]!, from.standby[vm]!];
    const more = newReplicas(a, b, o, sb) - newReplicas(a, b, p, q);
    const sent = (o === a ? 0 : 1) - (p === a ? 0 : 1);
    return this.total(figures, this.diskMiB + more * s.disk[vm]!, this.memoryMiB + sent * s.memory[vm]!);
  }

  private move(vm: number, o: number, sb: number): void {
    this.count(vm, -1);
    this.s.put(vm, o, sb);
    this.count(vm, 1);
  }

  private fits(vm: number, o: number, sb: number): boolean {
    const { s } = this;
    const p = s.owner[vm]!;
    const q = s.standby[vm]!;
    if (o !== p && (s.online[o] === 0 || s.freeMem[o]! - s.memory[vm]! <= 0)) return false;
    if (o !== p && s.ownerCpus[o]! + s.cpus[vm]! > s.cpuMax[o]! && s.online[p] === 1) return false;
    if (o !== p && o !== q && s.freeDsk[o]! - s.disk[vm]! <= 0) return false;
    if (sb !== p && sb !== q && (s.online[sb] === 0 || s.freeDsk[sb]! - s.disk[vm]! <= 0)) return false;
    return s.group[o] === s.group[p] && s.group[sb] === s.group[p];
  }

  private accept(total: number): boolean {
    const worse = total - this.cost;
    if (worse > 0 && this.random.unit() >= Math.exp(-worse / this.temperature)) return false;
    this.cost = total;
    return true;
  }

  private step(): void {
    const { s, random } = this;
    const vm = random.below(s.vmCount);
    const kind = random.below(20);
    if (kind >= 17) {
      const other = random.below(s.vmCount);
      if (kind === 17)
        this.exchange(vm, other, s.owner[other]!, s.standby[vm]!, s.owner[vm]!, s.standby[other]!);
      else if (kind === 18)
        this.exchange(vm, other, s.owner[vm]!, s.standby[other]!, s.owner[other]!, s.standby[vm]!);
      else this.exchange(vm, other, s.owner[other]!, s.standby[other]!, s.owner[vm]!, s.standby[vm]!);
      return;
    }
    const p = s.owner[vm]!;
    const q = s.standby[vm]!;
    const n = random.below(s.nodeCount);
    if (kind < 3) this.single(vm, q, p);
    else if (kind < 5) this.single(vm, this.from.owner[vm]!, this.from.standby[vm]!);
    else if (n === p || n === q) return;
    else if (kind < 9) this.single(vm, p, n);
    else if (kind < 12) this.single(vm, n, q);
    else if (kind < 15) this.single(vm, n, p);
    else this.single(vm, q, n);
  }

  private single(vm: number, o: number, sb: number): void {
    const { s } = this;
    const p = s.owner[vm]!;
    const q = s.standby[vm]!;
    if ((o === p && sb === q) || !this.fits(vm, o, sb)) return;
    if (this.accept(this.tried(vm, o, sb))) this.move(vm, o, sb);
  }

  /** Room on a node when one VM is on other nodes, and another one, too. */
  private room(x: number, v: number, vo: number, vs: number, w: number, wo: number, ws: number): boolean {
    const { s } = this;
    const own = (vm: number, o: number): number => (x === o ? 1 : 0) - (x === s.owner[vm] ? 1 : 0);
    const leg = (vm: number, o: number, b: number): number =>
      (x === o || x === b ? 1 : 0) - (x === s.owner[vm] || x === s.standby[vm] ? 1 : 0);
    return (
      s.freeMem[x]! - own(v, vo) * s.memory[v]! - own(w, wo) * s.memory[w]! > 0 &&
      s.freeDsk[x]! - leg(v, vo, vs) * s.disk[v]! - leg(w, wo, ws) * s.disk[w]! > 0
    );
  }

  private exchange(v: number, w: number, vo: number, vs: number, wo: number, ws: number): void {
    const { s } = this;
    if (v === w || vo === vs || wo === ws) return;
    const [p, q, p2] = [s.owner[v]!, s.standby[v]!, s.owner[w]!];
    if (vo === p && vs === q) return;
    if (s.online[vo] === 0 || s.online[vs] === 0 || s.online[wo] === 0 || s.online[ws] === 0) return;
    if (s.group[p] !== s.group[p2]) return;
    for (const x of [vo, vs, wo, ws]) if (!this.room(x, v, vo, vs, w, wo, ws)) return;
    this.move(v, vo, vs);
    if (this.accept(this.tried(w, wo, ws))) this.move(w, wo, ws);
    else this.move(v, p, q);
  }
}
