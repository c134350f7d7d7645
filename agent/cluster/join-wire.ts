import { z } from 'zod';
import { errorStatus, type ErrorCode } from '../../core/domain/error.js';
import { idSchema, ipv4Schema, nameSchema, nodeIdSchema, wallMsSchema } from '../../core/domain/schema.js';
import { csrBytesMax } from '../pki/certificates.js';
import { bearerSchema } from '../pki/tokens.js';

/** Largest body of a join request, bytes: a CSR and some names. */
export const joinBodyBytesMax = 16_384;
/** Largest answer a joining node reads, bytes: certificates and up to 256 peers. */
export const joinAnswerBytesMax = 256 * 1024;

/** `POST /join`. */
export const joinRequestSchema = z.strictObject({
  ...bearerSchema.shape,
  csr: z.string().max(csrBytesMax),
  name: nodeIdSchema,
  address: ipv4Schema,
  /** On the storage network, where it has one. */
  storageAddress: ipv4Schema.optional(),
  /** Votes and runs no VMs. */
  witness: z.boolean().default(false),
});
export type JoinRequest = z.output<typeof joinRequestSchema>;

export const joinAnswerSchema = z.object({
  cluster: z.object({ id: idSchema, name: nameSchema, epoch: z.number().int().positive() }),
  node: nodeIdSchema,
  address: ipv4Schema,
  cert: z.string().max(16_384),
  /** The CAs that are trusted, first the one that signs. */
  ca: z.string().max(16_384),
  /** Revoked certificates; null or absent: the cluster has no list yet. */
  crl: z.string().max(64_000).nullable().default(null),
  peers: z.array(z.object({ node: nodeIdSchema, address: ipv4Schema })).max(1024),
  ledgerEndpoints: z.array(z.url()).min(1).max(16),
  /** What the ledger plans with this node: it starts as a client; the leader may make it a voter later. */
  voterPlan: z.enum(['client', 'may-become-voter']),
});
export type JoinAnswer = z.output<typeof joinAnswerSchema>;

/** `GET /membership`: what the cluster knows of the key that the asker proved to hold. */
export const membershipSchema = z.object({
  state: z.enum(['member', 'removed', 'unknown']),
  /** When it was removed; null: it was not. */
  sinceMs: wallMsSchema.nullable(),
});

/** `POST /renew`, with the certificate that is to be renewed; it may be one of a CA that was replaced since. */
export const renewRequestSchema = z.strictObject({ csr: z.string().max(csrBytesMax) });
export const renewAnswerSchema = z.object({
  cert: z.string().max(16_384),
  /** As in {@link joinAnswerSchema}, for a node that was off. */
  ca: z.string().max(16_384).default(''),
  crl: z.string().max(64_000).nullable().default(null),
});

/** `GET /voter/ca-key`: for a node that the ledger's leader has made a voter. */
export const caKeyAnswerSchema = z.object({
  /** Of the CA that signs. */
  key: z.string().max(4_096),
  /** Of all CAs that are trusted, as far as it has them. */
  keys: z.array(z.string().max(4_096)).max(4).optional(),
});

export const refusalSchema = z.object({
  code: z.enum(Object.keys(errorStatus) as [ErrorCode, ...ErrorCode[]]),
  message: z.string().max(2_000),
  hint: z.string().max(2_000),
  details: z.unknown().optional(),
});
