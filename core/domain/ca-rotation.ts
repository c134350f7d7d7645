import { z } from 'zod';
import { caSha256Schema } from './certificate.js';
import { nodeIdSchema } from './schema.js';

/** Most nodes that a replacing of the CA goes on without. */
export const rotationWithoutMax = 64;

/** `args` of an op `cluster.rotate-ca`: the CA is replaced, while all goes on. */
export const rotationArgsSchema = z.looseObject({
  /** The CA that is replaced. */
  from: caSha256Schema,
  /** The one that comes after it; null: not made yet. */
  to: caSha256Schema.nullable(),
  /** Nodes that it is not to wait for while they are not there. They catch up by themselves later. */
  without: z.array(nodeIdSchema).max(rotationWithoutMax),
});
export type RotationArgs = z.output<typeof rotationArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const rotationArgs = (op: { readonly args: unknown }): RotationArgs | null =>
  rotationArgsSchema.safeParse(op.args).data ?? null;

/**
 * How far it is, which the cluster's own record says: `ready` (is every node able to?), `trust` (all learn of the new CA), `sign`
 * (the new one signs, all get new certificates), `drop` (all forget the old one).
 */
export const rotationPhases = ['ready', 'trust', 'sign', 'drop'] as const;
export type RotationPhase = (typeof rotationPhases)[number];
