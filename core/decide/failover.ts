import type { Fenced, Policy, VmHa } from '../domain/ha.js';
import { suspectAfterMs, type PoolUse } from '../domain/node.js';
import type { VmOwn } from '../domain/vm.js';
import { placementPolicy } from './plan/fit.js';
import { poolFault, type Reach } from './standby.js';

/** A VM that must come first and cannot run does not hold the others up longer than this, ms. */
export const afterWaitMsMax = 120_000;
/** While many nodes are gone the next VM comes when the one before runs, or after this long, ms. @see safety 15 */
export const brakeMs = 30_000;
/** More than this share of the nodes gone at once, and more than one: something common has failed. @see safety 15 */
export const massShare = 0.3;
/**
 * So long a node's absence has to last before its power is cut, ms. It lost its lease, so its VMs are frozen already;
 * this spares one that makes a new lease at once, as after a restart of its keeper.
 */
export const fenceGraceMs = 1_000;
/** Takeovers begun at once, at most: QEMU's start is the slow part, and a node that starts all at once starts none soon. */
export const takesMax = 8;
const hourMs = 3_600_000;

/** Since when this node has seen another one's live key gone, without a break. */
export interface Absence {
  /** Monotonic ms of the first answer that showed it gone. */
  readonly sinceMs: number;
  /** `modRevision` of `seen/<node>` then; 0: no such key. It changes when the node comes back. */
  readonly seenRevision: bigint;
}

export interface FailoverNode {
  readonly id: string;
  readonly rack: string | null;
  /** It should be up and run VMs: counted when many are gone. */
  readonly counts: boolean;
  /** Null: it is alive. */
  readonly absence: Absence | null;
  readonly fenced: Fenced | null;
  /** It can be powered off from outside. */
  readonly bmc: boolean;
  /** When it was last heard on the radio, monotonic ms; null: never. */
  readonly beatMs: number | null;
}

export interface FailoverVm {
  readonly id: string;
  readonly name: string;
  readonly memoryMiB: number;
  readonly ha: VmHa;
  readonly own: VmOwn;
  /** Somebody wants it to run. */
  readonly wanted: boolean;
  /** Its machine runs, as far as is known: for the order only. */
  readonly running: boolean;
  /** A machine of it is on this node, from when it owned it. */
  readonly left: boolean;
  readonly reach: Reach;
}

/** What one node knows when it asks itself which VMs of others are now its own to take. */
export interface FailoverView {
  readonly me: string;
  /** Its lease is good: without it nothing is even tried. */
  readonly live: boolean;
  readonly policy: Policy['ha'];
  /** F. */
  readonly fenceWaitMs: number;
  /** What a standby that lives has, beyond all waits, before another node takes its place, ms. */
  readonly standbyGraceMs: number;
  /** Since when, monotonic ms, a VM waits for nothing any more but for such a standby. By VM. */
  readonly idle: ReadonlyMap<string, number>;
  readonly nodes: readonly FailoverNode[];
  /** Every VM of the cluster. */
  readonly vms: readonly FailoverVm[];
  readonly here: {
    /** A node of the cluster that is not about to leave: else it takes nothing, not even what it stands by for. */
    readonly stays: boolean;
    /** Active and no witness: may take what nobody else is left to take. */
    readonly runsVms: boolean;
    readonly armable:
      { readonly ok: true; readonly waitMs: number } | { readonly ok: false; readonly why: string };
    /** Ages are of now. */
    readonly pools: readonly PoolUse[];
    /** MiB left for VMs. */
    readonly freeMiB: number;
  };
  /** Takeovers of any node whose machine does not run yet, and when this node first saw each: monotonic ms. */
  readonly inFlight: readonly { readonly vm: string; readonly sinceMs: number }[];
  /** For the count of failovers of the last hour, which is kept in the ledger. */
  readonly wallMs: number;
}

export type FailoverAction =
  | {
      readonly do: 'take';
      readonly vm: string;
      readonly from: string;
      readonly fence: 'waited' | 'bmc' | 'person';
      readonly absence: Absence;
      /** Of the standby, where this node is not it. */
      readonly standbyAbsence: Absence | null;
      /** When the wait was over, monotonic ms. */
      readonly overMs: number;
    }
  | {
      readonly do: 'move';
      readonly vm: string;
      readonly from: string;
      readonly absence: Absence;
      readonly standbyAbsence: Absence | null;
    }
  | { readonly do: 'fence'; readonly node: string; readonly absence: Absence };

