import { z } from 'zod';
import { idSchema, ipv4Schema, nameSchema } from './schema.js';
import { cidrSchema, ipv4InCidr, ipv4ToInt } from './ipv4.js';

/** A bridge's name as the kernel takes it. */
export const bridgeNameSchema = z.string().regex(/^[a-z][a-z0-9_-]{0,14}$/, 'at most 15 of a-z 0-9 _ -');

/**
 * A network VMs attach to: a bridge of that name on every node. With a subnet the cluster hands out addresses
 * from `range` by cloud-init; each address is a ledger key, so none is given twice.
 */
export const networkSchema = z
  .object({
    id: idSchema,
    name: nameSchema,
    /** Bridge on each node; made by the agent where missing. */
    bridge: bridgeNameSchema,
    /** The node's NIC put into the bridge; null: an isolated bridge or one managed outside. */
    uplink: z
      .string()
      .regex(/^[a-zA-Z0-9_.-]{1,15}$/)
      .nullable(),
    subnet: cidrSchema.nullable(),
    gateway: ipv4Schema.nullable(),
    dns: z.array(ipv4Schema).max(3),
    /** First and last address handed out, both included. */
    range: z.tuple([ipv4Schema, ipv4Schema]).nullable(),
    /** Isolated, and one network on all nodes: its bridges are joined by a VXLAN of this number. */
    vni: z.number().int().min(1).max(16_777_215).optional(),
    /** The vApp that it was made for and is deleted with. */
    vapp: idSchema.optional(),
  })
  .superRefine((n, ctx) => {
    const bad = (path: string, message: string) => ctx.addIssue({ code: 'custom', path: [path], message });
    if (n.vni !== undefined && n.uplink !== null) bad('uplink', 'an isolated network has none');
    if (n.subnet === null) {
      if (n.range !== null) bad('range', 'needs a subnet');
      if (n.gateway !== null) bad('gateway', 'needs a subnet');
      return;
    }
    if (n.gateway !== null && !ipv4InCidr(n.gateway, n.subnet)) bad('gateway', 'is outside the subnet');
    if (n.range !== null) {
      if (!ipv4InCidr(n.range[0], n.subnet) || !ipv4InCidr(n.range[1], n.subnet))
        bad('range', 'is outside the subnet');
      else if (ipv4ToInt(n.range[0]) > ipv4ToInt(n.range[1])) bad('range', 'starts after its end');
    }
  });
export type Network = z.output<typeof networkSchema>;
