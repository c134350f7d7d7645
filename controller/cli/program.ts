import { Command, CommanderError } from 'commander';
import { errorRecord } from '../../core/domain/error.js';
import { version } from '../version.js';
import { completionCommands } from './completion.js';
import { consoleCommand } from './console.js';
import { contextCommands } from './context.js';
import { errorText, exitCodeOf, exitCodes } from './exit.js';
import { balanceCommands, capacityCommands } from './balance.js';
import { exportCommand } from './export.js';
import { haCommands } from './ha.js';
import { imageCommands } from './image.js';
import { Io, type Terminal } from './io.js';
import { loginCommand } from './login.js';
import { manCommand } from './man.js';
import { notifyCommands } from './notify.js';
import { ovfCommands } from './ovf.js';
import { ovfImportCommand } from './ovf-import.js';
import { powerCommands } from './power.js';
import {
  eventsCommand,
  networkCommands,
  nodeCommands,
  opCommands,
  poolCommands,
  statusCommand,
  tokenCommands,
} from './things.js';
import { rollingCommands } from './rolling.js';
import { ruleCommands } from './rule.js';
import { snapshotCommands } from './snapshot.js';
import { classCommands } from './class.js';
import { templateCommands } from './template.js';
import { certificateCommands } from './certificates.js';
import { topCommand } from './top.js';
import { signOnCommands } from './sign-on.js';
import { userCommands } from './users.js';
import { vappCommands } from './vapp.js';
import { vmCommands } from './vm.js';
import { waitCommands } from './wait.js';

/**
 * Runs one command line.
 *
 * @param args - without the program's name
 * @returns the exit code
 */
export async function runCli(args: readonly string[], outside: Terminal): Promise<number> {
  const env = { ...outside.env };
  const terminal: Terminal = { ...outside, env };
  const io = new Io(terminal);
  const program = new Command('flotilla')
    .description('One virtual datacenter of a handful of servers.')
    .version(version)
    .option('--json', 'answers as JSON, errors too')
    .option('--context <name>', 'the cluster, of those you are logged in to')
    .configureOutput({
      writeOut: (s) => terminal.out(s.replace(/\n$/, '')),
      writeErr: (s) => terminal.err(s),
    })
    .showHelpAfterError('(see --help)')
    .exitOverride();
  program.hook('preAction', () => {
    const o = program.opts<{ json?: true; context?: string }>();
    io.json = o.json === true;
    if (o.context === undefined) return;
    // What was said now goes before what the environment says.
    env['FLOTILLA_CONTEXT'] = o.context;
    for (const name of ['FLOTILLA_SERVER', 'FLOTILLA_TOKEN_FILE', 'FLOTILLA_CA']) delete env[name];
  });
  statusCommand(program, io);
  nodeCommands(program, io);
  haCommands(program, io);
  notifyCommands(program, io);
  signOnCommands(program, io);
  balanceCommands(program, io);
  powerCommands(program, io);
  ruleCommands(program, io);
  classCommands(program, io);
  templateCommands(program, io);
  capacityCommands(program, io);
  rollingCommands(program, io);
  vmCommands(program, io);
  snapshotCommands(program, io);
  consoleCommand(program, io);
  imageCommands(program, io);
  ovfCommands(program, io);
  ovfImportCommand(program, io);
  exportCommand(program, io);
  vappCommands(program, io);
  poolCommands(program, io);
  networkCommands(program, io);
  opCommands(program, io);
  tokenCommands(program, io);
  certificateCommands(program, io);
  userCommands(program, io);
  eventsCommand(program, io);
  topCommand(program, io);
  waitCommands(program, io);
  loginCommand(program, io);
  contextCommands(program, io);
  manCommand(program, io);
  completionCommands(program, io);
  inherit(program);
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    io.progress(null);
    const json = io.json || args.includes('--json');
    terminal.err(json ? `${JSON.stringify({ error: errorRecord(error) })}\n` : `${errorText(error)}\n`);
    return exitCodeOf(error);
  } finally {
    io.close();
  }
}

/** Output and the throwing of usage errors hold for all commands below, too. */
function inherit(command: Command): void {
  for (const c of command.commands) {
    c.copyInheritedSettings(command);
    inherit(c);
  }
}
