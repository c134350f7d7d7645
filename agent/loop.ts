import {
  decideVm,
  freshMemory,
  opVerdict,
  crashesMax,
  type VmDecision,
  type VmMemory,
  type VmStep,
  type VmView,
} from '../core/decide/vm.js';
import { diffHardware } from '../core/decide/hardware.js';
import { rates, type VmCounters } from '../core/decide/stats.js';
import { errorRecord, FlotillaError } from '../core/domain/error.js';
import type { Disk } from '../core/domain/disk.js';
import type { Health, PoolUse } from '../core/domain/node.js';
import { opFinished } from '../core/domain/op.js';
import { poolHasNode } from '../core/domain/pool.js';
import type { VmState, VmStats } from '../core/domain/vm.js';
import type { RadioEvent } from '../core/wire/radio.js';
import { ledger as kinds, ledgerRoot } from '../core/wire/ledger-keys.js';
import type { AgentEnv } from './env.js';
import { ImageWorker } from './image-worker.js';
import { LibvirtError } from './libvirt/hypervisor.js';
import { OpBook } from './op-book.js';
import { Snapshots, type Kept, type Snapshot } from './snapshot.js';
import { VmActor, type Subject } from './vm/actor.js';
import { counters, Domains, type Observed } from './vm/domains.js';
import { GuestInfo } from './vm/guest-info.js';
import { wantedHardware } from './vm/want.js';

/** The loop looks at everything again after this long even if nothing rang, ms. A lost bell costs this. */
export const idlePassMs = 5_000;
/** Two passes are at least this far apart, so that a storm of bells is one pass, ms. */
const passGapMs = 50;
/** Statistics are taken so often, ms. */
const statsEveryMs = 5_000;
/** Pools and bridges are looked at so often, ms; at once when their records change. */
const slowEveryMs = 30_000;
/** Without a read of the ledger for this long its health line says so, ms. */
const ledgerStaleMs = 10_000;
/** Disks made at the same time on one node: more only fight for the same drive. */
const makesAtOnce = 2;

/**
 * The agent: observe, decide, act, publish, for ever. Events and watches only wake it. It keeps nothing that
 * matters between passes: what should be is in the ledger, what is, libvirt and the pools tell.
 */
export class AgentLoop {
  private readonly env: AgentEnv;
  private readonly onSnapshot: (s: Snapshot) => Promise<void>;
  private readonly alsoHealth: () => readonly Health[];
  private readonly snapshots: Snapshots;
  private readonly domains: Domains;
  private readonly actor: VmActor;
  private readonly ops: OpBook;
  private readonly images: ImageWorker;
  private readonly guests: GuestInfo;

  private snapshot: Snapshot | null = null;
  private snapshotMs = -Infinity;
  private observed = new Map<string, Observed>();
  private hypervisorError: string | null = 'not connected yet';
  private ledgerError: string | null = 'not read yet';
  private completed: number | null = null;
  private told = false;

  private readonly memory = new Map<string, VmMemory>();
  private readonly busy = new Map<string, VmStep>();
  /** The pass during which the last step of a VM ended: what that pass observed may be older than the step. */
  private readonly endedIn = new Map<string, number>();
  private passes = 0;
  private readonly makes = new Map<string, AbortController>();
  /** Ops whose verdict is being written. */
  private readonly writing = new Set<string>();
  private readonly highest = new Map<string, number>();
  private readonly last = new Map<string, VmCounters>();
  private readonly stats = new Map<string, VmStats>();
  private readonly said = new Map<string, string>();
  private readonly decisions = new Map<string, VmDecision>();
  private poolUse: PoolUse[] = [];
  private bridgeErrors: string[] = [];
  private statsMs = -Infinity;
  private slowMs = -Infinity;
  private slowKey = '';
  private seq = 0;
  private swept = false;

  private rung = false;
  private ring: (() => void) | null = null;
  private readonly stopping = new AbortController();
  private running: Promise<void> | null = null;
  private readonly unhook: (() => void)[] = [];

