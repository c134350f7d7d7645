import { Guard } from './guard.js';
import type { PlanCluster, PlanVm } from './model.js';
import { Moves } from './move.js';
import type { State } from './state.js';

/** Nodes that go down together, and what is done before. */
export interface RollingGroup {
  readonly nodes: readonly string[];
  /** VMs that change to their standbys first, so that nothing runs on the nodes. */
  readonly swaps: readonly { readonly vm: string; readonly to: string }[];
}

export interface RollingPlan {
  readonly groups: readonly RollingGroup[];
  /** Nodes that cannot be emptied now, and why. */
  readonly blocked: readonly { readonly node: string; readonly reason: string }[];
}

/**
 * An order in which all nodes can be rebooted or updated, as many at a time as possible: within a group no VM has both
 * its nodes, what runs on them fits on the standbys all at once, and when they are back every node that could take
 * over what it promised still can. VMs stay where a group has sent them, so each moves as rarely as possible.
 *
 * While a group is down its VMs have one copy: that is what two copies allow. The state ends as the plan leaves it.
 */
export function rollingPlan(s: State, atOnceMax = Infinity): RollingPlan {
  const guard = new Guard(s);
  const left = new Set<number>();
  for (let n = 0; n < s.nodeCount; n++) if (s.online[n] === 1) left.add(n);
  const groups: RollingGroup[] = [];
  while (left.size > 0) {
    const group: number[] = [];
    const swaps: { vm: string; to: string }[] = [];
    for (const n of [...left].sort((a, b) => s.ranMiB(a) - s.ranMiB(b) || a - b)) {
      if (group.length >= atOnceMax) break;
      const moved = empty(s, guard, n, group);
      if (moved === null) continue;
      group.push(n);
      left.delete(n);
      for (const vm of moved) swaps.push({ vm: s.vms[vm]!.name, to: s.nodes[s.owner[vm]!]!.name });
    }
    if (group.length === 0) break;
    groups.push({ nodes: group.map((n) => s.nodes[n]!.name).sort(), swaps });
  }
  return {
    groups,
    blocked: [...left].map((n) => ({ node: s.nodes[n]!.name, reason: whyNot(s, n) })),
  };
}

/** Sends what runs on a node to its standbys, if it may join the group. @returns the VMs sent, or null */
function empty(s: State, guard: Guard, n: number, group: readonly number[]): number[] | null {
  // A VM with both its nodes down would be off.
  for (const g of group) if (s.peer(g, n) > 0 || s.peer(n, g) > 0) return null;
  const moved: number[] = [];
  const back = (): null => {
    for (const vm of moved) s.put(vm, s.standby[vm]!, s.owner[vm]!);
    return null;
  };
  for (let vm = 0; vm < s.vmCount; vm++) {
    if (s.owner[vm] !== n) continue;
    const to = s.standby[vm]!;
    if (s.online[to] === 0 || s.freeMem[to]! - s.memory[vm]! <= 0) return back();
    s.put(vm, to, n);
    moved.push(vm);
  }
  return guard.holds() ? moved : back();
}

function whyNot(s: State, n: number): string {
  for (let vm = 0; vm < s.vmCount; vm++) {
    if (s.owner[vm] !== n) continue;
    const to = s.standby[vm]!;
    if (s.online[to] === 0)
      return `the standby of ${s.vms[vm]!.name}, ${s.nodes[to]!.name}, is ${s.nodes[to]!.state}`;
    if (s.peer(to, n) >= s.freeMem[to]!)
      return `${s.nodes[to]!.name} has ${Math.max(0, s.freeMem[to]!)} MiB for the ${s.peer(to, n)} MiB it would take over`;
  }
  return 'with its VMs on their standbys another node could no longer take over what it promised';
}

/** Limits of {@link rollingMoves} that the planner does not know. */
export interface RollingLimits {
  /** Nodes in a group, at most. */
  readonly atOnceMax: number;
  /** It is on and has to go; what is off stays where it is. */
  runs(vm: string): boolean;
  /** Whether that VM could migrate there. */
  may(vm: string, node: string): boolean;
  /** Two nodes may be down at the same time, e.g. not both vote. */
  both(a: string, b: string): boolean;
  /** Why a node may not go, whatever is on it; null: it may. */
  bars?(node: string): string | null;
  /** The nodes that are to go; else all. */
  readonly only?: ReadonlySet<string>;
  /** Only the first so many groups are wanted. */
  readonly groupsMax?: number;
}

