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