  /**
   * @param onSnapshot - told of each new reading of the ledger: endpoints, peers and tokens follow from it
   * @param alsoHealth - parts of the agent beside the loop
   */
  constructor(
    env: AgentEnv,
    onSnapshot: (s: Snapshot) => Promise<void> = async () => undefined,
    alsoHealth: () => readonly Health[] = () => [],
  ) {
    this.env = env;
    this.onSnapshot = onSnapshot;
    this.alsoHealth = alsoHealth;
    this.snapshots = new Snapshots(env.ledger);
    this.domains = new Domains(env.hypervisor, env.clock);
    this.ops = new OpBook(env);
    this.actor = new VmActor(env, this.ops);
    this.images = new ImageWorker(env, this.ops, () => this.wake());
    this.guests = new GuestInfo(env, () => this.wake());
  }

  /** Begins. */
  start(): void {
    this.unhook.push(this.env.ledger.watch(ledgerRoot, () => this.wake()));
    void this.listen();
    this.running = this.run();
  }

  /** Ends after the pass under way; work on disks and images is stopped, VMs go on. */
  async stop(): Promise<void> {
    this.stopping.abort();
    for (const u of this.unhook) u();
    for (const a of this.makes.values()) a.abort();
    this.images.stop();
    this.wake();
    await this.running;
  }

  /** Rings the bell: a pass follows soon. */
  wake(): void {
    this.rung = true;
    this.ring?.();
  }

  /** The last snapshot of the ledger, and its age: pages show them with the ledger gone. */
  view(): { snapshot: Snapshot | null; ageMs: number; error: string | null } {
    const ageMs = this.env.clock.nowMs() - this.snapshotMs;
    return { snapshot: this.snapshot, ageMs, error: this.ledgerError };
  }

  /** Monotonic ms of the first pass that read everything; null before. */
  firstCompleteMs(): number | null {
    return this.completed;
  }

  private async listen(): Promise<void> {
    for await (const e of this.env.hypervisor.events(this.stopping.signal)) {
      if (e.type === 'resync' || e.type === 'disconnected') this.domains.forget();
      else {
        this.domains.forget(e.uuid);
        if (e.type === 'agent-lifecycle') this.guests.changed(e.uuid);
        if (e.type === 'io-error')
          this.event('error', e.uuid, `disk error: ${e.reason || 'input/output error'} (${e.path})`);
      }
      this.wake();
    }
  }

  private async run(): Promise<void> {
    const { clock } = this.env;
    while (!this.stopping.signal.aborted) {
      this.rung = false;
      const began = clock.nowMs();
      let again = idlePassMs;
      try {
        again = await this.pass();
      } catch (e) {
        this.env.log.error(`a pass of the loop failed: ${errorRecord(e).message}`, {
          stack: String(e instanceof Error ? e.stack : e),
        });
      }
      const nap = new AbortController();
      this.ring = () => nap.abort();
      const least = Math.max(0, passGapMs - (clock.nowMs() - began));
      if (least > 0) await clock.sleep(least);
      if (!this.rung && !this.stopping.signal.aborted) {
        await clock.sleep(Math.min(again, idlePassMs), nap.signal).catch(() => undefined);
      }
      this.ring = null;
    }
  }

  /** One pass. @returns ms after which to come again */
  private async pass(): Promise<number> {
    const { env } = this;
    this.passes++;
    await Promise.all([this.observeLedger(), this.observeDomains()]);
    const now = env.clock.nowMs();
    const s = this.snapshot;
    let again = idlePassMs;
    if (s !== null && this.hypervisorError === null && this.ledgerError === null) {
      for (const id of this.relevant(s)) again = Math.min(again, this.oneVm(id, s, now));
      this.images.look(s);
      this.completed ??= now;
      await this.ops.trim(s).catch(() => undefined);
    }
    await this.slow(s, now);
    await this.takeStats(now);
    this.guests.look(this.observed);
    await this.publish(s);
    if (this.completed !== null && !this.told) {
      this.told = true;
      // The clock of the process began with it.
      env.log.info(`first complete state after ${Math.round(env.clock.nowMs())} ms`);
    }
    return again;
  }

  private async observeLedger(): Promise<void> {
    try {
      const s = await this.snapshots.read();
      this.snapshot = s;
      this.snapshotMs = this.env.clock.nowMs();
      this.ledgerError = null;
      await this.onSnapshot(s).catch((e: unknown) =>
        this.env.log.error(`following the ledger: ${errorRecord(e).message}`),
      );
    } catch (e) {
      this.ledgerError = errorRecord(e).message;
    }
  }

