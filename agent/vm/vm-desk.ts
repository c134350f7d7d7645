import { diffHardware } from '../../core/decide/hardware.js';
import { decideVm } from '../../core/decide/vm.js';
import { opVerdict } from '../../core/decide/vm-op.js';
import {
  freshMemory,
  type VmDecision,
  type VmHaView,
  type VmMemory,
  type VmStep,
  type VmView,
} from '../../core/decide/vm-view.js';
import type { Disk } from '../../core/domain/disk.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { VmOwn, VmProtection, VmSpec } from '../../core/domain/vm.js';
import { announce } from '../announce.js';
import type { AgentEnv, KeeperState } from '../env.js';
import type { GuestHang } from '../ha/guest-hang.js';
import type { Protection } from '../ha/protection.js';
import type { OpBook } from '../op-book.js';
import type { LockstepDesk } from '../lockstep/lockstep-desk.js';
import type { ReplicaDesk } from '../replica/replica-desk.js';
import type { Kept, Snapshot, Snapshots } from '../snapshot.js';
import type { VmActor } from './actor.js';
import type { DiskMaker } from './disk-maker.js';
import type { DiskMoves } from './disk-moves.js';
import type { Observed } from './domains.js';
import type { GuestInfo } from './guest-info.js';
import type { Subject } from './ownership.js';
import { isTransient, lockStuck, stepError, stepText } from './step-words.js';
import type { Turns } from './turns.js';
import type { Usage } from './usage.js';
import { vmLine } from './vm-line.js';
import { afterFailure, afterStep } from './vm-memory.js';
import { disksIn, wantedHardware } from './want.js';

/** Every VM is looked at again after this long even if nothing rang, ms. A lost bell costs this. */
export const idlePassMs = 5_000;
/** A dead node's lock on an NFS pool lives on for the server's lease: so long beyond the fence wait, ms. @see safety 4 */
const lockMs = 90_000;
const hourMs = 3_600_000;
/** A machine is held apart from its twin within this, ms; a bell rings when it is. */
const partMs = 500;
/** Operations that say themselves when they begin. */
const ownDesk: ReadonlySet<Op['kind']> = new Set<Op['kind']>([
  'vm.reboot',
  'vm.reset',
  'vm.migrate',
  'vm.standby',
  'vm.repair',
  'vm.move-disk',
  'vm.snapshot',
  'vm.revert',
]);
/** What a VM that is not this node's has to do with its HA. */
const notMine = {
  ha: { state: 'off', text: '', standby: null },
  step: null,
  standby: null,
  atStart: false,
  inSlice: false,
} as const;

/** What the desk works with. */
export interface VmDeskParts {
  readonly actor: VmActor;
  readonly ops: OpBook;
  readonly maker: DiskMaker;
  readonly guests: GuestInfo;
  readonly usage: Usage;
  readonly hangs: GuestHang;
  readonly replicas: Pick<ReplicaDesk, 'waits' | 'making' | 'growWaits' | 'words'>;
  readonly moves: Pick<DiskMoves, 'stands' | 'copied'>;
  readonly protection: Protection;
  /** Null: this node has no machines in lockstep. */
  readonly lockstep: Pick<LockstepDesk, 'waits' | 'holdsBack' | 'protection'> | null;
  readonly snapshots: Snapshots;
  readonly turns: Turns;
  /** As observed in this pass. */
  domain(vmId: string): Observed | null;
  /** The next number of what this node says. */
  seq(): number;
  wake(): void;
}

/** The VMs of this node: decides about each, has it done, judges the ops, and says how it is. */
export class VmDesk {
  private readonly env: AgentEnv;
  private readonly d: VmDeskParts;
  private readonly memory = new Map<string, VmMemory>();
  private readonly decisions = new Map<string, VmDecision>();
  private readonly protections = new Map<string, VmProtection>();
  /** The highest generation seen of each spec. */
  private readonly highest = new Map<string, number>();
  private readonly said = new Map<string, string>();
  /** Ops whose verdict is being written. */
  private readonly writing = new Set<string>();

  constructor(env: AgentEnv, d: VmDeskParts) {
    this.env = env;
    this.d = d;
  }

