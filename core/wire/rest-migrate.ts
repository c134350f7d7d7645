import { z } from 'zod';
import { migratePolicySchema } from '../domain/migration.js';
import { idSchema, nodeIdSchema } from '../domain/schema.js';

/** What is asked of a live migration. */
export const vmMigrateSchema = z
  .strictObject({
    /** Where to; left out: placement picks. */
    node: nodeIdSchema.optional(),
    bandwidthMiBps: migratePolicySchema.shape.bandwidthMiBps.optional(),
    onSlow: migratePolicySchema.shape.onSlow.optional(),
  })
  .meta({ id: 'VmMigrate' });

/** What keeps something from being done, and what would help. */
export const blockerSchema = z.object({ code: z.string(), text: z.string(), hint: z.string() });
export const nodeBlockersSchema = z.object({ node: nodeIdSchema, blockers: z.array(blockerSchema) });

/** Whether a VM can migrate, where to, and everything that speaks against it. */
export const migrateCheckSchema = z
  .object({
    vm: idSchema,
    name: z.string(),
    from: nodeIdSchema,
    /** Where it would go; null: nowhere. */
    to: nodeIdSchema.nullable(),
    /** What keeps it where it is, whatever the target. */
    blockers: z.array(blockerSchema),
    /** What speaks against single nodes. */
    nodes: z.array(nodeBlockersSchema),
    /** Why that node. */
    reasons: z.array(z.string()),
  })
  .meta({ id: 'MigrateCheck' });
export type MigrateCheckAnswer = z.output<typeof migrateCheckSchema>;
