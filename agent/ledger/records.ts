import { type z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import {
  epochKey,
  metaKey,
  metaSchema,
  readRecord,
  writeRecord,
  type RecordKind,
} from '../../core/wire/ledger-keys.js';
import type { Compare, Ledger, LedgerEntry, TxnResult, Write } from './ledger.js';

/** A change is tried so often against others who change the same record: beyond it somebody loops. */
export const changeTriesMax = 8;

/** A record with what a compare-and-swap on it needs. */
export interface Stored<T> {
  readonly id: string;
  readonly key: string;
  readonly value: T;
  readonly createRevision: bigint;
  readonly modRevision: bigint;
}

/** A record that is there and cannot be read. It is counted and shown, never taken for an absent one. */
export interface Unreadable {
  readonly key: string;
  readonly modRevision: bigint;
  readonly error: FlotillaError;
}

export interface Records<T> {
  readonly items: readonly Stored<T>[];
  readonly unreadable: readonly Unreadable[];
  readonly revision: bigint;
}

/** Compare that a record is still as it was read. */
export const unchanged = (s: { readonly key: string; readonly modRevision: bigint }): Compare => ({
  key: s.key,
  modRevision: s.modRevision,
});
/** Compare that a key does not exist. */
export const absent = (key: string): Compare => ({ key, createRevision: 0n });

/** The write that stores a record. @throws FlotillaError `bad-input`, `too-large` */
export function putRecord<S extends z.ZodType>(
  kind: RecordKind<S>,
  id: string,
  value: z.output<S>,
  lease?: string,
): Write {
  const put = { put: kind.key(id), value: writeRecord(kind, value) };
  return lease === undefined ? put : { ...put, lease };
}

/**
 * The ledger's records with their types, and the epoch of the ledger in every transaction: what was decided before
 * a restore from a snapshot is not written after it.
 *
 * @see safety 10
 */
export class RecordStore {
  readonly ledger: Ledger;
  /** null: no epoch is compared; only for founding, when there is none yet. */
  readonly epoch: number | null;

  constructor(ledger: Ledger, epoch: number | null) {
    this.ledger = ledger;
    this.epoch = epoch;
  }

  /**
   * Reads the cluster's meta record and makes a store of its epoch.
   *
   * @throws FlotillaError `not-found`: no cluster was founded in this ledger
   */
  static async open(ledger: Ledger): Promise<{ store: RecordStore; meta: ClusterMeta }> {
    const entry = await ledger.get(metaKey);
    if (entry === null) {
      throw new FlotillaError('not-found', 'The ledger holds no cluster', {
        hint: 'Found one with "flotilla-agent found --cluster NAME", or check that these are the right voters.',
      });
    }
    const meta = readRecord({ schema: metaSchema }, metaKey, entry.value);
    return { store: new RecordStore(ledger, meta.epoch), meta };
  }

  /**
   * Linearizable read.
   *
   * @returns null: it does not exist
   * @throws FlotillaError `unreadable-record`, `ledger-unavailable`
   */
  async read<S extends z.ZodType>(kind: RecordKind<S>, id: string): Promise<Stored<z.output<S>> | null> {
    const entry = await this.ledger.get(kind.key(id));
    return entry === null ? null : stored(kind, id, entry);
  }

  /** As {@link read}, for what must be there. @throws FlotillaError `not-found` */
  async require<S extends z.ZodType>(
    kind: RecordKind<S>,
    id: string,
    what: string,
  ): Promise<Stored<z.output<S>>> {
    const s = await this.read(kind, id);
    if (s !== null) return s;
    throw new FlotillaError('not-found', `There is no ${what}`, { hint: 'It may just have been deleted.' });
  }

  /** Everything of a kind, at one revision. */
  async list<S extends z.ZodType>(kind: RecordKind<S>): Promise<Records<z.output<S>>> {
    const { entries, revision } = await this.ledger.list(kind.prefix);
    const items: Stored<z.output<S>>[] = [];
    const unreadable: Unreadable[] = [];
    for (const entry of entries) {
      // Kinds share prefixes (`vm/<id>/spec`, `vm/<id>/own`): the other kind's keys are not ours to judge.
      const id = kind.idOf(entry.key);
      if (id === null) continue;
      try {
        items.push(stored(kind, id, entry));
      } catch (error) {
        if (!(error instanceof FlotillaError)) throw error;
        unreadable.push({ key: entry.key, modRevision: entry.modRevision, error });
      }
    }
    return { items, unreadable, revision };
  }

  /**
   * One transaction that also compares the epoch.
   *
   * @throws FlotillaError `stale-generation`: the ledger was restored since this program started
   */
  async txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult> {
    if (this.epoch === null) return this.ledger.txn(compare, writes);
    const r = await this.ledger.txn([{ key: epochKey, value: String(this.epoch) }, ...compare], writes);
    if (!r.done) await this.#checkEpoch(this.epoch);
    return r;
  }

  /**
   * Changes one record by compare-and-swap, again with a fresh read when somebody was faster. A transaction whose
   * outcome is unknown is not repeated: that error goes to the caller.
   *
   * @param fn - gets the record, null when there is none; returns the new one, or null to leave all as it is. It
   *   may run several times.
   * @returns the record as it is now; null when `fn` left an absent one absent
   * @throws FlotillaError `edit-conflict`: lost {@link changeTriesMax} races
   */
  async change<S extends z.ZodType>(
    kind: RecordKind<S>,
    id: string,
    fn: (old: z.output<S> | null) => z.output<S> | null,
    o: { also?: readonly Compare[]; writes?: readonly Write[] } = {},
  ): Promise<Stored<z.output<S>> | null> {
    const key = kind.key(id);
    for (let i = 0; i < changeTriesMax; i++) {
      const old = await this.read(kind, id);
      const value = fn(old?.value ?? null);
      if (value === null) return old;
      const compare: Compare[] = [{ key, modRevision: old?.modRevision ?? 0n }, ...(o.also ?? [])];
      const write = putRecord(kind, id, value);
      const r = await this.txn(compare, [write, ...(o.writes ?? [])]);
      if (r.done) {
        return { id, key, value, createRevision: old?.createRevision ?? r.revision, modRevision: r.revision };
      }
    }
    throw new FlotillaError(
      'edit-conflict',
      `${key} was changed by others ${changeTriesMax} times in a row`,
      {
        hint: 'Try again; if it stays so, two programs are fighting over it.',
      },
    );
  }

  async #checkEpoch(epoch: number): Promise<void> {
    const now = await this.ledger.get(epochKey);
    if (now?.value === String(epoch)) return;
    throw new FlotillaError(
      'stale-generation',
      `The ledger is of epoch ${now?.value ?? 'none'}, this program of epoch ${epoch}`,
      { hint: 'The ledger was restored from a snapshot. Restart this program; it reads everything anew.' },
    );
  }
}

function stored<S extends z.ZodType>(kind: RecordKind<S>, id: string, e: LedgerEntry): Stored<z.output<S>> {
  const { key, createRevision, modRevision } = e;
  return { id, key, value: readRecord(kind, key, e.value), createRevision, modRevision };
}
