import { brakeMs, massShare } from '../../../core/decide/failover.js';
import { killOverdueMs, zombieMs } from '../../../core/decide/keeper.js';
import { opFinished, opsKeptMax, type Op } from '../../../core/domain/op.js';
import type { VmOwn } from '../../../core/domain/vm.js';
import { admittedKey } from '../../../core/wire/key-names.js';
import { epochKey, ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Compare, Write } from '../../../agent/ledger/ledger.js';
import type { World } from './world.js';

/** Between a plan and its transaction lies the keeper's next renewal, and a slow ledger, ms. */
const planMs = 6_000;
/** A mass failure that began just now is not known to everybody, ms. */
const massKnownMs = 3_000;
/** Beyond the bound that a rule names, before a checker speaks, ms. */
const slackMs = 30_000;
/** A keeper without a lease has ended a twin within this, ms. */
const twinEndsMs = 3_000;
/** A VM that waits for others is taken so long after the last of them gave way, ms: a pass, and a slow ledger. */
const brakedMs = 20_000;
/** An ownership record names so many failovers, at most. */
const failoversKept = 16;
/** Starts in vain within a minute that a backoff from 2 s to a minute does not explain. */
const startsMax = 8;
/** Longest value of a key. @see safety 12 */
const valueBytesMax = 65_536;

/** The rules of the protocol that are more than a promise: who may write what, and when. */
export class RuleChecks {
  readonly #world: World;
  readonly #report: (rule: string, text: string) => void;
  /** When the live key of a node really went, by the ledger. */
  readonly #goneMs = new Map<string, number>();
  #massSinceMs: number | null = null;
  /** Machines that a keeper has said it kills, and since when it has been frozen with them. */
  readonly #doomed = new Map<string, number>();
  readonly #neglectedMs = new Map<string, number>();
  /** VMs that wait for others, and until when at most. */
  readonly #braked = new Map<string, number>();
  /** When each VM was owned anew for a start that has brought no machine yet. */
  readonly #starts = new Map<string, number[]>();
  /** Twins on nodes without a lease, and since when. */
  readonly #twinsMs = new Map<string, number>();
  #opsOverMs: number | null = null;
  #epoch: string | null = null;
  #epochMs: number | null = null;
  #ticks = 0;

  constructor(world: World, report: (rule: string, text: string) => void) {
    this.#world = world;
    this.#report = report;
    for (const n of world.nodes.keys()) this.#goneMs.set(n, 0);
    world.voters.store.onTxn = (by, compare, writes) => this.#written(by, compare, writes);
  }

  liveChanged(node: string, alive: boolean): void {
    if (alive) this.#goneMs.delete(node);
    else this.#goneMs.set(node, this.#world.time.nowMs);
    const { mass } = this.#gone();
    if (!mass) this.#massSinceMs = null;
    else this.#massSinceMs ??= this.#world.time.nowMs;
  }

