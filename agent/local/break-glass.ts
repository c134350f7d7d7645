import { createHash, randomBytes, sign, timingSafeEqual, verify, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import {
  breakGlassListSchema,
  breakGlassMs,
  breakGlassRecordSchema,
  breakGlassRenewMs,
  breakGlassSigned,
  type BreakGlassList,
  type BreakGlassRecord,
} from '../../core/domain/break-glass.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { breakGlassKey, ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import type { Clock, Log } from '../env.js';
import type { ApiToken, Rights, TokenAnswer } from '../http/auth.js';
import { TryLimit } from '../http/try-limit.js';
import { absent, unchanged, type RecordStore } from '../ledger/records.js';
import { pemsIn } from '../pki/bundle.js';
import { writeFileDurably } from '../pki/files.js';
import { passwordMatches } from '../pki/password.js';
import { readIfThere } from '../pki/store.js';
import { totpStep } from '../pki/totp.js';

/** The ledger is asked so often, ms: an admin who is disabled is out of the reachable nodes within two of it. */
const lookMs = 30_000;
/** A session by name and password at a node lasts so long, ms: it is for emergencies. */
const sessionMs = 3_600_000;
/** Sessions at a time; the oldest ends for a new one. */
const sessionsMax = 16;
/** Failed logins of one name in a quarter of an hour; those of one address are counted by the login form. */
const tries = { triesMax: 10, windowMs: 15 * 60_000, addressesMax: 1_024 } as const;

const rights: Rights = {
  role: 'admin',
  operates: [],
  operatesTags: [],
  operatesVapps: [],
  user: null,
  session: true,
};

export interface BreakGlassDeps {
  /** e.g. `<stateDir>/break-glass.json` */
  readonly file: string;
  readonly clusterId: string;
  /** The CAs that are trusted, first the one that signs, PEM. */
  readonly ca: () => string;
  /** Where the key of that CA is, on nodes that have it. */
  readonly caKeyFile: (ca: string) => Promise<string | null>;
  /** Null while the ledger has not answered yet. */
  readonly store: () => RecordStore | null;
  /** True while this node does what one node does for all. */
  readonly leads: () => boolean;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Admins at a node's own page by name and password, when all else is dark. The node that leads the voters signs the list
 * of admins with the CA's key; every node keeps the last good one in a file, and lets in whom it names until it expires. So
 * neither a written ledger nor a written file makes an admin.
 */
export class BreakGlass {
  readonly #d: BreakGlassDeps;
  #record: BreakGlassRecord | null = null;
  #list: BreakGlassList | null = null;
  readonly #sessions = new Map<
    string,
    { readonly sha256: Buffer; readonly name: string; readonly endMs: number }
  >();
  readonly #names = new TryLimit(tries);
  /** The last step of each second factor that was used: a code is good once. */
  readonly #steps = new Map<string, number>();
  readonly #stop = new AbortController();

  constructor(d: BreakGlassDeps) {
    this.#d = d;
  }

  /** Takes what the file has, if it is good. */
  async load(): Promise<void> {
    const text = await readIfThere(this.#d.file);
    if (text === null) return;
    try {
      this.#take(breakGlassRecordSchema.parse(JSON.parse(text)));
    } catch (error) {
      this.#d.log.warn(`the cached admins cannot be used: ${errorRecord(error).message}`);
    }
  }

  start(): void {
    void this.#run();
  }

  stop(): void {
    this.#stop.abort();
  }

  /** The list that counts here now; null: none, or it has expired. */
  get list(): BreakGlassList | null {
    return this.#list !== null && this.#list.untilMs > this.#d.clock.wallMs() ? this.#list : null;
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#d;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.look();
      } catch (error) {
        const { code, message } = errorRecord(error);
        if (code !== 'ledger-unavailable') log.warn(`the list of admins for dark days: ${message}`);
      }
      await clock.sleep(lookMs, signal).catch(() => undefined);
    }
  }

  /** Signs the list if that is this node's part, and takes what the ledger has. @throws FlotillaError `ledger-unavailable` */
  async look(): Promise<void> {
    const store = this.#d.store();
    if (store === null) return;
    const entry = await store.ledger.get(breakGlassKey);
    let record =
      entry === null ? null : readRecord({ schema: breakGlassRecordSchema }, breakGlassKey, entry.value);
    if (this.#d.leads()) {
      const next = await this.#signed(store, record);
      if (next !== null) {
        const compare = entry === null ? absent(breakGlassKey) : unchanged(entry);
        const value = writeRecord({ schema: breakGlassRecordSchema }, next);
        const { done } = await store.txn([compare], [{ put: breakGlassKey, value }]);
        if (!done) return;
        record = next;
      }
    }
    if (record === null || record.signature === this.#record?.signature) return;
    if (!this.#take(record)) return;
    await writeFileDurably(this.#d.file, JSON.stringify(record), { mode: 0o600 });
  }

  /** @returns null: the list that is there still says what it should, or this node cannot sign */
  async #signed(store: RecordStore, old: BreakGlassRecord | null): Promise<BreakGlassRecord | null> {
    const [ca = ''] = pemsIn(this.#d.ca());
    const file = await this.#d.caKeyFile(ca);
    const key = file === null ? null : await readFile(file, 'utf8').catch(() => null);
    if (key === null) return null;
    const users = (await store.list(kinds.user)).items.map((u) => u.value);
    const accounts = users
      .filter((u) => u.role === 'admin' && !u.disabled)
      .flatMap(({ name, password, totp }) => (password === null ? [] : [{ name, password, totp }]))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    const now = this.#d.clock.wallMs();
    // One of the CA of before counts no more once that is dropped.
    const before = old === null ? null : this.#read(old, [ca]);
    const same = before !== null && JSON.stringify(before.accounts) === JSON.stringify(accounts);
    if (same && before.untilMs - now > breakGlassRenewMs) return null;
    const list = JSON.stringify({
      cluster: this.#d.clusterId,
      madeMs: now,
      untilMs: now + breakGlassMs,
      accounts,
    } satisfies BreakGlassList);
    return { list, signature: sign('sha256', Buffer.from(breakGlassSigned(list)), key).toString('base64') };
  }

  /** @returns null: it is not the CA's, or of another cluster */
  #read(r: BreakGlassRecord, cas = pemsIn(this.#d.ca())): BreakGlassList | null {
    const text = Buffer.from(breakGlassSigned(r.list));
    const signature = Buffer.from(r.signature, 'base64');
    if (!cas.some((ca) => verify('sha256', text, new X509Certificate(ca).publicKey, signature))) return null;
    const list = breakGlassListSchema.parse(JSON.parse(r.list));
    return list.cluster === this.#d.clusterId ? list : null;
  }

  /** @returns false: it is older than the one that counts */
  #take(r: BreakGlassRecord): boolean {
    const list = this.#read(r);
    if (list === null) {
      throw new FlotillaError(
        'wrong-certificate',
        'The list of admins is not signed by the CA of this cluster',
        {
          hint: 'Somebody wrote it who may not. The last good one goes on counting.',
        },
      );
    }
    // An older one that somebody put back would let in who was thrown out since.
    if (this.#list !== null && list.madeMs < this.#list.madeMs) return false;
    this.#record = r;
    this.#list = list;
    for (const [id, s] of this.#sessions)
      if (!list.accounts.some((a) => a.name === s.name)) this.#sessions.delete(id);
    return true;
  }

  /**
   * A session at this node's page.
   *
   * @throws FlotillaError `login-refused`, `code-wanted`, `rate-limited`
   */
  async login(ask: { user: string; password: string; code: string | null; from: string }): Promise<ApiToken> {
    const { clock, log } = this.#d;
    const name = ask.user.slice(0, 64).toLowerCase();
    const waitMs = this.#names.waitMs(name, clock.nowMs());
    if (waitMs > 0) {
      throw new FlotillaError('rate-limited', 'Too many failed logins', {
        hint: `Try again in ${Math.ceil(waitMs / 1000)} s, or come with an API token.`,
      });
    }
    const account = this.list?.accounts.find((a) => a.name === name) ?? null;
    const refuse = (): FlotillaError => {
      this.#names.count(name, clock.nowMs());
      log.warn('audit', {
        who: account === null ? 'somebody' : name,
        what: 'login at the node',
        from: ask.from,
        result: 'login-refused',
      });
      return new FlotillaError('login-refused', 'The name, the password or the code is wrong', {
        hint: 'Only admins come in here by name and password. Others log in at a controller, or with an API token.',
      });
    };
    if (!(await passwordMatches(account?.password ?? null, ask.password)) || account === null) throw refuse();
    if (account.totp !== null) {
      if (ask.code === null) {
        throw new FlotillaError('code-wanted', 'The code of the second factor is missing', {
          hint: 'Give the six digits that your authenticator shows.',
        });
      }
      const step = totpStep(account.totp, ask.code, clock.wallMs(), this.#steps.get(name) ?? -1);
      if (step === null) throw refuse();
      this.#steps.set(name, step);
    }
    log.info('audit', { who: name, what: 'login at the node', from: ask.from, result: 'done' });
    return this.#session(name);
  }

  #session(name: string): ApiToken {
    const id = Array.from(randomBytes(8), (b) => 'abcdefghijklmnopqrstuvwxyz234567'[b & 31]).join('');
    const secret = randomBytes(32).toString('base64url');
    const [oldest] = this.#sessions.keys();
    if (this.#sessions.size >= sessionsMax && oldest !== undefined) this.#sessions.delete(oldest);
    const endMs = this.#d.clock.nowMs() + sessionMs;
    this.#sessions.set(id, { sha256: createHash('sha256').update(secret).digest(), name, endMs });
    return { id, secret };
  }

  logout(id: string): void {
    this.#sessions.delete(id);
  }

  /** Null: none of its sessions. */
  verify(token: ApiToken): TokenAnswer | null {
    const s = this.#sessions.get(token.id);
    if (s === undefined) return null;
    const given = createHash('sha256').update(token.secret).digest();
    if (!timingSafeEqual(given, s.sha256)) return { ok: false, code: 'token-unknown' };
    if (s.endMs <= this.#d.clock.nowMs() || this.list === null) {
      this.#sessions.delete(token.id);
      return { ok: false, code: 'token-expired' };
    }
    return { ok: true, name: s.name, rights };
  }
}
