import { z } from 'zod';
import { idSchema, nameSchema, nodeIdSchema } from './schema.js';
import { errorRecordSchema } from './op.js';
import { virtualSizeBytesMax } from './image.js';

/** Smallest disk, bytes: QEMU wants whole sectors, people want at least this. */
export const diskBytesMin = 1024 * 1024;

export const diskSourceSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('blank') }),
  /**
   * `full`: all data copied. `linked`: only changes are stored; the image cannot be deleted meanwhile. `moved`: the image's
   * own file becomes the disk, at once and without room, and the image has none any more.
   */
  z.object({ kind: z.literal('image'), image: idSchema, mode: z.enum(['full', 'linked', 'moved']) }),
  /** As it was in a volume of a snapshot, which is needed until the disk is made; `linked`: as long as the disk lies over it. */
  z.object({
    kind: z.literal('snapshot'),
    snapshot: idSchema,
    volume: idSchema,
    mode: z.enum(['full', 'linked']).optional(),
  }),
]);
export type DiskSource = z.output<typeof diskSourceSchema>;

/** Whether its file holds only what differs from what it was made of. */
export const isLinked = ({ source }: { readonly source: DiskSource }): boolean =>
  source.kind !== 'blank' && source.mode === 'linked';

/** Whether that snapshot must stay because of the disk. */
export const needsSnapshot = (
  disk: { readonly source: DiskSource; readonly state: string },
  snapshot: string,
): boolean =>
  disk.source.kind === 'snapshot' &&
  disk.source.snapshot === snapshot &&
  (disk.state === 'wanted' || isLinked(disk));

/** On how many nodes a disk lies. */
export const replicasSchema = z.union([z.literal(1), z.literal(2)]);

export const isReplicated = (disk: { readonly replicas?: 1 | 2 | undefined }): boolean => disk.replicas === 2;

/** Whether it lies on one node, and nobody else has or reaches it: each of two machines in lockstep has one of its own. */
export const liesApart = (
  disk: { readonly replicas?: 1 | 2 | undefined },
  pool: { readonly kind: 'local' | 'shared' | 'thin' },
): boolean => pool.kind !== 'shared' && !isReplicated(disk);

/** A VM's disk. Its file is `disks/<id>.<format>` in its pool. */
export const diskSchema = z.object({
  id: idSchema,
  name: nameSchema,
  vm: idSchema,
  pool: idSchema,
  /** 2: a copy on a second node has every write; then `node` is null. Absent: 1. Only on pools of kind `thin`. */
  replicas: replicasSchema.optional(),
  /** The node whose directory holds it when the pool is local; null on a shared pool. */
  node: nodeIdSchema.nullable(),
  format: z.enum(['raw', 'qcow2']),
  sizeBytes: z.number().int().min(diskBytesMin).max(virtualSizeBytesMax).multipleOf(512),
  /** Size the file was last made or grown to; 0 before it is made. Smaller than `sizeBytes`: to be grown. */
  madeBytes: z.number().int().nonnegative(),
  source: diskSourceSchema,
  /** It is filled from that disk of the same VM, and takes its place then. */
  instead: idSchema.optional(),
  /** What machines call its device, where that is by another disk whose place it took. */
  device: idSchema.optional(),
  state: z.enum(['wanted', 'ready', 'failed', 'deleting']),
  error: errorRecordSchema.nullable(),
});
export type Disk = z.output<typeof diskSchema>;

/** The id in the name of its device in a machine: it stays when the disk moves. */
export const deviceId = (disk: Pick<Disk, 'id' | 'device'>): string => disk.device ?? disk.id;
