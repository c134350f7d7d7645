/** What the REST API takes and answers: the objects of the table in `rest.ts`. */
import { z } from 'zod';
import { pairViewSchema } from './rest-protection.js';
import { roleSchema } from '../domain/user.js';
import { rotationPhases, rotationWithoutMax } from '../domain/ca-rotation.js';
import { caSha256Schema, certificateRecordSchema, serialSchema } from '../domain/certificate.js';
import { clusterMetaSchema, tokenRecordSchema } from '../domain/cluster.js';
import { diskSchema, replicasSchema } from '../domain/disk.js';
import { errorStatus, type ErrorCode } from '../domain/error.js';
import { protectionLevels, vmHaSchema } from '../domain/ha.js';
import { imageFormatSchema, imageSchema, virtualSizeBytesMax } from '../domain/image.js';
import { cidrSchema } from '../domain/ipv4.js';
import { bridgeNameSchema, networkSchema } from '../domain/network.js';
import { nodeDesiredSchema, nodeRecordSchema, nodeStateSchema, poolUseSchema } from '../domain/node.js';
import { errorRecordSchema, opSchema } from '../domain/op.js';
import { classSettingSchema, cpuSharesSchema } from '../domain/service-class.js';
import { pathSchema, poolKindSchema, poolSchema } from '../domain/pool.js';
import {
  idSchema,
  ipv4Schema,
  macSchema,
  nameSchema,
  nodeIdSchema,
  noteSchema,
  tagsSchema,
  wallMsSchema,
} from '../domain/schema.js';
import { snapshotScheduleSchema } from '../domain/snapshot-schedule.js';
import {
  bootSchema,
  cloudInitSchema,
  diskBusSchema,
  powerSchema,
  vmOwnSchema,
  vmPhaseSchema,
  vmProtectionSchema,
  vmSpecSchema,
  vmStateSchema,
} from '../domain/vm.js';

export const apiRoot = '/api/v1';

/** Largest JSON body the API reads, bytes. The largest honest one is a VM with 48 kB of cloud-init data. */
export const apiBodyBytesMax = 1024 * 1024;

/** Most items one page of a list holds. */
export const pageItemsMax = 2000;

/* ---- pieces ---------------------------------------------------------------------------------------- */

/** An object in a path or body: its id or its name. */
export const refSchema = z
  .string()
  .min(1)
  .max(63 * 4)
  // eslint-disable-next-line no-control-regex -- exactly these must not reach a look-up, a log or a key
  .regex(/^[^/\\\u0000-\u001f\u007f]+$/u, 'a name or an id')
  .transform((s) => s.normalize('NFC'))
  .meta({ description: 'The name or the id of the object.' });

const sizeBytesSchema = z.number().int().positive().max(virtualSizeBytesMax);

/** How fresh an answer is: an old view is never served without saying so. */
export const freshnessSchema = z.object({
  /** Wall clock of the controller at its last complete reading of the ledger. */
  asOfMs: wallMsSchema,
  /** Age of that reading, ms. */
  ageMs: z.number().nonnegative(),
  ledger: z.enum(['ok', 'stale']),
});
export type Freshness = z.output<typeof freshnessSchema>;

/** A page of a list, with its freshness. `next` is given back as `after`. */
export function pageOf<S extends z.ZodType>(item: S) {
  return freshnessSchema.extend({
    items: z.array(item),
    total: z.number().int().nonnegative(),
    next: z.string().nullable(),
  });
}

export const pageQuery = {
  limit: z.coerce.number().int().min(1).max(pageItemsMax).default(pageItemsMax),
  after: z.string().max(512).optional(),
};

const presenceSchema = z.enum(['here', 'suspect', 'silent', 'never-heard']);

/** The answer to anything refused or failed (RFC 9457), with the code that CLI and ops carry too. */
export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    detail: z.string().optional(),
    code: z.enum(Object.keys(errorStatus) as [ErrorCode, ...ErrorCode[]]),
    message: z.string(),
    hint: z.string(),
    causes: z.array(z.string()),
    details: z.unknown().optional(),
  })
  .meta({ id: 'Problem' });
export type Problem = z.output<typeof problemSchema>;

