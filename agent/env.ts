import type { ExportedDisk, ExportedVm } from '../core/ovf/export.js';
import type { Accel, NodeDrive, NodeFacts, NodePressure, PoolUse } from '../core/domain/node.js';
import type { Disk } from '../core/domain/disk.js';
import type { Image } from '../core/domain/image.js';
import type { Network } from '../core/domain/network.js';
import type { Pool } from '../core/domain/pool.js';
import type { JournalEntry, Takeover } from '../core/domain/ha.js';
import type { TimingProfile } from '../core/domain/timing.js';
import type { PairSeen, Replica } from '../core/domain/replica.js';
import type { SnapshotDisk } from '../core/domain/vm-snapshot.js';
import type { VmSpec } from '../core/domain/vm.js';
import type { MachineHere } from '../core/decide/lockstep.js';
import type { LockstepAnswers, LockstepAsk, LockstepDoor } from '../core/wire/lockstep.js';
import type { RadioKind, RadioPayload } from '../core/wire/radio.js';
import type { FenceDevice } from './fence/fence-agent.js';
import type { Compare, Ledger } from './ledger/ledger.js';
import type { Hypervisor, MigrateTarget } from './libvirt/hypervisor.js';

/** Time and chance, so that the simulator can own both. */
export interface Clock {
  /** Monotonic milliseconds since some start: the only time that decisions use. */
  nowMs(): number;
  /** Milliseconds since 1970: for people. */
  wallMs(): number;
  /** Resolves after that long, or early with the signal's reason thrown. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export interface Random {
  uuid(): string;
  /** Whole number from 0 to `n` - 1. */
  below(n: number): number;
}

/** One line for the journal. Never a secret. */
export interface Log {
  info(text: string, fields?: Record<string, unknown>): void;
  warn(text: string, fields?: Record<string, unknown>): void;
  error(text: string, fields?: Record<string, unknown>): void;
}

/** The two slots of an appliance's boot drive, as they stand. */
export interface SlotState {
  /** `medium`: started from a stick, a CD or the network. */
  readonly booted: 'a' | 'b' | 'medium';
  readonly good: 'a' | 'b';
  /** Written and not yet found well. */
  readonly onTrial: 'a' | 'b' | null;
  /** The kernel's id of this boot. */
  readonly boot: string;
}

/** Restarts, and updates of the appliance: a new version goes into the other slot, is tried, and is left again when it does not get well. */
export interface Slots {
  /** Null: this node has none. */
  state(): Promise<SlotState | null>;
  /**
   * Writes an image into the slot that is not booted, and reads it back.
   *
   * @returns that slot
   * @throws FlotillaError `checksum-mismatch`, `tool-failed`
   */
  write(file: string, sha256: string, signal: AbortSignal): Promise<'a' | 'b'>;
  /** The other slot is booted next, on trial. */
  tryNext(): Promise<void>;
  /** The booted slot is the good one. */
  good(): Promise<void>;
  /** Restarts the machine. Comes back before it does. */
  restart(): Promise<void>;
}

/** The voters of the ledger, each asked by itself. */
export interface Voters {
  /**
   * What is wrong with each that is not well: it does not answer, or knows no leader.
   *
   * @throws FlotillaError `ledger-unavailable`
   */
  faults(): Promise<readonly { readonly node: string; readonly text: string }[]>;
}

/** The node's drives. */
export interface Drives {
  /** @throws FlotillaError `tool-failed`, `timeout` */
  list(): Promise<readonly NodeDrive[]>;
}

/** What one node is heard to say; ages are monotonic, by this listener's clock. */
export interface HeardNode {
  readonly node: string;
  readonly beatAgeMs: number | null;
  readonly stateAgeMs: number | null;
  readonly state: RadioPayload<'state'> | null;
  readonly vms: ReadonlyMap<string, { readonly ageMs: number; readonly state: RadioPayload<'vm'> }>;
  /** Progress of its operations. */
  readonly ops?: ReadonlyMap<string, { readonly ageMs: number; readonly state: RadioPayload<'op'> }>;
  /** True since its broker reported the agent's connection broken without goodbye. */
  readonly agentGone: boolean;
  readonly connected: boolean;
  /** Last events it published, newest first; bounded. */
  readonly events: readonly RadioPayload<'event'>[];
}

