import type { Command } from 'commander';
import { Option } from 'commander';
import { formatSize } from '../../core/domain/units.js';
import type { TemplateView } from '../../core/wire/rest.js';
import { collect } from './input.js';
import type { Io, WaitOptions } from './io.js';
import type { Column } from './table.js';
import { defined, waiting } from './vm.js';
import { appliedText, readMapping, valuesOf, type ValueOptions } from './vapp.js';

const bytesOf = (t: TemplateView): number =>
  t.members.reduce((n, m) => n + m.disks.reduce((k, d) => k + (d.usedBytes ?? 0), 0), 0);

const columns: readonly Column<TemplateView>[] = [
  { head: 'NAME', text: (t) => t.name },
  { head: 'STATE', text: (t) => (t.unusable === '' ? t.state : t.unusable) },
  { head: 'OF', text: (t) => `${t.of.kind === 'vm' ? 'VM' : 'vApp'} ${t.of.name}`, give: 2 },
  { head: 'VMS', text: (t) => String(t.members.length), right: true },
  { head: 'HOLDS', text: (t) => formatSize(bytesOf(t)), right: true },
  { head: 'PROPERTIES', text: (t) => t.properties.map((p) => p.name).join(', '), give: 1 },
  { head: 'NOTE', text: (t) => t.note, give: 1 },
];

/** `flotilla template` */
export function templateCommands(program: Command, io: Io): void {
  const template = program
    .command('template')
    .description('the catalogue: what vApps are made of, with parameters');
  template
    .command('list')
    .alias('ls')
    .description('list the templates')
    .action(async () => {
      const { items } = await (await io.client()).call('templateList', {});
      io.list(items, columns, 'There are no templates. See flotilla template create.');
    });
  template
    .command('show')
    .description('show one template: what is in it, what may be set, what must be accepted')
    .argument('<template>')
    .action(async (name: string) => {
      const t = await (await io.client()).call('templateGet', { params: { template: name } });
      io.facts(t, [
        ['Name', t.name],
        ['State', t.unusable === '' ? t.state : t.unusable],
        ['Note', t.note],
        ['Tags', t.tags.join(', ')],
        ['Made of', `${t.of.kind === 'vm' ? 'VM' : 'vApp'} ${t.of.name}`],
        ...t.members.map(
          (m) =>
            [
              `Member ${m.name}`,
              [
                ...(m.cpus === null ? [] : [`${m.cpus} CPUs`]),
                ...(m.memoryMiB === null ? [] : [`${m.memoryMiB} MiB`]),
                ...m.disks.map((d) => `${d.name} ${formatSize(d.sizeBytes)} in ${d.pool}`),
                ...(m.node === null ? [] : [`on ${m.node}`]),
              ].join(', '),
            ] as const,
        ),
        ...t.networks.map((n) => ['Network', n.isolated ? `${n.name}, isolated` : n.name] as const),
        ...t.properties.map((p) => [`Property ${p.name}`, propertyText(p)] as const),
        ...t.eulas.map((text, i) => [`Licence ${i + 1}`, text] as const),
      ]);
    });
  waiting(template.command('create'))
    .description('keep a vApp or a VM as it is now, running or off, as a template')
    .argument('<template>', 'its name')
    .addOption(new Option('--vapp <vapp>', 'what it is made of').conflicts('vm'))
    .option('--vm <vm>', 'or a single VM')
    .option('--note <text>', 'for people')
    .option('--tag <tag>', 'may be given again', collect)
    .option('--properties <file>', 'deploy parameters, as YAML: as under `properties` of a vApp')
    .action(
      async (
        name: string,
        o: WaitOptions & { vapp?: string; vm?: string; note?: string; tag?: string[]; properties?: string },
      ) => {
        const client = await io.client();
        const properties =
          o.properties === undefined ? undefined : await readMapping(o.properties, 'The properties');
        const body = {
          name,
          ...defined({ vapp: o.vapp, vm: o.vm, note: o.note, tags: o.tag, properties }),
        };
        const made = await client.call('templateCreate', { body });
        const op = made.op === null ? null : await io.follow(made.op, o);
        io.show({ ...made, op }, () => `Template "${name}": ${op?.step ?? made.state}`);
      },
    );
  waiting(template.command('deploy'))
    .description('make a vApp of it: all of it, or nothing')
    .argument('<template>')
    .argument('<name>', 'the new vApp; of the template of a VM, also its VM')
    .addOption(
      new Option('--linked', 'store only what differs; the template’s data are kept for that').conflicts(
        'full',
      ),
    )
    .option('--full', 'copy all of it; usual')
    .option('--set <name=value>', 'value of a property', collect)
    .option('--values <file>', 'values of properties, as YAML; secret ones only so')
    .option('--accept-eulas', 'its licences are accepted')
    .option('--start', 'start it when it is made')
    .option('--dry-run', 'say only what would be made')
    .action(
      async (
        ref: string,
        name: string,
        o: WaitOptions & ValueOptions & { linked?: true; acceptEulas?: true; start?: true; dryRun?: true },
      ) => {
        const client = await io.client();
        const t = await client.call('templateGet', { params: { template: ref } });
        const r = await client.call('templateDeploy', {
          params: { template: t.id },
          body: {
            name,
            linked: o.linked === true,
            values: await valuesOf(o, (p) => t.properties.some((x) => x.name === p && x.secret)),
            acceptEulas: o.acceptEulas === true,
            start: o.start === true,
            dryRun: o.dryRun === true,
          },
        });
        await appliedText(io, r, o);
      },
    );
  template
    .command('delete')
    .alias('rm')
    .description('delete it; what was made of it stays')
    .argument('<template>')
    .action(async (name: string) => {
      await (await io.client()).call('templateDelete', { params: { template: name } });
      io.show({ removed: name }, () => `The template "${name}" is deleted.`);
    });
}

function propertyText(p: TemplateView['properties'][number]): string {
  const usual = p.value ?? p.default;
  return [
    p.label === '' ? p.type : `${p.label}: ${p.type}`,
    ...(p.secret ? ['secret'] : usual === null ? ['to be given'] : [`usually ${String(usual)}`]),
    ...(p.choices === undefined ? [] : [`one of ${p.choices.map(String).join(', ')}`]),
    ...(p.userConfigurable ? [] : ['not to be set']),
    ...(p.description === '' ? [] : [p.description]),
  ].join(', ');
}
