import { z } from 'zod';
import { tagsSchema, wallMsSchema } from '../domain/schema.js';
import {
  operatesMax,
  passwordSchema,
  roleSchema,
  signOnUserSchema,
  totpCodeSchema,
  totpSecretSchema,
  userNameSchema,
  userSchema,
} from '../domain/user.js';
import { refSchema } from './rest-objects.js';

/** A user without secrets. */
export const userViewSchema = userSchema
  .omit({ password: true, totp: true })
  .extend({ secondFactor: z.boolean(), passwordSet: z.boolean() })
  .meta({ id: 'User' });
export type UserView = z.output<typeof userViewSchema>;

const operatesInput = z.array(refSchema).max(operatesMax);

export const userCreateSchema = z
  .strictObject({
    name: userNameSchema,
    role: roleSchema,
    /** May be left out with `signOn`. */
    password: passwordSchema.optional(),
    /** What the provider of identities calls the user, who comes by it. */
    signOn: signOnUserSchema.shape.name.optional(),
    operates: operatesInput.optional(),
    /** Tags whose VMs the user operates too; replaced as a whole. */
    operatesTags: tagsSchema.optional(),
    /** vApps the user operates with all that is in them, by name or id. */
    operatesVapps: operatesInput.optional(),
  })
  .meta({ id: 'UserCreate' });

export const userPatchSchema = z
  .strictObject({
    role: roleSchema.optional(),
    /** VMs, replaced as a whole. */
    operates: operatesInput.optional(),
    /** Tags whose VMs the user operates too; replaced as a whole. */
    operatesTags: tagsSchema.optional(),
    /** vApps the user operates; replaced as a whole. */
    operatesVapps: operatesInput.optional(),
    disabled: z.boolean().optional(),
    /** A new password; ends the user's sessions. Null: none, for who comes by the provider. */
    password: passwordSchema.nullable().optional(),
    /** The user comes by the provider, which calls them so: bound anew at the next sign-in. Null: no more. */
    signOn: signOnUserSchema.shape.name.nullable().optional(),
    /** Turns the second factor off, for who lost it. */
    secondFactor: z.literal(false).optional(),
  })
  .meta({ id: 'UserPatch' });

export const loginSchema = z
  .strictObject({
    user: z.string().max(64),
    password: z.string().max(256),
    code: totpCodeSchema.optional(),
  })
  .meta({ id: 'Login' });

/** Who asks, and what that one may. */
export const meSchema = z
  .object({
    name: z.string(),
    via: z.enum(['session', 'token', 'certificate']),
    role: roleSchema,
    operates: z.array(z.string()),
    operatesTags: z.array(z.string()),
    /** Those whose owner it is, too. */
    operatesVapps: z.array(z.string()),
    /** Null: a token that is nobody's, or a node. */
    user: userViewSchema.nullable(),
  })
  .meta({ id: 'Me' });
export type Me = z.output<typeof meSchema>;

/** A session's token is an API token that ends by itself; a browser has it in its cookie. */
export const loggedInSchema = z
  .object({ token: z.string(), expiresMs: wallMsSchema, me: meSchema })
  .meta({ id: 'LoggedIn' });

export const passwordChangeSchema = z
  .strictObject({ old: z.string().max(256), new: passwordSchema })
  .meta({ id: 'PasswordChange' });

export const totpNewSchema = z
  .object({ secret: totpSecretSchema, uri: z.string() })
  .meta({ id: 'SecondFactorSecret' });

export const totpPutSchema = z
  .strictObject({
    password: z.string().max(256),
    /** Null: off. */
    secret: totpSecretSchema.nullable(),
    /** Of that secret, to show that the authenticator has it. */
    code: totpCodeSchema.nullable(),
  })
  .meta({ id: 'SecondFactor' });