/* ---- what is shown --------------------------------------------------------------------------------- */

/** A VM in a list: what one looks for at a glance. */
export const vmRowSchema = z
  .object({
    id: idSchema,
    name: nameSchema,
    /** The owner; null: no readable owner record. */
    node: nodeIdSchema.nullable(),
    presence: presenceSchema,
    phase: vmPhaseSchema,
    reason: z.string(),
    power: powerSchema,
    generation: z.number().int(),
    cpus: z.number().int(),
    memoryMiB: z.number().int(),
    diskBytes: z.number(),
    tags: tagsSchema,
    addresses: z.array(z.string()),
    macs: z.array(z.string()),
    hostname: z.string().nullable(),
    guestAgent: z.boolean(),
    cpuPct: z.number().nullable(),
    memoryUsedBytes: z.number().nullable(),
    upSinceMs: wallMsSchema.nullable(),
    /** Edits that wait for a restart, in words. */
    pendingRestart: z.array(z.string()),
    /** When the owner was last heard speaking of it, by the controller's wall clock; null: never. */
    heardMs: wallMsSchema.nullable(),
    /** Operations not finished yet. */
    ops: z.array(idSchema),
    error: errorRecordSchema.nullable(),
    /** The protection asked for: none, a restart elsewhere, or a twin that goes on. */
    level: z.enum(protectionLevels),
    /** How it stands with high availability. */
    ha: vmProtectionSchema,
    /** Null: its machine is not one that can have a twin. */
    pair: pairViewSchema.nullable(),
    /** Name of its service class. */
    className: z.string().nullable(),
  })
  .meta({ id: 'VmRow' });
export type VmRow = z.output<typeof vmRowSchema>;

/** Everything known of one VM. */
export const vmViewSchema = vmRowSchema
  .extend({
    spec: vmSpecSchema,
    own: vmOwnSchema.nullable(),
    observed: vmStateSchema.nullable(),
    disks: z.array(diskSchema),
    /** Names of the VMs in `spec.ha.after` that there are. */
    afterNames: z.array(z.string()),
    /** How it is set, and by whom where it is of a class: `vm` where the class says nothing of it. */
    settings: z.array(
      z.object({
        setting: classSettingSchema,
        text: z.string(),
        by: z.enum(['class', 'own', 'vm']),
      }),
    ),
    /** What is odd about it, in words. */
    problems: z.array(z.string()),
  })
  .meta({ id: 'Vm' });
export type VmView = z.output<typeof vmViewSchema>;

/** Names that `fields=` of the VM list takes. */
export const vmFields = Object.keys(vmViewSchema.shape) as (keyof VmView)[];

export const nodeViewSchema = z
  .object({
    id: nodeIdSchema,
    record: nodeRecordSchema,
    /** Its lease in the ledger stands. */
    live: z.boolean(),
    presence: presenceSchema,
    /** When its beat was last heard, by the controller's wall clock; null: never. */
    heardMs: wallMsSchema.nullable(),
    agentGone: z.boolean(),
    state: nodeStateSchema.nullable(),
    /** VMs it owns, and what they may take of it. */
    vms: z.number().int(),
    committedCpus: z.number().int(),
    committedMemoryMiB: z.number().int(),
    /** For If-Match. */
    revision: z.string(),
    problems: z.array(z.string()),
  })
  .meta({ id: 'Node' });
export type NodeView = z.output<typeof nodeViewSchema>;

export const diskViewSchema = diskSchema
  .extend({ vmName: z.string().nullable(), poolName: z.string().nullable() })
  .meta({ id: 'Disk' });
export type DiskView = z.output<typeof diskViewSchema>;

export const poolViewSchema = poolSchema
  .extend({
    /** As each node that has it says. */
    use: z.array(poolUseSchema.extend({ node: nodeIdSchema, heardMs: wallMsSchema.nullable() })),
    disks: z.number().int(),
    images: z.number().int(),
    revision: z.string(),
  })
  .meta({ id: 'Pool' });
export type PoolView = z.output<typeof poolViewSchema>;

export const networkViewSchema = networkSchema
  .safeExtend({ nics: z.number().int(), revision: z.string() })
  .meta({ id: 'Network' });
