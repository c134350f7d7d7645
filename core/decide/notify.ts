import { formatSize } from '../domain/units.js';
import { failoverTotalMs } from '../domain/failover-words.js';
import { failoverTimelineSchema } from '../domain/ha.js';
import { silentAfterMs, type NodeRecord, type NodeState } from '../domain/node.js';
import {
  incidentsOpenMax,
  incidentsToldMax,
  type Incident,
  type IncidentKind,
  type Notification,
  type NotifyState,
} from '../domain/notify.js';
import { opFinished, type Op } from '../domain/op.js';
import type { Pool } from '../domain/pool.js';
import type { VmState } from '../domain/vm.js';

/** What incidents are found in. */
export interface NotifyView {
  readonly nodes: readonly NodeRecord[];
  /** Nodes whose lease stands. */
  readonly live: ReadonlySet<string>;
  readonly ops: readonly Op[];
  readonly pools: ReadonlyMap<string, Pool>;
  readonly heard: readonly {
    readonly node: string;
    readonly beatAgeMs: number | null;
    readonly state: NodeState | null;
    readonly vms: ReadonlyMap<string, { readonly state: VmState }>;
  }[];
}

/** An incident is told when it has lasted so long, ms: what mends itself at once is nothing to wake people for. */
const settleMs: Readonly<Record<IncidentKind, number>> = {
  'node-down': 15_000,
  failover: 0,
  drive: 60_000,
  // A first copy and a short absence of the peer mend themselves.
  copies: 300_000,
  pool: 60_000,
  certificate: 60_000,
  health: 120_000,
};
/** A node that was told to restart is down as long as this without being told of, ms. */
const restartMs = 30 * 60_000;
/** So long others are waited for, that are told with it: a node's death brings failovers, seconds apart, ms. */
const gatherMs = 20_000;
/** What is not seen any more for so long is over, ms. */
const overMs = 60_000;
/** Between two notifications, ms. */
const gapMs = 60_000;
/** One that comes back within this time after it was over is not told again, ms. */
const flapMs = 3_600_000;
/** A failover that ended is still news for so long, ms. */
const failoverNewsMs = 600_000;
/** A pool of drives above this is full, percent: writes of guests stop at its end. */
const thinFullPct = 80;

/** Parts of an agent that follow from its node's being cut off, which is told already. */
const follows: ReadonlySet<string> = new Set(['lease', 'ledger', 'voters']);

