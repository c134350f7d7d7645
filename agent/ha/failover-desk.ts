import {
  decideFailover,
  type FailoverAction,
  type FailoverPlan,
  type FailoverView,
  type FailoverWait,
  type WaitCode,
} from '../../core/decide/failover.js';
import { freeMiB, reachOf, type Reach } from '../../core/decide/standby.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { suspectAfterMs, type Health, type PoolUse } from '../../core/domain/node.js';
import { migrateArgs } from '../../core/domain/migration.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { announce } from '../announce.js';
import type { AgentEnv, HeardNode } from '../env.js';
import type { Kept, Snapshot } from '../snapshot.js';
import type { Observed } from '../vm/domains.js';
import type { Turns } from '../vm/turns.js';
import { valuesOf, type Ownership, type Subject } from '../vm/ownership.js';
import { AbsenceMemory } from './absence.js';
import { Fencing } from './fencing.js';
import type { Loads } from './load.js';
import { Takeover } from './takeover.js';
import { failoverOps, timelineOf } from './timeline.js';

/** While a node is suspected or newly gone the ledger is looked at so often, ms. */
const watchfulMs = 500;
/** For so long after the fence wait, ms: then its VMs are taken, or wait for something that rings. */
const watchfulMsMax = 60_000;

/** A takeover that failed for more than a lost race is tried again after this long, ms: keepers and pools mend in seconds. */
const failedMs = 5_000;

/** Reasons to wait that pass by themselves: nobody has to be told. */
const passing: ReadonlySet<string> = new Set<WaitCode>(['fence-wait', 'brake', 'standby']);

/** What of this node a plan needs. */
export interface Here {
  readonly domains: ReadonlyMap<string, Observed>;
  readonly pools: readonly PoolUse[];
  readonly memoryBytes: number;
  readonly loads: Loads;
}

/** Watches over the VMs of other nodes, and makes this node their owner when it is time. */
export class FailoverDesk {
  private readonly env: AgentEnv;
  private readonly turns: Turns;
  private readonly absences = new AbsenceMemory();
  private readonly takeover: Takeover;
  private readonly fencing: Fencing;
  /** When this node first saw an unfinished takeover, by op. */
  private readonly flights = new Map<string, number>();
  private readonly lastBeatMs = new Map<string, number>();
  private readonly told = new Map<string, string>();
  /** Since when a VM waits for its living standby alone. */
  private readonly idle = new Map<string, number>();
  /** The last failure of each takeover: said once. */
  private readonly failed = new Map<string, string>();
  private waiting: readonly FailoverWait[] = [];
  private names: ReadonlyMap<string, string> = new Map();

  constructor(env: AgentEnv, own: Ownership, turns: Turns, wake: () => void) {
    this.env = env;
    this.turns = turns;
    this.takeover = new Takeover(env, own);
    this.fencing = new Fencing(env, wake);
  }

  stop(): void {
    this.fencing.stop();
  }

  /** VMs of lost nodes that are not taken, and why. */
  get waits(): readonly FailoverWait[] {
    return this.waiting;
  }

  /** What people should know of {@link waits}: not that a wait of seconds runs. */
  health(): Health[] {
    const stuck = this.waiting.filter((w) => !passing.has(w.code));
    if (stuck.length === 0) return [];
    const texts = stuck.slice(0, 3).map((w) => `VM "${this.names.get(w.vm) ?? w.vm}": ${w.text}`);
    const more = stuck.length > 3 ? ` · and ${stuck.length - 3} more` : '';
    return [{ part: 'failover', ok: false, text: (texts.join(' · ') + more).slice(0, 500) }];
  }

  /**
   * Plans and begins. Never waits.
   *
   * @param atMs - monotonic ms at the answer of that reading
   * @returns ms after which to look again; null: no need
   */
  look(s: Snapshot, atMs: number, here: Here): number | null {
    const now = this.env.clock.nowMs();
    const heard = new Map(this.env.radio.heard().map((h) => [h.node, h]));
    this.noteBeats(heard, now);
    this.absences.look(s, atMs, this.peers(s));
    const newest = this.absences.newestMs(now);
    if (newest === null && !this.someSuspect(s, heard)) {
      this.idle.clear();
      this.settle({ actions: [], waiting: [], againMs: null }, s);
      return null;
    }
    const plan = decideFailover(this.view(s, here, heard, now), now);
    this.noteIdle(plan, now);
    this.settle(plan, s);
    for (const a of plan.actions) if (a.do !== 'fence') this.act(a, s);
    this.fencing.look(
      plan.actions.filter((a) => a.do === 'fence'),
      s,
    );
    const watchful = newest === null || newest < this.env.timing.fenceWaitMs + watchfulMsMax;
    const again = plan.againMs ?? Infinity;
    return watchful ? Math.min(again, watchfulMs) : again === Infinity ? null : again;
  }

