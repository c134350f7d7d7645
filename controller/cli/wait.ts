import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { parseSeconds } from '../../core/domain/units.js';
import type { Io } from './io.js';
import { vmWaitCommand } from './vm.js';

/** It is looked again so often, ms. */
const lookMs = 500;

interface WaitFor {
  for: string;
  timeout: string;
}

/** `flotilla wait`: for what scripts wait for. Ends with 0 when it is so, with 6 when the time is over. */
export function waitCommands(program: Command, io: Io): void {
  const wait = program.command('wait').description('wait until the cluster, a node or a VM is in a state');
  const until = (c: Command, all: readonly string[], first: string): Command =>
    c
      .addOption(new Option('--for <what>', 'what to wait for').choices(all).default(first))
      .option('--timeout <time>', 'how long to wait', '5m');
  until(
    wait.command('cluster').description('until all is well, or no operation is open'),
    ['well', 'idle'],
    'well',
  ).action(async (o: WaitFor) => {
    const client = await io.client();
    await look(io, o, 'The cluster', async () => {
      const c = await client.call('clusterGet', {});
      return { there: o.for === 'well' ? c.well : c.counts.opsOpen === 0, text: c.sentence };
    });
  });
  until(
    wait
      .command('node')
      .description('until a node is heard and may start VMs, or owns none')
      .argument('<node>'),
    ['here', 'empty', 'gone'],
    'here',
  ).action(async (name: string, o: WaitFor) => {
    const client = await io.client();
    await look(io, o, `Node ${name}`, async () => {
      const n = await client.call('nodeGet', { params: { node: name } }).catch((error: unknown) => {
        if (o.for === 'gone' && error instanceof FlotillaError && error.code === 'not-found') return null;
        throw error;
      });
      if (n === null) return { there: true, text: 'is removed' };
      const there =
        { here: n.presence === 'here' && n.live, empty: n.vms === 0, gone: false }[o.for] === true;
      return { there, text: `${n.presence}, ${n.live ? 'its lease stands' : 'without lease'}, ${n.vms} VMs` };
    });
  });
  vmWaitCommand(wait.command('vm'), io);
}

async function look(
  io: Io,
  o: WaitFor,
  what: string,
  ask: () => Promise<{ there: boolean; text: string }>,
): Promise<void> {
  const endMs = Date.now() + parseSeconds(o.timeout, '--timeout') * 1000;
  for (;;) {
    const { there, text } = await ask();
    if (there) {
      io.progress(null);
      io.show({ there, text }, () => `${what}: ${text}`);
      return;
    }
    io.progress(`${what}: ${text}`);
    if (Date.now() >= endMs || io.terminal.signal.aborted) {
      io.progress(null);
      throw new FlotillaError('timeout', `${what} did not come to "${o.for}" within ${o.timeout}: ${text}`, {
        hint: 'See what is the matter: flotilla status.',
      });
    }
    await sleep(lookMs, undefined, { signal: io.terminal.signal }).catch(() => undefined);
  }
}
