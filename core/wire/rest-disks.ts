import { z } from 'zod';
import { replicasSchema } from '../domain/disk.js';
import { refSchema } from './rest-objects.js';

/** Where a disk of a VM is to be. What is left out stays as it is. */
export const diskMoveSchema = z
  .strictObject({
    pool: refSchema.optional(),
    /** On pools that are directories; disks of thin pools are raw. */
    format: z.enum(['raw', 'qcow2']).optional(),
    /** On how many nodes; 2 on a thin pool. */
    replicas: replicasSchema.optional(),
    /** Copy no faster, bytes a second. Left out: as fast as it goes. */
    limitBps: z.number().int().min(65_536).max(1e12).optional(),
  })
  .refine(
    (m) => m.pool !== undefined || m.format !== undefined || m.replicas !== undefined,
    'names no other place',
  )
  .meta({ id: 'DiskMove' });
