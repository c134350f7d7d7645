import { z } from 'zod';
import { diskBytesMin } from './disk.js';
import { virtualSizeBytesMax } from './image.js';
import { errorRecordSchema, type Op } from './op.js';
import { idSchema, nameSchema, nodeIdSchema, noteSchema, wallMsSchema } from './schema.js';
import { snapshotKindSchema } from './snapshot-schedule.js';
import { diskBusSchema } from './vm.js';

/** Snapshots of one VM, and of all, at most: a VM is deleted with all of its own in one transaction. */
export const vmSnapshotsMax = 48;
export const snapshotsMax = 5_000;

/**
 * How the disks were when it was taken. `stopped`: nothing wrote. `filesystem`: the guest had flushed its file systems and
 * held them still. `crash`: as after a power loss, all disks at one moment. `auto` is only asked for: `filesystem` where the
 * guest agent answers, else `crash`.
 */
export const consistencySchema = z.enum(['auto', 'crash', 'filesystem', 'stopped']);
export type Consistency = z.output<typeof consistencySchema>;

/** One disk as it was: a volume of its own in its pool, which needs nothing of the disk afterwards. */
export const snapshotDiskSchema = z.object({
  /** Names the volume: `snapshots/<id>.<format>`, or a thin volume `s-<id>`. */
  id: idSchema,
  /** The disk it was taken of, which may be gone. */
  disk: idSchema,
  name: nameSchema,
  pool: idSchema,
  format: z.enum(['raw', 'qcow2']),
  bus: diskBusSchema,
  sizeBytes: z.number().int().min(diskBytesMin).max(virtualSizeBytesMax).multipleOf(512),
  /** Of a disk with two copies: the volume has DRBD's notes behind `sizeBytes`. */
  replicated: z.boolean().default(false),
  /** What it holds, bytes; of a thin volume shared with the disk as long as neither is overwritten. Null: not taken yet. */
  usedBytes: z.number().int().nonnegative().nullable(),
});
export type SnapshotDisk = z.output<typeof snapshotDiskSchema>;

/** All disks of a VM as they were at one moment. */
export const vmSnapshotSchema = z.object({
  id: idSchema,
  vm: idSchema,
  /** Unique among the VM's. */
  name: nameSchema,
  note: noteSchema,
  /** Where its volumes lie; null: in shared pools, within reach of every node that has them. */
  node: nodeIdSchema.nullable(),
  disks: z.array(snapshotDiskSchema).min(1).max(24),
  consistency: consistencySchema,
  state: z.enum(['wanted', 'ready', 'failed', 'deleting']),
  /** When it was taken; before that, when it was asked for. */
  takenMs: wallMsSchema,
  /** The counts of the VM's schedule that it is kept for; empty: a person's, which nobody deletes unasked. */
  keptFor: z.array(snapshotKindSchema).max(3),
  /** Taken for that operation alone: it goes when that has ended. */
  forOp: idSchema.optional(),
  error: errorRecordSchema.nullable(),
  /** The template that it is the data of: it outlives its VM, and goes with the template. */
  template: idSchema.optional(),
});
export type VmSnapshot = z.output<typeof vmSnapshotSchema>;

/** Of `vm.snapshot` and `vm.revert`, and of a `vm.export` that packs a snapshot. */
export const snapshotArgsSchema = z.looseObject({
  snapshot: idSchema,
  /** Of a revert: the snapshot to be taken first, of what is there now. */
  before: idSchema.nullable().default(null),
  /** Of an export: the snapshot is taken, what is left is to pack it. */
  taken: z.boolean().optional(),
});
export type SnapshotArgs = z.output<typeof snapshotArgsSchema>;

export const snapshotArgs = (op: Op): SnapshotArgs | null =>
  op.kind === 'vm.snapshot' || op.kind === 'vm.revert' || op.kind === 'vm.export'
    ? (snapshotArgsSchema.safeParse(op.args).data ?? null)
    : null;

/** In words, for people. */
export const consistencyText: Readonly<Record<Consistency, string>> = {
  auto: 'as consistent as the guest permits',
  crash: 'as after a power loss',
  filesystem: 'file systems held still',
  stopped: 'taken while off',
};
