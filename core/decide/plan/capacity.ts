import type { PlanCluster, PlanVm } from './model.js';
import { enter, placeOne } from './place.js';
import { State } from './state.js';

/** A VM of which one asks how many more fit. */
export type VmSize = Pick<PlanVm, 'memoryMiB' | 'diskMiB' | 'cpus'>;

/** Counting ends here: who has this much room does not ask. */
export const capacityMax = 1000;

/**
 * How many more VMs of one size fit, each with a standby that can take it over and no promise broken, placed one
 * after the other where they leave the least imbalance.
 *
 * @param sample - the load one of them is expected to bring
 */
export function capacity(cluster: PlanCluster, size: VmSize, sample?: PlanVm['load']): number {
  const steps = capacitySteps(cluster, size, sample === undefined ? {} : { sample });
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

/**
 * The same, yielding after each VM.
 *
 * @param o.alone - they need no standby
 * @param o.max - counting ends there
 */
export function* capacitySteps(
  cluster: PlanCluster,
  size: VmSize,
  o: { readonly sample?: PlanVm['load']; readonly alone?: boolean; readonly max?: number } = {},
): Generator<undefined, number> {
  const memory = cluster.nodes.reduce((a, n) => a + n.vmMemoryMiB, 0);
  const count = Math.min(o.max ?? capacityMax, Math.floor(memory / Math.max(1, size.memoryMiB)));
  const more = Array.from({ length: count }, (_, i): PlanVm => ({
    ...size,
    name: `\uffff${String(i).padStart(6, '0')}`, // after all others
    spindles: 1,
    load: o.sample ?? [0, 0, 0, 0],
    owner: '',
    standby: '',
    apart: [],
    ...(o.alone === true ? { alone: true as const } : {}),
  }));
  const s = new State({ nodes: cluster.nodes, vms: [...cluster.vms, ...more] });
  for (let i = 0; i < count; i++) {
    const vm = cluster.vms.length + i;
    const answer = placeOne(s, vm);
    if (!answer.ok) return i;
    enter(s, vm, answer);
    yield;
  }
  return count;
}

/** How much was in use when. */
export interface UsePoint {
  readonly atMs: number;
  readonly used: number;
}

const dayMs = 86_400_000;

/**
 * Days until `total` is in use, if it goes on as it went: the straight line of least squares through the points.
 *
 * @returns null when it does not grow, or fewer than two moments are known
 */
export function daysUntilFull(points: readonly UsePoint[], total: number): number | null {
  const last = points.reduce((a, p) => Math.max(a, p.atMs), -Infinity);
  const days = points.map((p) => (p.atMs - last) / dayMs);
  const meanDay = days.reduce((a, x) => a + x, 0) / points.length;
  const meanUse = points.reduce((a, p) => a + p.used, 0) / points.length;
  let over = 0;
  let under = 0;
  points.forEach((p, i) => {
    over += (days[i]! - meanDay) * (p.used - meanUse);
    under += (days[i]! - meanDay) ** 2;
  });
  const perDay = over / under;
  if (!(perDay > 0)) return null;
  const now = meanUse - perDay * meanDay;
  return Math.max(0, (total - now) / perDay);
}
