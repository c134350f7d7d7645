import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

export { LibvirtError } from './error.js';
export type { CallOutcome, LibvirtErrorCode } from './error.js';

/** A domain's uuid, lower case with dashes. Names may change, uuids do not, so every call takes this. */
export type DomainId = string;

/** One domain as the daemon lists it. */
export interface DomainRef {
  readonly uuid: DomainId;
  readonly name: string;
  /** QEMU's number while running, `null` while off; a restart gives a new one */
  readonly id: number | null;
  readonly active: boolean;
}

/**
 * State and why, as words. A number that this module does not know (a newer daemon) reads `unknown`,
 * so that a new reason never looks like an old one.
 */
export type DomainState =
  | { readonly state: 'running'; readonly reason: RunningReason }
  | { readonly state: 'paused'; readonly reason: PausedReason }
  | { readonly state: 'shutting-down'; readonly reason: 'unknown' | 'user' }
  | { readonly state: 'shut-off'; readonly reason: ShutOffReason }
  | { readonly state: 'crashed'; readonly reason: 'unknown' | 'panicked' }
  | { readonly state: 'pm-suspended'; readonly reason: 'unknown' }
  | { readonly state: 'blocked'; readonly reason: 'unknown' }
  | { readonly state: 'unknown'; readonly reason: 'unknown' };

export type RunningReason =
  | 'unknown'
  | 'booted'
  | 'migrated'
  | 'restored'
  | 'from-snapshot'
  | 'unpaused'
  | 'migration-cancelled'
  | 'save-cancelled'
  | 'wakeup'
  | 'crashed'
  | 'post-copy'
  | 'post-copy-failed';

export type PausedReason =
  | 'unknown'
  | 'user'
  | 'migration'
  | 'save'
  | 'dump'
  | 'io-error'
  | 'watchdog'
  | 'from-snapshot'
  | 'shutting-down'
  | 'snapshot'
  | 'crashed'
  | 'starting-up'
  | 'post-copy'
  | 'post-copy-failed'
  | 'api-error';

/**
 * `shutdown`: the guest did it. `crashed`: QEMU died (the life cycle event of that says `failed`).
 * `daemon`: libvirtd found it gone after its own restart.
 */
export type ShutOffReason =
  | 'unknown'
  | 'shutdown'
  | 'destroyed'
  | 'crashed'
  | 'migrated'
  | 'saved'
  | 'failed'
  | 'from-snapshot'
  | 'daemon';

/** Facts about the machine and the daemon; they change only with a reboot or a package upgrade. */
export interface HostFacts {
  readonly hostname: string;
  readonly hostUuid: string;
  readonly arch: string;
  /** for example `11.3.0` */
  readonly libvirtVersion: string;
  /** version of the default QEMU */
  readonly qemuVersion: string;
  readonly memoryKiB: number;
  readonly cpus: number;
  readonly mhz: number;
  readonly numaNodes: number;
  readonly socketsPerNode: number;
  readonly coresPerSocket: number;
  readonly threadsPerCore: number;
  /** libvirt's whole capabilities document */
  readonly capabilitiesXml: string;
}

/** Which emulator the domain capabilities are asked for; everything left out is the daemon's default. */
export interface DomainCapabilitiesQuery {
  readonly emulator?: string;
  readonly arch?: string;
  readonly machine?: string;
  /** `kvm` being listed does not prove that KVM runs a guest; probe by booting one */
  readonly virtType?: 'kvm' | 'qemu';
}

export interface DomainCapabilities {
  readonly emulator: string;
  readonly machine: string;
  readonly arch: string;
  readonly virtType: string;
  readonly maxVcpus: number;
  readonly xml: string;
}

export type StatsGroup = 'state' | 'cpu' | 'balloon' | 'vcpu' | 'net' | 'block' | 'vm';

/**
 * Counters of one domain. Numbers are plain numbers so that they travel as JSON; they are exact below 2^53
 * (9 PB, 104 days of CPU in ns) and lose low bits above, never wrap. A missing field was not reported.
 */
export interface DomainStats {
  readonly uuid: DomainId;
  readonly name: string;
  readonly id: number | null;
  readonly state?: DomainState;
  readonly cpu?: { readonly timeNs: number; readonly userNs?: number; readonly systemNs?: number };
  readonly balloon?: BalloonStats;
  readonly vcpu?: { readonly current: number; readonly maximum: number; readonly each: readonly VcpuStats[] };
  readonly net?: readonly NetStats[];
  readonly block?: readonly BlockStats[];
  /** every value as it came, by libvirt's own name; only with `raw: true` */
  readonly raw?: Readonly<Record<string, string | number | bigint | boolean>>;
}

