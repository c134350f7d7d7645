import { parseArgs } from 'node:util';
import { errorRecord } from '../core/domain/error.js';
import { foundCommand, joinCommand, tokenCommand } from './cluster/commands.js';
import { recoverCommand } from './cluster/recover/commands.js';
import { readAgentConfig } from './cluster/config.js';
import { holdCommand } from './local/commands.js';
import { pending } from './cluster/pending.js';
import { SystemdServices } from './cluster/services.js';
import { ledgerCommand } from './snapshots/commands.js';
import { factsBy, factsDeadlineMaxMs } from './machine/machine.js';
import { factsCommand, runAgent } from './run.js';
import { BootSlots } from './slots/slots.js';
import { Screen } from './screen.js';
import { journal, systemClock } from './system.js';
import { version } from './version.js';

const usage = `flotilla-agent VERB …
  run                              the service; a node that is in no cluster waits to be admitted
  found --cluster NAME             makes this node the first of a new cluster
  join [--token-file FILE] [--witness]
                                   joins a cluster; the token comes from the file or standard input
  token create [--kind join|api] [--name NAME] [--ttl 24h] [--uses N]
  ledger snapshots                 snapshots of the ledger on this node
  ledger snapshot now              takes one
  recover …                        when the ledger has lost its quorum or its data: see docs/recover.md
  hold VM | release VM | held      forces a VM off at this node and holds it off, with or without the ledger: see docs/recover.md
  version
Configuration: /etc/flotilla/agent.json`;

/** Where sockets and what the console shows are. */
const runtimeDir = '/run/flotilla';

async function run(): Promise<void> {
  const log = journal();
  const config = await readAgentConfig();
  await pending({
    config,
    services: new SystemdServices(),
    clock: systemClock,
    log,
    screen: new Screen(runtimeDir),
    slots: new BootSlots(),
    // Nobody waits for it: a slow machine may take its time.
    facts: () => factsBy(factsCommand, { timeoutMs: factsDeadlineMaxMs }),
    version,
  });
  let ending = false;
  const end = (why: string): void => {
    if (ending) return;
    ending = true;
    log.info(`stops: ${why}`);
    void agent.then((a) => a.stop()).then(() => process.exit(0));
  };
  // What it remembers is of a ledger that is no more; systemd starts it anew.
  const agent = runAgent(config, log, { onOtherEpoch: () => end('the ledger is of another epoch') });
  process.once('SIGTERM', () => end('SIGTERM'));
  process.once('SIGINT', () => end('SIGINT'));
  await agent;
}

/** Results are for programs: one line of JSON. */
const print = (value: unknown): void => console.log(JSON.stringify(value));

async function main(argv: readonly string[]): Promise<void> {
  const [verb, ...rest] = argv;
  switch (verb) {
    case 'run':
      parseArgs({ args: rest, options: {} });
      return run();
    case 'found':
      return print(await foundCommand(rest));
    case 'join':
      return print(await joinCommand(rest));
    case 'token': {
      // The token alone on standard output, so that it can be piped; what it is good for beside it.
      const { token, ...about } = await tokenCommand(rest);
      console.error(JSON.stringify(about));
      return console.log(token);
    }
    case 'recover':
      for (const line of await recoverCommand(rest)) console.log(line);
      return;
    case 'ledger':
      return print(await ledgerCommand(rest));
    case 'hold':
    case 'release':
    case 'held':
      return print(await holdCommand(verb, rest));
    case 'version':
    case '--version':
      console.log(version);
      return;
    default:
      console.error(usage);
      process.exitCode = 2;
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  const r = errorRecord(error);
  console.error(`flotilla-agent: ${r.message} (${r.code})`);
  for (const c of r.causes) console.error(`  because: ${c}`);
  console.error(`  ${r.hint}`);
  process.exitCode = 1;
});

// A promise nobody waited for that fails is a defect; the journal tells it and systemd starts the agent anew.
process.on('unhandledRejection', (reason) => {
  journal().error(
    `unhandled: ${reason instanceof Error ? (reason.stack ?? reason.message) : String(reason)}`,
  );
  process.exit(1);
});