export type WaitCode =
  | 'fence-wait'
  | 'no-lease'
  | 'paused'
  | 'hold'
  | 'unarmed'
  | 'stale'
  | 'not-armable'
  | 'no-pool'
  | 'left-over'
  | 'no-memory'
  | 'too-often'
  | 'after'
  | 'brake'
  | 'lockstep'
  | 'standby';

/** Why a VM of a lost node is not taken now, in words, and until when at most (monotonic ms; null: nobody knows). */
export interface FailoverWait {
  readonly vm: string;
  readonly code: WaitCode;
  readonly text: string;
  readonly untilMs: number | null;
}

export interface FailoverPlan {
  readonly actions: readonly FailoverAction[];
  readonly waiting: readonly FailoverWait[];
  /** Look again after so many ms even if nothing rings; null: no need. */
  readonly againMs: number | null;
}

/** More is gone than single failures explain, and not just one rack: then VMs come back one after the other. */
export function isMassFailure(nodes: readonly FailoverNode[]): boolean {
  const all = nodes.filter((n) => n.counts);
  const gone = all.filter((n) => n.absence !== null);
  if (gone.length < 2 || gone.length <= all.length * massShare) return false;
  const racks = new Set(gone.map((n) => n.rack));
  return racks.size > 1 || racks.has(null);
}

/** Proof for just this absence; of another one it says nothing. */
const proofOf = (n: FailoverNode): Fenced | null =>
  n.absence !== null && n.fenced?.seenRevision === String(n.absence.seenRevision) ? n.fenced : null;

interface Role {
  readonly owner: FailoverNode;
  readonly absence: Absence;
  /** The standby, where this node is not it. */
  readonly standby: FailoverNode | null;
}

/** Who may take the VM: its standby, and behind it whoever can reach the disks. Null: not this node. */
function roleOf(vm: FailoverVm, v: FailoverView, byId: ReadonlyMap<string, FailoverNode>): Role | null {
  const { own } = vm;
  const owner = byId.get(own.owner);
  if (own.owner === v.me || owner === undefined || owner.absence === null || !vm.ha.enabled) return null;
  if (!v.here.stays) return null;
  if (own.standby === v.me) return { owner, absence: owner.absence, standby: null };
  // Nobody else has its disks.
  if (own.copies.length > 0) return null;
  if (!v.here.runsVms) return null;
  if (own.standby === null) return { owner, absence: owner.absence, standby: null };
  const standby = byId.get(own.standby);
  return standby === undefined ? null : { owner, absence: owner.absence, standby };
}

/**
 * What this node does now about nodes that are gone. Pure: the same view gives the same plan. The plan is a wish;
 * the transaction compares again all that safety rests on.
 *
 * A VM is taken only while its owner's live key is gone, and either the owner was armed and the wait is over, or the
 * owner is proven off for this very absence. A standby that lives comes first; where it does not take a VM that only
 * waits for it, for want of storage, memory or a keeper, any other node does after a grace: both compare the same
 * revision of own, so that one of them wins. @see docs/ha.md, docs/models.md, safety 1, 5 and 15
 */
