import {
  decideVm,
  freshMemory,
  opVerdict,
  restartsKeptMax,
  type VmDecision,
  type VmHaView,
  type VmMemory,
  type VmStep,
  type VmView,
} from '../core/decide/vm.js';
import { diffHardware } from '../core/decide/hardware.js';
import { errorRecord, FlotillaError } from '../core/domain/error.js';
import type { Disk } from '../core/domain/disk.js';
import type { Health } from '../core/domain/node.js';
import { recoveryText } from '../core/domain/recovery.js';
import { opFinished, type Op } from '../core/domain/op.js';
import type { VmOwn, VmProtection, VmSpec } from '../core/domain/vm.js';
import { ledgerRoot } from '../core/wire/ledger-keys.js';
import { announce } from './announce.js';
import type { AgentEnv } from './env.js';
import { ImageWorker } from './image-worker.js';
import { FailoverDesk, strays } from './ha/failover-desk.js';
import { GuestHang } from './ha/guest-hang.js';
import { keeperLine } from './ha/keeper-line.js';
import { Protection } from './ha/protection.js';
import { failoverOps, Timelines } from './ha/timeline.js';
import { OpBook } from './op-book.js';
import { Snapshots, type Kept, type Snapshot } from './snapshot.js';
import { Surroundings } from './surroundings.js';
import { VmActor } from './vm/actor.js';
import { Ownership, type Subject } from './vm/ownership.js';
import { DiskMaker } from './vm/disk-maker.js';
import { Domains, type Observed } from './vm/domains.js';
import { GuestInfo } from './vm/guest-info.js';
import { isTransient, stepError, stepText } from './vm/step-words.js';
import { Usage } from './vm/usage.js';
import { vmLine } from './vm/vm-line.js';
import { wantedHardware } from './vm/want.js';

/** The loop looks at everything again after this long even if nothing rang, ms. A lost bell costs this. */
export const idlePassMs = 5_000;
/** Two passes are at least this far apart, so that a storm of bells is one pass, ms. */
const passGapMs = 50;
/** A dead node's lock on an NFS pool lives on for the server's lease: so long beyond the fence wait, ms. @see safety 4 */
const lockMs = 90_000;
const hourMs = 3_600_000;
/** Without a read of the ledger for this long its health line says so, ms. */
const ledgerStaleMs = 10_000;

/**
 * The agent: observe, decide, act, publish, for ever. Events and watches only wake it. It keeps nothing that
 * matters between passes: what should be is in the ledger, what is, libvirt and the pools tell.
 */
export class AgentLoop {
  private readonly env: AgentEnv;
  private readonly onSnapshot: (s: Snapshot) => Promise<void>;
  private readonly alsoHealth: () => readonly Health[];
  private readonly onPass: () => void;
  private readonly snapshots: Snapshots;
  private readonly domains: Domains;
  private readonly actor: VmActor;
  private readonly ops: OpBook;
  private readonly images: ImageWorker;
  private readonly guests: GuestInfo;
  private readonly maker: DiskMaker;
  private readonly usage: Usage;
  private readonly surroundings: Surroundings;
  private readonly protection: Protection;
  private readonly failovers: FailoverDesk;
  private readonly timelines: Timelines;
  private readonly hangs: GuestHang;

  private snapshot: Snapshot | null = null;
  private snapshotMs = -Infinity;
  private observed = new Map<string, Observed>();
  private hypervisorError: string | null = 'not connected yet';
  private ledgerError: string | null = 'not read yet';
  private completed: number | null = null;
  private told = false;

  private readonly memory = new Map<string, VmMemory>();
  /** VMs that something is being done with. */
  private readonly busy = new Set<string>();
  /** The pass during which the last step of a VM ended: what that pass observed may be older than the step. */
  private readonly endedIn = new Map<string, number>();
  private passes = 0;
  /** Ops whose verdict is being written. */
  private readonly writing = new Set<string>();
  private readonly highest = new Map<string, number>();
  private readonly said = new Map<string, string>();
  private readonly decisions = new Map<string, VmDecision>();
  private readonly protections = new Map<string, VmProtection>();
  private memoryBytes = 0;
  private seq = 0;

  private rung = false;
  private ring: (() => void) | null = null;
  private readonly stopping = new AbortController();
  private running: Promise<void> | null = null;
  private readonly unhook: (() => void)[] = [];

