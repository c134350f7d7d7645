import type { PlanRule } from './model.js';
import { nowhere, type State } from './state.js';

/** What one broken `prefer` weighs beside the imbalance: as much as a node whose load is off by a fifth. */
const preferWeight = 0.2;

/** Rules over a state: what a VM on a node would break. They follow the state as it changes. */
export class Rules {
  private readonly s: State;
  private readonly of: readonly (readonly PlanRule[])[];
  private readonly members = new Map<PlanRule, readonly number[]>();

  constructor(s: State, rules: readonly PlanRule[] = []) {
    this.s = s;
    const of: PlanRule[][] = s.vms.map(() => []);
    const numbers = new Map(s.vms.map((v, i) => [v.name, i]));
    for (const rule of rules) {
      const members = rule.vms.flatMap((v) => numbers.get(v) ?? []);
      this.members.set(rule, members);
      for (const vm of members) of[vm]?.push(rule);
    }
    this.of = of;
  }

  /**
   * Why that node breaks what must hold, in words; empty: it does not. What is broken where the VM is now does not bar a
   * node where less of it is.
   */
  bars(vm: number, n: number): string[] {
    return (this.of[vm] ?? []).flatMap((rule) => {
      if (!rule.must) return [];
      const there = this.misfit(rule, vm, n);
      if (there === 0 || there < this.allowed(rule, vm)) return [];
      return [`the rule "${rule.name}" bars it: ${this.text(rule, vm, n)}`];
    });
  }

  /** What the broken wishes weigh beside the imbalance. */
  cost(vm: number, n: number): number {
    return preferWeight * this.count(vm, n, false);
  }

  /** Rules of that strength that the VM breaks there, in words. */
  broken(vm: number, n: number, must: boolean): { readonly rule: PlanRule; readonly text: string }[] {
    return (this.of[vm] ?? []).flatMap((rule) =>
      rule.must === must && this.misfit(rule, vm, n) > 0 ? [{ rule, text: this.text(rule, vm, n) }] : [],
    );
  }

  /** Whether fewer rules are broken there than where it is: of those that must hold first. */
  mends(vm: number, n: number): boolean {
    const at = this.s.owner[vm]!;
    const [must, mustThere] = [this.misfits(vm, at, true), this.misfits(vm, n, true)];
    return (
      mustThere < must || (mustThere === must && this.misfits(vm, n, false) < this.misfits(vm, at, false))
    );
  }

  /** VMs that some rule is about. */
  subjects(): number[] {
    return this.of.flatMap((rules, vm) => (rules.length > 0 ? [vm] : []));
  }

  private count(vm: number, n: number, must: boolean): number {
    let count = 0;
    for (const rule of this.of[vm] ?? []) if (rule.must === must && this.misfit(rule, vm, n) > 0) count++;
    return count;
  }

  private misfits(vm: number, n: number, must: boolean): number {
    let sum = 0;
    for (const rule of this.of[vm] ?? []) if (rule.must === must) sum += this.misfit(rule, vm, n);
    return sum;
  }

  /** By how much a rule is broken with the VM on that node: 0: it is kept; else the VMs it should be with, or without, or 1. */
  private misfit(rule: PlanRule, vm: number, n: number): number {
    const { s } = this;
    switch (rule.kind) {
      case 'on':
        return rule.nodes.includes(s.nodes[n]!.name) ? 0 : 1;
      case 'not-on':
        return rule.nodes.includes(s.nodes[n]!.name) ? 1 : 0;
      case 'apart':
        return this.others(rule, vm).filter((o) => s.owner[o] === n).length;
      case 'together':
        // Who waits on a node that is being emptied follows; it binds nobody to that node.
        return this.others(rule, vm).filter((o) => s.owner[o] !== n && s.online[s.owner[o]!] === 1).length;
    }
  }

  /** Below this a node is no worse than what is: for a VM that is nowhere yet, than the best there is. */
  private allowed(rule: PlanRule, vm: number): number {
    const at = this.s.owner[vm]!;
    if (at !== nowhere) return this.misfit(rule, vm, at);
    // Scattered already: where most of them are is as good as it gets.
    if (rule.kind !== 'together') return 0;
    const nodes = new Set(this.others(rule, vm).map((o) => this.s.owner[o]!));
    return 1 + Math.min(...[...nodes].map((n) => this.misfit(rule, vm, n)));
  }

  private text(rule: PlanRule, vm: number, n: number): string {
    const { s } = this;
    const name = s.nodes[n]!.name;
    switch (rule.kind) {
      case 'on':
        return `only ${rule.nodes.join(', ') || 'nodes that are not there'}`;
      case 'not-on':
        return `not on ${name}`;
      case 'apart': {
        const other = this.others(rule, vm).find((o) => s.owner[o] === n);
        return other === undefined ? '' : `${s.vms[other]!.name} is there`;
      }
      case 'together': {
        const other = this.others(rule, vm).find((o) => s.owner[o] !== n && s.online[s.owner[o]!] === 1);
        return other === undefined ? '' : `${s.vms[other]!.name} is on ${s.nodes[s.owner[other]!]!.name}`;
      }
    }
  }

  private others(rule: PlanRule, vm: number): number[] {
    return (this.members.get(rule) ?? []).filter((o) => o !== vm && this.s.owner[o] !== nowhere);
  }
}
