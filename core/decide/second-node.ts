import type { Disk } from '../domain/disk.js';
import { poolHasNode, type Pool } from '../domain/pool.js';
import { otherNode, volumesOf, type PairSeen, type Replica } from '../domain/replica.js';
import type { VmOwn } from '../domain/vm.js';
import { poolUse } from './plan/fit.js';
import { freeMiB, standbyFaults, standbyText, type StandbyNode, type StandbyVm } from './standby.js';

/** A node as the choice of a VM's second node sees it. */
export interface SecondNode extends StandbyNode {
  readonly rack: string | null;
  /** Why no disk can have a copy there; empty: it can. Null: it has not said. */
  readonly noCopies: string | null;
}

/** A VM whose second copies are to be on another node. */
export interface SecondVm extends Pick<StandbyVm, 'owner' | 'memoryMiB' | 'pools'> {
  /** Armed by a keeper there in case of a failover. */
  readonly ha: boolean;
  readonly ownerRack: string | null;
  readonly replica: Replica;
  readonly disks: readonly Pick<Disk, 'pool' | 'sizeBytes'>[];
}

export type SecondChoice =
  { readonly ok: true; readonly node: string } | { readonly ok: false; readonly why: string };

/** All that speaks against a node as the second one of that VM; empty: it fits. */
export function secondFaults(vm: SecondVm, n: SecondNode): readonly string[] {
  const keeper = n.line?.keeper;
  const line =
    vm.ha || n.line === null
      ? n.line
      : { ...n.line, keeper: { ...(keeper ?? quiet), armable: true, why: '' } };
  const out = [...standbyFaults({ ...vm, standby: null, only: null }, { ...n, line })];
  if (n.id === vm.owner) return out;
  if (otherNode(vm.replica, vm.owner) === n.id) return ['has the present second copy'];
  if (vm.replica.former?.some((f) => f.node === n.id) === true)
    out.push(
      'still has an older copy, which goes when the present ones are the same, or with the pair (move-disk --replicas 1)',
    );
  if (n.noCopies !== '') out.push(n.noCopies ?? 'has not said whether it can hold copies');
  for (const pool of vm.pools) {
    if (!poolHasNode(pool, n.id)) continue;
    const needs = vm.disks.reduce((sum, d) => sum + (d.pool === pool.id ? d.sizeBytes : 0), 0);
    const free = poolUse(pool, n.line?.pools ?? [])?.freeBytes ?? 0;
    if (needs > free) out.push(`the pool "${pool.name}" has not the space there`);
  }
  return out;
}

/** Another rack than the owner's comes first, then the smallest share of memory owned and promised; ties break by name. */
export function chooseSecond(vm: SecondVm, nodes: readonly SecondNode[], asked: string | null): SecondChoice {
  const refused: { node: string; reasons: readonly string[] }[] = [];
  const fit: { readonly node: string; readonly near: number; readonly share: number }[] = [];
  for (const n of nodes) {
    if (n.id === vm.owner || (asked !== null && n.id !== asked)) continue;
    const reasons = secondFaults(vm, n);
    if (reasons.length > 0) {
      refused.push({ node: n.id, reasons });
      continue;
    }
    const memory = n.line?.memoryBytes ?? 1;
    const near = vm.ownerRack !== null && n.rack === vm.ownerRack ? 1 : 0;
    fit.push({ node: n.id, near, share: -freeMiB(memory, [n.owned, n.promised]) / memory });
  }
  fit.sort((a, b) => a.near - b.near || a.share - b.share || (a.node < b.node ? -1 : 1));
  const [best] = fit;
  if (best !== undefined) return { ok: true, node: best.node };
  refused.sort((a, b) => (a.node < b.node ? -1 : 1));
  return { ok: false, why: standbyText({ ok: false, nodes: refused }) };
}

/**
 * Why nobody may count on the owner's copies alone now, in words; null: one may. They must be whole by its own sight and by the
 * ledger: else the other one may be the only whole one. @see safety 3
 */
export function notWhole(own: VmOwn, me: string, pair: PairSeen | null): string | null {
  if (own.owner !== me) return `${own.owner} owns it`;
  if (own.state === 'migrating') return 'it migrates';
  if (own.copies.find((c) => c.node === me)?.state !== 'ok') return 'the ledger does not call its copy whole';
  if (pair === null || pair.volumes.length === 0) return 'its copy cannot be seen';
  const bad = pair.volumes.find((v) => v.here !== 'UpToDate' && v.here !== 'Consistent');
  return bad === undefined ? null : `its copy of volume ${bad.volume} is ${bad.here}`;
}

/** Ownership and pair once `to` has the second copies, which hold nothing yet. What the former node has stays noted. */
export function withSecond(own: VmOwn, r: Replica, to: { readonly node: string }): [VmOwn, Replica] {
  const { owner, syncEpoch } = own;
  const former = otherNode(r, owner);
  const epoch = own.copies.find((c) => c.node === former)?.epoch ?? 0;
  const next: VmOwn = {
    ...own,
    standby: to.node,
    sync: 'stale',
    synced: [],
    syncEpoch: syncEpoch + 1,
    copies: [
      { node: owner, state: 'ok', epoch: syncEpoch + 1 },
      { node: to.node, state: 'stale', epoch: 0 },
    ],
  };
  return [next, { ...r, former: [...(r.former ?? []), { node: former, epoch }] }];
}

/** What a node with a former copy does with it. */
export type FormerStep = { readonly do: 'none' | 'let-go' | 'close' | 'drop' };

/**
 * A copy that was replaced is closed at once, and taken away when the present ones are the same: until then it is the last
 * resort of a person.
 */
export function decideFormer(v: {
  readonly replica: Replica;
  readonly own: VmOwn | null;
  readonly me: string;
  readonly pair: PairSeen | null;
  readonly inUse: boolean;
}): FormerStep {
  if (volumesOf(v.replica).length === 0) return { do: 'drop' };
  // An error is not an absence.
  if (v.own === null || v.own.owner === v.me || v.inUse) return { do: 'none' };
  if (v.pair?.role === 'Primary') return { do: 'let-go' };
  if (v.own.sync === 'ok') return { do: 'drop' };
  return { do: v.pair === null ? 'none' : 'close' };
}

/** The pools of a VM's volumes, each once. */
export const copyPools = (r: Replica, pools: { get(id: string): Pool | undefined }): Pool[] =>
  [...new Set(volumesOf(r).map((v) => v.pool))].flatMap((id) => pools.get(id) ?? []);

const quiet = { mode: 'run' as const, watchdog: 'none' as const, armed: 0, held: [], text: '' };
