import { z } from 'zod';
import { balanceModeSchema } from './balance.js';
import { powerModeSchema } from './power.js';
import { idSchema, nodeIdSchema, wallMsSchema } from './schema.js';

/** What to do when a guest hangs: nothing, or reset it by its virtual watchdog or after its agent fell silent. */
export const onHangSchema = z.enum(['nothing', 'reset']);

/** High availability of one VM: whether and how it comes back by itself. */
export const vmHaSchema = z.object({
  /** Restart it on its standby when its node fails. Off by default: it needs disks that another node can reach. */
  enabled: z.boolean(),
  /** Who comes back first when many are down: 0 last, 100 first. */
  priority: z.number().int().min(0).max(100),
  /** VMs that must run before this one is started by a failover; without limit it would wait for ever, see docs. */
  after: z.array(idSchema).max(16),
  onHang: onHangSchema,
  /** Restarts without anybody asking (crash, hang, failover) within an hour; beyond it the VM stays off. */
  restartsPerHourMax: z.number().int().min(0).max(100),
  /** A second copy of it runs on another node and goes on when its own node dies. Means something with `enabled` only. Absent: no. */
  lockstep: z.boolean().optional(),
});
export type VmHa = z.output<typeof vmHaSchema>;

/**
 * What a VM keeps through the death of its node. `none`: it comes back with the node. `restart`: it is started elsewhere,
 * what was in its memory is lost. `lockstep`: its twin goes on with everything.
 */
export const protectionLevels = ['none', 'restart', 'lockstep'] as const;
export type ProtectionLevel = (typeof protectionLevels)[number];

/** What is asked for; a machine that runs has what was asked for when it was started. */
export const protectionLevel = (ha: Pick<VmHa, 'enabled' | 'lockstep'>): ProtectionLevel =>
  !ha.enabled ? 'none' : ha.lockstep === true ? 'lockstep' : 'restart';

export const vmHaDefault: VmHa = {
  enabled: false,
  priority: 50,
  after: [],
  onHang: 'nothing',
  restartsPerHourMax: 5,
};

/** What becomes of a change after which a failover that is promised would find no memory: nothing, a warning, a refusal. */
export const admissionModeSchema = z.enum(['off', 'warn', 'enforce']);
export type AdmissionMode = z.output<typeof admissionModeSchema>;

/** Moves that balancing begins by itself within an hour. */
const movesPerHourSchema = z.number().int().min(1).max(1000);

const planDefault = {
  admission: 'enforce',
  balance: 'recommend',
  movesPerHourMax: 10,
  power: 'recommend',
} as const;
const copiesDefault = { replaceAfterMin: 30 } as const;

/** `/flotilla/policy`: switches for the whole cluster that people set. Absent: {@link policyDefault}. */
export const policySchema = z.object({
  ha: z.object({
    /** True: every VM is disarmed; nothing freezes and nothing fails over, until somebody ends the pause. */
    paused: z.boolean(),
    /** True: failovers wait, fully waited out, until a person lets go. VMs stay armed. */
    hold: z.boolean(),
    /** True: a node without watchdog may arm. Every page then says so. */
    unsafeWithoutWatchdog: z.boolean(),
  }),
  /** Records of before there was a planner have none. */
  plan: z
    .object({
      admission: admissionModeSchema,
      balance: balanceModeSchema.default(planDefault.balance),
      movesPerHourMax: movesPerHourSchema.default(planDefault.movesPerHourMax),
      power: powerModeSchema.default(planDefault.power),
    })
    .default(planDefault),
  copies: z
    .object({
      /** A standby lost for so long is replaced by another node, which gets a copy, min; null: never by itself. */
      replaceAfterMin: z.number().int().min(1).max(10_080).nullable(),
    })
    .default(copiesDefault),
});
export type Policy = z.output<typeof policySchema>;
/** What may be changed of `plan`; what is not named stays as it is. */
export const planPatchSchema = z
  .strictObject({
    admission: admissionModeSchema,
    balance: balanceModeSchema,
    movesPerHourMax: movesPerHourSchema,
    power: powerModeSchema,
  })
  .partial();
export const policyDefault: Policy = {
  ha: { paused: false, hold: false, unsafeWithoutWatchdog: false },
  plan: planDefault,
  copies: copiesDefault,
};

/**
 * `/flotilla/seen/<node>`: rewritten by the node's keeper in the transaction that makes its live key. It stays when
 * that key goes, so a standby whose wait spans two readings of the ledger finds in the compare that the node was
 * back in between.
 */
export const seenSchema = z.object({ node: nodeIdSchema, boot: z.string().max(64) });

/**
 * `/flotilla/fenced/<node>`: proof that the node is off, good for that one absence (`seenRevision`). The keeper of a
 * node that comes back deletes it in the transaction that makes its live key.
 */
export const fencedSchema = z.object({
  node: nodeIdSchema,
  /** `modRevision` of `seen/<node>` at the time of the proof. */
  seenRevision: z.string().regex(/^\d+$/),
  /** The BMC said "off" after it was told so; or a person vouched for it. */
  how: z.enum(['bmc', 'person']),
  by: z.string().max(128),
  atMs: wallMsSchema,
});
export type Fenced = z.output<typeof fencedSchema>;

/**
 * One line of a node's ownership journal, fsynced before a machine is started and after each change of ownership
 * it took part in. With the ledger lost, the journals together say who owned what last. @see safety 10
 */
export const journalEntrySchema = z.looseObject({
  vm: idSchema,
  gen: z.number().int().positive(),
  /** What this node was to the VM from that generation on. */
  role: z.enum(['owner', 'standby', 'none']),
  /** Who owned it then. */
  owner: nodeIdSchema,
  /** The ledger's epoch. */
  epoch: z.number().int().positive(),
});
export type JournalEntry = z.output<typeof journalEntrySchema>;

/** `takeover/<vm>.json` in each shared pool of a VM, written by its new owner before the machine starts. */
export const takeoverSchema = z.object({
  vm: idSchema,
  owner: nodeIdSchema,
  gen: z.number().int().positive(),
  epoch: z.number().int().positive(),
});
export type Takeover = z.output<typeof takeoverSchema>;

/** Phases of a failover, in the order they happen; values are ms after {@link failoverPhases}[0]'s moment. */
export const failoverPhases = [
  /** The last beat of the old owner that the new one heard. */
  'last-beat',
  /** The live key was seen gone. */
  'lease-gone',
  /** The fence wait was over, or the node was proven off. */
  'wait-over',
  /** Ownership swapped in the ledger. */
  'owned',
  /** Disks ready: seed, pools, bridges. */
  'disk-ready',
  /** QEMU runs. */
  'running',
  /** The guest agent answered. */
  'guest-answers',
] as const;
export type FailoverPhase = (typeof failoverPhases)[number];
export const failoverTimelineSchema = z.object({
  from: nodeIdSchema,
  to: nodeIdSchema,
  /**
   * Why the wait could end: its own time, or proof; `owner`: it gave the VM over itself, being unable to start it; `twin`: none
   * was needed, the VM went on with its twin in lockstep.
   */
  fence: z.enum(['waited', 'bmc', 'person', 'owner', 'twin']),
  /**
   * Wall clock of `last-beat` (or of `lease-gone` where no beat was heard; of an owner's first failure; of a pair's last
   * checkpoint): for people.
   */
  atMs: wallMsSchema,
  phasesMs: z.partialRecord(z.enum(failoverPhases), z.number()),
});
export type FailoverTimeline = z.output<typeof failoverTimelineSchema>;
