import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import type { PendingView } from '../../core/wire/adopt.js';
import type { Io } from './io.js';
import { oneLine } from './node-power.js';
import type { Column } from './table.js';

/** In groups of four, as the console of the machine shows it. */
const grouped = (hex: string): string => hex.replace(/(.{4})(?=.)/g, '$1 ');

const columns: readonly Column<PendingView>[] = [
  { head: 'NAME', text: (p) => p.name },
  { head: 'ADDRESS', text: (p) => p.address },
  { head: 'VERSION', text: (p) => p.version, give: 1 },
  { head: 'FINGERPRINT', text: (p) => grouped(p.fingerprint), give: 2 },
];

/** Machines that wait to become nodes: `node pending` and `node admit`. */
export function nodeAdmitCommands(node: Command, io: Io): void {
  node
    .command('pending')
    .description('list machines that wait to be admitted, as far as they are heard')
    .action(async () => {
      const { items } = await (await io.client()).call('pendingList', {});
      io.list(
        items,
        columns,
        'No machine that waits is heard. One beyond this network is admitted by its address.',
      );
    });
  node
    .command('admit')
    .description('admit the machine that waits at an address')
    .argument('<address>')
    .option('--fingerprint <sha256>', 'the one on its console, for scripts; else it is shown and asked about')
    .action(async (address: string, o: { fingerprint?: string }) => {
      const client = await io.client();
      const params = { address };
      const seen = await client.call('pendingGet', { params });
      for (const note of seen.notes ?? []) io.terminal.err(`${note}\n`);
      const fingerprint = o.fingerprint?.toLowerCase().replaceAll(/[:\s]/g, '') ?? (await agreed(io, seen));
      const { node: name } = await client.call('pendingAdmit', { params, body: { fingerprint } });
      io.show({ node: name, address }, () => `${name} is admitted.`);
    });
}

/** @throws FlotillaError `bad-input`: nobody said yes */
async function agreed(io: Io, seen: PendingView): Promise<string> {
  const { terminal } = io;
  const hint = `Compare it with its console, then give --fingerprint ${seen.fingerprint}.`;
  if (!terminal.tty)
    throw new FlotillaError('bad-input', `Nobody has compared the fingerprint of ${seen.name}`, { hint });
  terminal.err(
    `${seen.name} at ${seen.address}, version ${seen.version}, has the fingerprint\n  ${grouped(seen.fingerprint)}\nDoes its console show the same? yes or no: `,
  );
  if ((await oneLine(io)) === 'yes') return seen.fingerprint;
  throw new FlotillaError('bad-input', `${seen.name} was not admitted`, { hint: 'Nothing was changed.' });
}