  private peers(s: Snapshot): Set<string> {
    const ids = new Set(s.nodes.keys());
    for (const { value: own } of s.owns.values()) {
      ids.add(own.owner);
      if (own.standby !== null) ids.add(own.standby);
    }
    ids.delete(this.env.node);
    return ids;
  }

  private noteBeats(heard: ReadonlyMap<string, HeardNode>, now: number): void {
    for (const [node, h] of heard) if (h.beatAgeMs !== null) this.lastBeatMs.set(node, now - h.beatAgeMs);
  }

  /** Only a reason to look more often: the ledger says who is gone. Bounded: a broker may stay away for days. */
  private someSuspect(s: Snapshot, heard: ReadonlyMap<string, HeardNode>): boolean {
    for (const node of s.lives.keys()) {
      const ageMs = node === this.env.node ? null : (heard.get(node)?.beatAgeMs ?? null);
      if (ageMs !== null && ageMs > suspectAfterMs && ageMs < watchfulMsMax) return true;
    }
    return false;
  }

  private view(s: Snapshot, here: Here, heard: ReadonlyMap<string, HeardNode>, now: number): FailoverView {
    const { env } = this;
    const me = s.nodes.get(env.node)?.value;
    const keeper = env.keeper.state();
    const [disks, pools] = [valuesOf(s.disks), valuesOf(s.pools)];
    const ids = [...this.peers(s), env.node];
    return {
      me: env.node,
      live: env.live.compare() !== null && s.meta !== null,
      policy: s.policy.ha,
      fenceWaitMs: env.timing.fenceWaitMs,
      standbyGraceMs: env.timing.standbyGraceMs,
      idle: this.idle,
      nodes: ids.map((id) => {
        const n = s.nodes.get(id)?.value;
        return {
          id,
          rack: n?.rack ?? null,
          counts: n?.desired === 'active' && !n.witness,
          absence: this.absences.of(id),
          fenced: s.fenced.get(id)?.value ?? null,
          bmc: s.bmcs.has(id) && env.fencer !== undefined,
          beatMs: this.lastBeatMs.get(id) ?? null,
        };
      }),
      vms: [...s.owns].flatMap(([id, { value: own }]) => {
        const spec = s.specs.get(id)?.value;
        if (spec === undefined) return [];
        const phase = heard.get(own.owner)?.vms.get(id)?.state.phase;
        return {
          id,
          name: spec.name,
          memoryMiB: spec.memoryMiB,
          ha: spec.ha,
          own,
          wanted: spec.power !== 'stopped',
          running:
            own.owner === env.node
              ? here.domains.get(id)?.active === true
              : this.absences.of(own.owner) === null && (phase === 'running' || phase === 'paused'),
          left: own.owner !== env.node && leftOver(here.domains.get(id)),
          reach: ownersToMake(spec, own, s) ?? reachOf(spec, disks, pools),
        };
      }),
      here: {
        stays: me !== undefined && me.desired !== 'leaving',
        runsVms: me?.desired === 'active' && !me.witness,
        armable: keeper?.armable ?? { ok: false, why: 'it does not answer' },
        pools: here.pools,
        freeMiB: freeMiB(here.memoryBytes, [here.loads.of(env.node)]),
      },
      inFlight: this.inFlight(s, now),
      wallMs: env.clock.wallMs(),
    };
  }

  private inFlight(s: Snapshot, now: number): FailoverView['inFlight'] {
    const open = failoverOps(s).filter((k) => timelineOf(k.value)?.phasesMs.running === undefined);
    for (const id of this.flights.keys()) if (!open.some((k) => k.value.id === id)) this.flights.delete(id);
    return open.map(({ value: op }) => {
      const sinceMs = this.flights.get(op.id) ?? now;
      this.flights.set(op.id, sinceMs);
      return { vm: op.subject.id, sinceMs };
    });
  }

  /** Kept while a VM waits for nothing else; one to be taken keeps it, too, should the taking fail. */
  private noteIdle(plan: FailoverPlan, now: number): void {
    const still = new Set(plan.waiting.flatMap((w) => (w.code === 'standby' ? [w.vm] : [])));
    for (const id of still) this.idle.set(id, this.idle.get(id) ?? now);
    for (const a of plan.actions) if (a.do !== 'fence') still.add(a.vm);
    for (const id of this.idle.keys()) if (!still.has(id)) this.idle.delete(id);
  }

