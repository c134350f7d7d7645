import { errorRecord } from '../../core/domain/error.js';
import { unsafeAllowed } from '../../core/decide/keeper.js';
import { admittedKey, epochKey, fencedKey, liveKey, policyKey, seenKey } from '../../core/wire/key-names.js';
import type { Compare, LedgerEntry } from '../ledger/ledger.js';
import type { KeeperEnv } from './env.js';

/**
 * `good`: the live key was ours by a linearizable read sent after `sentMs`. `lost`: it is not. `unknown`: nobody
 * answered well, which says nothing.
 */
export type Renewal =
  | { readonly is: 'good'; readonly sentMs: number }
  | { readonly is: 'lost' | 'unknown'; readonly why: string };

/**
 * This node's life in the ledger: `live/<node>` bound to a lease.
 *
 * A renewal is a keepalive *plus* a linearizable read of the own key, dated at sending: a deposed leader still
 * answers keepalives (measured). Each boot of the machine gets a lease of its own; a key that another boot left is
 * waited for, never taken over.
 */
export class Lease {
  readonly #env: KeeperEnv;
  readonly #boot: string;
  /**
   * Readings in a row that must come promptly before anything is prolonged. Where questions arrive and answers do not,
   * or too late, keepalives would hold the lease of a frozen node for ever.
   */
  #trials = 0;
  #trialsMin = 1;
  readonly #keys: readonly string[];
  #lease: string | null;
  #createRevision: bigint | null;
  #epoch: number | null = null;
  #unsafe = false;
  /** The live key of another boot, and since when it is seen. */
  #other: { readonly created: bigint; readonly sinceMs: number } | null = null;

  constructor(env: KeeperEnv, boot: string, had: { lease: string | null; createRevision: bigint | null }) {
    this.#env = env;
    this.#boot = boot;
    this.#lease = had.createRevision === null ? null : had.lease;
    this.#createRevision = had.lease === null ? null : had.createRevision;
    this.#keys = [liveKey(env.node), epochKey, admittedKey(env.node), policyKey];
  }

  get lease(): string | null {
    return this.#lease;
  }

  get createRevision(): bigint | null {
    return this.#createRevision;
  }

  /** The epoch this node was admitted to; null while it is not known. */
  get epoch(): number | null {
    return this.#epoch;
  }

  /** Policy `unsafeWithoutWatchdog`, as last read. */
  get unsafeAllowed(): boolean {
    return this.#unsafe;
  }

  /** From now on so many trials, at least one, follow a renewal that failed; and as many come before the next one. */
  doubt(trials: number): void {
    this.#trialsMin = Math.max(trials, 1);
    this.#trials = Math.max(trials, this.#trials);
  }

  /**
   * Renews, or gets a lease where there is none. Never throws.
   *
   * @param youngMs - a renewal that is this old when it is answered does not count
   */
  async renew(youngMs: number): Promise<Renewal> {
    const { clock, store } = this.#env;
    try {
      this.#epoch ??= await store.admittedEpoch();
      if (this.#trials > 0) {
        await this.#try(youngMs);
        if (--this.#trials > 0)
          return { is: 'unknown', why: 'it froze just before, and the ledger is on trial' };
      }
      const r = this.#lease === null ? await this.#acquire() : await this.#keep(this.#lease);
      if (r.is === 'good') inTime(clock.nowMs() - r.sentMs, youngMs);
      return r;
    } catch (error) {
      this.#trials = this.#trialsMin;
      const { message, causes } = errorRecord(error);
      return { is: 'unknown', why: [message, ...causes].join(': ') };
    }
  }

  /** A renewal is two such answers. @throws Error where this one came too late */
  async #try(youngMs: number): Promise<void> {
    const { clock } = this.#env;
    for (let last = false; ; last = true) {
      const sentMs = clock.nowMs();
      await this.#read();
      const tookMs = clock.nowMs() - sentMs;
      // The first may have been sent before the network was whole again.
      if (tookMs < youngMs / 2 || last) return inTime(tookMs, youngMs / 2);
    }
  }

  /** Gives the lease back, so that the others know at once. */
  async release(): Promise<void> {
    const lease = this.#lease;
    this.#lose();
    if (lease !== null) await this.#env.ledger.revokeLease(lease).catch(() => undefined);
  }

