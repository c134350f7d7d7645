import { readFileSync } from 'node:fs';

const megabyte = 1e6;
/** Of `utime` and the like in /proc: USER_HZ, 100 on every architecture we know. */
const ticksPerSecond = 100;

/** Memory of one process in MB of 10^6 bytes: resident, and its fair share of what it shares with others. */
export function memoryOf(procDir: string): { rss: number; pss: number } {
  const text = readFileSync(`${procDir}/smaps_rollup`, 'utf8');
  const of = (name: string): number =>
    (Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]) * 1024) / megabyte;
  return { rss: of('Rss'), pss: of('Pss') };
}

/** CPU time that a process and the children it has waited for have used, seconds. */
export function cpuSecondsOf(procDir: string): number {
  const text = readFileSync(`${procDir}/stat`, 'utf8');
  // The name, in parentheses, may hold anything.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const ticks = fields.slice(11, 15).reduce((sum, f) => sum + Number(f), 0);
  return ticks / ticksPerSecond;
}
