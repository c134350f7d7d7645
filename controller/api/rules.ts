import { brokenRules, planRules, ruleConflicts, type RuleConflict } from '../../core/decide/rules.js';
import { FlotillaError } from '../../core/domain/error.js';
import { rulesMax, type Rule } from '../../core/domain/rule.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { RuleView } from '../../core/wire/rest.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';

/** What people want of where VMs are. */
export function ruleHandlers(deps: ApiDeps): Some<'ruleList' | 'ruleCreate' | 'ruleDelete'> {
  const { view } = deps;
  const shown = (id: string): Reply<'ruleCreate'> => {
    const rule = view.ledger.tables.rule.get(id)?.value;
    if (rule === undefined) throw notFound('rule', id);
    return { body: ruleView(view, rule, brokenRules(outlookOf(view).cluster)) };
  };
  return {
    async ruleList() {
      view.freshness();
      const broken = brokenRules(outlookOf(view).cluster);
      const rules = [...view.ledger.tables.rule.values()].map((k) => k.value);
      return {
        body: {
          items: rules
            .map((r) => ruleView(view, r, broken))
            .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)),
          conflicts: conflictsOf(view, rules).map((c) => ({ ...c, rules: [...c.rules] })),
        },
      };
    },
    async ruleCreate({ body, who, idempotencyKey: key }) {
      const id = idFromKey(deps.chance, who, 'ruleCreate', key);
      if (key !== null && (await fresh(deps, kinds.rule, id)) !== null) {
        await view.ledger.refresh('rule');
        return shown(id);
      }
      view.freshness();
      const vms: string[] = [];
      for (const ref of body.vms) vms.push(await idOf(view, 'vm', ref));
      for (const node of body.nodes) await idOf(view, 'node', node);
      return commit(deps, `Rule "${body.name}"`, async () => {
        const { rule: rules } = view.ledger.tables;
        if (rules.size >= rulesMax) {
          throw new FlotillaError('ledger-full', `The cluster has ${rulesMax} rules already`, {
            hint: 'Remove one that is not wanted any more: flotilla rule list.',
          });
        }
        await nameFree(deps, 'rule', body.name);
        const rule: Rule = { id, ...body, vms: [...new Set(vms)] };
        const others = [...rules.values()].map((k) => k.value);
        const known = new Set(conflictsOf(view, others).map((c) => c.text));
        const news = conflictsOf(view, [...others, rule]).filter((c) => !known.has(c.text));
        if (news.length > 0) throw conflict(rule.name, news);
        const change = new Change()
          .at(kinds.rule.key(id), null)
          .put(kinds.rule, id, rule)
          .take(unique.name('rule', rule.name), id);
        return { change, answer: () => shown(id) };
      });
    },
    async ruleDelete({ params }) {
      const id = await idOf(view, 'rule', params.rule);
      return commit(deps, `Rule "${params.rule}"`, async () => {
        const kept = await fresh(deps, kinds.rule, id);
        if (kept === null) throw notFound('rule', params.rule);
        const change = new Change()
          .at(kinds.rule.key(id), kept)
          .del(kinds.rule.key(id))
          .del(unique.name('rule', kept.value.name));
        return { change, answer: (): Reply<'ruleDelete'> => ({ body: null }) };
      });
    },
  };
}

function ruleView(view: View, rule: Rule, broken: ReadonlyMap<string, readonly string[]>): RuleView {
  const specs = [...view.ledger.tables.vmSpec.values()].map((k) => k.value);
  return {
    ...rule,
    vms: specs
      .filter((v) => rule.vms.includes(v.id) || v.tags.some((t) => rule.tags.includes(t)))
      .map((v) => ({ vm: v.id, name: v.name }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
    broken: [...(broken.get(rule.name) ?? [])],
  };
}

/** By all nodes that run VMs, well or not: a node that is away for now makes no conflict. */
function conflictsOf(view: View, rules: readonly Rule[]): RuleConflict[] {
  const t = view.ledger.tables;
  const nodes = [...t.node.values()].map((k) => k.value).filter((n) => !n.witness);
  const plan = planRules({
    rules,
    vapps: [...t.vapp.values()].map((k) => k.value),
    vms: [...t.vmSpec.values()].map((k) => k.value),
    nodes,
  });
  return ruleConflicts(
    plan,
    nodes.map((n) => ({ name: n.id, domains: n.rack === null ? [] : [n.rack] })),
  );
}

const conflict = (name: string, news: readonly RuleConflict[]): FlotillaError =>
  new FlotillaError(
    'rule-conflict',
    `The rule "${name}" cannot be kept: ${news.map((c) => c.text).join('; ')}`,
    {
      hint: `Make it a wish (must: false, --prefer), or change ${
        [...new Set(news.flatMap((c) => c.rules))]
          .filter((r) => r !== name)
          .map((r) => `"${r}"`)
          .join(', ') || 'what it names'
      }.`,
      details: { conflicts: news },
    },
  );
