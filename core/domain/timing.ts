/**
 * The times on which safety rests, together: a slow test machine stretches them all, never one alone.
 * @see gossip-consensus 3.2; the rule F >= W + D + 1 s holds in the checked model, and breaks below it
 */
export interface TimingProfile {
  readonly name: 'production' | 'lab' | 'emulated';
  /** Lease of a live node, s. Only the speed of a failover depends on it. */
  readonly leaseTtlS: number;
  /** How often a node renews, ms: four tries per lease. */
  readonly renewEveryMs: number;
  /** Deadline of each call of a renewal, ms. */
  readonly renewDeadlineMs: number;
  /** A renewal sent longer ago than this is no proof any more, ms: nothing is started or taken over on it. */
  readonly renewalGoodMs: number;
  /** W: the watchdog device resets the node so long after the last pet, ms. */
  readonly watchdogMs: number;
  /** D: a pet is allowed only if the renewal was sent less than this ago, ms. */
  readonly petAgeMs: number;
  /** F: how long a standby waits, with the owner's live key absent, before it takes a VM, ms. */
  readonly fenceWaitMs: number;
  /**
   * A standby that lives has so long beyond the fence wait to take a VM, ms; then any node that is able may. Long enough
   * for a pool that is away for a moment. Safety does not rest on it.
   */
  readonly standbyGraceMs: number;
  /** Deadline of the agent's calls to the ledger, ms. Safety does not rest on it either. */
  readonly ledgerCallMs: number;
}

const production: TimingProfile = {
  name: 'production',
  leaseTtlS: 3,
  renewEveryMs: 750,
  renewDeadlineMs: 700,
  renewalGoodMs: 2_500,
  watchdogMs: 5_000,
  petAgeMs: 1_000,
  fenceWaitMs: 7_000,
  standbyGraceMs: 60_000,
  ledgerCallMs: 2_000,
};

/** Three nodes and their guests, emulated, on two cores: stalls of seconds are usual there. */
const lab: TimingProfile = {
  name: 'lab',
  leaseTtlS: 12,
  renewEveryMs: 3_000,
  renewDeadlineMs: 2_800,
  renewalGoodMs: 10_000,
  watchdogMs: 20_000,
  petAgeMs: 4_000,
  fenceWaitMs: 28_000,
  standbyGraceMs: 120_000,
  ledgerCallMs: 2_000,
};

/** Machines that are emulated whole, with nested guests, beside other work: a handshake takes seconds there. */
const emulated: TimingProfile = {
  name: 'emulated',
  leaseTtlS: 40,
  renewEveryMs: 8_000,
  renewDeadlineMs: 7_500,
  renewalGoodMs: 30_000,
  watchdogMs: 45_000,
  petAgeMs: 9_000,
  fenceWaitMs: 56_000,
  standbyGraceMs: 300_000,
  ledgerCallMs: 15_000,
};

export const timingProfiles = { production, lab, emulated } as const;

/** Why a profile is not safe; empty when it is. Checked at start. */
export function timingFaults(p: TimingProfile): string[] {
  const faults: string[] = [];
  if (p.fenceWaitMs < p.watchdogMs + p.petAgeMs + 1_000) faults.push('fence wait < watchdog + pet age + 1 s');
  if (p.renewalGoodMs >= p.leaseTtlS * 1000) faults.push('a renewal counts longer than the lease lives');
  if (p.renewalGoodMs >= p.watchdogMs) faults.push('the watchdog fires before the node freezes its VMs');
  if (p.renewEveryMs * 3 > p.renewalGoodMs)
    faults.push('fewer than three renewals before one stops counting');
  if (p.leaseTtlS < 2) faults.push('etcd grants no lease below 2 s at its default election timeout');
  return faults;
}
