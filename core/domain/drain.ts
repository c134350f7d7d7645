import { z } from 'zod';
import { idSchema, nodeIdSchema } from './schema.js';

/** VMs that one operation empties a node of, at most: what its record can hold. More are moved by the next. */
export const drainVmsMax = 500;

/** How far an operation is with one VM. */
export const drainStateSchema = z.enum([
  'waiting',
  /** It was running and is being shut down, to be started elsewhere: somebody allowed that. */
  'stopping',
  'moving',
  'moved',
  /** It cannot leave. */
  'stays',
]);
export type DrainState = z.output<typeof drainStateSchema>;

export const drainVmSchema = z.looseObject({
  vm: idSchema,
  state: drainStateSchema,
  to: nodeIdSchema.nullish(),
  /** The operation that moves it. */
  op: idSchema.nullish(),
  /** Moves of it that failed. */
  tries: z.number().int().nonnegative().default(0),
  /** It was shut down by this operation and has to be started again. */
  restart: z.boolean().default(false),
  /** Why it waits or stays. */
  text: z.string().max(160).default(''),
});
export type DrainVm = z.output<typeof drainVmSchema>;

/** `args` of the ops `node.drain`, which empties a node, and `node.return`, which brings back what a drain took away. */
export const drainArgsSchema = z.looseObject({
  node: nodeIdSchema,
  /** A VM that cannot move while it runs may be shut down and started elsewhere. */
  restart: z.boolean(),
  /** It is set to leave the cluster when it is empty. */
  leave: z.boolean(),
  vms: z.array(drainVmSchema).max(drainVmsMax),
});
export type DrainArgs = z.output<typeof drainArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const drainArgs = (op: { readonly args: unknown }): DrainArgs | null =>
  drainArgsSchema.safeParse(op.args).data ?? null;

/** `args` of an op `vm.relocate`: a VM that is off gets another owner. */
export const relocateArgsSchema = z.looseObject({ from: nodeIdSchema, to: nodeIdSchema });
