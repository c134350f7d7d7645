import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { FlotillaError } from '../core/domain/error.js';
import { idSchema, nameSchema, nodeIdSchema, parse } from '../core/domain/schema.js';

const portSchema = z.number().int().min(1).max(65_535);

/** `/etc/flotilla/controller.json`: all of it may be left out. */
export const controllerConfigSchema = z.strictObject({
  /** Of the node it runs on: its certificate and its way to the ledger are taken from there. */
  stateDir: z.string().startsWith('/').max(200).default('/var/lib/flotilla'),
  /** Address to listen on. */
  host: z.string().max(64).default('0.0.0.0'),
  port: portSchema.default(8443),
  /** Ports of the nodes' services. */
  radioPort: portSchema.default(8883),
  agentPort: portSchema.default(7443),
  ledgerPort: portSchema.default(2379),
});
export type ControllerConfig = z.output<typeof controllerConfigSchema>;

export const controllerConfigFile = '/etc/flotilla/controller.json';

/** @throws FlotillaError `bad-input`, `unknown-field`: a file that is there and wrong; none is all defaults */
export async function readControllerConfig(file = controllerConfigFile): Promise<ControllerConfig> {
  let text = '{}';
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FlotillaError('bad-input', `The configuration ${file} is not JSON`, {
      hint: 'Correct it, or remove it: everything has a default.',
      cause,
    });
  }
  return parse(controllerConfigSchema, value, file);
}

/** What the controller takes of the node's `cluster.json`. */
const clusterFileSchema = z.object({
  clusterId: idSchema,
  name: nameSchema,
  node: nodeIdSchema,
  ledgerEndpoints: z.array(z.url()).min(1).max(16),
});
export type ClusterFile = z.output<typeof clusterFileSchema>;

/** @returns null: the node has neither founded nor joined yet */
export async function readClusterFile(stateDir: string): Promise<ClusterFile | null> {
  const file = path.join(stateDir, 'cluster.json');
  try {
    return parse(clusterFileSchema, JSON.parse(await readFile(file, 'utf8')), file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
