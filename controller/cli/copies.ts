import type { Command } from 'commander';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** `flotilla vm standby` */
export function copiesCommands(vm: Command, io: Io): void {
  waiting(vm.command('standby'))
    .description('give the second copies of its disks, and the part of its standby, to another node')
    .argument('<vm>', 'name or id')
    .argument('[node]', 'which one; without it the best fit')
    .option(
      '--unprotected',
      'also where the present copy has every write: until the new one is whole there is one',
    )
    .action(async (name: string, node: string | undefined, o: WaitOptions & { unprotected?: true }) => {
      const body = { ...(node === undefined ? {} : { node }), unprotected: o.unprotected === true };
      const r = await (await io.client()).call('vmStandby', { params: { vm: name }, body });
      const op = await io.follow(r.op, o);
      io.show(op, () => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
    });
}
