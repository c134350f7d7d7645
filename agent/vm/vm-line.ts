import type { HardwareDiff } from '../../core/decide/hardware.js';
import type { VmDecision, VmMemory } from '../../core/decide/vm-view.js';
import type { CopyWords, VmProtection, VmSpec, VmState, VmStats } from '../../core/domain/vm.js';
import type { Sockets } from '../env.js';
import type { Observed } from './domains.js';
import type { GuestFacts } from './guest-info.js';

/** Everything that is known of a VM on its node. */
export interface KnownVm {
  readonly spec: VmSpec;
  readonly decision: VmDecision;
  readonly domain: Observed | null;
  readonly diff: HardwareDiff | null;
  readonly memory: VmMemory;
  readonly guest: GuestFacts | null;
  readonly stats: VmStats | null;
  readonly copies: readonly CopyWords[];
  readonly ha: VmProtection;
  /** Why the keeper keeps its machine frozen or has killed it; null: it does not. */
  readonly held: string | null;
  readonly paths: ReturnType<Sockets['paths']>;
}

/** What the owner says of a VM on the radio, but for who says it and when. */
export function vmLine(v: KnownVm): Omit<VmState, 'node' | 'boot' | 'seq' | 'atMs'> {
  const { spec, decision, domain, diff, guest } = v;
  const active = domain?.active === true;
  const given = spec.nics.flatMap((n) => (n.address === null ? [] : [n.address]));
  const applied = diff !== null && diff.hot.length === 0 && diff.pendingRestart.length === 0;
  const common = {
    vm: spec.id,
    name: spec.name,
    phase: decision.phase,
    reason: (v.held === null ? decision.reason : `held by the keeper: ${v.held}`).slice(0, 500),
    error: v.memory.failure?.error ?? null,
    ...(v.copies.length === 0 ? {} : { copies: [...v.copies] }),
    ha: v.ha,
  };
  if (!active) {
    return {
      ...common,
      generation: 0,
      pendingRestart: [],
      upSinceMs: null,
      guestAgent: false,
      addresses: given,
      hostname: null,
      filesystems: [],
      stats: null,
      consoles: { serial: null, vnc: null },
    };
  }
  return {
    ...common,
    generation: applied ? spec.generation : (domain.mark?.generation ?? 0),
    pendingRestart: (diff?.pendingRestart ?? []).slice(0, 32).map((t) => t.slice(0, 200)),
    upSinceMs: domain.mark?.startedMs ?? null,
    guestAgent: domain.agentConnected,
    addresses: guest !== null && guest.addresses.length > 0 ? [...guest.addresses] : given,
    hostname: guest?.hostname ?? null,
    filesystems: [...(guest?.filesystems ?? [])],
    stats: v.stats,
    consoles: { serial: v.paths.serial, vnc: v.paths.vnc },
  };
}
