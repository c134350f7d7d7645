import { z } from 'zod';
import {
  idSchema,
  ipv4Schema,
  macSchema,
  nameSchema,
  nodeIdSchema,
  noteSchema,
  tagsSchema,
  wallMsSchema,
} from './schema.js';
import { vmHaDefault, vmHaSchema } from './ha.js';
import { errorRecordSchema } from './op.js';
import { snapshotScheduleSchema } from './snapshot-schedule.js';
import { cpuSharesSchema, vmClassSchema } from './service-class.js';
import { vmVappSchema } from './vapp.js';

/** What the user wants the VM's power to be. */
export const powerSchema = z.enum(['running', 'paused', 'stopped']);
export type Power = z.output<typeof powerSchema>;

export const diskBusSchema = z.enum(['virtio', 'scsi', 'sata']);

/** A disk in its VM; the data is described by the disk object of that id. */
export const vmDiskSchema = z.object({
  disk: idSchema,
  bus: diskBusSchema,
  /** It is the VM's and goes where it goes, but is not in its machine. */
  detached: z.boolean().optional(),
});
export type VmDisk = z.output<typeof vmDiskSchema>;

/** A CD drive; `image` null: empty. */
export const vmCdromSchema = z.object({ image: idSchema.nullable() });

/** Whether one of a VM's disks is kept out of its machine. */
export const isDetached = (spec: { readonly disks: readonly VmDisk[] }, disk: string): boolean =>
  spec.disks.find((d) => d.disk === disk)?.detached === true;

export const vmNicSchema = z.object({
  id: idSchema,
  network: idSchema,
  /** Unique in the cluster, by a ledger key. */
  mac: macSchema,
  /** Handed out by the cluster, or null where the guest gets one elsewhere. */
  address: ipv4Schema.nullable(),
  model: z.enum(['virtio', 'e1000e']),
});
export type VmNic = z.output<typeof vmNicSchema>;

/** NoCloud data for the guest. Bounded so that the spec always fits a ledger value. */
export const cloudInitSchema = z.object({
  hostname: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i)
    .nullable(),
  /** Login made in the guest; null: the image's default user. */
  user: z
    .string()
    .regex(/^[a-z_][a-z0-9_-]{0,31}$/)
    .nullable(),
  sshKeys: z
    .array(
      z
        .string()
        .max(4096)
        .regex(/^[^\r\n]+$/),
    )
    .max(16),
  /** Whole user-data in place of the generated one; `#cloud-config` or a script. */
  userData: z.string().max(32_768).nullable(),
  /** Whole network-config in place of the one made from the NICs' addresses. */
  networkConfig: z.string().max(8_192).nullable(),
  /** `ovf-env.xml` beside it, of the package the VM came from: what its properties are. May hold secrets. */
  ovfEnvironment: z.string().max(16_384).nullable().default(null),
});
export type CloudInit = z.output<typeof cloudInitSchema>;

/** What a VM boots from: its disks and CD drives in the order they stand in the spec, or the network. */
export const bootSchema = z.enum(['disk', 'cdrom', 'network']);

/** What the user wants of one VM. Written by the API, read by the owner's agent. */
export const vmSpecSchema = z.object({
  id: idSchema,
  name: nameSchema,
  /** Rises by one with each edit; an agent refuses an older one. */
  generation: z.number().int().positive(),
  note: noteSchema,
  tags: tagsSchema,
  cpus: z.number().int().min(1).max(256),
  memoryMiB: z
    .number()
    .int()
    .min(32)
    .max(16 * 1024 * 1024),
  firmware: z.enum(['bios', 'uefi']),
  boot: z.array(bootSchema).min(1).max(3),
  disks: z.array(vmDiskSchema).max(24),
  cdroms: z.array(vmCdromSchema).max(4),
  nics: z.array(vmNicSchema).max(16),
  cloudInit: cloudInitSchema.nullable(),
  power: powerSchema,
  /**
   * The generation at which `power` was last set to `running` by a start or to `stopped` by a stop (not by
   * pause or resume; at creation: 1). A machine begun before it that went off by itself is started anew;
   * one begun since has shut itself down and is left off.
   */
  powerGeneration: z.number().int().positive(),
  /** Time a guest has to shut down before it is forced off, seconds. */
  stopTimeoutS: z.number().int().min(0).max(3600),
  /** When QEMU or the guest crashes. */
  onCrash: z.enum(['restart', 'stop']),
  /** Records of before there was HA have none. */
  ha: vmHaSchema.default(vmHaDefault),
  /** The vApp it is a member of. */
  vapp: vmVappSchema.optional(),
  /** False: balancing never moves it. Absent: it may. */
  autoMove: z.boolean().optional(),
  /** Snapshots that its owner takes unasked. */
  snapshots: snapshotScheduleSchema.optional(),
  /** Its weight where CPUs are short. Absent: as usual. */
  cpuShares: cpuSharesSchema.optional(),
  /** The service class it is of. */
  class: vmClassSchema.optional(),
});
export type VmSpec = z.output<typeof vmSpecSchema>;

