/**
 * The REST API as data: what each route takes and answers. The controller builds its router and its OpenAPI
 * document from this table, the command line and the page their client: one description, so none can drift.
 */
import { z } from 'zod';
import { admitSchema, admittedSchema, pendingViewSchema } from './adopt.js';
import { opKindSchema } from '../domain/op.js';
import { idSchema, nodeIdSchema } from '../domain/schema.js';
import { powerSchema, vmPhaseSchema, vmPowerActionSchema } from '../domain/vm.js';
import {
  refSchema,
  pageQuery,
  vmRowSchema,
  vmViewSchema,
  nodeViewSchema,
  diskViewSchema,
  poolViewSchema,
  networkViewSchema,
  imageViewSchema,
  opViewSchema,
  opPartViewSchema,
  opAnswerSchema,
  flagSchema,
  clusterViewSchema,
  vmCreateSchema,
  vmPatchSchema,
  nodePatchSchema,
  nodeUpdateSchema,
  imageCreateSchema,
  uploadStateSchema,
  poolCreateSchema,
  poolPatchSchema,
  networkCreateSchema,
  networkPatchSchema,
  pageOf,
} from './rest-objects.js';

import {
  bmcPutSchema,
  bmcTestViewSchema,
  bmcViewSchema,
  confirmedOffSchema,
  haViewSchema,
  policyPatchSchema,
  policyViewSchema,
} from './rest-ha.js';

import { diskMoveSchema } from './rest-disks.js';
import { vmRepairSchema, vmStandbySchema } from './rest-copies.js';
import { protectionViewSchema } from './rest-protection.js';
import { migrateCheckSchema, vmMigrateSchema } from './rest-migrate.js';
import { drainViewSchema, nodeActivatedSchema, nodeActivateSchema, nodeDrainSchema } from './rest-plan.js';

import { planRoutes } from './plan-routes.js';

import { peopleRoutes } from './rest-people.js';
import { signOnRoutes } from './rest-sign-on.js';
import { at, nothingSchema, strict, type RestRoute } from './rest-route.js';
import { cloneCreateSchema, snapshotRoutes } from './rest-snapshots.js';
import { importRoutes } from './rest-import.js';
import { vappRoutes } from './rest-vapp-routes.js';
import { classRoutes } from './rest-class.js';
import { templateRoutes } from './rest-template.js';

import { notifyPatchSchema, notifyTestViewSchema, notifyViewSchema } from './rest-notify.js';
import { historySpanSchema, historyViewSchema } from '../domain/history.js';
import { consoleAskSchema, consoleTicketSchema } from './consoles.js';

export * from './rest-objects.js';
export * from './rest-ha.js';
export * from './rest-copies.js';
export * from './rest-migrate.js';
export * from './rest-protection.js';
export * from './consoles.js';
export * from './rest-plan.js';
export * from './rest-notify.js';
export type { SnapshotView } from './rest-snapshots.js';
export * from './rest-users.js';
export type { SignOnView } from './rest-sign-on.js';
export type { RestRoute } from './rest-route.js';
export type { HistoryView } from '../domain/history.js';
export * from './rest-vapp.js';
export type { ClassChanged, ClassView } from './rest-class.js';
export type { TemplateView } from './rest-template.js';
export * from './rest-import.js';

/** What an accepted change of a VM answers: the operation to follow, and the VM as it now is. */
export const vmChangeSchema = z
  .object({
    op: opViewSchema,
    vm: vmViewSchema,
    /** Promises that are not kept with this change, in words. */
    warnings: z.array(z.string()),
  })
  .meta({ id: 'VmChange' });
export const imageChangeSchema = z
  .object({ image: imageViewSchema, op: opViewSchema.nullable() })
  .meta({ id: 'ImageChange' });

const opIdParams = z.strictObject({ op: idSchema });

