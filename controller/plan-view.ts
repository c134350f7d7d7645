import { loadOf, planCluster, type OwnedVm } from '../core/decide/plan/gather.js';
import type { PlanCluster } from '../core/decide/plan/model.js';
import { reachOf } from '../core/decide/standby.js';
import type { Kept } from './tables.js';
import type { View } from './view.js';

/** The cluster as the planner sees it, from ledger and radio. */
export function clusterOf(view: View): PlanCluster {
  return planCluster(view.clusterNodes(), ownedVms(view));
}

function* ownedVms(view: View): Iterable<OwnedVm> {
  const { vmOwn, vmSpec, disk, pool } = view.ledger.tables;
  const [disks, pools] = [valuesOf(disk), valuesOf(pool)];
  for (const [id, { value: own }] of vmOwn) {
    const spec = vmSpec.get(id)?.value;
    if (spec === undefined) continue;
    const stats = view.saidOf(id, own.owner)?.stats ?? null;
    yield {
      spec,
      own,
      load: stats === null ? null : loadOf(spec, stats),
      reach: reachOf(spec, disks, pools),
    };
  }
}

/** Records without their revisions, looked up when asked for. */
const valuesOf = <T>(kept: ReadonlyMap<string, Kept<T>>): { get(id: string): T | undefined } => ({
  get: (id) => kept.get(id)?.value,
});
