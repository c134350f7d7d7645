import { failoverPhases, type FailoverPhase, type FailoverTimeline } from './ha.js';

const words: Record<FailoverPhase, string> = {
  'last-beat': 'last sign of life of the old owner',
  'lease-gone': 'its lease is gone',
  'wait-over': 'the fence wait is over',
  owned: 'owned by the new node',
  'disk-ready': 'disks ready',
  running: 'QEMU runs',
  'guest-answers': 'the guest answers',
};

const fenceWords: Record<FailoverTimeline['fence'], string> = {
  waited: 'its watchdog time was waited out',
  bmc: 'its BMC says that it is off',
  person: 'a person confirmed that it is off',
  owner: 'it gave the VM over, being unable to start it',
  twin: 'its twin in lockstep went on',
};

/** Why a failover could end its wait. */
export const fenceText = (t: FailoverTimeline): string => fenceWords[t.fence];

export interface FailoverStep {
  readonly phase: FailoverPhase;
  readonly text: string;
  /** Seconds since the beginning. */
  readonly atS: number;
  /** Seconds since the step before. */
  readonly tookS: number;
}

/** The steps of a failover so far, in their order, with the time of each. */
export function failoverSteps(t: FailoverTimeline): FailoverStep[] {
  let before = 0;
  return failoverPhases.flatMap((phase) => {
    const ms = t.phasesMs[phase];
    if (ms === undefined) return [];
    const step = { phase, text: words[phase], atS: ms / 1000, tookS: Math.max(0, ms - before) / 1000 };
    before = ms;
    return [step];
  });
}

/** Until the machine ran again, ms; null: it does not yet. */
export const failoverTotalMs = (t: FailoverTimeline): number | null => t.phasesMs.running ?? null;

/** One line: `n1 → n2 in 12.3 s: …`. */
export function failoverLine(t: FailoverTimeline): string {
  const total = failoverTotalMs(t);
  const took = total === null ? 'not running yet' : `in ${(total / 1000).toFixed(1)} s`;
  const steps = failoverSteps(t)
    .filter((s) => s.atS > 0)
    // Number and unit stay on one line.
    .map((s) => `${s.text} +${s.tookS.toFixed(1)}\u00a0s`);
  return `${t.from} → ${t.to} ${took}; ${fenceText(t)}${steps.length === 0 ? '' : `: ${steps.join(', ')}`}`;
}
