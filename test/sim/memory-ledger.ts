import { FlotillaError } from '../../core/domain/error.js';
import { epochKey, ledger as kinds, metaKey, metaSchema, writeRecord } from '../../core/wire/ledger-keys.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import type { NodeRecord } from '../../core/domain/node.js';
import type { Clock } from '../../agent/env.js';
import {
  checkTxn,
  type Compare,
  type Ledger,
  type LedgerEntry,
  type Listing,
  type TxnResult,
  type Write,
} from '../../agent/ledger/ledger.js';

interface Lease {
  readonly id: string;
  readonly ttlMs: number;
  endsMs: number;
  readonly keys: Set<string>;
  /** Ends what waits for its end. */
  readonly over: AbortController;
}

/** What goes wrong with a call of one client. `unknown`: it is done, and the answer is lost. */
export type Fault = 'refused' | 'unknown' | 'unknown-not-done' | 'full';

/** One change, for checkers that want the history. */
export interface Change {
  readonly revision: bigint;
  readonly key: string;
  /** null: deleted. */
  readonly value: string | null;
  readonly by: string;
}

/**
 * The ledger's voters in memory, on the given clock: revisions, leases and watches like etcd's, and a client per
 * node whose connection can be cut. One transaction is one step: nothing happens in its middle.
 */
export class MemoryLedger {
  readonly #clock: Clock;
  readonly #entries = new Map<string, LedgerEntry>();
  readonly #leases = new Map<string, Lease>();
  readonly #watches = new Set<{ prefix: string; ring: () => void }>();
  #revision = 1n;
  #nextLease = 1000n;
  /** Every change since the start, oldest first. */
  readonly history: Change[] = [];
  /** False: no quorum. Calls of every client time out, leases do not end (their clock stands still without a leader). */
  quorum = true;

