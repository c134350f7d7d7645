import { spawn } from 'node:child_process';
import { open, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { FlotillaError } from '../../core/domain/error.js';
import { isDying } from '../machine/processes.js';

const lookMs = 5;
/** SIGKILL is carried out at once, but for what hangs in the kernel. */
const endMs = 30_000;
/** Last words of a QEMU that did not start. */
const wordsMax = 2_000;

/** A QEMU, by what tells it from a later process of that number. */
export interface Running {
  readonly pid: number;
  /** Ticks since boot, of proc(5). */
  readonly startTicks: string;
}

/**
 * Starts a program that outlives this process. What it says goes to a file, begun anew.
 *
 * @param onEnd - called when it has ended, as long as this process lives
 */
export async function launch(
  command: readonly string[],
  o: { readonly log: string; readonly env: Readonly<Record<string, string>>; onEnd(): void },
): Promise<Running> {
  const [program = '', ...args] = command;
  const log = await open(o.log, 'w', 0o600);
  try {
    const child = spawn(program, args, {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', ...o.env },
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    child.unref();
    child.once('exit', () => o.onEnd());
    const pid = child.pid ?? 0;
    // The agent is one of the last that the kernel kills where memory is short; a VM is not.
    await writeFile(`/proc/${pid}/oom_score_adj`, '0').catch(() => undefined);
    return { pid, startTicks: (await ticksOf(pid)) ?? '' };
  } finally {
    await log.close();
  }
}

/** Whether it still runs: not ended, not dying. */
export async function isAlive(r: Running): Promise<boolean> {
  if ((await ticksOf(r.pid)) !== r.startTicks) return false;
  const status = await readFile(`/proc/${r.pid}/status`, 'latin1').catch(() => null);
  return status !== null && !isDying(status);
}

/** Kills it, frozen or not, and waits until nothing of it runs any more. @throws FlotillaError `timeout` */
export async function kill(r: Running): Promise<void> {
  for (const untilMs = performance.now() + endMs; ; await sleep(lookMs)) {
    if ((await ticksOf(r.pid)) !== r.startTicks) return;
    try {
      process.kill(r.pid, 'SIGKILL');
    } catch {
      return;
    }
    const state = await readFile(`/proc/${r.pid}/stat`, 'latin1').catch(() => '');
    if (state === '' || /\) [ZX] /.test(state)) return;
    if (performance.now() > untilMs) {
      throw new FlotillaError('timeout', `QEMU (process ${r.pid}) does not end`, {
        hint: 'It hangs in the kernel, on a disk or a network file system: see the pool.',
      });
    }
  }
}

/** The end of what it said. */
export const lastWords = async (log: string): Promise<string> =>
  (await readFile(log, 'utf8').catch(() => '')).slice(-wordsMax).trim();

async function ticksOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => null);
  // The name may hold anything but ends with the last parenthesis; the start is the 22nd field.
  return stat === null ? null : (stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null);
}
