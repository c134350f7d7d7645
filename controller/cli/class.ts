import { Option, type Command } from 'commander';
import { settingText, settingWords } from '../../core/decide/service-class.js';
import {
  classSettingSchema,
  type ClassSetting,
  type ClassSettings,
} from '../../core/domain/service-class.js';
import { noSchedule, type SnapshotSchedule } from '../../core/domain/snapshot-schedule.js';
import type { ClassChanged, ClassView } from '../../core/wire/rest.js';
import { collect, settingOf, wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { defined, waiting } from './vm.js';
import { haOptions, type HaOptions } from './vm-ha.js';

type SettingOptions = HaOptions & {
  replicas?: string;
  autoMove?: 'yes' | 'never';
  cpuShares?: number;
} & Partial<SnapshotSchedule> & {
    note?: string;
  };

function settingOptions(c: Command): Command {
  return haOptions(c, false)
    .addOption(
      new Option('--replicas <n>', 'copies of the disks made with a VM on thin pools').choices(['1', '2']),
    )
    .addOption(new Option('--auto-move <when>', 'whether balancing may move them').choices(['yes', 'never']))
    .option('--cpu-shares <n>', 'weight where CPUs are short; 100 is usual', wholeNumber)
    .option('--hourly <n>', 'snapshots kept that are taken by themselves, of so many hours', wholeNumber)
    .option('--daily <n>', 'of so many days', wholeNumber)
    .option('--weekly <n>', 'of so many weeks; what of the three is not said is 0', wholeNumber)
    .option('--note <text>', 'for people');
}

const scheduleAsked = (o: Partial<SnapshotSchedule>): SnapshotSchedule | undefined =>
  [o.hourly, o.daily, o.weekly].every((n) => n === undefined)
    ? undefined
    : { ...noSchedule, ...defined({ hourly: o.hourly, daily: o.daily, weekly: o.weekly }) };

const settingsBody = (o: SettingOptions): Record<string, unknown> =>
  defined({
    replicas: o.replicas === undefined ? undefined : Number(o.replicas),
    ha: o.ha === undefined ? undefined : o.ha === 'on',
    haPriority: o.haPriority,
    onHang: o.onHang,
    restartsPerHourMax: o.restartsPerHour,
    autoMove: o.autoMove === undefined ? undefined : o.autoMove === 'yes',
    cpuShares: o.cpuShares,
    snapshots: scheduleAsked(o),
  });

const entries = (s: ClassSettings): [ClassSetting, string][] =>
  classSettingSchema.options.flatMap((k): [ClassSetting, string][] =>
    s[k] === undefined ? [] : [[k, settingText(s[k])]],
  );

const columns: readonly Column<ClassView>[] = [
  { head: 'CLASS', text: (c) => c.name },
  { head: 'VMS', text: (c) => String(c.vms.length), right: true },
  { head: 'VAPPS', text: (c) => String(c.vapps.length), right: true },
  {
    head: 'SETTINGS',
    text: (c) =>
      entries(c.settings)
        .map(([k, v]) => `${settingWords[k]}: ${v}`)
        .join(', '),
    give: 1,
  },
  { head: 'NOTE', text: (c) => c.note, give: 2 },
];

const whens = {
  now: '',
  'next-start': ' (from its next start)',
  'new-disks': ' (only disks made from now on)',
} as const;

/** What a change of a class does to its VMs. */
function changedText(r: ClassChanged): string {
  const lines = [
    ...r.changes.flatMap((c) => c.effects.map((e) => `~ VM "${c.name}": ${e.text}${whens[e.when]}`)),
    ...r.cannot.map((c) => `! ${c.text}. ${c.hint}`),
  ];
  return lines.length === 0 ? 'No VM becomes otherwise.' : lines.join('\n');
}

/** `flotilla class` */
export function classCommands(program: Command, io: Io): void {
  const cls = program
    .command('class')
    .description('service classes: settings that VMs and vApps ask for by name');
  cls
    .command('list')
    .alias('ls')
    .description('list them, with their settings')
    .action(async () => {
      const { items } = await (await io.client()).call('classList', {});
      io.show(items, () =>
        items.length === 0 ? 'There are no classes.' : table(items, columns, io.terminal.width),
      );
    });
  cls
    .command('show')
    .description('show one class and who is of it')
    .argument('<class>')
    .action(async (name: string) => {
      const c = await (await io.client()).call('classGet', { params: { class: name } });
      io.facts(c, [
        ['Name', c.name],
        ['Note', c.note],
        ...entries(c.settings).map(([k, v]) => [settingWords[k], v] as const),
        ['vApps', c.vapps.map((v) => v.name).join(', ')],
        ...c.vms.map((v) => {
          const own = v.own.length === 0 ? '' : `of its own: ${v.own.map((s) => settingWords[s]).join(', ')}`;
          return [`VM ${v.name}`, [own, v.follows ? '' : 'does not follow yet'].join(' ').trim()] as const;
        }),
      ]);
    });
  settingOptions(cls.command('create'))
    .description('make a class')
    .argument('<name>')
    .action(async (name: string, o: SettingOptions) => {
      const body = { name, ...defined({ note: o.note }), settings: settingsBody(o) };
      const c = await (await io.client()).call('classCreate', { body });
      io.show(c, () => `The class ${c.name} is made. VMs take it by --class ${c.name}.`);
    });
  waiting(settingOptions(cls.command('edit')))
    .description('change a class, and with it the VMs that are of it; says first what that does')
    .argument('<class>')
    .option('--name <name>', 'its new name')
    .option('--unset <setting>', 'say nothing of it any more; VMs keep what they have', collect)
    .option('--dry-run', 'say only what would change')
    .option('--if-generation <n>', 'only if nobody has changed it since', wholeNumber)
    .action(
      async (
        name: string,
        o: SettingOptions &
          WaitOptions & { name?: string; unset?: string[]; dryRun?: true; ifGeneration?: number },
      ) => {
        const settings = {
          ...settingsBody(o),
          ...Object.fromEntries((o.unset ?? []).map((s) => [settingOf(s), null])),
        };
        const body = {
          ...defined({ name: o.name, note: o.note }),
          ...(Object.keys(settings).length === 0 ? {} : { settings }),
        };
        const client = await io.client();
        const sent = (dryRun: boolean, generation: number | undefined): Promise<ClassChanged> =>
          client.call(
            'classPatch',
            { params: { class: name }, body: { ...body, dryRun } },
            generation === undefined ? {} : { ifMatch: `"${generation}"` },
          );
        const would = await sent(true, o.ifGeneration);
        if (o.dryRun === true) {
          io.show(would, () => changedText(would));
          return;
        }
        io.say(`${changedText(would)}\n`);
        // What was said is what is done: nobody's change comes in between.
        const r = await sent(false, would.class.generation);
        const op = r.op === null ? null : await io.follow(r.op, o);
        io.show({ ...r, op }, () => `Class ${r.class.name}: ${op?.step ?? 'changed'}`);
      },
    );
  cls
    .command('delete')
    .alias('rm')
    .description('remove a class that nothing is of')
    .argument('<class>')
    .action(async (name: string) => {
      await (await io.client()).call('classDelete', { params: { class: name } });
      io.show({ removed: name }, () => `The class ${name} is removed.`);
    });
}
