import { FlotillaError } from '../../core/domain/error.js';

/**
 * The ledger as the rest of the agent and the controller see it: a linearizable map of strings with
 * transactions, leases and wake-ups. Production speaks to etcd; tests use an in-memory one.
 * Every call has a deadline and throws FlotillaError `ledger-unavailable` when it passes;
 * an error is never an absence.
 */
export interface LedgerEntry {
  readonly key: string;
  readonly value: string;
  /** Revision of the ledger at its creation: for a live key, the node's incarnation. */
  readonly createRevision: bigint;
  /** Revision of its last change: what a compare-and-swap compares. */
  readonly modRevision: bigint;
  /** Lease it is bound to; `0` none. */
  readonly lease: string;
}

/** `modRevision: 0n` or `createRevision: 0n` mean "does not exist". */
export type Compare =
  | { readonly key: string; readonly modRevision: bigint }
  | { readonly key: string; readonly createRevision: bigint }
  | { readonly key: string; readonly value: string };

export type Write =
  | { readonly put: string; readonly value: string; readonly lease?: string }
  | { readonly del: string }
  | { readonly delPrefix: string };

export interface TxnResult {
  /** True: all compares held and all writes were done, at `revision`. False: nothing was written. */
  readonly done: boolean;
  readonly revision: bigint;
}

export interface Listing {
  readonly entries: readonly LedgerEntry[];
  readonly revision: bigint;
}

export interface Ledger {
  /** Linearizable read. */
  get(key: string): Promise<LedgerEntry | null>;
  /** Linearizable read of all keys below a prefix, by key. */
  list(prefix: string): Promise<Listing>;
  /** All compares, then all writes, in one step or not at all. At most 128 of each. */
  txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult>;
  /**
   * Calls `wake` after something below the prefix changed (perhaps often, perhaps late, perhaps for nothing) and
   * after each reconnection. A watch is a bell: the caller re-reads, since a watch never proves freshness.
   *
   * @returns a function that ends it
   */
  watch(prefix: string, wake: () => void): () => void;
  /** @returns the lease's id */
  grantLease(ttlS: number): Promise<string>;
  /** @returns seconds left; 0: the lease is gone */
  keepAlive(lease: string): Promise<number>;
  revokeLease(lease: string): Promise<void>;
  close(): Promise<void>;
}

/** Most compares, and most writes, of one transaction: etcd's `max-txn-ops` by default. */
export const txnOpsMax = 128;

/** First key behind a prefix. Prefixes of ours are ASCII and end with `/`, so the last byte has a successor. */
export function prefixEnd(prefix: string): string {
  const last = prefix.charCodeAt(prefix.length - 1);
  if (prefix === '' || last >= 0x7e) throw new RangeError(`"${prefix}" is not a prefix of ledger keys`);
  return prefix.slice(0, -1) + String.fromCharCode(last + 1);
}

/**
 * Refuses what etcd would refuse, so that every implementation does alike.
 *
 * @throws FlotillaError `bad-input`: more than {@link txnOpsMax}, or a key written twice
 */
export function checkTxn(compare: readonly Compare[], writes: readonly Write[]): void {
  const refuse = (fault: string): never => {
    throw new FlotillaError('bad-input', `The ledger refused a transaction: ${fault}`, {
      hint: 'Nothing was changed. Split the work, or write each key once.',
      details: { outcome: 'refused' },
    });
  };
  if (compare.length > txnOpsMax || writes.length > txnOpsMax)
    refuse(`more than ${txnOpsMax} compares or writes`);
  const puts = new Set<string>();
  for (const w of writes) {
    if (!('put' in w)) continue;
    if (puts.has(w.put)) refuse(`${w.put} is put twice`);
    puts.add(w.put);
  }
  for (const w of writes) {
    for (const put of puts) {
      if ('del' in w ? w.del === put : 'delPrefix' in w && put.startsWith(w.delPrefix)) {
        refuse(`${put} is put and deleted`);
      }
    }
  }
}