export interface BalloonStats {
  readonly currentKiB?: number;
  readonly maximumKiB?: number;
  readonly rssKiB?: number;
  readonly unusedKiB?: number;
  readonly availableKiB?: number;
  readonly usableKiB?: number;
  readonly diskCachesKiB?: number;
  readonly swapInKiB?: number;
  readonly swapOutKiB?: number;
  readonly majorFaults?: number;
  readonly minorFaults?: number;
  /** epoch seconds of the guest's last report; 0 when it never reported */
  readonly lastUpdateS?: number;
}

export interface VcpuStats {
  readonly index: number;
  readonly state: 'offline' | 'running' | 'blocked' | 'unknown';
  readonly timeNs?: number;
  readonly waitNs?: number;
  readonly delayNs?: number;
  readonly halted?: boolean;
}

export interface NetStats {
  /** the host's interface, for example `vnet3` */
  readonly name: string;
  readonly rxBytes: number;
  readonly rxPackets: number;
  readonly rxErrors: number;
  readonly rxDropped: number;
  readonly txBytes: number;
  readonly txPackets: number;
  readonly txErrors: number;
  readonly txDropped: number;
}

export interface BlockStats {
  /** the guest's target, for example `vda` */
  readonly name: string;
  readonly path?: string;
  readonly readRequests?: number;
  readonly readBytes?: number;
  readonly readNs?: number;
  readonly writeRequests?: number;
  readonly writeBytes?: number;
  readonly writeNs?: number;
  readonly flushRequests?: number;
  readonly flushNs?: number;
  readonly errors?: number;
  readonly allocationBytes?: number;
  readonly capacityBytes?: number;
  readonly physicalBytes?: number;
}

export interface StatsOptions extends CallOptions {
  /** default: all groups */
  readonly groups?: readonly StatsGroup[];
  /** default: all domains of the daemon, running or not */
  readonly domains?: readonly DomainId[];
  /** only of those that run: of others the group `block` reads the beginning of each disk, which hangs as long as that does */
  readonly running?: boolean;
  /** skip what a busy domain cannot tell at once; default true, so that one stuck QEMU does not stop all figures */
  readonly nowait?: boolean;
  readonly raw?: boolean;
}

export interface MemoryStats {
  readonly swapInKiB?: number;
  readonly swapOutKiB?: number;
  readonly majorFaults?: number;
  readonly minorFaults?: number;
  readonly unusedKiB?: number;
  readonly availableKiB?: number;
  readonly actualKiB?: number;
  readonly rssKiB?: number;
  readonly usableKiB?: number;
  readonly lastUpdateS?: number;
  readonly diskCachesKiB?: number;
}

export interface BlockInfo {
  readonly capacityBytes: number;
  readonly allocationBytes: number;
  readonly physicalBytes: number;
}

export interface CpuTune {
  /** weight among domains, 1 to 10,000 */
  readonly shares?: number;
  /** µs that all its CPUs together may use in 100 ms; null: as much as there is */
  readonly quotaUs?: number | null;
}

/** Where a change of a domain goes. Neither: libvirt decides by whether the domain runs. */
export interface AffectOptions extends CallOptions {
  readonly live?: boolean;
  readonly config?: boolean;
}

export interface CallOptions {
  /** how long to wait for the answer before failing with `deadline`; each method has its own default */
  readonly deadlineMs?: number;
}

/**
 * What goes away together with the definition. With `nvram: 'refuse'` (default) libvirt refuses to undefine a
 * UEFI domain, so that nobody throws variables away without having said so.
 */
export interface UndefineOptions extends CallOptions {
  readonly managedSave?: boolean;
  readonly snapshotsMetadata?: boolean;
  readonly checkpointsMetadata?: boolean;
  readonly nvram?: 'refuse' | 'delete' | 'keep';
  readonly tpm?: 'refuse' | 'delete' | 'keep';
}

export type StopHow = 'acpi' | 'agent' | 'destroy' | 'graceful-destroy';

export type MetadataKind = 'description' | 'title' | { readonly uri: string; readonly prefix: string };

export interface InterfaceAddresses {
  readonly name: string;
  readonly mac: string | undefined;
  readonly addresses: readonly {
    readonly family: 'ipv4' | 'ipv6';
    readonly address: string;
    readonly prefix: number;
  }[];
}

