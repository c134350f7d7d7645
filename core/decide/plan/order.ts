import { swap, type Guard, type Op } from './guard.js';
import type { Assignment } from './search.js';
import type { State } from './state.js';

/** One step by numbers. */
export interface Step {
  readonly vm: number;
  readonly owner: number;
  readonly standby: number;
  readonly ops: readonly Op[];
}

/** A VM steps aside for others at most this often. */
const asidesMax = 2;

/** Brings a state to an assignment by steps of which each is legal when it is taken. */
export class Order {
  readonly steps: Step[] = [];
  /** Disk copied by the steps, MiB. */
  diskMiB = 0;
  private readonly s: State;
  private readonly guard: Guard;
  private readonly target: Assignment;
  private readonly diskMaxMiB: number;
  private readonly asides: Uint8Array;
  private pending: number[] = [];

  constructor(s: State, guard: Guard, target: Assignment, diskMaxMiB: number) {
    this.s = s;
    this.guard = guard;
    this.target = target;
    this.diskMaxMiB = diskMaxMiB;
    this.asides = new Uint8Array(s.vmCount);
  }

  /** Goes as far as it can. @returns VMs that are not where the assignment has them */
  run(): number {
    const { s } = this;
    this.pending = [];
    for (let vm = 0; vm < s.vmCount; vm++) if (!this.there(vm)) this.pending.push(vm);
    const size = (vm: number): number => s.memory[vm]!;
    this.pending.sort((a, b) => size(b) - size(a) || a - b);
    while (this.pending.length > 0) {
      if (this.pass()) continue;
      if (this.partly()) continue;
      if (!this.aside()) break;
    }
    return this.pending.length;
  }

  private there(vm: number): boolean {
    return this.s.owner[vm] === this.target.owner[vm] && this.s.standby[vm] === this.target.standby[vm];
  }

  /** Takes every pending VM to its place that can go there. */
  private pass(): boolean {
    const before = this.pending.length;
    this.pending = this.pending.filter(
      (vm) => !this.go(vm, this.target.owner[vm]!, this.target.standby[vm]!),
    );
    return this.pending.length < before;
  }

  private go(vm: number, owner: number, standby: number): boolean {
    const { s } = this;
    const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
    const ops = this.guard.move(vm, owner, standby);
    if (ops === null) return false;
    const diskMiB = ops.reduce((sum, op) => sum + (op === swap ? 0 : s.disk[vm]!), 0);
    if (this.diskMiB + diskMiB > this.diskMaxMiB) {
      s.put(vm, o, sb);
      return false;
    }
    this.diskMiB += diskMiB;
    this.steps.push({ vm, owner, standby, ops });
    return true;
  }

  /** Takes one pending VM a part of its way that costs no more disk than the whole. */
  private partly(): boolean {
    const { s, target } = this;
    for (const vm of this.pending) {
      const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
      const [a, b] = [target.owner[vm]!, target.standby[vm]!];
      const parts: [number, number][] = [];
      if (a !== o && a !== sb && b !== o && b !== sb)
        parts.push([o, b], [o, a], [a, o], [b, o], [sb, a], [sb, b]);
      else if (a !== o && a !== sb)
        parts.push([o, a], [sb, a]); // b stays
      else if (b !== o && b !== sb) parts.push([o, b], [sb, b]);
      for (const [x, y] of parts) {
        if (x === y || newOnes(a, b, x, y) >= newOnes(a, b, o, sb)) continue;
        if (this.go(vm, x, y)) return true;
      }
    }
    return false;
  }

  /** Moves one VM out of the way of a pending one. */
  private aside(): boolean {
    const { s } = this;
    const isPending = new Uint8Array(s.vmCount);
    for (const vm of this.pending) isPending[vm] = 1;
    for (let vm = 0; vm < s.vmCount; vm++) {
      if (this.asides[vm]! >= asidesMax) continue;
      const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
      if (this.tryAside(vm, sb, o, isPending)) return true;
    }
    for (const vm of this.pending) {
      if (this.asides[vm]! >= asidesMax) continue;
      const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
      for (let n = 0; n < s.nodeCount; n++) {
        if (n === o || n === sb) continue;
        if (this.tryAside(vm, o, n, isPending) || this.tryAside(vm, sb, n, isPending)) return true;
        if (this.tryAside(vm, n, o, isPending) || this.tryAside(vm, n, sb, isPending)) return true;
      }
    }
    return false;
  }

  private tryAside(vm: number, owner: number, standby: number, isPending: Uint8Array): boolean {
    const { s, target } = this;
    const [o, sb] = [s.owner[vm]!, s.standby[vm]!];
    if (!this.go(vm, owner, standby)) return false;
    for (const other of this.pending) {
      if (other === vm) continue;
      const [p, q] = [s.owner[other]!, s.standby[other]!];
      if (this.guard.move(other, target.owner[other]!, target.standby[other]!) === null) continue;
      s.put(other, p, q);
      this.asides[vm]!++;
      if (isPending[vm] === 0) this.pending.push(vm);
      return true;
    }
    const step = this.steps.pop()!;
    this.diskMiB -= step.ops.reduce((sum, op) => sum + (op === swap ? 0 : s.disk[vm]!), 0);
    s.put(vm, o, sb);
    return false;
  }
}

/** How many of a pair of nodes a VM on another pair has still to be copied to. */
const newOnes = (a: number, b: number, o: number, s: number): number =>
  (a !== o && a !== s ? 1 : 0) + (b !== o && b !== s ? 1 : 0);
