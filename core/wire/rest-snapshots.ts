/** The routes of VMs' snapshots: a part of the table in `rest.ts`. */
import { z } from 'zod';
import { nameSchema, nodeIdSchema, noteSchema } from '../domain/schema.js';
import { vmSnapshotSchema } from '../domain/vm-snapshot.js';
import { opAnswerSchema, opViewSchema, refSchema } from './rest-objects.js';

export const snapshotViewSchema = vmSnapshotSchema
  .extend({
    /** What it holds, bytes; on thin pools shared with the disks as long as neither is overwritten. Null: not taken. */
    usedBytes: z.number().int().nonnegative().nullable(),
    /** Why the VM cannot go back to it now, in words; empty: it can, once it is off. */
    outOfReach: z.string(),
  })
  .meta({ id: 'Snapshot' });
export type SnapshotView = z.output<typeof snapshotViewSchema>;

export const snapshotListSchema = z
  .object({ items: z.array(snapshotViewSchema) })
  .meta({ id: 'SnapshotList' });

export const snapshotCreateSchema = z
  .strictObject({
    /** Left out: the time. */
    name: nameSchema.optional(),
    note: noteSchema.default(''),
    /** `auto`: with file systems held still where the guest agent answers, else as after a power loss. */
    consistency: z.enum(['auto', 'crash', 'filesystem']).default('auto'),
  })
  .meta({ id: 'SnapshotCreate' });

export const snapshotRevertSchema = z
  .strictObject({
    /** Take a snapshot of what is there now first. */
    snapshotBefore: z.boolean().default(false),
  })
  .meta({ id: 'SnapshotRevert' });

/** A new VM that begins as another was. */
export const cloneCreateSchema = z
  .strictObject({
    name: nameSchema,
    /** Of which VM, and which of its snapshots. */
    vm: refSchema,
    snapshot: refSchema,
    /** Only where all disks lie on shared pools there is a choice. */
    node: nodeIdSchema.optional(),
    power: z.enum(['running', 'stopped']).default('stopped'),
  })
  .meta({ id: 'CloneCreate' });

const ofVm = z.strictObject({ vm: refSchema });
const one = z.strictObject({ vm: refSchema, snapshot: refSchema });

export const snapshotChangeSchema = z
  .object({ op: opViewSchema, snapshot: snapshotViewSchema })
  .meta({ id: 'SnapshotChange' });

export const snapshotRoutes = {
  snapshotList: {
    method: 'get',
    path: '/vms/{vm}/snapshots',
    tag: 'vms',
    summary: 'Snapshots of a VM, newest first, with what they hold and where they lie',
    params: ofVm,
    status: 200,
    response: snapshotListSchema,
  },
  snapshotCreate: {
    method: 'post',
    path: '/vms/{vm}/snapshots',
    tag: 'vms',
    summary: 'Keep all disks of a VM as they are at one moment, running or off',
    params: ofVm,
    body: snapshotCreateSchema,
    status: 202,
    response: snapshotChangeSchema,
    idempotent: true,
  },
  snapshotRevert: {
    method: 'post',
    path: '/vms/{vm}/snapshots/{snapshot}/revert',
    tag: 'vms',
    summary: 'Make the disks of a VM that is off what they were; what was written since is lost',
    params: one,
    body: snapshotRevertSchema,
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  snapshotDelete: {
    method: 'delete',
    path: '/vms/{vm}/snapshots/{snapshot}',
    tag: 'vms',
    summary: 'Delete a snapshot; the VM and other snapshots stay as they are',
    params: one,
    status: 202,
    response: snapshotViewSchema,
  },
} as const;