const historyQuery = z.strictObject({ span: historySpanSchema.default('day') });

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
  nodeDelete: {
    method: 'delete',
    path: '/nodes/{node}',
    tag: 'nodes',
    summary:
      'Remove a node that is set to leave, owns no VMs and votes no more; its certificates are revoked',
    params: at('node'),
    status: 204,
    response: nothingSchema,
    etag: true,
  },
  nodeUpdate: {
    method: 'post',
    path: '/nodes/{node}/actions/update',
    tag: 'nodes',
    summary:
      'Write an image of the appliance into the other slot of a node without running VMs, and restart into it',
    params: at('node'),
    body: nodeUpdateSchema,
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  nodeReboot: {
    method: 'post',
    path: '/nodes/{node}/actions/reboot',
    tag: 'nodes',
    summary: 'Restart a node without running VMs; a voter of the ledger only while the others are well',
    params: at('node'),
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  bmcGet: {
    method: 'get',
    path: '/nodes/{node}/bmc',
    tag: 'nodes',
    summary: 'How a node is powered off from outside, without the secret; null: it is not',
    params: at('node'),
    status: 200,
    response: bmcViewSchema.nullable(),
    access: 'admin',
    etag: true,
  },
  bmcPut: {
    method: 'put',
    path: '/nodes/{node}/bmc',
    tag: 'nodes',
    summary: 'Say how a node is powered off from outside; replaces what was said before',
    params: at('node'),
    body: bmcPutSchema,
    status: 200,
    response: bmcViewSchema,
    etag: true,
  },
  bmcDelete: {
    method: 'delete',
    path: '/nodes/{node}/bmc',
    tag: 'nodes',
    summary: 'Forget how a node is powered off from outside',
    params: at('node'),
    status: 204,
    response: nothingSchema,
    etag: true,
  },
  bmcTest: {
    method: 'post',
    path: '/nodes/{node}/bmc/test',
    tag: 'nodes',
    summary: 'Have another node ask the BMC for its power state and for the machine it belongs to',
    params: at('node'),
    status: 202,
    response: bmcTestViewSchema,
  },
  bmcTestGet: {
    method: 'get',
    path: '/nodes/{node}/bmc/test',
    tag: 'nodes',
    summary: 'What came of the last try of a BMC, a result of null: it is under way; null: it was not tried',
    params: at('node'),
    status: 200,
    response: bmcTestViewSchema.nullable(),
  },
  nodeDrainGet: {
    method: 'get',
    path: '/nodes/{node}/drain',
    tag: 'nodes',
    summary: 'Can this node go? Where each of its VMs would go, what would stay, and how far a drain is',
    params: at('node'),
    status: 200,
    response: drainViewSchema,
  },
  nodeDrain: {
    method: 'post',
    path: '/nodes/{node}/actions/drain',
    tag: 'nodes',
    summary: 'Set a node to maintenance and move its VMs elsewhere',
    params: at('node'),
    body: nodeDrainSchema,
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  nodeActivate: {
    method: 'post',
    path: '/nodes/{node}/actions/activate',
    tag: 'nodes',
    summary: 'Set a node active again, and bring back what a drain took away',
    params: at('node'),
    body: nodeActivateSchema,
    status: 202,
    response: nodeActivatedSchema,
    idempotent: true,
  },
  nodeHistory: {
    method: 'get',
    path: '/nodes/{node}/history',
    tag: 'nodes',
    summary: 'How a node fared: its last day by half minutes, or its last 30 days by half hours',
    params: at('node'),
    query: historyQuery,
    status: 200,
    response: historyViewSchema,
  },
  nodeConfirmOff: {
    method: 'post',
    path: '/nodes/{node}/actions/confirm-off',
    tag: 'nodes',
    summary: 'Vouch that a node is off, so that its VMs may start elsewhere; if it runs, they run twice',
    params: at('node'),
    status: 200,
    response: confirmedOffSchema,
  },
  pendingList: {
    method: 'get',
    path: '/pending',
    tag: 'nodes',
    summary: 'Machines heard by multicast DNS that wait to be admitted; what they say is not proven',
    status: 200,
    response: z.object({ items: z.array(pendingViewSchema) }).meta({ id: 'PendingList' }),
  },
  pendingGet: {
    method: 'get',
    path: '/pending/{address}',
    tag: 'nodes',
    summary: 'Ask the machine at an IPv4 address whether it waits, and for the fingerprint of its key',
    params: at('address'),
    status: 200,
    response: pendingViewSchema,
  },
  pendingAdmit: {
    method: 'post',
    path: '/pending/{address}/actions/admit',
    tag: 'nodes',
    summary: 'Admit the machine that waits there, if its key has this fingerprint: that of its console',
    params: at('address'),
    body: admitSchema,
    status: 200,
    response: admittedSchema,
  },
  ...planRoutes,
  notifyGet: {
    method: 'get',
    path: '/notifications',
    tag: 'cluster',
    summary: 'Who is told of failures, without secrets; what is open; what became of the last one',
    status: 200,
    response: notifyViewSchema,
    access: 'admin',
  },
  notifyPatch: {
    method: 'patch',
    path: '/notifications',
    tag: 'cluster',
    summary: 'Say who is told of failures, by mail and by webhook; secrets are taken and never given',
    body: notifyPatchSchema,
    status: 200,
    response: notifyViewSchema,
  },
  notifyTest: {
    method: 'post',
    path: '/notifications/test',
    tag: 'cluster',
    summary: 'Have a test sent by the node that would send the real ones; GET has what came of it',
    status: 202,
    response: notifyTestViewSchema,
  },
  haGet: {
    method: 'get',
    path: '/ha',
    tag: 'ha',
    summary: 'High availability at a glance: policy, keepers, unprotected VMs, failovers',
    status: 200,
    response: haViewSchema,
  },
  policyGet: {
    method: 'get',
    path: '/policy',
    tag: 'ha',
    summary: 'The switches of the whole cluster',
    status: 200,
    response: policyViewSchema,
    etag: true,
  },
  policyPatch: {
    method: 'patch',
    path: '/policy',
    tag: 'ha',
    summary: 'Pause HA, hold failovers, or allow nodes without watchdog',
    body: policyPatchSchema,
    status: 200,
    response: policyViewSchema,
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
      /** Those with a card on it. */
      network: refSchema.optional(),
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
  cloneCreate: {
    method: 'post',
    path: '/clones',
    tag: 'vms',
    summary: 'Make a VM that begins as another was in a snapshot, with an identity of its own',
    body: cloneCreateSchema,
    status: 202,
    response: vmChangeSchema,
    // Like any VM that is made: who operates single VMs makes none.
    access: 'operator',
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
    params: z.strictObject({ vm: refSchema, action: vmPowerActionSchema }),
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmExport: {
    method: 'post',
    path: '/vms/{vm}/export',
    tag: 'vms',
    summary: 'Pack a VM as an OVA, running or off; when the operation is done, fetch it at /exports/{op}',
    params: at('vm'),
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  vmMigrateCheck: {
    method: 'get',
    path: '/vms/{vm}/migrate',
    tag: 'vms',
    summary: 'Whether a VM could migrate while it runs, where to, and all that speaks against it',
    params: at('vm'),
    query: strict({ node: nodeIdSchema.optional() }),
    status: 200,
    response: migrateCheckSchema,
  },
  vmProtection: {
    method: 'get',
    path: '/vms/{vm}/protection',
    tag: 'vms',
    summary:
      'How a VM is protected, what each level of protection loses and costs, and all that speaks against it; ask for one by PATCH of `ha`',
    params: at('vm'),
    status: 200,
    response: protectionViewSchema,
  },
  vmMigrate: {
    method: 'post',
    path: '/vms/{vm}/migrate',
    tag: 'vms',
    summary: 'Move a running VM to another node without stopping it',
    params: at('vm'),
    body: vmMigrateSchema,
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmHistory: {
    method: 'get',
    path: '/vms/{vm}/history',
    tag: 'vms',
    summary:
      'How a VM fared, on whichever nodes: its last day by half minutes, or its last 30 days by half hours',
    params: at('vm'),
    query: historyQuery,
    status: 200,
    response: historyViewSchema,
  },
  vmRepair: {
    method: 'post',
    path: '/vms/{vm}/repair',
    tag: 'vms',
    summary: 'Throw one of two copies away that were both written while apart',
    params: at('vm'),
    body: vmRepairSchema,
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmMoveDisk: {
    method: 'post',
    path: '/vms/{vm}/disks/{disk}/move',
    tag: 'vms',
    summary: 'Move one of its disks to another pool, format or number of copies, also while it runs',
    params: z.strictObject({ vm: refSchema, disk: refSchema }),
    body: diskMoveSchema,
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmStandby: {
    method: 'post',
    path: '/vms/{vm}/standby',
    tag: 'vms',
    summary: 'Give the second copies of its disks, and the part of its standby, to another node',
    params: at('vm'),
    body: vmStandbySchema,
    status: 202,
    response: vmChangeSchema,
    idempotent: true,
  },
  vmConsole: {
    method: 'post',
    path: '/vms/{vm}/console',
    tag: 'vms',
    summary: 'A ticket for a console, good once and for half a minute',
    description:
      'The console is a websocket at /api/v1/console, with the subprotocols `flotilla-console-v1` and `ticket.<ticket>`; binary messages are its bytes, both ways.',
    params: at('vm'),
    body: consoleAskSchema,
    status: 200,
    response: consoleTicketSchema,
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
  ...snapshotRoutes,
  ...vappRoutes,
  ...classRoutes,
  ...templateRoutes,
  ...importRoutes,
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
  opParts: {
    method: 'get',
    path: '/ops/{op}/parts',
    tag: 'ops',
    summary: 'What an operation consists of, as a tree written line by line: VMs, nodes, operations it began',
    params: opIdParams,
    status: 200,
    response: z.object({ items: z.array(opPartViewSchema) }).meta({ id: 'OpParts' }),
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
  opPause: {
    method: 'post',
    path: '/ops/{op}/pause',
    tag: 'ops',
    summary: 'Work on nodes in turn begins with no further one until it is resumed',
    params: opIdParams,
    status: 202,
    response: opViewSchema,
    access: 'admin',
  },
  opResume: {
    method: 'post',
    path: '/ops/{op}/resume',
    tag: 'ops',
    summary:
      'Go on with such work, paused or ended before its end, which makes a new operation of what is left',
    params: opIdParams,
    status: 202,
    response: opViewSchema,
    access: 'admin',
  },
  ...peopleRoutes,
  ...signOnRoutes,
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

/** The routes that stream, which the table cannot hold: their paths. */
export const restStreams = {
  /** PUT, body: bytes; header `Upload-Offset` says where they belong. */
  imageContent: '/images/{image}/content',
  /** GET: the archive of a finished `vm.export`; `Range: bytes=N-` goes on where it broke off. */
  exportContent: '/exports/{op}',
  /** GET, `?exports=OP,OP…`: the archive of a whole vApp; `Range`, too. */
  vappPackage: '/vapps/{vapp}/package',
  /** GET, text/event-stream; `Last-Event-ID` resumes. */
  events: '/events',
  /** A websocket; the ticket is among its subprotocols: `consoleProtocols`. */
  console: '/console',
} as const;
export const uploadOffsetHeader = 'upload-offset';
export const idempotencyHeader = 'idempotency-key';

/** An Idempotency-Key: at least as long as an honest random one. */
export const idempotencyKeySchema = z
  .string()
  .regex(/^[A-Za-z0-9_.:-]{8,128}$/, '8 to 128 of A-Z a-z 0-9 _ . : -');
