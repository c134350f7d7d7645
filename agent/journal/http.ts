import { Hono } from 'hono';
import { z } from 'zod';
import { journalEntrySchema, type JournalEntry } from '../../core/domain/ha.js';
import { nodeIdSchema } from '../../core/domain/schema.js';
import type { FileJournal } from './journal.js';

/** Largest answer taken, bytes: a journal at its bounds is below 2 MB. */
export const journalAnswerBytesMax = 4 * 2 ** 20;

/** `GET /v1/journal`: a node's ownership journal, for a recovery on another node. */
export const journalAnswerSchema = z.object({
  node: nodeIdSchema,
  entries: z.array(journalEntrySchema).max(20_000),
  /** Lines there that nobody could read. */
  unreadable: z.number().int().nonnegative(),
});
export type JournalAnswer = z.output<typeof journalAnswerSchema>;

export function journalApp(node: string, journal: Pick<FileJournal, 'entries' | 'state'>): Hono {
  const app = new Hono();
  app.get('/', (c) => {
    const entries: readonly JournalEntry[] = journal.entries();
    return c.json({ node, entries, unreadable: journal.state().unreadable } satisfies {
      [K in keyof JournalAnswer]: unknown;
    });
  });
  return app;
}
