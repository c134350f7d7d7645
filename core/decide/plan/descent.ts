import { noFigures, type State } from './state.js';

/** Below this imbalance a step must gain at least {@link gainMin}. @see hbal(1), `--min-gain-limit`, `--min-gain` */
const gainLimit = 0.1;
const gainMin = 0.01;
/** Gains smaller than rounding are none. */
const noise = 1e-9;
/** Two scores this close are one. */
const tie = 1e-12;
/** Steps whose kept gain promises most are looked at again: enough that the best of them is the best of all. */
const shortlist = 1024;
/** Steps after which all gains are looked at again. */
const fullLook = 10;

/** Where a walk ends, and what it copies: as the shortest way from start to end. */
export interface Descent {
  readonly diskMiB: number;
  readonly score: number;
  /** It was cut short. */
  readonly cut: boolean;
  /** VM, owner and standby by number after each step. */
  readonly steps: readonly (readonly [vm: number, owner: number, standby: number])[];
}

/** The rules of a plain balancer for one VM lifted off its nodes; strict ones give way where a node is lost. */
class Lifted {
  private readonly s: State;
  private vm = 0;
  private o = 0;
  private sb = 0;
  private standbyNeed = 0;

  constructor(s: State) {
    this.s = s;
  }

  lift(vm: number): void {
    this.vm = vm;
    this.o = this.s.owner[vm]!;
    this.sb = this.s.standby[vm]!;
    this.standbyNeed = this.s.needWithout(vm);
  }

  canOwn(n: number, forced: boolean): boolean {
    const { s, vm } = this;
    const on = n === this.o || n === this.sb;
    const free = s.freeMem[n]! + (n === this.o ? s.memory[vm]! : 0);
    const left = free - s.memory[vm]!;
    if (left <= 0 || s.freeDsk[n]! + (on ? s.disk[vm]! : 0) - s.disk[vm]! <= 0) return false;
    if (forced) return true;
    const need = n === this.sb ? this.standbyNeed : s.need[n]!;
    return (
      s.spindlesUsed[n]! + (on ? 0 : s.spindles[vm]!) <= s.spindlesMax[n]! &&
      (left > need || free <= need) &&
      s.ownerCpus[n]! + (n === this.o ? 0 : s.cpus[vm]!) <= s.cpuMax[n]! &&
      !s.labelsClash(vm, n)
    );
  }

  canStand(n: number, owner: number, forced: boolean): boolean {
    const { s, vm } = this;
    const on = n === this.o || n === this.sb;
    if (s.freeDsk[n]! + (on ? s.disk[vm]! : 0) - s.disk[vm]! <= 0) return false;
    if (forced) return true;
    const free = s.freeMem[n]! + (n === this.o ? s.memory[vm]! : 0);
    const need = n === this.sb ? this.standbyNeed : s.need[n]!;
    const peer = s.peer(n, owner) - (n === this.sb && owner === this.o ? s.memory[vm]! : 0) + s.memory[vm]!;
    return (
      s.spindlesUsed[n]! + (on ? 0 : s.spindles[vm]!) <= s.spindlesMax[n]! &&
      s.memory[vm]! < free &&
      (free > Math.max(need, peer) || free <= need)
    );
  }
}

/** Ways to bring a VM to a node, in the order a plain balancer tries them; the first is to swap its two. */
const ways = 5;

/** Gains of single steps: the best way of each VM to each node, kept while neither its nodes nor that one change. */
class Gains {
  tries = 0;
  private readonly s: State;
  private readonly lifted: Lifted;
  /** Score after less score before, by VM and node; swaps are kept at the standby. */
  private readonly gain: Float64Array;
  private readonly way: Uint8Array;
  /** Node and way of each place to be priced. */
  private readonly found: Int32Array;
  private count = 0;
  private readonly figures = noFigures();

  constructor(s: State) {
    this.s = s;
    this.lifted = new Lifted(s);
    this.gain = new Float64Array(s.vmCount * s.nodeCount).fill(Infinity);
    this.way = new Uint8Array(s.vmCount * s.nodeCount);
    this.found = new Int32Array(s.nodeCount * ways);
  }

  /** Looks again at what a change of these nodes, or all, makes different. */
  look(changed: readonly number[] | null, now: number): void {
    const { s } = this;
    for (let vm = 0; vm < s.vmCount; vm++) {
      const o = s.owner[vm]!;
      const sb = s.standby[vm]!;
      this.lifted.lift(vm);
      if (changed === null || changed.includes(o) || changed.includes(sb)) {
        for (let n = 0; n < s.nodeCount; n++) this.collect(vm, n);
      } else for (const n of changed) this.collect(vm, n);
      this.price(vm, now);
    }
  }