export type NetworkView = z.output<typeof networkViewSchema>;

export const imageViewSchema = imageSchema
  .extend({ poolName: z.string().nullable(), revision: z.string() })
  .meta({ id: 'Image' });
export type ImageView = z.output<typeof imageViewSchema>;

export const opViewSchema = opSchema.meta({ id: 'Op' });
export type OpView = z.output<typeof opViewSchema>;

/** A line of an operation's tree of parts. */
export const opPartViewSchema = z
  .object({
    /** 0: of the operation itself; one more: of the nearest line above that has one less. */
    depth: z.number().int().nonnegative(),
    /** A VM, a node, a step, an operation: in words. */
    name: z.string(),
    state: z.enum(['waiting', 'running', 'done', 'failed', 'cancelled']),
    /** What is being done, waited for, or went wrong; may be empty. */
    text: z.string(),
    progress: z.number().min(0).max(1).nullable(),
    /** The operation that does it; null: there is none, or it is remembered no more. */
    op: idSchema.nullable(),
  })
  .meta({ id: 'OpPart' });
export type OpPartView = z.output<typeof opPartViewSchema>;

export const opAnswerSchema = z.object({ op: opViewSchema }).meta({ id: 'OpAnswer' });

/** Words of the query that mean yes. */
export const flagSchema = z
  .enum(['true', 'false', '1', '0', ''])
  .default('false')
  .transform((s) => s === 'true' || s === '1' || s === '');
/** A certificate that the cluster's CA signed, without its text. */
export const certificateViewSchema = certificateRecordSchema
  .omit({ pem: true, serial: true })
  .extend({
    /** Its serial number. */
    id: serialSchema,
    /** Whether its key is that of a node of the cluster now. */
    member: z.boolean(),
  })
  .meta({ id: 'Certificate' });
export type CertificateView = z.output<typeof certificateViewSchema>;
export const certificateRevokeSchema = z
  .strictObject({
    /** Also where a node of the cluster uses it, which is cut off by that. */
    force: z.boolean().default(false),
  })
  .meta({ id: 'CertificateRevoke' });

const caSchema = z.object({
  sha256: caSha256Schema,
  notAfterMs: wallMsSchema,
  /** The certificate; it is no secret. */
  pem: z.string(),
});
/** The cluster's CA, and how far it is with being replaced. */
export const caViewSchema = z
  .object({
    /** It in one sentence. */
    sentence: z.string(),
    /** The one that signs. */
    ca: caSchema,
    /** While it is replaced: the other one that is trusted besides. */
    other: caSchema.nullable(),
    /** Null: it is not being replaced. */
    phase: z.enum(rotationPhases).nullable(),
    /** Whom the next step waits for, and why. */
    waits: z.array(z.object({ node: nodeIdSchema, why: z.string() })),
    /** The last operation that replaced it or tried to; null: there is none of late. */
    op: opViewSchema.nullable(),
  })
  .meta({ id: 'Ca' });
export type CaView = z.output<typeof caViewSchema>;
export const caRotateSchema = z
  .strictObject({
    /** Nodes that are not there and that it is not to wait for; they catch up when they are back. No voters. */
    without: z.array(refSchema).max(rotationWithoutMax).default([]),
  })
  .meta({ id: 'CaRotate' });

/** A token without its hash. */
export const tokenViewSchema = tokenRecordSchema.omit({ sha256: true }).meta({ id: 'Token' });
export type TokenView = z.output<typeof tokenViewSchema>;

/** What was given out; the text is shown this once. */
export const tokenMadeSchema = tokenViewSchema.extend({ token: z.string() }).meta({ id: 'TokenMade' });

/** A line that wants a hand. */
export const concernSchema = z.object({
  level: z.enum(['warning', 'error']),
  /** e.g. `node n1`, `VM web`. */
  subject: z.string(),
  text: z.string(),
});
export type Concern = z.output<typeof concernSchema>;