  /**
   * @param onSnapshot - told of each new reading of the ledger: endpoints, peers and tokens follow from it
   * @param alsoHealth - parts of the agent beside the loop
   * @param onPass - called after each finished pass
   */
  constructor(
    env: AgentEnv,
    onSnapshot: (s: Snapshot) => Promise<void> = async () => undefined,
    alsoHealth: () => readonly Health[] = () => [],
    onPass: () => void = () => undefined,
  ) {
    this.env = env;
    this.onSnapshot = onSnapshot;
    this.alsoHealth = alsoHealth;
    this.onPass = onPass;
    this.snapshots = new Snapshots(env.ledger);
    this.domains = new Domains(env.hypervisor, env.clock);
    this.ops = new OpBook(env);
    const ownership = new Ownership(env);
    this.timelines = new Timelines(env, this.ops, () => this.wake());
    this.actor = new VmActor(env, this.ops, ownership, (id, phase) => this.timelines.mark(id, phase));
    this.protection = new Protection(env);
    this.failovers = new FailoverDesk(
      env,
      ownership,
      { begin: (id) => this.beginTurn(id), end: (id) => this.endTurn(id) },
      () => this.wake(),
    );
    this.hangs = new GuestHang(env, () => this.wake());
    this.images = new ImageWorker(env, this.ops, () => this.wake());
    this.guests = new GuestInfo(env, () => this.wake());
    this.maker = new DiskMaker(env, this.ops, () => this.wake());
    this.usage = new Usage(env, () => this.publish(this.snapshot));
    this.surroundings = new Surroundings(env, () => this.wake());
  }

  /** Begins. */
  start(): void {
    this.unhook.push(
      this.env.ledger.watch(ledgerRoot, () => {
        this.snapshots.changed();
        this.wake();
      }),
    );
    this.unhook.push(this.env.keeper.onChange(() => this.wake()));
    void this.listen();
    this.running = this.run();
  }

