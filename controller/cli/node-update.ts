import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import type { OpView } from '../../core/wire/rest.js';
import type { ApiClient } from './client.js';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** `flotilla node update`: one node, or all, one after the other. */
export function nodeUpdateCommand(node: Command, io: Io): void {
  waiting(node.command('update'))
    .description('write an image of the appliance into the other slot of a node, and restart into it')
    .argument('[node]')
    .requiredOption('--image <image>', 'of "images/build image", imported into the catalogue')
    .option(
      '--all',
      'every node in turn; stops at the first that does not get well, and goes on when given again',
    )
    .action(async (name: string | undefined, o: WaitOptions & { image: string; all?: true }) => {
      const client = await io.client();
      if ((name === undefined) === (o.all !== true))
        throw new FlotillaError('bad-input', 'Which node?', { hint: 'Name one, or say --all.' });
      const names = name === undefined ? await stillToDo(client, o.image) : [name];
      const ops: OpView[] = [];
      for (const each of names) {
        const body = { image: o.image };
        const { op } = await client.call('nodeUpdate', { params: { node: each }, body });
        // The next one only after this one is back and well: without waiting there is no order.
        ops.push(await io.follow(op, name === undefined ? { ...o, wait: true } : o));
      }
      io.show(ops, () =>
        ops.length === 0
          ? 'Every node was updated to it already.'
          : ops.map((op) => `${op.node ?? ''}: ${op.step}`).join('\n'),
      );
    });
}

/** Nodes without a finished update to that image, by name. Finished ones are known as long as their operations are kept. */
async function stillToDo(client: ApiClient, ref: string): Promise<string[]> {
  const image = await client.call('imageGet', { params: { image: ref } });
  const done = new Set<string>();
  for await (const page of client.all('opList', { kind: 'node.update', subject: image.id }))
    for (const op of page.items) if (op.state === 'done' && op.node !== null) done.add(op.node);
  const nodes: string[] = [];
  for await (const page of client.all('nodeList', {})) nodes.push(...page.items.map((n) => n.id));
  return nodes.filter((n) => !done.has(n)).sort();
}
