import { z } from 'zod';
import { FlotillaError } from './error.js';

/** Largest value a ledger key may hold, bytes: the ledger is for decisions, not for data. */
export const ledgerValueBytesMax = 65_536;

/**
 * A name people give: letters and digits of any script, `-`, `_`, `.`, inner spaces; 1 to 63 characters;
 * stored in NFC, so that two spellings that look the same are the same name.
 */
export const nameSchema = z
  .string()
  .max(63 * 4)
  .transform((s) => s.normalize('NFC'))
  .pipe(
    z
      .string()
      .min(1)
      .max(63)
      .regex(
        /^[\p{L}\p{N}](?:[\p{L}\p{M}\p{N} ._-]*[\p{L}\p{M}\p{N}])?$/u,
        'use letters, digits, and inside also - _ . and spaces',
      ),
  );

/** A node's id is its host name: it stands in certificates, topics and keys. */
export const nodeIdSchema = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/, 'lower-case letters, digits and -, at most 32');

/** Objects other than nodes have UUIDs, lower case. */
export const idSchema = z.uuid().transform((s) => s.toLowerCase());

export const ipv4Schema = z.ipv4();
export const macSchema = z
  .string()
  .regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i, 'six hexadecimal pairs with colons')
  .transform((s) => s.toLowerCase())
  .refine((s) => (parseInt(s.slice(0, 2), 16) & 1) === 0, 'a multicast address cannot be a NIC');

/** Milliseconds since 1970 by the writer's wall clock: for people; no decision uses it. */
export const wallMsSchema = z.number().int().nonnegative();

/** Free text for people, at most 4 kB. */
export const noteSchema = z.string().max(4096);

/** Key-value words of the user; bounded so that an object always fits a ledger value. */
export const tagsSchema = z.array(nameSchema).max(32);

/**
 * Parses what came from outside.
 *
 * @param what - the object as a person knows it, e.g. `VM "web"`
 * @throws FlotillaError `unknown-field` where the only fault is fields we do not know; `bad-input` otherwise.
 *   The message names each path and fault, never the value (it may be a secret or a megabyte).
 */
export function parse<T extends z.ZodType>(schema: T, value: unknown, what: string): z.output<T> {
  const r = schema.safeParse(value);
  if (r.success) return r.data;
  throw inputRefused(r.error.issues, what);
}

/**
 * What a schema says against an input, as the refusal to give.
 *
 * @param all - the complaints of zod, for those who do not parse by {@link parse}
 */
export function inputRefused(all: readonly z.core.$ZodIssue[], what: string): FlotillaError {
  const issues = all.slice(0, 8);
  const text = issues.map((i) => {
    const path = i.path.map(String).join('.');
    return path === '' ? i.message : `${path}: ${i.message}`;
  });
  const unknown = issues.every((i) => i.code === 'unrecognized_keys');
  return new FlotillaError(unknown ? 'unknown-field' : 'bad-input', `${what}: ${text.join('; ')}`, {
    hint: unknown
      ? 'Remove the fields named; "flotilla help" and /openapi.json list the ones there are.'
      : 'Correct the fields named and send it again; nothing was changed.',
    details: issues.map((i) => ({ path: i.path.map(String).join('.'), message: i.message })),
  });
}
