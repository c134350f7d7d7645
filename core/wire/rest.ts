/**
 * The REST API as data: what each route takes and answers. The controller builds its router and its OpenAPI
 * document from this table, the command line and the page their client: one description, so none can drift.
 */
import { z } from 'zod';
import { clusterMetaSchema, tokenRecordSchema } from '../domain/cluster.js';
import { diskSchema } from '../domain/disk.js';
import { errorStatus, type ErrorCode } from '../domain/error.js';
import { imageFormatSchema, imageSchema, virtualSizeBytesMax } from '../domain/image.js';
import { cidrSchema } from '../domain/ipv4.js';
import { bridgeNameSchema, networkSchema } from '../domain/network.js';
import { nodeDesiredSchema, nodeRecordSchema, nodeStateSchema, poolUseSchema } from '../domain/node.js';
import { errorRecordSchema, opKindSchema, opSchema } from '../domain/op.js';
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
import {
  bootSchema,
  cloudInitSchema,
  diskBusSchema,
  powerSchema,
  vmOwnSchema,
  vmPhaseSchema,
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
function pageOf<S extends z.ZodType>(item: S) {
  return freshnessSchema.extend({
    items: z.array(item),
    total: z.number().int().nonnegative(),
    next: z.string().nullable(),
  });
}

const pageQuery = {
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

/** The kinds of server-sent events; `data` of an object's event is its view, of `*-gone` its id. */
export const eventKinds = ['snapshot', 'cluster', 'node', 'vm', 'image', 'pool', 'network', 'op'] as const;
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
    mode: z.enum(['full', 'linked']).optional(),
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
});

/** Seconds a guest has to shut down when nothing is said: most do in 30, databases need more. */
const stopTimeoutSDefault = 90;

const vmShape = vmSpecSchema.shape;

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
    /** Replaced as a whole; null: none. */
    cloudInit: newCloudInitSchema.nullable().optional(),
    addDisks: z.array(newDiskSchema).min(1).max(24).optional(),
    /** Taken from the VM and deleted with their data, by name or id. */
    removeDisks: z.array(refSchema).min(1).max(24).optional(),
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

/** Actions by POST; `edit` and `delete` have their own methods. */
export const vmActionSchema = z.enum([
  'start',
  'stop',
  'force-stop',
  'reboot',
  'reset',
  'pause',
  'resume',
] as const);

export const nodePatchSchema = z
  .strictObject({
    rack: nodeRecordSchema.shape.rack.optional(),
    desired: nodeDesiredSchema.optional(),
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
    path: pathSchema,
    nodes: poolSchema.shape.nodes.default(null),
    reservePct: poolSchema.shape.reservePct.default(5),
  })
  .meta({ id: 'PoolCreate' });

export const poolPatchSchema = z
  .strictObject({
    name: nameSchema.optional(),
    nodes: poolSchema.shape.nodes.optional(),
    reservePct: poolSchema.shape.reservePct.optional(),
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
    /** How often it may be used; null: any number. Join tokens: once, unless said. */
    uses: z.number().int().min(1).max(10_000).nullable().optional(),
  })
  .meta({ id: 'TokenCreate' });

/* ---- the table ------------------------------------------------------------------------------------- */

export interface RestRoute {
  readonly method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  /** Below {@link apiRoot}; parameters in braces. */
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  /** Status of success. */
  readonly status: 200 | 201 | 202 | 204;
  readonly response: z.ZodType;
  /** The answer carries an ETag, and a change takes If-Match. */
  readonly etag?: true;
  /** A create that takes an Idempotency-Key: sent twice, it makes one. */
  readonly idempotent?: true;
}

/** What an accepted change of a VM answers: the operation to follow, and the VM as it now is. */
export const vmChangeSchema = z.object({ op: opViewSchema, vm: vmViewSchema }).meta({ id: 'VmChange' });
export const opAnswerSchema = z.object({ op: opViewSchema }).meta({ id: 'OpAnswer' });
export const imageChangeSchema = z
  .object({ image: imageViewSchema, op: opViewSchema.nullable() })
  .meta({ id: 'ImageChange' });