export const clusterViewSchema = freshnessSchema
  .extend({
    meta: clusterMetaSchema.omit({ ca: true }).nullable(),
    /** Is all well? In one sentence. */
    sentence: z.string(),
    well: z.boolean(),
    concerns: z.array(concernSchema),
    counts: z.object({
      nodes: z.number().int(),
      nodesHere: z.number().int(),
      vms: z.number().int(),
      vmsRunning: z.number().int(),
      images: z.number().int(),
      opsOpen: z.number().int(),
      /** Ledger records that cannot be read: counted, named in `unreadable`. */
      unreadable: z.number().int(),
    }),
    capacity: z.object({
      cpus: z.number().int(),
      cpusCommitted: z.number().int(),
      memoryBytes: z.number(),
      memoryUsedBytes: z.number(),
      memoryCommittedBytes: z.number(),
      poolBytes: z.number(),
      poolFreeBytes: z.number(),
    }),
    unreadable: z.array(z.object({ key: z.string(), text: z.string() })).max(100),
    /** Refused on the controller's radio since its start, by kind. */
    refused: z.record(z.string(), z.number()),
    version: z.string(),
  })
  .meta({ id: 'Cluster' });
export type ClusterView = z.output<typeof clusterViewSchema>;

/** What the view lists, and tells changes of. */
export const objectKinds = ['node', 'vm', 'image', 'pool', 'network', 'op', 'vapp'] as const;

/** The kinds of server-sent events; `data` of an object's event is its view, of `*-gone` its id. */
export const eventKinds = ['snapshot', 'cluster', ...objectKinds] as const;
export type EventKind = (typeof eventKinds)[number];

/* ---- what is asked --------------------------------------------------------------------------------- */

export const newDiskSchema = z
  .strictObject({
    /** Unique in its VM; made up where not given. */
    name: nameSchema.optional(),
    /** Where it lies; needed where the cluster has more than one pool and none is named `local`. */
    pool: refSchema.optional(),
    /** Needed for a blank disk; else the image's size, or more. */
    sizeBytes: sizeBytesSchema.optional(),
    bus: diskBusSchema.default('virtio'),
    format: z.enum(['raw', 'qcow2']).default('qcow2'),
    image: refSchema.optional(),
    /** `moved`: the image's file becomes the disk; the image is of no use then, and is to be deleted. */
    mode: z.enum(['full', 'linked', 'moved']).optional(),
    /** 2, on a thin pool: every write is on two nodes before the guest is told. */
    replicas: replicasSchema.optional(),
  })
  .meta({ id: 'NewDisk' });

export const newNicSchema = z
  .strictObject({
    network: refSchema,
    mac: macSchema.optional(),
    /** `auto`: the next free one of the network's range, none where it has no range. */
    address: z.union([ipv4Schema, z.literal('auto'), z.null()]).default('auto'),
    model: z.enum(['virtio', 'e1000e']).default('virtio'),
  })
  .meta({ id: 'NewNic' });

const newCdromSchema = z.strictObject({ image: refSchema.nullable() });

const newCloudInitSchema = z.strictObject({
  hostname: cloudInitSchema.shape.hostname.default(null),
  user: cloudInitSchema.shape.user.default(null),
  sshKeys: cloudInitSchema.shape.sshKeys.default([]),
  userData: cloudInitSchema.shape.userData.default(null),
  networkConfig: cloudInitSchema.shape.networkConfig.default(null),
  ovfEnvironment: cloudInitSchema.shape.ovfEnvironment,
});

/** Seconds a guest has to shut down when nothing is said: most do in 30, databases need more. */
const stopTimeoutSDefault = 90;

const vmShape = vmSpecSchema.shape;

/** High availability as it is asked for: what is not given stays, or is as usual. */
export const vmHaInputSchema = z
  .strictObject({
    ...vmHaSchema.shape,
    /** VMs by name or id. */
    after: z.array(refSchema).max(16),
  })
  .partial()
  .meta({ id: 'VmHaInput' });
export type VmHaInput = z.output<typeof vmHaInputSchema>;

