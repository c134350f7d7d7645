import { z } from 'zod';
import { ipv4Schema, nodeIdSchema } from '../domain/schema.js';

/** SHA-256 of a public key, hex. */
const fingerprintSchema = z.string().regex(/^[0-9a-f]{64}$/);

/** A node that is in no cluster, as it says itself (`GET /healthz`): only its fingerprint is proven, by its TLS connection. */
export const pendingLineSchema = z.object({
  state: z.literal('pending'),
  node: nodeIdSchema,
  version: z.string().max(64),
  fingerprint: fingerprintSchema,
});

/** `POST /adopt` of such a node: a cluster admits it, with a token of its own. */
export const adoptRequestSchema = z.strictObject({ token: z.string().max(512) });
export const adoptAnswerSchema = z.object({ cluster: z.string().max(128), node: nodeIdSchema });

/** A node that waits to be admitted, as the API shows it. */
export const pendingViewSchema = z
  .object({
    name: nodeIdSchema,
    address: ipv4Schema,
    fingerprint: fingerprintSchema,
    version: z.string().max(64),
  })
  .meta({ id: 'Pending' });
export type PendingView = z.output<typeof pendingViewSchema>;

/** To admit one: the fingerprint must be the one on its console; the secret goes to no other key. */
export const admitSchema = z.strictObject({ fingerprint: fingerprintSchema });
export const admittedSchema = z.object({ node: nodeIdSchema }).meta({ id: 'Admitted' });
