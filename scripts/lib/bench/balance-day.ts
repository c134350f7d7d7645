import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { brakeOf, decideBalance } from '../../../core/decide/plan/auto.js';
import { cpuShare, evenOut, shareWithout } from '../../../core/decide/plan/even.js';
import type { LoadVector, PlanCluster, PlanNode, PlanVm } from '../../../core/decide/plan/model.js';
import { Moves } from '../../../core/decide/plan/move.js';
import { Random } from '../../../core/decide/plan/random.js';
import { Smoothed } from '../../../core/decide/plan/smooth.js';
import type { BalanceMove, BalanceRecord } from '../../../core/domain/balance.js';
import { report, round, say } from './report.js';

const minute = 60_000;
const day = 24 * 60;
/** A node is overloaded in a minute in which its VMs want more of its CPUs than this share. */
const overloadShare = 0.9;
const nodeCpus = 32;
const nodeMemoryMiB = 256 * 1024;

/** A VM over one day: CPUs wanted in each minute. */
interface DayVm {
  readonly name: string;
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly wants: Float64Array;
}

/** A hill over the day around an hour, 0 to 1. */
const hill = (m: number, hour: number, widthH: number): number => {
  const d = Math.abs(((m / 60 - hour + 36) % 24) - 12);
  return Math.exp(-((d / widthH) ** 2));
};

/** Kinds of VMs: how many of a hundred, and the curve of their day. */
const kinds: readonly (readonly [share: number, curve: (m: number) => number])[] = [
  [45, (m) => 0.08 + 0.6 * hill(m, 11, 2.5) + 0.5 * hill(m, 15, 2)],
  [25, (m) => 0.1 + 0.7 * hill(m, 20, 2)],
  [15, (m) => 0.03 + 0.9 * hill(m, 2, 1.2)],
  [15, () => 0.25],
];

/**
 * A day of load from a seed: curves of office hours, evenings and nightly batches, each VM a little early or late and of a
 * height of its own, with noise, and bursts of 3 to 20 minutes, some four a day and VM, that want all its CPUs.
 */
function makeDay(seed: number, vms: number): DayVm[] {
  const r = new Random(seed);
  return Array.from({ length: vms }, (_, i) => {
    let x = r.below(100);
    const curve = (kinds.find(([share]) => (x -= share) < 0) ?? kinds[3]!)[1];
    const cpus = [2, 2, 4, 4, 8, 16][r.below(6)]!;
    const shift = Math.round((r.unit() - 0.5) * 90);
    const height = 0.4 + 0.6 * r.unit();
    const wants = new Float64Array(day);
    let burst = 0;
    for (let m = 0; m < day; m++) {
      if (burst === 0 && r.unit() < 4 / day) burst = 3 + r.below(18);
      const usual = height * curve((m + shift + day) % day) * (0.85 + 0.3 * r.unit());
      wants[m] = cpus * Math.min(1, burst > 0 ? 0.95 : usual);
      if (burst > 0) burst--;
    }
    return { name: `vm${String(i).padStart(4, '0')}`, cpus, memoryMiB: cpus * 2048, wants };
  });
}

const nodesOf = (count: number): PlanNode[] =>
  Array.from({ length: count }, (_, i) => ({
    name: `node${String(i).padStart(3, '0')}`,
    state: 'online',
    group: 'default',
    memoryMiB: nodeMemoryMiB,
    vmMemoryMiB: nodeMemoryMiB - 2048,
    diskMiB: 2 ** 22,
    vmDiskMiB: 2 ** 22,
    cpus: nodeCpus,
    cpuSpeed: 1,
    ownCpus: 0,
    cpuRatioMax: 16,
    spindles: 384,
    domains: [],
    carries: [nodeCpus, nodeMemoryMiB, 500, 125],
  }));

interface Run {
  readonly vms: readonly DayVm[];
  readonly nodes: readonly PlanNode[];
  readonly owner: Map<string, string>;
}

function clusterOf(run: Run, load: (v: DayVm) => LoadVector): PlanCluster {
  const vms = run.vms.map((v): PlanVm => ({
    name: v.name,
    memoryMiB: v.memoryMiB,
    diskMiB: 0,
    cpus: v.cpus,
    spindles: 0,
    load: load(v),
    owner: run.owner.get(v.name) ?? '',
    standby: '',
    alone: true,
    apart: [],
  }));
  return { nodes: run.nodes, vms };
}

