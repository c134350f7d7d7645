import type { Clock } from '../../agent/env.js';
import type { ApiToken, Rights, TokenAnswer } from '../../agent/http/auth.js';
import { secretMatches } from '../../agent/pki/tokens.js';
import { lesserRole, mayAs } from '../../core/domain/user.js';
import type { View } from '../view.js';
import { operatedVapps } from './access.js';

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
      // It may have been made on a node, or by another controller, a moment ago.
      this.lookedMs = this.clock.nowMs();
      await this.view.ledger.refresh('token').catch(() => undefined);
    }
    const record = tables.token.get(token.id)?.value;
    // The same work for an unknown id, so that the time does not tell.
    const matches = secretMatches(record ?? nobody, token.secret);
    if (record === undefined || !matches || record.kind === 'join')
      return { ok: false, code: 'token-unknown' };
    if (record.expiresMs !== null && record.expiresMs <= this.clock.wallMs())
      return { ok: false, code: 'token-expired' };
    const rights = this.rightsOf(token.id);
    if (rights === null) return { ok: false, code: 'token-unknown' };
    const user = rights.user === null ? undefined : tables.user.get(rights.user)?.value.name;
    const name = user === undefined ? record.name : rights.session ? user : `${user}/${record.name}`;
    return { ok: true, name, rights };
  }

  /** What the bearer of that token may now; null: nothing, since it or its user is gone. */
  rightsOf(id: string): Rights | null {
    const { tables } = this.view.ledger;
    const record = tables.token.get(id)?.value;
    if (record === undefined || (record.expiresMs !== null && record.expiresMs <= this.clock.wallMs()))
      return null;
    const session = record.kind === 'session';
    if (record.user === null)
      return { role: record.role, operates: [], operatesTags: [], operatesVapps: [], user: null, session };
    const user = tables.user.get(record.user)?.value;
    if (user === undefined || user.disabled) return null;
    // A token that may only look lends nobody the rights to single objects.
    const bound = session || mayAs(record.role, 'operator');
    return {
      // A session is as its user is now.
      role: session ? user.role : lesserRole(user.role, record.role),
      operates: bound ? user.operates : [],
      operatesTags: bound ? user.operatesTags : [],
      operatesVapps: bound ? operatedVapps(this.view, user) : [],
      user: user.id,
      session,
    };
  }
}
