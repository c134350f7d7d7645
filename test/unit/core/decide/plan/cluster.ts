import fc from 'fast-check';
import type { PlanCluster, PlanNode, PlanVm } from '../../../../../core/decide/plan/model.js';

export const node = (name: string, o: Partial<PlanNode> = {}): PlanNode => ({
  name,
  state: 'online',
  group: 'all',
  memoryMiB: 65536,
  vmMemoryMiB: 63488,
  diskMiB: 2 ** 20,
  vmDiskMiB: 2 ** 20,
  cpus: 24,
  cpuSpeed: 1,
  ownCpus: 1,
  cpuRatioMax: 4,
  spindles: 384,
  domains: [],
  ...o,
});

export const vm = (name: string, owner: string, standby: string, o: Partial<PlanVm> = {}): PlanVm => ({
  name,
  memoryMiB: 4096,
  diskMiB: 20480,
  cpus: 2,
  spindles: 1,
  load: [1, 1, 1, 1],
  owner,
  standby,
  apart: [],
  ...o,
});

/** Clusters of any state: full nodes, nodes lost, promises that cannot be kept. */
export const clusters: fc.Arbitrary<PlanCluster> = fc
  .record({
    nodes: fc.array(
      fc.record({
        size: fc.constantFrom(1, 2),
        state: fc.constantFrom('online', 'online', 'online', 'online', 'drained', 'dead'),
        rack: fc.constantFrom('r1', 'r2'),
      }),
      { minLength: 3, maxLength: 7 },
    ),
    vms: fc.array(
      fc.record({
        memory: fc.constantFrom(512, 1024, 4096, 16384),
        disk: fc.constantFrom(10240, 81920, 204800),
        cpus: fc.integer({ min: 1, max: 8 }),
        owner: fc.nat(),
        standby: fc.nat(),
        label: fc.constantFrom('', '', 'web', 'db'),
        busy: fc.integer({ min: 0, max: 100 }),
      }),
      { minLength: 0, maxLength: 24 },
    ),
  })
  .map(({ nodes, vms }) => {
    const made = nodes.map((n, i) =>
      node(`n${i}`, {
        // Two stay, so that there is a cluster.
        state: i < 2 ? 'online' : n.state,
        memoryMiB: 65536 * n.size,
        vmMemoryMiB: 65536 * n.size - 2048,
        domains: [n.rack],
      }),
    );
    return {
      nodes: made,
      vms: vms.map((v, i) => {
        const owner = v.owner % made.length;
        const standby = (owner + 1 + (v.standby % (made.length - 1))) % made.length;
        return vm(`v${i}`, `n${owner}`, `n${standby}`, {
          memoryMiB: v.memory,
          diskMiB: v.disk,
          cpus: v.cpus,
          load: [v.busy / 100, v.memory / 65536, v.busy / 200, 0.1],
          apart: v.label === '' ? [] : [v.label],
        });
      }),
    };
  });

/** The same with so little memory that most moves would break a promise. */
export const tightClusters: fc.Arbitrary<PlanCluster> = fc
  .tuple(clusters, fc.integer({ min: 5, max: 25 }))
  .map(([c, sparePct]) => {
    const per = c.vms.reduce((sum, v) => sum + v.memoryMiB, 0) / c.nodes.length;
    const of = (n: PlanNode): number => {
      const own = c.vms.reduce((sum, v) => sum + (v.owner === n.name ? v.memoryMiB : 0), 0);
      const back = c.nodes.map((x) =>
        c.vms.reduce((sum, v) => sum + (v.owner === x.name && v.standby === n.name ? v.memoryMiB : 0), 0),
      );
      return own + Math.max(...back) + Math.ceil((per * sparePct) / 100) + 512;
    };
    const nodes = c.nodes.map((n) => ({ ...n, memoryMiB: of(n) + 2048, vmMemoryMiB: of(n) }));
    return { ...c, nodes };
  });
