import { State } from '../../../core/decide/plan/state.js';
import { canOwn, canStand } from '../../../core/decide/plan/place.js';
import type { LoadVector, PlanCluster, PlanNode, PlanVm } from '../../../core/decide/plan/model.js';
import { Random } from '../../../core/decide/plan/random.js';

/** Nodes and VMs of a case. */
export interface CaseSize {
  readonly nodes: number;
  readonly vms: number;
}

/** Many small VMs and few big ones: vCPUs and how many of a hundred have so many. */
const vcpus: readonly (readonly [number, number])[] = [
  [1, 40],
  [2, 30],
  [4, 18],
  [8, 9],
  [16, 3],
];
const disksGiB = [10, 20, 20, 40, 40, 80, 80, 160, 320];
/** Of all memory and disk, what is in use. */
const useShare = 0.58;

function pick<T>(r: Random, of: readonly T[]): T {
  return of[r.below(of.length)] as T;
}

function makeVm(r: Random, i: number): PlanVm {
  let x = r.below(100);
  const cpus = (vcpus.find(([, share]) => (x -= share) < 0) ?? [1, 0])[0];
  const busy = 0.04 + 0.9 * r.unit() ** 4;
  const load: LoadVector = [(cpus / 32) * busy, cpus / 64, 0.02 * r.unit(), (cpus / 32) * busy * r.unit()];
  return {
    name: `vm${String(i).padStart(5, '0')}`,
    memoryMiB: cpus * pick(r, [1024, 2048, 2048, 4096]),
    diskMiB: pick(r, disksGiB) * 1024,
    cpus,
    spindles: 1,
    load: load.map((v) => Number(v.toFixed(4))) as unknown as LoadVector,
    owner: '',
    standby: '',
    apart: [],
  };
}

/** Three generations of hardware, together as large as the VMs need. */
function makeNodes(r: Random, count: number, vms: readonly PlanVm[]): PlanNode[] {
  const sizes = Array.from({ length: count }, () => pick(r, [1, 1, 1.5, 2]));
  const all = sizes.reduce((a, b) => a + b, 0);
  const needs = (of: (v: PlanVm) => number): number => vms.reduce((a, v) => a + of(v), 0);
  const share = (amount: number, size: number, unit: number): number =>
    Math.ceil((amount * size) / all / useShare / unit) * unit;
  return sizes.map((size, i) => {
    const memoryMiB =
      share(
        needs((v) => v.memoryMiB),
        size,
        8192,
      ) + 65536;
    const diskMiB = share(2 * needs((v) => v.diskMiB), size, 102_400) + 614_400;
    return {
      name: `node${String(i).padStart(4, '0')}`,
      state: 'online',
      group: 'default',
      memoryMiB,
      vmMemoryMiB: memoryMiB - 4096,
      diskMiB,
      vmDiskMiB: diskMiB,
      cpus: share(needs((v) => v.cpus) / 3, size, 4) + 8,
      cpuSpeed: 1,
      ownCpus: 1,
      cpuRatioMax: 4,
      spindles: 32 * Math.round(12 * size),
      domains: [],
    };
  });
}

/**
 * A cluster made from a seed: VMs went to nodes by popularity, not by need, as in a cluster that has grown; every
 * promise can be kept. A fifteenth of the nodes has just been added and is empty.
 */
export function makeCase({ nodes: count, vms: vmCount }: CaseSize, seed: number): PlanCluster {
  const r = new Random(seed);
  const vms = Array.from({ length: vmCount }, (_, i) => makeVm(r, i));
  const nodes = makeNodes(r, count, vms);
  const s = new State({ nodes, vms });
  const popular: number[] = [];
  nodes.forEach((_, n) => {
    const seats = r.unit() < 1 / 15 ? 0 : 1 + r.below(4);
    for (let i = 0; i < seats; i++) popular.push(n);
  });
  const order = vms.map((_, i) => i).sort((a, b) => s.memory[b]! - s.memory[a]! || a - b);
  for (const vm of order) {
    for (let tries = 0; s.owner[vm]! < 0; tries++) {
      if (tries > 20_000) throw new Error(`no room for ${vms[vm]?.name}`);
      const [o, sb] = tries < 500 ? [pick(r, popular), pick(r, popular)] : [r.below(count), r.below(count)];
      if (canOwn(s, vm, o) && canStand(s, vm, o, sb)) s.enter(vm, o, sb);
    }
  }
  const name = (n: number): string => nodes[n]?.name ?? '';
  return {
    nodes,
    vms: vms.map((v, i) => ({ ...v, owner: name(s.owner[i]!), standby: name(s.standby[i]!) })),
  };
}

/** The cluster in the text format of htools, and its loads as hbal -U reads them. */
export function htoolsText(c: PlanCluster): { readonly data: string; readonly util: string } {
  const group = '7b0a4a3c-0000-4000-8000-000000000001';
  const s = new State(c);
  const nodes = c.nodes.map((n, i) =>
    [
      n.name,
      n.memoryMiB,
      n.memoryMiB - n.vmMemoryMiB,
      s.freeMem[i],
      n.diskMiB,
      s.freeDsk[i],
      n.cpus,
      i === 0 ? 'M' : 'N',
      group,
      n.spindles / 32,
      '',
      'N',
      n.spindles / 32,
      n.ownCpus,
      '1.0',
    ].join('|'),
  );
  const vms = c.vms.map((v) =>
    [v.name, v.memoryMiB, v.diskMiB, v.cpus, 'running', 'Y', v.owner, v.standby, 'drbd', '', 1, '-'].join(
      '|',
    ),
  );
  const policy = '4096,2,40960,1,1,1|128,1,1024,1,1,1;262144,64,4194304,16,8,12|drbd,plain,diskless|4.0|32.0';
  return {
    data: `default|${group}|preferred||\n\n${nodes.join('\n')}\n\n${vms.join('\n')}\n\n\n|${policy}\ndefault|${policy}\n`,
    util: c.vms.map((v) => `${v.name} ${v.load.join(' ')}\n`).join(''),
  };
}
