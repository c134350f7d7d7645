import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { Context } from 'hono';
import { deleteCookie, getCookie, setCookie } from 'hono/cookie';
import { html } from 'hono/html';
import { FlotillaError, type ErrorCode } from '../../core/domain/error.js';
import {
  badToken,
  endSession,
  parseApiToken,
  sessionCookie,
  startSession,
  type ApiToken,
  type AuthEnv,
  type TokenVerifier,
} from './auth.js';
import { TryLimit } from './try-limit.js';

/** A token has about 60 characters. */
const formBytesMax = 4_096;
/** Failed logins of one address a minute. */
const triesMax = 10;
const triesWindowMs = 60_000;
const addressesMax = 1_024;

export interface LoginOptions {
  readonly verifyToken: TokenVerifier;
  /** Shown above the form, e.g. `node n1`. */
  readonly title: string;
  /** Where a login leads. */
  readonly home: string;
  readonly stylesheet: string;
  nowMs(): number;
  onRefused(kind: 'token'): void;
  /** Where people may also come with name and password. */
  readonly users?: {
    /** @returns the session's token @throws FlotillaError `login-refused`, `code-wanted`, `rate-limited` */
    login(ask: {
      user: string;
      password: string;
      code: string | null;
      from: string;
    }): Promise<ApiToken | null>;
    logout(tokenId: string): Promise<void>;
  };
  /** Where people may also come by a provider of identities (OpenID Connect). */
  readonly provider?: {
    /** What its button says; null: there is none, or nobody knows now. */
    name(): Promise<string | null>;
    /** @throws FlotillaError in words for who tries */
    begin(origin: string, from: string): Promise<{ url: URL; sealed: string }>;
    finish(sealed: string, query: string, from: string): Promise<ApiToken | null>;
    /** Where its own session ends; null: it has no such place. */
    farewell(origin: string): Promise<URL | null>;
  };
}

/** What the browser keeps while somebody is at the provider's. It comes back with the provider's redirect: `Lax`. */
const halfwayCookie = '__Host-flotilla-sign-on';
const halfwayS = 600;

/**
 * `GET /login`, `POST /login`, `POST /logout`: an API token becomes a cookie. Works without JavaScript and without
 * the ledger. Nothing is written anywhere when it fails.
 */
export function loginApp(o: LoginOptions): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  const limit = new TryLimit({ triesMax, windowMs: triesWindowMs, addressesMax });
  const page = async (problem: string | null, loggedOut = false) => {
    const provider = (await o.provider?.name()) ?? null;
    return html`<!doctype html>
      <html lang="en">
        <head>
          <meta charset="utf-8" />
          <meta name="viewport" content="width=device-width, initial-scale=1" />
          <meta name="color-scheme" content="light dark" />
          <title>Log in: ${o.title}</title>
          <link rel="icon" href="data:," />
          <link rel="stylesheet" href="${o.stylesheet}" />
        </head>
        <body>
          <main class="narrow">
            <h1>${o.title}</h1>
            ${
              provider === null || !loggedOut
                ? ''
                : html`<p role="status">
                    You are logged out here. <a href="/logout/provider">Log out of ${provider}, too</a>
                  </p>`
            }
            ${
              provider === null
                ? ''
                : html`<p><a class="button" href="/login/provider">Log in with ${provider}</a></p>`
            }
            <form method="post" action="/login">
              ${o.users === undefined ? '' : nameFields}
              <label for="token">${o.users === undefined ? 'API token' : 'Or an API token'}</label>
              <input
                id="token"
                name="token"
                type="password"
                ${o.users === undefined ? html`required autofocus` : ''}
                autocomplete="off"
                spellcheck="false"
                maxlength="512"
                ${problem === null ? '' : html`aria-describedby="problem" aria-invalid="true"`}
              />
              ${problem === null ? '' : html`<p id="problem" class="bad" role="alert">${problem}</p>`}
              <button type="submit">Log in</button>
            </form>
            <p class="quiet">
              The first ${o.users === undefined ? 'token' : 'password and token'}
              ${o.users === undefined ? 'was' : 'were'} printed when the cluster was founded. A token:
              <code>flotilla-agent token create --kind api</code> on any node.
            </p>
          </main>
        </body>
      </html>`;
  };

  app.get('/login', async (c) => c.html(await page(null, c.req.query('out') !== undefined)));
  if (o.provider !== undefined) byProvider(app, o.provider, page, o.home);

  app.post('/login', bodyLimit({ maxSize: formBytesMax, onError: () => tooLarge() }), async (c) => {
    const wantsPage = c.req.header('accept')?.includes('text/html') === true;
    const refuse = async (error: FlotillaError, headers: Record<string, string> = {}) => {
      if (!wantsPage) throw error;
      return c.html(await page(`${error.message}. ${error.hint}`), error.status as 403, headers);
    };
    // Another site's form could log somebody in as somebody else.
    const site = c.req.header('sec-fetch-site');
    if (site !== undefined && site !== 'same-origin' && site !== 'none') {
      return refuse(
        new FlotillaError('forbidden', 'This login came from another site', { hint: 'Log in here.' }),
      );
    }
    const address = c.env.incoming.socket.remoteAddress ?? '';
    const wait = limit.waitMs(address, o.nowMs());
    if (wait > 0) {
      const s = Math.ceil(wait / 1000);
      const hint = `Try again in ${s} s.`;
      return refuse(new FlotillaError('rate-limited', 'Too many failed logins from this address', { hint }), {
        'retry-after': `${s}`,
      });
    }
    const form = await c.req.parseBody();
    const field = (name: string): string => {
      const value = form[name];
      return typeof value === 'string' ? value : '';
    };
    if (o.users !== undefined && field('token') === '') {
      try {
        const code = field('code').replaceAll(' ', '') || null;
        const ask = { user: field('user').slice(0, 64), password: field('password'), code, from: address };
        const session = await o.users.login(ask);
        if (session !== null) startSession(c, session);
        return c.redirect(o.home, 303);
      } catch (error) {
        if (!(error instanceof FlotillaError)) throw error;
        return refuse(error);
      }
    }
    const token = parseApiToken(field('token'));
    const answer = token === null ? null : await o.verifyToken(token);
    if (token === null || answer?.ok !== true) {
      limit.count(address, o.nowMs());
      o.onRefused('token');
      return refuse(badToken(answer?.ok === false ? answer.code : 'token-unknown'));
    }
    startSession(c, token);
    return c.redirect(o.home, 303);
  });

  app.post('/logout', async (c) => {
    const site = c.req.header('sec-fetch-site');
    const session = parseApiToken(getCookie(c, sessionCookie) ?? '');
    // The cookie alone says whose it is; a made-up one ends nothing, since its secret must be right.
    if (o.users !== undefined && session !== null && (site === undefined || site === 'same-origin')) {
      const answer = await o.verifyToken(session);
      if (answer.ok) await o.users.logout(session.id);
    }
    endSession(c);
    return c.redirect('/login?out', 303);
  });
  return app;
}

