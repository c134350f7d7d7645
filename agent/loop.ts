import { errorRecord, FlotillaError } from '../core/domain/error.js';
import type { Health } from '../core/domain/node.js';
import type { VmOwn } from '../core/domain/vm.js';
import { ledgerRoot } from '../core/wire/ledger-keys.js';
import { announce } from './announce.js';
import type { AgentEnv } from './env.js';
import { Epochs } from './epochs.js';
import { ExportWorker } from './export/export-worker.js';
import { ImageWorker } from './image-worker.js';
import { BmcTests } from './ha/bmc-tests.js';
import { FailoverDesk, strays } from './ha/failover-desk.js';
import { GuestHang } from './ha/guest-hang.js';
import { Protection } from './ha/protection.js';
import { StandbyNotes } from './ha/standby-notes.js';
import { failoverOps, Timelines } from './ha/timeline.js';
import type { LockstepAnswers, LockstepAsk } from '../core/wire/lockstep.js';
import { LockstepDesk } from './lockstep/lockstep-desk.js';
import { ReplicaDesk } from './replica/replica-desk.js';
import { StandbyDesk } from './replica/standby-desk.js';
import { UpdateDesk } from './slots/update-desk.js';
import { OpBook } from './op-book.js';
import { NodeLine } from './node-line.js';
import { BalanceDesk } from './plan/balance-desk.js';
import { BulkDesk } from './plan/bulk-desk.js';
import { DrainDesk } from './plan/drain-desk.js';
import { ClassDesk } from './class/class-desk.js';
import { LoadBook } from './plan/load-book.js';
import { outlookOf } from './plan/outlook.js';
import { PowerDesk } from './plan/power-desk.js';
import { PowerOps } from './plan/power-ops.js';
import { RollingDesk } from './plan/rolling-desk.js';
import { TemplateDesk } from './vapp/template-desk.js';
import { RestartDesk } from './vapp/restart-desk.js';
import { VappDesk } from './vapp/vapp-desk.js';
import { Snapshots, type Kept, type Snapshot } from './snapshot.js';
import { Surroundings } from './surroundings.js';
import { SnapshotDesk } from './vm-snapshots/snapshot-desk.js';
import { VmActor } from './vm/actor.js';
import { Ownership } from './vm/ownership.js';
import { DiskMaker } from './vm/disk-maker.js';
import { DiskMoves } from './vm/disk-moves.js';
import { Domains, type Observed } from './vm/domains.js';
import { GuestInfo } from './vm/guest-info.js';
import { MigrationDesk } from './vm/migration-desk.js';
import { Turns } from './vm/turns.js';
import { Usage } from './vm/usage.js';
import { idlePassMs, VmDesk } from './vm/vm-desk.js';

