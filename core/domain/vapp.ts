import { z } from 'zod';
import { errorRecordSchema } from './op.js';
import { idSchema, nameSchema, noteSchema, tagsSchema } from './schema.js';

/** VMs of one vApp, those of nested ones too: what one record, and one operation on it, can hold. */
export const vappMembersMax = 64;
export const vappNetworksMax = 8;
export const vappPropertiesMax = 128;
/** vApps nested in one, and how deep. */
export const vappGroupsMax = 32;

/** A member's, nested vApp's or network's name inside its vApp: short, so that it can be a part of a VM's name. */
export const vappPartSchema = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/, 'lower-case letters, digits and -, at most 32');

/** Seconds that a member has to answer when nothing is said: a guest without KVM takes its time. */
export const vappTimeoutS = 600;

/**
 * When a member is started, and what is waited for before those of the next higher order are. Members of equal order are
 * started at once.
 */
export const vappStartSchema = z.strictObject({
  order: z.number().int().min(0).max(9999).default(0),
  /** `none`: it is not started with its vApp. */
  action: z.enum(['start', 'none']).default('start'),
  /** `guest`: its guest agent answers. `tcp`: something listens on `port`. `http`: `path` there is answered with 2xx or 3xx. */
  wait: z.enum(['running', 'guest', 'tcp', 'http']).default('running'),
  port: z.number().int().min(1).max(65_535).optional(),
  path: z
    .string()
    .max(200)
    .regex(/^\/[\x21-\x7e]*$/, 'begins with / and has no spaces')
    .optional(),
  timeoutS: z.number().int().min(1).max(7200).default(vappTimeoutS),
  /** When it has not come in time: the start fails, or the next ones are started all the same. */
  onTimeout: z.enum(['fail', 'go-on']).default('fail'),
  /** Seconds after that. */
  delayS: z.number().int().min(0).max(3600).default(0),
});
export type VappStart = z.output<typeof vappStartSchema>;
export const vappStartDefault: VappStart = vappStartSchema.parse({});

export const vappStopSchema = z.strictObject({
  /** Lower ones are stopped first. Null: in the reverse order of the start. */
  order: z.number().int().min(0).max(9999).nullable().default(null),
  action: z.enum(['shutdown', 'power-off', 'none']).default('shutdown'),
  /** Seconds to wait before the next are stopped. */
  delayS: z.number().int().min(0).max(3600).default(0),
});
export type VappStop = z.output<typeof vappStopSchema>;
export const vappStopDefault: VappStop = vappStopSchema.parse({});

/** A snapshot that the disks of a member which is not made yet begin as. */
export const vappFromSchema = z.object({
  /** The VM it is of. */
  vm: idSchema,
  snapshot: idSchema,
  /** Only what differs from it is stored, where a pool does not share blocks by itself; it stays as long as the disks do. */
  linked: z.boolean(),
  /** A template's: it stays. Else it is taken for this member, and goes with the operation. */
  keep: z.boolean(),
});
export type VappFrom = z.output<typeof vappFromSchema>;

/** A VM of a vApp. */
export const vappMemberSchema = z.object({
  name: vappPartSchema,
  /** The nested vApp it is in; null: none. */
  group: vappPartSchema.nullable(),
  /** Its id, before it is made too. */
  vm: idSchema,
  start: vappStartSchema,
  stop: vappStopSchema,
  /** What it is to be made as, all references by id (`vmCreateSchema`). Null: it is made. */
  make: z.record(z.string(), z.unknown()).nullable(),
  /** What its disks begin as. */
  from: vappFromSchema.optional(),
  /** It is being taken out and deleted. */
  leaving: z.boolean().default(false),
});
export type VappMember = z.output<typeof vappMemberSchema>;

/** A nested vApp: a name, an order of its own, members. */
export const vappGroupSchema = z.object({
  name: vappPartSchema,
  group: vappPartSchema.nullable(),
  note: noteSchema,
  start: vappStartSchema,
  stop: vappStopSchema,
});
export type VappGroup = z.output<typeof vappGroupSchema>;

export const vappNetworkSchema = z.object({
  name: vappPartSchema,
  network: idSchema,
  /** Made for it, isolated, and deleted with it. */
  own: z.boolean(),
});
export type VappNetwork = z.output<typeof vappNetworkSchema>;

export const vappPropertyNameSchema = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_.-]{0,127}$/, 'a letter, then letters, digits and _ . -, at most 128');
export const vappValueSchema = z.union([z.string().max(4096), z.number(), z.boolean()]);

/** Something that can be said of a vApp when it is deployed, and that its guests are told. */
export const vappPropertySchema = z.object({
  name: vappPropertyNameSchema,
  type: z.enum(['string', 'integer', 'number', 'boolean']),
  label: z.string().max(200),
  description: z.string().max(1000),
  /** Whoever deploys it may set it. */
  userConfigurable: z.boolean(),
  /** Its value is in `vapp-secret/<id>`, and is shown to nobody. */
  secret: z.boolean(),
  /** Values that it may have; none: any. */
  choices: z.array(vappValueSchema).max(64).optional(),
  /** Null: it has none, or it is secret. */
  default: vappValueSchema.nullable(),
  value: vappValueSchema.nullable(),
});
export type VappProperty = z.output<typeof vappPropertySchema>;

