import { z } from 'zod';
import { idSchema, nameSchema, nodeIdSchema } from './schema.js';

/**
 * `local`: a directory of each node, its disks stay there. `shared`: one directory that all its nodes mount. `thin`: drives of
 * each node, which it manages; disks are made of what is really written.
 */
export const poolKindSchema = z.enum(['local', 'shared', 'thin']);
export type PoolKind = z.output<typeof poolKindSchema>;

/** An absolute path without `..`, spaces or oddities: it reaches command lines and domain XML. */
export const pathSchema = z
  .string()
  .max(255)
  .regex(/^(\/[A-Za-z0-9_][A-Za-z0-9._-]*)+$/, 'an absolute path of letters, digits, . _ -');

/** A drive by its serial number: names like /dev/sda change from boot to boot. */
export const poolDriveSchema = z.object({
  node: nodeIdSchema,
  drive: z
    .string()
    .min(1)
    .max(128)
    .regex(/^[A-Za-z0-9][A-Za-z0-9._+:-]*( [A-Za-z0-9._+:-]+)*$/, 'the serial number of a drive'),
  /** What is on it may be lost. Without it only an empty drive is taken. */
  wipe: z.boolean().default(false),
});
export type PoolDrive = z.output<typeof poolDriveSchema>;

export const poolSchema = z.object({
  id: idSchema,
  name: nameSchema,
  kind: poolKindSchema,
  path: pathSchema,
  /** Nodes that have it; null: every node. */
  nodes: z.array(nodeIdSchema).max(64).nullable(),
  /** Below this share of free space new disks are refused, percent. */
  reservePct: z.number().min(0).max(50),
  /** Of a `thin` pool, what it is made of. */
  drives: z.array(poolDriveSchema).max(256).optional(),
});
export type Pool = z.output<typeof poolSchema>;

export const poolHasNode = (pool: Pool, node: string): boolean =>
  pool.nodes === null || pool.nodes.includes(node);

export const drivesOn = (pool: Pool, node: string): PoolDrive[] =>
  (pool.drives ?? []).filter((d) => d.node === node);

/** The volume group of a thin pool, the same on each of its nodes. */
export const groupName = (poolId: string): string => `flotilla-${idSchema.parse(poolId).slice(0, 8)}`;

/** Where its volumes appear: the `path` of a thin pool. */
export const groupPath = (poolId: string): string => `/dev/${groupName(poolId)}`;

/** Volumes of a thin pool are multiples of this, bytes: lvm2's own piece. */
export const thinPieceBytes = 4 * 1024 * 1024;
