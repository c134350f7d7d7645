/** What the REST API takes and answers about vApps; the document is also what `flotilla apply` reads. */
import { z } from 'zod';
import { cidrSchema } from '../domain/ipv4.js';
import { vmHaSchema } from '../domain/ha.js';
import { ipv4Schema, nameSchema, noteSchema, tagsSchema } from '../domain/schema.js';
import {
  vappPartSchema,
  vappFailoverSchema,
  vappPropertyNameSchema,
  vappPropertySchema,
  vappMembersMax,
  vappSchema,
  vappStartSchema,
  vappStopSchema,
  vappValueSchema,
} from '../domain/vapp.js';
import { vmPhaseSchema, vmProtectionSchema } from '../domain/vm.js';
import { newDiskSchema, newNicSchema, opViewSchema, refSchema, vmCreateSchema } from './rest-objects.js';

const create = vmCreateSchema.shape;

/** Sizes as people write them (`10G`, `512M`): bytes where there is no unit, MiB for memory. */
const sizeTextSchema = z.union([z.string().max(40), z.number().int().positive()]);

const vappDiskSchema = z
  .strictObject({
    ...newDiskSchema.shape,
    /** Instead of `sizeBytes`. */
    size: sizeTextSchema.optional(),
    bus: newDiskSchema.shape.bus.unwrap().optional(),
    format: newDiskSchema.shape.format.unwrap().optional(),
  })
  .meta({ id: 'VappDisk' });

/** A member's VM: as a new VM is asked for, but for what the vApp says. What is not given is as usual, and left alone by later edits. */
export const vappVmSchema = z
  .strictObject({
    /** By default the vApp's and the member's name with a - between. */
    name: nameSchema.optional(),
    note: noteSchema.optional(),
    tags: tagsSchema.optional(),
    cpus: create.cpus.unwrap().optional(),
    memory: sizeTextSchema.optional(),
    memoryMiB: create.memoryMiB.unwrap().optional(),
    firmware: create.firmware.unwrap().optional(),
    boot: create.boot.unwrap().optional(),
    disks: z.array(vappDiskSchema).max(24).optional(),
    cdroms: create.cdroms.unwrap().optional(),
    /** `network` is one of the vApp's networks, by its name there. */
    nics: z
      .array(
        z.strictObject({
          ...newNicSchema.shape,
          address: newNicSchema.shape.address.unwrap().optional(),
          model: newNicSchema.shape.model.unwrap().optional(),
        }),
      )
      .max(16)
      .optional(),
    cloudInit: create.cloudInit.unwrap().optional(),
    stopTimeoutS: create.stopTimeoutS.unwrap().optional(),
    onCrash: create.onCrash.unwrap().optional(),
    ha: z
      .strictObject(vmHaSchema.omit({ after: true }).shape)
      .partial()
      .optional(),
    node: create.node,
    /** Balancing may move it. */
    autoMove: create.autoMove,
    cpuShares: create.cpuShares,
    /** The service class it is of, in place of the vApp's; null: none. */
    class: create.class,
  })
  .meta({ id: 'VappVm' });
export type VappVm = z.output<typeof vappVmSchema>;

/** A member: a VM, or a nested vApp with members of its own. */
export interface VappMemberDoc {
  readonly vm?: VappVm | undefined;
  readonly vapp?:
    | { readonly note?: string | undefined; readonly members: Readonly<Record<string, VappMemberDoc>> }
    | undefined;
  readonly start?: z.input<typeof vappStartSchema> | undefined;
  readonly stop?: z.input<typeof vappStopSchema> | undefined;
}

export const vappMemberDocSchema: z.ZodType<VappMemberDoc, VappMemberDoc> = z
  .strictObject({
    vm: vappVmSchema.optional(),
    get vapp() {
      return z
        .strictObject({
          note: noteSchema.optional(),
          members: z.record(vappPartSchema, vappMemberDocSchema),
        })
        .optional();
    },
    start: z.strictObject(vappStartSchema.partial().shape).optional(),
    stop: z.strictObject(vappStopSchema.partial().shape).optional(),
  })
  .refine((m) => (m.vm === undefined) !== (m.vapp === undefined), 'is either a vm or a vapp')
  .meta({ id: 'VappMember' }) as never;

const allocation = vappSchema.shape.cpuAllocation.unwrap().partial().optional();

