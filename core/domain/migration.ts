import { z } from 'zod';
import { nodeIdSchema } from './schema.js';

/** What to do with a guest that writes its memory faster than it can be sent. */
export const onSlowSchema = z.enum(['cancel', 'pause']);

/** What a person may say of a live migration. */
export const migratePolicySchema = z.object({
  /** At most so many MiB a second; null: as fast as it goes. */
  bandwidthMiBps: z.number().int().min(1).max(100_000).nullable(),
  /**
   * When slowing the guest down did not help: `cancel` leaves it where it is and says why, `pause` lets it stand still
   * until the rest is sent.
   */
  onSlow: onSlowSchema,
});
export type MigratePolicy = z.output<typeof migratePolicySchema>;
export const migratePolicyDefault: MigratePolicy = { bandwidthMiBps: null, onSlow: 'cancel' };

/** The target's word that a copy may come. */
export const migrateReadySchema = z.looseObject({
  /** Create revision of its live key then: after another boot, or another lease, it counts no more. */
  live: z.string().regex(/^\d+$/),
  /** Its keeper has armed the VM, and this is what `own.fence.waitMs` must be; null: not armed. */
  waitMs: z.number().int().nonnegative().nullable(),
});
export type MigrateReady = z.output<typeof migrateReadySchema>;

/** What a finished migration came to. */
export const migrateResultSchema = z.looseObject({
  totalMs: z.number().nonnegative(),
  /** How long the guest stood still, as far as its nodes can tell: until the new owner let it go on. */
  pauseMs: z.number().nonnegative().nullable(),
  memoryBytes: z.number().nonnegative().nullable(),
});
export type MigrateResult = z.output<typeof migrateResultSchema>;

/** `args` of an op `vm.migrate`. */
export const migrateArgsSchema = z.looseObject({
  from: nodeIdSchema,
  to: nodeIdSchema,
  policy: migratePolicySchema,
  ready: migrateReadySchema.nullish(),
  /** Written with the hand-over: how long it had stood still by then, ms, and how long all had taken. */
  handedOver: z.looseObject({ pauseMs: z.number().nullable(), totalMs: z.number() }).nullish(),
  result: migrateResultSchema.nullish(),
});
export type MigrateArgs = z.output<typeof migrateArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const migrateArgs = (op: { readonly args: unknown }): MigrateArgs | null =>
  migrateArgsSchema.safeParse(op.args).data ?? null;
