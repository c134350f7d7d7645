import { createHash, randomBytes, randomInt, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import type { TokenRecord } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import { ipv4Schema, nameSchema } from '../../core/domain/schema.js';
import type { Role } from '../../core/domain/user.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { absent, putRecord, unchanged, type RecordStore, type Stored } from '../ledger/records.js';
import type { Write } from '../ledger/ledger.js';

/** Most tokens a cluster keeps. */
export const tokensMax = 256;
/** A join token lives so long unless told, ms: long enough to walk to the machine. */
export const joinTtlMs = 24 * 3_600_000;
/** Expired tokens are kept this long, ms, so that a late use is told "expired" and not "unknown". */
const keptExpiredMs = 7 * 24 * 3_600_000;
/** Deletes per clean-up: two keys each, within etcd's 128 writes. */
const prunedMax = 40;

const tokenIdAlphabet = 'abcdefghijklmnopqrstuvwxyz0123456789';
const secretPattern = /^[A-Za-z0-9_-]{43}$/;

/** A token's parts that its holder shows. */
export interface Bearer {
  readonly id: string;
  readonly secret: string;
}

/** What a join token says: where to ask, as whom, and by which CA the answer must be signed. */
export interface JoinToken extends Bearer {
  readonly address: string;
  /** Null: the usual port. */
  readonly port: number | null;
  readonly caSha256: string;
}

const newTokenId = (): string =>
  Array.from({ length: 8 }, () => tokenIdAlphabet[randomInt(tokenIdAlphabet.length)]).join('');
/** 256 random bits. */
const newSecret = (): string => randomBytes(32).toString('base64url');
export const secretSha256 = (secret: string): string => createHash('sha256').update(secret).digest('hex');

/** Compares in constant time. */
export function secretMatches(record: Pick<TokenRecord, 'sha256'>, secret: string): boolean {
  return timingSafeEqual(Buffer.from(record.sha256, 'hex'), Buffer.from(secretSha256(secret), 'hex'));
}

export const apiTokenText = (b: Bearer): string => `flt-api.${b.id}.${b.secret}`;

/** Takes an API token apart; null where it is none. */
export function parseApiToken(text: string): Bearer | null {
  const m = /^flt-api\.([a-z0-9]{8})\.([A-Za-z0-9_-]{43})$/.exec(text);
  return m ? { id: m[1] ?? '', secret: m[2] ?? '' } : null;
}

export function joinTokenText(j: JoinToken): string {
  const at = j.port === null ? j.address : `${j.address}:${j.port}`;
  return `flt1.${at}.${j.id}.${j.secret}.${j.caSha256}`;
}

const joinPattern =
  /^flt1\.(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?\.([a-z0-9]{8})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})$/;

/** @throws FlotillaError `bad-input`; its message does not repeat the token */
export function parseJoinToken(text: string): JoinToken {
  const m = joinPattern.exec(text.trim());
  const address = ipv4Schema.safeParse(m?.[1]);
  const port = m?.[2] === undefined ? null : Number(m[2]);
  if (!m || !address.success || (port !== null && (port < 1 || port > 65_535))) {
    throw new FlotillaError('bad-input', 'This is not a join token', {
      hint: 'It starts with "flt1." and is one line; "flotilla-agent token create" prints one.',
    });
  }
  return { address: address.data, port, id: m[3] ?? '', secret: m[4] ?? '', caSha256: m[5] ?? '' };
}

/** What a bearer shows, as it comes over the network. */
export const bearerSchema = z.object({
  tokenId: z.string().regex(/^[a-z0-9]{8}$/),
  secret: z.string().regex(secretPattern),
});

export interface NewToken<K extends TokenRecord['kind'] = 'join' | 'api'> {
  readonly kind: K;
  /** Null: one is made up. */
  readonly name: string | null;
  /** Null: does not expire. */
  readonly ttlMs: number | null;
  /** Null: any number of uses. */
  readonly uses: number | null;
  /** Nothing: admin. */
  readonly role?: Role;
  /** Nothing: nobody's. */
  readonly user?: string | null;
}

