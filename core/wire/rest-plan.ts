/** What the REST API takes and answers about where VMs are: emptying nodes, balance, rules. */
import { z } from 'zod';
import { balanceModeSchema, balanceMoveSchema, pastMoveSchema } from '../domain/balance.js';
import { bulkActionSchema, bulkAtOnceMax, bulkStateSchema, bulkVmsMax } from '../domain/bulk.js';
import { drainVmSchema } from '../domain/drain.js';
import { pastPowerSchema, powerModeSchema, powerStepSchema } from '../domain/power.js';
import { ruleSchema, ruleShape } from '../domain/rule.js';
import { rollingAtOnceMax, rollingNodesMax, rollingWorkSchema } from '../domain/rolling.js';
import { idSchema, nodeIdSchema, tagsSchema, wallMsSchema } from '../domain/schema.js';
import { opViewSchema, refSchema } from './rest-objects.js';

/** The same with many VMs. */
export const vmBulkSchema = z
  .strictObject({
    action: bulkActionSchema,
    vms: z.array(refSchema).min(1).max(bulkVmsMax),
    /** The only node that they migrate to; none: each where it fits best. */
    to: refSchema.optional(),
    /** So many at the same time; others wait. 2 migrate, of what else there is 4, unless told. */
    atOnce: z.number().int().min(1).max(bulkAtOnceMax).optional(),
    /** Only says what it would do. */
    dryRun: z.boolean().default(false),
  })
  .meta({ id: 'VmBulk' });

const bulkLineSchema = z.object({
  vm: idSchema,
  name: z.string(),
  /** Its owner. */
  node: nodeIdSchema,
  /** `waiting`: it is to be done; `done`: it is so already; `failed`: it cannot be, and `text` says why. */
  state: bulkStateSchema,
  /** Where it would migrate to. */
  to: nodeIdSchema.nullable(),
  text: z.string(),
});
export type BulkLineView = z.output<typeof bulkLineSchema>;

export const vmBulkAnswerSchema = z
  .object({
    /** Null: nothing is done, it was only asked. */
    op: opViewSchema.nullable(),
    sentence: z.string(),
    vms: z.array(bulkLineSchema),
  })
  .meta({ id: 'VmBulkAnswer' });
export type VmBulkAnswer = z.output<typeof vmBulkAnswerSchema>;

export const nodeDrainSchema = z
  .strictObject({
    /** A VM that cannot move while it runs may be shut down and started elsewhere. */
    restart: z.boolean().default(false),
    /** Then it is set to leave the cluster. */
    leave: z.boolean().default(false),
  })
  .meta({ id: 'NodeDrain' });

export const nodeActivateSchema = z
  .strictObject({
    /** The VMs that its last drain took away come back, as far as they are where that took them. */
    bringBack: z.boolean().default(false),
  })
  .meta({ id: 'NodeActivate' });

export const nodeActivatedSchema = z
  .object({
    /** Brings the VMs back; null: nothing is to come back. */
    op: opViewSchema.nullable(),
  })
  .meta({ id: 'NodeActivated' });

/** Could this node go now, what would become of each VM, and how far an operation that empties it is. */
export const drainViewSchema = z
  .object({
    node: nodeIdSchema,
    canGo: z.boolean(),
    sentence: z.string(),
    vms: z.array(
      z.object({
        vm: idSchema,
        name: z.string(),
        /** It moves while it runs; its twin goes on; being off it gets another owner; it is shut down and started there; not. */
        how: z.enum(['migrate', 'switch', 'relocate', 'restart', 'wait', 'stays']),
        to: nodeIdSchema.nullable(),
        text: z.string(),
        memoryMiB: z.number(),
      }),
    ),
    /** Names of VMs that it stands by for, and that no other node could. */
    bare: z.array(z.string()),
    /** VMs of other nodes whose twins are on it: where another one would be made; null: they go on alone. */
    twins: z.array(
      z.object({ vm: idSchema, name: z.string(), to: nodeIdSchema.nullable(), text: z.string() }),
    ),
    /** Names of images of which it has the only file. */
    images: z.array(z.string()),
    /** The operation under way. */
    op: opViewSchema.nullable(),
    /** How far that is with each VM. */
    moves: z.array(drainVmSchema.extend({ name: z.string() })),
    /** Until it is done, at the pace so far, seconds; null: not known. */
    etaS: z.number().nullable(),
  })
  .meta({ id: 'Drain' });

/** What balancing finds and does; each move can be asked for as any other migration. */
export const balanceViewSchema = z
  .object({
    mode: balanceModeSchema,
    movesPerHourMax: z.number().int(),
    sentence: z.string(),
    /** The node that has planned this by smoothed loads, and when; null: it is by the loads of this moment. */
    by: nodeIdSchema.nullable(),
    atMs: wallMsSchema.nullable(),
    /** Live migrations that would help, best first. */
    moves: z.array(balanceMoveSchema),
    /** What was moved by itself of late, newest first. */
    past: z.array(pastMoveSchema),
  })
  .meta({ id: 'Balance' });
export type BalanceAnswer = z.output<typeof balanceViewSchema>;
export type DrainAnswer = z.output<typeof drainViewSchema>;

/** Which nodes sleep, could sleep, or should wake, and what was done of late. */
export const powerViewSchema = z
  .object({
    mode: powerModeSchema,
    sentence: z.string(),
    /** The node that looks for it, and when it did; null: none does now. */
    by: nodeIdSchema.nullable(),
    atMs: wallMsSchema.nullable(),
    next: powerStepSchema.nullable(),
    asleep: z.array(z.object({ node: nodeIdSchema, sinceMs: wallMsSchema, by: z.string() })),
    /** Nodes that are not put to sleep by themselves, and why. */
    kept: z.array(z.object({ node: nodeIdSchema, why: z.string() })),
    /** What was done by itself of late, newest first. */
    past: z.array(pastPowerSchema),
  })
  .meta({ id: 'Power' });
