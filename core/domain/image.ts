import { z } from 'zod';
import { idSchema, nameSchema, nodeIdSchema, wallMsSchema } from './schema.js';
import { errorRecordSchema } from './op.js';

export const imageFormatSchema = z.enum(['raw', 'qcow2', 'vmdk', 'vhdx', 'vpc', 'iso']);
export type ImageFormat = z.output<typeof imageFormatSchema>;

/** Largest virtual size an image or disk may have, bytes: 64 TiB. A header can claim anything. */
export const virtualSizeBytesMax = 64 * 2 ** 40;

/**
 * An image of the catalogue. Its file is `images/<id>.<raw|qcow2|iso>` in its pool; whatever came in is
 * converted at import to a standalone qcow2 (or kept raw/iso), so a backing file never survives the door.
 */
export const imageSchema = z.object({
  id: idSchema,
  name: nameSchema,
  pool: idSchema,
  /** The node whose directory holds the file when the pool is local; null on a shared pool. */
  node: nodeIdSchema.nullable(),
  state: z.enum(['uploading', 'importing', 'ready', 'failed', 'deleting']),
  /** What the file is stored as. */
  format: z.enum(['raw', 'qcow2', 'iso']),
  /** Bytes expected, where known beforehand. */
  expectedBytes: z.number().int().nonnegative().nullable(),
  /** Bytes of the stored file; 0 until ready. */
  sizeBytes: z.number().int().nonnegative(),
  /** Bytes a disk cloned from it has at least. */
  virtualSizeBytes: z.number().int().nonnegative(),
  /** SHA-256 of the bytes as they came in, hex. Given by the user: must match. Filled in when ready. */
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
  source: z.string().max(1024).nullable(),
  createdMs: wallMsSchema,
  error: errorRecordSchema.nullable(),
});
export type Image = z.output<typeof imageSchema>;
