import type { Duplex } from 'node:stream';
import { BlockJob, blockJobInfo } from './block-jobs.js';
import type { Counters } from './counters.js';
import { DaemonLink } from './daemon-link.js';
import { LibvirtError } from './error.js';
import { EventHub } from './event-hub.js';
import { hostEvent } from './host-events.js';
import type {
  AffectOptions,
  CpuTune,
  BlockCommitOptions,
  BlockCopyOptions,
  BlockInfo,
  BlockJobInfo,
  CallOptions,
  DomainCapabilities,
  DomainCapabilitiesQuery,
  DomainId,
  DomainRef,
  DomainState,
  DomainStats,
  GuestFilesystem,
  HostEvent,
  HostFacts,
  Hypervisor,
  InterfaceAddresses,
  Job,
  JobProgress,
  MemoryStats,
  MetadataKind,
  MigrateOptions,
  MigrateResult,
  MigrateTarget,
  SnapshotOptions,
  SnapshotRef,
  StatsGroup,
  StatsOptions,
  StopHow,
  UndefineOptions,
} from './hypervisor.js';
import { RunningJob } from './job.js';
import { jobProgress, known } from './job-stats.js';
import { Migration } from './migration.js';
import type { ArgsOf, ProcedureName, ReplyOf, TypedParam, WireDomain } from './protocol.js';
import { domainStats, STATS_BIT } from './stats.js';
import { domainState } from './words.js';
import { elementAttribute, elementText } from './xml-facts.js';

/**
 * Default deadlines by what the daemon has to do. `state`: it answers from memory. `stats`: the first call to
 * meet a QEMU that hangs hangs with it, the next leave that domain out, so giving up early is cheap. `short`: it
 * may ask QEMU, whose monitor answers in milliseconds unless it hangs. `start`: it forks QEMU, sets up cgroups
 * and storage; on a loaded machine that took up to 10 s. `stop`: it waits for QEMU to die, first politely.
 * `guest`: something inside the VM must answer.
 */
export const DEADLINE_MS = {
  state: 5_000,
  stats: 10_000,
  short: 30_000,
  start: 120_000,
  stop: 60_000,
  guest: 10_000,
} as const;

/** The daemon itself takes up to 5 s to find out that no guest agent is there. */
const AGENT_SYNC_MS = 6_000;

const LIST_ACTIVE_AND_INACTIVE = 3;
const STATS_NOWAIT = 1 << 29;
const STATS_ACTIVE = 1 << 0;
const MEMORY_STATS_MAX = 13;

export interface LibvirtHypervisorOptions {
  /** for example `/run/libvirt/libvirt-sock` */
  readonly socketPath: string;
  /** default `qemu:///system` */
  readonly uri?: string;
}

/**
 * A libvirt daemon over its own socket: no native code, no thread pool, no `virsh`.
 *
 * ```ts
 * await using hypervisor = new LibvirtHypervisor({ socketPath: '/run/libvirt/libvirt-sock' });
 * hypervisor.open();
 * await hypervisor.waitConnected();
 * for (const { uuid, name } of await hypervisor.list()) console.log(name, await hypervisor.state(uuid));
 * ```
 */
export class LibvirtHypervisor implements Hypervisor {
  readonly #link: DaemonLink;
  readonly #hub = new EventHub();
  /** names as last seen; the daemon wants one beside the uuid, for its messages only */
  readonly #names = new Map<DomainId, string>();

