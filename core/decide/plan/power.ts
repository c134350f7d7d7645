import { quarters, type PowerStep } from '../../domain/power.js';
import { admit } from './admission.js';
import { capacitySteps } from './capacity.js';
import type { PlanCluster, PlanNode } from './model.js';
import { Moves } from './move.js';
import { emptied } from './rolling.js';
import { nowhere } from './state.js';

const minute = 60_000;

/** Nodes that are on are woken help when their CPUs are, or soon will be, busier than this together. */
export const wakeShare = 0.7;
/** None goes to sleep where those that are left would be busier than this together, or one of them than {@link wakeShare}. */
export const sleepShare = 0.5;
/** VMs as large as the largest one for which there is room at all times, and when a node goes to sleep. */
export const roomWake = 1;
export const roomSleep = 2;
/** Load is looked for so far ahead, ms: to be woken in time takes a node minutes; to sleep is worth it for an hour. */
export const wakeAheadMs = 15 * minute;
export const sleepAheadMs = 60 * minute;
/** Sums of loads differ by less, in whatever order they are summed. */
const rounding = 1e-6;
/** Nodes tried for sleep in one plan: those with the least on them. */
const triedMax = 8;

export interface PowerView {
  /** As it is: nodes that are asleep are `dead` in it. */
  readonly cluster: PlanCluster;
  /** Nodes that may go to sleep. */
  readonly sleepers: ReadonlySet<string>;
  /** Nodes that are asleep, as they would be awake. */
  readonly asleep: readonly PlanNode[];
  /** Nodes that should be there and are not, for which no other one was woken yet. */
  readonly gone: readonly { readonly node: string; readonly about: string }[];
  /** CPUs that VMs will keep busy within {@link wakeAheadMs} and {@link sleepAheadMs}; the second is not the lower one. */
  readonly wakeCpus: number;
  readonly sleepCpus: number;
  /** Whether that VM could migrate there, for what the planner does not know. */
  may(vm: string, node: string): boolean;
}

export interface PowerPlan {
  /** Null: all is as it should be. */
  readonly step: PowerStep | null;
  /** What has to move before that node sleeps. */
  readonly moves: readonly { readonly vm: string; readonly to: string }[];
}

interface Lack {
  readonly for: 'room' | 'load';
  readonly why: string;
  /** How much is missing, to see whether a node more is any help. */
  readonly count: number;
}

/**
 * The one node that should wake, or could sleep, now. A node wakes when another one fails, when a promise does not hold or
 * nothing large would fit any more, and before load comes back; it may sleep when all of its VMs find a place elsewhere and
 * all of that stays far from being so. Ties break by name. Yields between its looks.
 */
export function* planPower(v: PowerView): Generator<undefined, PowerPlan> {
  const none: PowerPlan = { step: null, moves: [] };
  const asleep = [...v.asleep].sort((a, b) => b.memoryMiB - a.memoryMiB || (a.name < b.name ? -1 : 1));
  const [largest] = asleep;
  const [gone] = [...v.gone].sort((a, b) => (a.node < b.node ? -1 : 1));
  if (largest !== undefined && gone !== undefined)
    return {
      step: {
        do: 'wake',
        node: largest.name,
        for: 'failure',
        about: gone.about,
        why: `${gone.node} is gone`,
      },
      moves: [],
    };
  yield;
  const lack = yield* lackOf(v.cluster, v.wakeCpus, { share: wakeShare, room: roomWake });
  if (lack !== null && largest !== undefined) {
    const on = (nodes: readonly PlanNode[]): PlanCluster => withNodes(v.cluster, nodes);
    const all = yield* lackOf(on(asleep), v.wakeCpus, { share: wakeShare, room: roomWake });
    if (lack.for === 'room' && all !== null && all.count >= lack.count) return none;
    let best = largest;
    if (lack.for === 'room')
      for (const n of asleep) {
        const then = yield* lackOf(on([n]), v.wakeCpus, { share: wakeShare, room: roomWake });
        if (then !== null && then.count >= lack.count) continue;
        best = n;
        break;
      }
    return { step: { do: 'wake', node: best.name, for: lack.for, about: '', why: lack.why }, moves: [] };
  }
  if (lack !== null || v.gone.length > 0) return none;
  yield;
  return yield* sleeper(v);
}

function* sleeper(v: PowerView): Generator<undefined, PowerPlan> {
  const { s } = new Moves(v.cluster);
  const busy = busyCpus(v.cluster);
  /** What it does, and what it has promised, of what it could. */
  const weight = (n: number): number => {
    const node = s.nodes[n]!;
    const share = (busy.get(node.name) ?? 0) / carriedCpus(node) + s.ranMiB(n) / node.memoryMiB;
    return Math.round(share / rounding);
  };
  yield;
  const weights = s.nodes.map((_, n) => weight(n));
  const candidates = s.nodes
    .flatMap((node, n) => (s.online[n] === 1 && v.sleepers.has(node.name) ? [n] : []))
    .sort((a, b) => weights[a]! - weights[b]! || a - b)
    .slice(0, triedMax);
  for (const n of candidates) {
    const { name } = s.nodes[n]!;
    yield;
    const tried = emptied(v.cluster, new Set([name]), name, {
      atOnceMax: 1,
      runs: () => true,
      may: (vm, to) => v.may(vm, to),
      both: () => true,
    });
    if (typeof tried === 'string') continue;
    yield;
    const after: PlanCluster = {
      ...v.cluster,
      nodes: v.cluster.nodes.map((x) => (x.name === name ? { ...x, state: 'dead' } : x)),
      vms: tried.vms,
    };
    const grows =
      v.sleepCpus /
      Math.max(
        1e-9,
        [...busy.values()].reduce((a, b) => a + b, 0),
      );
    const then = busyCpus(after);
    const full = after.nodes.some(
      (x) =>
        x.state === 'online' &&
        (then.get(x.name) ?? 0) * Math.max(1, grows) > wakeShare * carriedCpus(x) + rounding,
    );
    if (full || (yield* lackOf(after, v.sleepCpus, { share: sleepShare, room: roomSleep })) !== null)
      continue;
    const others = after.nodes.filter((x) => x.state === 'online');
    const share = v.sleepCpus / others.reduce((sum, x) => sum + carriedCpus(x), 0);
    return {
      step: {
        do: 'sleep',
        node: name,
        for: 'idle',
        about: '',
        why:
          `the other ${others.length} nodes have room for all, with every promise kept and at most ${percent(share)} % of their CPUs busy within the hour` +
          (tried.moved.length === 0 ? '' : `; ${tried.moved.length} VMs move before`),
      },
      moves: tried.moved,
    };
  }
  return { step: null, moves: [] };
}