export function decideFailover(v: FailoverView, nowMs: number): FailoverPlan {
  const byId = new Map(v.nodes.map((n) => [n.id, n]));
  const vms = new Map(v.vms.map((m) => [m.id, m]));
  const actions: FailoverAction[] = [];
  const waiting: FailoverWait[] = [];
  const fence = new Map<string, Absence>();
  const due: number[] = [];
  const mass = isMassFailure(v.nodes);
  let freeMiB = v.here.freeMiB;
  let takes = 0;

  const mine = v.vms.flatMap((vm) => {
    const role = roleOf(vm, v, byId);
    return role === null ? [] : [{ vm, ...role }];
  });
  mine.sort(
    ({ vm: a }, { vm: b }) =>
      b.ha.priority - a.ha.priority || (a.name < b.name ? -1 : a.name > b.name ? 1 : a.id < b.id ? -1 : 1),
  );
  for (const { vm, owner, absence, standby } of mine) {
    const { own } = vm;
    const first = standby?.absence === null ? standby : null;
    const wait = (code: WaitCode, text: string, untilMs: number | null = null): void => {
      if (untilMs !== null && untilMs > nowMs) due.push(untilMs - nowMs);
      // All else is for the standby to say.
      if (first === null || code === 'standby')
        waiting.push({ vm: vm.id, code, text: text.slice(0, 500), untilMs });
    };
    const runs = own.state !== 'stopped';
    const proof = proofOf(owner);
    const fault = blockOf(vm, v, runs);
    if (fault !== null) {
      wait(fault.code, fault.text);
      continue;
    }
    // What this node could not take does not cost its owner the power: that one may be back in a moment, and starts it.
    const bar = runs ? barOf(vm, v, freeMiB, nowMs) : null;
    const mayFence = owner.bmc && proof === null && runs && bar === null && !v.policy.hold;
    // One that is still heard lives: its power is not cut for having lost the ledger. The radio only says no here.
    const fenceMs =
      Math.max(absence.sinceMs + fenceGraceMs, (owner.beatMs ?? -Infinity) + suspectAfterMs) +
      (first === null ? 0 : v.standbyGraceMs);
    if (mayFence && nowMs >= fenceMs) fence.set(owner.id, absence);
    if (runs && !own.fence.armed && proof === null) {
      if (bar !== null) {
        wait(bar.code, bar.text, bar.untilMs);
        continue;
      }
      const way = owner.bmc
        ? 'its BMC is asked to power it off'
        : `confirm that it is off: flotilla node confirm-off ${owner.id}`;
      wait(
        'unarmed',
        `${owner.id} was not armed, so nobody can know that it is off; ${way}`,
        mayFence ? fenceMs : null,
      );
      continue;
    }
    const waitMs = Math.max(v.fenceWaitMs, own.fence.waitMs);
    const ownerOver = proof === null ? absence.sinceMs + waitMs : absence.sinceMs;
    const standbyAbsence = standby?.absence ?? null;
    const standbyOver =
      standby === null || standbyAbsence === null || proofOf(standby) !== null
        ? -Infinity
        : standbyAbsence.sinceMs + waitMs;
    const overMs = Math.max(ownerOver, standbyOver);
    if (nowMs < overMs) {
      const whom =
        standby === null || first !== null
          ? `${owner.id} has lost its`
          : `${owner.id} and the standby ${standby.id} have lost their`;
      wait('fence-wait', `${whom} lease; waits until it can no longer run there`, overMs);
      continue;
    }
    if (v.policy.hold) {
      wait('hold', 'failovers are held: somebody has to let go (flotilla ha release)');
      continue;
    }
    if (!runs) {
      const grace = first === null ? null : graceOf(vm, first, v, nowMs);
      if (grace !== null) {
        wait('standby', grace.text, grace.untilMs);
        continue;
      }
      actions.push({ do: 'move', vm: vm.id, from: owner.id, absence, standbyAbsence });
      continue;
    }
    if (bar !== null) {
      wait(bar.code, bar.text, bar.untilMs);
      continue;
    }
    const before = vm.wanted ? pendingBefore(vm, vms) : null;
    if (before !== null && nowMs < overMs + afterWaitMsMax) {
      wait('after', `waits for VM "${before.name}", which comes first`, overMs + afterWaitMsMax);
      continue;
    }
    const flying = v.inFlight.filter((f) => nowMs - f.sinceMs < brakeMs);
    if (mass && (takes > 0 || flying.length > 0)) {
      const untilMs = takes > 0 ? nowMs + brakeMs : Math.max(...flying.map((f) => f.sinceMs)) + brakeMs;
      wait('brake', 'many nodes are gone at once: VMs come back one after the other', untilMs);
      continue;
    }
    if (takes >= takesMax) {
      wait('brake', `${takesMax} others are being taken over first`, nowMs + 1_000);
      continue;
    }
    const grace = first === null ? null : graceOf(vm, first, v, nowMs);
    if (grace !== null) {
      wait('standby', grace.text, grace.untilMs);
      continue;
    }
    takes++;
    freeMiB -= needsMiB(vm);
    const waited = own.fence.armed && nowMs >= absence.sinceMs + waitMs;
    actions.push({
      do: 'take',
      vm: vm.id,
      from: owner.id,
      fence: waited ? 'waited' : (proof?.how ?? 'waited'),
      absence,
      standbyAbsence,
      overMs: waited ? overMs : nowMs,
    });
  }
  for (const [node, absence] of [...fence].sort(([a], [b]) => (a < b ? -1 : 1)))
    actions.push({ do: 'fence', node, absence });
  return { actions, waiting, againMs: due.length === 0 ? null : Math.min(...due) };
}

