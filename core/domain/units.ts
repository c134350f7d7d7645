import { FlotillaError } from './error.js';

/** Binary units, since QEMU, LVM and people who buy memory mean them: `10G` is 10 GiB. */
const units: Readonly<Record<string, number>> = {
  '': 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/**
 * Reads a size as people write it: `512M`, `10G`, `1.5T`, `10GiB`, or plain bytes.
 *
 * @param what - named in the refusal, e.g. `the disk's size`
 * @returns whole bytes
 * @throws FlotillaError `bad-input`
 */
export function parseSize(text: string, what = 'The size'): number {
  const m = /^(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const factor = units[(m?.[2] ?? '?').toUpperCase()];
  const bytes = m === null || factor === undefined ? NaN : Math.round(Number(m[1]) * factor);
  if (!Number.isSafeInteger(bytes)) {
    throw new FlotillaError('bad-input', `${what} "${text.slice(0, 40)}" is not a size`, {
      hint: 'Write a number with K, M, G or T behind it (binary units), e.g. 512M or 10G.',
    });
  }
  return bytes;
}

/** A size for people: three digits at most, `10 GiB`. */
export function formatSize(bytes: number): string {
  if (!Number.isFinite(bytes)) return '?';
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let n = Math.abs(bytes);
  let i = 0;
  while (n >= 1024 && i < names.length - 1) {
    n /= 1024;
    i += 1;
  }
  const digits = i === 0 || n >= 100 || Number.isInteger(n) ? 0 : 1;
  return `${bytes < 0 ? '-' : ''}${n.toFixed(digits).replace(/\.0$/, '')} ${names[i]}`;
}

const seconds: Readonly<Record<string, number>> = { '': 1, s: 1, m: 60, h: 3600, d: 86_400 };

/**
 * Reads a time span: `90`, `90s`, `5m`, `12h`, `7d`.
 *
 * @returns whole seconds
 * @throws FlotillaError `bad-input`
 */
export function parseSeconds(text: string, what = 'The time'): number {
  const m = /^(\d{1,9})([smhd]?)$/.exec(text.trim());
  const factor = seconds[m?.[2] ?? '?'];
  if (m === null || factor === undefined) {
    throw new FlotillaError('bad-input', `${what} "${text.slice(0, 40)}" is not a time span`, {
      hint: 'Write a whole number with s, m, h or d behind it, e.g. 90s or 7d.',
    });
  }
  return Number(m[1]) * factor;
}

/** A time span for people, in its two largest units: `3 d 4 h`, `12 s`. */
export function formatSpan(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 > 0 ? ` ${s % 60} s` : ''}`;
  const h = Math.floor(s / 3600);
  if (h < 24) return `${h} h${s % 3600 >= 60 ? ` ${Math.floor((s % 3600) / 60)} min` : ''}`;
  return `${Math.floor(h / 24)} d${h % 24 > 0 ? ` ${h % 24} h` : ''}`;
}
