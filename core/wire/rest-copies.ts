import { z } from 'zod';
import { nodeIdSchema } from '../domain/schema.js';

/** Another node for the second copies of a VM's disks. */
export const vmStandbySchema = z
  .strictObject({
    /** Left out: the best fit. */
    node: nodeIdSchema.optional(),
    /** Also where the present copy has every write: then there is one copy only until the new one is whole. */
    unprotected: z.boolean().default(false),
  })
  .meta({ id: 'VmStandby' });

/** A split brain resolved by a person. */
export const vmRepairSchema = z
  .strictObject({
    /** The node whose copies are thrown away; what only they have is lost. */
    discard: nodeIdSchema,
  })
  .meta({ id: 'VmRepair' });
