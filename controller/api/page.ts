import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import type { Cell, View } from '../view.js';

export interface PageQuery {
  readonly limit: number;
  readonly after?: string | undefined;
}

/** Where an item stands in its list: an ascending key, then the id. */
type Place = readonly [string, string];
const cursorSchema = z.tuple([z.string(), z.string()]);

const write = (p: Place): string => Buffer.from(JSON.stringify(p), 'utf8').toString('base64url');

/** @throws FlotillaError `bad-input`: not a cursor of ours */
function read(after: string): Place {
  try {
    return cursorSchema.parse(JSON.parse(Buffer.from(after, 'base64url').toString('utf8')));
  } catch (cause) {
    throw new FlotillaError('bad-input', '"after" is not what a page gave as "next"', {
      hint: 'Begin the list anew, without "after".',
      cause,
    });
  }
}

const isAfter = (a: Place, b: Place): boolean => a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);

/** The list's own order, as an ascending text: names as the ledger compares them, or the id. */
export function nameKeyOf(v: { readonly id: string; readonly name?: string }): string {
  return (v.name ?? v.id).normalize('NFC').toLocaleLowerCase('en');
}

/** Newest first. */
export const newestKeyOf = (v: { readonly createdMs: number }): string =>
  String(1e16 - v.createdMs).padStart(17, '0');

/**
 * One page of a list, put together from the texts at hand. The cursor names a place, not an item, so that items
 * coming and going between two pages neither break it nor hide others.
 *
 * @param cells - ascending by `keyOf`, then id
 * @throws FlotillaError `bad-input`: a cursor that is not ours
 */
export function page<T extends { readonly id: string; readonly name?: string }>(
  view: View,
  cells: readonly Cell<T>[],
  q: PageQuery,
  o: { wanted?: (v: T) => boolean; keyOf?: (v: T) => string; text?: (c: Cell<T>) => string } = {},
): { json: string } {
  const keyOf = o.keyOf ?? nameKeyOf;
  const matching = o.wanted === undefined ? cells : cells.filter((c) => o.wanted?.(c.view));
  let from = 0;
  if (q.after !== undefined) {
    const place = read(q.after);
    const i = matching.findIndex((c) => isAfter([keyOf(c.view), c.view.id], place));
    from = i === -1 ? matching.length : i;
  }
  const items = matching.slice(from, from + q.limit);
  const last = items.at(-1);
  const more = from + items.length < matching.length && last !== undefined;
  const { asOfMs, ageMs, ledger } = view.freshness();
  const head = `"asOfMs":${asOfMs},"ageMs":${ageMs},"ledger":"${ledger}","total":${matching.length}`;
  const next = more ? JSON.stringify(write([keyOf(last.view), last.view.id])) : 'null';
  const text = o.text ?? ((c: Cell<T>) => c.json);
  return { json: `{${head},"next":${next},"items":[${items.map(text).join(',')}]}` };
}

/** A page of views that are made on the spot. */
export function pageOfViews<T extends { readonly id: string; readonly name?: string }>(
  view: View,
  views: readonly T[],
  q: PageQuery,
  keyOf?: (v: T) => string,
): { json: string } {
  return page(
    view,
    views.map((v) => ({ view: v, json: '' })),
    q,
    { text: (c) => JSON.stringify(c.view), ...(keyOf === undefined ? {} : { keyOf }) },
  );
}
