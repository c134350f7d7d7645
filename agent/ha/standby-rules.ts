import { planRules } from '../../core/decide/rules.js';
import { Rules } from '../../core/decide/plan/rules.js';
import { nowhere } from '../../core/decide/plan/state.js';
import type { Snapshot } from '../snapshot.js';

/**
 * What rules say against a node as the standby of a VM of this node, in words: how all would be with this node gone.
 * Reckoned where it is asked for the first time.
 */
export function barsOf(s: Snapshot, me: string): (vm: string, node: string) => readonly string[] {
  const values = <T>(kept: ReadonlyMap<string, { readonly value: T }>): T[] =>
    [...kept.values()].map((k) => k.value);
  if (s.rules.size === 0 && s.vapps.size === 0) return () => [];
  let found: { readonly rules: Rules; vm(name: string): number; node(id: string): number } | null = null;
  const make = (): NonNullable<typeof found> => {
    const nodes = values(s.nodes);
    const vms = values(s.specs);
    const nodeNumber = new Map(nodes.map((n, i) => [n.id, i]));
    const vmNumber = new Map(vms.map((v, i) => [v.name, i]));
    const rules = planRules({ rules: values(s.rules), vapps: values(s.vapps), vms, nodes });
    const places = {
      nodes: nodes.map((n) => ({ name: n.id, domains: n.rack === null ? [] : [n.rack] })),
      vms,
      owner: vms.map((v) => nodeNumber.get(s.owns.get(v.id)?.value.owner ?? '') ?? nowhere),
      online: nodes.map((n) => (n.id !== me && s.lives.has(n.id) && n.desired === 'active' ? 1 : 0)),
    };
    return {
      rules: new Rules(places, rules),
      vm: (name) => vmNumber.get(name) ?? -1,
      node: (id) => nodeNumber.get(id) ?? -1,
    };
  };
  return (vm, node) => {
    found ??= make();
    const [v, n] = [found.vm(vm), found.node(node)];
    return v < 0 || n < 0 ? [] : found.rules.bars(v, n);
  };
}