const measured = (v: DayVm, m: number): LoadVector => [
  v.wants[m]!,
  v.memoryMiB / 2,
  v.wants[m]!,
  v.wants[m]!,
];
const drain = <T>(steps: Generator<undefined, T>): T => {
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
};

/** What a way to balance does at the end of a minute: which VMs go where; they are there from the next minute on. */
type Way = (run: Run, m: number) => readonly { readonly vm: string; readonly to: string }[];

/** Loads as they are: the busiest VM of a node that is over goes to the least busy node, each minute. */
const greedy: Way = (run, m) => {
  const use = new Map(run.nodes.map((n) => [n.name, 0]));
  for (const v of run.vms) {
    const at = run.owner.get(v.name)!;
    use.set(at, use.get(at)! + v.wants[m]!);
  }
  const out: { vm: string; to: string }[] = [];
  for (const [node, cpus] of use) {
    if (cpus <= overloadShare * nodeCpus) continue;
    const [to] = [...use].sort((a, b) => a[1] - b[1])[0]!;
    const busiest = run.vms
      .filter((v) => run.owner.get(v.name) === node)
      .sort((a, b) => b.wants[m]! - a.wants[m]!)[0];
    if (busiest === undefined || to === node) continue;
    out.push({ vm: busiest.name, to });
    use.set(to, use.get(to)! + busiest.wants[m]!);
  }
  return out;
};

/** As agents do: smoothed, planned each minute, held to the brakes, one at a time. */
function flotilla(): Way {
  const smoothed = new Smoothed();
  const wanted = new Map<string, { from: string; since: number }>();
  let record: BalanceRecord | null = null;
  return (run, m) => {
    const nowMs = m * minute;
    smoothed.take(
      nowMs,
      run.vms.map((v) => [v.name, measured(v, m)] as const),
    );
    const cluster = clusterOf(run, (v) => smoothed.load(v.name)!);
    const moves = new Moves(cluster);
    const loads = {
      vmCpus: (vm: string): number => smoothed.load(vm)![0],
      cpuShare: (node: string): number => cpuShare(moves, moves.s.nodeNumber(node)),
      shareWithout: (node: string, vm: string): number =>
        shareWithout(moves, moves.s.nodeNumber(node), moves.s.vmNumber(vm)),
    };
    const before: BalanceRecord | null = record;
    const plan = drain(evenOut(cluster, (vm, to) => brakeOf(before, vm, to, loads, nowMs) === null));
    const found = plan.map((x): BalanceMove => ({ ...x, name: x.vm }));
    const from = new Map(found.map((x) => [x.vm, x.from]));
    for (const [vm, w] of wanted) if (from.get(vm) !== w.from) wanted.delete(vm);
    for (const [vm, node] of from) if (!wanted.has(vm)) wanted.set(vm, { from: node, since: nowMs });
    const step = decideBalance({
      me: 'n',
      nowMs,
      mode: 'automatic',
      movesPerHourMax: 10,
      record: before,
      found,
      wantedMs: (vm) => nowMs - (wanted.get(vm)?.since ?? Infinity),
      holds: [],
      loads,
      use: { memoryMiB: 0, diskBytes: 0 },
      newId: () => String(m),
    });
    // It takes a part of a minute, and has ended when the next plan is made.
    const past = step.record.past.map((x) => ({
      ...x,
      outcome: 'done' as const,
      tookMs: x.tookMs ?? 30_000,
    }));
    record = { ...step.record, past };
    return step.begin === null ? [] : [step.begin];
  };
}

