import { z } from 'zod';
import { idSchema, ipv4Schema, nodeIdSchema } from './schema.js';

/** Minors and ports given to VMs: each once in the cluster, so that a pair may move to any two nodes. */
export const minorRange = { first: 1_000, last: 65_000 } as const;
export const portRange = { first: 7_800, last: 11_800 } as const;

/** Volumes of one pair are numbered up to this. */
export const volumeMax = 63;

/** 32 hexadecimal digits: what two nodes prove to each other before they exchange blocks. */
export const secretSchema = z.string().regex(/^[0-9a-f]{32}$/);

/**
 * What the two copies of a VM's disks need to find each other (`replica/<vm>`). Its disks are volumes of one resource, so
 * that writes keep their order across disks. Append-only schema.
 *
 * @see safety 2
 */
export const replicaSchema = z.looseObject({
  vm: idSchema,
  /** TCP, on the storage network. */
  port: z.number().int().min(portRange.first).max(portRange.last),
  /** Never shown. */
  secret: secretSchema,
  /** Where the copies lie, and at which address each node is reached for them. */
  nodes: z.array(z.looseObject({ node: nodeIdSchema, address: ipv4Schema })).length(2),
  volumes: z
    .array(
      z.looseObject({
        disk: idSchema,
        volume: z.number().int().min(0).max(volumeMax),
        minor: z.number().int().min(minorRange.first).max(minorRange.last),
        pool: idSchema,
        /** Path of the volume below, the same on both nodes. */
        below: z.string().regex(/^\/dev\/[a-z0-9-]+\/[a-z0-9-]+$/),
        /** Nodes that have still to take their copy away; there only where the disk or its VM is deleted. */
        deleting: z.array(nodeIdSchema).max(2).optional(),
        /** The node of the other copy has room below for a disk of so many bytes: the owner may enlarge the pair. */
        room: z.looseObject({ node: nodeIdSchema, sizeBytes: z.number().int().positive() }).optional(),
      }),
    )
    .max(24),
  /** Nodes that have still to take a copy away that was replaced, with the epoch it was last the same in. @see safety 13 */
  former: z.array(z.looseObject({ node: nodeIdSchema, epoch: z.number().int() })).optional(),
});
export type Replica = z.output<typeof replicaSchema>;
export type ReplicaVolume = Replica['volumes'][number];

/** What holds a VM's data, without what is being taken away. */
export const volumesOf = (r: Replica): ReplicaVolume[] => r.volumes.filter((v) => v.deleting === undefined);

export const hasCopy = (r: Replica, node: string): boolean => r.nodes.some((n) => n.node === node);

export const otherNode = (r: Replica, node: string): string =>
  r.nodes.find((n) => n.node !== node)?.node ?? '';

/** The device a machine opens. */
export const devicePath = (minor: number): string => `/dev/drbd${minor}`;

/** One node's copy of one disk, in DRBD's words. */
export const copyStates = [
  'Diskless',
  'Attaching',
  'Detaching',
  'Failed',
  'Negotiating',
  'Inconsistent',
  'Outdated',
  'DUnknown',
  'Consistent',
  'UpToDate',
] as const;
export type CopyState = (typeof copyStates)[number];

/** One disk of a pair, as this node sees it. */
export interface VolumeSeen {
  readonly volume: number;
  readonly minor: number;
  readonly here: CopyState;
  readonly there: CopyState;
  /** `Off`, `Established`, `SyncSource`, `SyncTarget`, `VerifyS`, … */
  readonly replication: string;
  readonly sizeBytes: number;
  /** Bytes that differ, as far as is known. */
  readonly behindBytes: number;
}

/** A pair as this node sees it. */
export interface PairSeen {
  readonly vm: string;
  readonly role: 'Primary' | 'Secondary' | 'Unknown';
  readonly peerRole: 'Primary' | 'Secondary' | 'Unknown';
  /** `Connected`, `Connecting`, `StandAlone`, …; `StandAlone` also where there is no connection at all. */
  readonly connection: string;
  /** Writes wait: for a verdict about the lost peer, or because somebody said so. */
  readonly suspended: boolean;
  readonly volumes: readonly VolumeSeen[];
}

/** What an operation `vm.standby` asks and has come to. */
const standbyArgsSchema = z.looseObject({
  /** Who has the second copies as it is asked. */
  from: nodeIdSchema,
  /** Who shall; null: the best fit. */
  to: nodeIdSchema.nullable(),
  /** Also where that leaves one copy for as long as the new one is filled. */
  unprotected: z.boolean(),
});
export type StandbyArgs = z.output<typeof standbyArgsSchema>;

/** Null: of another kind, or it cannot be read. */
export const standbyArgs = (op: { readonly kind: string; readonly args: unknown }): StandbyArgs | null =>
  op.kind === 'vm.standby' ? (standbyArgsSchema.safeParse(op.args).data ?? null) : null;

/** What an operation `vm.repair` asks: whose copies are thrown away, by a person's choice. */
const repairArgsSchema = z.looseObject({ discard: nodeIdSchema });
export type RepairArgs = z.output<typeof repairArgsSchema>;

/** Null: of another kind, or it cannot be read. */
export const repairArgs = (op: { readonly kind: string; readonly args: unknown }): RepairArgs | null =>
  op.kind === 'vm.repair' ? (repairArgsSchema.safeParse(op.args).data ?? null) : null;