export interface GuestFilesystem {
  readonly mountpoint: string;
  readonly name: string;
  readonly type: string;
  readonly devices: readonly string[];
}

/** An operation that takes long. It has its own connection, so it never holds back the others. */
export interface Job<T> {
  /** settles once; rejects with a LibvirtError, `aborted` after {@link cancel} */
  readonly done: Promise<T>;
  /** ends when the job ends; polls at the pace it is read, at most every `progressMs` */
  progress(): AsyncIterable<JobProgress>;
  /** asks the daemon to stop it; `done` tells what came of it */
  cancel(): Promise<void>;
}

export interface JobProgress {
  readonly phase: 'preparing' | 'copying' | 'in-sync' | 'finishing';
  /** 0 to 1, as far as known; memory that is written again makes it go back */
  readonly fraction: number;
  readonly elapsedMs?: number;
  readonly remainingMs?: number;
  readonly downtimeMs?: number;
  readonly totalBytes?: number;
  readonly processedBytes?: number;
  readonly remainingBytes?: number;
  readonly memoryTotalBytes?: number;
  readonly memoryRemainingBytes?: number;
  readonly memoryDirtyRatePages?: number;
  readonly memoryIteration?: number;
  readonly memoryBps?: number;
  readonly diskTotalBytes?: number;
  readonly diskRemainingBytes?: number;
  readonly diskBps?: number;
}

export interface MigrateTarget {
  /** the other daemon as *this* daemon reaches it, for example `qemu+tls://n2/system` */
  readonly uri: string;
  /** where QEMU sends memory to, for example `tcp://10.0.0.2`; default: what the target proposes */
  readonly migrateUri?: string;
  /** where QEMU sends disks to, for example `tcp://10.0.0.2:0` */
  readonly disksUri?: string;
  /** address the target listens on */
  readonly listenAddress?: string;
  /**
   * Opens a connection to that daemon. With it the phases of the migration are driven from here, and `onArrived` decides
   * which of the two machines goes; without it the two daemons settle everything among themselves.
   */
  readonly peer?: (deadlineMs: number) => Promise<Socket>;
}

/**
 * What becomes of the machine here once the whole copy is there, paused: `go`: it ends. `stay`: it goes on, and the copy
 * is nobody's. `leave`: neither; it stands still until somebody else decides.
 */
export type Arrived = 'go' | 'stay' | 'leave';

export interface MigrateOptions {
  /** `live`: runs on. `paused`: stands still on the way. `post-copy`: switches after the first pass. */
  readonly mode: 'live' | 'paused' | 'post-copy';
  /** encrypt memory and disks between the QEMUs */
  readonly tls?: boolean;
  /** do not resume at the target: the caller resumes after it recorded the new owner */
  readonly leavePaused?: boolean;
  /**
   * Asked while both machines stand still, as soon as the copy is whole; only with `peer` and `leavePaused`. Rejects: as
   * `leave`.
   */
  readonly onArrived?: () => Promise<Arrived>;
  readonly persistDest?: boolean;
  readonly undefineSource?: boolean;
  /** targets (`vda`) whose content is copied too; left out: no storage is copied */
  readonly copyDisks?: readonly string[];
  readonly copyWritesSynchronously?: boolean;
  readonly bandwidthMiBps?: number;
  readonly autoConverge?: boolean;
  readonly parallel?: number;
  readonly maxDowntimeMs?: number;
  readonly abortOnIoError?: boolean;
  /** skip libvirt's check that the disk's cache mode is safe */
  readonly unsafe?: boolean;
  /** the running domain as the target shall start it */
  readonly destXml?: string;
  /** the definition the target shall keep */
  readonly persistXml?: string;
  readonly destName?: string;
  /** after this the job is cancelled and `done` rejects with `deadline`; default 1 h */
  readonly deadlineMs?: number;
  readonly progressMs?: number;
}

export interface MigrateResult {
  readonly totalMs?: number;
  readonly downtimeMs?: number;
  readonly memoryBytes?: number;
  readonly diskBytes?: number;
}

