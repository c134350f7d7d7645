import * as oidc from 'openid-client';
import { FlotillaError } from '../../core/domain/error.js';
import type { SignOnSettings } from '../../core/domain/sign-on.js';
import { tellsAll } from '../../core/domain/sign-on.js';
import { boundedFetch } from './bounded-fetch.js';

/** One request to the provider, s: somebody waits for it in front of a screen. */
const requestS = 10;
/** Clocks of provider and node may be apart by so much, s. */
const clockToleranceS = 60;
/** A provider's words are shown up to so many characters. */
const saidMax = 200;

export type Claims = Readonly<Record<string, unknown>>;

/**
 * The provider as it is now. Nothing of it is kept between two sign-ins: keys that were changed a moment ago count, and a
 * controller that takes over in the middle knows as much as the one before.
 *
 * @throws FlotillaError `provider-unreachable`; `provider-untrusted`: its description is not that of this issuer
 */
export async function providerOf(s: SignOnSettings): Promise<oidc.Configuration> {
  return spoken(s, async () => {
    const fetch = boundedFetch(s.ca);
    const found = await oidc.discovery(new URL(s.issuer), s.clientId, undefined, oidc.None(), {
      [oidc.customFetch]: fetch,
      timeout: requestS,
    });
    const server = found.serverMetadata();
    if (server.issuer !== s.issuer) {
      throw new FlotillaError('provider-untrusted', `The provider calls itself ${clip(server.issuer)}`, {
        hint: `The issuer set here is ${s.issuer}: they must be the same to the letter.`,
      });
    }
    const config = new oidc.Configuration(
      server,
      s.clientId,
      { [oidc.clockTolerance]: clockToleranceS },
      authOf(s, server.token_endpoint_auth_methods_supported),
    );
    config[oidc.customFetch] = fetch;
    config.timeout = requestS;
    // Not only the way by which a token came must be right, but its signature too.
    oidc.enableNonRepudiationChecks(config);
    return config;
  });
}

/** What a provider says that names no method is Basic, by its standard. */
function authOf(s: SignOnSettings, methods: readonly string[] = ['client_secret_basic']): oidc.ClientAuth {
  if (s.clientSecret === null) return oidc.None();
  const form = methods.includes('client_secret_post');
  return form ? oidc.ClientSecretPost(s.clientSecret) : oidc.ClientSecretBasic(s.clientSecret);
}

/** What one half of a sign-in leaves for the other. */
export interface Halfway {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
  readonly redirectUri: string;
}

/** Where somebody is sent to say who they are, and what must be known when they come back. */
export async function askOf(s: SignOnSettings, redirectUri: string): Promise<{ url: URL; halfway: Halfway }> {
  const config = await providerOf(s);
  const halfway = {
    state: oidc.randomState(),
    nonce: oidc.randomNonce(),
    verifier: oidc.randomPKCECodeVerifier(),
    redirectUri,
  };
  return spoken(s, async () => ({
    url: oidc.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri,
      scope: [...new Set(['openid', ...s.scopes])].join(' '),
      state: halfway.state,
      nonce: halfway.nonce,
      code_challenge: await oidc.calculatePKCECodeChallenge(halfway.verifier),
      code_challenge_method: 'S256',
    }),
    halfway,
  }));
}

/**
 * Gets the claims for what the provider sent somebody back with.
 *
 * @param query - of the address that the browser came to
 * @throws FlotillaError `login-refused`, `provider-untrusted`, `provider-unreachable`
 */
export async function claimsOf(s: SignOnSettings, h: Halfway, query: string): Promise<Claims> {
  const config = await providerOf(s);
  return spoken(s, async () => {
    const tokens = await oidc.authorizationCodeGrant(config, new URL(`${h.redirectUri}${query}`), {
      expectedState: h.state,
      expectedNonce: h.nonce,
      pkceCodeVerifier: h.verifier,
      idTokenExpected: true,
    });
    const claims: Claims = tokens.claims() ?? {};
    if (tellsAll(s, claims) || config.serverMetadata().userinfo_endpoint === undefined) return claims;
    const more = await oidc.fetchUserInfo(config, tokens.access_token, String(claims['sub']));
    return { ...more, ...claims };
  });
}

/** How many keys the provider's tokens may be signed with now. */
export async function keysOf(s: SignOnSettings, config: oidc.Configuration): Promise<number> {
  return spoken(s, async () => {
    const url = config.serverMetadata().jwks_uri ?? '';
    const answer = await boundedFetch(s.ca)(url, {
      method: 'GET',
      headers: { accept: 'application/json' },
      body: undefined,
      redirect: 'manual',
      signal: AbortSignal.timeout(requestS * 1000),
    });
    const { keys } = (await answer.json()) as { keys?: unknown };
    if (Array.isArray(keys) && keys.length > 0) return keys.length;
    throw new oidc.ClientError('it has no keys');
  });
}

/** Turns what went wrong with the provider into words; secrets are in none of the library's own. */
async function spoken<T>(s: SignOnSettings, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof FlotillaError) throw error;
    if (error instanceof oidc.AuthorizationResponseError || error instanceof oidc.ResponseBodyError) {
      const why = clip([error.error, error.error_description ?? ''].filter((x) => x !== '').join(': '));
      throw new FlotillaError('login-refused', `${s.name} says no: ${why}`, {
        hint: 'Begin again. Where it says so each time, an admin of the provider knows why.',
      });
    }
    const parts = [error, (error as Error).cause].filter((e) => e instanceof Error).map((e) => e.message);
    const why = clip([...new Set(parts)].join(': '));
    if (error instanceof oidc.ClientError && !unreachable(error)) {
      throw new FlotillaError('provider-untrusted', `What ${s.name} answered is not accepted: ${why}`, {
        hint: 'Begin again. If it stays so, an admin compares issuer, client and clocks: flotilla sign-on test.',
      });
    }
    throw new FlotillaError('provider-unreachable', `${s.name} does not answer as it should: ${why}`, {
      hint: 'Users with a password log in as before. An admin looks: flotilla sign-on test.',
    });
  }
}

/** Network and TLS failures come out of the library as causes of its own error, without a code. */
const unreachable = (e: oidc.ClientError): boolean =>
  e.code === undefined || ['OAUTH_TIMEOUT', 'OAUTH_ABORT', 'OAUTH_RESPONSE_IS_NOT_CONFORM'].includes(e.code);

const clip = (text: string): string => text.replace(/[^\x20-\x7e]+/g, ' ').slice(0, saidMax);
