import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { html } from 'hono/html';
import { FlotillaError, type ErrorCode } from '../../core/domain/error.js';
import {
  badToken,
  endSession,
  parseApiToken,
  startSession,
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
              <label for="token">API token</label>
              <input
                id="token"
                name="token"
                type="password"
                required
                autofocus
                autocomplete="current-password"
                spellcheck="false"
                maxlength="512"
                ${problem === null ? '' : html`aria-describedby="problem" aria-invalid="true"`}
              />
              ${problem === null ? '' : html`<p id="problem" class="bad" role="alert">${problem}</p>`}
              <button type="submit">Log in</button>
            </form>
            <p class="quiet">
              The first token was printed when the cluster was founded. Another:
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
    const given = (await c.req.parseBody())['token'];
    const token = typeof given === 'string' ? parseApiToken(given) : null;
    const answer = token === null ? null : await o.verifyToken(token);
    if (token === null || answer?.ok !== true) {
      limit.failed(address, o.nowMs());
      o.onRefused('token');
      return refuse(badToken(answer?.ok === false ? answer.code : 'token-unknown'));
    }
    startSession(c, token);
    return c.redirect(o.home, 303);
  });

  app.post('/logout', (c) => {
    endSession(c);
    return c.redirect('/login', 303);
  });
  return app;
}

function tooLarge(): never {
  const code: ErrorCode = 'too-large';
  throw new FlotillaError(code, 'The login form is too large', { hint: 'Send only the token.' });
}
