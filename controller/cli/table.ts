/** A column of a table: its head, and the text of a row. */
export interface Column<T> {
  readonly head: string;
  readonly text: (row: T) => string;
  /** Numbers stand right. */
  readonly right?: true;
  /** May be cut or, if too little room is left, left out: the higher the sooner. 0: never. */
  readonly give?: number;
}

/** A cut column keeps at least so many cells. */
const cutMin = 8;
const gap = 2;

/** Cells a text takes on a terminal: wide characters take two, marks none. */
export function cells(text: string): number {
  let n = 0;
  for (const ch of text) {
    if (/\p{M}/u.test(ch) || ch === '\u200d') continue;
    const c = ch.codePointAt(0) ?? 0;
    const wide =
      (c >= 0x1100 && c <= 0x115f) ||
      (c >= 0x2e80 && c <= 0xa4cf) ||
      (c >= 0xac00 && c <= 0xd7a3) ||
      (c >= 0xf900 && c <= 0xfaff) ||
      (c >= 0xfe30 && c <= 0xfe6f) ||
      (c >= 0xff00 && c <= 0xff60) ||
      (c >= 0x1f300 && c <= 0x1faff);
    n += wide ? 2 : 1;
  }
  return n;
}

/** What comes from a cluster may not command the terminal. */
// eslint-disable-next-line no-control-regex -- exactly these do
export const plain = (text: string): string => text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, ' ');

/**
 * A table as text. Where it is too wide, columns that may give are cut first and left out next.
 *
 * @param width - cells of the terminal; null: not one, nothing is cut
 */
export function table<T>(rows: readonly T[], columns: readonly Column<T>[], width: number | null): string {
  let shown = columns.map((c) => {
    const texts = rows.map((r) => plain(c.text(r)));
    return { c, texts, width: Math.max(cells(c.head), ...texts.map(cells)) };
  });
  const total = (): number => shown.reduce((n, s) => n + s.width + gap, -gap);
  const givers = [...shown]
    .filter((s) => (s.c.give ?? 0) > 0)
    .sort((a, b) => (b.c.give ?? 0) - (a.c.give ?? 0));
  for (const s of givers) {
    if (width === null || total() <= width) break;
    const min = Math.max(cutMin, cells(s.c.head));
    s.width = Math.max(Math.min(min, s.width), s.width - (total() - width));
  }
  for (const s of givers) {
    if (width === null || total() <= width) break;
    shown = shown.filter((x) => x !== s);
  }
  const line = (of: (s: (typeof shown)[number]) => string): string =>
    shown
      .map((s, i) => pad(of(s), s.width, s.c.right === true, i === shown.length - 1))
      .join(' '.repeat(gap))
      .trimEnd();
  return [line((s) => s.c.head), ...rows.map((_, i) => line((s) => s.texts[i] ?? ''))].join('\n');
}

function pad(text: string, width: number, right: boolean, last: boolean): string {
  const n = cells(text);
  if (n > width) {
    let out = '';
    for (const ch of text) {
      if (cells(out + ch) > width - 1) break;
      out += ch;
    }
    return `${out}…${' '.repeat(Math.max(0, width - cells(out) - 1))}`;
  }
  const space = ' '.repeat(width - n);
  return right ? space + text : last ? text : text + space;
}

/** Names and values below each other, for one object. */
export function facts(pairs: readonly (readonly [string, string | null])[]): string {
  const known = pairs.filter((p): p is readonly [string, string] => p[1] !== null && p[1] !== '');
  const width = Math.max(...known.map(([k]) => cells(k)));
  return known.map(([k, v]) => `${k}${' '.repeat(width - cells(k) + gap)}${plain(v)}`).join('\n');
}
