import { z } from 'zod';
import { idSchema, nodeIdSchema } from './schema.js';
import { vmPowerActionSchema } from './vm.js';

/** VMs of one operation on many, at most: what its record can hold. */
export const bulkVmsMax = 250;
/** Of them under way at the same time, at most. */
export const bulkAtOnceMax = 16;

export const bulkActionSchema = z.enum([...vmPowerActionSchema.options, 'migrate']);
export type BulkAction = z.output<typeof bulkActionSchema>;

/** So many at the same time where nobody says: live migrations share a wire, and each takes longer for it. */
export const bulkAtOnce = (action: BulkAction): number => (action === 'migrate' ? 2 : 4);

export const bulkStateSchema = z.enum(['waiting', 'running', 'done', 'failed', 'cancelled']);

/** Longer ones are cut: all of them must go into one record. */
export const bulkTextMax = 120;

export const bulkVmSchema = z.looseObject({
  vm: idSchema,
  state: bulkStateSchema,
  /** The operation that does it. */
  op: idSchema.nullish(),
  /** Where it migrates to. */
  to: nodeIdSchema.nullish(),
  /** Why it waits, failed, or had nothing to be done. */
  text: z.string().max(bulkTextMax).default(''),
});
export type BulkVm = z.output<typeof bulkVmSchema>;

/** `args` of an op `vm.bulk`: the same with many VMs, some at a time. */
export const bulkArgsSchema = z.looseObject({
  action: bulkActionSchema,
  atOnce: z.number().int().min(1).max(bulkAtOnceMax),
  /** The only node that they migrate to; null: each where it fits best. */
  to: nodeIdSchema.nullable(),
  vms: z.array(bulkVmSchema).max(bulkVmsMax),
});
export type BulkArgs = z.output<typeof bulkArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const bulkArgs = (op: { readonly args: unknown }): BulkArgs | null =>
  bulkArgsSchema.safeParse(op.args).data ?? null;