/** A whole vApp, as `kind: VApp` in a file. */
export const vappDocSchema = z
  .strictObject({
    kind: z.literal('VApp'),
    name: nameSchema,
    note: noteSchema.optional(),
    tags: tagsSchema.optional(),
    owner: vappSchema.shape.owner.optional(),
    /** The service class of its VMs that name no other; null: none. */
    class: refSchema.nullable().optional(),
    properties: z
      .record(
        vappPropertyNameSchema,
        z.strictObject({
          type: vappPropertySchema.shape.type.default('string'),
          label: vappPropertySchema.shape.label.default(''),
          description: vappPropertySchema.shape.description.default(''),
          userConfigurable: z.boolean().default(true),
          secret: z.boolean().default(false),
          choices: vappPropertySchema.shape.choices,
          default: vappValueSchema.optional(),
          /** Better said at the command line, or with `--values`. */
          value: vappValueSchema.optional(),
        }),
      )
      .optional(),
    networks: z
      .record(
        vappPartSchema,
        z.union([
          z.strictObject({ network: refSchema.describe('A network of the cluster, by name or id.') }),
          z.strictObject({
            isolated: z
              .literal(true)
              .describe('Of its own: only its VMs are on it, on whatever nodes they are.'),
            subnet: cidrSchema.default('10.240.0.0/24'),
            range: z.tuple([ipv4Schema, ipv4Schema]).optional(),
          }),
        ]),
      )
      .optional(),
    members: z.record(vappPartSchema, vappMemberDocSchema),
    rules: z
      .array(
        z.strictObject({
          kind: z.enum(['together', 'apart']),
          must: z.boolean().default(true),
          over: z.enum(['node', 'rack']).default('node'),
          members: z.array(vappPartSchema).min(2).max(vappMembersMax),
        }),
      )
      .max(32)
      .optional(),
    failover: vappFailoverSchema
      .optional()
      .describe(
        'What a failover of a member restarts: that one alone (members); those that are started after it, too (dependents); or all.',
      ),
    eulas: vappSchema.shape.eulas.optional(),
    cpuAllocation: allocation,
    memoryAllocation: allocation,
    ovf: vappSchema.shape.ovf.optional(),
  })
  .meta({ id: 'VappDocument', title: 'A vApp of Flotilla' });
export type VappDoc = z.output<typeof vappDocSchema>;
export type VappDocInput = z.input<typeof vappDocSchema>;

export const vappApplySchema = z
  .strictObject({
    document: vappDocSchema,
    /** Values of properties; secret ones only so. Never shown or logged. */
    values: z.record(vappPropertyNameSchema, vappValueSchema).default({}),
    /** Says what would change; changes nothing. */
    dryRun: z.boolean().default(false),
    /** Started when it is made. */
    start: z.boolean().default(false),
    /** Licences are accepted; needed where there are any. */
    acceptEulas: z.boolean().default(false),
  })
  .meta({ id: 'VappApply' });

export const vappCloneSchema = z
  .strictObject({
    name: nameSchema,
    /** Disks store only what differs from the original's, which is kept for that; else all of it is copied. */
    linked: z.boolean().default(false),
    /** Values of properties that are others than the original's; secret ones only so. Never shown or logged. */
    values: z.record(vappPropertyNameSchema, vappValueSchema).default({}),
    /** Started when it is made. */
    start: z.boolean().default(false),
    /** Says what would be made; makes nothing. */
    dryRun: z.boolean().default(false),
  })
  .meta({ id: 'VappClone' });

/** One difference between what is and what is asked for. */
export const vappChangeSchema = z.object({
  do: z.enum(['make', 'change', 'remove']),
  /** Where it stands in the document. */
  path: z.array(z.union([z.string(), z.number()])),
  text: z.string(),
});
export type VappChange = z.output<typeof vappChangeSchema>;

export const vappViewSchema = z
  .object({
    ...vappSchema.shape,
    members: z.array(
      vappSchema.shape.members.element.omit({ make: true, from: true }).extend({
        /** Its name; the one it will have where it is not made yet. */
        vmName: z.string(),
        node: z.string().nullable(),
        phase: vmPhaseSchema,
        power: create.power.unwrap().or(z.literal('paused')).nullable(),
        addresses: z.array(z.string()),
        ha: vmProtectionSchema,
      }),
    ),
    networks: z.array(
      vappSchema.shape.networks.element.extend({ networkName: z.string(), subnet: z.string().nullable() }),
    ),
    /** Name of the service class of its VMs that name no other. */
    className: z.string().nullable(),
    /** All of it, in a word. */
    state: z.enum(['making', 'running', 'partly', 'suspended', 'stopped', 'deleting']),
    /** Operations on it that are not finished. */
    ops: z.array(z.string()),
  })
  .meta({ id: 'Vapp' });
export type VappView = z.output<typeof vappViewSchema>;

export const vappAppliedSchema = z
  .object({
    changes: z.array(vappChangeSchema),
    /** Where its VMs would go or go; those there are, where they are. */
    placement: z.array(z.object({ member: z.string(), node: z.string(), standby: z.string().nullable() })),
    warnings: z.array(z.string()),
    /** Null: nothing is to be done, or it was only asked what would. */
    op: opViewSchema.nullable(),
    vapp: vappViewSchema.nullable(),
  })
  .meta({ id: 'VappApplied' });
export type VappApplied = z.output<typeof vappAppliedSchema>;

export const vappActionSchema = z.enum(['start', 'stop', 'force-stop', 'suspend', 'resume']);
export const vappActSchema = z
  .strictObject({
    /** Only this nested vApp. */
    group: vappPartSchema.nullable().default(null),
  })
  .meta({ id: 'VappAct' });
