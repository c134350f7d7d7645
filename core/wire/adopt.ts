import { z } from 'zod';
import { ipv4Schema, nodeIdSchema } from '../domain/schema.js';

/** SHA-256 of a public key, hex. */
const fingerprintSchema = z.string().regex(/^[0-9a-f]{64}$/);

/** What a machine says of itself before it is a node, as far as it must fit the others. */
export const newcomerSchema = z.object({
  cpu: z.string().max(200),
  /** Names of its network cards. */
  cards: z.array(z.string().max(32)).max(64),
});
export type Newcomer = z.output<typeof newcomerSchema>;

/** A node that is in no cluster, as it says itself (`GET /healthz`): only its fingerprint is proven, by its TLS connection. */
export const pendingLineSchema = z.object({
  state: z.literal('pending'),
  node: nodeIdSchema,
  version: z.string().max(64),
  fingerprint: fingerprintSchema,
  /** Absent: it does not know yet, or is of an older version. */
  machine: newcomerSchema.optional(),
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
    /** What of it does not fit the cluster, in sentences; absent: it was not asked. */
    notes: z.array(z.string()).optional(),
  })
  .meta({ id: 'Pending' });
export type PendingView = z.output<typeof pendingViewSchema>;

/** To admit one: the fingerprint must be the one on its console; the secret goes to no other key. */
export const admitSchema = z.strictObject({ fingerprint: fingerprintSchema });
export const admittedSchema = z.object({ node: nodeIdSchema }).meta({ id: 'Admitted' });
