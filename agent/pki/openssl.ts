import { execa } from 'execa';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { FlotillaError } from '../../core/domain/error.js';

/** A signature takes 30 ms; a machine that needs longer than this is stuck. */
const opensslTimeoutMs = 20_000;

/**
 * Runs openssl without a shell and without an environment of ours. Keys are given as files, never as arguments.
 *
 * @throws FlotillaError `tool-failed`
 */
export async function openssl(
  args: readonly string[],
  o: { cwd: string; input?: string },
): Promise<{ stdout: string; stderr: string }> {
  try {
    const { stdout, stderr } = await execa('openssl', [...args], {
      cwd: o.cwd,
      ...(o.input === undefined ? { stdin: 'ignore' as const } : { input: o.input }),
      extendEnv: false,
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', OPENSSL_CONF: '/dev/null' },
      timeout: opensslTimeoutMs,
      maxBuffer: 1024 * 1024,
    });
    return { stdout, stderr };
  } catch (cause) {
    throw new FlotillaError('tool-failed', `openssl ${args[0] ?? ''} failed`, {
      hint: 'See the cause; openssl must be installed.',
      cause,
    });
  }
}

/** A directory of one's own (0700), removed afterwards whatever happens. */
export async function inPrivateDir<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-pki-'));
  try {
    await chmod(dir, 0o700);
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
