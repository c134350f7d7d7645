import { Argument, Option, type Command } from 'commander';
import { balanceModeSchema, type BalanceMode } from '../../core/domain/balance.js';
import { formatSize, parseSize } from '../../core/domain/units.js';
import type { BalanceAnswer, CapacityView, OpView } from '../../core/wire/rest.js';
import { memoryMiB, wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { waiting } from './vm.js';

type Move = BalanceAnswer['moves'][number];
type Past = BalanceAnswer['past'][number];

const shared: readonly Column<Move>[] = [
  { head: 'VM', text: (m) => m.name },
  { head: 'FROM', text: (m) => m.from },
  { head: 'TO', text: (m) => m.to },
  { head: 'IMBALANCE', text: (m) => `${m.before.toFixed(2)} → ${m.after.toFixed(2)}` },
  { head: 'COPIES', text: (m) => formatSize(m.memoryMiB * 2 ** 20), right: true },
];
const why: Column<Move> = { head: 'WHY', text: (m) => m.why, give: 1 };

const pastColumns: readonly Column<Past>[] = [
  { head: 'WHEN', text: (m) => new Date(m.atMs).toISOString().slice(0, 19).replace('T', ' ') },
  ...shared,
  {
    head: 'OUTCOME',
    text: (m) =>
      m.outcome === 'done' ? `done in ${Math.round((m.tookMs ?? 0) / 1000)} s` : (m.outcome ?? 'under way'),
  },
  { head: 'WHY', text: (m) => (m.text === '' ? m.why : `${m.why}; ${m.text}`), give: 1 },
];

export const balanceModeText: Record<BalanceMode, string> = {
  off: 'nothing is planned',
  recommend: 'moves are recommended, none is made by itself',
  'rules-only': 'what breaks a rule is moved by itself',
  automatic: 'VMs are moved by themselves, for rules and for load',
};

function balanceText(b: BalanceAnswer, width: number | null): string {
  const by = b.by === null ? 'by the loads of this moment' : `by smoothed loads, planned by ${b.by}`;
  return [
    `${b.sentence} (${by})`,
    `Mode ${b.mode}: ${balanceModeText[b.mode]}; at most ${b.movesPerHourMax} moves an hour.`,
    ...(b.moves.length === 0 ? [] : ['', table(b.moves, [...shared, why], width)]),
    ...(b.past.length === 0 ? [] : ['', 'Moved by itself:', table(b.past, pastColumns, width)]),
  ].join('\n');
}

/** `flotilla balance` */
export function balanceCommands(program: Command, io: Io): void {
  const balance = program.command('balance').description('moves that even the cluster out');
  balance
    .command('show', { isDefault: true })
    .description('show them, and what was moved by itself; nothing is moved')
    .action(async () => {
      const b = await (await io.client()).call('balanceGet', {});
      io.show(b, () => balanceText(b, io.terminal.width));
    });
  balance
    .command('mode')
    .description('what is moved by itself; without a word: show it')
    .addArgument(new Argument('[mode]').choices(balanceModeSchema.options))
    .addOption(
      new Option('--moves-per-hour <n>', 'as many moves within an hour, at most').argParser(wholeNumber),
    )
    .action(async (mode: BalanceMode | undefined, o: { movesPerHour?: number }) => {
      const client = await io.client();
      const body = {
        ...(mode === undefined ? {} : { balance: mode }),
        ...(o.movesPerHour === undefined ? {} : { movesPerHourMax: o.movesPerHour }),
      };
      const { plan } =
        Object.keys(body).length === 0
          ? await client.call('policyGet', {})
          : await client.call('policyPatch', { body: { plan: body } });
      io.show(
        { mode: plan.balance, movesPerHourMax: plan.movesPerHourMax },
        () =>
          `${plan.balance}: ${balanceModeText[plan.balance]}; at most ${plan.movesPerHourMax} moves an hour.`,
      );
    });
  waiting(balance.command('apply'))
    .description('do them, one after the other')
    .argument('[n]', 'only the first so many', wholeNumber)
    .action(async (n: number | undefined, o: WaitOptions) => {
      const client = await io.client();
      const { moves } = await client.call('balanceGet', {});
      const done: OpView[] = [];
      for (const m of moves.slice(0, n ?? moves.length)) {
        const { op } = await client.call('vmMigrate', { params: { vm: m.vm }, body: { node: m.to } });
        done.push(await io.follow(op, { ...o, wait: true }));
      }
      io.show(done, () =>
        done.length === 0
          ? 'Nothing is to be moved.'
          : done.map((op) => `${op.subject.name}: ${op.step}`).join('\n'),
      );
    });
}

const trendText = (t: CapacityView['memoryMiB'], size: string): string =>
  `${size}${t.daysUntilFull === null ? '' : `, full in ${Math.round(t.daysUntilFull)} days if it goes on so`}`;

/** `flotilla capacity` */
export function capacityCommands(program: Command, io: Io): void {
  program
    .command('capacity')
    .description('how many more VMs of a size fit, and how long what there is will do')
    .option('--cpu <n>', 'CPUs of each', wholeNumber, 1)
    .requiredOption('--memory <size>', 'memory of each, e.g. 4G', memoryMiB)
    .option('--disk <size>', 'its disks together, e.g. 40G', (s) => parseSize(s, 'The disk’s size'))
    .option('--pool <pool>', 'where its disks are')
    .option('--no-ha', 'without a standby each')
    .action(async (o: { cpu: number; memory: number; disk?: number; pool?: string; ha: boolean }) => {
      const c = await (
        await io.client()
      ).call('capacityGet', {
        query: {
          cpus: o.cpu,
          memoryMiB: o.memory,
          ha: o.ha ? 'true' : 'false',
          ...(o.disk === undefined ? {} : { diskBytes: o.disk }),
          ...(o.pool === undefined ? {} : { pool: o.pool }),
        },
      });
      const size = (used: number, total: number): string => `${formatSize(used)} of ${formatSize(total)}`;
      const { memoryMiB: m, diskBytes: d } = c;
      io.show(c, () =>
        [
          c.sentence,
          `Memory promised: ${trendText(m, size(m.used * 2 ** 20, m.total * 2 ** 20))}.`,
          `Pools in use: ${trendText(d, size(d.used, d.total))}.`,
        ].join('\n'),
      );
    });
}
