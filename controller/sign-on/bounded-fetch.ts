import { request } from 'node:https';
import type { CustomFetch } from 'openid-client';

/** A provider's answers are documents of some kilobytes; tokens with a thousand groups are below this, bytes. */
const answerBytesMax = 512 * 1024;

/**
 * Fetches from one provider: TLS only, with its own CA if it has one (node's `fetch` takes none), never redirected, and
 * an answer of bounded size. How long it may take is up to the signal.
 *
 * @param ca - PEM; null: the CAs that everybody trusts
 */
export const boundedFetch =
  (ca: string | null): CustomFetch =>
  (url, { method, headers, body, signal }) =>
    new Promise((resolve, reject) => {
      const req = request(
        url,
        { method, headers, agent: false, ...(ca === null ? {} : { ca }), ...(signal ? { signal } : {}) },
        (res) => {
          const parts: Buffer[] = [];
          let bytes = 0;
          res.on('data', (part: Buffer) => {
            bytes += part.length;
            parts.push(part);
            if (bytes > answerBytesMax) req.destroy(new Error('the answer is too large'));
          });
          res.on('error', reject);
          res.on('end', () => {
            const status = res.statusCode ?? 0;
            if (status < 200 || status > 599) return reject(new Error(`status ${status}`));
            const empty = [204, 205, 304].includes(status);
            const type = res.headers['content-type'];
            resolve(
              new Response(empty ? null : Buffer.concat(parts), {
                status,
                headers: type === undefined ? {} : { 'content-type': type },
              }),
            );
          });
        },
      );
      req.on('error', reject);
      // The library sends forms.
      req.end(body instanceof URLSearchParams || typeof body === 'string' ? String(body) : undefined);
    });
