import type { Argument, Command, Option } from 'commander';
import { version } from '../version.js';
import { exitWords } from './exit.js';
import type { Io } from './io.js';

/** `flotilla man`: the manual, made of the commands themselves, so that none is missing. */
export function manCommand(program: Command, io: Io): void {
  program
    .command('man')
    .description('print the manual page: flotilla man | man -l -')
    .action(() => io.terminal.out(manPage(program)));
}

/** Text for roff: no line of it is a request, a hyphen is one that can be searched and pasted, all is ASCII. */
const roff = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(
      /[\u0080-\u{10ffff}]/gu,
      (c) => `\\[u${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`,
    )
    .replaceAll(/^([.'])/gm, '\\&$1');

const bold = (text: string): string => `\\fB${roff(text)}\\fR`;

/** @see man-pages(7), groff_man(7) */
export function manPage(program: Command): string {
  const commands: string[] = [];
  const walk = (c: Command, path: string): void => {
    for (const sub of c.commands) {
      // What is for shells, not for people.
      if (sub.name().startsWith('_') || sub.name() === 'help') continue;
      const name = `${path} ${sub.name()}`;
      if (sub.commands.length === 0) commands.push(commandPart(sub, name));
      walk(sub, name);
    }
  };
  walk(program, program.name());
  return [
    `.TH FLOTILLA 1 "" "flotilla ${version}" "Flotilla"`,
    '.SH NAME',
    roff(`flotilla - ${program.description().toLowerCase()}`),
    '.SH SYNOPSIS',
    `${bold('flotilla')} [\\fIoptions\\fR] \\fIcommand\\fR ...`,
    '.SH OPTIONS',
    ...program.options.flatMap(optionPart),
    '.SH COMMANDS',
    ...commands,
    '.SH EXIT STATUS',
    ...Object.entries(exitWords).flatMap(([code, words]) => ['.TP', bold(code), roff(words)]),
    '.SH ENVIRONMENT',
    ...[
      ['FLOTILLA_SERVER', 'The controller, e.g. https://n1:8443; goes before what login kept.'],
      ['FLOTILLA_TOKEN_FILE', 'A file with an API token.'],
      ['FLOTILLA_CA', 'A file with the CA of the cluster.'],
      ['FLOTILLA_CONTEXT', 'The context, as --context.'],
    ].flatMap(([name = '', words = '']) => ['.TP', bold(name), roff(words)]),
    '.SH FILES',
    '.TP',
    roff('$XDG_CONFIG_HOME/flotilla/login.json, contexts/NAME.json'),
    'Server, session or token, and CA of each context; readable by their owner only.',
  ].join('\n');
}

function commandPart(c: Command, name: string): string {
  const args = c.registeredArguments.map((a) => argumentText(a)).join(' ');
  return [
    `.SS ${bold(name)}${args === '' ? '' : ` ${args}`}`,
    roff(
      `${c.description().slice(0, 1).toUpperCase()}${c.description().slice(1)}.`.replace(/([?!.])\.$/, '$1'),
    ),
    ...c.options.flatMap(optionPart),
  ].join('\n');
}

const argumentText = (a: Argument): string => {
  const name = `\\fI${roff(a.name())}\\fR${a.variadic ? ' ...' : ''}`;
  return a.required ? name : `[${name}]`;
};

function optionPart(o: Option): string[] {
  const choices = o.argChoices === undefined ? '' : ` (${o.argChoices.join(', ')})`;
  const usual =
    o.defaultValue === undefined || typeof o.defaultValue === 'boolean'
      ? ''
      : ` Default: ${String(o.defaultValue)}.`;
  return ['.TP', bold(o.flags), roff(`${o.description}${choices}${usual}`.trim() || '...')];
}
