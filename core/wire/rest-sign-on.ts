import { z } from 'zod';
import { signOnPutFields, signOnSettingsSchema } from '../domain/sign-on.js';
import { nothingSchema, type RestRoute } from './rest-route.js';

/** How people come by a provider of identities, without its secrets. */
export const signOnViewSchema = z
  .object({
    /** Null: none is set. */
    provider: signOnSettingsSchema
      .omit({ clientSecret: true, sealKey: true })
      .extend({ clientSecretSet: z.boolean() })
      .nullable(),
    /** Below each controller's address: the provider must know it as the address to send people back to. */
    callbackPath: z.string(),
  })
  .meta({ id: 'SignOn' });
export type SignOnView = z.output<typeof signOnViewSchema>;

export const signOnPutSchema = signOnPutFields.meta({ id: 'SignOnPut' });

/** What the provider says of itself. */
export const signOnTestSchema = z
  .object({
    issuer: z.string(),
    authorizationEndpoint: z.string(),
    /** Keys that its tokens may be signed with. */
    keys: z.number().int(),
    /** Whether it can also end its own session. */
    endsSessions: z.boolean(),
  })
  .meta({ id: 'SignOnTest' });

/** The provider of identities: a part of the table in `rest.ts`. */
export const signOnRoutes = {
  signOnGet: {
    method: 'get',
    path: '/sign-on',
    tag: 'users',
    summary: 'The provider by which people log in (OpenID Connect), without its secret',
    status: 200,
    response: signOnViewSchema,
    access: 'admin',
  },
  signOnPut: {
    method: 'put',
    path: '/sign-on',
    tag: 'users',
    summary: 'Set the provider by which people log in, as a whole',
    body: signOnPutSchema,
    status: 200,
    response: signOnViewSchema,
  },
  signOnDelete: {
    method: 'delete',
    path: '/sign-on',
    tag: 'users',
    summary: 'Forget the provider; users and sessions stay',
    status: 204,
    response: nothingSchema,
  },
  signOnTest: {
    method: 'post',
    path: '/sign-on/test',
    tag: 'users',
    summary: 'Ask the provider for its description and keys, as a sign-in would',
    status: 200,
    response: signOnTestSchema,
  },
} as const satisfies Record<string, RestRoute>;
