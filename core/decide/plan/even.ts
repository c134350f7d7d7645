import type { PlanCluster } from './model.js';
import { Moves, type Seat } from './move.js';

/** A move that would even the cluster out. */
export interface Recommendation {
  readonly vm: string;
  readonly from: string;
  readonly to: string;
  /** The imbalance before and after it. */
  readonly before: number;
  readonly after: number;
  /** What is copied. */
  readonly memoryMiB: number;
  /** How the two nodes are loaded before it, in words. */
  readonly why: string;
}

/** A move has to gain so much imbalance, and more by its size: {@link costPerGiB}. */
const gainMin = 0.02;
/** What copying a GiB of memory must gain. */
const costPerGiB = 0.0005;
/** Moves found at once, at most: when they are done, the next are looked for. */
export const recommendationsMax = 16;
/** VMs tried for each move: those of the fullest nodes, the busiest first. */
const triedMax = 200;

/**
 * The live migrations that even a cluster out most, one after the other, each legal when the ones before it are done: room
 * for it, no promise broken, no rule. Ends where no move gains enough to be worth what it copies. Ties break by name.
 * Yields between moves, so that whoever asks can do other things meanwhile.
 *
 * @param may - whether that VM could migrate there, for what the planner does not know
 */
export function* evenOut(
  cluster: PlanCluster,
  may: (vm: string, node: string) => boolean,
): Generator<undefined, Recommendation[]> {
  const moves = new Moves(cluster);
  const { s } = moves;
  const out: Recommendation[] = [];
  const moved = new Set<number>();
  while (out.length < recommendationsMax) {
    let best: { vm: number; seat: Seat; gain: number; before: number } | null = null;
    for (const vm of candidates(moves, moved)) {
      const before = moves.score(vm);
      const seat = moves.best(vm, (n) => may(s.vms[vm]!.name, s.nodes[n]!.name));
      if (seat === null) continue;
      const gain = before - seat.score - (costPerGiB * s.memory[vm]!) / 1024;
      if (gain >= gainMin && (best === null || gain > best.gain + 1e-12)) best = { vm, seat, gain, before };
    }
    if (best === null) break;
    const { vm, seat, before } = best;
    out.push({
      vm: s.vms[vm]!.name,
      from: s.nodes[s.owner[vm]!]!.name,
      to: s.nodes[seat.node]!.name,
      before,
      after: seat.score,
      memoryMiB: s.memory[vm]!,
      why: `${loadText(moves, s.owner[vm]!)}, ${loadText(moves, seat.node)}`,
    });
    moves.take(vm, seat);
    moved.add(vm);
    yield;
  }
  return out;
}

/** How much of a node its VMs use and were promised. */
function loadText({ s }: Moves, n: number): string {
  const carries = s.nodes[n]!.carries ?? [1, 1, 1, 1];
  let cpu = 0;
  for (let vm = 0; vm < s.vmCount; vm++) if (s.owner[vm] === n) cpu += s.loads[vm * 4]!;
  const percent = (x: number): number => Math.round(x * 100);
  return `${s.nodes[n]!.name} has ${percent(cpu / carries[0])} % of its CPUs busy and ${percent(s.ranMiB(n) / s.nodes[n]!.memoryMiB)} % of its memory promised`;
}

/** VMs that have not moved yet, by the load of their node and their own. */
function candidates({ s }: Moves, moved: ReadonlySet<number>): number[] {
  const weight = (vm: number): number => {
    const carries = s.nodes[s.owner[vm]!]!.carries ?? [1, 1, 1, 1];
    return Math.max(
      ...s.vms[vm]!.load.map((l, k) => l / carries[k]!),
      s.memory[vm]! / s.nodes[s.owner[vm]!]!.memoryMiB,
    );
  };
  const full = new Float64Array(s.nodeCount);
  for (let vm = 0; vm < s.vmCount; vm++) full[s.owner[vm]!]! += weight(vm);
  return s.vms
    .flatMap((_, vm) => (moved.has(vm) || s.online[s.owner[vm]!] === 0 ? [] : [vm]))
    .sort((a, b) => full[s.owner[b]!]! - full[s.owner[a]!]! || weight(b) - weight(a) || a - b)
    .slice(0, triedMax);
}