  private async observeDomains(): Promise<void> {
    try {
      this.observed = await this.domains.observe();
      this.hypervisorError = null;
    } catch (e) {
      this.hypervisorError = e instanceof Error ? e.message : String(e);
    }
  }

  /** VMs this node has to do with: owned by it, or with a domain here. */
  private relevant(s: Snapshot): string[] {
    const ids = new Set<string>();
    for (const [id, own] of s.owns) if (own.value.owner === this.env.node) ids.add(id);
    for (const [id, d] of this.observed) if (d.mark !== null || s.owns.has(id)) ids.add(id);
    for (const id of this.memory.keys()) {
      if (ids.has(id) || this.busy.has(id)) continue;
      this.forgetVm(id);
    }
    return [...ids].sort();
  }

  private forgetVm(id: string): void {
    for (const map of [
      this.memory,
      this.endedIn,
      this.highest,
      this.last,
      this.stats,
      this.said,
      this.decisions,
    ])
      map.delete(id);
    this.env.radio.unsay('vm', id);
  }

  private oneVm(id: string, s: Snapshot, now: number): number {
    const spec = s.specs.get(id) ?? null;
    const own = s.owns.get(id) ?? null;
    const domain = this.observed.get(id) ?? null;
    const memory = this.memory.get(id) ?? freshMemory;
    this.memory.set(id, memory);
    const seen = this.highest.get(id) ?? 0;
    if (spec !== null && spec.value.generation < seen) {
      // The ledger went back in time: nothing is done on its word. @see safety 10
      this.memory.set(id, {
        ...memory,
        note: `the ledger offers generation ${spec.value.generation}, but ${seen} was seen here: refused`,
      });
      return idlePassMs;
    }
    if (spec !== null) this.highest.set(id, spec.value.generation);

    const unfinished = [...s.ops.values()]
      .filter((k) => k.value.subject.id === id && k.value.kind.startsWith('vm.') && !opFinished(k.value))
      .sort((a, b) => a.value.createdMs - b.value.createdMs || (a.value.id < b.value.id ? -1 : 1));
    const view: VmView = {
      me: this.env.node,
      spec: spec?.value ?? null,
      own: own?.value ?? null,
      live: this.env.live.compare() !== null && s.meta !== null,
      domain,
      disks: [...s.disks.values()].filter((d) => d.value.vm === id).map((d) => d.value),
      ops: unfinished.map((k) => k.value),
      diff: this.diff(spec, domain, s),
      memory,
    };
    const d = decideVm(view, now);
    this.decisions.set(id, d);
    if (spec === null || own === null) {
      if (d.reason !== '') this.env.log.warn(`${id}: ${d.reason}`);
      return idlePassMs;
    }
    const subject: Subject = { id, spec, own, domain, snapshot: s };
    for (const disk of d.make) this.make(disk, subject, view);
    if (this.busy.has(id) || this.endedIn.get(id) === this.passes) return idlePassMs;
    if (view.live) for (const k of unfinished) this.verdict(k, view, d);
    // Files are not removed under the hands of whoever makes them: the making ends first.
    const making = view.disks.filter((x) => this.makes.has(x.id));
    if (d.step.do === 'delete' && making.length > 0) {
      for (const x of making) this.makes.get(x.id)?.abort();
      return idlePassMs;
    }
    if (d.step.do !== 'none') this.perform(d.step, subject, view);
    return d.againMs ?? idlePassMs;
  }

  private diff(
    spec: Kept<VmView['spec'] & object> | null,
    domain: Observed | null,
    s: Snapshot,
  ): VmView['diff'] {
    if (spec === null || domain?.active !== true) return null;
    const ready = spec.value.disks.every((d) => s.disks.get(d.disk)?.value.state === 'ready');
    if (!ready) return null;
    try {
      const seed = spec.value.cloudInit === null ? null : (domain.hardware.seed ?? 'seed');
      return diffHardware(wantedHardware(spec.value, s, this.env.volumes, seed), domain.hardware);
    } catch {
      return null; // something it names is gone; the running machine is left as it is
    }
  }