export const vmCreateSchema = z
  .strictObject({
    name: nameSchema,
    note: noteSchema.default(''),
    tags: tagsSchema.default([]),
    cpus: vmShape.cpus.default(1),
    memoryMiB: vmShape.memoryMiB.default(1024),
    firmware: vmShape.firmware.default('bios'),
    boot: z.array(bootSchema).min(1).max(3).default(['disk', 'cdrom']),
    disks: z.array(newDiskSchema).max(24).default([]),
    cdroms: z.array(newCdromSchema).max(4).default([]),
    nics: z.array(newNicSchema).max(16).default([]),
    cloudInit: newCloudInitSchema.nullable().default(null),
    /** `running`: started as soon as it is made. */
    power: z.enum(['running', 'stopped']).default('stopped'),
    stopTimeoutS: vmShape.stopTimeoutS.default(stopTimeoutSDefault),
    onCrash: vmShape.onCrash.default('restart'),
    ha: vmHaInputSchema.default({}),
    /** False: balancing never moves it. Nothing: as its class says, or it may. */
    autoMove: z.boolean().optional(),
    cpuShares: cpuSharesSchema.optional(),
    /** Snapshots that are taken by themselves, and how many of each are kept. */
    snapshots: snapshotScheduleSchema.optional(),
    /** The service class it is of: what is said here itself stays its own. */
    class: refSchema.nullable().optional(),
    /** The node that shall own it; else the least loaded one that fits. */
    node: nodeIdSchema.optional(),
  })
  .meta({ id: 'VmCreate' });
export type VmCreate = z.output<typeof vmCreateSchema>;
export type VmCreateInput = z.input<typeof vmCreateSchema>;

/**
 * An edit. Disks and NICs are added and removed by name, not replaced as a list: an edit made from an old page
 * then cannot take away what somebody else just added.
 */
export const vmPatchSchema = z
  .strictObject({
    name: nameSchema.optional(),
    note: noteSchema.optional(),
    tags: tagsSchema.optional(),
    cpus: vmShape.cpus.optional(),
    memoryMiB: vmShape.memoryMiB.optional(),
    /** Only while stopped. */
    firmware: vmShape.firmware.optional(),
    boot: z.array(bootSchema).min(1).max(3).optional(),
    stopTimeoutS: vmShape.stopTimeoutS.optional(),
    onCrash: vmShape.onCrash.optional(),
    ha: vmHaInputSchema.optional(),
    autoMove: z.boolean().optional(),
    cpuShares: cpuSharesSchema.optional(),
    /** The service class it is of; null: none, and all stays as it is. */
    class: refSchema.nullable().optional(),
    /** Settings of its own that its class is to say again. */
    asClass: z.array(classSettingSchema).min(1).max(16).optional(),
    /** Snapshots that are taken by themselves, and how many of each are kept; null: none any more. */
    snapshots: snapshotScheduleSchema.nullable().optional(),
    /** Replaced as a whole; null: none. */
    cloudInit: newCloudInitSchema.nullable().optional(),
    addDisks: z.array(newDiskSchema).min(1).max(24).optional(),
    /** Taken from the VM and deleted with their data, by name or id. */
    removeDisks: z.array(refSchema).min(1).max(24).optional(),
    /** Taken out of the machine, by name or id; their data stays with the VM. */
    detachDisks: z.array(refSchema).min(1).max(24).optional(),
    /** Put back into it. */
    attachDisks: z.array(refSchema).min(1).max(24).optional(),
    growDisks: z
      .array(z.strictObject({ disk: refSchema, sizeBytes: sizeBytesSchema }))
      .min(1)
      .max(24)
      .optional(),
    /** All CD drives as they shall be. */
    cdroms: z.array(newCdromSchema).max(4).optional(),
    addNics: z.array(newNicSchema).min(1).max(16).optional(),
    /** By id or MAC. */
    removeNics: z.array(z.string().max(64)).min(1).max(16).optional(),
  })
  .refine((p) => Object.values(p).some((v) => v !== undefined), 'names nothing to change')
  .meta({ id: 'VmPatch' });
export type VmPatch = z.output<typeof vmPatchSchema>;

/** The image to update to: one of `images/build image`, in the catalogue. */
export const nodeUpdateSchema = z.strictObject({ image: refSchema }).meta({ id: 'NodeUpdate' });