export type PowerAnswer = z.output<typeof powerViewSchema>;

const ruledVmSchema = z.object({ vm: idSchema, name: z.string() });

/** A rule, whom it is about now, and what breaks it. */
export const ruleViewSchema = ruleSchema
  .omit({ vms: true })
  .extend({
    /** VMs it names, and those with its tags. One that was deleted since is not there. */
    vms: z.array(ruledVmSchema),
    /** What breaks it now, in words. */
    broken: z.array(z.string()),
  })
  .meta({ id: 'Rule' });
export type RuleView = z.output<typeof ruleViewSchema>;

export const ruleListSchema = z
  .object({
    items: z.array(ruleViewSchema),
    /** Rules that must hold and cannot hold together, those of vApps among them. */
    conflicts: z.array(z.object({ rules: z.array(z.string()), text: z.string() })),
  })
  .meta({ id: 'RuleList' });
export type RuleList = z.output<typeof ruleListSchema>;

/** A rule: VMs by name, id or tag; nodes by id, rack or tag. */
export const ruleCreateSchema = z
  .strictObject({
    name: ruleShape.name,
    kind: ruleShape.kind,
    must: ruleShape.must.default(true),
    over: ruleShape.over.default('node'),
    vms: z.array(refSchema).max(256).default([]),
    tags: ruleShape.tags.default([]),
    nodes: ruleShape.nodes.default([]),
    racks: ruleShape.racks.default([]),
    nodeTags: ruleShape.nodeTags.default([]),
  })
  .refine((r) => r.vms.length + r.tags.length > 0, 'is about no VM: name some, or a tag')
  .refine(
    (r) => r.kind === 'on' || r.kind === 'not-on' || r.tags.length > 0 || r.vms.length > 1,
    'needs two VMs or a tag',
  )
  .refine(
    (r) =>
      (r.kind === 'on' || r.kind === 'not-on') === r.nodes.length + r.racks.length + r.nodeTags.length > 0,
    'on and not-on need nodes, racks or tags of nodes; together and apart take none',
  )
  .meta({ id: 'RuleCreate' });

const wholeSchema = (min: number, max: number) => z.coerce.number().int().min(min).max(max);

/** A size of VMs of which one asks how many more fit. */
export const capacityQuerySchema = z.strictObject({
  cpus: wholeSchema(1, 256).default(1),
  memoryMiB: wholeSchema(32, 16 * 1024 * 1024),
  /** Of all its disks, on one pool. */
  diskBytes: wholeSchema(0, Number.MAX_SAFE_INTEGER).default(0),
  pool: refSchema.optional(),
  /** `false`: without a standby each. */
  ha: z.enum(['true', 'false']).default('true'),
});

const trendSchema = z.object({
  used: z.number(),
  total: z.number(),
  /** If it goes on as it went; null: it does not grow, or not enough is known. */
  daysUntilFull: z.number().nullable(),
});

export const capacityViewSchema = z
  .object({
    /** How many more fit; counting ends at `countedMax`. */
    vms: z.number().int(),
    countedMax: z.number().int(),
    sentence: z.string(),
    /** Memory promised to VMs, MiB, and what pools have in use, bytes, of what there is. */
    memoryMiB: trendSchema,
    diskBytes: trendSchema,
    /** Moments that the trend is drawn through. */
    points: z.number().int(),
  })
  .meta({ id: 'Capacity' });
export type CapacityView = z.output<typeof capacityViewSchema>;

/** An order in which all nodes could go down for work. */
export const rollingViewSchema = z
  .object({
    sentence: z.string(),
    groups: z.array(
      z.object({
        nodes: z.array(nodeIdSchema),
        /** What moves elsewhere before they go down. */
        moves: z.array(z.object({ vm: idSchema, name: z.string(), to: nodeIdSchema })),
      }),
    ),
    blocked: z.array(z.object({ node: nodeIdSchema, reason: z.string() })),
  })
  .meta({ id: 'Rolling' });
export type RollingView = z.output<typeof rollingViewSchema>;
/** Words of a query with commas between them. */
const wordsSchema = z
  .string()
  .max(4096)
  .transform((s) => s.split(',').filter((x) => x !== ''));
export const rollingQuerySchema = z.strictObject({
  atOnce: wholeSchema(1, rollingAtOnceMax).default(1),
  /** Only these; with tags, these too. */
  nodes: wordsSchema.optional(),
  tags: wordsSchema.optional(),
});

/** Work on nodes in turn: those that are named, or have one of the tags; without both all. */
export const rollingBeginSchema = z
  .strictObject({
    work: rollingWorkSchema,
    /** Of the appliance, to update to. */
    image: refSchema.optional(),
    nodes: z.array(refSchema).max(rollingNodesMax).default([]),
    tags: tagsSchema.default([]),
    atOnce: z.number().int().min(1).max(rollingAtOnceMax).default(1),
    /** A VM that cannot move while it runs may be shut down and started elsewhere. */
    restart: z.boolean().default(false),
    /** VMs come back to each node when it is well. */
    bringBack: z.boolean().default(false),
  })
  .refine(
    (b) => (b.work === 'update') === (b.image !== undefined),
    'an update needs an image, a reboot takes none',
  )
  .meta({ id: 'RollingBegin' });
