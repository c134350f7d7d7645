import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import type { Io } from './io.js';
import { contextName, contextsOf, deleteContext, useContext } from './session.js';

/** `flotilla context`: several clusters, each with its own login. */
export function contextCommands(program: Command, io: Io): void {
  const { env } = io.terminal;
  const context = program.command('context').description('clusters that you are logged in to');
  context
    .command('list')
    .alias('ls')
    .description('all of them; * is the one that commands go to')
    .action(async () => {
      const now = await contextName(env);
      const rows = (await contextsOf(env)).map((c) => ({ ...c, current: c.name === now }));
      io.list(
        rows,
        [
          { head: '', text: (c) => (c.current ? '*' : '') },
          { head: 'NAME', text: (c) => c.name },
          { head: 'SERVER', text: (c) => c.server },
        ],
        'You are logged in nowhere: flotilla login --help.',
      );
    });
  context
    .command('use')
    .description('let commands go to that one from now on')
    .argument('<name>')
    .action(async (name: string) => {
      await known(name);
      await useContext(env, name);
      io.show({ current: name }, () => `Commands go to ${name} now.`);
    });
  context
    .command('delete')
    .alias('rm')
    .description('forget one; its session ends by itself, or before by flotilla --context NAME logout')
    .argument('<name>')
    .action(async (name: string) => {
      await known(name);
      await deleteContext(env, name);
      io.show({ deleted: name }, () => `${name}: forgotten`);
    });

  async function known(name: string): Promise<void> {
    const names = (await contextsOf(env)).map((c) => c.name);
    if (names.includes(name)) return;
    throw new FlotillaError('not-found', `There is no context "${name}"`, {
      hint: names.length === 0 ? 'Log in first: flotilla login --help.' : `There is: ${names.join(', ')}.`,
    });
  }
}
