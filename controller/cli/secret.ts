import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { FlotillaError } from '../../core/domain/error.js';
import type { Io, Terminal } from './io.js';
import { readText } from './session.js';

/** A password from a file, or with `-` from the standard input; without the newline at its end. */
export async function readPassword(io: Io, file: string): Promise<string> {
  const text = file === '-' ? await io.stdin() : await readText(file, 'The password');
  return text.replace(/\r?\n$/, '');
}

/** Asks for something that the terminal does not show. @throws FlotillaError `bad-input`: there is no terminal */
export async function askSecret(terminal: Terminal, question: string): Promise<string> {
  if (!terminal.tty) {
    throw new FlotillaError('bad-input', 'There is no terminal to ask for a password', {
      hint: 'Give it in a file: --password-file FILE, - for the standard input.',
    });
  }
  terminal.err(question);
  const nowhere = new Writable({ write: (_, __, done) => done() });
  const ask = createInterface({ input: terminal.stdin, output: nowhere, terminal: true });
  try {
    return (await ask.question('', { signal: terminal.signal })).trim();
  } finally {
    ask.close();
    terminal.err('\n');
  }
}
