import { balanceMovesMax } from '../../domain/balance.js';
import type { PlanCluster } from './model.js';
import { Moves, type Seat } from './move.js';

/** A move that would even the cluster out, or end the breaking of a rule. */
export interface Recommendation {
  readonly vm: string;
  readonly from: string;
  readonly to: string;
  readonly for: 'rule' | 'load';
  /** The imbalance before and after it. */
  readonly before: number;
  readonly after: number;
  /** What is copied. */
  readonly memoryMiB: number;
  /** How the two nodes are loaded before it, or which rule is broken, in words. */
  readonly why: string;
}

/** A move has to gain so much imbalance, and more by its size: {@link costPerGiB}. */
const gainMin = 0.02;
/** What copying a GiB of memory must gain. */
const costPerGiB = 0.0005;
/** VMs tried for each move: those of the fullest nodes, the busiest first. */
const triedMax = 200;

type Found = { readonly vm: number; readonly seat: Seat; readonly gain: number; readonly before: number };

/**
 * The live migrations that end what breaks rules and then even a cluster out most, one after the other, each legal when the
 * ones before it are done: room for it, no promise broken, no rule. Ends where no move gains enough to be worth what it
 * copies. Ties break by name. Yields after each VM it has looked at, so that whoever asks can do other things meanwhile.
 *
 * @param may - whether that VM could migrate there, for what the planner does not know
 * @param o.rulesOnly - only what ends the breaking of rules
 */
export function* evenOut(
  cluster: PlanCluster,
  may: (vm: string, node: string) => boolean,
  o: { readonly rulesOnly?: boolean } = {},
): Generator<undefined, Recommendation[]> {
  const moves = new Moves(cluster);
  yield;
  const { s } = moves;
  const out: Recommendation[] = [];
  const moved = new Set<number>();
  while (out.length < balanceMovesMax) {
    const mending = yield* mend(moves, moved, may);
    const best = mending ?? (o.rulesOnly === true ? null : yield* even(moves, moved, may));
    if (best === null) break;
    const { vm, seat, before } = best;
    const at = s.owner[vm]!;
    out.push({
      vm: s.vms[vm]!.name,
      from: s.nodes[at]!.name,
      to: s.nodes[seat.node]!.name,
      for: mending === null ? 'load' : 'rule',
      before,
      after: seat.score,
      memoryMiB: s.memory[vm]!,
      why: mending === null ? `${loadText(moves, at)}, ${loadText(moves, seat.node)}` : ruleText(moves, vm),
    });
    moves.take(vm, seat);
    moved.add(vm);
  }
  return out;
}

/** The move that ends the breaking of a rule and leaves the cluster most even. */
function* mend(
  moves: Moves,
  moved: ReadonlySet<number>,
  may: (vm: string, node: string) => boolean,
): Generator<undefined, Found | null> {
  const { s, rules } = moves;
  let best: Found | null = null;
  for (const vm of rules.subjects()) {
    const at = s.owner[vm]!;
    const [must, wished] = [rules.broken(vm, at, true), rules.broken(vm, at, false)];
    if (moved.has(vm) || s.online[at] === 0 || must.length + wished.length === 0) continue;
    const before = moves.score(vm);
    const seat = moves.best(vm, (n) => rules.mends(vm, n) !== null && may(s.vms[vm]!.name, s.nodes[n]!.name));
    yield;
    if (seat === null) continue;
    const ends = rules.mends(vm, seat.node) === 'must';
    // A wish is not worth what makes the cluster worse than it is worth.
    if (!ends && before - seat.score < gainMin) continue;
    const gain = (ends ? 1e6 : 0) + before - seat.score;
    if (best === null || gain > best.gain + 1e-12) best = { vm, seat, gain, before };
  }
  return best;
}

/** The move that gains most. */
function* even(
  moves: Moves,
  moved: ReadonlySet<number>,
  may: (vm: string, node: string) => boolean,
): Generator<undefined, Found | null> {
  const { s } = moves;
  let best: Found | null = null;
  for (const vm of candidates(moves, moved)) {
    const before = moves.score(vm);
    const seat = moves.best(vm, (n) => may(s.vms[vm]!.name, s.nodes[n]!.name));
    yield;
    if (seat === null) continue;
    const gain = before - seat.score - (costPerGiB * s.memory[vm]!) / 1024;
    if (gain >= gainMin && (best === null || gain > best.gain + 1e-12)) best = { vm, seat, gain, before };
  }
  return best;
}

function ruleText({ s, rules }: Moves, vm: number): string {
  const at = s.owner[vm]!;
  return [...rules.broken(vm, at, true), ...rules.broken(vm, at, false)]
    .map(({ rule, text }) => `the rule "${rule.name}" is broken: ${text}`)
    .join('; ');
}

/** Share of a node's CPUs that its VMs keep busy. */
export const cpuShare = (moves: Moves, n: number): number => sharesOf(moves, n)[0];

/** How much of a node is in use without one VM: of its CPUs that VMs keep busy or of its memory they were promised, what is more. */
export function shareWithout(moves: Moves, n: number, vm: number): number {
  const [cpu, memory] = sharesOf(moves, n);
  if (moves.s.owner[vm] !== n) return Math.max(cpu, memory);
  const { s } = moves;
  const carries = s.nodes[n]!.carries ?? [1, 1, 1, 1];
  return Math.max(cpu - s.loads[vm * 4]! / carries[0], memory - s.memory[vm]! / s.nodes[n]!.memoryMiB);
}

function sharesOf({ s }: Moves, n: number): [cpu: number, memory: number] {
  const carries = s.nodes[n]!.carries ?? [1, 1, 1, 1];
  let cpu = 0;
  for (let vm = 0; vm < s.vmCount; vm++) if (s.owner[vm] === n) cpu += s.loads[vm * 4]!;
  return [cpu / carries[0], s.ranMiB(n) / s.nodes[n]!.memoryMiB];
}

function loadText(moves: Moves, n: number): string {
  const [cpu, memory] = sharesOf(moves, n).map((x) => Math.round(x * 100));
  return `${moves.s.nodes[n]!.name} has ${cpu} % of its CPUs busy and ${memory} % of its memory promised`;
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
  const weights = Float64Array.from(s.vms, (_, vm) => weight(vm));
  const full = new Float64Array(s.nodeCount);
  for (let vm = 0; vm < s.vmCount; vm++) full[s.owner[vm]!]! += weights[vm]!;
  return s.vms
    .flatMap((_, vm) => (moved.has(vm) || s.online[s.owner[vm]!] === 0 ? [] : [vm]))
    .sort((a, b) => full[s.owner[b]!]! - full[s.owner[a]!]! || weights[b]! - weights[a]! || a - b)
    .slice(0, triedMax);
}
