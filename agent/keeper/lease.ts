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
 * removed, never taken over.
 */
export class Lease {
  readonly #env: KeeperEnv;
  readonly #boot: string;
  /** The last renewal got all its answers. If not, the next one asks something that prolongs nothing first. */
  #answered = true;
  readonly #keys: readonly string[];
  #lease: string | null;
  #createRevision: bigint | null;
  #epoch: number | null = null;
  #unsafe = false;

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

  /** Renews, or gets a lease where there is none. Never throws. */
  async renew(): Promise<Renewal> {
    try {
      this.#epoch ??= await this.#env.store.admittedEpoch();
      // Where questions arrive and answers do not, keepalives would hold the lease of a frozen node for ever.
      if (!this.#answered) await this.#read();
      this.#answered = true;
      return this.#lease === null ? await this.#acquire() : await this.#keep(this.#lease);
    } catch (error) {
      this.#answered = false;
      const { message, causes } = errorRecord(error);
      return { is: 'unknown', why: [message, ...causes].join(': ') };
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
    // Of a former boot, or of our own transaction whose answer was lost.
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

  #lost(why: string): Renewal {
    this.#lose();
    return { is: 'lost', why };
  }

  #lose(): void {
    this.#lease = null;
    this.#createRevision = null;
  }
}