  /** Forgets VMs that this node has nothing to do with any more. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.memory.keys()) {
      if (ids.has(id) || this.d.turns.taken(id)) continue;
      for (const map of [this.memory, this.highest, this.said, this.decisions, this.protections])
        map.delete(id);
      this.env.radio.unsay('vm', id);
    }
  }

  /** Says on the radio how they are, as far as that changed. */
  say(s: Snapshot): void {
    for (const [id, decision] of this.decisions) this.tell(id, decision, s);
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

  /**
   * Decides what to do with one VM, and begins it. Never waits.
   *
   * @returns ms after which to look again
   */
  look(id: string, s: Snapshot, now: number): number {
    const spec = s.specs.get(id) ?? null;
    const own = s.owns.get(id) ?? null;
    const domain = this.d.domain(id) ?? null;
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
    const { env } = this;
    const disks = this.disksOf(s).get(id) ?? [];
    const view: VmView = {
      me: this.env.node,
      spec: spec?.value ?? null,
      own: own?.value ?? null,
      live: this.env.live.compare() !== null && s.meta !== null,
      recovering: s.recovering,
      hold: holdText(this.env, id),
      domain:
        domain === null ? null : { ...domain, diskIds: disksIn(disks, domain.hardware, s, env.volumes) },
      disks,
      moving: { stands: this.d.moves.stands(disks, domain, s), copied: this.d.moves.copied(id) },
      copies: {
        making: this.d.replicas.making(id, s),
        waits: this.d.replicas.waits(id, s),
        growWaits: (disk) => this.d.replicas.growWaits(disk, s),
      },
      lockstep: this.d.lockstep?.waits(id, s) ?? null,
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
    for (const disk of d.make) this.d.maker.make(disk, s, making);
    if (!this.d.turns.free(id)) return idlePassMs;
    this.protections.set(id, this.d.lockstep?.protection(spec.value, own.value) ?? view.ha.arming.ha);
    if (view.live && s.recovering === null) for (const k of unfinished) this.verdict(k, view, d);
    // Files are not removed under the hands of whoever makes them: the making ends first.
    if (d.step.do === 'delete' && this.d.maker.making(view.disks)) {
      this.d.maker.abort(view.disks);
      return idlePassMs;
    }
    if (this.d.lockstep?.holdsBack(id, d.step, s) === true) return partMs;
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
          ? notMine
          : this.d.protection.of(spec.value, own.value, domain?.active === true, s, now),
      frozen: keeper !== null && keeper.mode !== 'run' && keeper.armed.includes(id),
      held: s.policy.ha.hold,
      failovers: (own?.value.failoversMs ?? []).filter((t) => t <= wall && wall - t < hourMs).length,
      silentMs: this.d.hangs.silentMs(id),
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
      return diffHardware(
        wantedHardware(spec.value, s, this.env.volumes, seed, this.env.machine.cpuTune()),
        domain.hardware,
      );
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
          this.d.wake();
        });
    };
    if (v === null) {
      if (k.value.state === 'queued' && !ownDesk.has(k.value.kind)) {
        write(this.d.ops.change(k, { state: 'running', step: d.reason.slice(0, 200) || d.phase }));
      }
      return;
    }
    if (v.state === 'failed') write(this.d.ops.fail(k, flotillaError(v.error)));
    else write(this.d.ops.finish(k, v.state, v.step));
  }

  private perform(step: VmStep, s: Subject, view: VmView): void {
    const { env } = this;
    const { id } = s;
    const name = s.spec.value.name;
    if (!this.d.turns.begin(id)) return;
    const before = this.memory.get(id) ?? freshMemory;
    void (async () => {
      try {
        await this.d.actor.act(step, s);
        this.memory.set(id, afterStep(this.memory.get(id) ?? before, step, env.clock.nowMs()));
        if (step.do === 'reset-hung') this.d.hangs.forget(id);
        const text = stepText(step);
        if (text !== null)
          announce(this.env, step.do === 'start' && step.crashed ? 'error' : 'info', name, text);
      } catch (e) {
        await this.failed(step, s, view, e);
      } finally {
        this.d.turns.end(id);
      }
    })();
  }

  private async failed(step: VmStep, s: Subject, view: VmView, e: unknown): Promise<void> {
    let error = stepError(step, s.spec.value.name, e);
    if (isTransient(error)) {
      if (error.code !== 'stale-view') await this.env.clock.sleep(500);
      return;
    }
    const { env } = this;
    const m = this.memory.get(s.id) ?? freshMemory;
    let record = errorRecord(error);
    const nowMs = env.clock.nowMs();
    if (step.do === 'arm' || step.do === 'disarm' || step.do === 'set-standby') {
      // Beside the VM's life: it fails no op, and the VM's line says that it is unprotected.
      if (m.armFailedMs === null)
        announce(env, 'warning', s.spec.value.name, `${step.do}: ${record.message}`);
      this.memory.set(s.id, { ...m, armFailedMs: nowMs });
      return;
    }
    const after = afterFailure(m, step, record, nowMs);
    this.memory.set(s.id, after);
    const failingMs = nowMs - (after.failure?.sinceMs ?? nowMs);
    if (record.code === 'disk-locked') {
      if (failingMs < env.timing.fenceWaitMs + lockMs) {
        // The machine of the former owner is on its way out: no op fails for that, and it is said once.
        if (failingMs === 0) announce(env, 'warning', s.spec.value.name, record.message);
        return;
      }
      error = lockStuck(s.spec.value.name, failingMs, error);
      record = errorRecord(error);
      if (after.failure !== null)
        this.memory.set(s.id, { ...after, failure: { ...after.failure, error: record } });
    }
    env.log.error(`${step.do} of VM "${s.spec.value.name}": ${record.message}`, {
      vm: s.id,
      causes: record.causes,
    });
    announce(env, 'error', s.spec.value.name, record.message);
    for (const op of view.ops) {
      // A machine that runs was failed over, whatever cannot be changed in it.
      if (step.do === 'apply' && op.kind === 'vm.failover') continue;
      // Goes on beside it, for hours.
      if (op.kind === 'vm.move-disk') continue;
      const kept = s.snapshot.ops.get(op.id);
      if (kept === undefined) continue;
      // Read again: the step itself may have written the op.
      const now = await this.reread(kept);
      if (now !== null) await this.d.ops.fail(now, error).catch(() => undefined);
    }
  }

  private async reread(k: Kept<Op>): Promise<Kept<Op> | null> {
    const s = await this.d.snapshots.read().catch(() => null);
    return s?.ops.get(k.value.id) ?? null;
  }

  /** Says a VM's line on the radio when something in it changed. */
  private tell(id: string, decision: VmDecision, s: Snapshot): void {
    const { env } = this;
    const kept = s.specs.get(id);
    if (kept === undefined || s.owns.get(id)?.value.owner !== env.node) {
      if (this.said.delete(id)) env.radio.unsay('vm', id);
      return;
    }
    const domain = this.d.domain(id) ?? null;
    const line = vmLine({
      spec: kept.value,
      decision,
      domain,
      diff: this.diff(kept, domain, s),
      memory: this.memory.get(id) ?? freshMemory,
      guest: this.d.guests.of(id),
      stats: this.d.usage.of(id),
      paths: env.sockets.paths(id),
      copies: this.d.replicas.words(id, s),
      ha: this.protections.get(id) ?? { state: 'off', text: '', standby: null },
      held: heldWhy(env.keeper.state(), id, domain?.active === true),
    });
    const text = JSON.stringify(line);
    if (this.said.get(id) === text) return;
    this.said.set(id, text);
    env.radio.say(
      'vm',
      { ...line, node: env.node, boot: env.boot, seq: this.d.seq(), atMs: env.clock.wallMs() },
      id,
    );
  }
}

const flotillaError = (r: ReturnType<typeof errorRecord>): FlotillaError =>
  new FlotillaError(r.code, r.message, { hint: r.hint, details: r.details });

/** What its page says of a VM that somebody holds off here; null: nobody does. */
function holdText(env: AgentEnv, id: string): string | null {
  const hold = env.holds?.all().get(id);
  return hold === undefined
    ? null
    : `held off at ${env.node} by ${hold.by} since ${new Date(hold.atMs).toISOString().slice(0, 16)}Z, until it is let go there`;
}

/** Why the keeper holds its machine back; null: it does not. */
function heldWhy(k: KeeperState | null, id: string, active: boolean): string | null {
  const held = k?.held.find((h) => h.vm === id);
  if (held !== undefined) return held.why;
  const frozen = active && k !== null && k.mode !== 'run' && k.armed.includes(id);
  return frozen ? 'frozen until the ledger answers again' : null;
}
