/** Number and unit stay on one line. */
const gap = '\u00a0';

/** Disks and traffic, decimal as on their labels: `12.3 GB`, three digits at most. */
export const bytes = (n: number): string => scaled(n, 1000, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);

/** Memory, binary as it is sold and as VMs are given it: `8.0 GiB`. */
export const memory = (n: number): string => scaled(n, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']);

function scaled(n: number, step: number, units: readonly string[]): string {
  let value = n;
  let unit = 0;
  while (value >= step - 0.5 && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return `${value >= 99.95 || unit === 0 ? Math.round(value) : value.toPrecision(value < 9.95 ? 2 : 3)}${gap}${units[unit]}`;
}

/** How long ago or for how long, in one or two units: `0.8 s`, `3 min`, `2 h 5 min`, `4 d`. */
export function duration(ms: number): string {
  const s = Math.max(0, ms) / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  const min = Math.round(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 48) return min % 60 === 0 ? `${h} h` : `${h} h ${min % 60} min`;
  return `${Math.floor(h / 24)} d`;
}

/** `2026-11-23 01:02:03 UTC`. */
export const moment = (wallMs: number): string =>
  `${new Date(wallMs).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

export const percent = (part: number, whole: number): string =>
  whole > 0 ? `${Math.round((part / whole) * 100)}${gap}%` : '–';

/** `1 VM`, `3 VMs`. */
export const count = (n: number, one: string, many = `${one}s`): string => `${n} ${n === 1 ? one : many}`;

/** `n1, n2 and n3`; long lists are cut. */
export function list(names: readonly string[], max = 5): string {
  const shown =
    names.length > max ? [...names.slice(0, max - 1), `${names.length - max + 1} more`] : [...names];
  const last = shown.pop();
  return shown.length === 0 ? (last ?? '') : `${shown.join(', ')} and ${last}`;
}