  /** Told of each transaction that was done. */
  onTxn: (by: string, compare: readonly Compare[], writes: readonly Write[]) => void = () => undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  client(name: string): MemoryClient {
    return new MemoryClient(this, this.#clock, name);
  }

  get revision(): bigint {
    return this.#revision;
  }

  /** For checkers: what is there now, without a call. */
  peek(key: string): LedgerEntry | null {
    this.expire();
    return this.#entries.get(key) ?? null;
  }

  peekAll(prefix: string): LedgerEntry[] {
    this.expire();
    const below = [...this.#entries.values()].filter((e) => e.key.startsWith(prefix));
    return below.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  /** For tests that put broken records there: writes past every rule. */
  poke(key: string, value: string | null): void {
    this.#apply([value === null ? { del: key } : { put: key, value }], 'poke');
  }

  /** Takes a key away past every rule. */
  drop(key: string): void {
    this.#apply([{ del: key }], 'drop');
  }

  /** Writes what founding writes, so that a test starts with a cluster of these nodes. */
  found(meta: ClusterMeta, nodes: readonly NodeRecord[]): void {
    this.#apply(
      [
        { put: metaKey, value: writeRecord({ schema: metaSchema }, meta) },
        { put: epochKey, value: String(meta.epoch) },
        ...nodes.map((n) => ({ put: kinds.node.key(n.id), value: writeRecord(kinds.node, n) })),
      ],
      'found',
    );
  }

  /** Ends a lease at once, as an early expiry would (a known fault of etcd 3.4). */
  expireNow(lease: string): void {
    const l = this.#leases.get(lease);
    if (l) this.#endLease(l);
  }

  /** A new leader gives every lease its whole time again. @see etcd issue 9395 */
  prolong(): void {
    for (const l of this.#leases.values()) l.endsMs = this.#clock.nowMs() + l.ttlMs;
  }

  leases(): readonly string[] {
    return [...this.#leases.keys()];
  }

  /** Stops timers of leases. */
  close(): void {
    for (const l of this.#leases.values()) l.over.abort();
  }

  /** Ends leases that are due. Called before every step, and by the clock. */
  expire(): void {
    if (!this.quorum) return;
    const now = this.#clock.nowMs();
    for (const lease of [...this.#leases.values()]) if (lease.endsMs <= now) this.#endLease(lease);
  }

  /** @internal */
  txn(compare: readonly Compare[], writes: readonly Write[], by: string): TxnResult {
    this.expire();
    const holds = compare.every((c) => {
      const e = this.#entries.get(c.key);
      if ('modRevision' in c) return (e?.modRevision ?? 0n) === c.modRevision;
      if ('createRevision' in c) return (e?.createRevision ?? 0n) === c.createRevision;
      return e !== undefined && e.value === c.value;
    });
    if (!holds) return { done: false, revision: this.#revision };
    for (const w of writes) {
      if ('put' in w && w.lease !== undefined && w.lease !== '0' && !this.#leases.has(w.lease)) {
        throw new FlotillaError('not-found', 'The ledger refused a transaction', {
          hint: 'It is gone: read again and start anew.',
          details: { outcome: 'refused' },
          cause: new Error('requested lease not found'),
        });
      }
    }
    this.#apply(writes, by);
    this.onTxn(by, compare, writes);
    return { done: true, revision: this.#revision };
  }

  /** @internal */
  grant(ttlS: number): string {
    const lease: Lease = {
      id: String(this.#nextLease++),
      ttlMs: ttlS * 1000,
      endsMs: this.#clock.nowMs() + ttlS * 1000,
      keys: new Set(),
      over: new AbortController(),
    };
    this.#leases.set(lease.id, lease);
    void this.#waitFor(lease);
    return lease.id;
  }

  /** @internal */
  keepAlive(id: string): number {
    this.expire();
    const lease = this.#leases.get(id);
    if (lease === undefined) return 0;
    lease.endsMs = this.#clock.nowMs() + lease.ttlMs;
    return lease.ttlMs / 1000;
  }

  /** @internal */
  revoke(id: string): void {
    const lease = this.#leases.get(id);
    if (lease) this.#endLease(lease);
  }

  /** @internal */
  addWatch(prefix: string, ring: () => void): () => void {
    const w = { prefix, ring };
    this.#watches.add(w);
    return () => void this.#watches.delete(w);
  }

  async #waitFor(lease: Lease): Promise<void> {
    const { signal } = lease.over;
    while (!signal.aborted) {
      // Without a leader no lease ends; looked at again now and then.
      const left = this.quorum ? Math.max(1, lease.endsMs - this.#clock.nowMs()) : 200;
      await this.#clock.sleep(left, signal).catch(() => undefined);
      if (!signal.aborted) this.expire();
    }
  }

  #endLease(lease: Lease): void {
    this.#leases.delete(lease.id);
    lease.over.abort();
    const writes = [...lease.keys]
      .filter((k) => this.#entries.get(k)?.lease === lease.id)
      .map((del) => ({ del }));
    this.#apply(writes, `lease ${lease.id}`);
  }

  #apply(writes: readonly Write[], by: string): void {
    const revision = this.#revision + 1n;
    const changed: string[] = [];
    const remove = (key: string) => {
      const e = this.#entries.get(key);
      if (e === undefined) return;
      this.#entries.delete(key);
      this.#leases.get(e.lease)?.keys.delete(key);
      this.history.push({ revision, key, value: null, by });
      changed.push(key);
    };
    for (const w of writes) {
      if ('del' in w) remove(w.del);
      else if ('delPrefix' in w) {
        for (const key of [...this.#entries.keys()].filter((k) => k.startsWith(w.delPrefix)).sort())
          remove(key);
      } else {
        const old = this.#entries.get(w.put);
        if (old) this.#leases.get(old.lease)?.keys.delete(w.put);
        const lease = w.lease ?? '0';
        this.#entries.set(w.put, {
          key: w.put,
          value: w.value,
          createRevision: old?.createRevision ?? revision,
          modRevision: revision,
          lease,
        });
        this.#leases.get(lease)?.keys.add(w.put);
        this.history.push({ revision, key: w.put, value: w.value, by });
        changed.push(w.put);
      }
    }
    if (changed.length === 0) return;
    this.#revision = revision;
    for (const w of [...this.#watches]) if (changed.some((k) => k.startsWith(w.prefix))) w.ring();
  }
}

/**
 * One program's connection to a {@link MemoryLedger}, with the faults a network and a cluster have.
 */
export class MemoryClient implements Ledger {
  readonly name: string;
  readonly #store: MemoryLedger;
  readonly #clock: Clock;
  readonly #stops = new Set<() => void>();
  readonly #bells = new Set<() => void>();
  readonly #faults: { fault: Fault; only: 'txn' | 'any' }[] = [];
  #cut = false;
  #closed = false;
  /** Each call takes this long on the clock, both ways together. */
  delayMs = 0;
  /** How long a call without an answer takes, as the real client's deadline. */
  deadlineMs = 2_000;
  /** Calls made, for tests that count. */
  calls = 0;

  constructor(store: MemoryLedger, clock: Clock, name: string) {
    this.#store = store;
    this.#clock = clock;
    this.name = name;
  }

  /** The next calls go wrong in this way, one each. */
  failNext(fault: Fault, o: { times?: number; only?: 'txn' | 'any' } = {}): void {
    for (let i = 0; i < (o.times ?? 1); i++) this.#faults.push({ fault, only: o.only ?? 'any' });
  }

  /** Cuts this client off; its watches hear nothing. Mending rings every bell, as a reconnection does. */
  set partitioned(cut: boolean) {
    const mended = this.#cut && !cut;
    this.#cut = cut;
    if (mended) for (const ring of [...this.#bells]) this.#ring(ring);
  }

  get partitioned(): boolean {
    return this.#cut;
  }

  get(key: string): Promise<LedgerEntry | null> {
    return this.#call(() => this.#store.peek(key));
  }

  list(prefix: string): Promise<Listing> {
    return this.#call(() => ({ entries: this.#store.peekAll(prefix), revision: this.#store.revision }));
  }

  async txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult> {
    checkTxn(compare, writes);
    return this.#call(() => this.#store.txn(compare, writes, this.name), true);
  }

  watch(prefix: string, wake: () => void): () => void {
    const ring = () => {
      if (!this.#cut) this.#ring(wake);
    };
    const stop = this.#store.addWatch(prefix, ring);
    this.#bells.add(wake);
    // The first connection rings too, as the real one does.
    ring();
    const end = () => {
      stop();
      this.#bells.delete(wake);
      this.#stops.delete(end);
    };
    this.#stops.add(end);
    return end;
  }

  grantLease(ttlS: number): Promise<string> {
    return this.#call(() => this.#store.grant(ttlS));
  }

  keepAlive(lease: string): Promise<number> {
    return this.#call(() => this.#store.keepAlive(lease));
  }

  async revokeLease(lease: string): Promise<void> {
    await this.#call(() => this.#store.revoke(lease));
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const stop of [...this.#stops]) stop();
  }

  /** A bell rings in a later turn, as everything that comes over a network. */
  #ring(wake: () => void): void {
    queueMicrotask(() => {
      if (!this.#closed) wake();
    });
  }

  async #call<T>(act: () => T, isTxn = false): Promise<T> {
    this.calls++;
    if (this.#closed) throw unavailable('not-sent');
    if (this.delayMs > 0) await this.#clock.sleep(this.delayMs / 2);
    // Even the quickest answer comes in a later turn.
    await Promise.resolve();
    if (this.#cut || !this.#store.quorum) {
      await this.#clock.sleep(this.deadlineMs);
      throw unavailable(isTxn ? 'unknown' : 'not-sent');
    }
    const i = this.#faults.findIndex((f) => isTxn || f.only === 'any');
    const fault = i < 0 ? undefined : this.#faults.splice(i, 1)[0]?.fault;
    if (fault === 'refused') throw unavailable('refused');
    if (fault === 'full') {
      throw new FlotillaError('ledger-full', 'The ledger is full: etcd takes no more writes', {
        hint: 'Remove what is not needed.',
        details: { outcome: 'refused' },
      });
    }
    if (fault === 'unknown-not-done') throw unavailable('unknown');
    const result = act();
    if (fault === 'unknown') throw unavailable('unknown');
    if (this.delayMs > 0) await this.#clock.sleep(this.delayMs / 2);
    return result;
  }
}

function unavailable(outcome: 'refused' | 'unknown' | 'not-sent'): FlotillaError {
  return new FlotillaError('ledger-unavailable', 'The ledger did not answer (memory)', {
    hint: 'The test cut it off.',
    details: { outcome },
  });
}