/**
 * The same for VMs that migrate to any node that reaches their disks: before a group goes down what runs there moves
 * away, with room for all and no promise broken while the group is away. VMs stay where a group has sent them. Nodes
 * with the least on them come first; ties break by name. Yields after each node it has tried.
 */
export function* rollingMoves(cluster: PlanCluster, o: RollingLimits): Generator<undefined, RollingPlan> {
  let { vms } = cluster;
  const groups: RollingGroup[] = [];
  const why = new Map<string, string>();
  let left = cluster.nodes
    .filter((n) => n.state === 'online' && o.only?.has(n.name) !== false)
    .map((n) => n.name);
  const load = (node: string): number =>
    vms.reduce((sum, v) => sum + (v.owner === node && o.runs(v.name) ? v.memoryMiB : 0), 0);
  while (left.length > 0 && groups.length < (o.groupsMax ?? Infinity)) {
    const group: string[] = [];
    const swaps: { vm: string; to: string }[] = [];
    const loads = new Map(left.map((n) => [n, load(n)]));
    for (const n of [...left].sort((a, b) => loads.get(a)! - loads.get(b)! || (a < b ? -1 : 1))) {
      if (group.length >= o.atOnceMax) break;
      const bar = o.bars?.(n) ?? null;
      if (bar !== null) {
        why.set(n, bar);
        continue;
      }
      // What has just been sent there would have to move twice.
      if (!group.every((g) => o.both(g, n)) || swaps.some((m) => m.to === n)) continue;
      const tried = emptied({ ...cluster, vms }, new Set([...group, n]), n, o);
      yield;
      if (typeof tried === 'string') {
        why.set(n, tried);
        continue;
      }
      group.push(n);
      swaps.push(...tried.moved);
      vms = tried.vms;
    }
    if (group.length === 0) break;
    left = left.filter((n) => !group.includes(n));
    groups.push({ nodes: group.sort(), swaps });
  }
  return { groups, blocked: left.sort().map((node) => ({ node, reason: why.get(node) ?? '' })) };
}

/** Moves what runs on a node away, with all of its group gone. @returns why that cannot be, in words */
export function emptied(
  cluster: PlanCluster,
  down: ReadonlySet<string>,
  node: string,
  o: RollingLimits,
): string | { readonly moved: { vm: string; to: string }[]; readonly vms: readonly PlanVm[] } {
  const moves = new Moves({
    ...cluster,
    nodes: cluster.nodes.map((n) => (down.has(n.name) ? { ...n, state: 'drained' } : n)),
    vms: cluster.vms.map((v) => (down.has(v.standby) ? { ...v, standby: '' } : v)),
  });
  const { s } = moves;
  const moved: { vm: string; to: string }[] = [];
  const n = s.nodeNumber(node);
  const mine = s.vms.flatMap((v, vm) => (s.owner[vm] === n && o.runs(v.name) ? [vm] : []));
  for (const vm of mine.sort((a, b) => s.memory[b]! - s.memory[a]! || a - b)) {
    const { name } = s.vms[vm]!;
    const seat = moves.best(vm, (x) => o.may(name, s.nodes[x]!.name));
    if (seat === null)
      return `"${name}" cannot leave it: no other node reaches its disks, has room for it and keeps what was promised`;
    moves.take(vm, seat);
    moved.push({ vm: name, to: s.nodes[seat.node]!.name });
  }
  const end = new Map(s.vms.map((v, vm) => [v.name, vm]));
  return {
    moved,
    vms: cluster.vms.map((v) => ({
      ...v,
      owner: s.nodes[s.owner[end.get(v.name)!]!]?.name ?? '',
      standby: s.nodes[s.standby[end.get(v.name)!]!]?.name ?? '',
    })),
  };
}
