import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';

/** SIGKILL in the masks of pending signals. @see proc(5): SigPnd, ShdPnd */
const killBit = 1n << 8n;

/**
 * Whether nothing of a VM can run on this node any more: no QEMU of it is there, or each has SIGKILL before it, so that the
 * end of a system call it hangs in is its own end, too. What cannot be read is alive.
 *
 * @param root - where /proc is
 */
export async function isDead(vmId: string, root = '/'): Promise<boolean> {
  const proc = path.join(root, 'proc');
  for (const pid of await readdir(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    const words = await textOf(path.join(proc, pid, 'cmdline'));
    if (words === null || !words.split('\0').includes(vmId)) continue;
    const status = await textOf(path.join(proc, pid, 'status'));
    if (status !== null && !isDying(status)) return false;
  }
  return true;
}

/** @param status - of proc(5) */
export function isDying(status: string): boolean {
  if (/^State:\s+[ZX]/m.test(status)) return true;
  const pending = [...status.matchAll(/^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)$/gm)].map((m) =>
    BigInt(`0x${m[1]}`),
  );
  return pending.some((mask) => (mask & killBit) !== 0n);
}

/** Null: it has ended. */
async function textOf(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'latin1');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT' || (e as NodeJS.ErrnoException).code === 'ESRCH')
      return null;
    throw e;
  }
}
