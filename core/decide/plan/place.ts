import { nowhere, type State } from './state.js';

/** Why a node is not the owner, or not the standby, of a new VM. */
export interface PlaceRefusal {
  readonly node: string;
  readonly as: 'owner' | 'standby';
  readonly reasons: readonly string[];
}

export type PlaceAnswer =
  | {
      readonly ok: true;
      readonly owner: string;
      /** Empty: none. */
      readonly standby: string;
      /** The imbalance with the VM there. */
      readonly score: number;
      readonly refused: readonly PlaceRefusal[];
    }
  | { readonly ok: false; readonly refused: readonly PlaceRefusal[] };

/** Owners tried with every standby: the best pair has always been among the best few of them. */
const ownersMax = 8;

/** What narrows a placement. */
export interface PlaceLimits {
  /** Whether that node may own it; by default each may. */
  readonly owner?: (n: number) => boolean;
  /** Added to the imbalance where it is on that node. */
  readonly cost?: (n: number) => number;
  /** Where it has no place with a standby and with all promises kept, it gets one without. */
  readonly loose?: true;
}

interface Choice {
  readonly node: number;
  readonly score: number;
}

/**
 * Where one VM that is nowhere yet fits best: the pair of nodes that leaves the least imbalance and breaks no promise of
 * the cluster. Ties break by name. The state is as before afterwards; the caller enters the VM if it likes.
 *
 * @param vm - its number; it must be nowhere
 */
export function placeOne(s: State, vm: number, limits: PlaceLimits = {}): PlaceAnswer {
  const refused: PlaceRefusal[] = [];
  const owners: Choice[] = [];
  for (let n = 0; n < s.nodeCount; n++) {
    if (limits.owner?.(n) === false) continue;
    const reasons = ownerFaults(s, vm, n, limits.loose === true);
    if (reasons.length > 0) refused.push({ node: s.nodes[n]!.name, as: 'owner', reasons });
    else owners.push({ node: n, score: ownerScore(s, vm, n) + (limits.cost?.(n) ?? 0) });
  }
  owners.sort((a, b) => a.score - b.score || a.node - b.node);
  let best: (Choice & { readonly owner: number }) | null = null;
  for (const [i, { node: owner }] of owners.entries()) {
    if (i >= ownersMax && best !== null) break;
    const c = bestStandby(s, vm, owner, limits.loose === true);
    if (c === null) continue;
    const score = c.score + (limits.cost?.(owner) ?? 0);
    if (best === null || score < best.score - 1e-12) best = { node: c.node, score, owner };
  }
  if (best !== null) {
    const [owner, standby] = [s.nodes[best.owner]!.name, s.nodes[best.node]?.name ?? ''];
    return { ok: true, owner, standby, score: best.score, refused };
  }
  const first = owners[0]?.node;
  if (first !== undefined)
    for (let n = 0; n < s.nodeCount; n++)
      if (n !== first) {
        const reasons = standbyFaults(s, vm, first, n);
        if (reasons.length > 0) refused.push({ node: s.nodes[n]!.name, as: 'standby', reasons });
      }
  return { ok: false, refused };
}

/** Places VMs that are nowhere one after the other, the largest first; stops at none: what does not fit is told. */
export function placeBatch(s: State, vms: readonly number[]): Map<string, PlaceAnswer> {
  const order = [...vms].sort((a, b) => s.memory[b]! - s.memory[a]! || a - b);
  const out = new Map<string, PlaceAnswer>();
  for (const vm of order) {
    const answer = placeOne(s, vm);
    out.set(s.vms[vm]!.name, answer);
    if (answer.ok) enter(s, vm, answer);
  }
  return out;
}

/** Puts a VM that is nowhere where it was found to fit. */
export function enter(s: State, vm: number, at: { readonly owner: string; readonly standby: string }): void {
  s.enter(vm, s.nodeNumber(at.owner), at.standby === '' ? nowhere : s.nodeNumber(at.standby));
}