/** The time of a standby that lives; null: it is over. */
function graceOf(
  vm: FailoverVm,
  standby: FailoverNode,
  v: FailoverView,
  nowMs: number,
): { readonly text: string; readonly untilMs: number } | null {
  const untilMs = (v.idle.get(vm.id) ?? nowMs) + v.standbyGraceMs;
  if (nowMs >= untilMs) return null;
  return { text: `its standby ${standby.id} lives and comes first`, untilMs };
}

const needsMiB = (vm: FailoverVm): number => vm.memoryMiB + placementPolicy.vmOverheadMiB;

/** What speaks against starting the VM here now, whatever becomes of its owner. */
function barOf(
  vm: FailoverVm,
  v: FailoverView,
  freeMiB: number,
  nowMs: number,
): { readonly code: WaitCode; readonly text: string; readonly untilMs: number | null } | null {
  const needs = needsMiB(vm);
  if (needs > freeMiB) {
    const text = `needs ${needs} MiB of memory, ${v.me} has ${Math.max(0, freeMiB)} MiB free`;
    return { code: 'no-memory', text, untilMs: null };
  }
  const { owner, failoversMs } = vm.own;
  const recent = failoversMs.filter((t) => v.wallMs - t < hourMs && t <= v.wallMs);
  if (recent.length < vm.ha.restartsPerHourMax) return null;
  // Taken when so many have become older than an hour that one more is allowed.
  const last = recent.sort((x, y) => x - y)[recent.length - vm.ha.restartsPerHourMax];
  const untilMs = last === undefined ? null : nowMs + last + hourMs - v.wallMs + 1;
  const text =
    untilMs === null
      ? `it may not come back by itself; it waits for ${owner}`
      : `it came back ${recent.length} times within an hour; it waits for ${owner}, or until that hour is over`;
  return { code: 'too-often', text, untilMs };
}

/** What keeps this node from taking the VM however long it waits. */
function blockOf(
  vm: FailoverVm,
  v: FailoverView,
  runs: boolean,
): { readonly code: WaitCode; readonly text: string } | null {
  if (!v.live) return { code: 'no-lease', text: `${v.me} itself has no live lease` };
  if (v.policy.paused) return { code: 'paused', text: 'HA is paused in the whole cluster' };
  const pair = vm.own.lockstep ?? null;
  if (pair !== null) {
    const text =
      pair.state === 'protected'
        ? `its twin on ${pair.twin} is to go on in its place`
        : `it had no twin, and what it wrote is on ${vm.own.owner} alone: it comes back with that node`;
    return { code: 'lockstep', text };
  }
  if (vm.own.sync === 'stale' || (vm.own.copies.length > 0 && vm.own.sync !== 'ok'))
    return { code: 'stale', text: 'the copy here may be older than what the guest wrote: a person decides' };
  // What lies there, frozen or not, is older than the disk: it may not pass for the machine of the new owner.
  if (vm.left)
    return {
      code: 'left-over',
      text: `a machine of it is on ${v.me} still, of before: that one has to go first`,
    };
  if (!vm.reach.ok) return { code: 'no-pool', text: vm.reach.why };
  for (const pool of vm.reach.pools) {
    const fault = poolFault(pool, v.here.pools);
    if (fault !== null) return { code: 'no-pool', text: `${v.me} cannot take it: ${fault}` };
  }
  if (runs && !v.here.armable.ok)
    return { code: 'not-armable', text: `the keeper of ${v.me} would not arm: ${v.here.armable.why}` };
  return null;
}

/** The first VM that must run before this one and is wanted, but does not. */
function pendingBefore(vm: FailoverVm, vms: ReadonlyMap<string, FailoverVm>): FailoverVm | null {
  for (const id of vm.ha.after) {
    const before = vms.get(id);
    if (before !== undefined && before.id !== vm.id && before.wanted && !before.running) return before;
  }
  return null;
}
