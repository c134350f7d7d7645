import { createHash } from 'node:crypto';
import type { z } from 'zod';
import type { Compare, Ledger, TxnResult, Write } from '../../agent/ledger/ledger.js';
import { FlotillaError } from '../../core/domain/error.js';
import { epochKey, readRecord, writeRecord, type RecordKind } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import type { ApiDeps } from './context.js';

/** Times a change is planned anew after somebody else wrote in between. More than five means a fight. */
const attemptsMax = 5;

/** How long a request goes on asking a ledger that does not answer, ms: an election of its leader takes 1 to 2 s. */
const electionMs = 4_000;
const askAgainMs = 200;

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

type Asked = Pick<ApiDeps, 'ledger' | 'view' | 'clock'>;

/**
 * Plans a change from fresh reads and commits it as one transaction; where something it read was changed in
 * between, plans it anew, so that the plan itself says what is wrong now. An election of the ledger costs it time.
 *
 * @throws FlotillaError `edit-conflict` when others were always faster; what the plan throws; `ledger-unavailable`
 *   when nobody knows whether it was done: an Idempotency-Key makes asking again safe
 */
export async function commit<T>(deps: Asked, what: string, plan: () => Promise<Planned<T>>): Promise<T> {
  const endMs = deps.clock.nowMs() + electionMs;
  for (let attempt = 1; attempt <= attemptsMax; attempt++) {
    const { change, answer } = await planned(deps, endMs, plan);
    if (change === null) return answer();
    const { compare, writes } = change.build(deps.view.ledger.epoch);
    const r = await transacted(deps, endMs, compare, writes);
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

async function planned<P>({ clock }: Asked, endMs: number, plan: () => Promise<P>): Promise<P> {
  for (;;) {
    try {
      return await plan();
    } catch (error) {
      if (!isUnavailable(error) || clock.nowMs() >= endMs) throw error;
    }
    await clock.sleep(askAgainMs);
  }
}

/**
 * One transaction, asked for until the ledger says what became of it. Asking again is safe where it compares the
 * revision of something it writes: of two of them only one can be done.
 *
 * @throws FlotillaError `ledger-unavailable`: what it failed by first when its outcome became unknown, and stays so
 */
async function transacted(
  { ledger, clock }: Asked,
  endMs: number,
  compare: readonly Compare[],
  writes: readonly Write[],
): Promise<TxnResult> {
  const puts = new Map(writes.flatMap((w) => ('put' in w ? [[w.put, w.value] as const] : [])));
  const once = compare.some((c) => 'modRevision' in c && puts.has(c.key));
  let unknown: FlotillaError | null = null;
  for (;;) {
    try {
      const r = await ledger.txn(compare, writes);
      if (r.done || unknown === null) return r;
      const revision = await writtenAt(ledger, puts);
      if (revision !== null) return { done: true, revision };
      // Somebody else wrote there, before it was done or after.
      break;
    } catch (error) {
      if (!isUnavailable(error)) throw unknown ?? error;
      if ((error.details as { outcome?: string } | undefined)?.outcome === 'unknown') unknown ??= error;
      if (clock.nowMs() >= endMs || (unknown !== null && !once)) throw unknown ?? error;
    }
    await clock.sleep(askAgainMs);
  }
  throw unknown;
}

/** @returns the revision of the one transaction that wrote all this; null: it does not stand so */
async function writtenAt(ledger: Ledger, puts: ReadonlyMap<string, string>): Promise<bigint | null> {
  const entries = await Promise.all([...puts.keys()].map((key) => ledger.get(key)));
  const revisions = new Set(
    entries.map((e) => (e?.value === puts.get(e?.key ?? '') ? e?.modRevision : null)),
  );
  const [revision] = revisions;
  return revisions.size === 1 ? (revision ?? null) : null;
}

const isUnavailable = (e: unknown): e is FlotillaError =>
  e instanceof FlotillaError && e.code === 'ledger-unavailable';

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
