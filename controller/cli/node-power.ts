import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { fencingDeviceName } from '../../core/domain/fencing.js';
import type { RestAnswer, RestCall } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import type { Io } from './io.js';
import { readText } from './session.js';
import { defined } from './vm.js';

/** A try takes two logins of a slow BMC, s. */
const testSMax = 60;

interface BmcOptions {
  kind: 'ipmi' | 'redfish';
  address: string;
  user: string;
  passwordFile: string;
  port?: number;
  cipher?: number;
  privilege?: string;
  systemUri?: string;
  verifyTls?: true;
  ca?: string;
}

/** Powering nodes off from outside: `node bmc …` and `node confirm-off`. */
export function nodePowerCommands(node: Command, io: Io): void {
  const bmc = node.command('bmc').description('how a node is powered off from outside');
  bmc
    .command('set')
    .description('say how; replaces what was said before')
    .argument('<node>')
    .addOption(new Option('--kind <kind>').choices(['ipmi', 'redfish']).makeOptionMandatory())
    .requiredOption('--address <address>', 'of the BMC: IPv4 or a name')
    .requiredOption('--user <login>')
    .requiredOption(
      '--password-file <file>',
      'its password; - is the standard input; never on the command line',
    )
    .option('--port <n>', 'unless the usual one', wholeNumber)
    .option('--cipher <n>', 'IPMI: 17, or 3 for old BMCs', wholeNumber)
    .addOption(new Option('--privilege <level>', 'IPMI').choices(['operator', 'administrator']))
    .option('--system-uri <path>', 'Redfish: the system, where the BMC has more than one')
    .option('--verify-tls', 'Redfish: its certificate must be good')
    .option('--ca <file>', 'Redfish: the CA that signed it')
    .action(async (name: string, o: BmcOptions) => {
      const body = defined({
        kind: o.kind,
        address: o.address,
        user: o.user,
        password: await passwordOf(io, o.passwordFile),
        port: o.port,
        cipher: o.cipher,
        privilege: o.privilege,
        systemUri: o.systemUri,
        verifyTls: o.verifyTls,
        ca: o.ca === undefined ? undefined : await readText(o.ca, 'The CA'),
      }) as RestCall<'bmcPut'>['body'];
      const d = await (await io.client()).call('bmcPut', { params: { node: name }, body });
      io.show(d, () => `${name} is powered off by its ${fencingDeviceName(d)} when it fails.`);
    });
  bmc
    .command('show')
    .description('show it, without the password')
    .argument('<node>')
    .action(async (name: string) => {
      const d = await (await io.client()).call('bmcGet', { params: { node: name } });
      if (d === null) {
        throw new FlotillaError('not-found', `Node ${name} has no fencing device`, {
          hint: `Set one: flotilla node bmc set ${name} --kind ipmi --address … --user … --password-file FILE.`,
        });
      }
      io.facts(d, bmcFacts(d));
    });
  bmc
    .command('test')
    .description('have another node ask it for the power state, and whose BMC it is; switches nothing')
    .argument('<node>')
    .action(async (name: string) => {
      const client = await io.client();
      const params = { node: name };
      let test = await client.call('bmcTest', { params });
      const { askedMs } = test;
      for (let tries = 0; test.result === null && tries < testSMax; tries++) {
        await sleep(1_000, undefined, { signal: io.terminal.signal });
        test = (await client.call('bmcTestGet', { params })) ?? test;
        if (test.askedMs !== askedMs) break;
      }
      const { result } = test;
      if (result === null)
        throw new FlotillaError('timeout', `No node has tried the BMC of ${name} within ${testSMax} s`, {
          hint: 'A node that lives and runs VMs does it: flotilla node list.',
        });
      if (result.power === null || result.machine === 'other')
        throw new FlotillaError('fence-failed', result.text, {
          hint: `Correct it: flotilla node bmc set ${name} …`,
        });
      io.show(test, () => `${name}: ${result.text} (asked by ${result.by}).`);
    });
  bmc
    .command('delete')
    .alias('rm')
    .description('forget it')
    .argument('<node>')
    .action(async (name: string) => {
      await (await io.client()).call('bmcDelete', { params: { node: name } });
      io.show({ deleted: name }, () => `${name}: its fencing device is forgotten`);
    });
  node
    .command('confirm-off')
    .description('vouch that a node is off, so that its VMs start elsewhere')
    .argument('<node>')
    .option('--yes', 'do not ask')
    .action(async (name: string, o: { yes?: true }) => {
      if (o.yes !== true) await ask(io, name);
      const r = await (await io.client()).call('nodeConfirmOff', { params: { node: name } });
      io.show(r, () => confirmedText(name, r));
    });
}

function bmcFacts(d: NonNullable<RestAnswer<'bmcGet'>>): (readonly [string, string | null])[] {
  return [
    ['Kind', d.kind],
    ['Address', `${d.address}, port ${d.port}`],
    ['User', d.user],
    ['Password', 'kept in the ledger, never shown'],
    ...(d.kind === 'ipmi'
      ? ([
          ['Cipher', String(d.cipher)],
          ['Privilege', d.privilege],
        ] as const)
      : ([
          ['System', d.systemUri ?? 'the only one'],
          ['Certificate', d.verifyTls ? 'must be good' : 'any is taken'],
        ] as const)),
  ];
}

function confirmedText(name: string, r: RestAnswer<'nodeConfirmOff'>): string {
  if (r.vms.length === 0) return `${name} is taken for off. It owns no VM with HA: nothing starts elsewhere.`;
  const names = r.vms.map((v) => `${v.name}${v.standby === null ? '' : ` (on ${v.standby})`}`);
  return `${name} is taken for off. These VMs may now start elsewhere: ${names.join(', ')}.`;
}

/** One line; a newline at its end is not part of it. */
async function passwordOf(io: Io, file: string): Promise<string> {
  const text = file === '-' ? await io.stdin() : await readText(file, 'The password');
  const password = text.replace(/\r?\n$/, '');
  if (password !== '') return password;
  throw new FlotillaError(
    'bad-input',
    `There is no password in ${file === '-' ? 'the standard input' : file}`,
    {
      hint: 'It is one line.',
    },
  );
}

/** Has the name of the node typed. @throws FlotillaError `bad-input`: it was not, or nobody can be asked */
async function ask(io: Io, name: string): Promise<void> {
  const { terminal } = io;
  if (!terminal.tty) {
    throw new FlotillaError('bad-input', `Nobody can be asked whether ${name} is off`, {
      hint: 'Make sure that it is, then give --yes.',
    });
  }
  terminal.err(
    `Its VMs with HA will start on other nodes.\nIf ${name} still runs, they run twice and destroy their disks: be sure that its power is off.\nType the name of the node that is off: `,
  );
  const typed = await oneLine(io);
  if (typed === name) return;
  throw new FlotillaError('bad-input', `"${typed.slice(0, 64)}" is not "${name}"`, {
    hint: 'Nothing was changed.',
  });
}

/** The next line somebody types, without blanks at its ends. */
export async function oneLine(io: Io): Promise<string> {
  const lines = createInterface({ input: io.terminal.stdin });
  let typed = '';
  for await (const line of lines) {
    typed = line.trim();
    break;
  }
  lines.close();
  return typed;
}
