import { loadOf } from '../../core/decide/plan/gather.js';
import type { LoadVector } from '../../core/decide/plan/model.js';
import { Smoothed, unpressed } from '../../core/decide/plan/smooth.js';
import { presence } from '../../core/domain/node.js';
import type { AgentEnv } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/** Loads are taken so often, ms: nodes say new ones every five seconds. */
const sampleMs = 10_000;

/** What VMs use, smoothed; for all that plans by load. */
export class LoadBook {
  private readonly env: AgentEnv;
  private readonly smoothed = new Smoothed();
  private sampledMs = -Infinity;

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** Takes what was heard, when that is due. */
  look(s: Snapshot): void {
    const nowMs = this.env.clock.nowMs();
    if (nowMs - this.sampledMs < sampleMs) return;
    this.sampledMs = nowMs;
    const measured: [string, LoadVector][] = [];
    for (const h of this.env.radio.heard()) {
      if (presence(h.beatAgeMs) !== 'here') continue;
      for (const [vm, { state }] of h.vms) {
        const spec = s.specs.get(vm)?.value;
        // Who gave it away may still speak of it.
        if (spec === undefined || state.stats === null || s.owns.get(vm)?.value.owner !== h.node) continue;
        measured.push([vm, unpressed(loadOf(spec, state.stats), h.state?.pressure)]);
      }
    }
    this.smoothed.take(nowMs, measured);
  }

  /** Null: nothing was heard of it. */
  of(vm: string): LoadVector | null {
    return this.smoothed.load(vm);
  }
}
