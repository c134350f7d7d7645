import { Hono } from 'hono';
import { parse } from '../../core/domain/schema.js';
import { auditLetterSchema } from '../../core/wire/audit.js';
import type { Log } from '../env.js';
import type { AuthEnv } from './auth.js';
import { problemResponse } from './problem.js';

/**
 * The second copy of a controller's audit, in the journal of this node. Mounted at `/v1/audit` behind mutual TLS, for nodes:
 * `by` is the one whose certificate it was, whatever the lines say.
 */
export function auditApp(log: Log): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  app.onError((error) => problemResponse(error));
  app.post('/', async (c) => {
    const who = c.get('identity');
    const by = who?.kind === 'node' ? who.node : '';
    const body: unknown = await c.req.json().catch(() => null);
    const { lines } = parse(auditLetterSchema, body, 'the audit');
    for (const { atMs, fields } of lines)
      log.info('audit', { ...fields, at: new Date(atMs).toISOString(), by });
    return c.json({});
  });
  return app;
}
