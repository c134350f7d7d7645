import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { tokenRecordSchema, type TokenRecord } from '../../core/domain/cluster.js';
import { writeFileDurably } from '../pki/files.js';
import type { TokenAnswer, TokenVerifier } from './auth.js';

/** API tokens kept: more than anyone hands out, and a bound for the file. */
const tokensMax = 1_000;
const fileSchema = z.array(tokenRecordSchema).max(tokensMax);

/**
 * This node's copy of the ledger's API tokens (hashes only), so that people get in when the ledger is gone: that is
 * when they need this page. Kept in a file, 0600, for an agent that starts without the ledger. A token revoked
 * meanwhile works here until the ledger is back.
 */
export class TokenCache {
  readonly #path: string;
  #records: ReadonlyMap<string, TokenRecord> = new Map();
  #text = '';

  /** @param path - e.g. `<stateDir>/tokens.json` */
  constructor(path: string) {
    this.#path = path;
  }

  /** Takes what the file has, if it can be read; otherwise nobody gets in until the ledger answers. */
  async load(): Promise<void> {
    const text = await readFile(this.#path, 'utf8').catch(() => '[]');
    const parsed = fileSchema.safeParse(readJson(text));
    if (parsed.success) this.#take(parsed.data);
  }

  /** The ledger's token records, all kinds, as last read. Call it after each successful listing. */
  async update(records: readonly TokenRecord[]): Promise<void> {
    const api = records.filter((r) => r.kind !== 'join').slice(0, tokensMax);
    this.#take(api);
    const text = JSON.stringify(api);
    if (text === this.#text) return;
    this.#text = text;
    await writeFileDurably(this.#path, text, { mode: 0o600 });
  }

  /** As {@link TokenVerifier}, by the wall clock. */
  verifier(wallMs: () => number): TokenVerifier {
    return (token) => this.#verify(token, wallMs());
  }

  #verify(token: { id: string; secret: string }, nowMs: number): TokenAnswer {
    const r = this.#records.get(token.id);
    const given = createHash('sha256').update(token.secret).digest();
    // The same work for an unknown id, so that the time does not tell.
    const wanted = Buffer.from(r?.sha256 ?? '0'.repeat(64), 'hex');
    if (!timingSafeEqual(given, wanted) || r === undefined) return { ok: false, code: 'token-unknown' };
    if (r.expiresMs !== null && r.expiresMs <= nowMs) return { ok: false, code: 'token-expired' };
    const { user, kind } = r;
    // What its user may now is not known here: whoever was an admin when it was made may be none any more.
    const role = user === null ? r.role : 'viewer';
    const rights = {
      role,
      operates: [],
      operatesTags: [],
      operatesVapps: [],
      user,
      session: kind === 'session',
    };
    return { ok: true, name: r.name, rights };
  }

  #take(records: readonly TokenRecord[]): void {
    this.#records = new Map(records.map((r) => [r.id, r]));
  }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
