import { z } from 'zod';
import { idSchema, nodeIdSchema, wallMsSchema } from './schema.js';

/**
 * What the cluster does about uneven load by itself: nothing; it says what would help; it moves only what breaks a rule;
 * it moves for rules and for load.
 */
export const balanceModeSchema = z.enum(['off', 'recommend', 'rules-only', 'automatic']);
export type BalanceMode = z.output<typeof balanceModeSchema>;

/** Moves found at once, at most: when they are done, the next are looked for. */
export const balanceMovesMax = 16;
/** Past moves the ledger keeps: what the brakes need is of the last day, and a record has 64 kB. */
export const balancePastMax = 64;

/** A live migration that would help, and why. */
export const balanceMoveSchema = z.looseObject({
  vm: idSchema,
  name: z.string().max(252),
  from: nodeIdSchema,
  to: nodeIdSchema,
  /** What it is for: it ends the breaking of a rule, or evens load out. */
  for: z.enum(['rule', 'load']),
  why: z.string().max(300),
  /** The imbalance before and after it; lower is better. */
  before: z.number(),
  after: z.number(),
  /** What is copied. */
  memoryMiB: z.number(),
});
export type BalanceMove = z.output<typeof balanceMoveSchema>;

/** A move that was begun by itself, and how the VM and its two nodes were loaded then: whether that has changed decides if it may be undone. */
export const pastMoveSchema = balanceMoveSchema.extend({
  /** Its operation. */
  op: idSchema,
  atMs: wallMsSchema,
  outcome: z.enum(['done', 'failed', 'cancelled']).nullable(),
  /** From begin to end. */
  tookMs: z.number().nonnegative().nullable(),
  /** Why it failed; empty: it did not. */
  text: z.string().max(300).default(''),
  /** CPUs the VM used; how much of its two nodes the others used, 0 to 1 and above. */
  vmCpus: z.number(),
  fromShare: z.number(),
  toShare: z.number(),
});
export type PastMove = z.output<typeof pastMoveSchema>;

/** `/flotilla/balance/cluster`: the plan, and what was done of late. One node writes it, by compare-and-swap. */
export const balanceRecordSchema = z.looseObject({
  by: nodeIdSchema,
  atMs: wallMsSchema,
  /** What is going on, in words; also what keeps moves from being made. */
  sentence: z.string().max(500),
  moves: z.array(balanceMoveSchema).max(balanceMovesMax),
  /** Newest last. The last one may be under way. */
  past: z.array(pastMoveSchema).max(balancePastMax),
  /** What was promised and used when, for the trend: twice a day. */
  use: z
    .array(z.looseObject({ atMs: wallMsSchema, memoryMiB: z.number(), diskBytes: z.number() }))
    .max(64)
    .default([]),
});
export type BalanceRecord = z.output<typeof balanceRecordSchema>;
/** The id of the one record. */
export const balanceId = 'cluster';
