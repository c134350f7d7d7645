import { FlotillaError } from '../../core/domain/error.js';
import type { TimingProfile } from '../../core/domain/timing.js';
import { b64, txnJson } from '../ledger/etcd-json.js';
import { AttemptError, Gateway } from '../ledger/gateway.js';
import type { Compare, LedgerEntry, TxnResult, Write } from '../ledger/ledger.js';
import type { TlsMaterial } from '../pki/tls.js';
import type { KeeperLedger } from './env.js';

/** An endpoint that has not answered within this share of the deadline gets company. Normal answers take 2 to 100 ms. */
const hedgeShare = 0.2;

const text = (s: unknown): string => Buffer.from(typeof s === 'string' ? s : '', 'base64').toString('utf8');

interface Endpoint {
  readonly url: string;
  readonly gateway: Gateway;
}

/**
 * The ledger on etcd, without any npm package. What may be asked twice goes to one endpoint, soon after to all, and
 * the first good answer counts; a transaction goes to another endpoint only while it is certain that none saw it.
 */
export class KeeperEtcd implements KeeperLedger {
  readonly #timing: Pick<TimingProfile, 'renewDeadlineMs'>;
  readonly #insecure: boolean;
  #endpoints: readonly Endpoint[] = [];
  #writer: Gateway | null = null;
  /** The endpoint that answered last. */
  #best = '';

  constructor(o: { timing: Pick<TimingProfile, 'renewDeadlineMs'>; insecureForTests?: boolean }) {
    this.#timing = o.timing;
    this.#insecure = o.insecureForTests === true;
  }

  /** Endpoints, the nearest first, and the certificate, as they are now. Calls under way end on the old ones. */
  set(urls: readonly string[], tls: TlsMaterial | null): void {
    const make = (endpoints: readonly string[]) =>
      new Gateway({
        endpoints,
        tls,
        deadlineMs: this.#timing.renewDeadlineMs,
        insecureForTests: this.#insecure,
      });
    const old = [...this.#endpoints.map((e) => e.gateway), this.#writer];
    this.#endpoints = urls.map((url) => ({ url, gateway: make([url]) }));
    this.#writer = urls.length === 0 ? null : make(urls);
    for (const g of old) g?.close();
  }

  close(): void {
    this.set([], null);
  }

  async read(keys: readonly string[]): Promise<ReadonlyMap<string, LedgerEntry>> {
    // A transaction that only reads is linearizable, and reads all keys at one revision.
    const success = keys.map((k) => ({ request_range: { key: b64(k) } }));
    const answer = await this.#ask('/v3/kv/txn', { success });
    const responses = object(answer)['responses'];
    if (!Array.isArray(responses) || responses.length !== keys.length) throw unreadable('a reading');
    const found = new Map<string, LedgerEntry>();
    for (const r of responses) {
      const kvs = object(object(r)['response_range'])['kvs'] ?? [];
      if (!Array.isArray(kvs)) throw unreadable('a reading');
      for (const kv of kvs) {
        const e = entry(object(kv));
        found.set(e.key, e);
      }
    }
    return found;
  }

  async keepAlive(lease: string): Promise<number> {
    try {
      const answer = await this.#ask('/v3/lease/keepalive', { ID: lease });
      const result = object(object(answer)['result']);
      if (result['ID'] !== lease) throw unreadable('renewing a lease');
      return Number(result['TTL'] ?? 0);
    } catch (error) {
      if (error instanceof AttemptError && error.grpcCode === 5) return 0;
      throw error;
    }
  }

  async grantLease(ttlS: number): Promise<string> {
    const id = object(await this.#write('/v3/lease/grant', { TTL: String(ttlS) }))['ID'];
    if (typeof id !== 'string') throw unreadable('granting a lease');
    return id;
  }

  async revokeLease(lease: string): Promise<void> {
    try {
      await this.#write('/v3/lease/revoke', { ID: lease });
    } catch (error) {
      if (!(error instanceof AttemptError && error.grpcCode === 5)) throw error;
    }
  }

  async txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult> {
    const body = txnJson(compare, writes);
    const answer = object(await this.#write('/v3/kv/txn', body));
    const revision = object(answer['header'])['revision'];
    if (typeof revision !== 'string') throw unreadable('a transaction');
    return { done: answer['succeeded'] === true, revision: BigInt(revision) };
  }

  async #write(path: string, body: unknown): Promise<unknown> {
    if (this.#writer === null) throw nobody([]);
    return this.#writer.call(path, body, { kind: 'write' });
  }

  /** The first good answer. A judgement of etcd ("no such lease") is one too. */
  async #ask(path: string, body: unknown): Promise<unknown> {
    const all = [...this.#endpoints].sort(
      (a, b) => Number(b.url === this.#best) - Number(a.url === this.#best),
    );
    if (all.length === 0) throw nobody([]);
    return new Promise((resolve, reject) => {
      const failures: Error[] = [];
      let next = 0;
      const ask = (): void => {
        const e = all[next++];
        if (e === undefined) return;
        e.gateway.call(path, body, { kind: 'read' }).then(
          (answer) => {
            clearTimeout(timer);
            this.#best = e.url;
            resolve(answer);
          },
          (error: unknown) => {
            failures.push(error instanceof Error ? error : new Error(String(error)));
            if (error instanceof AttemptError || failures.length === all.length) {
              clearTimeout(timer);
              reject(error instanceof AttemptError ? error : nobody(failures));
            } else ask();
          },
        );
      };
      const timer = setTimeout(() => {
        while (next < all.length) ask();
      }, this.#timing.renewDeadlineMs * hedgeShare);
      ask();
    });
  }
}

function entry(kv: Record<string, unknown>): LedgerEntry {
  const { create_revision: created, mod_revision: changed, lease } = kv;
  if (typeof created !== 'string' || typeof changed !== 'string') throw unreadable('a reading');
  return {
    key: text(kv['key']),
    value: text(kv['value']),
    createRevision: BigInt(created),
    modRevision: BigInt(changed),
    lease: typeof lease === 'string' ? lease : '0',
  };
}

/** Anything that is not an object has no fields: whoever needs one says that the answer cannot be read. */
const object = (v: unknown): Record<string, unknown> =>
  typeof v === 'object' && v !== null ? (v as Record<string, unknown>) : {};

/** An answer we cannot read is an error like no answer: never an absence. */
function unreadable(what: string): FlotillaError {
  return new FlotillaError('ledger-unavailable', `The ledger's answer to ${what} cannot be read`, {
    hint: 'Is this etcd 3.4 or 3.5? Another program may listen at its address.',
  });
}

function nobody(failures: readonly Error[]): FlotillaError {
  return new FlotillaError('ledger-unavailable', 'No voter of the ledger gave a good answer', {
    hint: 'Check that a majority of the voters runs and can be reached from here.',
    cause: failures.at(-1)?.cause ?? failures.at(-1),
  });
}
