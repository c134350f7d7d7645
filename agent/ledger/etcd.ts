import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import type { TlsMaterial } from '../pki/tls.js';
import { b64, txnJson } from './etcd-json.js';
import { AttemptError, Gateway, type CallOptions, type GatewayOptions } from './gateway.js';
import type { Compare, Ledger, LedgerEntry, Listing, TxnResult, Write } from './ledger.js';
import { checkTxn, prefixEnd } from './ledger.js';
import { Watcher } from './watch.js';

/** Keys per page of a listing: at 64 kB each a page stays below 45 MB of JSON, 5,000 small ones are ten pages. */
export const pageKeys = 500;

/** A listing whose revision was compacted under it starts again, at most so often: compaction is hourly. */
const listTries = 3;

/** How long a page may go on coming once it has begun, ms: it can be 43 MB. */
const pageBodyMs = 10_000;

const int64 = z.string().regex(/^-?\d{1,20}$/);
const headerSchema = z.object({ revision: int64.default('0') });
const kvSchema = z.object({
  key: z.string(),
  value: z.string().default(''),
  create_revision: int64,
  mod_revision: int64,
  lease: int64.default('0'),
});
const rangeSchema = z.object({
  header: headerSchema,
  kvs: z.array(kvSchema).default([]),
  more: z.boolean().default(false),
});
const txnSchema = z.object({ header: headerSchema, succeeded: z.boolean().default(false) });
const grantSchema = z.object({ ID: int64, TTL: int64 });
const keepAliveSchema = z.object({ result: z.object({ ID: int64, TTL: int64.default('0') }) });

const text = (s: string): string => Buffer.from(s, 'base64').toString('utf8');

/**
 * Checks an answer of etcd. One we cannot read is an error like no answer: never an absence.
 *
 * @throws FlotillaError `ledger-unavailable`
 */
export function readAnswer<S extends z.ZodType>(schema: S, answer: unknown, what: string): z.output<S> {
  const r = schema.safeParse(answer);
  if (r.success) return r.data;
  throw new FlotillaError('ledger-unavailable', `The ledger's answer to ${what} cannot be read`, {
    hint: 'Is this etcd 3.4 or 3.5? Another program may listen at its address.',
    details: { outcome: 'unknown' },
    cause: r.error,
  });
}

/** etcd judged the request and said no: says so in our words. */
export function judged(error: unknown, what: string): Error {
  if (!(error instanceof AttemptError)) return error as Error;
  const notFound = error.grpcCode === 5;
  return new FlotillaError(notFound ? 'not-found' : 'bad-input', `The ledger refused ${what}`, {
    hint: notFound
      ? 'It is gone: read again and start anew.'
      : 'Nothing was changed. The cause names the fault.',
    details: { outcome: 'refused' },
    cause: error,
  });
}

function entry(kv: z.output<typeof kvSchema>): LedgerEntry {
  return {
    key: text(kv.key),
    value: text(kv.value),
    createRevision: BigInt(kv.create_revision),
    modRevision: BigInt(kv.mod_revision),
    lease: kv.lease,
  };
}

/**
 * A call that failed as all who are there were late gives the next ones twice the time, four times at most; each that succeeds
 * takes a tenth of it back. What is given up in its handshake, or for a late answer, costs the next call a new handshake: a
 * node with too little CPU did nothing else, and never got one to its end.
 */
const patience = { max: 4, more: 2, less: 0.9 } as const;

/**
 * The ledger on etcd 3.4 or 3.5, through its JSON gateway.
 *
 * A read is tried at every endpoint within its deadline. A transaction goes to another endpoint only while it is
 * certain that no member saw it; otherwise it ends as `ledger-unavailable` with details `{outcome: 'unknown'}`,
 * and the caller looks before asking again.
 */
export class EtcdLedger implements Ledger {
  readonly gateway: Gateway;
  readonly #watcher: Watcher;
  #patience = 1;

  constructor(o: GatewayOptions) {
    this.gateway = new Gateway(o);
    this.#watcher = new Watcher(this.gateway);
  }

  setEndpoints(endpoints: readonly string[]): void {
    this.gateway.setEndpoints(endpoints);
  }