export interface BlockCopyOptions {
  /**
   * What to do once source and copy are equal. `pivot`: go on with the copy. `cancel`: keep the source, the copy
   * is a point-in-time copy. `leave`: `done` resolves, mirroring goes on until {@link Hypervisor.blockJobAbort}.
   */
  readonly finish: 'pivot' | 'cancel' | 'leave';
  readonly bandwidthBytes?: number;
  readonly granularityBytes?: number;
  readonly bufferBytes?: number;
  readonly shallow?: boolean;
  /** the target exists with the right format and size; do not create it */
  readonly reuseExternal?: boolean;
  /** allow it for a persistent domain although the job does not survive QEMU */
  readonly transientJob?: boolean;
  /** each write waits for both sides: the copy cannot fall behind a busy guest */
  readonly synchronousWrites?: boolean;
  readonly deadlineMs?: number;
  readonly progressMs?: number;
}

export interface BlockCommitOptions {
  /** image the data goes into; default: the deepest */
  readonly base?: string;
  /** image whose data moves; default: the active one */
  readonly top?: string;
  readonly bandwidthBytes?: number;
  readonly shallow?: boolean;
  readonly delete?: boolean;
  readonly deadlineMs?: number;
  readonly progressMs?: number;
}

export interface BlockJobInfo {
  readonly type: 'pull' | 'copy' | 'commit' | 'active-commit' | 'backup' | 'unknown';
  readonly bandwidthBytes: number;
  readonly current: number;
  readonly end: number;
}

export interface SnapshotOptions extends CallOptions {
  readonly diskOnly?: boolean;
  readonly noMetadata?: boolean;
  readonly atomic?: boolean;
  readonly quiesce?: boolean;
  readonly reuseExternal?: boolean;
}

export interface SnapshotRef {
  readonly name: string;
  readonly domain: DomainId;
}

/** What every domain event says. */
interface OfDomain {
  readonly uuid: DomainId;
  readonly name: string;
}

/**
 * What the daemon reports. Events are hints: they are never replayed, so after `resync` (the first item, after
 * every reconnect, after a reader fell behind, after a message nobody can read) read everything again.
 */
export type HostEvent =
  | { readonly type: 'resync'; readonly why: 'connected' | 'reconnected' | 'overflow' | 'unreadable' }
  | { readonly type: 'disconnected'; readonly error: Error }
  | (OfDomain & LifecycleChange & { readonly type: 'lifecycle' })
  | (OfDomain & { readonly type: 'reboot' })
  | (OfDomain & {
      readonly type: 'agent-lifecycle';
      readonly state: 'connected' | 'disconnected';
      readonly reason: 'unknown' | 'domain-started' | 'channel';
    })
  | (OfDomain & {
      readonly type: 'block-job';
      readonly disk: string;
      readonly job: BlockJobInfo['type'];
      readonly status: BlockJobStatus;
    })
  | (OfDomain & {
      readonly type: 'job-completed';
      readonly operation: JobOperation;
      readonly result: MigrateResult;
    })
  | (OfDomain & { readonly type: 'migration-iteration'; readonly iteration: number })
  | (OfDomain & { readonly type: 'device-added'; readonly alias: string })
  | (OfDomain & { readonly type: 'device-removed'; readonly alias: string })
  | (OfDomain & { readonly type: 'device-removal-failed'; readonly alias: string })
  | (OfDomain & { readonly type: 'watchdog'; readonly action: WatchdogAction })
  | (OfDomain & {
      readonly type: 'io-error';
      readonly path: string;
      readonly alias: string;
      readonly action: IoErrorAction;
      readonly reason: string;
    })
  | (OfDomain & { readonly type: 'balloon-change'; readonly actualKiB: number })
  | (OfDomain & {
      readonly type: 'metadata-change';
      readonly kind: 'description' | 'title' | 'element' | 'unknown';
      readonly uri: string | undefined;
    })
  | (OfDomain & {
      readonly type: 'tray-change';
      readonly alias: string;
      readonly tray: 'open' | 'closed' | 'unknown';
    });

