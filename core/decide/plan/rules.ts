import type { PlanRule } from './model.js';
import { nowhere } from './state.js';

/** What one broken `prefer` weighs beside the imbalance: as much as a node whose load is off by a fifth. */
const preferWeight = 0.2;

/** Where VMs are, by numbers; `online`: 1, the node takes VMs. */
export interface Places {
  readonly nodes: readonly { readonly name: string; readonly domains: readonly string[] }[];
  readonly vms: readonly { readonly name: string }[];
  readonly owner: ArrayLike<number>;
  readonly online: ArrayLike<number>;
}

/** Rules over a state: what a VM on a node would break. They follow the state as it changes. */
export class Rules {
  private readonly s: Places;
  private readonly of: readonly (readonly PlanRule[])[];
  private readonly members = new Map<PlanRule, readonly number[]>();

  constructor(s: Places, rules: readonly PlanRule[] = []) {
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

  /** What of the rules is broken less there than where it is: of those that must hold; else of the wishes; null: nothing. */
  mends(vm: number, n: number): 'must' | 'wish' | null {
    const at = this.s.owner[vm]!;
    const [must, mustThere] = [this.misfits(vm, at, true), this.misfits(vm, n, true)];
    if (mustThere !== must) return mustThere < must ? 'must' : null;
    return this.misfits(vm, n, false) < this.misfits(vm, at, false) ? 'wish' : null;
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
        return this.others(rule, vm).filter((o) => this.same(rule, s.owner[o]!, n)).length;
      case 'together':
        // Who waits on a node that is being emptied follows; it binds nobody to that node.
        return this.others(rule, vm).filter((o) => this.away(rule, o, n)).length;
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
        const other = this.others(rule, vm).find((o) => this.same(rule, s.owner[o]!, n));
        if (other === undefined) return '';
        const at = s.nodes[s.owner[other]!]!;
        return `${s.vms[other]!.name} is ${at.name === name ? 'there' : `on ${at.name}, in the same rack`}`;
      }
      case 'together': {
        const other = this.others(rule, vm).find((o) => this.away(rule, o, n));
        return other === undefined ? '' : `${s.vms[other]!.name} is on ${s.nodes[s.owner[other]!]!.name}`;
      }
    }
  }

  /** Two nodes are one place for that rule. A node without a rack is one by itself. */
  private same(rule: PlanRule, a: number, b: number): boolean {
    if (a === b) return true;
    if (rule.over !== 'rack') return false;
    const [of] = this.s.nodes[a]!.domains;
    return of !== undefined && of === this.s.nodes[b]!.domains[0];
  }

  private away(rule: PlanRule, other: number, n: number): boolean {
    const at = this.s.owner[other]!;
    return this.s.online[at] === 1 && !this.same(rule, at, n);
  }

  private others(rule: PlanRule, vm: number): number[] {
    return (this.members.get(rule) ?? []).filter((o) => o !== vm && this.s.owner[o] !== nowhere);
  }
}
