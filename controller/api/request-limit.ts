import type { MiddlewareHandler } from 'hono';
import { FlotillaError } from '../../core/domain/error.js';
import type { AuthEnv, Identity } from '../../agent/http/auth.js';
import { problemResponse } from '../../agent/http/problem.js';
import { TryLimit } from '../../agent/http/try-limit.js';

const windowMs = 10_000;
/** Far beyond what a page with everything open, or a script of many VMs, asks for; half of what a controller can answer. */
const callerMax = 10_000;
/** Who is nobody is only ever refused, and need not be refused often. */
const strangerMax = 600;
/** Callers remembered: more than there are users, tokens and nodes. */
const callersMax = 10_000;

/**
 * Requests of one caller within ten seconds, so that a loop gone wild leaves the others their answers; what is too many is
 * answered with `rate-limited` and `Retry-After`. Each controller counts for itself.
 */
export function requestLimit(clock: { nowMs(): number }): MiddlewareHandler<AuthEnv> {
  const callers = new TryLimit({ triesMax: callerMax, windowMs, addressesMax: callersMax });
  const strangers = new TryLimit({ triesMax: strangerMax, windowMs, addressesMax: callersMax });
  return async (c, next) => {
    const who = c.get('identity');
    const limit = who === null ? strangers : callers;
    const caller = who === null ? (c.env.incoming.socket.remoteAddress ?? '') : callerOf(who);
    const nowMs = clock.nowMs();
    const waitMs = limit.waitMs(caller, nowMs);
    if (waitMs > 0) {
      const s = Math.ceil(waitMs / 1000);
      const error = new FlotillaError('rate-limited', 'Too many requests', {
        hint: `Ask again in ${s} s. What is to be followed need not be asked for: GET /events tells it.`,
      });
      return problemResponse(error, { 'retry-after': String(s) });
    }
    limit.count(caller, nowMs);
    return next();
  };
}

/** All sessions and tokens of a user are one. */
const callerOf = (who: Identity): string =>
  who.kind === 'node' ? `node ${who.node}` : `token ${who.rights?.user ?? who.id}`;
