import { TryLimit } from '../../agent/http/try-limit.js';
import { passwordMatches } from '../../agent/pki/password.js';
import { apiTokenText, makeToken } from '../../agent/pki/tokens.js';
import type { TokenRecord } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { SignOnPerson, SignOnSettings } from '../../core/domain/sign-on.js';
import { userNameOf } from '../../core/domain/sign-on.js';
import { sessionsMax, usersMax, type User } from '../../core/domain/user.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import type { View } from '../view.js';
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

export interface Session {
  readonly token: string;
  readonly record: TokenRecord;
  readonly user: User;
}

/**
 * Makes sessions of names and passwords. What fails is counted here, in bounded memory, and written nowhere but, for a
 * few lines a minute, in the journal: nobody fills the ledger from outside.
 */
export class LoginDesk {
  private readonly deps: Pick<ApiDeps, 'view' | 'clock' | 'log' | 'ledger' | 'chance'>;
  private readonly addresses = new TryLimit(byAddress);
  private readonly names = new TryLimit(byName);
  /** The last step of each user's second factor that was used: a code is good once. At most as many as users. */
  private readonly steps = new Map<string, number>();
  private lines = { endMs: 0, left: linesMax };

  constructor(deps: Pick<ApiDeps, 'view' | 'clock' | 'log' | 'ledger' | 'chance'>) {
    this.deps = deps;
  }

  /** @throws FlotillaError `login-refused`, `code-wanted`, `rate-limited`, `ledger-unavailable` */
  async login(ask: LoginAsk): Promise<Session> {
    const { view } = this.deps;
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
    return this.session('login', ask.from, (change) => {
      const now = view.ledger.tables.user.get(user.id);
      if (now === undefined || now.value.disabled) throw this.refused(ask);
      change.at(kinds.user.key(user.id), now);
      return now.value;
    });
  }

  /**
   * A session for somebody whom the provider vouches for. Who came before is known by issuer and subject; who comes for the
   * first time by the name that an admin gave, or is made a user of where that is set.
   *
   * @throws FlotillaError `login-refused`, `ledger-full`, `ledger-unavailable`
   */
  async signOn(person: SignOnPerson, s: SignOnSettings, from: string): Promise<Session> {
    const { view, clock, chance } = this.deps;
    const { issuer, subject, name } = person;
    const signOn = { name, bound: { issuer, subject } };
    view.freshness();
    return this.session('sign-on', from, async (change) => {
      await view.ledger.refresh('user');
      const all = [...view.ledger.tables.user.values()];
      const kept =
        all.find(
          (k) => k.value.signOn?.bound?.issuer === issuer && k.value.signOn.bound.subject === subject,
        ) ?? all.find((k) => k.value.signOn?.bound === null && k.value.signOn.name === name);
      const role = s.roles.length > 0 ? (person.role ?? s.otherRole) : (kept?.value.role ?? s.otherRole);
      if (kept?.value.disabled === true || (kept === undefined && !s.makesUsers) || role === null) {
        throw new FlotillaError(
          'login-refused',
          `${s.name} knows you, and this cluster does not let you in`,
          {
            hint:
              role === null
                ? 'None of your groups has a role here: ask an admin.'
                : 'Ask an admin: flotilla user create NAME --sign-on, with your name at the provider.',
          },
        );
      }
      if (kept !== undefined) {
        const next = { ...kept.value, role, signOn };
        change.at(kinds.user.key(next.id), kept);
        if (JSON.stringify(next) !== JSON.stringify(kept.value)) change.put(kinds.user, next.id, next);
        return next;
      }
      const wallMs = clock.wallMs();
      const user: User = {
        id: chance.uuid(),
        name: await this.freeName(name, s),
        role,
        operates: [],
        operatesTags: [],
        operatesVapps: [],
        disabled: false,
        password: null,
        totp: null,
        signOn,
        createdMs: wallMs,
        passwordMs: wallMs,
      };
      roomForUser(view);
      change.at(kinds.user.key(user.id), null).put(kinds.user, user.id, user);
      change.take(unique.name('user', user.name), user.id);
      return user;
    });
  }

