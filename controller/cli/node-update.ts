import type { Command } from 'commander';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** `flotilla node reboot`, `flotilla node update`: of one node. @see rollingCommands for more than one */
export function nodeUpdateCommands(node: Command, io: Io): void {
  waiting(node.command('reboot'))
    .description('restart a node without running VMs')
    .argument('<node>')
    .action(async (name: string, o: WaitOptions) => {
      const { op } = await (await io.client()).call('nodeReboot', { params: { node: name } });
      const end = await io.follow(op, o);
      io.show(end, () => `${name}: ${end.step}`);
    });
  waiting(node.command('update'))
    .description('write an image of the appliance into the other slot of a node, and restart into it')
    .argument('<node>')
    .requiredOption('--image <image>', 'of "images/build image", imported into the catalogue')
    .action(async (name: string, o: WaitOptions & { image: string }) => {
      const client = await io.client();
      const { op } = await client.call('nodeUpdate', { params: { node: name }, body: { image: o.image } });
      const end = await io.follow(op, o);
      io.show(end, () => `${name}: ${end.step}`);
    });
}
