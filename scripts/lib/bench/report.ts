import { availableParallelism, cpus, loadavg } from 'node:os';

/** What a figure has to keep: at most, or at least, this. */
export type Target = { readonly atMost: number } | { readonly atLeast: number };

/** One measured figure, before it is printed. */
export interface Measured {
  readonly figure: string;
  /** What is held against the target. */
  readonly value: number;
  readonly unit: string;
  /** Absent: nobody has said what it shall be. */
  readonly target?: Target;
  readonly n: number;
  readonly median?: number;
  readonly p99?: number;
  /** The other side of a comparison, and whatever else explains the value. */
  readonly compared?: Readonly<Record<string, unknown>>;
}

/** Middle value; of an even number of them, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const s = [...values].sort((a, b) => a - b);
  const i = s.length >> 1;
  return s.length % 2 === 1 ? (s[i] ?? NaN) : ((s[i - 1] ?? NaN) + (s[i] ?? NaN)) / 2;
}

/** The smallest value that this share of all values does not exceed (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const s = [...values].sort((a, b) => a - b);
  return s[Math.max(0, Math.ceil(s.length * share) - 1)] ?? NaN;
}

/** Four significant digits: more would be noise. */
export const round = (x: number): number => (x === 0 ? 0 : Number(x.toPrecision(4)));

const holds = (value: number, t: Target): boolean => ('atMost' in t ? value <= t.atMost : value >= t.atLeast);

/** Prints a figure as one JSON line. */
export function report(m: Measured): void {
  const { figure, value, unit, median: mid, p99, n, target, compared } = m;
  const line = {
    bench: 'node',
    figure,
    value: round(value),
    unit,
    ...(mid === undefined ? {} : { median: round(mid) }),
    ...(p99 === undefined ? {} : { p99: round(p99) }),
    n,
    ...(target === undefined ? {} : { target, met: holds(value, target) }),
    ...(compared === undefined ? {} : { compared }),
    date: new Date().toISOString(),
    // The load tells whether the machine had anything else to do: figures of a busy one are worth little.
    machine: {
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      cores: availableParallelism(),
      load: loadavg().map((x) => Math.round(x * 100) / 100),
    },
  };
  console.log(JSON.stringify(line));
}

/** A word about what goes on; figures alone go to standard output. */
export const say = (text: string): void => console.error(`bench        ${text}`);
