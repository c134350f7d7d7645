import { z } from 'zod';
import { idSchema, nameSchema, nodeIdSchema, tagsSchema } from './schema.js';

/** Rules in a cluster, at most. */
export const rulesMax = 256;

/** Affinity and anti-affinity: VMs together, apart; VMs on some nodes, on none of them. */
export const ruleKindSchema = z.enum(['together', 'apart', 'on', 'not-on']);
export type RuleKind = z.output<typeof ruleKindSchema>;

export const ruleShape = {
  name: nameSchema,
  kind: ruleKindSchema,
  /** Nothing breaks it; else it only weighs. */
  must: z.boolean(),
  /** What VMs are kept together on, or apart over: one node, or all nodes of a rack. */
  over: z.enum(['node', 'rack']),
  /** VMs with one of these tags, whoever has them at the time. */
  tags: tagsSchema,
  nodes: z.array(nodeIdSchema).max(64),
  racks: z.array(z.string().min(1).max(63)).max(32),
  /** Nodes with one of these tags. */
  nodeTags: tagsSchema,
} as const;

/** `/flotilla/rule/<id>`: what people want of where VMs are. */
export const ruleSchema = z.object({ id: idSchema, ...ruleShape, vms: z.array(idSchema).max(256) });
export type Rule = z.output<typeof ruleSchema>;