  private verdict(
    k: Kept<Snapshot['ops'] extends ReadonlyMap<string, Kept<infer O>> ? O : never>,
    view: VmView,
    d: VmDecision,
  ): void {
    const v = opVerdict(k.value, view, d);
    const { id } = k.value;
    if (this.writing.has(id)) return;
    const write = (p: Promise<unknown>): void => {
      this.writing.add(id);
      void p
        .catch(() => undefined)
        .finally(() => {
          this.writing.delete(id);
          this.wake();
        });
    };
    if (v === null) {
      if (k.value.state === 'queued' && !['vm.reboot', 'vm.reset'].includes(k.value.kind)) {
        write(this.ops.change(k, { state: 'running', step: d.reason.slice(0, 200) || d.phase }));
      }
      return;
    }
    if (v.state === 'failed') write(this.ops.fail(k, flotillaError(v.error)));
    else write(this.ops.finish(k, v.state, v.step));
  }

  private perform(step: VmStep, s: Subject, view: VmView): void {
    const { env } = this;
    const { id } = s;
    const name = s.spec.value.name;
    this.busy.set(id, step);
    const before = this.memory.get(id) ?? freshMemory;
    void (async () => {
      try {
        await this.actor.act(step, s);
        this.memory.set(id, afterStep(this.memory.get(id) ?? before, step, env.clock.nowMs()));
        const text = stepText(step);
        if (text !== null) this.event(step.do === 'start' && step.crashed ? 'error' : 'info', name, text);
      } catch (e) {
        await this.failed(step, s, view, e);
      } finally {
        this.busy.delete(id);
        this.endedIn.set(id, this.passes);
        this.domains.forget(id);
        this.wake();
      }
    })();
  }

  private async failed(step: VmStep, s: Subject, view: VmView, e: unknown): Promise<void> {
    const error = stepError(step, s, e);
    const transient =
      error.code === 'stale-view' ||
      error.code === 'ledger-unavailable' ||
      error.code === 'hypervisor-unavailable';
    if (transient) {
      if (error.code !== 'stale-view') await this.env.clock.sleep(500);
      return;
    }
    const { env } = this;
    const m = this.memory.get(s.id) ?? freshMemory;
    const record = errorRecord(error);
    env.log.error(`${step.do} of VM "${s.spec.value.name}": ${record.message}`, {
      vm: s.id,
      causes: record.causes,
    });
    this.event('error', s.spec.value.name, record.message);
    this.memory.set(s.id, {
      ...m,
      failure: { atMs: env.clock.nowMs(), count: (m.failure?.count ?? 0) + 1, error: record },
    });
    for (const op of view.ops) {
      const kept = s.snapshot.ops.get(op.id);
      if (kept === undefined) continue;
      // Read again: the step itself may have written the op.
      const now = await this.reread(kept);
      if (now !== null) await this.ops.fail(now, error).catch(() => undefined);
    }
  }

  private async reread(
    k: Kept<import('../core/domain/op.js').Op>,
  ): Promise<Kept<import('../core/domain/op.js').Op> | null> {
    try {
      const s = await this.snapshots.read();
      return s.ops.get(k.value.id) ?? null;
    } catch {
      return null;
    }
  }

  /** Makes a disk beside whatever the VM does; several VMs at a time, few per node. */
  private make(disk: Disk, s: Subject, view: VmView): void {
    if (this.makes.has(disk.id) || this.makes.size >= makesAtOnce) return;
    const { env } = this;
    const kept = s.snapshot.disks.get(disk.id);
    const pool = s.snapshot.pools.get(disk.pool);
    if (kept === undefined) return;
    const abort = new AbortController();
    this.makes.set(disk.id, abort);
    const op = view.ops.find((o) => o.kind === 'vm.create' || o.kind === 'vm.update');
    void (async () => {
      try {
        if (pool === undefined) {
          throw new FlotillaError('not-found', `Disk ${disk.name}: its pool is not in the ledger`, {
            hint: 'Make the pool again or delete the VM.',
          });
        }
        let image = null;
        if (disk.source.kind === 'image') {
          const i = s.snapshot.images.get(disk.source.image)?.value;
          const p = i && s.snapshot.pools.get(i.pool)?.value;
          if (i === undefined || p === undefined) {
            throw new FlotillaError('not-found', `Disk ${disk.name}: its image is not in the catalogue`, {
              hint: 'Import the image again or delete the VM.',
            });
          }
          image = { image: i, pool: p };
        }
        await env.volumes.makeDisk(disk, pool.value, image, {
          signal: abort.signal,
          progress: (share, step) => {
            if (op !== undefined) this.ops.progress(op, share, step ?? `makes disk ${disk.name}`);
          },
        });
        await this.actor.putDisk(kept, { ...disk, state: 'ready', madeBytes: disk.sizeBytes, error: null });
      } catch (e) {
        if (this.stopping.signal.aborted) return; // made again after the restart
        const error =
          e instanceof FlotillaError && abort.signal.aborted
            ? new FlotillaError('cancelled', `Making disk ${disk.name} was cancelled`, {
                hint: 'Delete the VM, or edit it to have it made again.',
              })
            : e;
        const record = errorRecord(error);
        env.log.error(`making disk ${disk.name} of "${s.spec.value.name}": ${record.message}`, {
          causes: record.causes,
        });
        await this.actor.putDisk(kept, { ...disk, state: 'failed', error: record }).catch(() => undefined);
      } finally {
        this.makes.delete(disk.id);
        this.wake();
      }
    })();
  }