/**
 * A live migration in the ownership record. Under way: `state` is `migrating`, and `gen` is that of the record. Handed
 * over: `handedOver`, the owner is `to`, and the record's generation is one above `gen`. Anything else is history.
 */
export const ownMigrationSchema = z.looseObject({
  to: nodeIdSchema,
  /** The op it is for. */
  op: idSchema,
  /** Generation of the record that began it. The copy that arrives is marked with it. */
  gen: z.number().int().positive(),
  /** Written by the source, after its libvirt had reported success, and by nothing else. */
  handedOver: z.boolean(),
});
export type OwnMigration = z.output<typeof ownMigrationSchema>;

/**
 * A machine that can have a twin, in the ownership record. Null or absent: an ordinary one.
 *
 * `preparing`: the twin may be there and waits, none of its output leaves; the owner runs as if there were none, or stands
 * still while it is copied. `protected`: both run, and only what both say leaves; the twin may make itself the owner. `alone`:
 * there is no twin. `preparing` and `protected` name one, `alone` none.
 *
 * @see docs/lockstep.md, safety 11
 */
export const ownLockstepSchema = z.looseObject({
  twin: nodeIdSchema.nullable(),
  state: z.enum(['preparing', 'protected', 'alone']),
  /**
   * Generation of the ownership that began the pair: the twin is marked with it. It stays when the twin has become the owner,
   * whose machine is then that very one; without it a twin's machine is nobody's.
   */
  pair: z.number().int().positive().nullish(),
});
export type OwnLockstep = z.output<typeof ownLockstepSchema>;

/**
 * The one key that lets a VM run (`vm/<id>/own`). Append-only schema: every keeper ever shipped can read it.
 * Each change is one compare-and-swap with `gen` one higher; only what is said of copies leaves `gen` as it is.
 *
 * @see DESIGN 3, safety 1 and 14
 */
export const vmOwnSchema = z.looseObject({
  owner: nodeIdSchema,
  standby: nodeIdSchema.nullable(),
  copies: z.array(z.looseObject({ node: nodeIdSchema, state: z.string(), epoch: z.number().int() })),
  gen: z.number().int().positive(),
  state: z.enum(['stopped', 'running', 'migrating']),
  sync: z.enum(['none', 'ok', 'stale']),
  fence: z.object({ armed: z.boolean(), waitMs: z.number().int().nonnegative() }),
  op: idSchema.nullable(),
  /** The last live migration; what it means is only in the generations. @see ownMigrationSchema */
  migration: ownMigrationSchema.nullish(),
  /**
   * True: a recovery of the ledger gave it to its owner though others may have owned it since that one last had it. A
   * machine of it that is there is older than the disk and must end; the next start takes the mark away.
   */
  fresh: z.boolean().optional(),
  /** Disks with two copies of which both are known to be the same; `sync` is `ok` only when these are all. @see safety 2 */
  synced: z.array(idSchema).max(24).default([]),
  /** Rises each time the other copies are called stale: what was seen before says nothing then. */
  syncEpoch: z.number().int().nonnegative().default(0),
  /** Wall clock of its last failovers, newest last: the brake on a VM that takes its nodes down. */
  failoversMs: z.array(wallMsSchema).max(16).default([]),
  lockstep: ownLockstepSchema.nullish(),
  /** Nodes with files of its disks, from when its twin or itself was there, that are not its data; until they are wiped. */
  left: z.array(nodeIdSchema).max(64).optional(),
});
export type VmOwn = z.output<typeof vmOwnSchema>;

/** What a VM is doing, as seen on its node. */
export const vmPhaseSchema = z.enum([
  'creating',
  'stopped',
  'starting',
  'running',
  'paused',
  'stopping',
  'crashed',
  'failed',
  'deleting',
  /** The owner is silent: nobody knows. */
  'unknown',
]);
export type VmPhase = z.output<typeof vmPhaseSchema>;

/** Rates over the last interval of 5 to 10 s. */
export const vmStatsSchema = z.object({
  atMs: wallMsSchema,
  /** Share of the VM's own vCPUs, 0 to 100. */
  cpuPct: z.number().nonnegative(),
  memoryUsedBytes: z.number().nonnegative(),
  memoryBytes: z.number().nonnegative(),
  diskReadBps: z.number().nonnegative(),
  diskWriteBps: z.number().nonnegative(),
  netRxBps: z.number().nonnegative(),
  netTxBps: z.number().nonnegative(),
});
export type VmStats = z.output<typeof vmStatsSchema>;

