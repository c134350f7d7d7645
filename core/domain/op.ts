import { z } from 'zod';
import { errorRecord, errorStatus, type ErrorCode, type FlotillaError } from './error.js';
import { idSchema, nodeIdSchema, wallMsSchema } from './schema.js';

export const errorRecordSchema = z.object({
  code: z.enum(Object.keys(errorStatus) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  hint: z.string(),
  causes: z.array(z.string()).readonly(),
  details: z.unknown().optional(),
});

export const opKindSchema = z.enum([
  'vm.create',
  'vm.delete',
  'vm.start',
  'vm.stop',
  'vm.force-stop',
  'vm.reboot',
  'vm.reset',
  'vm.pause',
  'vm.resume',
  'vm.update',
  'vm.failover',
  'vm.migrate',
  'vm.relocate',
  'vm.standby',
  'vm.repair',
  'vm.move-disk',
  'vm.bulk',
  'vm.export',
  'vm.snapshot',
  'vm.revert',
  'node.update',
  'node.reboot',
  'image.import',
  'image.delete',
  'disk.delete',
  'node.drain',
  'node.return',
  'cluster.rolling',
  'cluster.rotate-ca',
  'node.sleep',
  'node.wake',
  'vapp.deploy',
  'vapp.clone',
  'vapp.update',
  'vapp.start',
  'vapp.stop',
  'vapp.suspend',
  'vapp.resume',
  'vapp.restart',
  'vapp.delete',
  'class.update',
  'template.create',
]);
export type OpKind = z.output<typeof opKindSchema>;

export const opStateSchema = z.enum(['queued', 'running', 'done', 'failed', 'cancelled']);
export type OpState = z.output<typeof opStateSchema>;

/**
 * An operation: what somebody asked for and how far it is. Any agent that takes over can resume it from here,
 * so a step is written before it is acted on. Finished ones stay as a bounded tail.
 */
export const opSchema = z.object({
  id: idSchema,
  kind: opKindSchema,
  subject: z.object({
    kind: z.enum(['vm', 'image', 'disk', 'node', 'vapp', 'class', 'template', 'cluster']),
    id: z.union([idSchema, nodeIdSchema]),
    name: z.string(),
  }),
  /** The node that acts; null: the owner of the subject. */
  node: nodeIdSchema.nullable(),
  /** Who asked: a user's or token's name. */
  askedBy: z.string().max(128),
  args: z.record(z.string(), z.unknown()),
  state: opStateSchema,
  /** What is being done now, in words. */
  step: z.string().max(200),
  /** 0 to 1; null where it cannot be known. */
  progress: z.number().min(0).max(1).nullable(),
  cancelAsked: z.boolean(),
  createdMs: wallMsSchema,
  updatedMs: wallMsSchema,
  error: errorRecordSchema.nullable(),
});
export type Op = z.output<typeof opSchema>;

/** An operation as it begins. @param wallMs - now */
export const queuedOp = (
  o: Pick<Op, 'id' | 'kind' | 'subject' | 'node' | 'askedBy' | 'args'>,
  wallMs: number,
): Op => ({
  ...o,
  askedBy: o.askedBy.slice(0, 128),
  state: 'queued',
  step: '',
  progress: null,
  cancelAsked: false,
  createdMs: wallMs,
  updatedMs: wallMs,
  error: null,
});

/** What was decided for an operation that goes on step by step. */
export interface OpStep {
  /** What is being done now, in words. */
  readonly step: string;
  readonly progress: number | null;
  /** Null: it goes on. */
  readonly end:
    | { readonly state: 'done' | 'cancelled' }
    | { readonly state: 'failed'; readonly error: FlotillaError }
    | null;
}

/** The operation with that noted. @param args - as they are now */
export const opAfter = (
  op: Op,
  args: Readonly<Record<string, unknown>>,
  { step, progress, end }: OpStep,
): Op => ({
  ...op,
  args: { ...op.args, ...args },
  state: end === null ? 'running' : end.state,
  step: step.slice(0, 200),
  progress: end?.state === 'done' ? 1 : progress,
  error: end?.state === 'failed' ? errorRecord(end.error) : null,
});

export const opFinished = (op: Pick<Op, 'state'>): boolean =>
  op.state === 'done' || op.state === 'failed' || op.state === 'cancelled';

/** Less done than this says nothing of how long the rest takes. */
const progressTold = 0.02;

/**
 * How long an operation takes still, if it goes on as it went until it was last written down.
 *
 * @returns ms; null: it cannot be told
 */
export function opLeftMs(op: Pick<Op, 'state' | 'progress' | 'createdMs' | 'updatedMs'>): number | null {
  const { progress, createdMs, updatedMs } = op;
  if (op.state !== 'running' || progress === null || progress < progressTold || updatedMs <= createdMs)
    return null;
  return ((updatedMs - createdMs) * (1 - progress)) / progress;
}

/** Finished ops kept in the ledger; older ones are only in the nodes' journals. */
export const opsKeptMax = 200;