export interface Radio {
  /** Says something on this node's own broker. Never waits; drops when the broker is away (state is said again). */
  say<K extends RadioKind>(kind: K, payload: RadioPayload<K>, id?: string): void;
  /** Takes a retained `vm` or `op` line back. */
  unsay(kind: 'vm' | 'op', id: string): void;
  /** Every node heard since start, this one too. */
  heard(): readonly HeardNode[];
  /** Refused since start, by kind: `forged-topic`, `unreadable`, `oversized`, `certificate`. */
  refused(): Readonly<Record<string, number>>;
  /** Called after anything new was heard. @returns a function that ends it */
  onChange(wake: () => void): () => void;
  /** Nodes to listen to, by address; called when the ledger's list changes. */
  setPeers(peers: readonly { readonly node: string; readonly address: string }[]): void;
}

/** What a new disk is made from. */
export type DiskFrom =
  { readonly image: Image; readonly pool: Pool } | { readonly snapshot: SnapshotDisk; readonly pool: Pool };

/** Volumes: files of disks and images in this node's pools. All calls are idempotent: repeated, they end in the same state. */
export interface Volumes {
  /** Makes sure the pool's directories exist and are writable here, and tells its use. @throws FlotillaError */
  probe(pool: Pool): Promise<PoolUse>;
  /**
   * Makes the disk's file as described, by a temporary name first, so that a crash leaves nothing half-made.
   *
   * @throws FlotillaError `no-space`, `not-found` (image's file), `tool-failed`, `cancelled`
   */
  makeDisk(disk: Disk, pool: Pool, from: DiskFrom | null, o: WorkOptions): Promise<void>;
  /** Enlarges the file of a stopped VM's disk, or the volume below this node's copy. Shrinking is refused `unsupported`. */
  growDisk(disk: Disk, pool: Pool): Promise<void>;
  /** Makes a new file, whose data nobody needs, so large or so small. */
  fitDisk(disk: Disk, pool: Pool, bytes: number): Promise<void>;
  removeDisk(disk: Disk, pool: Pool): Promise<void>;
  /**
   * Copies all of a volume that nobody writes to onto another one that is there and at least as large. Repeated, it begins anew.
   *
   * @throws FlotillaError `tool-failed`, `cancelled`
   */
  copyDisk(from: VolumeAt, to: VolumeAt, o: WorkOptions): Promise<void>;
  /** Before a machine uses it: makes a volume appear that a boot left switched off. */
  openDisk(disk: Disk, pool: Pool): Promise<void>;
  /**
   * Before the pair is opened: this node's copy of a disk that lies on two appears. Where it is not there it is made and
   * `format` is called, before anybody takes it for whole; null: it may not be made.
   *
   * @throws FlotillaError `not-found`, `no-space`, `pool-unavailable`
   */
  openCopy(disk: Disk, pool: Pool, format: (() => Promise<void>) | null): Promise<void>;
  /** Writes what a disk is made from to its device, on both nodes at once. May be repeated. */
  fillDisk(disk: Disk, pool: Pool, from: DiskFrom, device: string, o: WorkOptions): Promise<void>;
  /**
   * Keeps a disk as it is at this moment. Of a thin volume at once, also while it is written to, with whatever wrote
   * standing still; of a file, which is copied where its file system cannot share blocks, only while nothing writes.
   * Repeated it is done once.
   *
   * @returns bytes it holds
   * @throws FlotillaError `no-space`, `pool-unavailable`, `not-found`, `cancelled`
   */
  takeSnapshot(disk: Disk, pool: Pool, volume: SnapshotDisk, o: WorkOptions): Promise<number>;
  /** Where a running machine may copy its file to; what an earlier try left there is gone. @throws as {@link takeSnapshot} */
  snapshotDraft(volume: SnapshotDisk, pool: Pool): Promise<string>;
  /** That copy is whole: it is kept. @returns bytes it holds */
  keepDraft(volume: SnapshotDisk, pool: Pool): Promise<number>;
  /** Takes it away, and its draft. */
  removeSnapshot(volume: SnapshotDisk, pool: Pool): Promise<void>;
  diskPath(disk: Pick<Disk, 'id' | 'format'>, pool: Pool): string;
  imagePath(image: Pick<Image, 'id' | 'format'>, pool: Pool): string;
  /** Takes what was uploaded or fetches `source`, checks it, converts it, and returns the finished facts. */
  importImage(
    image: Image,
    pool: Pool,
    o: WorkOptions,
  ): Promise<Pick<Image, 'format' | 'sizeBytes' | 'virtualSizeBytes' | 'sha256'>>;
  removeImage(image: Image, pool: Pool): Promise<void>;
  /** Makes sure that an image's file is on this node, fetching it from its own node where needed. @returns its path */
  haveImage(image: Image, pool: Pool, o: WorkOptions): Promise<string>;
  /** Bytes of an upload stored so far: where to resume. */
  uploadOffset(image: Image, pool: Pool): Promise<number>;
  /** Appends at `offset`. @throws FlotillaError `offset-mismatch`, `no-space`, `too-large` */
  upload(image: Image, pool: Pool, offset: number, data: AsyncIterable<Uint8Array>): Promise<number>;
  /**
   * Leaves the record that this node took the VM over, in a shared pool, where a node that lost the ledger may still
   * read it. Durable when it returns. @throws FlotillaError `pool-unavailable`
   */
  recordTakeover(pool: Pool, t: Takeover): Promise<void>;
  /** The file of that record: what a keeper reads. */
  takeoverPath(vmId: string, pool: Pool): string;
  /** Removes temporary files that no known disk or image explains, older than the boot. @returns what was removed */
  sweep(
    pool: Pool,
    known: { disks: ReadonlySet<string>; images: ReadonlySet<string> },
  ): Promise<readonly string[]>;
}

