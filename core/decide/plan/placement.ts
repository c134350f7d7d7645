import type { AdmissionMode } from '../../domain/ha.js';
import { admit } from './admission.js';
import {
  refusals,
  type NodeRefusal,
  type PlacementNode,
  type PlacementReason,
  type PlacementRequest,
} from './fit.js';
import type { PlanCluster, PlanVm } from './model.js';
import { enter, giveStandbys, placeOne, type PlaceAnswer, type PlaceLimits } from './place.js';
import { Rules } from './rules.js';
import { measuredEmphasis, nowhere, State } from './state.js';

/** What placement is asked for a VM that is nowhere yet, or that is to be started where it is. */
export interface PlaceAsk {
  readonly request: PlacementRequest;
  /** The VM itself; its owner and standby are empty. */
  readonly vm: PlanVm;
  readonly nodes: readonly PlacementNode[];
  /** The cluster without it. */
  readonly cluster: PlanCluster;
  readonly admission: AdmissionMode;
}

export type Placement =
  | {
      readonly ok: true;
      readonly node: string;
      /** Who would take it over; null: nobody. */
      readonly standby: string | null;
      readonly reasons: readonly string[];
      /** Promises that would not be kept, in words. */
      readonly warnings: readonly string[];
    }
  | {
      readonly ok: false;
      /** `no-failover-room`: it fits, but what is promised if a node fails would not. */
      readonly code: 'no-node-fits' | 'no-failover-room';
      readonly nodes: readonly NodeRefusal[];
      /** What would not be kept, and what would help. */
      readonly shortfalls: readonly { readonly text: string; readonly help: string }[];
    };

/**
 * Picks the node that shall own a new VM, with a standby where it is to be protected: of those that it fits on, the pair
 * that leaves the cluster most even and breaks no promise. Ties break by name, so that every controller picks the same.
 *
 * @returns the node and why, or for each node all reasons against it
 */
export function place(ask: PlaceAsk): Placement {
  const { cluster, vm, admission } = ask;
  // One of its name is itself, made by the same request elsewhere: names are given once.
  const others = cluster.vms.filter((v) => v.name !== vm.name);
  const s = new State({ nodes: cluster.nodes, vms: [...others, vm] }, measuredEmphasis);
  giveStandbys(s);
  const v = s.vmNumber(vm.name);
  const rules = new Rules(s, cluster.rules);
  const { fits, refused } = sift(ask, s, v, rules);
  const limits: PlaceLimits = { owner: (n) => fits.has(s.nodes[n]!.name), cost: (n) => rules.cost(v, n) };
  if (fits.size === 0) return { ok: false, code: 'no-node-fits', nodes: refused, shortfalls: [] };
  const strict = placeOne(s, v, limits);
  if (strict.ok) return answer(ask, s, strict, refused, []);
  const loose = placeOne(s, v, { ...limits, loose: true });
  const nodes = withReasons(refused, fits, strict);
  if (!loose.ok) return { ok: false, code: 'no-node-fits', nodes, shortfalls: [] };
  const shortfalls = shortOf(ask, s, v, loose);
  if (admission === 'enforce') return { ok: false, code: 'no-failover-room', nodes, shortfalls };
  return answer(
    ask,
    s,
    loose,
    refused,
    admission === 'off' ? [] : shortfalls.map((x) => `${x.text}. ${x.help}`),
  );
}

