import { z } from 'zod';
import { roleSchema } from './user.js';
import { idSchema, nameSchema, nodeIdSchema, wallMsSchema } from './schema.js';

/** `/flotilla/meta`: what the cluster is. */
export const clusterMetaSchema = z.object({
  /** Version of the ledger's schema. */
  schema: z.literal(1),
  id: idSchema,
  name: nameSchema,
  /** New at each restore of the ledger; every transaction compares it. @see safety 10 */
  epoch: z.number().int().positive(),
  /** The certificate of the CA that signs, PEM. The key never enters the ledger. */
  ca: z.string().max(8192),
  /** While the CA is replaced: the other one that is trusted besides, PEM. Absent: there is none. */
  otherCa: z.string().max(8192).optional(),
  /**
   * How the newest CA was vouched for, PEM: its key as the one before signed it, and the certificate of that one. Absent: it
   * is the first.
   */
  handover: z.string().max(16_384).optional(),
  foundedMs: wallMsSchema,
  founder: nodeIdSchema,
});
export type ClusterMeta = z.output<typeof clusterMetaSchema>;

/** A bearer of rights: join tokens admit nodes, API tokens speak to the API. Only hashes are stored. */
export const tokenRecordSchema = z.object({
  id: z.string().regex(/^[a-z0-9]{8}$/),
  name: nameSchema,
  /** `session`: an API token that a login made. */
  kind: z.enum(['join', 'api', 'session']),
  /** What an API token may at most; those of before there were roles: everything. */
  role: roleSchema.default('admin'),
  /** Whose it is: it may no more than that user, and ends with it. Null: nobody's. */
  user: idSchema.nullable().default(null),
  /** SHA-256 of the secret part, hex. The secret has 256 random bits, so a plain hash is enough. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** Wall clock; null: does not expire. */
  expiresMs: wallMsSchema.nullable(),
  /** Uses left; null: any number. */
  usesLeft: z.number().int().nonnegative().nullable(),
  createdMs: wallMsSchema,
});
export type TokenRecord = z.output<typeof tokenRecordSchema>;

/** `/flotilla/live/<node>`, bound to the node's lease: it exists while the node renews. */
export const liveSchema = z.object({
  node: nodeIdSchema,
  /** Random, new at each boot of the machine. */
  boot: z.string(),
  version: z.string(),
});
export type Live = z.output<typeof liveSchema>;
