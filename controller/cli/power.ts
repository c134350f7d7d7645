import { Argument, type Command } from 'commander';
import { powerModeSchema, type PowerMode } from '../../core/domain/power.js';
import type { PowerAnswer } from '../../core/wire/rest.js';
import type { Io, WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { waiting } from './vm.js';

export const powerModeText: Record<PowerMode, string> = {
  off: 'nothing is looked for, and nothing wakes by itself',
  recommend: 'it is said which node could sleep; nothing is done by itself',
  automatic: 'idle nodes are powered off, and on again before they are missed',
};

const time = (ms: number): string => new Date(ms).toISOString().slice(0, 19).replace('T', ' ');

const keptColumns: readonly Column<PowerAnswer['kept'][number]>[] = [
  { head: 'STAYS ON', text: (k) => k.node },
  { head: 'WHY', text: (k) => k.why, give: 1 },
];
const asleepColumns: readonly Column<PowerAnswer['asleep'][number]>[] = [
  { head: 'ASLEEP', text: (a) => a.node },
  { head: 'SINCE', text: (a) => time(a.sinceMs) },
  { head: 'BY', text: (a) => a.by },
];
const pastColumns: readonly Column<PowerAnswer['past'][number]>[] = [
  { head: 'WHEN', text: (p) => time(p.atMs) },
  { head: 'NODE', text: (p) => p.node },
  { head: 'WHAT', text: (p) => p.do },
  { head: 'OUTCOME', text: (p) => p.outcome ?? 'under way' },
  { head: 'WHY', text: (p) => (p.text === '' ? p.why : `${p.why}; ${p.text}`), give: 1 },
];

function powerText(p: PowerAnswer, width: number | null): string {
  return [
    p.sentence,
    `Mode ${p.mode}: ${powerModeText[p.mode]}.`,
    ...(p.asleep.length === 0 ? [] : ['', table(p.asleep, asleepColumns, width)]),
    ...(p.kept.length === 0 ? [] : ['', table(p.kept, keptColumns, width)]),
    ...(p.past.length === 0 ? [] : ['', 'Done by itself:', table(p.past, pastColumns, width)]),
  ].join('\n');
}

/** `flotilla power` */
export function powerCommands(program: Command, io: Io): void {
  const power = program.command('power').description('idle nodes that sleep, or could');
  power
    .command('show', { isDefault: true })
    .description('show which sleep, which could, and which stay on and why; nothing is done')
    .action(async () => {
      const p = await (await io.client()).call('powerGet', {});
      io.show(p, () => powerText(p, io.terminal.width));
    });
  power
    .command('mode')
    .description('what is done by itself')
    .addArgument(new Argument('<mode>').choices(powerModeSchema.options))
    .action(async (mode: PowerMode) => {
      const { plan } = await (await io.client()).call('policyPatch', { body: { plan: { power: mode } } });
      io.show({ mode: plan.power }, () => `${plan.power}: ${powerModeText[plan.power]}.`);
    });
}

/** `node sleep`, `node wake` */
export function nodeSleepCommands(node: Command, io: Io): void {
  for (const [does, call, says] of [
    ['sleep', 'nodeSleep', 'empty a node and power it off by its BMC'],
    ['wake', 'nodeWake', 'power a node that sleeps on, and set it active when it is well'],
  ] as const)
    waiting(node.command(does))
      .description(says)
      .argument('<node>')
      .action(async (name: string, o: WaitOptions) => {
        const { op } = await (await io.client()).call(call, { params: { node: name } });
        const end = await io.follow(op, o);
        io.show(end, () => end.step);
      });
}