  setTls(tls: TlsMaterial): void {
    this.gateway.setTls(tls);
  }

  async get(key: string): Promise<LedgerEntry | null> {
    const { kvs } = await this.#range({ key: b64(key) }, `reading ${key}`);
    return kvs[0] ? entry(kvs[0]) : null;
  }

  async list(prefix: string): Promise<Listing> {
    for (let i = 1; ; i++) {
      try {
        return await this.#listOnce(prefix);
      } catch (error) {
        const compacted = error instanceof AttemptError && error.grpcCode === 11;
        if (!compacted || i === listTries) throw judged(error, `listing ${prefix}`);
      }
    }
  }

  async #listOnce(prefix: string): Promise<Listing> {
    const range_end = b64(prefixEnd(prefix));
    const entries: LedgerEntry[] = [];
    let from = b64(prefix);
    // All pages are read at the revision of the first: one moment, not several.
    let revision: string | undefined;
    for (;;) {
      const page = readAnswer(
        rangeSchema,
        await this.#call(
          '/v3/kv/range',
          { key: from, range_end, limit: String(pageKeys), ...(revision === undefined ? {} : { revision }) },
          { kind: 'read', bodyMs: pageBodyMs },
        ),
        `listing ${prefix}`,
      );
      revision ??= page.header.revision;
      for (const kv of page.kvs) entries.push(entry(kv));
      const last = page.kvs.at(-1);
      if (!page.more || last === undefined) return { entries, revision: BigInt(revision) };
      from = Buffer.concat([Buffer.from(last.key, 'base64'), Buffer.from([0])]).toString('base64');
    }
  }

  async #range(body: Record<string, string>, what: string) {
    try {
      return readAnswer(rangeSchema, await this.#call('/v3/kv/range', body, { kind: 'read' }), what);
    } catch (error) {
      throw judged(error, what);
    }
  }

  async txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult> {
    checkTxn(compare, writes);
    const body = txnJson(compare, writes);
    try {
      const r = readAnswer(
        txnSchema,
        await this.#call('/v3/kv/txn', body, { kind: 'write' }),
        'a transaction',
      );
      return { done: r.succeeded, revision: BigInt(r.header.revision) };
    } catch (error) {
      throw judged(error, 'a transaction');
    }
  }

  watch(prefix: string, wake: () => void): () => void {
    return this.#watcher.watch(prefix, wake);
  }

  /** Granting twice by a repeated call leaves a lease that nobody renews: it ends by itself. */
  async grantLease(ttlS: number): Promise<string> {
    try {
      const answer = await this.#call('/v3/lease/grant', { TTL: String(ttlS) }, { kind: 'read' });
      return readAnswer(grantSchema, answer, 'granting a lease').ID;
    } catch (error) {
      throw judged(error, 'a lease');
    }
  }

  async keepAlive(lease: string): Promise<number> {
    try {
      const answer = await this.#call('/v3/lease/keepalive', { ID: lease }, { kind: 'read' });
      return Number(readAnswer(keepAliveSchema, answer, 'renewing a lease').result.TTL);
    } catch (error) {
      if (error instanceof AttemptError && error.grpcCode === 5) return 0;
      throw judged(error, 'renewing a lease');
    }
  }

  async revokeLease(lease: string): Promise<void> {
    try {
      await this.#call('/v3/lease/revoke', { ID: lease }, { kind: 'read' });
    } catch (error) {
      if (error instanceof AttemptError && error.grpcCode === 5) return;
      throw judged(error, 'revoking a lease');
    }
  }

  /** Ends watches and connections. */
  async close(): Promise<void> {
    this.#watcher.close();
    this.gateway.close();
  }

  async #call(path: string, body: unknown, o: CallOptions): Promise<unknown> {
    const deadlineMs = this.gateway.deadlineMs * this.#patience;
    try {
      const answer = await this.gateway.call(path, body, { ...o, deadlineMs });
      this.#patience = Math.max(1, this.#patience * patience.less);
      return answer;
    } catch (e) {
      const late = e instanceof FlotillaError && e.cause instanceof AttemptError && e.cause.late;
      if (late) this.#patience = Math.min(patience.max, this.#patience * patience.more);
      throw e;
    }
  }
}
