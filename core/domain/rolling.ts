import { z } from 'zod';
import { idSchema, nodeIdSchema } from './schema.js';

/** Nodes that one rolling operation works on, at most: what its record can hold. */
export const rollingNodesMax = 300;
/** Of them at the same time, at most. */
export const rollingAtOnceMax = 16;

export const rollingWorkSchema = z.enum(['reboot', 'update']);
export type RollingWork = z.output<typeof rollingWorkSchema>;

/** How far rolling work is with one node. */
export const rollingStateSchema = z.enum([
  'waiting',
  /** Its VMs move away; it is in maintenance from here on. */
  'emptying',
  /** It restarts, or is updated and restarts. */
  'working',
  /** It is back, and has to be as well as it was. */
  'settling',
  /** It is active again; its VMs come back where that was asked for. */
  'returning',
  'done',
]);
export type RollingState = z.output<typeof rollingStateSchema>;

export const rollingNodeSchema = z.looseObject({
  node: nodeIdSchema,
  state: rollingStateSchema,
  /** The operation under way. */
  op: idSchema.nullish(),
  /** The one that emptied it: what it took away may come back. */
  drain: idSchema.nullish(),
  /** What it was before: one that was in maintenance stays there. */
  was: z.enum(['active', 'maintenance']).optional(),
  /** Of the machine and of its agent, before; both are others after a restart. */
  boot: z.string().max(64).optional(),
  agentBoot: z.string().max(64).optional(),
  /** Parts of it that were not well before: it need not come back better than it was. */
  unwell: z.array(z.string().max(64)).max(32).optional(),
  /** It was cancelled before its work: it waits again when it is what it was. */
  undone: z.boolean().optional(),
  /** It came back with it. */
  version: z.string().max(64).optional(),
  /** What is being done or waited for. */
  text: z.string().max(200).default(''),
});
export type RollingNode = z.output<typeof rollingNodeSchema>;

/** `args` of an op `cluster.rolling`: the same work on nodes in turn, each emptied before and well after. */
export const rollingArgsSchema = z.looseObject({
  work: rollingWorkSchema,
  /** Of the appliance, to update to; null: a restart. */
  image: z.object({ id: idSchema, name: z.string() }).nullable(),
  atOnce: z.number().int().min(1).max(rollingAtOnceMax),
  /** A VM that cannot move while it runs may be shut down and started elsewhere. */
  restart: z.boolean(),
  /** VMs come back to each node when it is well. */
  bringBack: z.boolean(),
  /** Somebody wants no further node begun. */
  paused: z.boolean(),
  nodes: z.array(rollingNodeSchema).max(rollingNodesMax),
});
export type RollingArgs = z.output<typeof rollingArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const rollingArgs = (op: { readonly args: unknown }): RollingArgs | null =>
  rollingArgsSchema.safeParse(op.args).data ?? null;

/** Nodes that it has begun with and not done. */
export const underWay = (args: RollingArgs): readonly RollingNode[] =>
  args.nodes.filter((n) => n.state !== 'waiting' && n.state !== 'done');

/**
 * What goes on where an operation stopped: what failed is tried anew, what was done stays done.
 *
 * @param open - an operation under way that was not finished
 */
export const resumed = (args: RollingArgs, open: (op: string) => boolean): RollingArgs => ({
  ...args,
  paused: false,
  nodes: args.nodes.map((n): RollingNode => {
    if (n.state === 'done' || n.state === 'waiting' || open(n.op ?? '')) return n;
    const again = n.state === 'emptying' || n.state === 'working' ? 'waiting' : 'settling';
    return { ...n, state: again, op: null, text: '' };
  }),
});