/** A volume by its path here. */
export interface VolumeAt {
  readonly path: string;
  readonly format: Disk['format'];
}

/** A disk of a package: one that nobody writes to, or as it was in a snapshot. */
export type PackedDisk = { readonly pool: Pool; readonly bus: ExportedDisk['bus'] } & (
  { readonly disk: Disk } | { readonly snapshot: SnapshotDisk }
);

/** Packages of VMs, made to be fetched. */
export interface Exports {
  /**
   * Packs a VM. Repeated, it begins anew; failed or cancelled, nothing is left.
   *
   * @throws FlotillaError `no-space`, `tool-failed`, `cancelled`
   */
  make(
    op: string,
    vm: Omit<ExportedVm, 'disks'> & { readonly disks: readonly PackedDisk[] },
    into: Pool,
    o: WorkOptions,
  ): Promise<{ readonly sizeBytes: number }>;
  /** Removes all but those of these ops. */
  sweep(pools: readonly Pool[], keep: ReadonlySet<string>): Promise<void>;
}

export interface WorkOptions {
  readonly signal: AbortSignal;
  /** Called with 0 to 1, at most a few times a second. */
  progress(share: number, step?: string): void;
}

/** Whether this node can hold one of two copies, or why not, in words. */
export type ReplicationUse = { readonly ok: true } | { readonly ok: false; readonly why: string };

/**
 * Disks with a copy on another node. A VM's disks are volumes of one pair. All calls are idempotent where their aim
 * permits. Who may write is not decided here: the ledger is asked before, and the kernel asks it again when the other
 * copy is out of reach.
 */