export type LifecycleChange =
  | {
      readonly event: 'defined';
      readonly detail: 'added' | 'updated' | 'renamed' | 'from-snapshot' | 'unknown';
    }
  | { readonly event: 'undefined'; readonly detail: 'removed' | 'renamed' | 'unknown' }
  | {
      readonly event: 'started';
      readonly detail: 'booted' | 'migrated' | 'restored' | 'from-snapshot' | 'wakeup' | 'unknown';
    }
  | {
      readonly event: 'suspended';
      readonly detail:
        | 'paused'
        | 'migrated'
        | 'io-error'
        | 'watchdog'
        | 'restored'
        | 'from-snapshot'
        | 'api-error'
        | 'post-copy'
        | 'post-copy-failed'
        | 'unknown';
    }
  | {
      readonly event: 'resumed';
      readonly detail:
        'unpaused' | 'migrated' | 'from-snapshot' | 'post-copy' | 'post-copy-failed' | 'unknown';
    }
  | {
      readonly event: 'stopped';
      readonly detail:
        'shutdown' | 'destroyed' | 'crashed' | 'migrated' | 'saved' | 'failed' | 'from-snapshot' | 'unknown';
    }
  | { readonly event: 'shutdown'; readonly detail: 'finished' | 'guest' | 'host' | 'unknown' }
  | { readonly event: 'pm-suspended'; readonly detail: 'memory' | 'disk' | 'unknown' }
  | { readonly event: 'crashed'; readonly detail: 'panicked' | 'crash-loaded' | 'unknown' }
  | { readonly event: 'unknown'; readonly detail: 'unknown' };

export type BlockJobStatus = 'completed' | 'failed' | 'cancelled' | 'ready' | 'unknown';
export type JobOperation =
  | 'start'
  | 'save'
  | 'restore'
  | 'migration-in'
  | 'migration-out'
  | 'snapshot'
  | 'snapshot-revert'
  | 'dump'
  | 'backup'
  | 'snapshot-delete'
  | 'unknown';
export type WatchdogAction =
  'none' | 'pause' | 'reset' | 'poweroff' | 'shutdown' | 'debug' | 'inject-nmi' | 'unknown';
export type IoErrorAction = 'none' | 'pause' | 'report' | 'unknown';

/**
 * One libvirt daemon, as a VM manager needs it. Tests put a fake here; production uses LibvirtHypervisor.
 * Every method rejects with {@link LibvirtError} and nothing else.
 */
export interface Hypervisor extends AsyncDisposable {
  /** begins connecting and keeps on; calls made while there is no connection reject with `disconnected` */
  open(): void;
  readonly connected: boolean;
  /** resolves at the first connection; @throws LibvirtError `deadline`, with the last failure as cause */
  waitConnected(deadlineMs?: number): Promise<void>;
  close(): Promise<void>;

  facts(o?: CallOptions): Promise<HostFacts>;
  domainCapabilities(q?: DomainCapabilitiesQuery & CallOptions): Promise<DomainCapabilities>;
  /** the richest CPU that all given `<cpu>` or domain capabilities documents can run */
  baselineCpu(xmls: readonly string[], q?: DomainCapabilitiesQuery & CallOptions): Promise<string>;

  /** all domains, running or not; answered without asking any QEMU, so it is the liveness probe too */
  list(o?: CallOptions): Promise<DomainRef[]>;
  state(d: DomainId, o?: CallOptions): Promise<DomainState>;
  stats(o?: StatsOptions): Promise<DomainStats[]>;
  memoryStats(d: DomainId, o?: CallOptions): Promise<MemoryStats>;
  setMemoryStatsPeriod(d: DomainId, seconds: number, o?: AffectOptions): Promise<void>;
  xml(
    d: DomainId,
    o?: CallOptions & {
      readonly inactive?: boolean;
      readonly secure?: boolean;
      readonly migratable?: boolean;
    },
  ): Promise<string>;

  define(xml: string, o?: CallOptions & { readonly validate?: boolean }): Promise<DomainRef>;
  undefine(d: DomainId, o?: UndefineOptions): Promise<void>;
  rename(d: DomainId, name: string, o?: CallOptions): Promise<void>;
  start(d: DomainId, o?: CallOptions & { readonly paused?: boolean }): Promise<void>;
  /** starts without defining: gone when it stops */
  create(
    xml: string,
    o?: CallOptions & { readonly paused?: boolean; readonly validate?: boolean },
  ): Promise<DomainRef>;
  /** `acpi` and `agent` only ask: watch events or state for the end */
  stop(d: DomainId, how: StopHow, o?: CallOptions): Promise<void>;
  reboot(d: DomainId, how: 'acpi' | 'agent', o?: CallOptions): Promise<void>;
  reset(d: DomainId, o?: CallOptions): Promise<void>;
  suspend(d: DomainId, o?: CallOptions): Promise<void>;
  resume(d: DomainId, o?: CallOptions): Promise<void>;

