import { z } from 'zod';
import { ipv4Schema, nodeIdSchema, wallMsSchema } from './schema.js';

/**
 * `/flotilla/recovery`: the ledger was rebuilt, from one voter's data or from a snapshot, and a person has not yet
 * confirmed who owns what. While it is there no agent starts, stops, moves or makes anything; what runs, runs on.
 * @see safety 10
 */
export const recoverySchema = z.object({
  /** The epoch that began with it. */
  epoch: z.number().int().positive(),
  /** The epoch of what the ledger was rebuilt from: its ownership records are of then. */
  fromEpoch: z.number().int().positive(),
  how: z.enum(['voter', 'snapshot']),
  /** Where it was begun. */
  node: nodeIdSchema,
  startedMs: wallMsSchema,
  /** Nodes that were known there: the rebuilt ledger may be of before some of them joined. */
  peers: z.array(z.object({ node: nodeIdSchema, address: ipv4Schema })).max(256),
});
export type Recovery = z.output<typeof recoverySchema>;

/** What pages and commands say of each VM meanwhile. */
export const recoveryText =
  'waits for the recovery of the ledger: nothing is started or stopped until a person has confirmed it';
