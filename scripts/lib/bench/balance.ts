import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { admit } from '../../../core/decide/plan/admission.js';
import { descend } from '../../../core/decide/plan/descent.js';
import { evenOut } from '../../../core/decide/plan/even.js';
import type { HtoolsPlan } from '../../../core/decide/plan/htools.js';
import type { PlanCluster } from '../../../core/decide/plan/model.js';
import { placeOne } from '../../../core/decide/plan/place.js';
import { planPower } from '../../../core/decide/plan/power.js';
import { State } from '../../../core/decide/plan/state.js';
import { htoolsText, makeCase, type CaseSize } from './balance-cases.js';
import { median, percentile, report, round, say } from './report.js';

/** Size of the cluster, and the CPU seconds a plan may take, with the start of the process. */
const sizes: readonly (CaseSize & { readonly atMostS: number })[] = [
  { nodes: 8, vms: 80, atMostS: 0.5 },
  { nodes: 16, vms: 200, atMostS: 1 },
  { nodes: 40, vms: 600, atMostS: 5 },
  { nodes: 100, vms: 2000, atMostS: 15 },
  { nodes: 300, vms: 6000, atMostS: 60 },
];
/** hbal itself takes minutes beyond this. */
const hbalVmsMax = 200;

/** CPU seconds of children that have ended. Ticks are a hundredth of a second. */
function childrenCpuS(): number {
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ').at(-1)!.split(' ');
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

function timed(command: string, args: readonly string[]): { readonly cpuS: number; readonly out: string } {
  const before = childrenCpuS();
  const r = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (r.status !== 0)
    throw new Error(`${command} ended with ${r.status ?? r.signal}: ${r.stderr.slice(-400)}`);
  return { cpuS: childrenCpuS() - before, out: r.stdout };
}

const hbalIsThere = (): boolean => spawnSync('hbal', ['--version']).status === 0;

/** CPU time of plans over sizes, how it grows, and what hbal makes of the same clusters. */
export function balancePlans(repeats: number): void {
  const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-balance-'));
  try {
    const points: { readonly vms: number; readonly cpuS: number }[] = [];
    const compare = hbalIsThere();
    if (!compare) say('hbal is not installed (Debian: ganeti-htools): no comparison');
    for (const size of sizes) {
      say(`balance: ${size.nodes} nodes, ${size.vms} VMs`);
      const cluster = makeCase(size, size.vms);
      const file = path.join(dir, `${size.vms}.data`);
      const { data, util } = htoolsText(cluster);
      writeFileSync(file, data);
      writeFileSync(file.replace('.data', '.util'), util);
      // The first run may have to pack the program.
      if (points.length === 0) timed('scripts/plan', ['--htools', file, '--mode', 'util']);
      const runs = Array.from({ length: repeats }, () =>
        timed('scripts/plan', ['--htools', file, '--mode', 'util']),
      );
      const cpuS = median(runs.map((x) => x.cpuS));
      points.push({ vms: size.vms, cpuS });
      report({
        figure: `balance-${size.nodes}-${size.vms}`,
        value: cpuS,
        unit: 's of CPU',
        target: { atMost: size.atMostS },
        n: repeats,
        compared: {
          ...outcome(cluster, JSON.parse(runs[0]!.out) as HtoolsPlan),
          ...(compare && size.vms <= hbalVmsMax ? hbal(cluster, file) : {}),
        },
      });
    }
    reportGrowth(points);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** What a plan comes to, counted afresh from where it ends. */
function outcome(cluster: PlanCluster, plan: HtoolsPlan): Record<string, number> {
  const end = new Map(plan.final.map((x) => [x.vm, x]));
  const vms = cluster.vms.map((v) => {
    const { primary, secondary } = end.get(v.name)!;
    return { ...v, owner: primary, standby: secondary };
  });
  const copied = plan.moves.reduce(
    (sum, m) =>
      sum +
      m.ops.filter((op) => op !== 'f').length * (cluster.vms.find((v) => v.name === m.vm)?.diskMiB ?? 0),
    0,
  );
  return {
    before: round(new State(cluster).score()),
    after: round(new State({ ...cluster, vms }).score()),
    steps: plan.moves.length,
    diskGiB: Math.round(copied / 1024),
  };
}

/** The same cluster given to hbal. */
function hbal(cluster: PlanCluster, file: string): Record<string, number> {
  const { cpuS, out } = timed('hbal', ['-t', file, '-U', file.replace('.data', '.util'), '-v']);
  const after = Number(/improved from [\d.]+ to ([\d.]+)/.exec(out)?.[1] ?? NaN);
  const walk = descend(new State(cluster), Infinity);
  return {
    hbalAfter: round(after),
    hbalDiskGiB: Math.round(walk.diskMiB / 1024),
    hbalCpuS: round(cpuS),
  };
}

/** The exponent of CPU time over VMs: the slope of the line through both logarithms, the start of the process taken off. */
function reportGrowth(points: readonly { readonly vms: number; readonly cpuS: number }[]): void {
  const start = median([1, 2, 3].map(() => timed(process.execPath, ['-e', '0']).cpuS));
  const logs = points.map((p) => [Math.log(p.vms), Math.log(Math.max(0.01, p.cpuS - start))] as const);
  const mean = (i: 0 | 1): number => logs.reduce((a, x) => a + x[i], 0) / logs.length;
  const [mx, my] = [mean(0), mean(1)];
  const slope =
    logs.reduce((a, [x, y]) => a + (x - mx) * (y - my), 0) / logs.reduce((a, [x]) => a + (x - mx) ** 2, 0);
  report({
    figure: 'balance-growth',
    value: slope,
    unit: 'exponent of CPU over VMs',
    // hbal's step alone grows with VMs times the square of the nodes.
    target: { atMost: 1.5 },
    n: points.length,
    compared: {
      points: points.map((p) => ({ vms: p.vms, cpuS: round(p.cpuS) })),
      processStartS: round(start),
    },
  });
}

/** The longest that an agent that plans does nothing else: CPU of the longest slice of a plan. */
export function balanceSlices(): void {
  say('slices of a plan: 300 nodes, 6,000 VMs');
  const cluster = makeCase({ nodes: 300, vms: 6000 }, 6000);
  longestSlice(
    'balance-slice',
    evenOut(cluster, () => true),
  );
  const cpus = cluster.vms.reduce((sum, v) => sum + v.load[0], 0);
  longestSlice(
    'power-slice',
    planPower({
      cluster,
      sleepers: new Set(cluster.nodes.map((n) => n.name)),
      asleep: [],
      gone: [],
      wakeCpus: cpus,
      sleepCpus: cpus,
      may: () => true,
    }),
  );
}

function longestSlice(figure: string, steps: Generator<undefined, unknown>): void {
  const slices: number[] = [];
  for (let done = false; !done;) {
    const from = process.cpuUsage();
    done = steps.next().done === true;
    const { user, system } = process.cpuUsage(from);
    slices.push((user + system) / 1000);
  }
  const value = Math.max(...slices);
  report({ figure, value, unit: 'ms of CPU', target: { atMost: 50 }, n: slices.length });
}

/** One VM more, and the N+1 check, at a thousand nodes and twenty thousand VMs. */
export function balanceLarge(repeats: number): void {
  say('placement and admission: 1,000 nodes, 20,000 VMs');
  const cluster = makeCase({ nodes: 1000, vms: 20_000 }, 1);
  const sample = cluster.vms[0]!;
  const s = new State({
    ...cluster,
    vms: [...cluster.vms, { ...sample, name: 'zz', owner: '', standby: '' }],
  });
  const vm = s.vmCount - 1;
  const time = (f: () => unknown): number[] =>
    Array.from({ length: repeats }, () => {
      const from = performance.now();
      f();
      return performance.now() - from;
    });
  const figures = [
    ['placement-20000', time(() => placeOne(s, vm)), 20],
    ['admission-20000', time(() => admit(s)), 50],
    ['admission-domain-20000', time(() => admit(s, 'domain')), 50],
  ] as const;
  for (const [figure, ms, atMost] of figures) {
    report({
      figure,
      value: median(ms),
      unit: 'ms',
      target: { atMost },
      n: repeats,
      median: median(ms),
      p99: percentile(ms, 0.99),
    });
  }
}
