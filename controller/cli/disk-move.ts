import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { parseSize } from '../../core/domain/units.js';
import type { RestCall } from '../../core/wire/rest.js';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

interface MoveOptions extends WaitOptions {
  pool?: string;
  format?: 'raw' | 'qcow2';
  replicas?: '1' | '2';
  limit?: string;
}

/** `flotilla vm move-disk` */
export function diskMoveCommand(vm: Command, io: Io): void {
  waiting(vm.command('move-disk'))
    .description('move a disk to another pool, format or number of copies, also while the VM runs')
    .argument('<vm>', 'name or id')
    .argument('<disk>', 'name or id')
    .option('--pool <pool>', 'where to')
    .addOption(new Option('--format <format>', 'of its file').choices(['raw', 'qcow2']))
    .addOption(new Option('--replicas <n>', 'on how many nodes; 2 on a thin pool').choices(['1', '2']))
    .option('--limit <size>', 'copy no more than that a second, e.g. 50M')
    .action(async (name: string, disk: string, o: MoveOptions) => {
      if (o.pool === undefined && o.format === undefined && o.replicas === undefined)
        throw new FlotillaError('bad-input', 'No other place is named', {
          hint: 'Give --pool, --format or --replicas.',
        });
      const body: RestCall<'vmMoveDisk'>['body'] = {
        ...(o.pool === undefined ? {} : { pool: o.pool }),
        ...(o.format === undefined ? {} : { format: o.format }),
        ...(o.replicas === undefined ? {} : { replicas: o.replicas === '1' ? 1 : 2 }),
        ...(o.limit === undefined ? {} : { limitBps: parseSize(o.limit, 'The limit') }),
      };
      const r = await (await io.client()).call('vmMoveDisk', { params: { vm: name, disk }, body });
      const op = await io.follow(r.op, o);
      io.show(op, () => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
    });
}