  /** Aborts the making of disks whose op was asked to be cancelled. */
  private cancelMakes(s: Snapshot): void {
    for (const [diskId, abort] of this.makes) {
      const disk = s.disks.get(diskId)?.value;
      const asked = [...s.ops.values()].some(
        (k) =>
          disk !== undefined &&
          k.value.subject.id === disk.vm &&
          !opFinished(k.value) &&
          (k.value.cancelAsked || k.value.kind === 'vm.delete'),
      );
      if (disk === undefined || asked) abort.abort();
    }
  }

  private async slow(s: Snapshot | null, now: number): Promise<void> {
    if (s === null) return;
    this.cancelMakes(s);
    const pools = [...s.pools.values()].filter((p) => poolHasNode(p.value, this.env.node));
    const key = [...pools, ...s.networks.values()].map((k) => k.modRevision).join();
    if (now - this.slowMs < slowEveryMs && key === this.slowKey) return;
    this.slowMs = now;
    this.slowKey = key;
    this.poolUse = await Promise.all(
      pools.map(async ({ value: pool }) => {
        try {
          return await this.env.volumes.probe(pool);
        } catch (e) {
          return {
            pool: pool.id,
            totalBytes: 0,
            freeBytes: 0,
            ok: false,
            text: errorRecord(e).message.slice(0, 500),
          };
        }
      }),
    );
    this.bridgeErrors = [];
    for (const n of s.networks.values()) {
      try {
        await this.env.bridges.ensure(n.value);
      } catch (e) {
        this.bridgeErrors.push(`network ${n.value.name}: ${errorRecord(e).message}`);
      }
    }
    await this.dropBridges(s);
    if (!this.swept && this.ledgerError === null) {
      this.swept = true;
      const known = { disks: new Set(s.disks.keys()), images: new Set(s.images.keys()) };
      for (const { value: pool } of pools) {
        const gone = await this.env.volumes.sweep(pool, known).catch(() => []);
        if (gone.length > 0)
          this.env.log.info(`swept ${gone.length} left-over files of pool ${pool.name}`, { gone });
      }
    }
  }

  /** Bridges of networks that were deleted go, once no guest is on them. */
  private async dropBridges(s: Snapshot): Promise<void> {
    // A network whose record cannot be read is not a deleted one.
    if (this.ledgerError !== null || s.unreadable.some((k) => kinds.network.idOf(k) !== null)) return;
    try {
      for (const { network: id, bridge } of await this.env.bridges.owned()) {
        if (!s.networks.has(id)) await this.env.bridges.remove({ id, name: bridge, bridge });
      }
    } catch (e) {
      this.bridgeErrors.push(errorRecord(e).message);
    }
  }

  private async takeStats(now: number): Promise<void> {
    if (now - this.statsMs < statsEveryMs || this.hypervisorError !== null) return;
    this.statsMs = now;
    if (![...this.observed.values()].some((d) => d.active)) return;
    try {
      for (const s of await this.env.hypervisor.stats()) {
        const c = counters(s, this.env.clock.nowMs());
        const before = this.last.get(s.uuid);
        if (c === null) {
          this.last.delete(s.uuid);
          this.stats.delete(s.uuid);
          continue;
        }
        this.last.set(s.uuid, c);
        const r = before === undefined ? null : rates(before, c, this.env.clock.wallMs());
        if (r !== null) this.stats.set(s.uuid, r);
      }
    } catch (e) {
      this.env.log.warn(`statistics: ${e instanceof Error ? e.message : String(e)}`);
    }
  }

