import { isReplicated, type Disk } from '../domain/disk.js';
import type { NodeDesired, NodeKeeper, PoolUse } from '../domain/node.js';
import { poolHasNode, type Pool } from '../domain/pool.js';
import type { VmSpec } from '../domain/vm.js';
import { placementPolicy, poolUse, reserveMiB, type PlacementPolicy } from './plan/fit.js';

const MiB = 1024 * 1024;

/** A write to a shared pool tried longer ago than this says nothing about now, ms. @see safety 5 */
export const probeAgeMsMax = 30_000;
/** What a node said longer ago than this is not counted on, ms: it says something every few seconds. */
export const lineAgeMsMax = 60_000;

/** VMs, counted and summed: what a node owns or would get. */
export interface Load {
  readonly vms: number;
  readonly memoryMiB: number;
}

/** A node as the choice of a standby sees it. */
export interface StandbyNode {
  readonly id: string;
  /** Its live key exists. */
  readonly alive: boolean;
  readonly desired: NodeDesired;
  readonly witness: boolean;
  /** What it said of itself, and how long ago, ms; null: never heard. */
  readonly line: {
    readonly ageMs: number;
    readonly keeper: NodeKeeper | null;
    readonly pools: readonly PoolUse[];
    readonly memoryBytes: number;
    /** What it says is wrong with its parts without which no VM starts there. */
    readonly unwell: readonly string[];
  } | null;
  readonly owned: Load;
  /** VMs it is the standby of, this one left out, and those of them that fail together with this one. */
  readonly promised: Load;
  readonly promisedTogether: Load;
}

/** Where a VM's disks can be reached from. */
export type Reach =
  | {
      readonly ok: true;
      readonly pools: readonly Pool[];
      /** A disk has a copy on the standby alone: no other node can stand by, and only while the copies are the same. */
      readonly copied: boolean;
    }
  | { readonly ok: false; readonly why: string };

export interface StandbyVm {
  readonly owner: string;
  /** The present one. */
  readonly standby: string | null;
  readonly memoryMiB: number;
  readonly pools: readonly Pool[];
  /** The only node that can: it has the other copy of a disk. Null: any that reaches the pools. */
  readonly only: string | null;
  /** Rules that must hold and that it would break there, in words. Absent: none. */
  readonly bars?: (node: string) => readonly string[];
}

export type StandbyChoice =
  | { readonly ok: true; readonly node: string }
  /** Why each node does not fit. */
  | {
      readonly ok: false;
      readonly nodes: readonly { readonly node: string; readonly reasons: readonly string[] }[];
    };

/** The pools of a VM that more than one node reaches its disks by, each once; or what keeps its disks on one node. */
export function reachOf(
  spec: Pick<VmSpec, 'disks'>,
  disks: { get(id: string): Pick<Disk, 'name' | 'pool' | 'replicas'> | undefined },
  pools: { get(id: string): Pool | undefined },
): Reach {
  const found = new Map<string, Pool>();
  let copied = false;
  for (const { disk: id } of spec.disks) {
    const disk = disks.get(id);
    if (disk === undefined) return { ok: false, why: `disk ${id} has no record in the ledger` };
    const pool = pools.get(disk.pool);
    if (pool === undefined) return { ok: false, why: `the pool of disk "${disk.name}" is not in the ledger` };
    if (isReplicated(disk)) copied = true;
    else if (pool.kind !== 'shared') {
      return {
        ok: false,
        why: `disk "${disk.name}" is on the ${pool.kind} pool "${pool.name}", which no other node reaches`,
      };
    }
    found.set(pool.id, pool);
  }
  return { ok: true, pools: [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1)), copied };
}