  /** The best step, or null; gains looked at long ago are only used to choose which to look at again. */
  best(now: number): { readonly step: [number, number, number]; readonly score: number } | null {
    const { s, gain } = this;
    const first: number[] = [];
    let limit = 0;
    for (let i = 0; i < gain.length; i++) {
      if (gain[i]! >= limit) continue;
      first.push(i);
      if (first.length < 4 * shortlist) continue;
      first.sort((a, b) => gain[a]! - gain[b]! || a - b).length = shortlist;
      limit = gain[first[shortlist - 1]!]!;
    }
    first.sort((a, b) => a - b);
    let best = now - noise;
    let at = -1;
    for (const i of first) {
      const vm = Math.floor(i / s.nodeCount);
      this.lifted.lift(vm);
      this.collect(vm, i % s.nodeCount);
      this.price(vm, now);
      if (now + gain[i]! >= best - tie) continue;
      best = now + gain[i]!;
      at = i;
    }
    if (at < 0) return null;
    const vm = Math.floor(at / s.nodeCount);
    return { step: [vm, ...this.places(vm, at % s.nodeCount, this.way[at]!)], score: best };
  }

  /** Notes the ways to a node that the rules allow the lifted VM. */
  private collect(vm: number, n: number): void {
    const { s } = this;
    this.gain[vm * s.nodeCount + n] = Infinity;
    const o = s.owner[vm]!;
    if (n === o || s.online[n] === 0 || s.group[n] !== s.group[o]) return;
    const sb = s.standby[vm]!;
    const from = n === sb ? 0 : 1;
    const to = n === sb ? 1 : ways;
    for (let way = from; way < to; way++)
      if (this.allowed(o, sb, n, way)) this.found[this.count++] = n * ways + way;
  }

  /** Prices what was noted. */
  private price(vm: number, now: number): void {
    const { s, gain, figures: f } = this;
    const o = s.owner[vm]!;
    const sb = s.standby[vm]!;
    for (let i = 0; i < this.count; i++) {
      const way = this.found[i]! % ways;
      const n = (this.found[i]! - way) / ways;
      if (way === 0) s.trial(vm, sb, o, f);
      else if (way === 1) s.trial(vm, o, n, f);
      else if (way === 2) s.trial(vm, n, o, f);
      else if (way === 3) s.trial(vm, n, sb, f);
      else s.trial(vm, sb, n, f);
      const score = f.score - now;
      const at = vm * s.nodeCount + n;
      if (score >= gain[at]! - tie) continue;
      gain[at] = score;
      this.way[at] = way;
    }
    this.tries += this.count;
    this.count = 0;
  }

  private places(vm: number, n: number, way: number): [owner: number, standby: number] {
    const o = this.s.owner[vm]!;
    const sb = this.s.standby[vm]!;
    if (way === 0) return [sb, o];
    if (way === 1) return [o, n];
    if (way === 2) return [n, o];
    return way === 3 ? [n, sb] : [sb, n];
  }

  private allowed(o: number, sb: number, n: number, way: number): boolean {
    const l = this.lifted;
    const lostOwner = this.s.online[o] === 0;
    const lostStandby = this.s.online[sb] === 0;
    if (way === 1) return l.canStand(n, o, lostStandby);
    if (way === 2) return l.canOwn(n, false) && l.canStand(o, n, lostStandby);
    if (lostStandby || !l.canOwn(sb, lostOwner)) return false;
    if (way === 0) return l.canStand(o, sb, lostOwner);
    if (way === 3) return l.canOwn(n, lostOwner) && l.canStand(sb, n, lostOwner);
    return l.canStand(n, sb, lostOwner);
  }
}

/**
 * Walks down from a state by the best single step each time, as hbal does, and puts the state back. Gains are kept
 * between steps, so a walk over tens of nodes ends within a second.
 *
 * @param triesMax - places tried; a walk that needs more is cut short and says so
 */
export function descend(s: State, triesMax: number): Descent {
  const owner = s.owner.slice();
  const standby = s.standby.slice();
  const steps: [number, number, number][] = [];
  const gains = new Gains(s);
  let changed: number[] | null = null;
  let now = s.score();
  let cut = false;
  for (;;) {
    gains.look(changed, now);
    const best = gains.best(now);
    if (best === null || (now <= gainLimit && now - best.score < gainMin)) break;
    cut = gains.tries > triesMax;
    if (cut) break;
    const [vm, o, sb] = best.step;
    changed = [...new Set([s.owner[vm]!, s.standby[vm]!, o, sb])];
    if (steps.length % fullLook === fullLook - 1) changed = null;
    s.put(vm, o, sb);
    steps.push(best.step);
    now = best.score;
  }
  let diskMiB = 0;
  for (let vm = 0; vm < s.vmCount; vm++) {
    diskMiB += s.disk[vm]! * newReplicas(owner[vm]!, standby[vm]!, s.owner[vm]!, s.standby[vm]!);
    s.put(vm, owner[vm]!, standby[vm]!);
  }
  return { diskMiB, score: now, steps, cut };
}

/** How many of the second pair of nodes are not in the first. */
export function newReplicas(o: number, s: number, owner: number, standby: number): number {
  return (owner !== o && owner !== s ? 1 : 0) + (standby !== o && standby !== s ? 1 : 0);
}
