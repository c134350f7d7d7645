import { errorRecord } from '../../core/domain/error.js';
import type { TimingProfile } from '../../core/domain/timing.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Clock, Log } from '../env.js';
import type { Compare, Ledger } from './ledger.js';
import { absent, putRecord, type RecordStore } from './records.js';

export interface LiveLeaseDeps {
  /** With a deadline of `timing.renewDeadlineMs` per call. */
  readonly ledger: Ledger;
  readonly store: Pick<RecordStore, 'txn'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly node: string;
  /** Random, new at each start of the agent. */
  readonly boot: string;
  readonly version: string;
  readonly timing: TimingProfile;
}

/** This node's life in the ledger: the revision at which its live key was created. */
export interface Incarnation {
  readonly createRevision: bigint;
}

/**
 * Keeps `/flotilla/live/<node>` bound to a lease while this agent runs.
 *
 * A renewal is a keepalive *plus* a linearizable read of the own key, dated at sending: a deposed leader still
 * answers keepalives (measured). A start of the agent gets its own lease and its own key; one that a former start
 * left is removed, never taken over.
 */
export class LiveLease {
  readonly #d: LiveLeaseDeps;
  readonly #stop = new AbortController();
  readonly #key: string;
  #lease: string | null = null;
  #incarnation: Incarnation | null = null;
  #goodMs = -Infinity;
  #running: Promise<void> | null = null;
  #failure: string | null = null;
  readonly #listeners = new Set<() => void>();

  constructor(d: LiveLeaseDeps) {
    this.#d = d;
    this.#key = kinds.live.key(d.node);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends renewing; gives the lease back where the ledger answers, so that the others know at once. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopped'));
    await this.#running;
    const lease = this.#lease;
    this.#lose();
    if (lease !== null) await this.#d.ledger.revokeLease(lease).catch(() => undefined);
  }

  /** This node's incarnation, or null while the last good renewal is too old to count: then nothing may be started. */
  mine(): Incarnation | null {
    return this.#ageMs() < this.#d.timing.renewalGoodMs ? this.#incarnation : null;
  }

  /** {@link mine} as the compare that every transaction about ownership carries; null: do not even try. */
  compare(): Compare | null {
    const mine = this.mine();
    return mine === null ? null : { key: this.#key, createRevision: mine.createRevision };
  }

  /** The lease to bind what must end with this node to; null while it has none. */
  lease(): string | null {
    return this.#lease;
  }

  /** Age of the last good renewal, for pages; null: none yet. */
  renewalAgeMs(): number | null {
    const age = this.#ageMs();
    return age === Infinity ? null : age;
  }

  /** Why the last renewal failed; null: it did not. */
  failure(): string | null {
    return this.#failure;
  }

  /** Called when the incarnation was gained or lost. @returns a function that ends it */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #ageMs(): number {
    return this.#d.clock.nowMs() - this.#goodMs;
  }

  async #run(): Promise<void> {
    const { clock, timing } = this.#d;
    const signal = this.#stop.signal;
    while (!signal.aborted) {
      const sentMs = clock.nowMs();
      await this.#step(sentMs);
      const restMs = Math.max(0, sentMs + timing.renewEveryMs - clock.nowMs());
      // Never in a tight loop, even when every call takes its whole deadline.
      await clock.sleep(Math.max(restMs, 20), signal).catch(() => undefined);
    }
  }

  async #step(sentMs: number): Promise<void> {
    try {
      const good = this.#lease === null ? await this.#acquire() : await this.#renew(this.#lease);
      if (good) {
        this.#goodMs = sentMs;
        this.#failure = null;
      }
    } catch (error) {
      const { message, causes } = errorRecord(error);
      if (this.#failure === null) this.#d.log.warn('the lease could not be renewed', { message, causes });
      this.#failure = message;
    }
  }

  /** @returns true when the key is ours by a linearizable read */
  async #renew(lease: string): Promise<boolean> {
    const { ledger } = this.#d;
    const ttlS = await ledger.keepAlive(lease);
    const entry = await ledger.get(this.#key);
    const ours = entry?.lease === lease && entry.createRevision === this.#incarnation?.createRevision;
    if (ttlS > 0 && ours) return true;
    this.#d.log.warn('the lease is lost', {
      node: this.#d.node,
      ttlS,
      key: entry === null ? 'gone' : 'not ours',
    });
    this.#failure = 'the lease was lost';
    this.#lose();
    return false;
  }

  async #acquire(): Promise<boolean> {
    const { ledger, store, node, boot, version, timing } = this.#d;
    const old = await ledger.get(this.#key);
    if (old !== null) {
      // Of a former start of this agent, or of our own transaction whose answer was lost.
      await store.txn([{ key: this.#key, modRevision: old.modRevision }], [{ del: this.#key }]);
    }
    const lease = await ledger.grantLease(timing.leaseTtlS);
    const r = await store.txn(
      [absent(this.#key)],
      [putRecord(kinds.live, node, { node, boot, version }, lease)],
    );
    if (!r.done) {
      await ledger.revokeLease(lease).catch(() => undefined);
      return false;
    }
    this.#lease = lease;
    this.#incarnation = { createRevision: r.revision };
    this.#changed();
    return true;
  }

  #lose(): void {
    const had = this.#incarnation !== null;
    this.#lease = null;
    this.#incarnation = null;
    this.#goodMs = -Infinity;
    if (had) this.#changed();
  }

  #changed(): void {
    for (const l of [...this.#listeners]) l();
  }
}