/** The nodes it fits on, and all reasons against the others. */
function sift(
  { request, nodes }: PlaceAsk,
  s: State,
  v: number,
  rules: Rules,
): { fits: Set<string>; refused: NodeRefusal[] } {
  const refused: NodeRefusal[] = [];
  const fits = new Set<string>();
  for (const node of [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const n = s.nodes.findIndex((x) => x.name === node.id);
    const barred = n < 0 || (request.node !== null && request.node !== node.id) ? [] : rules.bars(v, n);
    const reasons = [...refusals(request, node), ...barred.map(ruleReason)];
    if (reasons.length > 0) refused.push({ node: node.id, reasons });
    else fits.add(node.id);
  }
  return { fits, refused };
}

export const ruleReason = (text: string): PlacementReason => ({
  reason: 'rule',
  text,
  hint: 'Choose another node, or change the rule: flotilla rule list.',
});

function answer(
  { vm }: PlaceAsk,
  s: State,
  at: Extract<PlaceAnswer, { ok: true }>,
  refused: readonly NodeRefusal[],
  warnings: readonly string[],
): Placement {
  const n = s.nodeNumber(at.owner);
  const percent = Math.round(((s.ranMiB(n) + vm.memoryMiB) / s.nodes[n]!.memoryMiB) * 100);
  const standby = at.standby === '' ? null : at.standby;
  return {
    ok: true,
    node: at.owner,
    standby,
    reasons: [
      `${at.owner} leaves the cluster most even of those that fit: ${percent} % of its memory promised with this VM`,
      ...(standby === null ? [] : [`${standby} has the memory to take it over`]),
      ...refused.map((r) => `${r.node} does not fit: ${r.reasons.map((x) => x.text).join('; ')}`),
    ],
    warnings,
  };
}

/** What the planner has against nodes that the VM as such would fit on. */
function withReasons(
  refused: readonly NodeRefusal[],
  fits: ReadonlySet<string>,
  strict: PlaceAnswer,
): NodeRefusal[] {
  const out = new Map<string, PlacementReason[]>(refused.map((r) => [r.node, [...r.reasons]]));
  for (const r of strict.refused) {
    if (r.as === 'owner' && !fits.has(r.node)) continue;
    const as = r.as === 'standby' ? 'as standby: ' : '';
    const reasons = r.reasons.map((text): PlacementReason => ({
      reason: 'no-failover-room',
      text: `${as}${text}`,
      hint: 'Add memory or a node, shrink VMs, turn the VM’s HA off, or say that promises may be broken: flotilla ha admission warn.',
    }));
    out.set(r.node, [...(out.get(r.node) ?? []), ...reasons]);
  }
  return [...out].map(([node, reasons]) => ({ node, reasons })).sort((a, b) => (a.node < b.node ? -1 : 1));
}

/**
 * What speaks against the promise that a VM of the cluster comes back if its node fails: no standby that could, or one
 * whose memory does not do for all it promised. Empty: it is kept.
 */
export function protectionOf(cluster: PlanCluster, name: string): { text: string; help: string }[] {
  const vm = cluster.vms.find((v) => v.name === name);
  if (vm === undefined || vm.alone === true) return [];
  const s = new State(cluster);
  giveStandbys(s);
  const v = s.vmNumber(name);
  if (s.standby[v] === nowhere) return [noStandby(vm)];
  const standby = s.nodes[s.standby[v]!]!.name;
  const now = admit(s);
  return now.ok
    ? []
    : now.shortfalls
        .filter((x) => x.node === standby && x.vms.includes(name))
        .map(({ text, help }) => ({ text, help }));
}

const noStandby = (vm: PlanVm): { text: string; help: string } => ({
  text: `no node has the memory, and the disks in reach, to take over VM "${vm.name}"`,
  help: `Bring another node back, add one with ${vm.memoryMiB} MiB to spare, or turn the VM’s HA off.`,
});

/** What would not be kept with the VM there. */
function shortOf(
  { cluster, vm }: PlaceAsk,
  s: State,
  v: number,
  at: Extract<PlaceAnswer, { ok: true }>,
): { text: string; help: string }[] {
  const before = new State({ ...cluster, vms: cluster.vms.filter((v) => v.name !== vm.name) });
  giveStandbys(before);
  enter(s, v, at);
  const after = admit(s, 'node', before);
  const out = after.ok ? [] : after.shortfalls.map(({ text, help }) => ({ text, help }));
  if (s.alone[v] === 0 && s.standby[v] === nowhere) out.push(noStandby(vm));
  s.leave(v);
  return out;
}
