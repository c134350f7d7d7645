import type { MiddlewareHandler } from 'hono';

/** Pages without any script: nothing but our own style and pictures, nobody may frame them. */
export const strictCsp =
  "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/**
 * Headers of every answer. A page with scripts (the controller's) has set its own policy.
 * No HSTS: nodes are reached by address, and with a CA that browsers do not know it would have no effect.
 */
export function securityHeaders(): MiddlewareHandler {
  return async (c, next) => {
    await next();
    const h = c.res.headers;
    if (!h.has('content-security-policy')) h.set('content-security-policy', strictCsp);
    h.set('x-content-type-options', 'nosniff');
    h.set('referrer-policy', 'no-referrer');
    h.set('cross-origin-opener-policy', 'same-origin');
    h.set('cross-origin-resource-policy', 'same-origin');
    if (!h.has('cache-control')) h.set('cache-control', 'no-store');
  };
}