export interface Replication {
  usable(): Promise<ReplicationUse>;
  /** The pairs of this node as they are now; `unreadable`: lines that were not understood, whose pairs are left out. */
  observe(): Promise<{
    readonly pairs: ReadonlyMap<string, PairSeen>;
    readonly unreadable: readonly string[];
  }>;
  /**
   * Tells whenever a pair of this node is not what it was, first when it has begun to; not how much is still to be copied.
   * Ends with the signal, and when no more can be told.
   */
  watch(changed: () => void, signal: AbortSignal): Promise<void>;
  /** Makes the volume below a copy that holds nothing yet. What was in it is lost. */
  make(replica: Replica, volume: number): Promise<void>;
  /**
   * Whether {@link adjust} would break the connection that there is: the record names another peer or address than it was
   * made with. Nothing is changed. @throws FlotillaError `tool-failed`: the record cannot be followed here
   */
  reconnects(replica: Replica): Promise<boolean>;
  /**
   * Brings the pair into the state of its record. Never during a migration: it ends {@link allowTwoPrimaries}. Where it
   * {@link reconnects} the connection must be broken before, as who writes or as the other: {@link disconnect}, {@link cutOff}.
   * A volume that the record does not name any more must be {@link closeVolume closed} before, on both nodes.
   */
  adjust(replica: Replica): Promise<void>;
  /**
   * Makes a volume of the pair as large as what is below it on both nodes; what is new is copied from here. Only as who
   * writes, and while both copies are the same.
   */
  resize(vm: string, volume: number): Promise<void>;
  /**
   * One volume of a pair that goes on is written to no more, and leaves its disk. Its owner does so first: the kernel lets
   * nobody take the last whole copy from who writes. @throws FlotillaError `tool-failed`: something has it open
   */
  closeVolume(minor: number): Promise<void>;
  /** Calls both copies of a volume the same without copying: only where both were made new for it. The kernel checks that. */
  skipFirstSync(vm: string, volume: number): Promise<void>;
  /** May be written to from here. @throws FlotillaError `replica-refused`: not this copy, not now */
  promote(vm: string): Promise<void>;
  demote(vm: string): Promise<void>;
  /** For the moments of a live migration. */
  allowTwoPrimaries(vm: string, on: boolean): Promise<void>;
  /** Says goodbye to the peer, which then counts as out of date, so that no writes freeze. */
  disconnect(vm: string): Promise<void>;
  /** Breaks the connection without a word, so that neither copy counts as out of date for it. */
  cutOff(vm: string): Promise<void>;
  /** @param o.discardMine - what was written here while apart is given up: after a split brain */
  connect(vm: string, o: { readonly discardMine: boolean }): Promise<void>;
  /** Lets frozen writes end, of a machine that was killed. */
  resume(minors: readonly number[]): Promise<void>;
  /** Ends the pair here; the data stays. */
  down(vm: string): Promise<void>;
}

/** Cloud-init seeds: a small ISO per VM with NoCloud data. */
export interface Seeds {
  /** Writes the seed of this spec; the same spec gives the same seed. @returns its path */
  make(spec: VmSpec, networks: ReadonlyMap<string, Network>): Promise<string>;
  remove(vmId: string): Promise<void>;
}

/** Bridges of the node. */
export interface Bridges {
  /** Makes the bridge and its uplink as described; idempotent; never touches an interface it does not own. */
  ensure(network: Network): Promise<void>;
  /**
   * Whether something listens on that port of a guest, or answers a request of that path with 2xx or 3xx.
   *
   * @param o.path - null: that it listens is enough
   */
  answers(
    network: Network,
    address: string,
    o: { readonly port: number; readonly path: string | null },
  ): Promise<boolean>;
  /** Bridges here that Flotilla made, by the id of their network. */
  owned(): Promise<readonly { readonly network: string; readonly bridge: string }[]>;
  /** Takes away the bridge made for that network. @throws FlotillaError `in-use`: guests are on it */
  remove(network: Pick<Network, 'id' | 'name' | 'bridge'>): Promise<void>;
}

/** This node's claim to be alive in the ledger. */
export interface Liveness {
  /**
   * Compares the live key of this boot: part of every ownership transaction. Null while the last good renewal
   * is too old to count on: then nothing is even tried.
   */
  compare(): Compare | null;
}

/** What this node's keeper says of itself. */
export interface KeeperState {
  /** Random, new at each boot of the machine; the same after a restart of the keeper alone. */
  readonly boot: string;
  /**
   * `run`: VMs may run. `ice`: no good renewal for too long; armed VMs are frozen. `thaw`: the ledger answers again;
   * still frozen until the owners have been read afresh.
   */
  readonly mode: 'run' | 'ice' | 'thaw';
  /** Lease of the live key, and the revision that made the key: the node's incarnation. Null: it has none now. */
  readonly lease: string | null;
  readonly createRevision: bigint | null;
  /** When the last good renewal was *sent*, on `env.clock`. Null: none yet. */
  readonly goodMs: number | null;
  /** VMs confirmed armed, by id: they freeze with this node, and the watchdog is petted for them. */
  readonly armed: readonly string[];
  readonly watchdog: { readonly kind: 'hardware' | 'software' | 'pipe' | 'none'; readonly timeoutMs: number };
  /** Whether it would arm a VM now: `waitMs` is what `own.fence.waitMs` must be; or why not, in words. */
  readonly armable:
    { readonly ok: true; readonly waitMs: number } | { readonly ok: false; readonly why: string };
  /** The CAs by which it knows the ledger, as `trustMark` has them; absent: one of before it said so. */
  readonly trusts?: string;
  /** VMs it keeps frozen or has killed, and why, in words. */
  readonly held: readonly { readonly vm: string; readonly why: string }[];
  /** What is wrong, in words; empty while well. */
  readonly text: string;
}

