import { z } from 'zod';
import { idSchema, tagsSchema, wallMsSchema } from './schema.js';

/** What somebody may do: look; also handle VMs and images; everything. Each may what those before it may. */
export const roleSchema = z.enum(['viewer', 'operator', 'admin']);
export type Role = z.output<typeof roleSchema>;

export const mayAs = (has: Role, needs: Role): boolean =>
  roleSchema.options.indexOf(has) >= roleSchema.options.indexOf(needs);
export const lesserRole = (a: Role, b: Role): Role => (mayAs(a, b) ? b : a);

/** VMs one user operates beyond the role in the whole cluster. */
export const operatesMax = 256;
/** Users of a cluster: with their sessions they stay far below what the ledger and a node's copy of it hold. */
export const usersMax = 64;
/** Sessions of one user; the oldest ends for a new one. */
export const sessionsMax = 8;

export const userNameSchema = z
  .string()
  .regex(/^[a-z][a-z0-9._-]{0,31}$/, 'lower-case letters, digits and . _ -, first a letter, at most 32');

/** Long enough not to be guessed at the pace that the door allows; no rules of composition. */
export const passwordSchema = z.string().min(10).max(256);

/** Six digits of an authenticator. */
export const totpCodeSchema = z.string().regex(/^\d{6}$/, 'six digits');
/** 160 bits, base 32. */
export const totpSecretSchema = z.string().regex(/^[A-Z2-7]{32}$/);

/** A password as kept: scrypt with its costs, so that they can be raised later. */
export const passwordHashSchema = z.object({
  n: z.number().int(),
  r: z.number().int(),
  p: z.number().int(),
  /** Hex. */
  salt: z.string().regex(/^[0-9a-f]{32}$/),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
});
export type PasswordHash = z.output<typeof passwordHashSchema>;

/** Somebody who comes by the provider of identities. */
export const signOnUserSchema = z.object({
  /** What the provider calls them. It counts until the first sign-in only: names change hands. */
  name: z.string().min(1).max(254),
  /** Who it was at the first sign-in: from then on nobody else is this user. */
  bound: z.object({ issuer: z.string().max(512), subject: z.string().min(1).max(255) }).nullable(),
});
export type SignOnUser = z.output<typeof signOnUserSchema>;

/** `/flotilla/user/<id>`. Written only by who is logged in: a failed login leaves nothing. */
export const userSchema = z.object({
  id: idSchema,
  name: userNameSchema,
  role: roleSchema,
  /** VMs where the user is an operator, whatever the role. */
  operates: z.array(idSchema).max(operatesMax),
  /** Tags whose VMs the user operates too, those that get the tag later among them. Records of before have none. */
  operatesTags: tagsSchema.default([]),
  /** vApps the user operates, with all that is in them. */
  operatesVapps: z.array(idSchema).max(operatesMax).default([]),
  disabled: z.boolean(),
  /** Null: comes by the provider of identities only. */
  password: passwordHashSchema.nullable(),
  /** The second factor's secret; null: none is asked for. */
  totp: totpSecretSchema.nullable(),
  /** Null: does not come by the provider. Records of before have none. */
  signOn: signOnUserSchema.nullable().default(null),
  createdMs: wallMsSchema,
  passwordMs: wallMsSchema,
});
export type User = z.output<typeof userSchema>;
