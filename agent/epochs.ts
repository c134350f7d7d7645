import type { AgentEnv } from './env.js';
import type { Snapshot } from './snapshot.js';

/**
 * How long an agent that has just started waits to hear the other nodes before it starts VMs, ms. All are heard within
 * one second where they are there; a node that is off costs these three, once.
 */
export const listenMs = 3_000;

/**
 * Two ledgers of one cluster: voters that were given up for lost come back together and go on with what they know,
 * while the others have a rebuilt ledger of a later epoch. Whoever hears of a later epoch than its own does nothing.
 * The radio decides nothing here that is not the safe thing anyway.
 */
export class Epochs {
  private readonly env: AgentEnv;
  private startedMs: number | null = null;
  private listening = true;

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** The same snapshot, or one that says why nothing is done about any VM. */
  judge(s: Snapshot): Snapshot {
    const why = s.recovering ?? this.elsewhere(s) ?? this.early(s);
    return why === s.recovering ? s : { ...s, recovering: why };
  }

  private elsewhere(s: Snapshot): string | null {
    const mine = s.meta?.value.epoch ?? Infinity;
    const later = this.env.radio.heard().find((h) => (h.state?.epoch ?? 0) > mine);
    if (later === undefined) return null;
    return `node ${later.node} has the ledger of epoch ${later.state?.epoch}, this one is of epoch ${mine}: it was given up, so nothing is started or stopped here`;
  }

  private early(s: Snapshot): string | null {
    if (!this.listening) return null;
    const now = this.env.clock.nowMs();
    this.startedMs ??= now;
    const heard = new Set(this.env.radio.heard().flatMap((h) => (h.state === null ? [] : [h.node])));
    const missing = [...s.nodes.keys()].filter((n) => n !== this.env.node && !heard.has(n));
    this.listening = missing.length > 0 && now - this.startedMs < listenMs;
    return this.listening
      ? `listens whether another node has a later ledger (${missing.slice(0, 3).join(', ')})`
      : null;
  }
}
