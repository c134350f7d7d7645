import type { NodeRecord } from '../domain/node.js';
import type { Rule } from '../domain/rule.js';
import type { Vapp } from '../domain/vapp.js';
import type { VmSpec } from '../domain/vm.js';
import type { PlanCluster, PlanRule } from './plan/model.js';
import { nowhere } from './plan/state.js';
import { Rules } from './plan/rules.js';

type RuledVm = Pick<VmSpec, 'id' | 'name' | 'tags' | 'vapp'>;
type RuledNode = Pick<NodeRecord, 'id' | 'rack' | 'tags'>;

/** Rules of people and of vApps, with names in place of ids, tags and racks: what plans are made with. */
export function planRules(o: {
  readonly rules: Iterable<Rule>;
  readonly vapps: Iterable<Vapp>;
  readonly vms: Iterable<RuledVm>;
  readonly nodes: Iterable<RuledNode>;
}): PlanRule[] {
  const vms = [...o.vms];
  const nodes = [...o.nodes];
  const rules = [...o.rules].map((r): PlanRule => ({
    name: r.name,
    kind: r.kind,
    must: r.must,
    over: r.over,
    vms: vms.flatMap((v) => (r.vms.includes(v.id) || v.tags.some((t) => r.tags.includes(t)) ? [v.name] : [])),
    nodes: nodes.flatMap((n) =>
      r.nodes.includes(n.id) ||
      (n.rack !== null && r.racks.includes(n.rack)) ||
      (n.tags ?? []).some((t) => r.nodeTags.includes(t))
        ? [n.id]
        : [],
    ),
  }));
  for (const v of o.vapps)
    for (const [i, r] of v.rules.entries())
      rules.push({
        name: `${v.name} ${i + 1}`,
        kind: r.kind,
        must: r.must,
        over: r.over,
        vms: vms.flatMap((x) => (x.vapp?.id === v.id && r.members.includes(x.vapp.member) ? [x.name] : [])),
        nodes: [],
      });
  for (const r of rules) (r.vms as string[]).sort();
  return rules.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** Rules that cannot all be kept, and why. */
export interface RuleConflict {
  readonly rules: readonly string[];
  readonly text: string;
}

/**
 * What of the rules that must hold cannot hold together on these nodes, whatever state the nodes are in: VMs that must be
 * both together and apart; VMs that no node is left for; more VMs apart than there are nodes for them.
 */
export function ruleConflicts(
  rules: readonly PlanRule[],
  nodes: readonly { readonly name: string; readonly domains: readonly string[] }[],
): RuleConflict[] {
  const must = rules.filter((r) => r.must);
  const out: RuleConflict[] = [];
  const kept = must.filter((r) => r.kind === 'together' && r.vms.length > 1);
  const groups = groupsOf(kept);
  const groupOf = new Map(groups.flatMap((g) => g.vms.map((v) => [v, g] as const)));
  for (const r of must.filter((x) => x.kind === 'apart'))
    for (const g of groups) {
      const both = r.vms.filter((v) => groupOf.get(v) === g);
      if (both.length > 1 && (r.over === 'rack' || g.rules.every((k) => k.over !== 'rack')))
        out.push({
          rules: [r.name, ...g.rules.map((k) => k.name)],
          text: `${both.join(' and ')} must be together and apart`,
        });
    }
  const placed = must.filter((r) => r.kind === 'on' || r.kind === 'not-on');
  const allowed = (vms: readonly string[]): { nodes: string[]; rules: PlanRule[] } => {
    const mine = placed.filter((r) => r.vms.some((v) => vms.includes(v)));
    const fits = nodes.filter((n) => mine.every((r) => r.nodes.includes(n.name) === (r.kind === 'on')));
    return { nodes: fits.map((n) => n.name), rules: mine };
  };
  const all = new Set(placed.flatMap((r) => r.vms));
  const units = [
    ...groups.filter((g) => g.rules.every((r) => r.over !== 'rack')),
    ...[...all].filter((v) => !groupOf.has(v)).map((v) => ({ vms: [v], rules: [] as PlanRule[] })),
  ];
  for (const u of units) {
    const a = allowed(u.vms);
    if (a.nodes.length === 0 && a.rules.length > 0)
      out.push({
        rules: [...a.rules, ...u.rules].map((r) => r.name),
        text: `no node is left for ${u.vms.join(' and ')}`,
      });
  }
  for (const r of must.filter((x) => x.kind === 'apart' && x.vms.length > 1)) {
    const placeOf = (n: string): string => {
      const node = nodes.find((x) => x.name === n);
      return r.over === 'rack' ? (node?.domains[0] ?? n) : n;
    };
    const wanted = r.vms.map((v) => ({ vm: v, a: allowed(groupOf.get(v)?.vms ?? [v]) }));
    const left = unmatched(wanted.map((w) => [...new Set(w.a.nodes.map(placeOf))]));
    const names = wanted.flatMap((w) => w.a.rules.map((x) => x.name));
    if (left > 0)
      out.push({
        rules: [...new Set([r.name, ...names])],
        text: `${r.vms.length} VMs must be apart, and there are ${r.over === 'rack' ? 'racks' : 'nodes'} for ${r.vms.length - left} of them`,
      });
  }
  return out;
}

/** VMs that must be on one node, by all rules that say so of any two of them. */
function groupsOf(kept: readonly PlanRule[]): { vms: string[]; rules: PlanRule[] }[] {
  const groups: { vms: string[]; rules: PlanRule[] }[] = [];
  for (const r of kept) {
    const touched = groups.filter((g) => g.vms.some((v) => r.vms.includes(v)));
    const vms = [...new Set([...r.vms, ...touched.flatMap((g) => g.vms)])].sort();
    const merged = { vms, rules: [...touched.flatMap((g) => g.rules), r] };
    for (const g of touched) groups.splice(groups.indexOf(g), 1);
    groups.push(merged);
  }
  return groups;
}

/** How many of them get no place of their own, each taking one of those it may: by augmenting paths. */
function unmatched(may: readonly (readonly string[])[]): number {
  const taken = new Map<string, number>();
  const take = (i: number, seen: Set<string>): boolean => {
    for (const place of may[i] ?? []) {
      if (seen.has(place)) continue;
      seen.add(place);
      const by = taken.get(place);
      if (by === undefined || take(by, seen)) {
        taken.set(place, i);
        return true;
      }
    }
    return false;
  };
  return may.filter((_, i) => !take(i, new Set())).length;
}

/** What breaks each rule now, in words, by the name of the rule. */
export function brokenRules(cluster: PlanCluster): Map<string, string[]> {
  const { s, rules } = rulesOver(cluster);
  const out = new Map<string, string[]>();
  for (const vm of rules.subjects()) {
    const at = s.owner[vm]!;
    if (at === nowhere) continue;
    for (const must of [true, false])
      for (const { rule, text } of rules.broken(vm, at, must))
        out.set(rule.name, [
          ...(out.get(rule.name) ?? []),
          `${s.vms[vm]!.name} on ${s.nodes[at]!.name}: ${text}`,
        ]);
  }
  for (const texts of out.values()) texts.sort();
  return out;
}

/** Rules that must hold and that a VM breaks where it is, in words. */
export function brokenBy(cluster: PlanCluster, name: string): string[] {
  const { s, rules } = rulesOver(cluster);
  const vm = s.vms.findIndex((v) => v.name === name);
  const at = vm < 0 ? nowhere : s.owner[vm]!;
  return at === nowhere
    ? []
    : rules.broken(vm, at, true).map(({ rule, text }) => `it breaks the rule "${rule.name}": ${text}`);
}

/** Where all is, for rules alone: nothing is reckoned. */
function rulesOver({ nodes, vms, rules }: PlanCluster) {
  const number = new Map(nodes.map((n, i) => [n.name, i]));
  const s = {
    nodes,
    vms,
    owner: vms.map((v) => number.get(v.owner) ?? nowhere),
    online: nodes.map((n) => (n.state === 'online' ? 1 : 0)),
  };
  return { s, rules: new Rules(s, rules) };
}