export { idlePassMs };
/** Two passes are at least this far apart, so that a storm of bells is one pass, ms. */
const passGapMs = 50;
/** The keeper is asked again to let go of a VM that is not this node's after this long, ms. */
const strayAgainMs = 1_000;
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
  private readonly epochs: Epochs;
  private readonly vms: VmDesk;
  private readonly turns: Turns;
  private readonly line: NodeLine;
  private readonly ops: OpBook;
  private readonly images: ImageWorker;
  private readonly exports: ExportWorker;
  private readonly vmSnapshots: SnapshotDesk;
  private readonly updates: UpdateDesk | null;
  private readonly guests: GuestInfo;
  private readonly maker: DiskMaker;
  private readonly usage: Usage;
  private readonly surroundings: Surroundings;
  private readonly protection: Protection;
  private readonly failovers: FailoverDesk;
  private readonly bmcTests: BmcTests;
  private readonly timelines: Timelines;
  private readonly standbyNotes: StandbyNotes;
  private readonly hangs: GuestHang;
  private readonly migrations: MigrationDesk;
  private readonly replicas: ReplicaDesk;
  private readonly standbys: StandbyDesk;
  private readonly lockstep: LockstepDesk | null;
  private readonly moves: DiskMoves;
  private readonly drains: DrainDesk;
  private readonly bulks: BulkDesk;
  private readonly rolling: RollingDesk;
  private readonly balance: BalanceDesk;
  private readonly power: PowerDesk;
  private readonly powerOps: PowerOps;
  private readonly vapps: VappDesk;
  private readonly restarts: RestartDesk;
  private readonly templates: TemplateDesk;
  private readonly classes: ClassDesk;

  private snapshot: Snapshot | null = null;
  private snapshotMs = -Infinity;
  private observed = new Map<string, Observed>();
  private hypervisorError: string | null = 'not connected yet';
  private ledgerError: string | null = 'not read yet';
  private holdsError: string | null = null;
  private completed: number | null = null;
  private told = false;

  private seq = 0;

  private rung = false;
  private ring: (() => void) | null = null;
  private readonly stopping = new AbortController();
  private running: Promise<void> | null = null;
  private readonly unhook: (() => void)[] = [];

  /**
   * @param onSnapshot - told of each new reading of the ledger: endpoints, peers and tokens follow from it
   * @param alsoHealth - parts of the agent beside the loop
   * @param onPass - called after each finished pass that saw this node's machines
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
    this.epochs = new Epochs(env);
    this.ops = new OpBook(env);
    const ownership = new Ownership(env);
    this.timelines = new Timelines(env, this.ops, () => this.wake());
    this.turns = new Turns((id) => {
      this.domains.forget(id);
      this.wake();
    });
    this.protection = new Protection(env);
    this.standbyNotes = new StandbyNotes(env);
    this.failovers = new FailoverDesk(env, ownership, this.turns, () => this.wake());
    this.bmcTests = new BmcTests(env, () => this.wake());
    this.drains = new DrainDesk(env, () => this.wake());
    this.bulks = new BulkDesk(env, () => this.wake());
    this.rolling = new RollingDesk(env, () => this.wake());
    const loads = new LoadBook(env);
    this.balance = new BalanceDesk(env, loads, () => this.wake());
    this.power = new PowerDesk(env, loads, () => this.wake());
    this.powerOps = new PowerOps(env, () => this.wake());
    this.vapps = new VappDesk(env, () => this.wake());
    this.restarts = new RestartDesk(env, () => this.wake());
    this.templates = new TemplateDesk(env, () => this.wake());
    this.classes = new ClassDesk(env, () => this.wake());
    this.line = new NodeLine(env);
    this.hangs = new GuestHang(env, () => this.wake());
    this.images = new ImageWorker(env, this.ops, () => this.wake());
    this.exports = new ExportWorker(env, this.ops, () => this.wake());
    this.vmSnapshots = new SnapshotDesk(env, this.ops, ownership, this.turns, () => this.wake());
    this.updates =
      env.slots === undefined ? null : new UpdateDesk(env, env.slots, this.ops, () => this.wake());
    this.guests = new GuestInfo(env, () => this.wake());
    this.replicas = new ReplicaDesk(env, this.turns, () => this.wake());
    this.migrations = new MigrationDesk(
      env,
      this.ops,
      ownership,
      this.turns,
      this.replicas,
      () => this.wake(),
      (id, own) => this.handedOver(id, own),
    );
    this.standbys = new StandbyDesk(env, {
      ops: this.ops,
      words: (vm, s) => this.replicas.words(vm, s),
      loads: (s) => this.protection.loads(s),
      runs: (vm) => this.observed.get(vm)?.active === true,
      wake: () => this.wake(),
    });
    this.moves = new DiskMoves(env, {
      ops: this.ops,
      turns: this.turns,
      replicas: this.replicas,
      wake: () => this.wake(),
    });
    this.maker = new DiskMaker(env, this.ops, this.replicas, () => this.wake());
    this.usage = new Usage(env, () => this.publish(this.snapshot));
    this.surroundings = new Surroundings(env, () => this.wake());
    this.lockstep =
      env.lockstep === undefined
        ? null
        : new LockstepDesk(env, env.lockstep, {
            ownership,
            turns: this.turns,
            choose: (spec, own, s) => outlookOf(s, env.radio.heard()).lockstep(spec, own),
            ran: (id) => this.timelines.mark(id, 'running'),
            wake: () => this.wake(),
          });
    this.vms = new VmDesk(env, {
      actor: new VmActor(
        env,
        this.ops,
        ownership,
        (id, phase) => this.timelines.mark(id, phase),
        this.migrations,
      ),
      ops: this.ops,
      maker: this.maker,
      guests: this.guests,
      usage: this.usage,
      hangs: this.hangs,
      replicas: this.replicas,
      moves: this.moves,
      protection: this.protection,
      lockstep: this.lockstep,
      snapshots: this.snapshots,
      turns: this.turns,
      domain: (id) => this.observed.get(id) ?? null,
      seq: () => ++this.seq,
      wake: () => this.wake(),
    });
  }

  /** Begins. */
  start(): void {
    this.unhook.push(
      this.env.ledger.watch(ledgerRoot, () => {
        this.snapshots.changed();
        if (!this.migrations.rang()) this.wake();
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
    this.moves.stop();
    this.images.stop();
    this.replicas.stop();
    this.exports.stop();
    this.vmSnapshots.stop();
    this.updates?.stop();
    this.lockstep?.stop();
    this.failovers.stop();
    this.bmcTests.stop();
    this.balance.stop();
    this.rolling.stop();
    this.power.stop();
    this.powerOps.stop();
    this.wake();
    await this.running;
  }

  /** Rings the bell: a pass follows soon. */
  wake(): void {
    this.rung = true;
    this.ring?.();
  }

  /** Whether a machine of that VM was here when last looked. */
  has(vm: string): boolean {
    return this.observed.has(vm);
  }

  /** A question of another node's agent about machines in lockstep. @throws FlotillaError */
  lockstepAsked(from: string, ask: LockstepAsk): Promise<LockstepAnswers[LockstepAsk['do']]> {
    if (this.lockstep !== null) return this.lockstep.asked(from, ask);
    throw new FlotillaError('unsupported', `${this.env.node} has no machines in lockstep`, {
      hint: 'Its QEMU is too old for that: see docs/lockstep.md.',
    });
  }

  /** The kernel says that both copies behind that device were written while apart. */
  splitSeen(minor: number): void {
    this.replicas.splitSeen(minor);
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
        // Without libvirt nothing here is tended, however often it is tried: that is no sign of life.
        if (this.hypervisorError === null) this.onPass();
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
    this.turns.next();
    await Promise.all([this.observeLedger(), this.observeDomains(), this.observeHolds()]);
    this.enforceHolds();
    const now = env.clock.nowMs();
    const s = this.snapshot;
    let again = idlePassMs;
    if (s !== null && this.hypervisorError === null && this.ledgerError === null) {
      const failoverAgain = s.recovering !== null ? null : this.lookAtOthers(s);
      if (failoverAgain !== null) again = Math.min(again, failoverAgain);
      if (this.env.witness !== true && s.recovering === null)
        this.migrations.look(s, this.snapshotMs, this.observed);
      if (this.env.witness !== true && s.recovering === null)
        again = Math.min(
          again,
          this.replicas.look(s, this.observed) ?? idlePassMs,
          this.standbys.look(s) ?? idlePassMs,
          this.moves.look(s, this.observed) ?? idlePassMs,
        );
      again = Math.min(again, this.drains.look(s) ?? again);
      again = Math.min(again, this.bulks.look(s) ?? again);
      if (s.recovering === null) again = Math.min(again, this.rolling.look(s) ?? again);
      this.balance.look(s);
      this.power.look(s);
      if (s.recovering === null) again = Math.min(again, this.powerOps.look(s) ?? again);
      if (s.recovering === null) again = Math.min(again, this.vapps.look(s) ?? again);
      if (s.recovering === null) again = Math.min(again, this.restarts.look(s) ?? again);
      if (s.recovering === null) again = Math.min(again, this.templates.look(s) ?? again);
      if (s.recovering === null) again = Math.min(again, this.classes.look(s) ?? again);
      this.lockstep?.look(s, this.observed);
      for (const id of this.relevant(s)) again = Math.min(again, this.vms.look(id, s, now));
      this.completed ??= now;
      if (this.env.witness !== true && s.recovering === null) {
        this.images.look(s);
        this.exports.look(s);
        this.vmSnapshots.look(s, this.observed);
        this.maker.look(s);
        this.surroundings.look(
          s,
          this.failovers.waits.some((w) => w.code === 'no-pool'),
        );
      }
      this.updates?.look(s, [...this.observed.values()].filter((d) => d.active).length);
      await this.ops.endOrphans(s).catch(() => undefined);
      await this.ops.trim(s).catch(() => undefined);
    }
    if (this.hypervisorError === null) {
      this.usage.look(this.migrations.ending());
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

  /** The copy of a VM that is this node's now goes on at once, if it was seen standing here; else the next pass sees to it. */
  private handedOver(id: string, own: Kept<VmOwn>): boolean {
    const s = this.snapshot;
    if (s === null || s.recovering !== null || this.stopping.signal.aborted) return false;
    if (this.hypervisorError !== null || this.ledgerError !== null) return false;
    if (this.observed.get(id)?.state !== 'paused' || this.turns.taken(id)) return false;
    this.vms.look(id, { ...s, owns: new Map(s.owns).set(id, own) }, this.env.clock.nowMs());
    return this.turns.taken(id);
  }

  /** VMs of other nodes: failovers, and what they leave. @returns ms after which to look again */
  private lookAtOthers(s: Snapshot): number | null {
    const { env } = this;
    this.protection.look(s);
    const again = this.failovers.look(s, this.snapshotMs, {
      domains: this.observed,
      pools: this.surroundings.pools,
      memoryBytes: this.line.memoryBytes,
      loads: this.protection.loads(s),
    });
    this.bmcTests.look(s);
    this.standbyNotes.look(s, (id) => this.observed.has(id) || this.turns.taken(id));
    this.timelines.look(s, this.observed, (id) => this.hangs.answered(id));
    for (const id of strays(env.keeper.state()?.armed ?? [], s, this.observed, env.node)) {
      if (!this.turns.begin(id)) continue;
      void env.keeper
        .disarm(id)
        .catch((e: unknown) => {
          env.log.warn(`disarming ${id}: ${errorRecord(e).message}`);
          return env.clock.sleep(strayAgainMs);
        })
        .finally(() => this.turns.end(id));
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

  private async observeLedger(): Promise<void> {
    try {
      const s = this.epochs.judge(await this.snapshots.read());
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

  private async observeHolds(): Promise<void> {
    try {
      await this.env.holds?.look();
      this.holdsError = null;
    } catch (e) {
      this.holdsError = `which VMs are held off here cannot be read: ${errorRecord(e).message}`;
    }
  }

  /** Stopping needs no ledger: what somebody holds off here goes off at once, also in the dark. */
  private enforceHolds(): void {
    const { env, snapshot } = this;
    for (const [id, hold] of env.holds?.all() ?? []) {
      const domain = this.observed.get(id);
      if (domain?.active !== true || domain.mark === null) continue;
      // Whose machine it is, is being settled between two nodes; it is seen to after that.
      if (domain.mark.incoming === true || snapshot?.owns.get(id)?.value.state === 'migrating') continue;
      if (!this.turns.begin(id)) continue;
      announce(env, 'warning', id, `forced off: ${hold.by} holds it off here`);
      void env.hypervisor
        .stop(id, 'destroy')
        .catch((e: unknown) => {
          env.log.warn(`forcing ${id} off: ${errorRecord(e).message}`);
          return env.clock.sleep(strayAgainMs);
        })
        .finally(() => this.turns.end(id));
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
    this.vms.keepOnly(ids);
    return [...ids].sort();
  }

  private async publish(s: Snapshot | null): Promise<void> {
    if (s !== null) this.vms.say(s);
    const epoch = s?.meta?.value.epoch ?? null;
    await this.line.say(
      ++this.seq,
      this.surroundings.pools,
      () => this.health(),
      epoch,
      this.surroundings.drives,
      this.replicas.unusable,
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
    out.push(...this.surroundings.health(), ...this.failovers.health(), ...this.replicas.health());
    out.push(...this.standbys.health());
    const recovering = this.snapshot?.recovering ?? null;
    if (recovering !== null) out.push({ part: 'recovery', ok: false, text: recovering });
    const unreadable = this.snapshot?.unreadable ?? [];
    if (unreadable.length > 0) {
      out.push({
        part: 'records',
        ok: false,
        text: `${unreadable.length} unreadable: ${unreadable.slice(0, 3).join(', ')}`.slice(0, 500),
      });
    }
    if (this.holdsError !== null) out.push({ part: 'holds', ok: false, text: this.holdsError.slice(0, 500) });
    out.push(...this.alsoHealth());
    return out;
  }
}
