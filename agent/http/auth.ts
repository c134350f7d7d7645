import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import { deleteCookie, getCookie, setCookie } from 'hono/cookie';
import { FlotillaError } from '../../core/domain/error.js';
import type { Role } from '../../core/domain/user.js';
import { peerNode, type PeerNode } from '../pki/identity.js';

/** Who asks: a node by its certificate, or a bearer of an API token. */
export type Identity =
  | { readonly kind: 'node'; readonly node: string; readonly fingerprint: string }
  | {
      readonly kind: 'token';
      readonly id: string;
      readonly name: string;
      /** What it may, where that is looked at: at a controller. */
      readonly rights?: Rights;
      /** It came with the browser's cookie: a page of another site may be behind a change. */
      readonly byCookie: boolean;
    };

export interface Rights {
  readonly role: Role;
  /** VMs where it is an operator in any case. */
  readonly operates: readonly string[];
  /** Tags whose VMs it operates too. */
  readonly operatesTags: readonly string[];
  /** vApps it operates, its own ones too. */
  readonly operatesVapps: readonly string[];
  /** The id of the user whose it is. */
  readonly user: string | null;
  readonly session: boolean;
}

export interface ApiToken {
  readonly id: string;
  readonly secret: string;
}

export type TokenAnswer =
  | { readonly ok: true; readonly name: string; readonly rights?: Rights }
  | { readonly ok: false; readonly code: 'token-unknown' | 'token-expired' };

/** Says whether an API token is good; see TokenCache for the one that works without the ledger. */
export type TokenVerifier = (token: ApiToken) => TokenAnswer | Promise<TokenAnswer>;

/** What handlers find in the context behind {@link authenticate}. */
export interface AuthEnv {
  Bindings: HttpBindings;
  Variables: { identity: Identity | null };
}

/** `__Host-`: only over TLS, only of this very host, for all paths. Ports share it: node pages and controller alike. */
export const sessionCookie = '__Host-flotilla';
/** A working day. The cookie holds the token itself, so no node needs to remember sessions. */
const sessionS = 12 * 60 * 60;

/** Takes `flt-api.<id>.<secret>` apart; null where it is nothing of that kind. */
export function parseApiToken(text: string): ApiToken | null {
  const m = /^flt-api\.([a-z0-9]{8})\.([A-Za-z0-9_-]{16,256})$/.exec(text.trim());
  return m?.[1] === undefined || m[2] === undefined ? null : { id: m[1], secret: m[2] };
}

export interface AuthOptions {
  readonly verifyToken: TokenVerifier;
  /** Whether a node with that certificate is (still) of the cluster; a removed one's is well signed all the same. */
  isMember?(peer: PeerNode): boolean;
  /** Counts what was refused: `certificate`, `token`. */
  onRefused(kind: 'certificate' | 'token'): void;
}

/**
 * Finds out who asks and leaves it in `identity`; null: nobody we know. It refuses only what is wrong: a
 * certificate of another CA or of a removed node, a token that is unknown or expired. A stale cookie is just cleared.
 *
 * @throws FlotillaError `wrong-certificate`, `token-unknown`, `token-expired`
 */
export function authenticate(o: AuthOptions): MiddlewareHandler<AuthEnv> {
  return async (c, next) => {
    c.set('identity', nodeOf(c, o) ?? (await bearerOf(c, o)) ?? (await cookieOf(c, o)));
    await next();
  };
}

/** Lets only those in. @throws FlotillaError `unauthenticated`, `forbidden` */
export function requireIdentity(allow: 'node' | 'token' | 'node-or-token'): MiddlewareHandler<AuthEnv> {
  return async (c, next) => {
    const who = c.get('identity');
    if (who === null) {
      throw new FlotillaError('unauthenticated', 'This needs a login', {
        hint: 'Send "Authorization: Bearer <API token>", or log in at /login.',
      });
    }
    if (allow !== 'node-or-token' && who.kind !== allow) {
      throw new FlotillaError('forbidden', `This is for a ${allow} only`, {
        hint: allow === 'node' ? 'Nodes ask it of each other, with their certificates.' : 'Use an API token.',
      });
    }
    await next();
  };
}

export function startSession(c: Context, token: ApiToken): void {
  setCookie(c, sessionCookie, `flt-api.${token.id}.${token.secret}`, {
    path: '/',
    secure: true,
    httpOnly: true,
    sameSite: 'Strict',
    maxAge: sessionS,
  });
}

export function endSession(c: Context): void {
  deleteCookie(c, sessionCookie, { path: '/', secure: true });
}

/** Certificates are looked at once per connection; a handshake is not repeated. */
const peers = new WeakMap<object, ReturnType<typeof peerNode>>();

function nodeOf(c: Context<AuthEnv>, o: AuthOptions): Identity | null {
  const { socket } = c.env.incoming;
  let peer = peers.get(socket);
  if (peer === undefined) {
    peer = peerNode(socket);
    peers.set(socket, peer);
    if (peer === 'wrong') o.onRefused('certificate');
  }
  if (peer === null) return null;
  if (peer === 'wrong' || o.isMember?.(peer) === false) {
    throw new FlotillaError(
      'wrong-certificate',
      'The certificate shown is not one of this cluster, or not valid now',
      {
        hint: 'Show none and use an API token, or let the node join again.',
      },
    );
  }
  return { kind: 'node', ...peer };
}

async function bearerOf(c: Context<AuthEnv>, o: AuthOptions): Promise<Identity | null> {
  const header = c.req.header('authorization');
  if (header === undefined) return null;
  const token = parseApiToken(header.replace(/^Bearer +/i, ''));
  const answer =
    token === null ? ({ ok: false, code: 'token-unknown' } as const) : await o.verifyToken(token);
  if (token !== null && answer.ok) return known(token, answer, false);
  o.onRefused('token');
  throw badToken(answer.ok ? 'token-unknown' : answer.code);
}

async function cookieOf(c: Context<AuthEnv>, o: AuthOptions): Promise<Identity | null> {
  const text = getCookie(c, sessionCookie);
  if (text === undefined) return null;
  const token = parseApiToken(text);
  const answer = token === null ? null : await o.verifyToken(token);
  if (token !== null && answer?.ok === true) return known(token, answer, true);
  o.onRefused('token');
  endSession(c);
  return null;
}

const known = (
  { id }: ApiToken,
  { name, rights }: Extract<TokenAnswer, { ok: true }>,
  byCookie: boolean,
): Identity => ({ kind: 'token', id, name, byCookie, ...(rights === undefined ? {} : { rights }) });

export function badToken(code: 'token-unknown' | 'token-expired'): FlotillaError {
  return code === 'token-expired'
    ? new FlotillaError(code, 'The API token has expired', {
        hint: 'Make one: flotilla-agent token create --kind api',
      })
    : new FlotillaError(code, 'The API token is not known here', {
        hint: 'Copy the whole token, from flt-api. to its end; or make one: flotilla-agent token create --kind api',
      });
}