/** This node's keeper, a process of its own. @see docs/ha.md */
/** With what a VM is armed. */
export interface Arming {
  readonly takeover: readonly string[];
  readonly gen: number;
}

export interface Keeper {
  /** Null: it does not answer. Then nothing may be started. */
  state(): KeeperState | null;
  /** Called after anything in {@link state} changed but `goodMs`. @returns a function that ends it */
  onChange(listener: () => void): () => void;
  /**
   * Counts the VM among those that freeze with this node, and resolves after the first pet that did. Idempotent.
   *
   * @param o.takeover - files where another owner would leave its record
   * @param o.gen - generation of the ownership on which it is armed: a record that is not above it is of an earlier
   *   stay and proves nothing
   *
   * @throws FlotillaError `not-armable`: and why
   */
  arm(vmId: string, o: Arming): Promise<{ readonly waitMs: number }>;
  /**
   * Asks whether the VM has been counted without a break since {@link arm}. False: meanwhile the keeper read that
   * another node owns it, and what comes to life now must not run. A machine that exists at a "yes" is one that the
   * keeper finds later, too.
   *
   * @throws FlotillaError `not-armable`: it does not answer
   */
  holds(vmId: string): Promise<boolean>;
  /** No longer. The ledger must say `armed: false` (or another owner) before. Idempotent. */
  disarm(vmId: string): Promise<void>;
}

/** This node's ownership journal. @see safety 10 */
export interface Journal {
  /** Durable when it returns. Does nothing where the last entry of that VM says the same. */
  record(e: JournalEntry): Promise<void>;
}

/** Other nodes' programs, as this node reaches them with its certificate. */
export interface Peers {
  /** The libvirt daemon at that address. */
  libvirt(address: string): NonNullable<MigrateTarget['peer']>;
  /**
   * The agent of that node, about machines in lockstep.
   *
   * @throws FlotillaError `node-unreachable`, or what the other one refused it with
   */
  lockstep<K extends LockstepAsk['do']>(
    to: { readonly node: string; readonly address: string },
    ask: Extract<LockstepAsk, { do: K }>,
    signal: AbortSignal,
  ): Promise<LockstepAnswers[K]>;
  /**
   * Whether anything at that address answers a connection, be it with a refusal: its kernel lives, whatever became of its agent.
   * False: nothing did until `signal`.
   */
  knock(to: { readonly node: string; readonly address: string }, signal: AbortSignal): Promise<boolean>;
}

/** A machine of a lockstep VM as it is on this node; its times are of `env.clock`. */
export interface LockstepSeen extends MachineHere {
  readonly vm: string;
}

export type { LockstepDoor };

/** Pairs of machines of which one goes on where the other dies. Who may is not decided here. @see docs/lockstep.md, safety 11 */
export interface Lockstep {
  /** Why this node can have none, in words; null: it can. */
  usable(): Promise<string | null>;
  /** Every such machine that lives here. Cheap, and never older than a moment: it is asked ten times a second. */
  observe(): Promise<readonly LockstepSeen[]>;
  /**
   * On the second node: a machine that waits for its primary; its output is not connected. One that is there ends first.
   *
   * @param o.xml - as the primary was defined
   * @param o.gen - the pair: of the ownership that names this node as twin. It is marked with it until {@link takeOver}
   * @param o.address - of this node, where it listens
   * @throws FlotillaError `tool-failed`, `no-space`, `unsupported`
   */
  bear(o: {
    readonly vm: string;
    readonly xml: string;
    readonly gen: number;
    readonly address: string;
  }): Promise<LockstepDoor>;
  /**
   * On the owner: its machine stands still while memory and disks are copied, then both run. Resolves after the first further
   * checkpoint. Failed or cancelled, the machine goes on alone as before, with no output lost.
   *
   * @throws FlotillaError `tool-failed`, `cancelled`
   */
  join(vm: string, door: LockstepDoor, o: WorkOptions): Promise<{ readonly pausedMs: number }>;
  /** On the second node: the channels to the primary are closed. From here on none of the primary's output leaves. Idempotent. */
  shut(vm: string): Promise<void>;
  /** On the second node, after {@link shut} and after the ledger named it the owner: it goes on alone, its output connected. Idempotent. */
  takeOver(vm: string, gen: number): Promise<void>;
  /**
   * On the owner, only after the ledger says that there is no twin: whatever hangs is broken, the second is dropped, and it
   * runs, whatever it was in the middle of. Idempotent.
   */
  goAlone(vm: string, gen: number): Promise<void>;
  /** Kills it here, and waits until it is gone. Idempotent. */
  end(vm: string): Promise<void>;
  /** A bell only: something changed. @returns a function that ends it */
  on(listener: () => void): () => void;
}