const withNodes = (c: PlanCluster, nodes: readonly PlanNode[]): PlanCluster => ({
  ...c,
  nodes: [...c.nodes.filter((x) => !nodes.some((n) => n.name === x.name)), ...nodes],
});

/** The same whichever way round the sums were added up, which differ behind the last digit that means anything. */
const percent = (share: number): number => Math.round(Math.round((100 * share) / rounding) * rounding);

const carriedCpus = (n: PlanNode): number => n.carries?.[0] ?? n.cpus;

/** CPUs that VMs keep busy, by node. */
function busyCpus(c: PlanCluster): Map<string, number> {
  const out = new Map<string, number>();
  for (const v of c.vms) out.set(v.owner, (out.get(v.owner) ?? 0) + v.load[0]);
  return out;
}

/** What the nodes that are on are too few for; null: nothing. */
function* lackOf(
  cluster: PlanCluster,
  cpus: number,
  most: { readonly share: number; readonly room: number },
): Generator<undefined, Lack | null> {
  const { s } = new Moves(cluster);
  yield;
  const bare = s.vms.filter(
    (_, vm) => s.alone[vm] === 0 && s.standby[vm] === nowhere && s.online[s.owner[vm]!] === 1,
  );
  const admitted = admit(s);
  const short = admitted.ok ? [] : admitted.shortfalls;
  yield;
  // One that needs a standby needs more room than one that does not.
  const [large] = [...cluster.vms].sort(
    (a, b) =>
      b.memoryMiB - a.memoryMiB ||
      Number(a.alone === true) - Number(b.alone === true) ||
      b.cpus - a.cpus ||
      (a.name < b.name ? -1 : 1),
  );
  const fit =
    large === undefined
      ? most.room
      : yield* capacitySteps(
          cluster,
          { memoryMiB: large.memoryMiB, cpus: large.cpus, diskMiB: 0 },
          { alone: large.alone === true, max: most.room },
        );
  const count = bare.length + short.length + most.room - fit;
  if (count > 0) {
    const [first] = bare;
    const [lacks] = short;
    const why =
      first !== undefined
        ? `"${first.name}" has no standby`
        : (lacks?.text ??
          `no room for ${most.room === 1 ? 'one more VM' : `${most.room} more VMs`} as large as "${large?.name ?? ''}"`);
    return { for: 'room', why: why.slice(0, 300), count };
  }
  const carried = cluster.nodes.reduce((a, n) => a + (n.state === 'online' ? carriedCpus(n) : 0), 0);
  if (cpus <= most.share * carried + rounding) return null;
  const share = carried === 0 ? 100 : percent(cpus / carried);
  return { for: 'load', why: `${share} % of the CPUs that are on will be busy`, count: 0 };
}

/** How many CPUs were busy when, by the wall clock. */
export interface LoadPoint {
  readonly atMs: number;
  readonly cpus: number;
}

/** A line is drawn through so much of the past, ms, and where it spans less than a third of that, none. */
export const trendMs = 30 * minute;

/** The quarter of an hour of the day, UTC. */
export const quarterOf = (wallMs: number): number =>
  Math.floor((((wallMs % 86_400_000) + 86_400_000) % 86_400_000) / (15 * minute));

/**
 * The most CPUs that will be busy until then: what is busy now, where the straight line through the last half hour leads,
 * at most to twice that, and what was busy a day ago at that time.
 *
 * @param day - by quarter of an hour; -1: not known
 */
export function forecastCpus(
  points: readonly LoadPoint[],
  day: readonly number[],
  wallMs: number,
  aheadMs: number,
): number {
  const near = points.filter((p) => p.atMs <= wallMs && wallMs - p.atMs <= trendMs);
  const now = near.at(-1)?.cpus ?? 0;
  let most = now;
  const first = near[0];
  if (first !== undefined && near.length >= 5 && wallMs - first.atMs >= trendMs / 3) {
    const meanAt = near.reduce((a, p) => a + p.atMs - wallMs, 0) / near.length;
    const mean = near.reduce((a, p) => a + p.cpus, 0) / near.length;
    let over = 0;
    let under = 0;
    for (const p of near) {
      over += (p.atMs - wallMs - meanAt) * (p.cpus - mean);
      under += (p.atMs - wallMs - meanAt) ** 2;
    }
    const then = mean + (under === 0 ? 0 : over / under) * (aheadMs - meanAt);
    most = Math.max(most, Math.min(then, 2 * now));
  }
  const from = quarterOf(wallMs);
  for (let q = 0; q <= Math.ceil(aheadMs / (15 * minute)); q++)
    most = Math.max(most, day[(from + q) % quarters] ?? -1);
  return most;
}
