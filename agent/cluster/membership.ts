import { errorRecord } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import type { Clock, Log } from '../env.js';
import type { TlsMaterial } from '../pki/tls.js';
import { request } from './join.js';
import { membershipSchema } from './join-wire.js';

/** The ledger must have been silent for so long before others are asked about it, ms. */
const silentMs = 15_000;
/** They are asked again so often, ms. */
const againMs = 30_000;
const answerMs = 5_000;

/** What a node is told that was removed: by the ledger while it could still read it, or by its former peers. */
export const removedText = (sinceMs: number | null): string =>
  `this node was removed from the cluster${sinceMs === null ? '' : ` on ${new Date(sinceMs).toISOString().slice(0, 16).replace('T', ' ')} UTC`}: ` +
  'it does not come back by itself. Switch it off, or make it a new machine';

export interface MembershipDeps {
  readonly peers: () => readonly string[];
  readonly port: number;
  readonly tls: () => TlsMaterial;
  /** The CA may have been replaced while this node was off. Does nothing where it was not; never rejects. */
  readonly catchUp: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Why nobody lets this node in: a removed node's certificate is revoked, so it cannot read in the ledger that it was
 * removed. The answer only makes a sentence on its console and page; nothing is done on it.
 */
export class Membership {
  readonly #d: MembershipDeps;
  #askedMs = -Infinity;
  #removed: { readonly sinceMs: number | null } | null = null;

  constructor(d: MembershipDeps) {
    this.#d = d;
  }

  /** Null: nobody said that it was removed. */
  get text(): string | null {
    return this.#removed === null ? null : removedText(this.#removed.sinceMs);
  }

  /** @param silenceMs - since the ledger last answered */
  look(silenceMs: number): void {
    const { clock } = this.#d;
    if (silenceMs < silentMs) {
      this.#removed = null;
      return;
    }
    if (clock.nowMs() - this.#askedMs < againMs) return;
    this.#askedMs = clock.nowMs();
    void this.#ask();
  }

  async #ask(): Promise<void> {
    const { peers, port, tls, log } = this.#d;
    await this.#d.catchUp();
    for (const address of peers()) {
      try {
        const o = {
          address,
          port,
          path: '/membership',
          method: 'GET',
          tls: tls(),
          timeoutMs: answerMs,
        } as const;
        const answer = parse(membershipSchema, await request(o), `the answer of ${address}`);
        if (answer.state === 'unknown') continue;
        const was = this.#removed;
        this.#removed = answer.state === 'removed' ? { sinceMs: answer.sinceMs } : null;
        if (was === null && this.#removed !== null) log.error(removedText(answer.sinceMs), { said: address });
        return;
      } catch (error) {
        if (errorRecord(error).code !== 'node-unreachable') return;
      }
    }
  }
}