/** hbal every ten minutes, by the mean load of the last ten, all its moves done; VMs on storage that all nodes reach. */
function hbal(dir: string): Way {
  return (run, m) => {
    if (m % 10 !== 9) return [];
    const mean = (v: DayVm): number => v.wants.subarray(m - 9, m + 1).reduce((a, b) => a + b, 0) / 10;
    const group = '7b0a4a3c-0000-4000-8000-000000000001';
    const promised = new Map<string, number>();
    for (const v of run.vms) {
      const at = run.owner.get(v.name)!;
      promised.set(at, (promised.get(at) ?? 0) + v.memoryMiB);
    }
    const nodes = run.nodes.map((n, i) =>
      [
        ...[n.name, n.memoryMiB, 2048, n.vmMemoryMiB - (promised.get(n.name) ?? 0), n.diskMiB, n.diskMiB],
        ...[n.cpus, i === 0 ? 'M' : 'N', group, 12, '', 'N', 12, 0, '1.0'],
      ].join('|'),
    );
    const vms = run.vms.map((v) =>
      [v.name, v.memoryMiB, 0, v.cpus, 'running', 'Y', run.owner.get(v.name), '', 'ext', '', 1, '-'].join(
        '|',
      ),
    );
    const policy =
      '4096,2,40960,1,1,1|128,1,0,1,1,1;262144,64,4194304,16,8,12|ext,drbd,plain,diskless|16.0|32.0';
    const file = path.join(dir, 'day.data');
    writeFileSync(
      file,
      `default|${group}|preferred||\n\n${nodes.join('\n')}\n\n${vms.join('\n')}\n\n\n|${policy}\ndefault|${policy}\n`,
    );
    writeFileSync(
      path.join(dir, 'day.util'),
      run.vms
        .map((v) => {
          const cpu = (mean(v) / nodeCpus).toFixed(6);
          return `${v.name} ${cpu} ${(v.memoryMiB / nodeMemoryMiB).toFixed(6)} ${cpu} ${cpu}\n`;
        })
        .join(''),
    );
    const args = ['-t', file, '-U', path.join(dir, 'day.util'), '-S', path.join(dir, 'day')];
    const r = spawnSync('hbal', args, { encoding: 'utf8' });
    if (r.status !== 0) throw new Error(`hbal ended with ${r.status ?? r.signal}: ${r.stderr.slice(-400)}`);
    const out: { vm: string; to: string }[] = [];
    for (const line of readFileSync(path.join(dir, 'day.balanced'), 'utf8').split('\n')) {
      const c = line.split('|');
      if (c[8] === 'ext' && c[0] !== undefined && c[6] !== undefined && run.owner.get(c[0]) !== c[6])
        out.push({ vm: c[0], to: c[6] });
    }
    return out;
  };
}

interface DayResult {
  readonly overloadMinutes: number;
  readonly moves: number;
}

function live(vms: readonly DayVm[], nodes: readonly PlanNode[], way: Way): DayResult {
  const owner = new Map<string, string>();
  // As placed at the beginning: each where the least memory is promised.
  const promised = nodes.map(() => 0);
  for (const v of vms) {
    const n = promised.indexOf(Math.min(...promised));
    promised[n]! += v.memoryMiB;
    owner.set(v.name, nodes[n]!.name);
  }
  const run: Run = { vms, nodes, owner };
  let overloadMinutes = 0;
  let moves = 0;
  for (let m = 0; m < day; m++) {
    const use = new Map<string, number>();
    for (const v of vms) use.set(owner.get(v.name)!, (use.get(owner.get(v.name)!) ?? 0) + v.wants[m]!);
    for (const cpus of use.values()) if (cpus > overloadShare * nodeCpus) overloadMinutes++;
    for (const { vm, to } of way(run, m)) {
      owner.set(vm, to);
      moves++;
    }
  }
  return { overloadMinutes, moves };
}

/** Clusters and the seeds of their days. */
const cases = [
  { nodes: 8, vms: 72, seeds: [1, 2, 3] },
  { nodes: 16, vms: 144, seeds: [1] },
] as const;

/** A day of load, lived through without balancing and with each way of it. */
export function balanceDay(quick: boolean): void {
  const there = spawnSync('hbal', ['--version']).status === 0;
  if (!there) say('hbal is not installed (Debian: ganeti-htools): the day is not lived through with it');
  for (const c of quick ? cases.slice(0, 1) : cases)
    for (const seed of quick ? c.seeds.slice(0, 1) : c.seeds) {
      const vms = makeDay(seed, c.vms);
      const nodes = nodesOf(c.nodes);
      const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-day-'));
      try {
        const ways = {
          none: () => [],
          greedy,
          ...(there ? { hbal: hbal(dir) } : {}),
          flotilla: flotilla(),
        } satisfies Record<string, Way>;
        const told: Record<string, { overloadMinutes: number; movesPerVmDay: number }> = {};
        for (const [name, way] of Object.entries(ways) as [string, Way][]) {
          say(`a day, ${c.nodes} nodes, ${c.vms} VMs, seed ${seed}: ${name}`);
          const r = live(vms, nodes, way);
          told[name] = { overloadMinutes: r.overloadMinutes, movesPerVmDay: round(r.moves / c.vms) };
        }
        report({
          figure: `balance-day-${c.nodes}-${c.vms}-${seed}`,
          value: told['flotilla']!.overloadMinutes,
          unit: 'overloaded minutes of nodes in a day',
          target: {
            atMost: Math.min(told['none']!.overloadMinutes, told['hbal']?.overloadMinutes ?? Infinity),
          },
          n: 1,
          compared: told,
        });
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }
}