/** What is wanted of where members are: for the planner. */
export const vappRuleSchema = z.object({
  kind: z.enum(['together', 'apart']),
  /** Nothing breaks it; else it only weighs. */
  must: z.boolean(),
  /** What `apart` keeps them apart over. */
  over: z.enum(['node', 'rack']),
  members: z.array(vappPartSchema).min(2).max(vappMembersMax),
});
export type VappRule = z.output<typeof vappRuleSchema>;

export const vappFailoverSchema = z.enum(['members', 'dependents', 'all']);

const allocationSchema = z.strictObject({
  reservation: z.number().nonnegative().nullable(),
  limit: z.number().nonnegative().nullable(),
  weight: z.number().nonnegative().nullable(),
});

/**
 * `/flotilla/vapp/<id>`: VMs handled as one. What its VMs are is in their own records, which name it; here is what holds
 * for them together.
 */
export const vappSchema = z.object({
  id: idSchema,
  name: nameSchema,
  /** Rises by one with each edit. */
  generation: z.number().int().positive(),
  note: noteSchema,
  tags: tagsSchema,
  /** Whose it is, in words or as a user's name. */
  owner: z.string().max(128),
  /** The service class of those of its VMs that name no other. */
  class: idSchema.nullable().default(null),
  members: z.array(vappMemberSchema).max(vappMembersMax),
  groups: z.array(vappGroupSchema).max(vappGroupsMax),
  networks: z.array(vappNetworkSchema).max(vappNetworksMax),
  properties: z.array(vappPropertySchema).max(vappPropertiesMax),
  rules: z.array(vappRuleSchema).max(32),
  /**
   * What a failover of a member restarts: that one alone; those too that are started after it; or all of it.
   */
  failover: vappFailoverSchema.default('members'),
  /** Licences that whoever deploys it accepts. */
  eulas: z.array(z.string().max(16_384)).max(8),
  /** For all of it, MHz and MiB. A reservation of CPU is kept and exported, and not enforced. @see docs/vapps.md */
  cpuAllocation: allocationSchema.nullable(),
  memoryAllocation: allocationSchema.nullable(),
  /** What the package it came from said beside that, for its export. */
  ovf: z.record(z.string(), z.unknown()).nullable(),
});
export type Vapp = z.output<typeof vappSchema>;

/** `/flotilla/vapp-secret/<id>`: values of secret properties. Read where a guest is told, and never kept. */
export const vappSecretSchema = z.object({ values: z.record(vappPropertyNameSchema, vappValueSchema) });

/** What a VM's record says of the vApp it is in. */
export const vmVappSchema = z.object({ id: idSchema, member: vappPartSchema });

export const vappPhaseSchema = z.enum([
  'snapshot',
  'make',
  'start',
  'stop',
  'suspend',
  'resume',
  'delete',
  'undo',
]);

/** `args` of the ops `vapp.*`. */
export const vappArgsSchema = z.looseObject({
  phase: vappPhaseSchema,
  /** It is started when it is made. */
  start: z.boolean().default(false),
  /** Machines are switched off rather than asked to shut down. */
  force: z.boolean().default(false),
  /** Only this nested vApp; null: all. */
  group: vappPartSchema.nullable().default(null),
  /** Stages of the order that are through. */
  stage: z.number().int().nonnegative().default(0),
  /** Of a restart: members that are stopped and started again. Null: all. */
  members: z.array(vappPartSchema).max(vappMembersMax).nullable().default(null),
  /** Of a restart: the failovers it is for. */
  failovers: z.array(idSchema).max(vappMembersMax).default([]),
  /** Why what was made is taken back. */
  why: errorRecordSchema.nullable().default(null),
});
export type VappArgs = z.output<typeof vappArgsSchema>;

/** Null: not to be read, so nothing is done for it. */
export const vappArgs = (op: { readonly args: unknown }): VappArgs | null =>
  vappArgsSchema.safeParse(op.args).data ?? null;

/** What is restarted with a member that a failover brought back, in words. */
export const failoverText: Readonly<Record<Vapp['failover'], string>> = {
  members: 'nothing else is restarted',
  dependents: 'those that are started after it are restarted',
  all: 'all of it is restarted',
};

/** What is reserved and allowed for a vApp, in words. @param unit - MHz or MiB */
export function allocationText(a: NonNullable<Vapp['cpuAllocation']>, unit: string): string {
  return [
    ...(a.reservation === null ? [] : [`${a.reservation} ${unit} reserved`]),
    ...(a.limit === null ? [] : [`at most ${a.limit} ${unit}`]),
    ...(a.weight === null ? [] : [`weight ${a.weight}`]),
  ].join(', ');
}