  async #keep(lease: string): Promise<Renewal> {
    const sentMs = this.#env.clock.nowMs();
    if ((await this.#env.ledger.keepAlive(lease)) <= 0)
      return this.#lost('the ledger does not know the lease');
    const { live, stranger } = await this.#read();
    if (stranger !== null) return this.#lost(stranger);
    if (live?.lease !== lease || live.createRevision !== this.#createRevision) {
      return this.#lost(live === undefined ? 'the live key is gone' : 'the live key is not of this boot');
    }
    return { is: 'good', sentMs };
  }

  async #acquire(): Promise<Renewal> {
    const { ledger, node, version, timing, clock } = this.#env;
    const { live: old, stranger } = await this.#read();
    if (stranger !== null) return this.#lost(stranger);
    const epoch: Compare = { key: epochKey, value: String(this.#epoch) };
    const key = liveKey(node);
    // Of another boot: it ends with its lease, within seconds, where the machine has started anew. Where another machine
    // has this node's disk it does not end, and taking it away would have the two arm the same VMs in turn.
    if (old !== undefined && old.lease !== '0' && bootOf(old.value) !== this.#boot)
      return { is: 'unknown', why: this.#otherBoot(old) };
    // Of our own transaction whose answer was lost.
    if (old !== undefined) await ledger.txn([{ key, modRevision: old.modRevision }, epoch], [{ del: key }]);
    const sentMs = clock.nowMs();
    const lease = await ledger.grantLease(timing.leaseTtlS);
    const live = JSON.stringify({ node, boot: this.#boot, version });
    const r = await ledger.txn(
      [{ key, createRevision: 0n }, epoch],
      [
        { put: key, value: live, lease },
        { put: seenKey(node), value: JSON.stringify({ node, boot: this.#boot }) },
        { del: fencedKey(node) },
      ],
    );
    if (!r.done) {
      await ledger.revokeLease(lease).catch(() => undefined);
      return { is: 'unknown', why: 'another program makes the live key of this node' };
    }
    this.#lease = lease;
    this.#createRevision = r.revision;
    return { is: 'good', sentMs };
  }

  /** The own key and what else must be known, at one revision. `stranger`: why this ledger is not ours. */
  async #read(): Promise<{ live: LedgerEntry | undefined; stranger: string | null }> {
    const { ledger, node, store } = this.#env;
    const at = await ledger.read(this.#keys);
    this.#unsafe = unsafeAllowed(at.get(policyKey)?.value ?? null);
    const live = at.get(liveKey(node));
    const text = at.get(epochKey)?.value ?? '';
    const epoch = /^[1-9]\d{0,14}$/.test(text) ? Number(text) : null;
    if (epoch === null) return { live, stranger: 'the ledger has no epoch' };
    if (epoch !== this.#epoch) {
      const admitted = this.#epoch === null || at.get(admittedKey(node))?.value === text;
      if (!admitted) {
        const stranger = `the ledger is of epoch ${text}, this node was admitted to epoch ${this.#epoch}`;
        return { live, stranger };
      }
      await store.admitTo(epoch);
      this.#epoch = epoch;
    }
    return { live, stranger: null };
  }

  /** Another boot's live key: in words, how long it has been seen. */
  #otherBoot(old: LedgerEntry): string {
    const { clock, timing } = this.#env;
    if (this.#other?.created !== old.createRevision)
      this.#other = { created: old.createRevision, sinceMs: clock.nowMs() };
    if (clock.nowMs() - this.#other.sinceMs < 2_000 * timing.leaseTtlS)
      return 'the live key of the boot before has not ended yet';
    return 'another machine is alive as this node: one of the two has a copy of the other’s disk';
  }

  #lost(why: string): Renewal {
    this.#lose();
    return { is: 'lost', why };
  }

  #lose(): void {
    this.#lease = null;
    this.#createRevision = null;
  }
}

/** Null where it cannot be told. */
function bootOf(live: string): string | null {
  try {
    return String((JSON.parse(live) as { boot?: unknown }).boot);
  } catch {
    return null;
  }
}

function inTime(tookMs: number, limitMs: number): void {
  if (tookMs < limitMs) return;
  const s = (ms: number): string => (ms / 1000).toFixed(1);
  throw new Error(`the ledger takes ${s(tookMs)} s for an answer that must come within ${s(limitMs)} s`);
}
