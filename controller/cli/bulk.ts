import { Option, type Command } from 'commander';
import { bulkActionSchema, bulkAtOnceMax, bulkVmsMax, type BulkAction } from '../../core/domain/bulk.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { BulkLineView } from '../../core/wire/rest.js';
import { collect, wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import type { Column } from './table.js';
import { defined, waiting } from './vm.js';

export interface BulkOptions extends WaitOptions {
  readonly tag?: readonly string[];
  readonly node?: string;
  readonly to?: string;
  readonly atOnce?: number;
  readonly dryRun?: true;
}

const columns: readonly Column<BulkLineView>[] = [
  { head: 'VM', text: (l) => l.name },
  { head: 'NODE', text: (l) => l.node },
  {
    head: 'WOULD',
    text: (l) => (l.state === 'waiting' ? 'be done' : l.state === 'done' ? 'be left as it is' : 'be refused'),
  },
  { head: 'TO', text: (l) => l.to ?? '', give: 2 },
  { head: 'WHY', text: (l) => l.text, give: 1 },
];

/** The same with many VMs, by one operation of the cluster. */
export async function bulk(
  io: Io,
  action: BulkAction,
  names: readonly string[],
  o: BulkOptions,
): Promise<void> {
  const client = await io.client();
  const vms = [...names];
  for (const tag of o.tag ?? [])
    for await (const page of client.all('vmList', { tag })) vms.push(...page.items.map((v) => v.id));
  if (o.node !== undefined)
    for await (const page of client.all('vmList', { node: o.node })) vms.push(...page.items.map((v) => v.id));
  if (vms.length === 0 || vms.length > bulkVmsMax)
    throw new FlotillaError('bad-input', `It is for 1 to ${bulkVmsMax} VMs; these are ${vms.length}`, {
      hint: 'Name VMs, or choose them by --tag or --node.',
    });
  const body = { action, vms, ...defined({ to: o.to, atOnce: o.atOnce, dryRun: o.dryRun }) };
  const r = await client.call('vmBulk', { body: body });
  if (r.op === null) {
    io.list(r.vms, columns, 'No VM.');
    io.say(`${r.sentence}.`);
    return;
  }
  io.say(`${r.sentence}.`);
  const done = await io.follow(r.op, o);
  io.show(done, () => `${done.subject.name}: ${done.step === '' ? done.state : done.step}`);
}

/** `flotilla vm bulk` */
export function bulkCommand(vm: Command, io: Io): void {
  waiting(vm.command('bulk'))
    .description('the same with many VMs, some at a time')
    .addArgument(vm.createArgument('<action>', 'what').choices(bulkActionSchema.options))
    .argument('[vm...]', 'names or ids')
    .option('--tag <tag>', 'also those with this tag; may be given again', collect)
    .option('--node <node>', 'also those of this node')
    .option('--to <node>', 'migrate: only there')
    .addOption(
      new Option('--at-once <n>', `so many at a time, at most ${bulkAtOnceMax}`).argParser(wholeNumber),
    )
    .option('--dry-run', 'only say what would become of each')
    .action((action: BulkAction, names: string[], o: BulkOptions) => bulk(io, action, names, o));
}
