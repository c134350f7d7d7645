import { z } from 'zod';
import { idSchema, nameSchema, nodeIdSchema } from './schema.js';

/** `local`: a directory of each node, its disks stay there. `shared`: one directory that all its nodes mount. */
export const poolKindSchema = z.enum(['local', 'shared']);
export type PoolKind = z.output<typeof poolKindSchema>;

/** An absolute path without `..`, spaces or oddities: it reaches command lines and domain XML. */
export const pathSchema = z
  .string()
  .max(255)
  .regex(/^(\/[A-Za-z0-9_][A-Za-z0-9._-]*)+$/, 'an absolute path of letters, digits, . _ -');

export const poolSchema = z.object({
  id: idSchema,
  name: nameSchema,
  kind: poolKindSchema,
  path: pathSchema,
  /** Nodes that have it; null: every node. */
  nodes: z.array(nodeIdSchema).max(64).nullable(),
  /** Below this share of free space new disks are refused, percent. */
  reservePct: z.number().min(0).max(50),
});
export type Pool = z.output<typeof poolSchema>;

export const poolHasNode = (pool: Pool, node: string): boolean =>
  pool.nodes === null || pool.nodes.includes(node);