  /** R1, R2, safety 10: each ownership is written by who may, on what it read, in the ledger's epoch, while alive. */
  #written(by: string, compare: readonly Compare[], writes: readonly Write[]): void {
    const { store } = this.#world.voters;
    for (const w of writes) {
      const vm = 'put' in w ? kinds.vmOwn.idOf(w.put) : null;
      if (vm === null || !('put' in w)) continue;
      const node = by.split(' ')[1] ?? '';
      const live = store.peek(kinds.live.key(node));
      const compares = (holds: (c: Compare) => boolean): boolean => compare.some(holds);
      if (!compares((c) => c.key === w.put && 'modRevision' in c))
        this.#report('R1', `${by} wrote the ownership of VM ${vm} without comparing what it read`);
      if (
        live === null ||
        !compares(
          (c) => c.key === live.key && 'createRevision' in c && c.createRevision === live.createRevision,
        )
      )
        this.#report('R2', `${by} wrote the ownership of VM ${vm} without its own live key`);
      const epoch = store.peek(epochKey)?.value;
      if (!compares((c) => c.key === epochKey && 'value' in c && c.value === epoch))
        this.#report('safety 10', `${by} wrote the ownership of VM ${vm} without comparing the epoch`);
      const own = JSON.parse(w.value) as VmOwn;
      const { owner, failoversMs, migration: m } = own;
      // Handed over: by who had it, to a target that lives.
      const handsOver =
        m?.handedOver === true &&
        m.to === owner &&
        m.gen + 1 === own.gen &&
        compares((c) => c.key === kinds.live.key(owner) && 'createRevision' in c && c.createRevision > 0n);
      // Given over by who cannot start it: off, to one that lives. What it was before is judged when it is seen.
      const yields =
        own.state === 'stopped' &&
        !own.fence.armed &&
        compares((c) => c.key === kinds.live.key(owner) && 'createRevision' in c && c.createRevision > 0n) &&
        compares((c) => c.key === kinds.node.key(owner) && 'modRevision' in c && c.modRevision > 0n);
      // The first there is of it: nobody has ever started it.
      const born =
        own.gen === 1 &&
        own.state === 'stopped' &&
        compares((c) => c.key === w.put && 'modRevision' in c && c.modRevision === 0n);
      if (owner !== node && !handsOver && !yields && !born)
        this.#report('safety 5', `${by} wrote the ownership of VM ${vm}, which is for ${owner} to write`);
      if (failoversMs.length > failoversKept)
        this.#report('safety 12', `the ownership of VM ${vm} grows with each failover`);
    }
    for (const w of writes)
      if ('put' in w && Buffer.byteLength(w.value) > valueBytesMax)
        this.#report('safety 12', `${by} wrote ${w.put} with more than ${valueBytesMax} bytes`);
  }

  /** R2: what a keeper counts as a renewal was confirmed by a linearizable reading sent after it. */
  renewed(node: string, goodMs: number, confirmedMs: number): void {
    if (confirmedMs >= goodMs) return;
    this.#report('R2', `the keeper of ${node} counts a renewal that no reading of its live key confirms`);
  }

  /** A VM that ran was taken over. `a`: what its ownership was. */
  took(vm: string, a: VmOwn, b: VmOwn): void {
    const w = this.#world;
    const waitMs = Math.max(w.fenceWaitMs, a.fence.waitMs);
    this.#waited(vm, a.owner, b.owner, waitMs, 'R4');
    // A standby that lives has its time; then any node may.
    const ownerGoneMs = w.time.nowMs - (this.#goneMs.get(a.owner) ?? Infinity);
    if (a.standby !== null && a.standby !== b.owner && ownerGoneMs < w.standbyGraceMs)
      this.#waited(vm, a.standby, b.owner, waitMs, 'safety 5');
    if (a.sync === 'stale') this.#report('R5', `${b.owner} took VM ${vm} on a copy that is stale`);
    this.#inTurn(vm, a, b);
  }

  /** An owner gave a VM over: nothing of it may be there any more, nor may the other copy lack anything. */
  yielded(vm: string, a: VmOwn, b: VmOwn): void {
    this.#starts.delete(vm);
    if (this.#world.nodes.get(a.owner)?.host.exists(vm) === true)
      this.#report('P1', `${a.owner} gave VM ${vm} to ${b.owner} with a machine of it left`);
    if (a.sync === 'stale') this.#report('R5', `${a.owner} gave VM ${vm} to a copy that is stale`);
    const moved = this.#world.spec(vm).power === 'stopped';
    if (!moved && this.#world.currentPolicy().hold && this.#world.time.nowMs - this.#world.policyMs > planMs)
      this.#report('safety 15', `${a.owner} gave VM ${vm} over while failovers are held`);
  }

  /** A start was written. Where no machine comes of it, its next tries cost few generations. */
  starts(vm: string): void {
    const { nowMs } = this.#world.time;
    const recent = (this.#starts.get(vm) ?? []).filter((ms) => nowMs - ms < 60_000);
    this.#starts.set(vm, [...recent, nowMs]);
    if (recent.length < startsMax) return;
    this.#starts.delete(vm);
    this.#report('safety 12', `VM ${vm} got ${startsMax + 1} generations within a minute, and no machine`);
  }

  started(vm: string): void {
    this.#starts.delete(vm);
  }

  #waited(vm: string, gone: string, by: string, waitMs: number, rule: string): void {
    const w = this.#world;
    if (w.proven.has(gone)) return;
    const sinceMs = this.#goneMs.get(gone);
    if (sinceMs === undefined)
      this.#report(rule, `${by} took VM ${vm} while ${gone} was alive in the ledger`);
    else if (w.time.nowMs - sinceMs < waitMs) {
      const ms = Math.round(w.time.nowMs - sinceMs);
      this.#report(rule, `${by} took VM ${vm} ${ms} ms after the lease of ${gone} ended, not ${waitMs}`);
    }
  }

  #gone(): { readonly mass: boolean } {
    const { store } = this.#world.voters;
    const counts = [...this.#world.nodes.keys()].filter((n) => {
      const e = store.peek(kinds.node.key(n));
      return e !== null && (JSON.parse(e.value) as { desired: string }).desired === 'active';
    });
    const gone = counts.filter((n) => this.#goneMs.has(n)).length;
    return { mass: gone > 1 && gone > counts.length * massShare };
  }

  /** Takeovers whose machine does not run yet. */
  #flights(but: string): { readonly op: Op; readonly by: string; readonly ageMs: number }[] {
    const { store } = this.#world.voters;
    const { wallMs } = this.#world;
    return store.peekAll(kinds.op.prefix).flatMap((e) => {
      const op = JSON.parse(e.value) as Op;
      const { phasesMs } = op.args as { phasesMs?: { running?: number } };
      if (op.kind !== 'vm.failover' || opFinished(op) || phasesMs?.running !== undefined) return [];
      const by = this.#world.own(op.subject.id)?.owner;
      if (op.subject.id === but || by === undefined) return [];
      return [{ op, by, ageMs: wallMs - op.createdMs }];
    });
  }

  /** Safety 15: with many nodes gone one VM after the other, the most important first. */
  #inTurn(vm: string, a: VmOwn, b: VmOwn): void {
    const w = this.#world;
    // A person may have said meanwhile that one of them is not to be there: that is no failure.
    if (!this.#gone().mass) this.#massSinceMs = null;
    if (this.#massSinceMs === null || w.time.nowMs - this.#massSinceMs < massKnownMs) return;
    for (const f of this.#flights(vm)) {
      if (f.ageMs < 0 || f.ageMs >= brakeMs) continue;
      if (f.by === b.owner || f.ageMs > planMs)
        this.#report(
          'safety 15',
          `${b.owner} took VM ${vm} while the one of VM ${f.op.subject.id} is under way`,
        );
    }
    const { priority } = w.spec(vm).ha;
    for (const other of w.vms.values()) {
      const [own, spec] = [w.own(other), w.spec(other)];
      const alike =
        own !== null &&
        own.owner === a.owner &&
        own.standby === b.owner &&
        a.standby === b.owner &&
        own.state === 'running' &&
        (own.copies.length === 0 || own.sync === 'ok') &&
        own.fence.armed === a.fence.armed &&
        own.failoversMs.length < spec.ha.restartsPerHourMax &&
        spec.ha.after.length === 0 &&
        spec.ha.enabled &&
        !w.node(b.owner).host.exists(other);
      if (alike && spec.ha.priority > priority)
        this.#report('safety 15', `${b.owner} took VM ${vm} before VM ${other}, whose priority is higher`);
    }
  }

  /** What an agent last said of a VM that waits for its failover. */
  waits(vm: string, text: string): void {
    const w = this.#world;
    const ahead = [...w.vms.values()].filter((id) => id !== vm && w.runsOn(id).length === 0).length;
    if (!text.includes('many nodes are gone at once')) this.#braked.delete(vm);
    else this.#braked.set(vm, w.time.nowMs + brakeMs * ahead + brakedMs);
  }

  /** Whether it may wait for others: many nodes are gone, and its standby said so. How long is for the check of the brake. */
  braked(vm: string): boolean {
    return this.#braked.has(vm) && this.#gone().mass;
  }

  /** A keeper has said that it kills a machine. */
  dooms(node: string, vm: string): void {
    this.#doomed.set(`${node} ${vm}`, this.#world.time.nowMs);
  }

  /** Safety 10: another owner, of a generation above what this node's journal has. */
  killed(node: string, vm: string): void {
    const w = this.#world;
    const own = w.own(vm);
    const entry = w.node(node).host.journalLast.get(vm);
    const journalGen = entry === undefined ? Infinity : entry.owner === node ? entry.gen : entry.gen - 1;
    // One that was written by a recovery may name this node, though another one's machine is newer.
    const anothers = own !== null && (own.owner !== node || own.fresh);
    if (!anothers || own.gen <= journalGen)
      this.#report('safety 10', `${node} killed VM ${vm} without proof that another node owns it since`);
  }

  tick(): void {
    this.#undead();
    this.#neglected();
    this.#blocked();
    this.#strangers();
    this.#twins();
    if (this.#ticks++ % 20 === 0) this.#growing();
  }

  /** Safety 9: where what another node owns does not die, the keeper leaves the node to its watchdog. */
  #undead(): void {
    const w = this.#world;
    for (const [key, sinceMs] of this.#doomed) {
      const [node = '', vm = ''] = key.split(' ');
      const n = w.node(node);
      const frozen = n.keeperState?.mode === 'ice' && n.keeper?.stalled !== true && !n.host.stalled;
      if (!frozen || !n.host.exists(vm) || w.own(vm)?.owner === node) this.#doomed.delete(key);
      else if (w.time.nowMs - sinceMs > killOverdueMs + w.fenceWaitMs) {
        this.#doomed.delete(key);
        this.#report(
          'safety 9',
          `${node} goes on petting though VM ${vm} of another owner does not die there`,
        );
      }
    }
  }

  /** Safety 9: a node whose agent is dead does not keep its lease for ever while a VM of it is gone. */
  #neglected(): void {
    const w = this.#world;
    for (const vm of w.vms.values()) {
      const own = w.own(vm);
      const owner = own === null ? undefined : w.nodes.get(own.owner);
      const dead = owner !== undefined && (owner.agent === null || owner.agent.stalled);
      const left =
        dead &&
        own?.fence.armed === true &&
        own.state === 'running' &&
        w.spec(vm).power === 'running' &&
        !owner.host.exists(vm) &&
        !this.#goneMs.has(owner.id);
      if (!left) {
        this.#neglectedMs.delete(vm);
        continue;
      }
      const sinceMs = this.#neglectedMs.get(vm) ?? w.time.nowMs;
      this.#neglectedMs.set(vm, sinceMs);
      if (w.time.nowMs - sinceMs <= zombieMs + slackMs) continue;
      this.#neglectedMs.set(vm, w.time.nowMs);
      this.#report('safety 9', `VM ${vm} is gone, and ${owner.id}, whose agent is dead, keeps its lease`);
    }
  }

  /** Safety 15: the brake never blocks for ever. */
  #blocked(): void {
    const w = this.#world;
    for (const [vm, untilMs] of this.#braked) {
      const own = w.own(vm);
      const standby = own === null || own.standby === null ? undefined : w.nodes.get(own.standby);
      const able =
        standby !== undefined &&
        standby.agent?.stalled === false &&
        standby.keeperState?.armable.ok === true &&
        w.voters.answers(standby.id) &&
        own?.state === 'running' &&
        this.#goneMs.has(own.owner) &&
        !w.pool.unreachable.has(standby.id) &&
        !w.currentPolicy().hold &&
        !w.currentPolicy().paused;
      if (!able) this.#braked.delete(vm);
      else if (w.time.nowMs > untilMs) {
        this.#braked.delete(vm);
        this.#report('safety 15', `VM ${vm} waits for others for ever`);
      }
    }
  }

  /** Safety 10: in a restored ledger a keeper renews only when it was admitted. */
  #strangers(): void {
    const w = this.#world;
    const { store } = w.voters;
    const now = store.peek(epochKey)?.value ?? null;
    if (now !== this.#epoch) {
      this.#epochMs = this.#epoch === null ? null : w.time.nowMs;
      this.#epoch = now;
    }
    if (this.#epochMs === null) return;
    for (const n of w.nodes.values()) {
      const s = n.keeperState;
      const counts = s?.mode === 'run' && s.goodMs !== null && s.goodMs - n.host.zeroMs > this.#epochMs;
      if (counts && store.peek(admittedKey(n.id))?.value !== now)
        this.#report('safety 10', `${n.id} renews in epoch ${now ?? 'none'}, to which nobody admitted it`);
    }
  }

  /** Safety 11: twins do not outlive their node's lease. */
  #twins(): void {
    const w = this.#world;
    for (const n of w.nodes.values()) {
      for (const vm of w.lockstep?.twins(n.id) ?? []) {
        const key = `${n.id} ${vm}`;
        const frozen = n.keeperState?.mode === 'ice' && n.keeper?.stalled !== true && !n.host.stalled;
        if (!frozen) this.#twinsMs.delete(key);
        else if (!this.#twinsMs.has(key)) this.#twinsMs.set(key, w.time.nowMs);
        else if (w.time.nowMs - (this.#twinsMs.get(key) ?? 0) > twinEndsMs) {
          this.#twinsMs.delete(key);
          this.#report('safety 11', `the twin of VM ${vm} lives on on ${n.id}, which has no lease`);
        }
      }
    }
  }

  /** Safety 12: finished operations have a cap. */
  #growing(): void {
    const w = this.#world;
    const ops = w.voters.store.peekAll(kinds.op.prefix);
    if (ops.length <= opsKeptMax || w.voters.leader === null) this.#opsOverMs = null;
    else if (ops.filter((e) => opFinished(JSON.parse(e.value) as Op)).length <= opsKeptMax)
      this.#opsOverMs = null;
    else this.#opsOverMs ??= w.time.nowMs;
    if (this.#opsOverMs === null || w.time.nowMs - this.#opsOverMs < slackMs) return;
    this.#opsOverMs = w.time.nowMs;
    this.#report('safety 12', `${ops.length} operations are in the ledger, and nobody trims them`);
  }
}
