/** What `/proc` says of the machine now; parsers only, so that captured files can be tried. */
export interface CpuTimes {
  /** Since boot, in ticks; only differences mean anything. */
  readonly busy: number;
  readonly total: number;
  readonly cpus: number;
  /** When the machine booted, ms since 1970. */
  readonly bootMs: number;
}

/** @see proc_stat(5) */
export function parseStat(text: string): CpuTimes {
  const lines = text.split('\n');
  const all =
    lines
      .find((l) => l.startsWith('cpu '))
      ?.trim()
      .split(/\s+/)
      .slice(1)
      .map(Number) ?? [];
  // Guest time is within user time already.
  const [user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0] = all;
  const busy = user + nice + system + irq + soft + steal;
  const boot = Number(lines.find((l) => l.startsWith('btime '))?.slice(6) ?? 0);
  const cpus = lines.filter((l) => /^cpu\d+ /.test(l)).length;
  return { busy, total: busy + idle + wait, cpus, bootMs: boot * 1000 };
}

/** @see proc_meminfo(5) */
export function parseMeminfo(text: string): { totalBytes: number; availableBytes: number } {
  const of = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { totalBytes: of('MemTotal'), availableBytes: of('MemAvailable') };
}

export const parseLoadAvg1 = (text: string): number => Number(text.split(' ')[0] ?? 0);

/** Share of the last ten seconds in which something waited, per cent; null: the text has none. @see Documentation/accounting/psi.rst */
export function parsePressure(text: string): number | null {
  const share = Number(/^some avg10=(\d+(?:\.\d+)?)/m.exec(text)?.[1] ?? NaN);
  return Number.isFinite(share) ? Math.min(100, share) : null;
}