/** Gives each VM that misses a standby the best one, as its owner will once it runs. Where none can, it stays without. */
export function giveStandbys(s: State): void {
  for (let vm = 0; vm < s.vmCount; vm++) {
    const owner = s.owner[vm]!;
    if (owner === nowhere || s.standby[vm] !== nowhere || s.alone[vm] === 1) continue;
    s.leave(vm);
    const standby = bestStandby(s, vm, owner, true)?.node ?? nowhere;
    s.enter(vm, owner, standby);
  }
}

/** Could this node be its owner? */
export const canOwn = (s: State, vm: number, n: number): boolean => ownerFaults(s, vm, n, false).length === 0;

function ownerFaults(s: State, vm: number, n: number, loose: boolean): string[] {
  if (s.online[n] === 0) return [`is ${s.nodes[n]!.state}`];
  if (!s.reaches(vm, n)) return ['does not reach its disks'];
  const out: string[] = [];
  const memory = s.memory[vm]!;
  const free = s.freeMem[n]!;
  if (free - memory <= 0) out.push(`needs ${memory} MiB of memory, ${Math.max(0, free)} MiB are free`);
  else if (!loose && free - memory < s.need[n]! && s.lack[n] === 0)
    out.push(
      `needs ${memory} MiB of memory; of ${free} MiB free it keeps ${s.need[n]} MiB for VMs it stands by for`,
    );
  if (s.freeDsk[n]! - s.disk[vm]! <= 0)
    out.push(`needs ${s.disk[vm]} MiB of disk, ${Math.max(0, s.freeDsk[n]!)} MiB are free`);
  if (s.ownerCpus[n]! + s.cpus[vm]! > s.cpuMax[n]!)
    out.push(`needs ${s.cpus[vm]} vCPUs, of ${s.cpuMax[n]} it may promise ${s.ownerCpus[n]} are`);
  return out;
}

function standbyFaults(s: State, vm: number, owner: number, n: number): string[] {
  if (s.online[n] === 0) return [`is ${s.nodes[n]!.state}`];
  if (s.group[n] !== s.group[owner]) return ['is in another group'];
  if (!s.reaches(vm, n)) return ['does not reach its disks'];
  const out: string[] = [];
  const needs = s.peer(n, owner) + s.memory[vm]!;
  if (needs > s.freeMem[n]!)
    out.push(
      `could not take over: ${needs} MiB if ${s.nodes[owner]!.name} fails, ${Math.max(0, s.freeMem[n]!)} MiB are free`,
    );
  if (s.freeDsk[n]! - s.disk[vm]! <= 0)
    out.push(`needs ${s.disk[vm]} MiB of disk, ${Math.max(0, s.freeDsk[n]!)} MiB are free`);
  return out;
}

/** Could this node be its standby? */
export const canStand = (s: State, vm: number, owner: number, n: number): boolean =>
  n !== owner &&
  s.online[n] === 1 &&
  s.group[n] === s.group[owner] &&
  s.reaches(vm, n) &&
  s.peer(n, owner) + s.memory[vm]! <= s.freeMem[n]! &&
  s.freeDsk[n]! - s.disk[vm]! > 0;

/** The imbalance with the VM's owner there, its standby being the first other node: to rank owners only. */
function ownerScore(s: State, vm: number, owner: number): number {
  let other = nowhere;
  if (s.alone[vm] === 0) {
    for (let n = 0; n < s.nodeCount && other < 0; n++) if (canStand(s, vm, owner, n)) other = n;
    if (other < 0) return Infinity;
  }
  s.enter(vm, owner, other);
  const score = s.score();
  s.leave(vm);
  return score;
}

/** The standby with which a VM that is nowhere leaves the least imbalance; null: none can. */
function bestStandby(s: State, vm: number, owner: number, loose: boolean): Choice | null {
  let best: Choice | null = null;
  for (let n = 0; n < s.nodeCount; n++) {
    if (s.alone[vm] === 1 || !canStand(s, vm, owner, n)) continue;
    s.enter(vm, owner, n);
    const score = s.score();
    s.leave(vm);
    if (best === null || score < best.score - 1e-12) best = { node: n, score };
  }
  if (best !== null || (s.alone[vm] === 0 && !loose)) return best;
  s.enter(vm, owner, nowhere);
  const score = s.score();
  s.leave(vm);
  return { node: nowhere, score };
}
