import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';

/** The newest so many stay: a day of hourly ones. */
export const newestKept = 24;
/** Beyond those one a day stays, for so many days. */
export const daysKept = 7;
/** All together, at most, bytes: the newest stays in any case. A ledger of 5,000 VMs is below 100 MB. */
export const shelfBytesMax = 2 * 2 ** 30;

/** A stored snapshot. */
export interface StoredSnapshot {
  readonly file: string;
  /** Wall clock of this node when it was taken. */
  readonly takenMs: number;
  readonly epoch: number;
  readonly revision: string;
  readonly bytes: number;
}

export const snapshotsDir = (stateDir: string): string => path.join(stateDir, 'snapshots');

/** `ledger-20261125T161500Z-e1-r4711.db`: when, of which epoch, at which revision. */
export function snapshotName(takenMs: number, epoch: number, revision: bigint): string {
  const time = new Date(takenMs).toISOString().replace(/[-:]|\.\d+/g, '');
  return `ledger-${time}-e${epoch}-r${revision}.db`;
}

const pattern = /^ledger-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-e(\d{1,9})-r(\d{1,20})\.db$/;

function parseName(name: string): Omit<StoredSnapshot, 'file' | 'bytes'> | null {
  const m = pattern.exec(name);
  if (m === null) return null;
  const [, y, mo, d, h, mi, s, epoch, revision] = m;
  const takenMs = Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
  return Number.isNaN(takenMs) ? null : { takenMs, epoch: Number(epoch), revision: revision ?? '' };
}

/** Snapshots on this node, the newest first. */
export async function storedSnapshots(dir: string): Promise<readonly StoredSnapshot[]> {
  const names = await readdir(dir).catch((error: unknown): string[] => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  const out: StoredSnapshot[] = [];
  for (const name of names) {
    const about = parseName(name);
    if (about === null) continue;
    const file = path.join(dir, name);
    out.push({ ...about, file, bytes: (await stat(file)).size });
  }
  return out.sort((a, b) => b.takenMs - a.takenMs || (a.file < b.file ? 1 : -1));
}

/** Which go: all but the newest, one a day beyond, and what fits into the bound. @param all - the newest first */
export function toForget(
  all: readonly StoredSnapshot[],
  nowMs: number,
  bytesMax = shelfBytesMax,
): readonly StoredSnapshot[] {
  const dayOf = (s: StoredSnapshot): number => Math.floor(s.takenMs / 86_400_000);
  const kept = new Set(all.slice(0, newestKept));
  const days = new Set([...kept].map(dayOf));
  for (const s of all) {
    if (days.has(dayOf(s)) || dayOf(s) <= Math.floor(nowMs / 86_400_000) - daysKept) continue;
    days.add(dayOf(s));
    kept.add(s);
  }
  let bytes = 0;
  all.forEach((s, i) => {
    if (!kept.has(s)) return;
    bytes += s.bytes;
    if (i > 0 && bytes > bytesMax) kept.delete(s);
  });
  return all.filter((s) => !kept.has(s));
}

/**
 * Runs `work` unless another process is at it: agent and command line take snapshots alike.
 *
 * @returns null: another one is at it
 */
export async function alone<T>(dir: string, work: () => Promise<T>): Promise<T | null> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const lock = path.join(dir, '.lock');
  if (!(await take(lock))) return null;
  try {
    return await work();
  } finally {
    await rm(lock, { force: true });
  }
}

async function take(lock: string): Promise<boolean> {
  for (let i = 0; i < 2; i++) {
    try {
      const handle = await open(lock, 'wx', 0o600);
      await handle.writeFile(String(process.pid));
      await handle.close();
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    if (await holderLives(lock)) return false;
    await rm(lock, { force: true });
  }
  return false;
}

/** A holder without a number yet is just beginning; one that is older than any snapshot takes is dead. */
async function holderLives(lock: string): Promise<boolean> {
  try {
    const handle = await open(lock, 'r');
    try {
      const { mtimeMs } = await handle.stat();
      const pid = Number(await handle.readFile('utf8'));
      if (!Number.isSafeInteger(pid) || pid <= 0) return Date.now() - mtimeMs < 10_000;
      if (pid === process.pid) return true;
      process.kill(pid, 0);
      return Date.now() - mtimeMs < 600_000;
    } finally {
      await handle.close();
    }
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