/** All that somebody should know of now, by key. @param wallMs - now */
export function incidentsOf(v: NotifyView, wallMs: number): Incident[] {
  const out = new Map<string, Incident>();
  const say = (kind: IncidentKind, key: string, node: string | null, text: string): void => {
    const full = `${kind}/${key}`.slice(0, 128);
    if (!out.has(full)) out.set(full, { key: full, kind, node, text: text.slice(0, 240) });
  };
  // Told to restart; where it does not come back, its operation is what fails, or it is told after a while.
  const restarts = new Set(
    v.ops.flatMap((o) =>
      (o.kind === 'node.reboot' || o.kind === 'node.update') &&
      !opFinished(o) &&
      'boot' in o.args &&
      wallMs - o.updatedMs < restartMs
        ? o.node
        : [],
    ),
  );
  for (const n of v.nodes)
    // One that was powered off on purpose is no incident.
    if (!v.live.has(n.id) && n.desired !== 'leaving' && n.asleep === undefined && !restarts.has(n.id))
      say('node-down', n.id, null, `node ${n.id} is down`);
  for (const op of v.ops) {
    if (op.kind !== 'vm.failover' || (opFinished(op) && wallMs - op.updatedMs > failoverNewsMs)) continue;
    const t = failoverTimelineSchema.safeParse(op.args);
    const took = t.success ? failoverTotalMs(t.data) : null;
    const where = t.success ? `from ${t.data.from} to ${t.data.to}` : `to ${op.node ?? '?'}`;
    const how = took === null ? op.state : `runs again after ${(took / 1000).toFixed(1)} s`;
    say('failover', op.id, null, `failover of VM ${op.subject.name} ${where}: ${how}`);
  }
  for (const h of v.heard) {
    const s = h.state;
    if (s === null || h.beatAgeMs === null || h.beatAgeMs > silentAfterMs) continue;
    for (const d of s.drives ?? [])
      if (d.health?.well === false)
        say(
          'drive',
          `${h.node}/${d.serial || d.device}`,
          h.node,
          `drive ${d.device} of ${h.node}: ${d.health.text}`,
        );
    for (const u of s.pools) {
      const pool = v.pools.get(u.pool);
      const name = `pool ${pool?.name ?? u.pool} on ${h.node}`;
      const full =
        u.thin === undefined
          ? u.totalBytes > 0 && (100 * u.freeBytes) / u.totalBytes < (pool?.reservePct ?? 0)
          : Math.max(u.thin.dataPct, u.thin.metadataPct) > thinFullPct;
      if (!u.ok) say('pool', `${u.pool}/${h.node}`, h.node, `${name} cannot be used: ${u.text}`);
      else if (full)
        say('pool', `${u.pool}/${h.node}`, h.node, `${name} is nearly full: ${formatSize(u.freeBytes)} free`);
    }
    for (const x of s.health)
      if (!x.ok && !follows.has(x.part))
        say(
          x.part === 'certificate' ? 'certificate' : 'health',
          `${h.node}/${x.part}`,
          h.node,
          `${x.part} of ${h.node}: ${x.text}`,
        );
    for (const { state: vm } of h.vms.values()) {
      const bad = vm.copies?.find((c) => c.state !== 'in-sync');
      if (bad !== undefined) say('copies', vm.vm, h.node, `disk ${bad.name} of VM ${vm.name}: ${bad.text}`);
    }
  }
  return [...out.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

/** Since when keys are seen, and open ones are not, by the leader's monotonic clock. */
export interface NotifyMemory {
  readonly seen: ReadonlyMap<string, number>;
  readonly missed: ReadonlyMap<string, number>;
}
export const notifyMemoryNone: NotifyMemory = { seen: new Map(), missed: new Map() };

/**
 * Whether it is time to tell something. What began and what is over is gathered to one notification, and each incident is
 * told once, whatever leader comes next: what was told is in the state.
 *
 * @param silent - nodes of whose incidents nobody knows whether they are over
 * @returns the state as it shall be; its outbox is what is to be sent. Null: nothing to tell now
 */
export function decideNotify(o: {
  readonly state: NotifyState;
  readonly memory: NotifyMemory;
  readonly now: readonly Incident[];
  readonly silent: ReadonlySet<string>;
  readonly nowMs: number;
  readonly wallMs: number;
}): { readonly state: NotifyState | null; readonly memory: NotifyMemory } {
  const { state, nowMs, wallMs } = o;
  const keys = new Set(o.now.map((i) => i.key));
  const since = (before: ReadonlyMap<string, number>, all: readonly string[]): Map<string, number> =>
    new Map(all.map((k) => [k, before.get(k) ?? nowMs]));
  const gone = state.open.filter((i) => !keys.has(i.key) && !(i.node !== null && o.silent.has(i.node)));
  const memory: NotifyMemory = {
    seen: since(o.memory.seen, [...keys]),
    missed: since(
      o.memory.missed,
      gone.map((i) => i.key),
    ),
  };
  const none = { state: null, memory };
  if (state.outbox !== null) return none;
  const open = new Set(state.open.map((i) => i.key));
  const flapped = new Set(state.past.filter((p) => wallMs - p.overMs < flapMs).map((p) => p.key));
  /** Ms since it is ripe to be told; below 0: not yet. */
  const ripe = (i: Incident): number => nowMs - (memory.seen.get(i.key) ?? nowMs) - settleMs[i.kind];
  const began = o.now.filter((i) => !open.has(i.key) && !flapped.has(i.key) && ripe(i) >= 0);
  const over = gone.filter((i) => nowMs - (memory.missed.get(i.key) ?? nowMs) >= overMs);
  // That a failover is no news any more is none.
  const told = over.filter((i) => i.kind !== 'failover');
  const waited = began.some((i) => ripe(i) >= gatherMs);
  const quiet = state.last === null || Math.abs(wallMs - state.last.atMs) >= gapMs;
  if ((!waited && over.length === 0) || !quiet) return none;
  const all = [
    ...began.map((i) => ({ ...i, sinceMs: wallMs })),
    ...state.open.filter((i) => !over.includes(i)),
  ];
  const outbox: Notification = {
    atMs: wallMs,
    began: began.slice(0, incidentsToldMax),
    over: told.slice(0, incidentsToldMax).map(({ sinceMs: _, ...i }) => i),
    more: Math.max(0, began.length - incidentsToldMax) + Math.max(0, told.length - incidentsToldMax),
  };
  return {
    memory,
    state: {
      open: all.slice(0, incidentsOpenMax),
      past: [
        // What does not fit among the open ones is not told again at once either.
        ...[...over, ...all.slice(incidentsOpenMax)].map((i) => ({ key: i.key, overMs: wallMs })),
        ...state.past.filter((p) => flapped.has(p.key)),
      ].slice(0, incidentsOpenMax),
      outbox: began.length + told.length === 0 ? null : outbox,
      last: state.last,
    },
  };
}