  private async publish(s: Snapshot | null): Promise<void> {
    const { env } = this;
    const wall = env.clock.wallMs();
    if (s !== null) {
      for (const [id, d] of this.decisions) {
        const spec = s.specs.get(id)?.value;
        if (spec === undefined || s.owns.get(id)?.value.owner !== env.node) {
          if (this.said.delete(id)) env.radio.unsay('vm', id);
          continue;
        }
        const line = this.vmLine(id, spec, d, s, wall);
        const { atMs: _, seq: __, ...content } = line;
        const text = JSON.stringify(content);
        if (this.said.get(id) === text) continue;
        this.said.set(id, text);
        env.radio.say('vm', line, id);
      }
    }
    const use = await env.machine.use().catch(() => null);
    const heard = env.radio.heard();
    const facts = env.hypervisor.connected ? await this.hostFacts() : null;
    env.radio.say('state', {
      node: env.node,
      boot: env.boot,
      seq: ++this.seq,
      version: env.version,
      atMs: wall,
      upSinceMs: use?.upSinceMs ?? wall,
      accel: await env.machine.accel().catch(() => null),
      qemu: facts?.qemuVersion ?? null,
      libvirt: facts?.libvirtVersion ?? null,
      cpus: use?.cpus ?? 0,
      cpuUsedPct: use?.cpuUsedPct ?? 0,
      memoryBytes: use?.memoryBytes ?? 0,
      memoryUsedBytes: use?.memoryUsedBytes ?? 0,
      loadAvg1: use?.loadAvg1 ?? 0,
      pools: this.poolUse.slice(0, 32),
      health: this.health(),
      hears: Object.fromEntries(
        heard.flatMap((h) => (h.beatAgeMs === null ? [] : [[h.node, Math.round(h.beatAgeMs)]])),
      ),
      refused: { ...env.radio.refused() },
      facts: env.machine.facts(),
    });
  }

  private factsCache: { qemuVersion: string; libvirtVersion: string } | null = null;
  private async hostFacts(): Promise<{ qemuVersion: string; libvirtVersion: string } | null> {
    this.factsCache ??= await this.env.hypervisor.facts().catch(() => null);
    return this.factsCache;
  }

  private vmLine(
    id: string,
    spec: VmView['spec'] & object,
    d: VmDecision,
    s: Snapshot,
    wall: number,
  ): VmState {
    const domain = this.observed.get(id) ?? null;
    const guest = this.guests.of(id);
    const active = domain?.active === true;
    const memory = this.memory.get(id) ?? freshMemory;
    const paths = this.env.sockets.paths(id);
    const diff = this.diff(s.specs.get(id) ?? null, domain, s);
    const given = spec.nics.flatMap((n) => (n.address === null ? [] : [n.address]));
    const applied = active && diff !== null && diff.hot.length === 0 && diff.pendingRestart.length === 0;
    return {
      vm: id,
      name: spec.name,
      node: this.env.node,
      boot: this.env.boot,
      seq: ++this.seq,
      atMs: wall,
      phase: d.phase,
      reason: d.reason.slice(0, 500),
      generation: !active ? 0 : applied ? spec.generation : (domain?.mark?.generation ?? 0),
      pendingRestart: (diff?.pendingRestart ?? []).slice(0, 32).map((t) => t.slice(0, 200)),
      upSinceMs: active ? (domain.mark?.startedMs ?? null) : null,
      guestAgent: active && domain.agentConnected,
      addresses: active && guest !== null && guest.addresses.length > 0 ? [...guest.addresses] : given,
      hostname: active ? (guest?.hostname ?? null) : null,
      filesystems: active ? [...(guest?.filesystems ?? [])] : [],
      stats: active ? (this.stats.get(id) ?? null) : null,
      consoles: active ? { serial: paths.serial, vnc: paths.vnc } : { serial: null, vnc: null },
      error: memory.failure?.error ?? null,
    };
  }

