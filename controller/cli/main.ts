import { runCli } from './program.js';

/** What shells give a program ended by Ctrl-C. */
const interrupted = 130;
/** What waits has this long to end by itself after Ctrl-C, ms. */
const graceMs = 1_000;

const stop = new AbortController();
// The first Ctrl-C ends what waits, with a word; a second one ends the program at once.
process.once('SIGINT', () => {
  stop.abort();
  process.once('SIGINT', () => process.exit(interrupted));
  setTimeout(() => process.exit(interrupted), graceMs).unref();
});
process.once('SIGTERM', () => stop.abort());
// `flotilla vm list | head`: the reader has seen enough.
process.stdout.on('error', (e: NodeJS.ErrnoException) => process.exit(e.code === 'EPIPE' ? 0 : 1));

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  out: (text) => void process.stdout.write(`${text}\n`),
  err: (text) => void process.stderr.write(text),
  write: (bytes) => void process.stdout.write(bytes),
  width: process.stdout.isTTY ? process.stdout.columns : null,
  ...(process.stdout.isTTY ? { height: process.stdout.rows } : {}),
  tty: process.stderr.isTTY,
  stdin: process.stdin,
  signal: stop.signal,
});
