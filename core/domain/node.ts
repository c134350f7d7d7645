import { z } from 'zod';
import { idSchema, ipv4Schema, nodeIdSchema, tagsSchema, wallMsSchema } from './schema.js';

/** What a node may be asked to be. */
export const nodeDesiredSchema = z.enum(['active', 'maintenance', 'leaving']);
export type NodeDesired = z.output<typeof nodeDesiredSchema>;

/**
 * A node as the ledger knows it: written at its admission, changed by people.
 * What it *is* right now it says itself, on the radio ({@link nodeStateSchema}).
 */
export const nodeRecordSchema = z.object({
  id: nodeIdSchema,
  /** Reached at these addresses, the management one first. */
  addresses: z.array(ipv4Schema).min(1).max(8),
  /** Voter of the ledger, or a client of it. */
  voter: z.boolean(),
  desired: nodeDesiredSchema,
  rack: z.string().max(63).nullable(),
  /** For rules that name nodes by what they are. */
  tags: tagsSchema.optional(),
  /** Votes in the ledger and runs no VMs. */
  witness: z.boolean().default(false),
  /** It was powered off on purpose, or is about to be: no failure. It is in maintenance meanwhile, and owns no VM. */
  asleep: z
    .looseObject({
      sinceMs: wallMsSchema,
      /** Who wanted it. */
      by: z.string().max(128),
      /** What it has, as it said last: nobody hears it now. */
      cpus: z.number().int().nonnegative(),
      memoryBytes: z.number().nonnegative(),
    })
    .optional(),
  /** SHA-256 of its certificate's public key, hex: what the console shows and an admission compares. */
  fingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  joinedMs: wallMsSchema,
});
export type NodeRecord = z.output<typeof nodeRecordSchema>;

/** How guests run: hardware virtualisation, or emulation. Decided by a boot probe, not by /dev/kvm existing. */
export const accelSchema = z.enum(['kvm', 'tcg']);
export type Accel = z.output<typeof accelSchema>;

/** A part of the agent that can be well or not, in words: shown on every page that shows the node. */
export const healthSchema = z.object({
  /** e.g. `ledger`, `hypervisor`, `radio`, `pool local`. */
  part: z.string().max(64),
  ok: z.boolean(),
  /** What is wrong and since when; empty while well. */
  text: z.string().max(500),
});
export type Health = z.output<typeof healthSchema>;

/** Parts of a node's health without which it starts nothing, though it lives and its keeper would arm. */
export const startsNeed: ReadonlySet<string> = new Set(['hypervisor', 'journal']);

/** Use of one pool on one node. */
export const poolUseSchema = z.object({
  pool: z.string(),
  totalBytes: z.number().nonnegative(),
  freeBytes: z.number().nonnegative(),
  ok: z.boolean(),
  text: z.string().max(500),
  /** How long ago the node wrote to it with success or without, ms, when it said so. */
  ageMs: z.number().nonnegative().optional(),
  /** Of a thin pool: how full, and what its disks may grow to together. */
  thin: z
    .object({
      dataPct: z.number().min(0).max(100),
      metadataPct: z.number().min(0).max(100),
      promisedBytes: z.number().nonnegative(),
    })
    .optional(),
});
export type PoolUse = z.output<typeof poolUseSchema>;

/** A pool that cannot be used on the node, and why. */
export const poolUnwell = (pool: string, text: string): PoolUse => ({
  pool,
  totalBytes: 0,
  freeBytes: 0,
  ok: false,
  text: text.slice(0, 500),
});

/** A drive of a node and what it may be used for. */
export const nodeDriveSchema = z.object({
  /** As the kernel calls it now; may change with the next boot. */
  device: z.string().max(64),
  /** What pools name it by; empty: it has none, and cannot be given to a pool. */
  serial: z.string().max(128),
  model: z.string().max(128),
  sizeBytes: z.number().nonnegative(),
  /** `empty`: may be given to a pool. `system`: mounted. `data`: holds something that is not Flotilla's. */
  use: z.enum(['empty', 'pool', 'system', 'data']),
  /** What is on it, in words; empty where `use` says it all. */
  text: z.string().max(200),
  /** By its own account; null: it does not say. */
  health: z.object({ well: z.boolean(), text: z.string().max(200) }).nullable(),
});
export type NodeDrive = z.output<typeof nodeDriveSchema>;