  /** A name for a user that is made. Nobody becomes a user who is there already by calling themselves so. */
  private async freeName(name: string, s: SignOnSettings): Promise<string> {
    const wanted = userNameOf(name);
    const taken = wanted !== null && (await this.deps.ledger.get(unique.name('user', wanted))) !== null;
    if (wanted !== null && !taken) return wanted;
    throw new FlotillaError(
      'login-refused',
      taken ? `Somebody else is "${wanted}" here` : `${s.name} gives you a name that cannot be one here`,
      {
        hint: 'Ask an admin: flotilla user create NAME, or edit NAME, --sign-on with your name at the provider.',
      },
    );
  }

  private async session(
    what: string,
    from: string,
    userOf: (change: Change) => User | Promise<User>,
  ): Promise<Session> {
    const made = await commit(this.deps, 'The session', async () => {
      const change = new Change();
      const user = await userOf(change);
      const { record, secret } = makeToken(
        {
          kind: 'session',
          // Names of tokens end in a letter or digit; those of users need not.
          name: `session of ${user.name.replace(/[._-]+$/, '')}`,
          ttlMs: sessionMs,
          uses: null,
          role: user.role,
          user: user.id,
        },
        this.deps.clock.wallMs(),
      );
      change.at(kinds.token.key(record.id), null).put(kinds.token, record.id, record);
      for (const old of this.leaving(user.id))
        change.at(kinds.token.key(old.value.id), old).del(kinds.token.key(old.value.id));
      return { change, answer: () => ({ token: apiTokenText({ id: record.id, secret }), record, user }) };
    });
    this.deps.log.info('audit', { who: made.user.name, what, from, result: 'done' });
    return made;
  }

  /** Does what an address may try so often only, as logins are counted. @throws FlotillaError `rate-limited` */
  async counted<T>(from: string, act: () => Promise<T>): Promise<T> {
    const nowMs = this.deps.clock.nowMs();
    wait(this.addresses.waitMs(from, nowMs));
    try {
      return await act();
    } catch (error) {
      if (error instanceof FlotillaError && ['login-refused', 'provider-untrusted'].includes(error.code)) {
        this.addresses.count(from, nowMs);
        this.tell({ who: 'somebody', what: 'sign-on', from, result: error.code, why: error.message });
      }
      throw error;
    }
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
    wait(Math.max(this.addresses.waitMs(from, nowMs), this.names.waitMs(nameKey(user), nowMs)));
  }

  private tell(line: Record<string, string>): void {
    const nowMs = this.deps.clock.nowMs();
    if (this.lines.endMs <= nowMs) this.lines = { endMs: nowMs + 60_000, left: linesMax };
    if (this.lines.left-- > 0) this.deps.log.warn('audit', line);
  }

  private refused({ user, from }: Pick<LoginAsk, 'user' | 'from'>): FlotillaError {
    const nowMs = this.deps.clock.nowMs();
    this.addresses.count(from, nowMs);
    this.names.count(nameKey(user), nowMs);
    // The name is told only where it is one: people type passwords into the wrong field.
    const who = this.deps.view.find('user', user) === null ? 'somebody' : nameKey(user);
    this.tell({ who, what: 'login', from, result: 'login-refused' });
    return new FlotillaError('login-refused', 'The name, the password or the code is wrong', {
      hint: 'Check all of them. Who forgot theirs gets a new password from an admin.',
    });
  }
}

function wait(waitMs: number): void {
  if (waitMs === 0) return;
  throw new FlotillaError('rate-limited', 'Too many failed logins', {
    hint: `Try again in ${Math.ceil(waitMs / 1000)} s. Sessions and API tokens work meanwhile.`,
  });
}

/** @throws FlotillaError `ledger-full` */
export function roomForUser(view: View): void {
  if (view.ledger.tables.user.size < usersMax) return;
  throw new FlotillaError('ledger-full', `There are ${usersMax} users, the most a cluster keeps`, {
    hint: 'Delete those who are gone: flotilla user list.',
  });
}

const nameKey = (name: string): string => name.slice(0, 64).toLowerCase();
