import { z } from 'zod';
import { protectionLevels } from '../domain/ha.js';
import { idSchema, nodeIdSchema, wallMsSchema } from '../domain/schema.js';
import { vmProtectionSchema } from '../domain/vm.js';
import { blockerSchema, nodeBlockersSchema } from './rest-migrate.js';

/** Two machines of one VM, of which one goes on where the other dies. */
export const pairViewSchema = z
  .object({
    /** `preparing`: its twin is being made. `protected`: both run. `alone`: it has no twin. */
    state: z.enum(['preparing', 'protected', 'alone']),
    /** The node of its twin. */
    twin: nodeIdSchema.nullable(),
    /** Protected without a break since then; null: it is not, or its owner has not said. */
    sinceMs: wallMsSchema.nullable(),
    /** Its machine runs, and the death of its node would end it. */
    degraded: z.boolean(),
    /** In a sentence. */
    text: z.string(),
  })
  .meta({ id: 'LockstepPair' });
export type PairView = z.output<typeof pairViewSchema>;

const levelViewSchema = z.object({
  level: z.enum(protectionLevels),
  title: z.string(),
  /** May be gone in a later version, and was not proven as the others were. */
  experimental: z.boolean(),
  /** What is lost when its node dies. */
  loses: z.string(),
  costs: z.array(z.string()),
  /** What is against it whatever the other node. */
  blockers: z.array(blockerSchema),
  /** What speaks against single nodes as the second one. */
  nodes: z.array(nodeBlockersSchema),
  /** The second node as of now; null: none, or none is needed. */
  to: nodeIdSchema.nullable(),
  reasons: z.array(z.string()),
  /** What is promised elsewhere and would not be kept. */
  warnings: z.array(z.string()),
});
export type LevelView = z.output<typeof levelViewSchema>;

/** How a VM is protected, what each level would keep and cost, and everything that speaks against it. */
export const protectionViewSchema = z
  .object({
    vm: idSchema,
    name: z.string(),
    /** What is asked for. */
    level: z.enum(protectionLevels),
    /** What it has now. */
    now: vmProtectionSchema,
    /** Null: its machine is not one that can have a twin. */
    pair: pairViewSchema.nullable(),
    /** What is asked for begins with its next start. */
    waitsForStart: z.boolean(),
    levels: z.array(levelViewSchema),
  })
  .meta({ id: 'Protection' });
export type ProtectionView = z.output<typeof protectionViewSchema>;