/** Slow facts about the hardware, through systeminformation, cached. */
export const nodeFactsSchema = z.object({
  cpuModel: z.string().max(200),
  cpuCores: z.number().int().positive(),
  cpuMHz: z.number().nonnegative(),
  memoryBytes: z.number().nonnegative(),
  drives: z
    .array(z.object({ name: z.string().max(64), model: z.string().max(128), sizeBytes: z.number() }))
    .max(64),
  nics: z
    .array(
      z.object({
        name: z.string().max(32),
        mac: z.string().max(32),
        addresses: z.array(z.string().max(64)).max(16),
        mbit: z.number().nullable(),
        up: z.boolean(),
      }),
    )
    .max(64),
  /** Hottest sensor, degrees Celsius; null where there is none. */
  temperatureC: z.number().nullable(),
  /** The machine's UUID, as its firmware has it; null: it has none. A BMC is known by it. */
  uuid: z.string().max(64).nullable().default(null),
  os: z.string().max(128),
  kernel: z.string().max(128),
});
export type NodeFacts = z.output<typeof nodeFactsSchema>;

/** What a node says of its keeper: whether it could take VMs over, and what it holds back. Colours choices and pages. */
export const nodeKeeperSchema = z.object({
  mode: z.enum(['run', 'ice', 'thaw']),
  armable: z.boolean(),
  /** Why it would not arm a VM now; empty where it would. */
  why: z.string().max(500),
  watchdog: z.enum(['hardware', 'software', 'pipe', 'none']),
  /** How many VMs are armed here. */
  armed: z.number().int().nonnegative(),
  /** VMs it keeps frozen or has killed, and why. */
  held: z.array(z.object({ vm: idSchema, why: z.string().max(500) })).max(64),
  /** What is wrong with it; empty while well. */
  text: z.string().max(500),
});
export type NodeKeeper = z.output<typeof nodeKeeperSchema>;

/** What a node says of itself on the radio, retained; at most 64 kB. */
export const nodeStateSchema = z.object({
  node: nodeIdSchema,
  /** Incarnation: new at each start of the agent. */
  boot: z.string().max(64),
  seq: z.number().int().nonnegative(),
  version: z.string().max(64),
  /** The epoch of the ledger it reads; absent: it has read none yet. */
  epoch: z.number().int().positive().optional(),
  atMs: wallMsSchema,
  upSinceMs: wallMsSchema,
  accel: accelSchema.nullable(),
  qemu: z.string().max(64).nullable(),
  libvirt: z.string().max(64).nullable(),
  /** Logical CPUs and memory of the node, and what is used of them now. */
  cpus: z.number().int().nonnegative(),
  cpuUsedPct: z.number().nonnegative(),
  memoryBytes: z.number().nonnegative(),
  memoryUsedBytes: z.number().nonnegative(),
  loadAvg1: z.number().nonnegative(),
  /** Share of the last ten seconds in which something waited for it (`some avg10`), per cent. Absent: its kernel has no PSI. */
  pressure: z
    .object({
      cpuPct: z.number().min(0).max(100),
      memoryPct: z.number().min(0).max(100),
      ioPct: z.number().min(0).max(100),
    })
    .optional(),
  pools: z.array(poolUseSchema).max(32),
  health: z.array(healthSchema).max(32),
  /** Absent: it has not looked, or is of before pools of drives. */
  drives: z.array(nodeDriveSchema).max(64).optional(),
  /** Why no disk can have a copy here, in words; empty: it can. Absent: it has not looked. */
  replication: z.string().max(200).optional(),
  /** Why no machine can be in lockstep here, in words; empty: one can. Absent: it has no part for that, or has not looked. */
  lockstep: z.string().max(300).optional(),
  /** Nodes whose beat this node hears, with the age of the last, ms. */
  hears: z.record(nodeIdSchema, z.number()),
  /** Refused: wrong certificates, forged topics, unreadable payloads; counted since start, by kind. */
  refused: z.record(z.string().max(64), z.number().int()),
  facts: nodeFactsSchema.nullable(),
  /** Null: its keeper does not answer, or it is of before there was one. */
  keeper: nodeKeeperSchema.nullable().default(null),
});
export type NodePressure = NonNullable<z.output<typeof nodeStateSchema>['pressure']>;
export type NodeState = z.output<typeof nodeStateSchema>;

/** How fresh what we know of a node is. Colours pages; decides nothing. */
export type NodePresence = 'here' | 'suspect' | 'silent' | 'never-heard';

/** Whether what was heard of it last still counts. */
export const isHeard = (p: NodePresence): boolean => p === 'here' || p === 'suspect';

/** Silence after which a node is suspected, ms. @see gossip-consensus: 3.5 s gave no false alarm at 2 s stalls. */
export const suspectAfterMs = 3_500;
/** Silence after which its numbers are shown as old, ms. */
export const silentAfterMs = 15_000;

export function presence(beatAgeMs: number | null): NodePresence {
  if (beatAgeMs === null) return 'never-heard';
  if (beatAgeMs < suspectAfterMs) return 'here';
  return beatAgeMs < silentAfterMs ? 'suspect' : 'silent';
}