  attachDevice(d: DomainId, xml: string, o?: AffectOptions): Promise<void>;
  /** returns when QEMU was asked; the guest may take its time: wait for `device-removed` */
  detachDevice(d: DomainId, xml: string, o?: AffectOptions): Promise<void>;
  updateDevice(d: DomainId, xml: string, o?: AffectOptions & { readonly force?: boolean }): Promise<void>;
  setVcpus(d: DomainId, count: number, o?: AffectOptions & { readonly maximum?: boolean }): Promise<void>;
  setMemory(d: DomainId, kib: number, o?: AffectOptions & { readonly maximum?: boolean }): Promise<void>;
  /** what the host's scheduler gives it; what is not named stays */
  setCpuTune(d: DomainId, tune: CpuTune, o?: AffectOptions): Promise<void>;
  /** `bytes` null: as large as the device is that it lies on, also where the machine saw only a part of it */
  blockResize(d: DomainId, disk: string, bytes: number | null, o?: CallOptions): Promise<void>;
  blockInfo(d: DomainId, disk: string, o?: CallOptions): Promise<BlockInfo>;
  setMetadata(d: DomainId, kind: MetadataKind, value: string | null, o?: AffectOptions): Promise<void>;
  /** @throws LibvirtError `no-metadata` when there is none */
  metadata(
    d: DomainId,
    kind: 'description' | 'title' | { readonly uri: string },
    o?: AffectOptions,
  ): Promise<string>;

  /** one command of qemu-guest-agent, for example `guest-info`; resolves to its `return` value */
  agent(
    d: DomainId,
    command: string,
    args?: Readonly<Record<string, unknown>>,
    o?: CallOptions,
  ): Promise<unknown>;
  addresses(d: DomainId, from?: 'agent' | 'lease' | 'arp', o?: CallOptions): Promise<InterfaceAddresses[]>;
  filesystems(d: DomainId, o?: CallOptions): Promise<GuestFilesystem[]>;
  /** number of filesystems frozen */
  fsFreeze(d: DomainId, mountpoints?: readonly string[], o?: CallOptions): Promise<number>;
  fsThaw(d: DomainId, mountpoints?: readonly string[], o?: CallOptions): Promise<number>;
  /** one command of QEMU's own monitor (QMP), as JSON; for what libvirt does not offer */
  monitor(
    d: DomainId,
    command: string,
    args?: Readonly<Record<string, unknown>>,
    o?: CallOptions,
  ): Promise<unknown>;

  /** the serial console (must be a pty); ending the stream closes it. `force` throws out another reader. */
  console(
    d: DomainId,
    o?: CallOptions & { readonly device?: string; readonly force?: boolean },
  ): Promise<Duplex>;
  /** an image of the screen, with its media type */
  screenshot(
    d: DomainId,
    o?: CallOptions & { readonly screen?: number },
  ): Promise<{ mime: string; image: Buffer }>;

  migrate(d: DomainId, to: MigrateTarget, o: MigrateOptions): Job<MigrateResult>;
  /** progress of whatever job runs on the domain, also one that another process started; `null` when none does */
  jobProgress(d: DomainId, o?: CallOptions): Promise<JobProgress | null>;
  /** cancels whatever job runs on the domain, for example a migration begun before this process started */
  abortJob(d: DomainId, o?: CallOptions): Promise<void>;
  blockCopy(d: DomainId, disk: string, destXml: string, o: BlockCopyOptions): Job<void>;
  blockCommit(d: DomainId, disk: string, o?: BlockCommitOptions): Job<void>;
  blockJobInfo(d: DomainId, disk: string, o?: CallOptions): Promise<BlockJobInfo | null>;
  blockJobAbort(
    d: DomainId,
    disk: string,
    o?: CallOptions & { readonly pivot?: boolean; readonly async?: boolean },
  ): Promise<void>;
  blockJobSetSpeed(d: DomainId, disk: string, bytesPerSecond: number, o?: CallOptions): Promise<void>;

  snapshot(d: DomainId, xml: string, o?: SnapshotOptions): Promise<SnapshotRef>;
  snapshots(d: DomainId, o?: CallOptions): Promise<SnapshotRef[]>;
  snapshotXml(s: SnapshotRef, o?: CallOptions): Promise<string>;
  deleteSnapshot(
    s: SnapshotRef,
    o?: CallOptions & { readonly metadataOnly?: boolean; readonly children?: boolean },
  ): Promise<void>;

  /** ends when the signal aborts or the hypervisor is closed; several readers each get every event */
  events(signal?: AbortSignal): AsyncIterable<HostEvent>;
}
