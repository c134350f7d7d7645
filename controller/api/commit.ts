import { createHash } from 'node:crypto';
import type { z } from 'zod';
import type { Compare, Write } from '../../agent/ledger/ledger.js';
import { FlotillaError } from '../../core/domain/error.js';
import { epochKey, readRecord, writeRecord, type RecordKind } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import type { ApiDeps } from './context.js';

/** Times a change is planned anew after somebody else wrote in between. More than five means a fight. */
const attemptsMax = 5;

/** One transaction in the making: what must still hold, and what is written. */
export class Change {
  private readonly compares = new Map<string, Compare>();
  private readonly writes = new Map<string, Write>();

  /** The key is as it was read; `null`: there is none. */
  at(key: string, kept: { readonly modRevision: bigint } | null): this {
    this.compares.set(key, { key, modRevision: kept?.modRevision ?? 0n });
    return this;
  }

  /**
   * What this change refers to still stands with the same content. It is written again unchanged, so that a
   * deletion planned meanwhile, which compares its revision, finds out; others who refer to it do not clash.
   */
  refersTo(key: string, kept: { readonly raw: string }): this {
    this.compares.set(key, { key, value: kept.raw });
    this.writes.set(key, { put: key, value: kept.raw });
    return this;
  }

  /**
   * Something is promised of this, after a reckoning that saw all promises of before: of two who promise at the same
   * moment one is planned anew. It is written again unchanged, as in {@link refersTo}.
   */
  promises(key: string, kept: { readonly raw: string; readonly modRevision: bigint }): this {
    this.at(key, kept);
    this.writes.set(key, { put: key, value: kept.raw });
    return this;
  }

  put<S extends z.ZodType>(kind: RecordKind<S>, id: string, value: z.output<S>): this {
    const key = kind.key(id);
    this.writes.set(key, { put: key, value: writeRecord(kind, value) });
    return this;
  }

  /** Takes a unique key for a holder; it must be free. */
  take(key: string, holder: string): this {
    this.compares.set(key, { key, modRevision: 0n });
    this.writes.set(key, { put: key, value: holder });
    return this;
  }

  write(w: Write): this {
    if ('delPrefix' in w) throw new Error('a change names each key');
    this.writes.set('put' in w ? w.put : w.del, w);
    return this;
  }

  del(key: string): this {
    this.writes.set(key, { del: key });
    return this;
  }

  build(epoch: string | null): { compare: Compare[]; writes: Write[] } {
    const compare = [...this.compares.values()];
    if (epoch !== null) compare.push({ key: epochKey, value: epoch });
    return { compare, writes: [...this.writes.values()] };
  }
}

export interface Planned<T> {
  /** Null: nothing is to be written. */
  readonly change: Change | null;
  readonly answer: () => T;
}

/**
 * Plans a change from fresh reads and commits it as one transaction; where something it read was changed in
 * between, plans it anew, so that the plan itself says what is wrong now.
 *
 * @throws FlotillaError `edit-conflict` when others were always faster; what the plan throws; `ledger-unavailable`
 *   when nobody knows whether it was done: an Idempotency-Key makes asking again safe
 */
export async function commit<T>(
  deps: Pick<ApiDeps, 'ledger' | 'view'>,
  what: string,
  plan: () => Promise<Planned<T>>,
): Promise<T> {
  for (let attempt = 1; attempt <= attemptsMax; attempt++) {
    const { change, answer } = await plan();
    if (change === null) return answer();
    const { compare, writes } = change.build(deps.view.ledger.epoch);
    const r = await deps.ledger.txn(compare, writes);
    if (r.done) {
      deps.view.apply(r.revision, writes);
      return answer();
    }
    await deps.view.ledger.refresh();
  }
  throw new FlotillaError('edit-conflict', `${what} was changed by others ${attemptsMax} times in a row`, {
    hint: 'Nothing was changed by this request. Look at it again and repeat what is still wanted.',
  });
}

/** Reads one record afresh. @throws FlotillaError `unreadable-record`, `ledger-unavailable` */
export async function fresh<S extends z.ZodType>(
  deps: Pick<ApiDeps, 'ledger'>,
  kind: RecordKind<S>,
  id: string,
): Promise<Kept<z.output<S>> | null> {
  const key = kind.key(id);
  const e = await deps.ledger.get(key);
  if (e === null) return null;

  return { value: readRecord(kind, key, e.value), raw: e.value, modRevision: e.modRevision };
}

/** The ETag of a generation or revision. */
export const etagOf = (n: number | string): string => `"${n}"`;

/**
 * Holds an edit to the state its author saw.
 *
 * @throws FlotillaError `edit-conflict`
 */
export function checkIfMatch(ifMatch: string | null, now: number | string, what: string): void {
  if (ifMatch === null || ifMatch === String(now)) return;
  throw new FlotillaError(
    'edit-conflict',
    `${what} was changed meanwhile: it is at ${now}, not at ${ifMatch}`,
    {
      hint: 'Load it again, look at what changed, and make the edit on that.',
      details: { now: String(now), ifMatch },
    },
  );
}

/**
 * A UUID that the same caller, route and key always give: a request sent twice makes one object.
 *
 * @param key - null: the request has none, and makes a new one
 */
export function idFromKey(chance: ApiDeps['chance'], who: string, route: string, key: string | null): string {
  if (key === null) return chance.uuid();
  const h = createHash('sha256').update(`${who}\0${route}\0${key}`).digest('hex');
  const variant = ((parseInt(h.slice(16, 17), 16) & 3) | 8).toString(16);
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-5${h.slice(13, 16)}-${variant}${h.slice(17, 20)}-${h.slice(20, 32)}`;
}

/** What a request asks, as a short mark: a key that comes again with another request is refused. */
export const requestMark = (ask: { params?: unknown; query?: unknown; body?: unknown }): string =>
  createHash('sha256')
    .update(JSON.stringify([ask.params ?? null, ask.query ?? null, ask.body ?? null]))
    .digest('hex')
    .slice(0, 32);
