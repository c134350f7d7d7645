import type { TimingProfile } from '../../core/domain/timing.js';
import type { Clock, KeeperState, Log, Random } from '../env.js';
import type { Ledger, LedgerEntry } from '../ledger/ledger.js';

/**
 * The ledger as the keeper asks it. Each call goes to several endpoints, the first good answer wins, and it ends
 * within `timing.renewDeadlineMs`: with FlotillaError `ledger-unavailable` where nobody answered well.
 */
export interface KeeperLedger extends Pick<Ledger, 'txn' | 'grantLease' | 'keepAlive' | 'revokeLease'> {
  /** Linearizable read of these keys at one revision. A key that does not exist is not in the answer. */
  read(keys: readonly string[]): Promise<ReadonlyMap<string, LedgerEntry>>;
}

/** A VM's machine on this node, running or frozen, whoever started it. */
export interface Machine {
  readonly vm: string;
  /** True: in the slice that is frozen as a whole. */
  readonly inSlice: boolean;
  /** True: the twin of another node's machine. None of its output leaves. */
  readonly twin: boolean;
}

/** Stops the time of VMs, and ends them. Needs neither libvirt nor QEMU's monitor. */
export interface Freezer {
  /** Every machine here. An error is not an absence: @throws where it cannot tell. */
  machines(): Promise<readonly Machine[]>;
  /**
   * Freezes the slice, so that what comes to life in it later is born frozen, and the machines of these VMs outside
   * it. Idempotent; looks anew for machines each time.
   *
   * @returns what is not verifiably frozen, in words; empty: all is
   */
  freeze(vms: readonly string[]): Promise<readonly string[]>;
  /** Thaws everything but these, which are frozen by themselves before the slice goes on. @throws when they are not */
  thaw(hold: readonly string[]): Promise<void>;
  /** Kills the machine of that VM, frozen or not. Nothing of it runs guest code when this returns. */
  kill(vm: string): Promise<void>;
}

export interface WatchdogInfo {
  readonly kind: KeeperState['watchdog']['kind'];
  /** After which silence it resets the node; null: it does not say. */
  readonly timeoutMs: number | null;
  /** True: it cannot be stopped once opened, so it is petted as long as the keeper lives. */
  readonly nowayout: boolean;
  /** True: it counts already, from a start of the keeper before this one. */
  readonly running: boolean;
  /** Why it cannot be used; null: it can. */
  readonly fault: string | null;
  /** Whether another process has it open too, so that the death of the keeper does not close it: closing pets. */
  readonly kept: 'yes' | 'soon' | 'no';
}

export interface Watchdog {
  /** Never opens it: opening pets. */
  info(): WatchdogInfo;
  /** Opens it where it is not open, and pets. @throws */
  pet(): void;
  /**
   * Stops it where it can be stopped, unless `still` says no at the last moment. Until then it runs and wants to be
   * petted, as `nowayout` says. Idempotent. @throws where it runs on
   */
  disarm(still: () => boolean): Promise<void>;
  /** Lets go of it as a crash would: it runs on, for the next start of the keeper. */
  release(): void;
}

/** What outlives the keeper within one boot of the machine; in a file system that the boot empties. */
export interface RunRecord {
  readonly boot: string;
  readonly mode: KeeperState['mode'];
  readonly lease: string | null;
  readonly createRevision: bigint | null;
  /** On the machine's monotonic clock, which a restart of the keeper does not change. */
  readonly goodMs: number | null;
  /** `confirmed`: a pet was made that counted it. */
  readonly armed: readonly (ArmedVm & { readonly confirmed: boolean })[];
  /** VMs that stay frozen by themselves in mode `run`. */
  readonly held: readonly string[];
}

export interface ArmedVm {
  readonly vm: string;
  /** Files in shared pools where another owner would leave its record. */
  readonly takeover: readonly string[];
  /** Records that are not above this generation are of an earlier stay of the VM here. */
  readonly gen: number;
}

export interface KeeperStore {
  /** Null: a new boot of the machine, or a record that cannot be read. */
  loadRun(): RunRecord | null;
  /** Never waits for a disk. */
  saveRun(r: RunRecord): void;
  /** The epoch of the ledger this node was admitted to; null: never to any. @throws where it cannot tell */
  admittedEpoch(): Promise<number | null>;
  /** Durable when it returns. */
  admitTo(epoch: number): Promise<void>;
  /**
   * The VM's last generation of which this node's ownership journal does not say that another node owned it; null: it
   * does not know the VM. @throws where it cannot tell
   */
  journalGen(vm: string): Promise<number | null>;
}

/** Takeover records in shared pools, read by a thread of its own: a pool may hang for ever. */
export interface Takeovers {
  /** The text of each file that could be read. Resolves when the thread has read them, or never. */
  read(files: readonly string[]): Promise<readonly string[]>;
}

/**
 * Everything the keeper reaches. Production and simulator both implement it; nothing else in the keeper touches a
 * clock, a socket, a file or a process.
 */
export interface KeeperEnv {
  readonly node: string;
  readonly version: string;
  readonly timing: TimingProfile;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly ledger: KeeperLedger;
  readonly freezer: Freezer;
  readonly watchdog: Watchdog;
  readonly store: KeeperStore;
  readonly takeovers: Takeovers;
  /** By which CAs it knows the ledger. */
  readonly trusts?: () => string;
  /** Tells the agent, and whoever looks; `goodMs` is on this environment's clock. Never waits. */
  publish(s: KeeperState): void;
}
