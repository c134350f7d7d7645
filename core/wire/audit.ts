import { z } from 'zod';
import { wallMsSchema } from '../domain/schema.js';

const word = z.string().max(500);

/** A line of the audit as it travels to a second node: who did what, from where, and what came of it. */
export const auditLineSchema = z.object({
  atMs: wallMsSchema,
  /** As at the controller: names to words, or to names and words. */
  fields: z
    .record(z.string().max(64), z.union([word, z.record(z.string().max(64), word)]))
    .refine((f) => Object.keys(f).length <= 16, 'too many fields'),
});
export type AuditLine = z.output<typeof auditLineSchema>;

/** Lines of one letter, at most. */
export const auditLinesMax = 100;

/** `POST /v1/audit`: a controller's audit, for the journal of another node. */
export const auditLetterSchema = z.object({ lines: z.array(auditLineSchema).min(1).max(auditLinesMax) });
export type AuditLetter = z.output<typeof auditLetterSchema>;

/** Bytes of a letter, at most. */
export const auditLetterBytesMax = 512_000;
