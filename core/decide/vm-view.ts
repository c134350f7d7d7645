import type { Disk } from '../domain/disk.js';
import type { ErrorRecord } from '../domain/error.js';
import type { Op } from '../domain/op.js';
import type { VmOwn, VmPhase, VmSpec } from '../domain/vm.js';
import type { Arming, ArmStep } from './arming.js';
import type { HardwareDiff, HotStep } from './hardware.js';

/** What Flotilla writes into a machine when it begins it, and reads back after a crash. */
export interface DomainMark {
  /** The ownership generation this run belongs to. */
  readonly gen: number;
  /** The spec's generation it was begun with. */
  readonly generation: number;
  /** Wall clock of the start: for people. */
  readonly startedMs: number;
  /** A copy that a live migration brings or brought, and that nobody has taken in yet. */
  readonly incoming?: boolean;
}

/** A domain as one pass of the loop sees it, in libvirt's words for state and reason. */
export interface DomainView {
  readonly active: boolean;
  readonly state: string;
  readonly reason: string;
  /** Null: not ours. */
  readonly mark: DomainMark | null;
  readonly agentConnected: boolean;
  /** Disks in the machine now, by id. */
  readonly diskIds: readonly string[];
}

/** What the agent remembers of a VM between passes. Losing it costs time, never correctness. */
export interface VmMemory {
  /** A stop that is under way: monotonic ms. */
  readonly stop: { readonly sinceMs: number; readonly lastAskMs: number; readonly asked: number } | null;
  /** The last failed step, and since when it fails with that code. */
  readonly failure: {
    readonly atMs: number;
    readonly sinceMs: number;
    readonly count: number;
    /** Starts in a row that failed for what is this node's own. @see isNodeFault */
    readonly ofNode: number;
    readonly error: ErrorRecord;
  } | null;
  /** When a step of HA failed last: it is tried again apart, and fails nothing else. */
  readonly armFailedMs: number | null;
  /** When it was started or reset without being asked to, newest last; bounded by {@link restartsKeptMax}. */
  readonly crashesMs: readonly number[];
  /** Why the VM is as it is, where it is not plain from its state. */
  readonly note: string;
}

export const freshMemory: VmMemory = {
  stop: null,
  failure: null,
  armFailedMs: null,
  crashesMs: [],
  note: '',
};

/** What HA adds to the picture of one VM. */
export interface VmHaView {
  readonly arming: Arming;
  /** Its machine here is frozen with the node, or is being ended by the keeper. */
  readonly frozen: boolean;
  /** Failovers wait for a person. */
  readonly held: boolean;
  /** Failovers of the last hour: they count among its restarts. */
  readonly failovers: number;
  /** Its guest agent answered once in this run, and has been silent for so long, ms; null: it answers, or never did. */
  readonly silentMs: number | null;
  /** How long a start is tried each second while another machine holds the disk's lock, ms. */
  readonly lockPatienceMs: number;
}

/** Everything that decides what to do with one VM. */
export interface VmView {
  readonly me: string;
  readonly spec: VmSpec | null;
  readonly own: VmOwn | null;
  /** This node holds a live lease of this boot: without it nothing is started or written. */
  readonly live: boolean;
  /** Why all is left as it is, where the records may not be trusted; null: they may. */
  readonly recovering?: string | null;
  /** Why a person holds it off at this node, in words; null or absent: nobody does. */
  readonly hold?: string | null;
  /** Null: libvirt knows no such domain. */
  readonly domain: DomainView | null;
  /** Every disk object of this VM. */
  readonly disks: readonly Disk[];
  /**
   * Of its disks that lie on two nodes: how their making stands, why they cannot be used now, and why one of them cannot
   * grow now; null: nothing to say.
   */
  readonly copies?: {
    readonly making: string | null;
    readonly waits: string | null;
    readonly growWaits?: ((disk: Disk) => string | null) | undefined;
  };
  /**
   * A disk of it moves: why its machine must not go on, which stands still for that, or must not be started; null: it may.
   */
  readonly moving?: { readonly stands: string | null; readonly copied: string | null };
  /** Why no machine of it may be started now, as it is one in lockstep and may live on as another; null or absent: one may. */
  readonly lockstep?: string | null;
  /** Unfinished ops on this VM, oldest first. */
  readonly ops: readonly Op[];
  /** Wanted against running machine; null while it does not run or what is wanted cannot be built yet. */
  readonly diff: HardwareDiff | null;
  readonly memory: VmMemory;
  readonly ha: VmHaView;
}

export type VmStep =
  | { readonly do: 'none' }
  /** Take the next ownership generation, define afresh and start. */
  | {
      readonly do: 'start';
      readonly paused: boolean;
      readonly crashed: boolean;
      /** The keeper arms it first. */
      readonly arm: boolean;
      readonly inSlice: boolean;
      /** The last try of this same generation found the disk locked: nothing is written for another. */
      readonly again: boolean;
    }
  /** It cannot be started here: its standby is to have it. */
  | { readonly do: 'yield'; readonly to: string; readonly sinceMs: number; readonly why: string }
  | ArmStep
  /** The guest hangs: reset, as its HA asks for. */
  | { readonly do: 'reset-hung' }
  /** A running domain of ours has an older mark: take the next generation and mark it. */
  | { readonly do: 'adopt' }
  /** The copy that a migration brought is this node's now: let it run. */
  | { readonly do: 'take-in'; readonly paused: boolean }
  | { readonly do: 'ask-stop'; readonly how: 'agent' | 'acpi' }
  | { readonly do: 'destroy'; readonly why: string }
  /** It is down: write `stopped` to the ledger, and where the machine decided so itself, the spec's power too. */
  | { readonly do: 'settle'; readonly note: string; readonly powerOff: boolean }
  | { readonly do: 'pause' }
  | { readonly do: 'resume' }
  | { readonly do: 'reboot'; readonly op: Op; readonly how: 'agent' | 'acpi' }
  | { readonly do: 'reset'; readonly op: Op }
  | { readonly do: 'apply'; readonly step: HotStep }
  | { readonly do: 'grow-disk'; readonly disk: Disk; readonly live: boolean }
  | { readonly do: 'remove-disk'; readonly disk: Disk }
  | { readonly do: 'delete' }
  /** It is off: another node becomes its owner. */
  | { readonly do: 'relocate'; readonly op: Op }
  /** Another node owns it by a newer generation: the copy here goes. */
  | { readonly do: 'remove-foreign' };

export interface VmDecision {
  readonly phase: VmPhase;
  readonly reason: string;
  readonly step: VmStep;
  /** Disks to be made, beside the step. */
  readonly make: readonly Disk[];
  /** Look again after so many ms even if nothing rings. Null: no need. */
  readonly againMs: number | null;
}

/** Restarts remembered: as many as the largest `restartsPerHourMax`. */
export const restartsKeptMax = 100;
