import type { Command } from 'commander';
import { formatSize } from '../../core/domain/units.js';
import type { BalanceAnswer, OpView } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { waiting } from './vm.js';

const columns: readonly Column<BalanceAnswer['moves'][number]>[] = [
  { head: 'VM', text: (m) => m.name },
  { head: 'FROM', text: (m) => m.from },
  { head: 'TO', text: (m) => m.to },
  { head: 'IMBALANCE', text: (m) => `${m.before.toFixed(2)} → ${m.after.toFixed(2)}` },
  { head: 'COPIES', text: (m) => formatSize(m.memoryMiB * 2 ** 20), right: true },
  { head: 'WHY', text: (m) => m.why, give: 1 },
];

/** `flotilla balance` */
export function balanceCommands(program: Command, io: Io): void {
  const balance = program.command('balance').description('moves that would even the cluster out');
  balance
    .command('show', { isDefault: true })
    .description('show them; nothing is moved')
    .action(async () => {
      const b = await (await io.client()).call('balanceGet', {});
      io.show(b, () =>
        [b.sentence, ...(b.moves.length === 0 ? [] : ['', table(b.moves, columns, io.terminal.width)])].join(
          '\n',
        ),
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
