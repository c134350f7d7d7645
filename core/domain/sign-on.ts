import { z } from 'zod';
import { mayAs, roleSchema, userNameSchema, type Role, type SignOnUser } from './user.js';

/** Providers send a line for each group; more than so many are not looked at. */
const claimValuesMax = 4_096;
/** Names that a provider may give, characters. */
const claimTextMax = 254;

const claimSchema = z.string().min(1).max(128);

/** The provider's address, as its tokens say it: nothing is fetched that was not agreed on with it over TLS. */
export const issuerSchema = z
  .url({ protocol: /^https$/ })
  .max(512)
  .refine((u) => URL.canParse(u) && new URL(u).username === '' && !/[?#]/.test(u), {
    error: 'an https address without login, query or fragment',
  });

/** How people come by a provider of identities (OpenID Connect), without its secrets. */
const signOnFields = {
  /** What the button says. */
  name: z.string().min(1).max(40).default('single sign-on'),
  issuer: issuerSchema,
  clientId: z.string().min(1).max(254),
  /** CA of the provider's certificate, PEM; null: those that everybody trusts. */
  ca: z.string().max(20_000).startsWith('-----BEGIN CERTIFICATE-----').nullable().default(null),
  /** What is asked for beside `openid`. */
  scopes: z
    .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/, 'a word without blanks and quotes'))
    .max(16)
    .default(['profile', 'email']),
  /** The claim that names people. Who may change it at the provider can take a name that nobody has come with yet. */
  nameClaim: claimSchema.default('preferred_username'),
  /** The claim whose values give roles: a name, or a path with dots to one inside others. */
  roleClaim: claimSchema.default('groups'),
  /** The highest role of those whose value the claim has. Empty: roles are set here, by hand. */
  roles: z
    .array(z.strictObject({ value: z.string().min(1).max(claimTextMax), role: roleSchema }))
    .max(64)
    .default([]),
  /** The role of those for whom `roles` says nothing; null: they are not let in. With no `roles`: of users that are made. */
  otherRole: roleSchema.nullable().default(null),
  /** Whether users are made at their first sign-in; else an admin names each before. */
  makesUsers: z.boolean().default(false),
};
export const signOnPutFields = z.strictObject({
  ...signOnFields,
  /** Null: a public client. Left out: as it is, for the same provider and client. */
  clientSecret: z.string().min(1).max(512).nullable().optional(),
});

/** `/flotilla/sign-on`: with secrets, so it is read where it is used, and in no view. */
export const signOnSettingsSchema = z.object({
  ...signOnFields,
  clientSecret: z.string().min(1).max(512).nullable(),
  /** Seals what a browser keeps between the two halves of a sign-in: any controller can do the second half. Hex. */
  sealKey: z.string().regex(/^[0-9a-f]{64}$/),
});
export type SignOnSettings = z.output<typeof signOnSettingsSchema>;

/** Somebody whom the provider vouches for. */
export interface SignOnPerson extends NonNullable<SignOnUser['bound']> {
  readonly name: string;
  /** By the claims; null: they give none. */
  readonly role: Role | null;
}

type Rules = Pick<SignOnSettings, 'nameClaim' | 'roleClaim' | 'roles'>;

/** Whether the claims say all that is to be known; else the provider's user information is asked for. */
export const tellsAll = (s: Rules, claims: Readonly<Record<string, unknown>>): boolean =>
  claimOf(claims, s.nameClaim) !== undefined &&
  (s.roles.length === 0 || claimOf(claims, s.roleClaim) !== undefined);

/**
 * Who somebody is by the claims of a provider.
 *
 * @param claims - of a token whose signature, issuer, audience and times are in order
 * @returns null: it does not name anybody
 */
export function personOf(s: Rules, claims: Readonly<Record<string, unknown>>): SignOnPerson | null {
  const { iss, sub } = claims;
  const name = claimOf(claims, s.nameClaim);
  if (typeof iss !== 'string' || typeof sub !== 'string' || sub === '' || sub.length > 255) return null;
  if (typeof name !== 'string' || name === '' || name.length > claimTextMax) return null;
  const value = claimOf(claims, s.roleClaim);
  const values = new Set((Array.isArray(value) ? (value as unknown[]) : [value]).slice(0, claimValuesMax));
  const role = s.roles.reduce<Role | null>(
    (best, r) => (values.has(r.value) && (best === null || mayAs(r.role, best)) ? r.role : best),
    null,
  );
  return { issuer: iss, subject: sub, name, role };
}

/** A claim by its name, which may have dots itself, or by a path. */
function claimOf(claims: Readonly<Record<string, unknown>>, at: string): unknown {
  if (Object.hasOwn(claims, at)) return claims[at];
  let here: unknown = claims;
  for (const part of at.split('.')) {
    if (typeof here !== 'object' || here === null || !Object.hasOwn(here, part)) return undefined;
    here = (here as Record<string, unknown>)[part];
  }
  return here;
}

/**
 * The name of a user that is made for somebody: of an address of mail the part before the @.
 *
 * @returns null: nothing of it can be a name here
 */
export function userNameOf(name: string): string | null {
  const text = name
    .toLowerCase()
    .replace(/@.*$/s, '')
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z]+/, '')
    .slice(0, 32)
    .replace(/[._-]+$/, '');
  const r = userNameSchema.safeParse(text);
  return r.success ? r.data : null;
}
