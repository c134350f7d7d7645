import { randomBytes } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import type { Context } from 'hono';
import { FlotillaError } from '../core/domain/error.js';

/** A file of the web page, as it is sent. */
export interface WebFile {
  readonly type: string;
  readonly gzip: Uint8Array<ArrayBuffer>;
}
export type WebFiles = ReadonlyMap<string, WebFile>;

/** Reads what `scripts/bundle.mjs` packed: `flotilla-web.mjs` beside the program. */
export async function readWebFiles(url: URL): Promise<WebFiles> {
  const { files } = (await import(url.href)) as { files: Record<string, { type: string; gzip: string }> };
  return new Map(
    Object.entries(files).map(([name, f]) => [
      name,
      { type: f.type, gzip: Uint8Array.from(Buffer.from(f.gzip, 'base64')) },
    ]),
  );
}

/** Where the page's own addresses begin: each of them is the same page, which reads the rest from its address. */
export const pagePaths = [
  '/',
  '/vms/*',
  '/vapps/*',
  '/nodes/*',
  '/pools/*',
  '/networks/*',
  '/images/*',
  '/ha/*',
  '/balance/*',
  '/classes/*',
  '/templates/*',
  '/ops/*',
  '/tokens/*',
  '/users/*',
  '/sign-on/*',
  '/notifications/*',
  '/me/*',
];

/** Scripts of this origin only; styles that the component library makes carry the nonce of this very answer. */
const policy = (nonce: string): string =>
  `default-src 'none'; script-src 'self'; style-src 'self' 'nonce-${nonce}'; img-src 'self' data:; connect-src 'self'; ` +
  "form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/** The page itself, with a policy of its own. @throws FlotillaError `not-found`: it is not part of this build */
export function pageResponse(files: WebFiles, c: Pick<Context, 'body'>): Response {
  const index = files.get('index.html');
  if (index === undefined) {
    throw new FlotillaError('not-found', 'This controller was built without its page', {
      hint: 'Use the command line, or build it: npm run build.',
    });
  }
  const nonce = randomBytes(16).toString('base64url');
  const text = gunzipSync(index.gzip).toString('utf8').replaceAll('__NONCE__', nonce);
  return c.body(text, 200, {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': policy(nonce),
  });
}

/** A script, style or picture of the page; null: there is none of that name. */
export function fileResponse(files: WebFiles, name: string, c: Context): Response | null {
  const file = files.get(name);
  if (file === undefined || name === 'index.html') return null;
  const headers: Record<string, string> = {
    'content-type': file.type,
    // Names below assets/ change with their content.
    'cache-control': name.startsWith('assets/')
      ? 'public, max-age=31536000, immutable'
      : 'public, max-age=3600',
    vary: 'accept-encoding',
  };
  if (!/\bgzip\b/.test(c.req.header('accept-encoding') ?? ''))
    return c.body(Uint8Array.from(gunzipSync(file.gzip)), 200, headers);
  return c.body(file.gzip, 200, { ...headers, 'content-encoding': 'gzip' });
}