  constructor(options: LibvirtHypervisorOptions) {
    this.#link = new DaemonLink({
      ...options,
      onEvent: (event) => {
        this.#names.set(event.body.domain.uuid, event.body.domain.name);
        this.#hub.emit(hostEvent(event));
      },
      onUnreadableEvent: () => this.#hub.emit({ type: 'resync', why: 'unreadable' }),
      onUp: (again) => this.#hub.emit({ type: 'resync', why: again ? 'reconnected' : 'connected' }),
      onDown: (error) => this.#hub.emit({ type: 'disconnected', error }),
    });
  }

  /** what went over the wire, for metrics */
  get counters(): Counters {
    return this.#link.counters;
  }

  get connected(): boolean {
    return this.#link.connected;
  }

  open(): void {
    this.#link.open();
  }

  waitConnected(deadlineMs = 30_000): Promise<void> {
    return this.#link.waitConnected(deadlineMs);
  }

  async close(): Promise<void> {
    await this.#link.close();
    this.#hub.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  events(signal?: AbortSignal): AsyncIterable<HostEvent> {
    return this.#hub.read(signal, this.connected ? [{ type: 'resync', why: 'connected' }] : []);
  }

  #wire(uuid: DomainId): WireDomain {
    const key = uuid.toLowerCase();
    return { name: this.#names.get(key) ?? '', uuid: key, id: -1 };
  }

  #ref({ uuid, name, id }: WireDomain): DomainRef {
    this.#names.set(uuid, name);
    return { uuid, name, id: id < 0 ? null : id, active: id >= 0 };
  }

  /** a call that asks about or changes one domain: one at a time per domain */
  #on<P extends ProcedureName>(
    d: DomainId,
    name: P,
    args: ArgsOf<P>,
    o: CallOptions | undefined,
    defaultMs: number = DEADLINE_MS.short,
  ): Promise<ReplyOf<P>> {
    return this.#link.shortCall(name, args, { deadlineMs: o?.deadlineMs ?? defaultMs, key: d.toLowerCase() });
  }

  /** a call about the machine */
  #host<P extends ProcedureName>(name: P, args: ArgsOf<P>, o: CallOptions | undefined): Promise<ReplyOf<P>> {
    return this.#link.shortCall(name, args, { deadlineMs: o?.deadlineMs ?? DEADLINE_MS.short });
  }

  // ---- the machine ----

  async facts(o?: CallOptions): Promise<HostFacts> {
    const [{ hostname }, { xml }, lib, hv, node] = await Promise.all([
      this.#host('connectGetHostname', undefined, o),
      this.#host('connectGetCapabilities', undefined, o),
      this.#host('connectGetLibVersion', undefined, o),
      this.#host('connectGetVersion', undefined, o),
      this.#host('nodeGetInfo', undefined, o),
    ]);
    return {
      hostname,
      hostUuid: elementText(xml, 'uuid'),
      arch: elementText(xml, 'arch'),
      libvirtVersion: version(lib.version),
      qemuVersion: version(hv.version),
      memoryKiB: Number(node.memoryKiB),
      cpus: node.cpus,
      mhz: node.mhz,
      numaNodes: node.nodes,
      socketsPerNode: node.sockets,
      coresPerSocket: node.cores,
      threadsPerCore: node.threads,
      capabilitiesXml: xml,
    };
  }

  async domainCapabilities(q: DomainCapabilitiesQuery & CallOptions = {}): Promise<DomainCapabilities> {
    const { xml } = await this.#host('connectGetDomainCapabilities', { ...emulatorQuery(q), flags: 0 }, q);
    return {
      emulator: elementText(xml, 'path'),
      machine: elementText(xml, 'machine'),
      arch: elementText(xml, 'arch'),
      virtType: elementText(xml, 'domain'),
      maxVcpus: Number(elementAttribute(xml, 'vcpu', 'max')),
      xml,
    };
  }

  async baselineCpu(cpus: readonly string[], q: DomainCapabilitiesQuery & CallOptions = {}): Promise<string> {
    const args = { ...emulatorQuery(q), cpus: cpus.map(cpuElement), flags: 0 };
    return (await this.#host('connectBaselineHypervisorCpu', args, q)).cpu;
  }

  // ---- looking ----

  async list(o?: CallOptions): Promise<DomainRef[]> {
    const { domains } = await this.#link.stateCall(
      'connectListAllDomains',
      { needResults: 1, flags: LIST_ACTIVE_AND_INACTIVE },
      { deadlineMs: o?.deadlineMs ?? DEADLINE_MS.state },
    );
    this.#names.clear();
    return domains.map((domain) => this.#ref(domain));
  }

  /** @throws LibvirtError `no-such-domain` */
  async byName(name: string, o?: CallOptions): Promise<DomainRef> {
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.state;
    return this.#ref((await this.#link.stateCall('domainLookupByName', { name }, { deadlineMs })).domain);
  }

  /** @throws LibvirtError `no-such-domain` */
  async byUuid(uuid: DomainId, o?: CallOptions): Promise<DomainRef> {
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.state;
    return this.#ref((await this.#link.stateCall('domainLookupByUuid', { uuid }, { deadlineMs })).domain);
  }

  async state(d: DomainId, o?: CallOptions): Promise<DomainState> {
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.state;
    const args = { domain: this.#wire(d), flags: 0 };
    const { state, reason } = await this.#link.stateCall('domainGetState', args, { deadlineMs });
    return domainState(state, reason);
  }

  async stats(o: StatsOptions = {}): Promise<DomainStats[]> {
    const groups = o.groups ?? (Object.keys(STATS_BIT) as StatsGroup[]);
    const { records } = await this.#link.shortCall(
      'connectGetAllDomainStats',
      {
        domains: (o.domains ?? []).map((d) => this.#wire(d)),
        stats: groups.reduce((bits, group) => bits | STATS_BIT[group], 0),
        flags: (o.nowait === false ? 0 : STATS_NOWAIT) | (o.running === true ? STATS_ACTIVE : 0),
      },
      { deadlineMs: o.deadlineMs ?? DEADLINE_MS.stats },
    );
    return records.map(({ domain, params }) => domainStats(domain, params, o.raw === true));
  }

  async memoryStats(d: DomainId, o?: CallOptions): Promise<MemoryStats> {
    const args = { domain: this.#wire(d), max: MEMORY_STATS_MAX, flags: 0 };
    const { stats } = await this.#on(d, 'domainMemoryStats', args, o);
    const by = new Map(stats.map(({ tag, value }) => [tag, Number(value)]));
    return known({
      swapInKiB: by.get(0),
      swapOutKiB: by.get(1),
      majorFaults: by.get(2),
      minorFaults: by.get(3),
      unusedKiB: by.get(4),
      availableKiB: by.get(5),
      actualKiB: by.get(6),
      rssKiB: by.get(7),
      usableKiB: by.get(8),
      lastUpdateS: by.get(9),
      diskCachesKiB: by.get(10),
    });
  }

  async setMemoryStatsPeriod(d: DomainId, seconds: number, o?: AffectOptions): Promise<void> {
    await this.#on(d, 'domainSetMemoryStatsPeriod', { domain: this.#wire(d), seconds, flags: affect(o) }, o);
  }

  async xml(
    d: DomainId,
    o: CallOptions & {
      readonly inactive?: boolean;
      readonly secure?: boolean;
      readonly migratable?: boolean;
    } = {},
  ): Promise<string> {
    const flags = bits([o.secure, 1], [o.inactive, 2], [o.migratable, 8]);
    return (await this.#on(d, 'domainGetXmlDesc', { domain: this.#wire(d), flags }, o)).xml;
  }

  // ---- life cycle ----

  async define(xml: string, o?: CallOptions & { readonly validate?: boolean }): Promise<DomainRef> {
    const args = { xml, flags: bits([o?.validate, 1]) };
    return this.#ref((await this.#host('domainDefineXmlFlags', args, o)).domain);
  }

  async undefine(d: DomainId, o: UndefineOptions = {}): Promise<void> {
    const flags = bits(
      [o.managedSave, 1],
      [o.snapshotsMetadata, 2],
      [o.nvram === 'delete', 4],
      [o.nvram === 'keep', 8],
      [o.checkpointsMetadata, 16],
      [o.tpm === 'delete', 32],
      [o.tpm === 'keep', 64],
    );
    await this.#on(d, 'domainUndefineFlags', { domain: this.#wire(d), flags }, o);
  }

  async rename(d: DomainId, name: string, o?: CallOptions): Promise<void> {
    await this.#on(d, 'domainRename', { domain: this.#wire(d), name, flags: 0 }, o);
    this.#names.set(d.toLowerCase(), name);
  }

  async start(d: DomainId, o?: CallOptions & { readonly paused?: boolean }): Promise<void> {
    const args = { domain: this.#wire(d), flags: bits([o?.paused, 1]) };
    await this.#on(d, 'domainCreateWithFlags', args, o, DEADLINE_MS.start);
  }

  async create(
    xml: string,
    o?: CallOptions & { readonly paused?: boolean; readonly validate?: boolean },
  ): Promise<DomainRef> {
    const args = { xml, flags: bits([o?.paused, 1], [o?.validate, 16]) };
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.start;
    return this.#ref((await this.#link.shortCall('domainCreateXml', args, { deadlineMs })).domain);
  }

  async stop(d: DomainId, how: StopHow, o?: CallOptions): Promise<void> {
    const domain = this.#wire(d);
    switch (how) {
      case 'acpi':
        await this.#on(d, 'domainShutdownFlags', { domain, flags: 1 }, o);
        return;
      case 'agent':
        await this.#guest(d, 'domainShutdownFlags', { domain, flags: 2 }, o);
        return;
      case 'destroy':
      case 'graceful-destroy': {
        // without the domain's key: killing must work while another call on it hangs
        const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.stop;
        const args = { domain, flags: how === 'destroy' ? 0 : 1 };
        await this.#link.shortCall('domainDestroyFlags', args, { deadlineMs });
        return;
      }
    }
  }

  async reboot(d: DomainId, how: 'acpi' | 'agent', o?: CallOptions): Promise<void> {
    const domain = this.#wire(d);
    if (how === 'acpi') await this.#on(d, 'domainReboot', { domain, flags: 1 }, o);
    else await this.#guest(d, 'domainReboot', { domain, flags: 2 }, o);
  }

  async reset(d: DomainId, o?: CallOptions): Promise<void> {
    await this.#on(d, 'domainReset', { domain: this.#wire(d), flags: 0 }, o);
  }

  async suspend(d: DomainId, o?: CallOptions): Promise<void> {
    await this.#on(d, 'domainSuspend', { domain: this.#wire(d) }, o);
  }

  async resume(d: DomainId, o?: CallOptions): Promise<void> {
    await this.#on(d, 'domainResume', { domain: this.#wire(d) }, o);
  }

  // ---- changing ----

  async attachDevice(d: DomainId, xml: string, o?: AffectOptions): Promise<void> {
    await this.#on(d, 'domainAttachDeviceFlags', { domain: this.#wire(d), xml, flags: affect(o) }, o);
  }

  async detachDevice(d: DomainId, xml: string, o?: AffectOptions): Promise<void> {
    await this.#on(d, 'domainDetachDeviceFlags', { domain: this.#wire(d), xml, flags: affect(o) }, o);
  }

  async updateDevice(
    d: DomainId,
    xml: string,
    o?: AffectOptions & { readonly force?: boolean },
  ): Promise<void> {
    const flags = affect(o) | bits([o?.force, 4]);
    await this.#on(d, 'domainUpdateDeviceFlags', { domain: this.#wire(d), xml, flags }, o);
  }

  async setVcpus(
    d: DomainId,
    count: number,
    o?: AffectOptions & { readonly maximum?: boolean },
  ): Promise<void> {
    const flags = affect(o) | bits([o?.maximum, 4]);
    await this.#on(d, 'domainSetVcpusFlags', { domain: this.#wire(d), count, flags }, o);
  }

  async setMemory(
    d: DomainId,
    kib: number,
    o?: AffectOptions & { readonly maximum?: boolean },
  ): Promise<void> {
    const flags = affect(o) | bits([o?.maximum, 4]);
    await this.#on(d, 'domainSetMemoryFlags', { domain: this.#wire(d), kib: whole(kib, 'memory'), flags }, o);
  }

  async setCpuTune(d: DomainId, tune: CpuTune, o?: AffectOptions): Promise<void> {
    const params: TypedParam[] = [];
    if (tune.shares !== undefined)
      params.push({ field: 'cpu_shares', type: 'ullong', value: whole(tune.shares, 'shares') });
    if (tune.quotaUs !== undefined)
      params.push(
        { field: 'global_period', type: 'ullong', value: 100_000n },
        { field: 'global_quota', type: 'llong', value: BigInt(tune.quotaUs ?? -1) },
      );
    const args = { domain: this.#wire(d), params, flags: affect(o) };
    await this.#on(d, 'domainSetSchedulerParametersFlags', args, o);
  }

  async blockResize(d: DomainId, disk: string, bytes: number | null, o?: CallOptions): Promise<void> {
    // VIR_DOMAIN_BLOCK_RESIZE_BYTES, and with it _CAPACITY
    const args = {
      domain: this.#wire(d),
      disk,
      size: whole(bytes ?? 0, 'size'),
      flags: bytes === null ? 3 : 1,
    };
    await this.#on(d, 'domainBlockResize', args, o);
  }

  async blockInfo(d: DomainId, disk: string, o?: CallOptions): Promise<BlockInfo> {
    const info = await this.#on(d, 'domainGetBlockInfo', { domain: this.#wire(d), disk, flags: 0 }, o);
    return {
      capacityBytes: Number(info.capacity),
      allocationBytes: Number(info.allocation),
      physicalBytes: Number(info.physical),
    };
  }

  async setMetadata(d: DomainId, kind: MetadataKind, value: string | null, o?: AffectOptions): Promise<void> {
    const element = typeof kind === 'object';
    const args = {
      domain: this.#wire(d),
      type: metadataType(kind),
      metadata: value,
      key: element ? kind.prefix : null,
      uri: element ? kind.uri : null,
      flags: affect(o),
    };
    await this.#on(d, 'domainSetMetadata', args, o);
  }

  async metadata(
    d: DomainId,
    kind: 'description' | 'title' | { readonly uri: string },
    o?: AffectOptions,
  ): Promise<string> {
    const uri = typeof kind === 'object' ? kind.uri : null;
    const args = { domain: this.#wire(d), type: metadataType(kind), uri, flags: affect(o) };
    return (await this.#on(d, 'domainGetMetadata', args, o)).metadata;
  }

  // ---- inside the guest ----

  /** a call that waits for something inside the VM */
  #guest<P extends ProcedureName>(
    d: DomainId,
    name: P,
    args: ArgsOf<P>,
    o: CallOptions | undefined,
  ): Promise<ReplyOf<P>> {
    const deadlineMs = (o?.deadlineMs ?? DEADLINE_MS.guest) + AGENT_SYNC_MS;
    return this.#link.agentCall(name, args, { deadlineMs, key: d.toLowerCase() });
  }

  async agent(
    d: DomainId,
    command: string,
    args?: Readonly<Record<string, unknown>>,
    o?: CallOptions,
  ): Promise<unknown> {
    const timeoutS = Math.max(1, Math.ceil((o?.deadlineMs ?? DEADLINE_MS.guest) / 1000));
    const text = commandText(command, args);
    const call = { domain: this.#wire(d), command: text, timeoutS, flags: 0 };
    const { result } = await this.#guest(d, 'qemuAgentCommand', call, o);
    return returned(result ?? '{}', command, d);
  }

  async monitor(
    d: DomainId,
    command: string,
    args?: Readonly<Record<string, unknown>>,
    o?: CallOptions,
  ): Promise<unknown> {
    const text = commandText(command, args);
    const { result } = await this.#on(
      d,
      'qemuMonitorCommand',
      { domain: this.#wire(d), command: text, flags: 0 },
      o,
    );
    return returned(result, command, d);
  }

  async addresses(
    d: DomainId,
    from: 'agent' | 'lease' | 'arp' = 'agent',
    o?: CallOptions,
  ): Promise<InterfaceAddresses[]> {
    const source = { lease: 0, agent: 1, arp: 2 }[from];
    const args = { domain: this.#wire(d), source, flags: 0 };
    const { interfaces } = await this.#guest(d, 'domainInterfaceAddresses', args, o);
    return interfaces.map(({ name, mac, addresses }) => ({
      name,
      mac: mac ?? undefined,
      addresses: addresses.map(({ type, address, prefix }) => ({
        family: type === 1 ? ('ipv6' as const) : ('ipv4' as const),
        address,
        prefix,
      })),
    }));
  }

  async filesystems(d: DomainId, o?: CallOptions): Promise<GuestFilesystem[]> {
    const args = { domain: this.#wire(d), flags: 0 };
    return [...(await this.#guest(d, 'domainGetFsInfo', args, o)).filesystems];
  }

  async fsFreeze(d: DomainId, mountpoints: readonly string[] = [], o?: CallOptions): Promise<number> {
    const args = { domain: this.#wire(d), mountpoints, flags: 0 };
    return (await this.#guest(d, 'domainFsFreeze', args, o)).filesystems;
  }

  async fsThaw(d: DomainId, mountpoints: readonly string[] = [], o?: CallOptions): Promise<number> {
    const args = { domain: this.#wire(d), mountpoints, flags: 0 };
    return (await this.#guest(d, 'domainFsThaw', args, o)).filesystems;
  }

  async console(
    d: DomainId,
    o: CallOptions & { readonly device?: string; readonly force?: boolean } = {},
  ): Promise<Duplex> {
    const args = { domain: this.#wire(d), device: o.device ?? null, flags: bits([o.force, 1]) };
    return (await this.#stream('domainOpenConsole', args, o)).stream;
  }

  async screenshot(
    d: DomainId,
    o: CallOptions & { readonly screen?: number } = {},
  ): Promise<{ mime: string; image: Buffer }> {
    const args = { domain: this.#wire(d), screen: o.screen ?? 0, flags: 0 };
    const { reply, stream } = await this.#stream('domainScreenshot', args, o);
    const deadline = AbortSignal.timeout(o.deadlineMs ?? DEADLINE_MS.short);
    deadline.addEventListener('abort', () => stream.destroy(), { once: true });
    const parts: Buffer[] = [];
    for await (const part of stream) parts.push(part as Buffer);
    return { mime: reply.mime ?? 'application/octet-stream', image: Buffer.concat(parts) };
  }

  /** a stream on a connection of its own, which goes away with the stream */
  async #stream<P extends 'domainOpenConsole' | 'domainScreenshot'>(
    name: P,
    args: ArgsOf<P>,
    o: CallOptions,
  ): Promise<{ reply: ReplyOf<P>; stream: Duplex }> {
    const connection = await this.#link.openJob(name);
    try {
      const opened = await connection.callStream(name, args, {
        deadlineMs: o.deadlineMs ?? DEADLINE_MS.short,
      });
      opened.stream.once('close', () => void connection.end());
      return opened;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  // ---- long jobs ----

  migrate(d: DomainId, to: MigrateTarget, o: MigrateOptions): Job<MigrateResult> {
    return new RunningJob(new Migration(this.#link, this.#hub, this.#wire(d), to, o), o.progressMs);
  }

  async jobProgress(d: DomainId, o?: CallOptions): Promise<JobProgress | null> {
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.short;
    const args = { domain: this.#wire(d), flags: 0 };
    const { type, params } = await this.#link.shortCall('domainGetJobStats', args, { deadlineMs });
    return type === 0 ? null : jobProgress(params);
  }

  async abortJob(d: DomainId, o?: CallOptions): Promise<void> {
    const deadlineMs = o?.deadlineMs ?? DEADLINE_MS.short;
    await this.#link.shortCall('domainAbortJob', { domain: this.#wire(d) }, { deadlineMs });
  }

  blockCopy(d: DomainId, disk: string, destXml: string, o: BlockCopyOptions): Job<void> {
    const domain = this.#wire(d);
    const params: TypedParam[] = [];
    if (o.bandwidthBytes !== undefined) {
      params.push({ field: 'bandwidth', type: 'ullong', value: whole(o.bandwidthBytes, 'bandwidth') });
    }
    if (o.granularityBytes !== undefined) {
      params.push({ field: 'granularity', type: 'uint', value: o.granularityBytes });
    }
    if (o.bufferBytes !== undefined) {
      params.push({ field: 'buf-size', type: 'ullong', value: whole(o.bufferBytes, 'buffer') });
    }
    const flags = bits([o.shallow, 1], [o.reuseExternal, 2], [o.transientJob, 4], [o.synchronousWrites, 8]);
    const args = { domain, disk, xml: destXml, params, flags };
    const work = {
      procedure: 'domainBlockCopy',
      disk,
      finish: o.finish,
      deadlineMs: o.deadlineMs,
      begin: (connection) => connection.call('domainBlockCopy', args, { deadlineMs: DEADLINE_MS.start }),
    } satisfies ConstructorParameters<typeof BlockJob>[3];
    return new RunningJob(new BlockJob(this.#link, this.#hub, domain, work), o.progressMs);
  }

  blockCommit(d: DomainId, disk: string, o: BlockCommitOptions = {}): Job<void> {
    const domain = this.#wire(d);
    const args = {
      domain,
      disk,
      base: o.base ?? null,
      top: o.top ?? null,
      bandwidth: whole(o.bandwidthBytes ?? 0, 'bandwidth'),
      // shallow, delete, active when no top is named, bandwidth in bytes
      flags: bits([o.shallow, 1], [o.delete, 2], [o.top === undefined, 4], [true, 16]),
    };
    const work = {
      procedure: 'domainBlockCommit',
      disk,
      finish: 'by-itself',
      deadlineMs: o.deadlineMs,
      begin: (connection) => connection.call('domainBlockCommit', args, { deadlineMs: DEADLINE_MS.start }),
    } satisfies ConstructorParameters<typeof BlockJob>[3];
    return new RunningJob(new BlockJob(this.#link, this.#hub, domain, work), o.progressMs);
  }

  async blockJobInfo(d: DomainId, disk: string, o?: CallOptions): Promise<BlockJobInfo | null> {
    return blockJobInfo(
      await this.#on(d, 'domainGetBlockJobInfo', { domain: this.#wire(d), disk, flags: 1 }, o),
    );
  }

  async blockJobAbort(
    d: DomainId,
    disk: string,
    o?: CallOptions & { readonly pivot?: boolean; readonly async?: boolean },
  ): Promise<void> {
    const args = { domain: this.#wire(d), disk, flags: bits([o?.async, 1], [o?.pivot, 2]) };
    await this.#on(d, 'domainBlockJobAbort', args, o, DEADLINE_MS.start);
  }

  async blockJobSetSpeed(d: DomainId, disk: string, bytesPerSecond: number, o?: CallOptions): Promise<void> {
    const args = { domain: this.#wire(d), disk, bandwidth: whole(bytesPerSecond, 'speed'), flags: 1 };
    await this.#on(d, 'domainBlockJobSetSpeed', args, o);
  }

  // ---- snapshots ----

  async snapshot(d: DomainId, xml: string, o: SnapshotOptions = {}): Promise<SnapshotRef> {
    const flags = bits(
      [o.noMetadata, 4],
      [o.diskOnly, 16],
      [o.reuseExternal, 32],
      [o.quiesce, 64],
      [o.atomic, 128],
    );
    const args = { domain: this.#wire(d), xml, flags };
    const { snapshot } = await this.#on(d, 'domainSnapshotCreateXml', args, o, DEADLINE_MS.start);
    return { name: snapshot.name, domain: snapshot.domain.uuid };
  }

  async snapshots(d: DomainId, o?: CallOptions): Promise<SnapshotRef[]> {
    const args = { domain: this.#wire(d), needResults: 1, flags: 0 };
    const { snapshots } = await this.#on(d, 'domainListAllSnapshots', args, o);
    return snapshots.map(({ name, domain }) => ({ name, domain: domain.uuid }));
  }

  async snapshotXml(s: SnapshotRef, o?: CallOptions): Promise<string> {
    const snapshot = { name: s.name, domain: this.#wire(s.domain) };
    return (await this.#on(s.domain, 'domainSnapshotGetXmlDesc', { snapshot, flags: 0 }, o)).xml;
  }

  async deleteSnapshot(
    s: SnapshotRef,
    o?: CallOptions & { readonly metadataOnly?: boolean; readonly children?: boolean },
  ): Promise<void> {
    const snapshot = { name: s.name, domain: this.#wire(s.domain) };
    const flags = bits([o?.children, 1], [o?.metadataOnly, 2]);
    await this.#on(s.domain, 'domainSnapshotDelete', { snapshot, flags }, o, DEADLINE_MS.start);
  }
}

function bits(...flags: readonly (readonly [boolean | undefined, number])[]): number {
  return flags.reduce((all, [on, bit]) => (on === true ? all | bit : all), 0);
}

function affect(o: AffectOptions | undefined): number {
  return bits([o?.live, 1], [o?.config, 2]);
}

function metadataType(kind: 'description' | 'title' | object): number {
  return kind === 'description' ? 0 : kind === 'title' ? 1 : 2;
}

function emulatorQuery(q: DomainCapabilitiesQuery): {
  emulator: string | null;
  arch: string | null;
  machine: string | null;
  virtType: string | null;
} {
  return {
    emulator: q.emulator ?? null,
    arch: q.arch ?? null,
    machine: q.machine ?? null,
    virtType: q.virtType ?? null,
  };
}

/** libvirt's version numbers are 1,000,000 × major + 1,000 × minor + micro */
function version(n: bigint): string {
  return `${n / 1_000_000n}.${(n / 1000n) % 1000n}.${n % 1000n}`;
}

function whole(n: number, what: string): bigint {
  if (!Number.isSafeInteger(n) || n < 0) {
    throw new LibvirtError(`${what} ${n} is not a whole number of 0 or more`, {
      code: 'invalid-argument',
      outcome: 'not-sent',
    });
  }
  return BigInt(n);
}

/** the `<cpu>` that domain capabilities call the host's model, or the document itself when it is a `<cpu>` */
function cpuElement(xml: string): string {
  const model = /<mode name=['"]host-model['"][^>]*>([\s\S]*?)<\/mode>/.exec(xml)?.[1];
  return model === undefined ? xml : `<cpu>${model.replace(/<maxphysaddr[^>]*\/>/g, '')}</cpu>`;
}

/**
 * A command for QEMU or the guest agent. Other than ASCII is escaped: libvirt 11.3 refuses it as it is with
 * "invalid utf-8 string" (seen 2026-11 with guest-exec).
 */
export function commandText(command: string, args: Readonly<Record<string, unknown>> | undefined): string {
  const text = JSON.stringify({ execute: command, ...(args === undefined ? {} : { arguments: args }) });
  return text.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** the `return` value of a guest agent's or monitor's answer */
function returned(text: string, command: string, d: DomainId): unknown {
  const fields = { outcome: 'refused', domainId: d } as const;
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (cause) {
    throw new LibvirtError(`${command}: the answer is not JSON`, { code: 'protocol', ...fields, cause });
  }
  if (typeof answer !== 'object' || answer === null) {
    throw new LibvirtError(`${command}: the answer is no object`, { code: 'protocol', ...fields });
  }
  if ('error' in answer) {
    throw new LibvirtError(`${command}: ${JSON.stringify(answer.error)}`, { code: 'refused', ...fields });
  }
  return 'return' in answer ? answer.return : null;
}