/** Where a VM's consoles are on this node. */
export interface Sockets {
  paths(vmId: string): { readonly serial: string; readonly vnc: string; readonly serialLog: string };
  /** Makes the directories; libvirt makes the sockets. */
  prepare(vmId: string): Promise<void>;
  remove(vmId: string): Promise<void>;
}

/** The node itself. */
export interface Machine {
  /** Nothing of that VM can run here any more: no process of it is there, or each has been told to die at once. */
  isDead(vmId: string): Promise<boolean>;
  /** Accelerator by a boot probe, cached for this boot of the machine. */
  accel(): Promise<Accel>;
  /** What one of its CPUs does, MHz, 0: not known; null: its kernel does not weigh and cap the CPU of VMs. Never waits. */
  cpuTune(): { readonly cpuMHz: number } | null;
  /** Slow facts, cached; null until first read. Never waits. */
  facts(): NodeFacts | null;
  /** Cheap numbers from /proc. */
  use(): Promise<{
    cpus: number;
    cpuUsedPct: number;
    memoryBytes: number;
    memoryUsedBytes: number;
    loadAvg1: number;
    upSinceMs: number;
    /** Absent: the kernel has no PSI. */
    pressure?: NodePressure;
  }>;
}

/**
 * Everything the agent reaches. Production and simulator both implement it; nothing else in the agent touches
 * a clock, a socket, a file or a command.
 */
/** Who holds a VM off at this node, and since when by the wall clock. */
export interface Hold {
  readonly by: string;
  readonly atMs: number;
}

/** VMs that somebody holds off at this node alone, whatever the ledger wants. They are only ever stopped for it. */
export interface Holds {
  /** Takes up what was said since. @throws where it cannot be read; then all is as before */
  look(): Promise<void>;
  all(): ReadonlyMap<string, Hold>;
}

export interface AgentEnv {
  readonly node: string;
  /** True: this node votes in the ledger and runs no VMs; what VMs need is not even looked at. */
  readonly witness?: boolean;
  /** Random, new at each start of the agent. */
  readonly boot: string;
  readonly version: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly ledger: Ledger;
  readonly live: Liveness;
  readonly keeper: Keeper;
  readonly journal: Journal;
  /** Powers nodes off through their BMCs. Absent: this node cannot, and waits its time out. */
  readonly fencer?: FenceDevice;
  /** The times on which safety rests. */
  readonly timing: TimingProfile;
  readonly radio: Radio;
  readonly peers: Peers;
  readonly hypervisor: Hypervisor;
  readonly volumes: Volumes;
  /** Absent: its VMs are not exported. */
  readonly exports?: Exports;
  /** Absent: this node is neither restarted nor updated from here. */
  readonly slots?: Slots;
  /** Absent: they are not asked. */
  readonly voters?: Voters;
  /** Absent: its drives are not looked at. */
  readonly drives?: Drives;
  /** Absent: this node has no copies of other nodes' disks, and holds none. */
  readonly replication?: Replication;
  /** Absent: this node has no machines with twins, and is none's second. */
  readonly lockstep?: Lockstep;
  /** Absent: nobody holds a VM off here. */
  readonly holds?: Holds;
  readonly seeds: Seeds;
  readonly bridges: Bridges;
  readonly machine: Machine;
  readonly sockets: Sockets;
}
