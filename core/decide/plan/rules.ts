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

  /** Why that node breaks what must hold, in words; empty: it does not. */
  bars(vm: number, n: number): string[] {
    return this.broken(vm, n, true).map(({ rule, text }) => `the rule "${rule.name}" bars it: ${text}`);
  }

  /** What the broken wishes weigh beside the imbalance. */
  cost(vm: number, n: number): number {
    return preferWeight * this.broken(vm, n, false).length;
  }

  private broken(vm: number, n: number, must: boolean): { readonly rule: PlanRule; readonly text: string }[] {
    const out: { rule: PlanRule; text: string }[] = [];
    for (const rule of this.of[vm] ?? []) {
      if (rule.must !== must) continue;
      const text = this.against(rule, vm, n);
      if (text !== null) out.push({ rule, text });
    }
    return out;
  }

  private against(rule: PlanRule, vm: number, n: number): string | null {
    const { s } = this;
    const name = s.nodes[n]!.name;
    switch (rule.kind) {
      case 'on':
        return rule.nodes.includes(name)
          ? null
          : `only ${rule.nodes.join(', ') || 'nodes that are not there'}`;
      case 'not-on':
        return rule.nodes.includes(name) ? `not on ${name}` : null;
      case 'apart': {
        const other = this.others(rule, vm).find((o) => s.owner[o] === n);
        return other === undefined ? null : `${s.vms[other]!.name} is there`;
      }
      case 'together': {
        // Who waits on a node that is being emptied follows; it binds nobody to that node.
        const other = this.others(rule, vm).find((o) => s.owner[o] !== n && s.online[s.owner[o]!] === 1);
        return other === undefined ? null : `${s.vms[other]!.name} is on ${s.nodes[s.owner[other]!]!.name}`;
      }
    }
  }

  private others(rule: PlanRule, vm: number): number[] {
    return (this.members.get(rule) ?? []).filter((o) => o !== vm && this.s.owner[o] !== nowhere);
  }
}
