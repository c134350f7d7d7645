import { Option, type Command } from 'commander';
import type { Op } from '../../core/domain/op.js';
import { migrateArgs } from '../../core/domain/migration.js';
import { formatSpan } from '../../core/domain/units.js';
import type { MigrateCheckAnswer, RestCall } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

interface MigrateOptions extends WaitOptions {
  check?: true;
  bandwidth?: number;
  onSlow?: 'cancel' | 'pause';
}

/** `flotilla vm migrate` */
export function migrateCommand(vm: Command, io: Io): void {
  waiting(vm.command('migrate'))
    .description('move a running VM to another node without stopping it')
    .argument('<vm>', 'name or id')
    .argument('[node]', 'where to; without it placement picks')
    .option('--check', 'only say whether it could, where to, and all that speaks against it')
    .option('--bandwidth <MiB/s>', 'send at most so much', wholeNumber)
    .addOption(
      new Option('--on-slow <what>', 'a guest that writes faster than can be sent').choices([
        'cancel',
        'pause',
      ]),
    )
    .action(async (name: string, node: string | undefined, o: MigrateOptions) => {
      const client = await io.client();
      if (o.check === true) {
        const query = node === undefined ? {} : { node };
        const check = await client.call('vmMigrateCheck', { params: { vm: name }, query });
        io.show(check, () => checkText(check));
        return;
      }
      const body: RestCall<'vmMigrate'>['body'] = {
        ...(node === undefined ? {} : { node }),
        ...(o.bandwidth === undefined ? {} : { bandwidthMiBps: o.bandwidth }),
        ...(o.onSlow === undefined ? {} : { onSlow: o.onSlow }),
      };
      const r = await client.call('vmMigrate', { params: { vm: name }, body });
      const op = await io.follow(r.op, o);
      io.show(op, () => `${op.subject.name}: ${migratedText(op)}`);
    });
}

function checkText(c: MigrateCheckAnswer): string {
  const lines = (all: readonly { text: string; hint: string }[], indent: string): string[] =>
    all.map((b) => `${indent}${b.text}. ${b.hint}`);
  const head =
    c.to === null
      ? `VM "${c.name}" on ${c.from} cannot migrate now.`
      : `VM "${c.name}" can migrate from ${c.from} to ${c.to}.`;
  return [
    head,
    ...lines(c.blockers, '  '),
    ...c.nodes.flatMap((n) => [`  ${n.node}:`, ...lines(n.blockers, '    ')]),
  ].join('\n');
}

/** How a migration went. */
function migratedText(op: Op): string {
  const r = migrateArgs(op)?.result;
  if (op.state !== 'done' || r === null || r === undefined) return op.step === '' ? op.state : op.step;
  const pause = r.pauseMs === null ? '' : `; the guest stood still for ${Math.round(r.pauseMs)} ms`;
  return `${op.step}, after ${formatSpan(r.totalMs)}${pause}`;
}