  /** Ends after the pass under way; work on disks and images is stopped, VMs go on. */
  async stop(): Promise<void> {
    this.stopping.abort();
    for (const u of this.unhook) u();
    this.maker.stop();
    this.images.stop();
    this.failovers.stop();
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
          announce(this.env, 'error', e.uuid, `disk error: ${e.reason || 'input/output error'} (${e.path})`);
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
        this.onPass();
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
      const failoverAgain = s.recovering ? null : this.lookAtOthers(s);
      if (failoverAgain !== null) again = Math.min(again, failoverAgain);
      for (const id of this.relevant(s)) again = Math.min(again, this.oneVm(id, s, now));
      this.completed ??= now;
      if (this.env.witness !== true && !s.recovering) {
        this.images.look(s);
        this.maker.look(s);
        this.surroundings.look(s);
      }
      await this.ops.trim(s).catch(() => undefined);
    }
    if (this.hypervisorError === null) {
      this.usage.look();
      this.guests.look(this.observed);
      this.hangs.look(this.observed, (id) => this.watchesGuest(id));
    }
    await this.publish(s);
    if (this.completed !== null && !this.told) {
      this.told = true;
      // The clock of the process began with it.
      env.log.info(`first complete state after ${Math.round(env.clock.nowMs())} ms`);
    }
    return again;
  }

  /** VMs of other nodes: failovers, and what they leave. @returns ms after which to look again */
  private lookAtOthers(s: Snapshot): number | null {
    const { env } = this;
    this.protection.look(s);
    const again = this.failovers.look(s, this.snapshotMs, {
      domains: this.observed,
      pools: this.surroundings.pools,
      memoryBytes: this.memoryBytes,
      loads: this.protection.loads(s),
    });
    this.timelines.look(s, this.observed, (id) => this.hangs.answered(id));
    for (const id of strays(env.keeper.state()?.armed ?? [], s, this.observed, env.node)) {
      if (!this.beginTurn(id)) continue;
      void env.keeper
        .disarm(id)
        .catch((e: unknown) => env.log.warn(`disarming ${id}: ${errorRecord(e).message}`))
        .finally(() => this.endTurn(id));
    }
    return again;
  }

  /** Whose guest's answers matter: to reset it when it hangs, or to end its failover. */
  private watchesGuest(id: string): boolean {
    const s = this.snapshot;
    if (s?.owns.get(id)?.value.owner !== this.env.node) return false;
    const onHang = s.specs.get(id)?.value.ha.onHang;
    return onHang === 'reset' || failoverOps(s).some((k) => k.value.subject.id === id);
  }

  /** One act on a VM at a time, and none on what was seen before the last one ended. */
  private beginTurn(id: string): boolean {
    if (this.busy.has(id) || this.endedIn.get(id) === this.passes) return false;
    this.busy.add(id);
    return true;
  }

  private endTurn(id: string): void {
    this.busy.delete(id);
    this.endedIn.set(id, this.passes);
    this.domains.forget(id);
    this.wake();
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
    for (const map of [this.memory, this.endedIn, this.highest, this.said, this.decisions, this.protections])
      map.delete(id);
    this.env.radio.unsay('vm', id);
  }

  private disksAt: { s: Snapshot; byVm: Map<string, Disk[]> } | null = null;
  private disksOf(s: Snapshot): Map<string, Disk[]> {
    if (this.disksAt?.s !== s) {
      const byVm = new Map<string, Disk[]>();
      for (const { value: d } of s.disks.values()) byVm.set(d.vm, [...(byVm.get(d.vm) ?? []), d]);
      this.disksAt = { s, byVm };
    }
    return this.disksAt.byVm;
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
      const before = this.decisions.get(id);
      const reason = `the ledger offers generation ${spec.value.generation}, but ${seen} was seen here: refused`;
      if (before !== undefined) this.decisions.set(id, { ...before, reason });
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
      recovering: s.recovering,
      domain,
      disks: this.disksOf(s).get(id) ?? [],
      ops: unfinished.map((k) => k.value),
      diff: this.diff(spec, domain, s),
      memory,
      ha: this.haView(spec, own, domain, s, now),
    };
    const d = decideVm(view, now);
    this.decisions.set(id, d);
    if (spec === null || own === null) {
      if (d.reason !== '') this.env.log.warn(`${id}: ${d.reason}`);
      return idlePassMs;
    }
    const subject: Subject = { id, spec, own, domain, snapshot: s };
    const making = view.ops.find((o) => o.kind === 'vm.create' || o.kind === 'vm.update');
    for (const disk of d.make) this.maker.make(disk, s, making);
    if (this.busy.has(id) || this.endedIn.get(id) === this.passes) return idlePassMs;
    this.protections.set(id, view.ha.arming.ha);
    if (view.live && !s.recovering) for (const k of unfinished) this.verdict(k, view, d);
    // Files are not removed under the hands of whoever makes them: the making ends first.
    if (d.step.do === 'delete' && this.maker.making(view.disks)) {
      this.maker.abort(view.disks);
      return idlePassMs;
    }
    if (d.step.do !== 'none') this.perform(d.step, subject, view);
    return d.againMs ?? idlePassMs;
  }

  private haView(
    spec: Kept<VmSpec> | null,
    own: Kept<VmOwn> | null,
    domain: Observed | null,
    s: Snapshot,
    now: number,
  ): VmHaView {
    const { env } = this;
    const keeper = env.keeper.state();
    const id = spec?.value.id ?? '';
    const wall = env.clock.wallMs();
    return {
      arming:
        spec === null || own === null || own.value.owner !== env.node
          ? { ha: { state: 'off', text: '', standby: null }, step: null, atStart: false, inSlice: false }
          : this.protection.of(spec.value, own.value, domain?.active === true, s, now),
      frozen: keeper !== null && keeper.mode !== 'run' && keeper.armed.includes(id),
      failovers: (own?.value.failoversMs ?? []).filter((t) => t <= wall && wall - t < hourMs).length,
      silentMs: this.hangs.silentMs(id),
      lockPatienceMs: env.timing.fenceWaitMs + lockMs,
    };
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

  private verdict(k: Kept<Op>, view: VmView, d: VmDecision): void {
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
    if (!this.beginTurn(id)) return;
    const before = this.memory.get(id) ?? freshMemory;
    void (async () => {
      try {
        await this.actor.act(step, s);
        this.memory.set(id, afterStep(this.memory.get(id) ?? before, step, env.clock.nowMs()));
        if (step.do === 'reset-hung') this.hangs.forget(id);
        const text = stepText(step);
        if (text !== null)
          announce(this.env, step.do === 'start' && step.crashed ? 'error' : 'info', name, text);
      } catch (e) {
        await this.failed(step, s, view, e);
      } finally {
        this.endTurn(id);
      }
    })();
  }

  private async failed(step: VmStep, s: Subject, view: VmView, e: unknown): Promise<void> {
    const error = stepError(step, s.spec.value.name, e);
    if (isTransient(error)) {
      if (error.code !== 'stale-view') await this.env.clock.sleep(500);
      return;
    }
    const { env } = this;
    const m = this.memory.get(s.id) ?? freshMemory;
    const record = errorRecord(error);
    const nowMs = env.clock.nowMs();
    if (step.do === 'arm' || step.do === 'disarm' || step.do === 'set-standby') {
      // Beside the VM's life: it fails no op, and the VM's line says that it is unprotected.
      if (m.armFailedMs === null)
        announce(env, 'warning', s.spec.value.name, `${step.do}: ${record.message}`);
      this.memory.set(s.id, { ...m, armFailedMs: nowMs });
      return;
    }
    const again = m.failure?.error.code === record.code ? m.failure : null;
    const sinceMs = again?.sinceMs ?? nowMs;
    if (record.code === 'disk-locked' && nowMs - sinceMs < env.timing.fenceWaitMs + lockMs) {
      if (again === null) announce(env, 'warning', s.spec.value.name, record.message);
      this.memory.set(s.id, { ...m, failure: { atMs: nowMs, sinceMs, count: 1, error: record } });
      return;
    }
    env.log.error(`${step.do} of VM "${s.spec.value.name}": ${record.message}`, {
      vm: s.id,
      causes: record.causes,
    });
    announce(this.env, 'error', s.spec.value.name, record.message);
    this.memory.set(s.id, {
      ...m,
      failure: { atMs: nowMs, sinceMs, count: (m.failure?.count ?? 0) + 1, error: record },
    });
    for (const op of view.ops) {
      const kept = s.snapshot.ops.get(op.id);
      if (kept === undefined) continue;
      // Read again: the step itself may have written the op.
      const now = await this.reread(kept);
      if (now !== null) await this.ops.fail(now, error).catch(() => undefined);
    }
  }

  private async reread(k: Kept<Op>): Promise<Kept<Op> | null> {
    const s = await this.snapshots.read().catch(() => null);
    return s?.ops.get(k.value.id) ?? null;
  }

  private async publish(s: Snapshot | null): Promise<void> {
    const { env } = this;
    const wall = env.clock.wallMs();
    if (s !== null) for (const [id, decision] of this.decisions) this.tell(id, decision, s);
    const use = await env.machine.use().catch(() => null);
    this.memoryBytes = use?.memoryBytes ?? this.memoryBytes;
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
      pools: this.surroundings.pools.slice(0, 32),
      health: this.health(),
      hears: Object.fromEntries(
        heard.flatMap((h) => (h.beatAgeMs === null ? [] : [[h.node, Math.round(h.beatAgeMs)]])),
      ),
      refused: { ...env.radio.refused() },
      facts: env.machine.facts(),
      keeper: keeperLine(env.keeper.state()),
    });
  }

  private factsCache: { qemuVersion: string; libvirtVersion: string } | null = null;
  private async hostFacts(): Promise<{ qemuVersion: string; libvirtVersion: string } | null> {
    this.factsCache ??= await this.env.hypervisor.facts().catch(() => null);
    return this.factsCache;
  }

  /** Says a VM's line on the radio when something in it changed. */
  private tell(id: string, decision: VmDecision, s: Snapshot): void {
    const { env } = this;
    const kept = s.specs.get(id);
    if (kept === undefined || s.owns.get(id)?.value.owner !== env.node) {
      if (this.said.delete(id)) env.radio.unsay('vm', id);
      return;
    }
    const domain = this.observed.get(id) ?? null;
    const line = vmLine({
      spec: kept.value,
      decision,
      domain,
      diff: this.diff(kept, domain, s),
      memory: this.memory.get(id) ?? freshMemory,
      guest: this.guests.of(id),
      stats: this.usage.of(id),
      paths: env.sockets.paths(id),
      ha: this.protections.get(id) ?? { state: 'off', text: '', standby: null },
      held: env.keeper.state()?.held.find((h) => h.vm === id)?.why ?? null,
    });
    const text = JSON.stringify(line);
    if (this.said.get(id) === text) return;
    this.said.set(id, text);
    env.radio.say(
      'vm',
      { ...line, node: env.node, boot: env.boot, seq: ++this.seq, atMs: env.clock.wallMs() },
      id,
    );
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
    out.push(...this.surroundings.health(), ...this.failovers.health());
    if (this.snapshot?.recovering === true) out.push({ part: 'recovery', ok: false, text: recoveryText });
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
}

/** What the agent remembers after a step that went well. */
function afterStep(m: VmMemory, step: VmStep, nowMs: number): VmMemory {
  switch (step.do) {
    case 'start':
      return {
        stop: null,
        failure: null,
        armFailedMs: m.armFailedMs,
        note: '',
        crashesMs: step.crashed ? [...m.crashesMs, nowMs].slice(-restartsKeptMax) : m.crashesMs,
      };
    case 'ask-stop':
      return {
        ...m,
        failure: null,
        stop: { sinceMs: m.stop?.sinceMs ?? nowMs, lastAskMs: nowMs, asked: (m.stop?.asked ?? 0) + 1 },
      };
    case 'reset-hung':
      return { ...m, failure: null, crashesMs: [...m.crashesMs, nowMs].slice(-restartsKeptMax) };
    case 'arm':
    case 'disarm':
    case 'set-standby':
      return { ...m, armFailedMs: null };
    case 'settle':
      return { ...m, stop: null, failure: null, note: step.note };
    default:
      return { ...m, failure: null };
  }
}

const flotillaError = (r: ReturnType<typeof errorRecord>): FlotillaError =>
  new FlotillaError(r.code, r.message, { hint: r.hint, details: r.details });
