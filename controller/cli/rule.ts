import { Argument, Option, type Command } from 'commander';
import { ruleKindSchema, type RuleKind } from '../../core/domain/rule.js';
import type { RuleList, RuleView } from '../../core/wire/rest.js';
import { collect } from './input.js';
import type { Io } from './io.js';
import { table, type Column } from './table.js';

/** Whom and what a rule is about, in words. */
function ruleText(r: Omit<RuleView, 'broken' | 'id'>): string {
  const vms = [...r.vms.map((v) => v.name)];
  const where = [
    ...r.nodes,
    ...r.racks.map((x) => `rack ${x}`),
    ...r.nodeTags.map((x) => `nodes tagged ${x}`),
  ];
  const who = `${vms.join(', ') || 'no VM'}${r.tags.length > 0 ? ` (by tag ${r.tags.join(', ')})` : ''}`;
  switch (r.kind) {
    case 'together':
      return `${who} on one ${r.over}`;
    case 'apart':
      return `${who} on different ${r.over}s`;
    case 'on':
      return `${who} only on ${where.join(', ')}`;
    case 'not-on':
      return `${who} not on ${where.join(', ')}`;
  }
}

const columns: readonly Column<RuleView>[] = [
  { head: 'RULE', text: (r) => r.name },
  { head: 'KIND', text: (r) => r.kind },
  { head: 'STRENGTH', text: (r) => (r.must ? 'must' : 'prefer') },
  { head: 'ABOUT', text: ruleText, give: 1 },
  { head: 'BROKEN BY', text: (r) => r.broken.join('; ') || '–', give: 2 },
];

function listText(l: RuleList, width: number | null): string {
  return [
    l.items.length === 0 ? 'There are no rules.' : table(l.items, columns, width),
    ...(l.conflicts.length === 0
      ? []
      : ['', 'Cannot all be kept:', ...l.conflicts.map((c) => `  ${c.rules.join(', ')}: ${c.text}`)]),
  ].join('\n');
}

interface AddOptions {
  readonly vm: string[];
  readonly tag: string[];
  readonly node: string[];
  readonly rack: string[];
  readonly nodeTag: string[];
  readonly over: 'node' | 'rack';
  readonly prefer?: true;
}

/** `flotilla rule` */
export function ruleCommands(program: Command, io: Io): void {
  const rule = program
    .command('rule')
    .description('rules of where VMs are: together, apart, on nodes or not');
  rule
    .command('list')
    .alias('ls')
    .description('list them, with what breaks each and which cannot all be kept')
    .action(async () => {
      const l = await (await io.client()).call('ruleList', {});
      io.show(l, () => listText(l, io.terminal.width));
    });
  rule
    .command('add')
    .description('make a rule; one that cannot be kept with the others is refused')
    .argument('<name>')
    .addArgument(new Argument('<kind>').choices(ruleKindSchema.options))
    .option('--vm <vm>', 'a VM it is about', collect, [])
    .option('--tag <tag>', 'all VMs with this tag', collect, [])
    .option('--node <node>', 'a node', collect, [])
    .option('--rack <rack>', 'all nodes of this rack', collect, [])
    .option('--node-tag <tag>', 'all nodes with this tag', collect, [])
    .addOption(
      new Option('--over <what>', 'together on, or apart over').choices(['node', 'rack']).default('node'),
    )
    .option('--prefer', 'a wish: it weighs, but may be broken')
    .action(async (name: string, kind: RuleKind, o: AddOptions) => {
      const r = await (
        await io.client()
      ).call('ruleCreate', {
        body: {
          name,
          kind,
          must: o.prefer !== true,
          over: o.over,
          vms: o.vm,
          tags: o.tag,
          nodes: o.node,
          racks: o.rack,
          nodeTags: o.nodeTag,
        },
      });
      io.show(r, () =>
        [
          `${r.name}: ${ruleText(r)} (${r.must ? 'must' : 'prefer'})`,
          ...r.broken.map((b) => `Broken now: ${b}`),
        ].join('\n'),
      );
    });
  rule
    .command('remove')
    .alias('rm')
    .description('remove a rule')
    .argument('<rule>')
    .action(async (name: string) => {
      await (await io.client()).call('ruleDelete', { params: { rule: name } });
      io.show({ removed: name }, () => `The rule ${name} is removed.`);
    });
}
