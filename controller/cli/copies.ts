import type { Command } from 'commander';
import { guidedRepair } from '../../core/decide/repair.js';
import { copyLine } from '../../core/domain/copy-words.js';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** `flotilla vm standby`, `flotilla vm repair` */
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
  waiting(vm.command('repair'))
    .description('how its two copies stand, and the one thing to do about it')
    .argument('<vm>', 'name or id')
    .option(
      '--discard <node>',
      'after a split brain: throw away what that node has; what only it has is lost',
    )
    .action(async (name: string, o: WaitOptions & { discard?: string }) => {
      const client = await io.client();
      const params = { vm: name };
      if (o.discard !== undefined) {
        const r = await client.call('vmRepair', { params, body: { discard: o.discard } });
        const op = await io.follow(r.op, o);
        io.show(op, () => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
        return;
      }
      const v = await client.call('vmGet', { params });
      const copies = v.observed?.copies ?? [];
      const guide = guidedRepair(v.name, copies, v.own?.owner ?? '?');
      io.show({ copies, guide }, () =>
        copies.length === 0
          ? `VM "${v.name}" has no disks with two copies, or its owner is silent.`
          : [
              ...copies.map((c) => `${c.name}: ${copyLine(c)}`),
              ...(guide === null ? ['Nothing has to be done.'] : [`${guide.text}.`]),
              ...(guide === null || guide.command === null ? [] : [`  ${guide.command}`]),
            ].join('\n'),
      );
    });
}
