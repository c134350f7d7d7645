import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { ipv4Schema, nodeIdSchema, parse } from '../../core/domain/schema.js';

const portSchema = z.number().int().min(1).max(65_535);

/** Ports of a node's services. The same on every node of a cluster. */
export const portsSchema = z.object({
  /** etcd for its clients. */
  ledger: portSchema.default(2379),
  /** etcd for the other voters. */
  ledgerPeer: portSchema.default(2380),
  /** mosquitto. */
  radio: portSchema.default(8883),
  /** The agent's HTTPS: page, join, image streams. */
  agent: portSchema.default(7443),
});
export type Ports = z.output<typeof portsSchema>;

/** `/etc/flotilla/agent.json`: what a machine must be told to be a node. */
export const agentConfigSchema = z.strictObject({
  /** The node's id: its host name. */
  name: nodeIdSchema,
  /** Its address on the management network: peers reach it there. */
  address: ipv4Schema,
  /** Its address on the storage network, where copies of disks travel; absent: they take the management network. */
  storageAddress: ipv4Schema.optional(),
  stateDir: z.string().startsWith('/').max(200).default('/var/lib/flotilla'),
  ports: portsSchema.default(portsSchema.parse({})),
  /** Joins as one that votes in the ledger and runs no VMs: it needs neither libvirt nor QEMU. */
  witness: z.boolean().default(false),
  /** Times on which safety rests; `lab` for nodes that share a slow machine, `emulated` for emulated ones. */
  timing: z.enum(['production', 'lab', 'emulated']).default('production'),
});
export type AgentConfig = z.output<typeof agentConfigSchema>;

/** What a node is reached at when it founds or joins: its record and its certificate have these, in this order. */
export const addressesOf = (c: Pick<AgentConfig, 'address' | 'storageAddress'>): string[] =>
  c.storageAddress === undefined || c.storageAddress === c.address
    ? [c.address]
    : [c.address, c.storageAddress];

export const agentConfigFile = '/etc/flotilla/agent.json';

/** @throws FlotillaError `not-found`, `bad-input`, `unknown-field` */
export async function readAgentConfig(file = agentConfigFile): Promise<AgentConfig> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    const gone = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new FlotillaError(gone ? 'not-found' : 'bad-input', `The configuration ${file} cannot be read`, {
      hint: 'Write {"name": "n1", "address": "10.0.0.1"} there, with this node\'s name and address.',
      cause,
    });
  }
  return parse(agentConfigSchema, value, file);
}
