import { Guard } from './guard.js';
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
