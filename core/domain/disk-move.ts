import { z } from 'zod';
import { idSchema } from './schema.js';

/** What an operation `vm.move-disk` asks. */
const diskMoveArgsSchema = z.looseObject({
  /** The disk as it is asked, and the one that takes its place. */
  disk: idSchema,
  to: idSchema,
  /** Bytes a second at most; null: as fast as it goes. */
  limitBps: z.number().int().positive().nullable(),
  /** Where to, for people: `pool "fast"`. */
  where: z.string().max(200),
});
export type DiskMoveArgs = z.output<typeof diskMoveArgsSchema>;

/** Null: of another kind, or it cannot be read. */
export const diskMoveArgs = (op: { readonly kind: string; readonly args: unknown }): DiskMoveArgs | null =>
  op.kind === 'vm.move-disk' ? (diskMoveArgsSchema.safeParse(op.args).data ?? null) : null;