export const nodePatchSchema = z
  .strictObject({
    rack: nodeRecordSchema.shape.rack.optional(),
    tags: tagsSchema.optional(),
    desired: nodeDesiredSchema.optional(),
    /** On the network over which copies of disks travel; null: they take the management network. */
    storageAddress: ipv4Schema.nullable().optional(),
  })
  .meta({ id: 'NodePatch' });

export const imageCreateSchema = z
  .strictObject({
    name: nameSchema,
    pool: refSchema.optional(),
    /** On a local pool, the node that shall hold it; else the one with most space. */
    node: nodeIdSchema.optional(),
    /** Bytes that will come; checked at the end. */
    sizeBytes: sizeBytesSchema.optional(),
    /** SHA-256 of the bytes that come, hex; checked at the end. */
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/i)
      .transform((s) => s.toLowerCase())
      .optional(),
    /** Fetched from there by the node, in place of an upload. */
    url: z
      .url({ protocol: /^https?$/ })
      .max(1024)
      .optional(),
    /** What comes. An ISO must be named one; the others are also recognised by themselves. */
    format: imageFormatSchema.optional(),
  })
  .meta({ id: 'ImageCreate' });

export const uploadStateSchema = z
  .object({
    image: idSchema,
    state: imageSchema.shape.state,
    /** Bytes stored so far: where to go on. */
    offset: z.number().int().nonnegative(),
    expectedBytes: z.number().int().nullable(),
    /** The node that takes them. */
    node: nodeIdSchema,
  })
  .meta({ id: 'Upload' });

export const poolCreateSchema = z
  .strictObject({
    name: nameSchema,
    kind: poolKindSchema,
    /** The directory on each node; a thin pool has none. */
    path: pathSchema.optional(),
    /** What a thin pool is made of; needed for one. */
    drives: poolSchema.shape.drives,
    nodes: poolSchema.shape.nodes.default(null),
    reservePct: poolSchema.shape.reservePct.default(5),
  })
  .meta({ id: 'PoolCreate' });
export type PoolCreate = z.output<typeof poolCreateSchema>;

export const poolPatchSchema = z
  .strictObject({
    name: nameSchema.optional(),
    nodes: poolSchema.shape.nodes.optional(),
    reservePct: poolSchema.shape.reservePct.optional(),
    /** Added to a thin pool. */
    addDrives: poolSchema.shape.drives,
  })
  .meta({ id: 'PoolPatch' });

const networkInput = {
  uplink: networkSchema.shape.uplink,
  subnet: cidrSchema.nullable(),
  gateway: ipv4Schema.nullable(),
  dns: z.array(ipv4Schema).max(3),
  range: z.tuple([ipv4Schema, ipv4Schema]).nullable(),
};

export const networkCreateSchema = z
  .strictObject({
    name: nameSchema,
    bridge: bridgeNameSchema,
    uplink: networkInput.uplink.default(null),
    subnet: networkInput.subnet.default(null),
    gateway: networkInput.gateway.default(null),
    dns: networkInput.dns.default([]),
    range: networkInput.range.default(null),
  })
  .meta({ id: 'NetworkCreate' });

export const networkPatchSchema = z
  .strictObject({
    name: nameSchema.optional(),
    bridge: bridgeNameSchema.optional(),
    uplink: networkInput.uplink.optional(),
    subnet: networkInput.subnet.optional(),
    gateway: networkInput.gateway.optional(),
    dns: networkInput.dns.optional(),
    range: networkInput.range.optional(),
  })
  .meta({ id: 'NetworkPatch' });

export const tokenCreateSchema = z
  .strictObject({
    name: nameSchema,
    kind: z.enum(['join', 'api']),
    /** Seconds it is valid; null or nothing: for ever (API tokens), one day (join tokens). */
    ttlS: z
      .number()
      .int()
      .min(1)
      .max(10 * 365 * 86_400)
      .nullable()
      .optional(),
    /** What an API token may; nothing: as much as who makes it. */
    role: roleSchema.optional(),
    /** How often it may be used; null: any number. Join tokens: once, unless said. */
    uses: z.number().int().min(1).max(10_000).nullable().optional(),
  })
  .meta({ id: 'TokenCreate' });
