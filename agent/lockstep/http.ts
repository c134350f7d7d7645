import { Hono } from 'hono';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import { lockstepAskSchema, type LockstepAsk } from '../../core/wire/lockstep.js';
import type { AuthEnv } from '../http/auth.js';
import { problemResponse } from '../http/problem.js';

/** Bytes of a question, at most: a machine's XML with room for its JSON. */
export const lockstepBodyMax = 160_000;

/**
 * What agents ask each other about machines in lockstep. Mounted at `/v1/lockstep` behind the agent's mutual TLS.
 *
 * @param asked - with the node that asks, by its certificate
 */
export function lockstepApp(asked: (from: string, ask: LockstepAsk) => Promise<object>): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  app.onError((error) => problemResponse(error));
  app.post('/', async (c) => {
    const who = c.get('identity');
    if (who?.kind !== 'node') throw new FlotillaError('forbidden', 'This is for a node only', { hint: '' });
    const body: unknown = await c.req.json().catch(() => null);
    return c.json(await asked(who.node, parse(lockstepAskSchema, body, 'the question')));
  });
  return app;
}
