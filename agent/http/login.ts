import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { getCookie } from 'hono/cookie';
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
}

/**
 * `GET /login`, `POST /login`, `POST /logout`: an API token becomes a cookie. Works without JavaScript and without
 * the ledger. Nothing is written anywhere when it fails.
 */
export function loginApp(o: LoginOptions): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  const limit = new TryLimit({ triesMax, windowMs: triesWindowMs, addressesMax });
  const page = (problem: string | null) =>
    html`<!doctype html>
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

  app.get('/login', (c) => c.html(page(null)));

  app.post('/login', bodyLimit({ maxSize: formBytesMax, onError: () => tooLarge() }), async (c) => {
    const wantsPage = c.req.header('accept')?.includes('text/html') === true;
    const refuse = (error: FlotillaError, headers: Record<string, string> = {}) => {
      if (!wantsPage) throw error;
      return c.html(page(`${error.message}. ${error.hint}`), error.status as 403, headers);
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
      limit.failed(address, o.nowMs());
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
    return c.redirect('/login', 303);
  });
  return app;
}

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
