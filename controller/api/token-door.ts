import type { Clock } from '../../agent/env.js';
import type { ApiToken, TokenAnswer } from '../../agent/http/auth.js';
import { secretMatches } from '../../agent/pki/tokens.js';
import type { View } from '../view.js';

/** A token nobody knows makes the ledger be read at most so often, ms. */
const lookAgainMs = 1_000;
const nobody = { sha256: '0'.repeat(64) };

/** Says whether an API token is good, by the ledger as last read: an old view still knows who may look at it. */
export class TokenDoor {
  private readonly view: View;
  private readonly clock: Clock;
  private lookedMs = -Infinity;

  constructor(view: View, clock: Clock) {
    this.view = view;
    this.clock = clock;
  }

  /** @throws FlotillaError `ledger-unavailable` where it was never read */
  async verify(token: ApiToken): Promise<TokenAnswer> {
    this.view.freshness();
    const { tables } = this.view.ledger;
    if (!tables.token.has(token.id) && this.clock.nowMs() - this.lookedMs > lookAgainMs) {
      // It may have been made on a node a moment ago.
      this.lookedMs = this.clock.nowMs();
      await this.view.ledger.refresh('token').catch(() => undefined);
    }
    const record = tables.token.get(token.id)?.value;
    // The same work for an unknown id, so that the time does not tell.
    const matches = secretMatches(record ?? nobody, token.secret);
    if (record === undefined || !matches || record.kind !== 'api')
      return { ok: false, code: 'token-unknown' };
    if (record.expiresMs !== null && record.expiresMs <= this.clock.wallMs())
      return { ok: false, code: 'token-expired' };
    return { ok: true, name: record.name };
  }
}