/** A token to be written: its record, and the writes that do so. */
export function makeToken(
  o: NewToken<TokenRecord['kind']>,
  wallMs: number,
): { record: TokenRecord; secret: string; writes: Write[] } {
  const secret = newSecret();
  const id = newTokenId();
  const record: TokenRecord = {
    id,
    name: nameSchema.parse(o.name ?? `${o.kind}-${id}`),
    kind: o.kind,
    role: o.role ?? 'admin',
    user: o.user ?? null,
    sha256: secretSha256(secret),
    expiresMs: o.ttlMs === null ? null : wallMs + o.ttlMs,
    usesLeft: o.uses,
    createdMs: wallMs,
  };
  const writes = [putRecord(kinds.token, id, record), { put: unique.name('token', record.name), value: id }];
  return { record, secret, writes };
}

/**
 * Makes a token; its secret is known to the caller only.
 *
 * @throws FlotillaError `name-taken`, `wrong-state` (too many tokens), and of the ledger
 */
export async function createToken(
  store: RecordStore,
  o: NewToken,
  wallMs: number,
): Promise<Bearer & { record: TokenRecord }> {
  await pruneTokens(store, wallMs);
  const { items, unreadable } = await store.list(kinds.token);
  if (items.length + unreadable.length >= tokensMax) {
    throw new FlotillaError('wrong-state', `The cluster has ${tokensMax} tokens, the most it keeps`, {
      hint: 'Take back those that nobody needs.',
    });
  }
  const { record, secret, writes } = makeToken(o, wallMs);
  const nameKey = unique.name('token', record.name);
  const r = await store.txn([absent(kinds.token.key(record.id)), absent(nameKey)], writes);
  if (r.done) return { id: record.id, secret, record };
  throw new FlotillaError('name-taken', `There is a token named "${record.name}" already`, {
    hint: 'Choose another name, or take that one back.',
  });
}

/** Takes a token back. @throws FlotillaError `not-found`, `edit-conflict` */
export async function deleteToken(store: RecordStore, id: string): Promise<void> {
  const token = await store.require(kinds.token, id, `token ${id}`);
  const r = await store.txn([unchanged(token)], removal(token));
  if (r.done) return;
  throw new FlotillaError('edit-conflict', `The token ${id} was changed just now`, { hint: 'Try again.' });
}

/** Removes tokens that expired long ago. */
export async function pruneTokens(store: RecordStore, wallMs: number): Promise<void> {
  const { items } = await store.list(kinds.token);
  const old = items.filter((t) => t.value.expiresMs !== null && t.value.expiresMs + keptExpiredMs < wallMs);
  const some = old.slice(0, prunedMax);
  if (some.length > 0) await store.txn(some.map(unchanged), some.flatMap(removal));
}

const removal = (t: Stored<TokenRecord>): Write[] => [
  { del: t.key },
  { del: unique.name('token', t.value.name) },
];

/**
 * Judges what a bearer shows. An unknown id and a wrong secret get the same answer, so that ids cannot be probed.
 * Used-up tokens are judged by the caller: a repeated request of the same node is still answered.
 *
 * @throws FlotillaError `token-unknown`, `token-expired`
 */
export async function checkToken(
  store: RecordStore,
  kind: TokenRecord['kind'],
  bearer: Bearer,
  wallMs: number,
): Promise<Stored<TokenRecord>> {
  const token = await store.read(kinds.token, bearer.id);
  // The comparison is done also for an id that does not exist, so that time tells nothing.
  const matches = secretMatches(token?.value ?? { sha256: '0'.repeat(64) }, bearer.secret);
  if (token === null || !matches || token.value.kind !== kind) {
    throw new FlotillaError('token-unknown', `This ${kind} token is not known to the cluster`, {
      hint: 'Was it copied whole? Was it taken back? "flotilla token create" makes a new one.',
    });
  }
  if (token.value.expiresMs !== null && token.value.expiresMs <= wallMs) {
    const when = new Date(token.value.expiresMs).toISOString();
    throw new FlotillaError('token-expired', `The ${kind} token "${token.value.name}" expired at ${when}`, {
      hint: 'Make a new one. If that time is not past yet, look at the clocks of the nodes.',
    });
  }
  return token;
}
