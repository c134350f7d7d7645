import type { State } from './state.js';

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
      readonly standby: string;
      /** The imbalance with the VM there. */
      readonly score: number;
      readonly refused: readonly PlaceRefusal[];
    }
  | { readonly ok: false; readonly refused: readonly PlaceRefusal[] };

/** Owners tried with every standby: the best pair has always been among the best few of them. */
const ownersMax = 8;

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
export function placeOne(s: State, vm: number): PlaceAnswer {
  const refused: PlaceRefusal[] = [];
  const owners: Choice[] = [];
  for (let n = 0; n < s.nodeCount; n++) {
    const reasons = ownerFaults(s, vm, n);
    if (reasons.length > 0) refused.push({ node: s.nodes[n]!.name, as: 'owner', reasons });
    else owners.push({ node: n, score: ownerScore(s, vm, n) });
  }
  owners.sort((a, b) => a.score - b.score || a.node - b.node);
  let best: (Choice & { readonly owner: number }) | null = null;
  for (const { node: owner } of owners.slice(0, ownersMax)) {
    const c = bestStandby(s, vm, owner);
    if (c !== null && (best === null || c.score < best.score - 1e-12)) best = { ...c, owner };
  }
  for (const { node: owner } of best === null ? owners.slice(ownersMax) : []) {
    const c = bestStandby(s, vm, owner);
    if (c !== null && (best === null || c.score < best.score)) best = { ...c, owner };
    if (best !== null) break;
  }
  if (best !== null) {
    const [owner, standby] = [s.nodes[best.owner]!.name, s.nodes[best.node]!.name];
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
    if (answer.ok) s.enter(vm, s.nodeNumber(answer.owner), s.nodeNumber(answer.standby));
  }
  return out;
}

/** Could this node be its owner? */
export const canOwn = (s: State, vm: number, n: number): boolean => ownerFaults(s, vm, n).length === 0;

function ownerFaults(s: State, vm: number, n: number): string[] {
  if (s.online[n] === 0) return [`is ${s.nodes[n]!.state}`];
  const out: string[] = [];
  const memory = s.memory[vm]!;
  const free = s.freeMem[n]!;
  if (free - memory <= 0) out.push(`needs ${memory} MiB of memory, ${Math.max(0, free)} MiB are free`);
  else if (free - memory < s.need[n]! && s.lack[n] === 0)
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
  s.peer(n, owner) + s.memory[vm]! <= s.freeMem[n]! &&
  s.freeDsk[n]! - s.disk[vm]! > 0;

/** The imbalance with the VM's owner there, its standby being the first other node: to rank owners only. */
function ownerScore(s: State, vm: number, owner: number): number {
  let other = -1;
  for (let n = 0; n < s.nodeCount && other < 0; n++) if (canStand(s, vm, owner, n)) other = n;
  if (other < 0) return Infinity;
  s.enter(vm, owner, other);
  const score = s.score();
  s.leave(vm);
  return score;
}

function bestStandby(s: State, vm: number, owner: number): Choice | null {
  let best: Choice | null = null;
  for (let n = 0; n < s.nodeCount; n++) {
    if (!canStand(s, vm, owner, n)) continue;
    s.enter(vm, owner, n);
    const score = s.score();
    s.leave(vm);
    if (best === null || score < best.score - 1e-12) best = { node: n, score };
  }
  return best;
}