/** How a VM stands with high availability. */
export const vmProtectionSchema = z.object({
  /** `off`: not asked for. `paused`: by the cluster's policy. `unprotected`: asked for, and not given now: see `text`. */
  state: z.enum(['off', 'protected', 'unprotected', 'paused']),
  /** In words; empty where the state says it all. */
  text: z.string().max(500),
  /** Of a machine in lockstep: the node of its twin. */
  standby: nodeIdSchema.nullable(),
  /** Of a machine in lockstep: since when it has been protected without a break. */
  sinceMs: wallMsSchema.optional(),
});
export type VmProtection = z.output<typeof vmProtectionSchema>;

/** How the two copies of a disk stand, for people. */
export const copyWordsSchema = z.object({
  disk: idSchema,
  name: z.string().max(63),
  /** The node of the other copy. */
  peer: nodeIdSchema,
  state: z.enum([
    'in-sync',
    'syncing',
    'stale',
    'inconsistent',
    'diskless',
    'split-brain',
    'apart',
    'waiting',
    'unknown',
  ]),
  /** What it means for the VM, in a sentence. */
  text: z.string().max(300),
  /** The one thing to do; empty: nothing, or it mends itself. */
  hint: z.string().max(300),
  /** Share of the copying that is done, 0 to 1, and how long it takes still; null: nothing is copied, or it is not known. */
  done: z.number().min(0).max(1).nullable(),
  leftS: z.number().nonnegative().nullable(),
});
export type CopyWords = z.output<typeof copyWordsSchema>;

/** What the owner's agent says of a VM on the radio (`vm/<id>`, retained). */
export const vmStateSchema = z.object({
  vm: idSchema,
  name: z.string(),
  node: nodeIdSchema,
  boot: z.string().max(64),
  seq: z.number().int().nonnegative(),
  atMs: wallMsSchema,
  phase: vmPhaseSchema,
  /** Why it is so, in words, where that is not plain: `guest shut itself down`, `QEMU crashed`. */
  reason: z.string().max(500),
  /** The spec's generation that the running machine has. */
  generation: z.number().int().nonnegative(),
  /** Edits that wait for a restart, in words. Empty: the machine is as asked. */
  pendingRestart: z.array(z.string().max(200)).max(32),
  upSinceMs: wallMsSchema.nullable(),
  guestAgent: z.boolean(),
  /** As the guest agent reports them, else as handed out. */
  addresses: z.array(z.string().max(64)).max(64),
  hostname: z.string().max(255).nullable(),
  filesystems: z
    .array(
      z.object({
        mount: z.string().max(255),
        type: z.string().max(32),
        totalBytes: z.number(),
        usedBytes: z.number(),
      }),
    )
    .max(32),
  stats: vmStatsSchema.nullable(),
  /** Unix sockets on the node, ready to be proxied. */
  consoles: z.object({ serial: z.string().nullable(), vnc: z.string().nullable() }),
  error: errorRecordSchema.nullable(),
  /** Of disks with two copies. */
  copies: z.array(copyWordsSchema).max(24).optional(),
  ha: vmProtectionSchema.default({ state: 'off', text: '', standby: null }),
});
export type VmState = z.output<typeof vmStateSchema>;

/** What is done with a VM's machine where it is. */
export const vmPowerActionSchema = z.enum([
  'start',
  'stop',
  'force-stop',
  'reboot',
  'reset',
  'pause',
  'resume',
]);
export type VmPowerAction = z.output<typeof vmPowerActionSchema>;

/** What can be asked of a VM. */
export type VmAction = VmPowerAction | 'migrate' | 'console' | 'edit' | 'delete';

/**
 * Which action is allowed in which phase: the one table that API, GUI and agent ask.
 * `delete` of a running VM is not in it on purpose: stop it first, or say `force`.
 */
export const vmActions: Readonly<Record<VmPhase, readonly VmAction[]>> = {
  creating: ['delete', 'edit'],
  stopped: ['start', 'edit', 'delete'],
  starting: ['stop', 'force-stop', 'console', 'edit'],
  running: ['stop', 'force-stop', 'reboot', 'reset', 'pause', 'migrate', 'console', 'edit'],
  paused: ['resume', 'stop', 'force-stop', 'reset', 'migrate', 'console', 'edit'],
  stopping: ['force-stop', 'console', 'edit'],
  crashed: ['start', 'edit', 'delete', 'stop', 'force-stop'],
  failed: ['start', 'stop', 'force-stop', 'edit', 'delete'],
  deleting: [],
  unknown: ['edit', 'stop', 'start', 'console'],
};