const nothingSchema = z.null();

const at = <const K extends string>(k: K) =>
  z.strictObject({ [k]: refSchema } as Record<K, typeof refSchema>);
const opIdParams = z.strictObject({ op: idSchema });
const strict = <S extends z.ZodRawShape>(shape: S) => z.strictObject(shape);

/** Words of the query that mean yes. */
const flagSchema = z
  .enum(['true', 'false', '1', '0', ''])
  .default('false')
  .transform((s) => s === 'true' || s === '1' || s === '');

export const rest = {
  clusterGet: {
    method: 'get',
    path: '/cluster',
    tag: 'cluster',
    summary: 'Is all well? The cluster in one sentence, what wants a hand, capacity',
    status: 200,
    response: clusterViewSchema,
  },
  nodeList: {
    method: 'get',
    path: '/nodes',
    tag: 'nodes',
    summary: 'All nodes, as the ledger and the radio know them',
    query: strict(pageQuery),
    status: 200,
    response: pageOf(nodeViewSchema),
  },
  nodeGet: {
    method: 'get',
    path: '/nodes/{node}',
    tag: 'nodes',
    summary: 'One node',
    params: at('node'),
    status: 200,
    response: nodeViewSchema,
    etag: true,
  },
  nodePatch: {
    method: 'patch',
    path: '/nodes/{node}',
    tag: 'nodes',
    summary: 'Change what a node shall be, or its rack',
    params: at('node'),
    body: nodePatchSchema,
    status: 200,
    response: nodeViewSchema,
    etag: true,
  },
  vmList: {
    method: 'get',
    path: '/vms',
    tag: 'vms',
    summary: 'VMs, by name; filtered and paged',
    query: strict({
      ...pageQuery,
      node: nodeIdSchema.optional(),
      phase: vmPhaseSchema.optional(),
      power: powerSchema.optional(),
      tag: z.string().max(252).optional(),
      /** A part of the name, in any case. */
      name: z.string().max(252).optional(),
      /** Comma-separated; nothing: those of a row. */
      fields: z.string().max(512).optional(),
    }),
    status: 200,
    response: pageOf(vmRowSchema),
  },
  vmGet: {
    method: 'get',
    path: '/vms/{vm}',
    tag: 'vms',
    summary: 'Everything known of one VM',
    params: at('vm'),
    status: 200,
    response: vmViewSchema,
    etag: true,
  },
  vmCreate: {
    method: 'post',
    path: '/vms',
    tag: 'vms',
    summary: 'Make a VM; placement picks its node',
    body: vmCreateSchema,
    status: 202,
    response: vmChangeSchema,
    etag: true,
    idempotent: true,
  },
  vmPatch: {
    method: 'patch',
    path: '/vms/{vm}',
    tag: 'vms',
    summary: 'Edit a VM; what cannot be changed while it runs waits for a restart',
    params: at('vm'),
    body: vmPatchSchema,
    status: 202,
    response: vmChangeSchema,
    etag: true,
    idempotent: true,
  },
  vmAction: {
    method: 'post',
    path: '/vms/{vm}/actions/{action}',
    tag: 'vms',
    summary: 'Start, stop, force-stop, reboot, reset, pause or resume a VM',
    params: z.strictObject({ vm: refSchema, action: vmActionSchema }),
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmDelete: {
    method: 'delete',
    path: '/vms/{vm}',
    tag: 'vms',
    summary: 'Delete a VM and its disks; `force` stops it first',
    params: at('vm'),
    query: strict({ force: flagSchema }),
    status: 202,
    response: opAnswerSchema,
    etag: true,
    idempotent: true,
  },
  diskList: {
    method: 'get',
    path: '/disks',
    tag: 'disks',
    summary: 'All disks',
    query: strict({ ...pageQuery, vm: refSchema.optional(), pool: refSchema.optional() }),
    status: 200,
    response: pageOf(diskViewSchema),
  },
  diskGet: {
    method: 'get',
    path: '/disks/{disk}',
    tag: 'disks',
    summary: 'One disk',
    params: z.strictObject({ disk: idSchema }),
    status: 200,
    response: diskViewSchema,
  },
  imageList: {
    method: 'get',
    path: '/images',
    tag: 'images',
    summary: 'The image catalogue',
    query: strict(pageQuery),
    status: 200,
    response: pageOf(imageViewSchema),
  },
  imageGet: {
    method: 'get',
    path: '/images/{image}',
    tag: 'images',
    summary: 'One image',
    params: at('image'),
    status: 200,
    response: imageViewSchema,
  },
  imageCreate: {
    method: 'post',
    path: '/images',
    tag: 'images',
    summary: 'Enter an image: to be uploaded next, or fetched from a URL',
    body: imageCreateSchema,
    status: 201,
    response: imageChangeSchema,
    idempotent: true,
  },
  imageUploadGet: {
    method: 'get',
    path: '/images/{image}/upload',
    tag: 'images',
    summary: 'How far an upload is: where to resume',
    params: at('image'),
    status: 200,
    response: uploadStateSchema,
  },
  imageComplete: {
    method: 'post',
    path: '/images/{image}/complete',
    tag: 'images',
    summary: 'All bytes are there: check and convert',
    params: at('image'),
    status: 202,
    response: imageChangeSchema,
    idempotent: true,
  },
  imageDelete: {
    method: 'delete',
    path: '/images/{image}',
    tag: 'images',
    summary: 'Delete an image, or give up its upload',
    params: at('image'),
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  poolList: {
    method: 'get',
    path: '/pools',
    tag: 'pools',
    summary: 'Pools, with their use on each node',
    query: strict(pageQuery),
    status: 200,
    response: pageOf(poolViewSchema),
  },
  poolGet: {
    method: 'get',
    path: '/pools/{pool}',
    tag: 'pools',
    summary: 'One pool',
    params: at('pool'),
    status: 200,
    response: poolViewSchema,
    etag: true,
  },
  poolCreate: {
    method: 'post',
    path: '/pools',
    tag: 'pools',
    summary: 'Enter a pool',
    body: poolCreateSchema,
    status: 201,
    response: poolViewSchema,
    etag: true,
    idempotent: true,
  },
  poolPatch: {
    method: 'patch',
    path: '/pools/{pool}',
    tag: 'pools',
    summary: 'Change a pool',
    params: at('pool'),
    body: poolPatchSchema,
    status: 200,
    response: poolViewSchema,
    etag: true,
  },
  poolDelete: {
    method: 'delete',
    path: '/pools/{pool}',
    tag: 'pools',
    summary: 'Forget a pool that holds nothing',
    params: at('pool'),
    status: 204,
    response: nothingSchema,
    etag: true,
  },
  networkList: {
    method: 'get',
    path: '/networks',
    tag: 'networks',
    summary: 'Networks',
    query: strict(pageQuery),
    status: 200,
    response: pageOf(networkViewSchema),
  },
  networkGet: {
    method: 'get',
    path: '/networks/{network}',
    tag: 'networks',
    summary: 'One network',
    params: at('network'),
    status: 200,
    response: networkViewSchema,
    etag: true,
  },
  networkCreate: {
    method: 'post',
    path: '/networks',
    tag: 'networks',
    summary: 'Make a network',
    body: networkCreateSchema,
    status: 201,
    response: networkViewSchema,
    etag: true,
    idempotent: true,
  },
  networkPatch: {
    method: 'patch',
    path: '/networks/{network}',
    tag: 'networks',
    summary: 'Change a network; its bridge and subnet only while no VM uses it',
    params: at('network'),
    body: networkPatchSchema,
    status: 200,
    response: networkViewSchema,
    etag: true,
  },
  networkDelete: {
    method: 'delete',
    path: '/networks/{network}',
    tag: 'networks',
    summary: 'Delete a network that no VM uses',
    params: at('network'),
    status: 204,
    response: nothingSchema,
    etag: true,
  },
  opList: {
    method: 'get',
    path: '/ops',
    tag: 'ops',
    summary: 'Operations, newest first',
    query: strict({
      ...pageQuery,
      /** `open`: not finished yet. */
      state: z.enum(['open', 'queued', 'running', 'done', 'failed', 'cancelled']).optional(),
      kind: opKindSchema.optional(),
      /** Id of the VM, image or disk it is about. */
      subject: idSchema.optional(),
    }),
    status: 200,
    response: pageOf(opViewSchema),
  },
  opGet: {
    method: 'get',
    path: '/ops/{op}',
    tag: 'ops',
    summary: 'One operation; `waitS` answers when it has changed or that time is over',
    params: opIdParams,
    query: strict({ waitS: z.coerce.number().int().min(0).max(30).default(0) }),
    status: 200,
    response: opViewSchema,
  },
  opCancel: {
    method: 'post',
    path: '/ops/{op}/cancel',
    tag: 'ops',
    summary: 'Ask that an operation stops',
    params: opIdParams,
    status: 202,
    response: opViewSchema,
  },
  tokenList: {
    method: 'get',
    path: '/tokens',
    tag: 'tokens',
    summary: 'Join and API tokens, without their secrets',
    query: strict(pageQuery),
    status: 200,
    response: pageOf(tokenViewSchema),
  },
  tokenCreate: {
    method: 'post',
    path: '/tokens',
    tag: 'tokens',
    summary: 'Make a token; its text is shown this once',
    body: tokenCreateSchema,
    status: 201,
    response: tokenMadeSchema,
  },
  tokenDelete: {
    method: 'delete',
    path: '/tokens/{token}',
    tag: 'tokens',
    summary: 'Take a token back',
    params: at('token'),
    status: 204,
    response: nothingSchema,
  },
} as const satisfies Record<string, RestRoute>;

export type Rest = typeof rest;
export type RestName = keyof Rest;

type Out<T, K extends string, F> = T extends { readonly [P in K]: infer S extends z.ZodType }
  ? z.output<S>
  : F;
type In<T, K extends string, F> = T extends { readonly [P in K]: infer S extends z.ZodType } ? z.input<S> : F;

/** What a handler gets of a request: parsed. */
export type RestParams<N extends RestName> = Out<Rest[N], 'params', undefined>;
export type RestQuery<N extends RestName> = Out<Rest[N], 'query', undefined>;
export type RestBody<N extends RestName> = Out<Rest[N], 'body', undefined>;
/** What a client sends. */
export type RestCall<N extends RestName> = {
  readonly params: In<Rest[N], 'params', undefined>;
  readonly query: In<Rest[N], 'query', undefined>;
  readonly body: In<Rest[N], 'body', undefined>;
};
export type RestAnswer<N extends RestName> = z.output<Rest[N]['response']>;

/** The two routes that stream, which the table cannot hold: their paths. */
export const restStreams = {
  /** PUT, body: bytes; header `Upload-Offset` says where they belong. */
  imageContent: '/images/{image}/content',
  /** GET, text/event-stream; `Last-Event-ID` resumes. */
  events: '/events',
} as const;
export const uploadOffsetHeader = 'upload-offset';
export const idempotencyHeader = 'idempotency-key';

/** An Idempotency-Key: at least as long as an honest random one. */
export const idempotencyKeySchema = z
  .string()
  .regex(/^[A-Za-z0-9_.:-]{8,128}$/, '8 to 128 of A-Z a-z 0-9 _ . : -');
