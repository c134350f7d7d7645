import { TryLimit } from '../../agent/http/try-limit.js';
import { passwordMatches } from '../../agent/pki/password.js';
import { apiTokenText, makeToken } from '../../agent/pki/tokens.js';
import type { TokenRecord } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import { sessionsMax, type User } from '../../core/domain/user.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import { totpStep } from '../../agent/pki/totp.js';
import { Change, commit } from './commit.js';
import type { ApiDeps } from './context.js';

/** A session lasts a working day. */
export const sessionMs = 12 * 3_600_000;
/** Failed logins: of one address in a minute, of one name in a quarter of an hour. */
const byAddress = { triesMax: 10, windowMs: 60_000, addressesMax: 1_024 } as const;
const byName = { triesMax: 10, windowMs: 15 * 60_000, addressesMax: 1_024 } as const;
/** Lines of refused logins in the journal, a minute: they cost whoever sends them nothing. */
const linesMax = 30;

export interface LoginAsk {
  readonly user: string;
  readonly password: string;
  readonly code: string | null;
  /** The address it came from. */
  readonly from: string;
}

/**
 * Makes sessions of names and passwords. What fails is counted here, in bounded memory, and written nowhere but, for a
 * few lines a minute, in the journal: nobody fills the ledger from outside.
 */
export class LoginDesk {
  private readonly deps: Pick<ApiDeps, 'view' | 'clock' | 'log' | 'ledger'>;
  private readonly addresses = new TryLimit(byAddress);
  private readonly names = new TryLimit(byName);
  /** The last step of each user's second factor that was used: a code is good once. At most as many as users. */
  private readonly steps = new Map<string, number>();
  private lines = { endMs: 0, left: linesMax };

  constructor(deps: Pick<ApiDeps, 'view' | 'clock' | 'log' | 'ledger'>) {
    this.deps = deps;
  }

  /** @throws FlotillaError `login-refused`, `code-wanted`, `rate-limited`, `ledger-unavailable` */
  async login(ask: LoginAsk): Promise<{ token: string; record: TokenRecord; user: User }> {
    const { view, clock } = this.deps;
    view.freshness();
    this.mayTry(ask);
    const id = view.find('user', ask.user);
    const user = id === null ? null : (view.ledger.tables.user.get(id)?.value ?? null);
    const right = await passwordMatches(user?.password ?? null, ask.password);
    if (!right || user === null || user.disabled) throw this.refused(ask);
    if (user.totp !== null) {
      if (ask.code === null) {
        throw new FlotillaError('code-wanted', 'The code of the second factor is missing', {
          hint: 'Give the six digits that your authenticator shows.',
        });
      }
      this.useCode(user, user.totp, ask.code, () => this.refused(ask));
    }
    const { record, secret } = makeToken(
      {
        kind: 'session',
        name: `session of ${user.name}`,
        ttlMs: sessionMs,
        uses: null,
        role: user.role,
        user: user.id,
      },
      clock.wallMs(),
    );
    await commit(this.deps, `The session of "${user.name}"`, async () => {
      const change = new Change().at(kinds.token.key(record.id), null).put(kinds.token, record.id, record);
      const now = view.ledger.tables.user.get(user.id);
      if (now === undefined || now.value.disabled) throw this.refused(ask);
      change.at(kinds.user.key(user.id), now);
      for (const old of this.leaving(user.id))
        change.at(kinds.token.key(old.value.id), old).del(kinds.token.key(old.value.id));
      return { change, answer: () => undefined };
    });
    this.deps.log.info('audit', { who: user.name, what: 'login', from: ask.from, result: 'done' });
    return { token: apiTokenText({ id: record.id, secret }), record, user };
  }

  /** Whether that is the user's password; failures count as failed logins do. @throws FlotillaError `login-refused`, `rate-limited` */
  async confirm(user: User, password: string, from: string): Promise<void> {
    const ask = { user: user.name, from };
    this.mayTry(ask);
    if (!(await passwordMatches(user.password, password))) throw this.refused(ask);
  }

  /** Takes a code of that secret, once. */
  useCode(user: User, secret: string, code: string, refuse: () => FlotillaError): void {
    const step = totpStep(secret, code, this.deps.clock.wallMs(), this.steps.get(user.id) ?? -1);
    if (step === null) throw refuse();
    this.steps.set(user.id, step);
  }

  /** Ends a session. One that is gone already is no fault. */
  async logout(id: string): Promise<void> {
    await commit(this.deps, 'The session', async () => {
      await this.deps.view.ledger.refresh('token');
      const kept = this.deps.view.ledger.tables.token.get(id);
      if (kept?.value.kind !== 'session') return { change: null, answer: () => undefined };
      const change = new Change().at(kinds.token.key(id), kept).del(kinds.token.key(id));
      return { change, answer: () => undefined };
    });
  }

  /** Sessions that make room for one more: those that expired, then the oldest. */
  private leaving(user: string): Kept<TokenRecord>[] {
    const wallMs = this.deps.clock.wallMs();
    const mine = [...this.deps.view.ledger.tables.token.values()]
      .filter((k) => k.value.kind === 'session' && k.value.user === user)
      .sort((a, b) => b.value.createdMs - a.value.createdMs);
    return mine.filter((k, i) => i >= sessionsMax - 1 || (k.value.expiresMs ?? 0) <= wallMs);
  }

  private mayTry({ user, from }: Pick<LoginAsk, 'user' | 'from'>): void {
    const nowMs = this.deps.clock.nowMs();
    const waitMs = Math.max(this.addresses.waitMs(from, nowMs), this.names.waitMs(nameKey(user), nowMs));
    if (waitMs === 0) return;
    throw new FlotillaError('rate-limited', 'Too many failed logins', {
      hint: `Try again in ${Math.ceil(waitMs / 1000)} s. Sessions and API tokens work meanwhile.`,
    });
  }

  private refused({ user, from }: Pick<LoginAsk, 'user' | 'from'>): FlotillaError {
    const nowMs = this.deps.clock.nowMs();
    this.addresses.failed(from, nowMs);
    this.names.failed(nameKey(user), nowMs);
    if (this.lines.endMs <= nowMs) this.lines = { endMs: nowMs + 60_000, left: linesMax };
    // The name is told only where it is one: people type passwords into the wrong field.
    const who = this.deps.view.find('user', user) === null ? 'somebody' : nameKey(user);
    if (this.lines.left-- > 0)
      this.deps.log.warn('audit', { who, what: 'login', from, result: 'login-refused' });
    return new FlotillaError('login-refused', 'The name, the password or the code is wrong', {
      hint: 'Check all of them. Who forgot theirs gets a new password from an admin.',
    });
  }
}

const nameKey = (name: string): string => name.slice(0, 64).toLowerCase();
