import type { Identity } from '../../agent/http/auth.js';
import { certificateSha256 } from '../../agent/pki/bundle.js';
import { apiTokenText, joinTokenText, joinTtlMs, makeToken, tokensMax } from '../../agent/pki/tokens.js';
import type { TokenRecord } from '../../core/domain/cluster.js';
import { mayAs } from '../../core/domain/user.js';
import { FlotillaError } from '../../core/domain/error.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { TokenView } from '../../core/wire/rest.js';
import { rightsOf } from './access.js';
import { Change, commit } from './commit.js';
import type { View } from '../view.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { pageOfViews } from './page.js';

const shown = ({ sha256: _, ...rest }: TokenRecord): TokenView => rest;

export function tokenHandlers(deps: ApiDeps): Some<'tokenList' | 'tokenCreate' | 'tokenDelete'> {
  const { view } = deps;
  return {
    async tokenList({ query, identity }) {
      view.freshness();
      const tokens = [...view.ledger.tables.token.values()]
        .filter((k) => k.value.kind !== 'session' && mine(identity, k.value))
        .map((k) => shown(k.value));
      tokens.sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
      return pageOfViews(view, tokens, query, sortKey);
    },
    async tokenCreate({ body, identity }) {
      view.freshness();
      const rights = rightsOf(identity);
      const role = body.role ?? rights?.role ?? 'viewer';
      if (rights === null || !mayAs(rights.role, role) || (body.kind === 'join' && rights.role !== 'admin')) {
        throw new FlotillaError(
          'forbidden',
          `A token may no more than who makes it: yours is ${rights?.role}`,
          {
            hint: 'Only admins make join tokens; others make API tokens of their own role or a lesser one.',
          },
        );
      }
      return commit(deps, `Token "${body.name}"`, async () => {
        const kept = [...view.ledger.tables.token.values()].filter((k) => k.value.kind !== 'session');
        if (kept.length >= tokensMax) {
          throw new FlotillaError('ledger-full', `There are ${tokensMax} tokens already`, {
            hint: 'Delete those that are no longer used: flotilla token list.',
          });
        }
        await nameFree(deps, 'token', body.name);
        const join = body.kind === 'join';
        if (!join && body.uses !== undefined && body.uses !== null) {
          throw new FlotillaError('bad-input', `Token "${body.name}": uses of API tokens are not counted`, {
            hint: 'Give it a time to live instead: ttlS.',
          });
        }
        const ttlMs =
          body.ttlS === undefined ? (join ? joinTtlMs : null) : body.ttlS === null ? null : body.ttlS * 1000;
        const uses = join ? (body.uses === undefined ? 1 : body.uses) : null;
        const { record, secret, writes } = makeToken(
          { kind: body.kind, name: body.name, ttlMs, uses, role, user: join ? null : rights.user },
          deps.clock.wallMs(),
        );
        const token = join
          ? joinText(view, { id: record.id, secret })
          : apiTokenText({ id: record.id, secret });
        const change = new Change()
          .at(kinds.token.key(record.id), null)
          .at(unique.name('token', record.name), null);
        for (const w of writes) change.write(w);
        return { change, answer: (): Reply<'tokenCreate'> => ({ body: { ...shown(record), token } }) };
      });
    },
    async tokenDelete({ params, identity }) {
      const id = await idOf(view, 'token', params.token);
      return commit(deps, `Token "${params.token}"`, async () => {
        await view.ledger.refresh('token');
        const kept = view.ledger.tables.token.get(id);
        if (kept === undefined || !mine(identity, kept.value)) throw notFound('token', params.token);
        const change = new Change()
          .at(kinds.token.key(id), kept)
          .del(kinds.token.key(id))
          .del(unique.name('token', kept.value.name));
        return { change, answer: (): Reply<'tokenDelete'> => ({ body: null }) };
      });
    },
  };
}

/**
 * The text of a join token: where to knock, and whom to trust there. A node that answers and can sign goes before.
 *
 * @throws FlotillaError `ledger-unavailable`
 */
export function joinText(view: View, bearer: { id: string; secret: string }): string {
  const { meta, tables } = view.ledger;
  const nodes = view.list('node').map((c) => c.view);
  const voters = nodes.filter((n) => tables.node.get(n.id)?.value.voter === true);
  const node = voters.find((n) => n.presence === 'here') ?? voters[0];
  const address = node === undefined ? undefined : tables.node.get(node.id)?.value.addresses[0];
  if (meta === null || address === undefined) {
    throw new FlotillaError('ledger-unavailable', 'The cluster record and its nodes are not known yet', {
      hint: 'Try again in a moment.',
    });
  }
  return joinTokenText({ address, port: null, ...bearer, caSha256: certificateSha256(meta.ca) });
}

/** Admins see all, others what they made. */
function mine(who: Identity | null, t: TokenRecord): boolean {
  const rights = rightsOf(who);
  return rights !== null && (rights.role === 'admin' || (t.user !== null && t.user === rights.user));
}

const sortKey = (t: TokenView): string => t.name.normalize('NFC').toLocaleLowerCase('en');