  /** The parts of this agent, well or not, in words. */
  health(): Health[] {
    const ledgerAge = this.env.clock.nowMs() - this.snapshotMs;
    const out: Health[] = [
      {
        part: 'ledger',
        ok: ledgerAge < ledgerStaleMs,
        text: ledgerAge < ledgerStaleMs ? '' : (this.ledgerError ?? '').slice(0, 500),
      },
      {
        part: 'lease',
        ok: this.env.live.compare() !== null,
        text: this.env.live.compare() !== null ? '' : 'this node is not alive in the ledger: it starts no VM',
      },
      {
        part: 'hypervisor',
        ok: this.hypervisorError === null,
        text: (this.hypervisorError ?? '').slice(0, 500),
      },
    ];
    for (const p of this.poolUse) {
      const name = this.snapshot?.pools.get(p.pool)?.value.name ?? p.pool;
      if (!p.ok) out.push({ part: `pool ${name}`.slice(0, 64), ok: false, text: p.text });
    }
    for (const text of this.bridgeErrors.slice(0, 8))
      out.push({ part: 'network', ok: false, text: text.slice(0, 500) });
    const unreadable = this.snapshot?.unreadable ?? [];
    if (unreadable.length > 0) {
      out.push({
        part: 'records',
        ok: false,
        text: `${unreadable.length} unreadable: ${unreadable.slice(0, 3).join(', ')}`.slice(0, 500),
      });
    }
    out.push(...this.alsoHealth());
    return out;
  }

  private event(level: RadioEvent['level'], subject: string, text: string): void {
    this.env.log[level === 'warning' ? 'warn' : level](`${subject}: ${text}`);
    this.env.radio.say('event', {
      atMs: this.env.clock.wallMs(),
      level,
      subject: subject.slice(0, 128),
      text: text.slice(0, 1000),
    });
  }
}

/** What the agent remembers after a step that went well. */
function afterStep(m: VmMemory, step: VmStep, nowMs: number): VmMemory {
  switch (step.do) {
    case 'start':
      return {
        stop: null,
        failure: null,
        note: '',
        crashesMs: step.crashed ? [...m.crashesMs, nowMs].slice(-crashesMax) : m.crashesMs,
      };
    case 'ask-stop':
      return {
        ...m,
        failure: null,
        stop: { sinceMs: m.stop?.sinceMs ?? nowMs, lastAskMs: nowMs, asked: (m.stop?.asked ?? 0) + 1 },
      };
    case 'settle':
      return { ...m, stop: null, failure: null, note: step.note };
    default:
      return { ...m, failure: null };
  }
}

function stepText(step: VmStep): string | null {
  switch (step.do) {
    case 'start':
      return step.crashed ? 'the machine died without a shutdown; started again' : 'started';
    case 'destroy':
      return `forced off: ${step.why}`;
    case 'settle':
      return step.note === '' ? 'is off' : `is off: ${step.note}`;
    case 'adopt':
      return 'found running, taken over';
    case 'delete':
      return 'deleted';
    case 'remove-foreign':
      return 'removed here: another node owns it';
    case 'reboot':
    case 'reset':
    case 'pause':
    case 'resume':
      return step.do;
    case 'apply':
      return `changed while running: ${step.step.do}`;
    case 'none':
    case 'ask-stop':
    case 'grow-disk':
    case 'remove-disk':
      return null;
  }
}

const flotillaError = (r: ReturnType<typeof errorRecord>): FlotillaError =>
  new FlotillaError(r.code, r.message, { hint: r.hint, details: r.details });

/** Puts a failed step into words of this product, with the lower error as cause. */
function stepError(step: VmStep, s: Subject, e: unknown): FlotillaError {
  if (e instanceof FlotillaError) return e;
  const what = `VM "${s.spec.value.name}": ${step.do} failed`;
  if (e instanceof LibvirtError) {
    const away = ['disconnected', 'closed', 'overloaded'].includes(e.code);
    return new FlotillaError(away ? 'hypervisor-unavailable' : 'hypervisor-error', `${what}: ${e.message}`, {
      hint: away
        ? 'The agent tries again as soon as libvirt answers.'
        : "The cause is libvirt's own text. Mend it and start the VM again.",
      cause: e,
    });
  }
  return new FlotillaError('internal', what, { hint: "See the agent's journal on the node.", cause: e });
}