  /** Remembers what waits, and says each new reason once. */
  private settle(plan: FailoverPlan, s: Snapshot): void {
    this.waiting = plan.waiting;
    this.names = new Map(plan.waiting.map((w) => [w.vm, s.specs.get(w.vm)?.value.name ?? w.vm]));
    for (const id of this.failed.keys()) if (!s.owns.has(id)) this.failed.delete(id);
    for (const id of this.told.keys()) if (!plan.waiting.some((w) => w.vm === id)) this.told.delete(id);
    for (const w of plan.waiting) {
      if (this.told.get(w.vm) === w.code) continue;
      this.told.set(w.vm, w.code);
      if (w.code === 'standby') continue; // the standby itself says what keeps it
      const level = w.code === 'fence-wait' || w.code === 'brake' || w.code === 'after' ? 'info' : 'warning';
      announce(this.env, level, this.names.get(w.vm) ?? w.vm, `failover: ${w.text}`);
    }
  }

  private act(a: Exclude<FailoverAction, { do: 'fence' }>, snapshot: Snapshot): void {
    const spec = snapshot.specs.get(a.vm);
    const own = snapshot.owns.get(a.vm);
    if (spec === undefined || own === undefined || !this.turns.begin(a.vm)) return;
    const s: Subject = { id: a.vm, spec, own, domain: null, snapshot };
    const { name } = spec.value;
    void (async () => {
      try {
        if (a.do === 'take') await this.takeover.take(a, s, this.lastBeatMs.get(a.from) ?? null);
        else await this.takeover.move(a, s);
        this.failed.delete(a.vm);
        announce(this.env, 'warning', name, `taken over from ${a.from}`);
      } catch (e) {
        const quiet = e instanceof FlotillaError && ['stale-view', 'ledger-unavailable'].includes(e.code);
        const text = `failover from ${a.from}: ${errorRecord(e).message}`;
        if (!quiet && this.failed.get(a.vm) !== text) {
          this.failed.set(a.vm, text);
          announce(this.env, 'error', name, text);
        }
        // Not in a tight loop where the ledger and this node see things differently.
        await this.env.clock.sleep(quiet ? watchfulMs : failedMs);
      } finally {
        this.turns.end(a.vm);
      }
    })();
  }
}

/** It is to migrate to this node, or does: armed for that. */
const coming = (vm: string, s: Snapshot, me: string): boolean =>
  [...s.ops.values()].some(
    ({ value: op }) =>
      op.kind === 'vm.migrate' && op.subject.id === vm && !opFinished(op) && migrateArgs(op)?.to === me,
  );

/** A machine of before. The copy of a migration is none: it never ran here, and its new owner destroys it first. */
const leftOver = (d: Observed | undefined): boolean => d?.active === true && d.mark?.incoming !== true;

/**
 * VMs that the keeper counts as armed though this node has nothing to do with them any more: what a crash between
 * two steps left, or a VM that went to another node. An unreadable record is not an absent one.
 */
export function strays(
  armed: readonly string[],
  s: Snapshot,
  domains: ReadonlyMap<string, Observed>,
  me: string,
): string[] {
  return armed.filter((id) => {
    if (domains.get(id)?.active === true) return false;
    const own = s.owns.get(id);
    if (own !== undefined) return own.value.owner !== me && !coming(id, s, me);
    return !s.specs.has(id) && !s.unreadable.some((k) => k.includes(`/${id}/`));
  });
}

/**
 * A disk half written from a snapshot that only its owner has: nobody else could end that. Null: there is none, or the VM is
 * to be deleted, which any owner can do.
 */
function ownersToMake(spec: VmSpec, own: VmOwn, s: Snapshot): Reach | null {
  const disk = spec.disks
    .flatMap((d) => s.disks.get(d.disk)?.value ?? [])
    .find(
      ({ state, source }) =>
        state === 'wanted' &&
        source.kind === 'snapshot' &&
        s.vmSnapshots.get(source.snapshot)?.value.node === own.owner,
    );
  if (disk === undefined) return null;
  const goes = ({ value: o }: Kept<Op>): boolean =>
    o.kind === 'vm.delete' && o.subject.id === spec.id && !opFinished(o);
  if ([...s.ops.values()].some(goes)) return null;
  return { ok: false, why: `disk "${disk.name}" is being made from a snapshot that only ${own.owner} has` };
}
