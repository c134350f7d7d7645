import { z } from 'zod';
import { nodeIdSchema, wallMsSchema } from './schema.js';

/** As openssl and Node write it. */
export const serialSchema = z.string().regex(/^([0-9A-F]{2}){1,20}$/);

/** A certificate that the cluster's CA signed; `/flotilla/cert/<serial>`, kept until it would have expired. */
export const certificateRecordSchema = z.object({
  serial: serialSchema,
  node: nodeIdSchema,
  /** SHA-256 of its public key, hex. */
  fingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  issuedMs: wallMsSchema,
  notAfterMs: wallMsSchema,
  /** The certificate, for whom the answer got lost; null once it is revoked. */
  pem: z.string().max(4096).nullable(),
  /** Null: it is good. */
  revoked: z
    .object({
      atMs: wallMsSchema,
      /** `removed`: its node was taken out of the cluster. */
      why: z.enum(['removed', 'by-hand']),
    })
    .nullable(),
});
export type CertificateRecord = z.output<typeof certificateRecordSchema>;

/** `/flotilla/crl`: the list of revoked certificates that every node is to use, signed by the CA. */
export const crlRecordSchema = z.object({
  /** Higher than that of every list before. */
  number: z.number().int().positive(),
  /** SHA-256 of the serials in it, hex; of the CAs too where they are two. */
  mark: z.string().regex(/^[0-9a-f]{64}$/),
  /** One list of each CA that is trusted; all name the same certificates. */
  pem: z.string().max(64_000),
});
export type CrlRecord = z.output<typeof crlRecordSchema>;

/** SHA-256 of a CA's certificate (DER), hex. */
export const caSha256Schema = z.string().regex(/^[0-9a-f]{64}$/);

/** `/flotilla/trust/<node>`: what a node says of the CAs; written when all on it are that far. */
export const trustRecordSchema = z.object({
  /** CAs whose certificates its agent, keeper, etcd, broker and libvirt take. */
  trusts: z.array(caSha256Schema).max(8),
  /** The CA that signed its certificate. */
  issuer: caSha256Schema,
  /** CAs whose keys it holds: voters do. */
  keys: z.array(caSha256Schema).max(8),
});
export type TrustRecord = z.output<typeof trustRecordSchema>;
