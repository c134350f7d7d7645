// Running programs and waiting for conditions.
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { LabError } from './config.mjs';

/**
 * Runs a program to its end and gives what it printed.
 *
 * @param {string} file @param {string[]} args @param {{input?: string, allowFailure?: boolean}} [options]
 */
export async function run(file, args, { input, allowFailure = false } = {}) {
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  child.stdin.on('error', () => {});
  child.stdin.end(input ?? '');
  const code = await new Promise((resolve, reject) => {
    child.on('error', (error) =>
      reject(new LabError(`cannot run ${file}`, `is it installed? ${needs[file] ?? ''}`, error)),
    );
    child.on('close', resolve);
  });
  if (code !== 0 && !allowFailure)
    throw new LabError(`${file} ${args.join(' ')}: ${stderr.trim() || `exit ${code}`}`);
  return { code, stdout, stderr };
}

/**
 * Runs something in the foreground, with this terminal, and ends with its exit code.
 *
 * @param {[string, string[]]} command
 */
export async function foreground([file, args]) {
  const child = spawn(file, args, { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  process.exitCode = await new Promise((resolve) =>
    child.on('close', (code, signal) => resolve(code ?? (signal ? 1 : 0))),
  );
}

/**
 * Runs a verb of the command line; refusals are printed with their way out.
 *
 * @param {string} name - of the program @param {string} usage @param {Record<string, () => unknown>} verbs
 * @param {string | undefined} verb
 */
export async function report(name, usage, verbs, verb) {
  try {
    if (!Object.hasOwn(verbs, verb ?? '')) {
      console.error(usage);
      process.exitCode = 2;
      return;
    }
    if (process.getuid?.() !== 0)
      throw new LabError(`the ${name} needs root: it makes namespaces and mounts`, 'run it with sudo');
    await verbs[verb]();
  } catch (error) {
    if (!(error instanceof LabError)) throw error;
    console.error(`${name}: ${error.message}${error.hint ? `\n     ${error.hint}` : ''}`);
    process.exitCode = 1;
  }
}

/** Debian packages of the programs used. */
const needs = {
  ip: 'apt-get install iproute2',
  bridge: 'apt-get install iproute2',
  'systemd-nspawn': 'apt-get install systemd-container',
  nsenter: 'apt-get install util-linux',
  'mkfs.ext4': 'apt-get install e2fsprogs',
};

/**
 * Looks until something is there.
 *
 * @template T
 * @param {() => T | Promise<T>} look - anything but undefined and false ends the wait
 * @param {{limitMs: number, everyMs: number}} timing
 * @returns {Promise<T | undefined>} undefined when the limit has passed
 */
export async function until(look, { limitMs, everyMs }) {
  const end = Date.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() >= end) return undefined;
    await sleep(everyMs);
  }
}
