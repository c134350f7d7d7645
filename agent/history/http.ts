import { Hono } from 'hono';
import { z } from 'zod';
import { historySpanSchema } from '../../core/domain/history.js';
import { idSchema, parse } from '../../core/domain/schema.js';
import type { HistoryKeeper } from './keep.js';

const subjectSchema = z.union([z.literal('node'), idSchema]);

/** `GET /v1/history/node?span=day`, `GET /v1/history/<VM's id>`: what this node kept, for controllers. */
export function historyApp(history: Pick<HistoryKeeper, 'read'>): Hono {
  const app = new Hono();
  app.get('/:subject', async (c) => {
    const subject = parse(subjectSchema, c.req.param('subject'), 'The subject');
    const span = parse(historySpanSchema, c.req.query('span') ?? 'day', 'The span');
    return c.json(await history.read(subject, span));
  });
  return app;
}
