import { transitions, type Violation } from './checks.js';
import { faultKinds } from './faults.js';
import type { Outcome } from './schedule.js';

/** A schedule in which a promise was broken. */
export interface Failure {
  readonly seed: number;
  readonly nodes: number;
  readonly violations: readonly Violation[];
}

/** What a run of many schedules found. */
export interface Summary {
  schedules: number;
  steps: number;
  simulatedSeconds: number;
  coreSeconds: number;
  /** Schedules by number of nodes. */
  readonly nodes: Record<string, number>;
  readonly faults: Record<string, number>;
  readonly transitions: Record<string, number>;
  /** Schedules in which a promise was broken, by promise. */
  readonly violations: Record<string, number>;
  readonly failures: Failure[];
  /**
   * Protected VMs that fell by a single failure: all of them were judged by when they ran again, `count` of them on
   * another node, of which the slowest is told.
   */
  readonly recovery: { judged: number; count: number; slowestMs: number; slowestSeed: number | null };
  /** How often each transition was made under each kind of fault, in schedules. */
  readonly coverage: Record<string, Record<string, number>>;
}

/** Failures listed with their texts, at most; all are counted. */
const failuresMax = 20;

export function emptySummary(): Summary {
  const zero = (keys: readonly string[]): Record<string, number> =>
    Object.fromEntries(keys.map((k) => [k, 0]));
  return {
    schedules: 0,
    steps: 0,
    simulatedSeconds: 0,
    coreSeconds: 0,
    nodes: {},
    faults: zero(faultKinds),
    transitions: zero(transitions),
    violations: {},
    failures: [],
    recovery: { judged: 0, count: 0, slowestMs: 0, slowestSeed: null },
    coverage: Object.fromEntries(transitions.map((t) => [t, zero(faultKinds)])),
  };
}

export function addOutcome(s: Summary, o: Outcome): void {
  s.schedules++;
  s.steps += o.steps;
  s.simulatedSeconds += Math.round(o.simMs / 1000);
  count(s.nodes, String(o.nodes));
  for (const f of o.faults) count(s.faults, f);
  for (const x of o.transitions) count(s.transitions, x);
  for (const p of new Set(o.violations.map((v) => v.promise))) count(s.violations, p);
  if (o.violations.length > 0 && s.failures.length < failuresMax)
    s.failures.push({ seed: o.seed, nodes: o.nodes, violations: o.violations.slice(0, 3) });
  s.recovery.judged += o.judged;
  for (const ms of o.recoveries) {
    s.recovery.count++;
    if (ms <= s.recovery.slowestMs) continue;
    s.recovery.slowestMs = Math.round(ms);
    s.recovery.slowestSeed = o.seed;
  }
  for (const pair of o.covered) {
    const [t = '', f = ''] = pair.split(' ');
    count((s.coverage[t] ??= {}), f);
  }
}

export function merge(all: readonly Summary[]): Summary {
  const sum = emptySummary();
  for (const s of all) {
    sum.schedules += s.schedules;
    sum.steps += s.steps;
    sum.simulatedSeconds += s.simulatedSeconds;
    sum.coreSeconds += s.coreSeconds;
    for (const key of ['nodes', 'faults', 'transitions', 'violations'] as const)
      for (const [k, n] of Object.entries(s[key])) count(sum[key], k, n);
    for (const [t, row] of Object.entries(s.coverage))
      for (const [f, n] of Object.entries(row)) count((sum.coverage[t] ??= {}), f, n);
    sum.failures.push(...s.failures.slice(0, failuresMax - sum.failures.length));
    sum.recovery.judged += s.recovery.judged;
    sum.recovery.count += s.recovery.count;
    if (s.recovery.slowestMs <= sum.recovery.slowestMs) continue;
    sum.recovery.slowestMs = s.recovery.slowestMs;
    sum.recovery.slowestSeed = s.recovery.slowestSeed;
  }
  sum.failures.sort((a, b) => a.seed - b.seed);
  return sum;
}

/** Transitions never made under a kind of fault. */
export const emptyCells = (s: Summary): string[] =>
  Object.entries(s.coverage).flatMap(([t, row]) =>
    Object.entries(row).flatMap(([f, n]) => (n === 0 ? [`${t} under ${f}`] : [])),
  );

function count(into: Record<string, number>, key: string, n = 1): void {
  into[key] = (into[key] ?? 0) + n;
}
