import { z } from 'zod';
import { idSchema, nodeIdSchema, wallMsSchema } from './schema.js';

/** What the cluster does about idle nodes by itself: nothing; it says what could sleep; it powers them off, and on again. */
export const powerModeSchema = z.enum(['off', 'recommend', 'automatic']);
export type PowerMode = z.output<typeof powerModeSchema>;

/** `args` of the ops `node.sleep` and `node.wake`. What was begun is noted before it is done. */
export const powerArgsSchema = z.looseObject({
  node: nodeIdSchema,
  /** Why, where nobody asked. */
  why: z.string().max(300).default(''),
  /** The operation that empties it. */
  drain: idSchema.nullable().default(null),
  /** When that was seen done. */
  emptyMs: wallMsSchema.nullable().default(null),
  /** Orders to the BMC so far, and when the last one was given. */
  tries: z.number().int().nonnegative().default(0),
  askedMs: wallMsSchema.nullable().default(null),
  /** When the BMC confirmed it. */
  confirmedMs: wallMsSchema.nullable().default(null),
  /** What the last order came to; empty: it was confirmed, or is under way. */
  text: z.string().max(300).default(''),
});
export type PowerArgs = z.output<typeof powerArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const powerArgs = (op: { readonly args: unknown }): PowerArgs | null =>
  powerArgsSchema.safeParse(op.args).data ?? null;

/** A node that could sleep, or should wake. */
export const powerStepSchema = z.looseObject({
  do: z.enum(['sleep', 'wake']),
  node: nodeIdSchema,
  /** It has nothing to do; a node failed; promises do not hold or nothing more fits; load comes back. */
  for: z.enum(['idle', 'failure', 'room', 'load']),
  /** For a failure: which absence of which node, so that it wakes one node only. */
  about: z.string().max(100).default(''),
  why: z.string().max(300),
});
export type PowerStep = z.output<typeof powerStepSchema>;

export const pastPowerSchema = powerStepSchema.extend({
  op: idSchema,
  atMs: wallMsSchema,
  /** When it ended. */
  endMs: wallMsSchema.nullable(),
  outcome: z.enum(['done', 'failed', 'cancelled']).nullable(),
  /** Why it failed; empty: it did not. */
  text: z.string().max(300).default(''),
});
export type PastPower = z.output<typeof pastPowerSchema>;

export const powerPastMax = 32;
/** A day has so many quarters of an hour. */
export const quarters = 96;

/** `/flotilla/power/cluster`: what could be saved, and what was done of late. One node writes it, by compare-and-swap. */
export const powerRecordSchema = z.looseObject({
  by: nodeIdSchema,
  atMs: wallMsSchema,
  /** What is going on, in words; also what keeps a change from being made. */
  sentence: z.string().max(500),
  next: powerStepSchema.nullable(),
  /** Newest last. The last one may be under way. */
  past: z.array(pastPowerSchema).max(powerPastMax),
  /** CPUs that VMs kept busy, the most in each quarter of an hour (UTC) of the last day; -1: not known. */
  day: z.array(z.number()).length(quarters),
  /** Nodes that may not sleep, and why. */
  kept: z.array(z.object({ node: nodeIdSchema, why: z.string().max(200) })).max(256),
});
export type PowerRecord = z.output<typeof powerRecordSchema>;
/** The id of the one record. */
export const powerId = 'cluster';
