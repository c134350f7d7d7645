import { z } from 'zod';
import { idSchema, wallMsSchema } from './schema.js';
import { passwordHashSchema, totpSecretSchema, userNameSchema, usersMax } from './user.js';

/** A node that reaches nobody lets its admins in for so long after the list was signed, ms. */
export const breakGlassMs = 30 * 86_400_000;
/** It is signed anew when less than this is left, ms: a node may be away for that long less without losing any of it. */
export const breakGlassRenewMs = 29 * 86_400_000;

/** Admins that may come to a node's own page by name and password, whether or not the ledger is there. */
export const breakGlassListSchema = z.object({
  cluster: idSchema,
  madeMs: wallMsSchema,
  untilMs: wallMsSchema,
  accounts: z
    .array(
      z.object({
        name: userNameSchema,
        password: passwordHashSchema,
        /** Null: no second factor is asked for. */
        totp: totpSecretSchema.nullable(),
      }),
    )
    .max(usersMax),
});
export type BreakGlassList = z.output<typeof breakGlassListSchema>;

/** `/flotilla/break-glass`: the list as text, and the CA's signature of it. No view has it. */
export const breakGlassRecordSchema = z.object({
  /** JSON of {@link breakGlassListSchema}; the signature is of this very text. */
  list: z.string().max(60_000),
  /** Base64, ECDSA with SHA-256 of {@link breakGlassSigned}. */
  signature: z.string().max(512),
});
export type BreakGlassRecord = z.output<typeof breakGlassRecordSchema>;

/** What is signed: no certificate or other text of the CA begins so. */
export const breakGlassSigned = (list: string): string => `flotilla break-glass 1\n${list}`;
