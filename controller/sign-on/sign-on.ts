import { buildEndSessionUrl } from 'openid-client';
import { z } from 'zod';
import { parseApiToken, type ApiToken } from '../../agent/http/auth.js';
import { FlotillaError } from '../../core/domain/error.js';
import { personOf, signOnSettingsSchema, type SignOnSettings } from '../../core/domain/sign-on.js';
import { wallMsSchema } from '../../core/domain/schema.js';
import { readRecord, signOnKey } from '../../core/wire/ledger-keys.js';
import type { LoginDesk } from '../api/login-desk.js';
import type { ApiDeps } from '../api/context.js';
import { askOf, claimsOf, providerOf, type Claims } from './provider.js';
import { seal, unseal } from './seal.js';

export const callbackPath = '/login/provider/callback';
/** Somebody looks for a password, or a phone: then what the browser keeps counts no more. */
export const halfwayMs = 10 * 60_000;
/** The form is looked at by anybody: the ledger is asked for the button's words at most so often, ms. */
const labelMs = 5_000;
/** Sign-ins that wait for the provider at a time: a slow one does not use up this controller. */
const busyMax = 16;

const halfwaySchema = z.object({
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  redirectUri: z.string(),
  endMs: wallMsSchema,
});

/**
 * Sign-in by a provider of identities. Between its two halves only the browser keeps something, sealed with a key of the
 * ledger: any controller at that address does the second half, and none remembers the first.
 */
export class SignOn {
  private readonly deps: Pick<ApiDeps, 'ledger' | 'view' | 'clock'>;
  private readonly desk: LoginDesk;
  private label: { readonly atMs: number; readonly name: Promise<string | null> } | null = null;
  private busy = 0;

  constructor(deps: Pick<ApiDeps, 'ledger' | 'view' | 'clock'>, desk: LoginDesk) {
    this.deps = deps;
    this.desk = desk;
  }

  async settings(): Promise<{ value: SignOnSettings; modRevision: bigint } | null> {
    const e = await this.deps.ledger.get(signOnKey);
    if (e === null) return null;
    const value = readRecord({ schema: signOnSettingsSchema }, signOnKey, e.value);
    return { value, modRevision: e.modRevision };
  }

  /** What the button of the login form says; null: there is none, or nobody knows now. */
  name(): Promise<string | null> {
    const nowMs = this.deps.clock.nowMs();
    const { view } = this.deps;
    if (!view.ledger.ready || view.ledger.freshness().ledger !== 'ok') return Promise.resolve(null);
    if (this.label === null || nowMs - this.label.atMs > labelMs) {
      const name = this.settings().then(
        (s) => s?.value.name ?? null,
        () => null,
      );
      this.label = { atMs: nowMs, name };
    }
    return this.label.name;
  }

  /** The settings have changed. */
  forget(): void {
    this.label = null;
  }

  /**
   * The first half.
   *
   * @param origin - of this controller, as the browser calls it
   * @returns where the browser goes, and what it keeps until it comes back
   */
  async begin(origin: string, from: string): Promise<{ url: URL; sealed: string }> {
    return this.desk.counted(from, () =>
      this.oneOfFew(async () => {
        const s = await this.wanted();
        const { url, halfway } = await askOf(s, `${origin}${callbackPath}`);
        const endMs = this.deps.clock.wallMs() + halfwayMs;
        return { url, sealed: seal(s.sealKey, JSON.stringify({ ...halfway, endMs })) };
      }),
    );
  }

  /**
   * The second half.
   *
   * @param query - what the browser came back with, from its `?` on
   * @returns the session's token
   * @throws FlotillaError `login-refused`, `provider-untrusted`, `provider-unreachable`, `rate-limited`, `ledger-unavailable`, `ledger-full`
   */
  async finish(sealed: string, query: string, from: string): Promise<ApiToken | null> {
    return this.desk.counted(from, () =>
      this.oneOfFew(async () => {
        const s = await this.wanted();
        const text = unseal(s.sealKey, sealed);
        const halfway = text === null ? null : halfwaySchema.parse(JSON.parse(text));
        if (halfway === null || halfway.endMs <= this.deps.clock.wallMs()) {
          throw new FlotillaError('login-refused', 'This sign-in began in another browser, or too long ago', {
            hint: 'Begin again, here.',
          });
        }
        const claims: Claims = await claimsOf(s, halfway, query);
        const person = personOf(s, claims);
        if (person === null) {
          throw new FlotillaError('login-refused', `${s.name} does not say who you are here`, {
            hint: `The claim "${s.nameClaim}" is missing: an admin looks at flotilla sign-on show.`,
          });
        }
        return parseApiToken((await this.desk.signOn(person, s, from)).token);
      }),
    );
  }

  /** Where the provider ends its own session, and comes back from; null: it cannot. */
  async farewell(origin: string): Promise<URL | null> {
    return this.oneOfFew(async () => {
      const config = await providerOf(await this.wanted());
      if (config.serverMetadata().end_session_endpoint === undefined) return null;
      return buildEndSessionUrl(config, { post_logout_redirect_uri: `${origin}/login` });
    });
  }

  private async wanted(): Promise<SignOnSettings> {
    const s = await this.settings();
    if (s !== null) return s.value;
    throw new FlotillaError('login-refused', 'No provider of identities is set up', {
      hint: 'Log in by name and password. An admin can set one: flotilla sign-on set.',
    });
  }

  private async oneOfFew<T>(act: () => Promise<T>): Promise<T> {
    if (this.busy >= busyMax) {
      throw new FlotillaError('rate-limited', 'Too many sign-ins wait for the provider', {
        hint: 'Try again in a moment, or log in by name and password.',
      });
    }
    this.busy += 1;
    try {
      return await act();
    } finally {
      this.busy -= 1;
    }
  }
}