/** Why a pool is no ground to start a VM on; null: it was written to of late. `ageMs` is added to the probe's age. */
export function poolFault(pool: Pool, uses: readonly PoolUse[], ageMs = 0): string | null {
  const use = poolUse(pool, uses);
  if (use === undefined) return `it has not said how the pool "${pool.name}" is`;
  if (!use.ok) return `the pool "${pool.name}" is not well: ${use.text}`;
  const probedMs = (use.ageMs ?? Infinity) + ageMs;
  if (probedMs <= probeAgeMsMax) return null;
  const since =
    probedMs === Infinity ? 'it is not known when' : `the last time ${Math.round(probedMs / 1000)} s ago`;
  return `the pool "${pool.name}" was not written to of late: ${since}`;
}

/** MiB a node has left for VMs. */
export function freeMiB(
  memoryBytes: number,
  load: readonly Load[],
  p: PlacementPolicy = placementPolicy,
): number {
  const used = load.reduce((n, l) => n + l.memoryMiB + l.vms * p.vmOverheadMiB, 0);
  return Math.floor(memoryBytes / MiB) - reserveMiB(memoryBytes, p) - used;
}

/** All that speaks against a node as standby of that VM; empty: it fits. */
export function standbyFaults(
  vm: StandbyVm,
  n: StandbyNode,
  p: PlacementPolicy = placementPolicy,
): readonly string[] {
  if (n.id === vm.owner) return ['owns it'];
  if (n.witness) return ['is a witness: it runs no VMs'];
  const out: string[] = [];
  if (n.desired !== 'active')
    out.push(n.desired === 'maintenance' ? 'is in maintenance' : 'is leaving the cluster');
  if (!n.alive) out.push('is not alive in the ledger');
  out.push(...(vm.bars?.(n.id) ?? []));
  const { line } = n;
  if (line === null) return [...out, 'was never heard'];
  if (line.ageMs > lineAgeMsMax) return [...out, `was not heard for ${Math.round(line.ageMs / 1000)} s`];
  if (line.keeper === null) out.push('its keeper does not answer');
  else if (!line.keeper.armable) out.push(`its keeper would not arm: ${line.keeper.why}`);
  out.push(...line.unwell);
  for (const pool of vm.pools) {
    const fault = poolHasNode(pool, n.id)
      ? poolFault(pool, line.pools, line.ageMs)
      : `does not have the pool "${pool.name}"`;
    if (fault !== null) out.push(fault);
  }
  const needs = vm.memoryMiB + p.vmOverheadMiB;
  const free = freeMiB(line.memoryBytes, [n.owned, n.promisedTogether], p);
  if (needs > free)
    out.push(`needs ${needs} MiB of memory, ${Math.max(0, free)} MiB are free after what it promised`);
  return out;
}

/**
 * Which node is to take a VM over when its owner fails: the present standby as long as it fits, else the one with
 * the smallest share of its memory owned and promised. Ties break by name. Only a choice: the failover proves for
 * itself that all is well. @see safety 5
 */
export function chooseStandby(
  vm: StandbyVm,
  nodes: readonly StandbyNode[],
  p: PlacementPolicy = placementPolicy,
): StandbyChoice {
  const refused: { node: string; reasons: readonly string[] }[] = [];
  let best: { node: string; share: number } | null = null;
  for (const n of [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    if (vm.only !== null && n.id !== vm.only) continue;
    const reasons = standbyFaults(vm, n, p);
    if (reasons.length > 0) {
      if (n.id !== vm.owner) refused.push({ node: n.id, reasons });
      continue;
    }
    if (n.id === vm.standby) return { ok: true, node: n.id };
    const memory = n.line?.memoryBytes ?? 0;
    const share = 1 - freeMiB(memory, [n.owned, n.promised], p) / (memory / MiB);
    if (best === null || share < best.share) best = { node: n.id, share };
  }
  return best === null ? { ok: false, nodes: refused } : { ok: true, node: best.node };
}

/** The refusals in one text. */
export const standbyText = (c: StandbyChoice): string => {
  if (c.ok) return '';
  if (c.nodes.length === 0) return 'there is no other node';
  return c.nodes.map((n) => `${n.node} ${n.reasons.join(', ')}`).join('; ');
};