/**
 * `GET /login/provider`, `GET /login/provider/callback`, `GET /logout/provider`. Where a login leads is never said in an
 * address, so nobody sends people elsewhere by ours.
 */
function byProvider(
  app: Hono<AuthEnv>,
  provider: NonNullable<LoginOptions['provider']>,
  page: (problem: string | null) => Promise<unknown>,
  home: string,
): void {
  const orSay =
    (act: (c: Context<AuthEnv>, from: string) => Promise<Response>) =>
    async (c: Context<AuthEnv>): Promise<Response> => {
      try {
        return await act(c, c.env.incoming.socket.remoteAddress ?? '');
      } catch (error) {
        if (!(error instanceof FlotillaError)) throw error;
        return c.html((await page(`${error.message}. ${error.hint}`)) as string, error.status);
      }
    };
  app.get(
    '/login/provider',
    orSay(async (c, from) => {
      const { url, sealed } = await provider.begin(originOf(c), from);
      const options = { path: '/', secure: true, httpOnly: true, sameSite: 'Lax', maxAge: halfwayS } as const;
      setCookie(c, halfwayCookie, sealed, options);
      return c.redirect(url.href, 303);
    }),
  );
  app.get(
    '/login/provider/callback',
    orSay(async (c, from) => {
      const sealed = getCookie(c, halfwayCookie) ?? '';
      deleteCookie(c, halfwayCookie, { path: '/', secure: true });
      const session = await provider.finish(sealed, new URL(c.req.url).search, from);
      if (session !== null) startSession(c, session);
      // Not a redirect: the browser came from another site, and would keep the session's cookie to itself on the way.
      return c.html(onwards(home));
    }),
  );
  app.get(
    '/logout/provider',
    orSay(async (c) => c.redirect((await provider.farewell(originOf(c)))?.href ?? '/login', 303)),
  );
}

const originOf = (c: Context): string => `https://${c.req.header('host') ?? new URL(c.req.url).host}`;

const onwards = (home: string) =>
  html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta http-equiv="refresh" content="0;url=${home}" />
        <title>Logged in</title>
        <link rel="icon" href="data:," />
      </head>
      <body>
        <p>You are logged in: <a href="${home}">go on</a>.</p>
      </body>
    </html>`;

const nameFields = html`<label for="user">Name</label>
  <input
    id="user"
    name="user"
    autofocus
    autocomplete="username"
    spellcheck="false"
    autocapitalize="none"
    maxlength="64"
  />
  <label for="password">Password</label>
  <input id="password" name="password" type="password" autocomplete="current-password" maxlength="256" />
  <label for="code">Code, if you set up a second factor</label>
  <input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" maxlength="8" />`;

function tooLarge(): never {
  const code: ErrorCode = 'too-large';
  throw new FlotillaError(code, 'The login form is too large', { hint: 'Send only the token.' });
}
