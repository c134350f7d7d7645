/** What the REST API takes and answers about high availability and fencing. */
import { z } from 'zod';
import { failoverTimelineSchema, fencedSchema, planPatchSchema, policySchema } from '../domain/ha.js';
import { nodeKeeperSchema } from '../domain/node.js';
import { opStateSchema } from '../domain/op.js';
import { idSchema, nodeIdSchema, wallMsSchema } from '../domain/schema.js';
import { bmcTestSchema, fencingDeviceSchema, fencingDeviceViewSchema } from '../domain/fencing.js';
import { freshnessSchema } from './rest-objects.js';

/** The switches of the whole cluster, and whom they concern. */
export const policyViewSchema = policySchema
  .extend({
    /** VMs that ask for HA, and those of them that are armed now: a pause disarms these. */
    wanted: z.number().int(),
    armed: z.number().int(),
    /** For If-Match. */
    revision: z.string(),
  })
  .meta({ id: 'Policy' });
export type PolicyView = z.output<typeof policyViewSchema>;

export const policyPatchSchema = z
  .strictObject({
    ha: z.strictObject(policySchema.shape.ha.shape).partial().optional(),
    plan: planPatchSchema.optional(),
    copies: z.strictObject(policySchema.shape.copies.unwrap().shape).partial().optional(),
  })
  .refine(
    (p) => Object.values({ ...p.ha, ...p.plan, ...p.copies }).some((v) => v !== undefined),
    'names nothing to change',
  )
  .meta({ id: 'PolicyPatch' });

/** How a node stands: could it take VMs over, and what keeps it. */
export const haNodeSchema = z.object({
  node: nodeIdSchema,
  /** Its lease in the ledger stands. */
  live: z.boolean(),
  presence: z.enum(['here', 'suspect', 'silent', 'never-heard']),
  /** Null: its keeper does not answer, or the node is not heard. */
  keeper: nodeKeeperSchema
    .extend({
      /** With the VM's name; null: there is no such VM. */
      held: z.array(z.object({ vm: idSchema, name: z.string().nullable(), why: z.string() })),
    })
    .nullable(),
  /** What it says of failovers that it should do and cannot; empty: nothing. */
  failover: z.string(),
});
export type HaNode = z.output<typeof haNodeSchema>;

const haVm = { vm: idSchema, name: z.string(), node: nodeIdSchema.nullable() };

export const haFailoverSchema = z.object({
  op: idSchema,
  vm: idSchema,
  name: z.string(),
  state: opStateSchema,
  step: z.string(),
  createdMs: wallMsSchema,
  /** Null: written in a form this controller does not know. */
  timeline: failoverTimelineSchema.nullable(),
  /** From the last sign of life of the old owner to the machine running again; null: not yet. */
  totalMs: z.number().nullable(),
});
export type HaFailover = z.output<typeof haFailoverSchema>;

/** High availability of the cluster at a glance. */
export const haViewSchema = freshnessSchema
  .extend({
    sentence: z.string(),
    policy: policyViewSchema,
    protected: z.number().int(),
    nodes: z.array(haNodeSchema),
    /** VMs that ask for HA and are not protected now, with the reason. */
    unprotected: z.array(z.object({ ...haVm, text: z.string() })),
    /** VMs whose owner is gone and that are not taken over yet, with what they wait for. */
    waiting: z.array(z.object({ ...haVm, standby: nodeIdSchema.nullable(), text: z.string() })),
    /** What could not be kept if one node failed now: a standby without the memory it promised. */
    shortfalls: z.array(
      z.object({
        /** The node that fails, and the one that would have to take over. */
        fails: nodeIdSchema,
        node: nodeIdSchema,
        needsMiB: z.number(),
        freeMiB: z.number(),
        /** Names of the VMs that would stay off. */
        vms: z.array(z.string()),
        text: z.string(),
        help: z.string(),
      }),
    ),
    /** The last ones, newest first. */
    failovers: z.array(haFailoverSchema).max(10),
  })
  .meta({ id: 'Ha' });
export type HaView = z.output<typeof haViewSchema>;

/** A fencing device as it is given, with its secret, which no answer ever has. */
export const bmcPutSchema = fencingDeviceSchema.meta({ id: 'BmcPut' });
export const bmcViewSchema = fencingDeviceViewSchema.meta({ id: 'Bmc' });
export const bmcTestViewSchema = bmcTestSchema.meta({ id: 'BmcTest' });

/** What somebody's word that a node is off has allowed. */
export const confirmedOffSchema = z
  .object({
    fenced: fencedSchema,
    /** Its HA VMs, which may now start elsewhere. */
    vms: z.array(z.object({ vm: idSchema, name: z.string(), standby: nodeIdSchema.nullable() })),
  })
  .meta({ id: 'ConfirmedOff' });
export type ConfirmedOff = z.output<typeof confirmedOffSchema>;
