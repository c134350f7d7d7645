import type { AgentEnv } from '../env.js';
import { LibvirtError } from '../libvirt/hypervisor.js';
import type { Observed } from '../vm/domains.js';

/** A guest is asked so often, ms: six times before its silence counts as a hang. */
const pingEveryMs = 10_000;
/** One question may take so long, ms. */
const pingDeadlineMs = 5_000;

interface Talk {
  /** The run it belongs to. */
  readonly gen: number;
  answeredMs: number | null;
  askedMs: number;
  asking: boolean;
}

/**
 * Whether guests answer. Only a guest whose agent has answered in this run, and whose channel is still open, can be
 * called hung: one that reboots or whose agent was stopped closes it. Time frozen or paused does not count.
 */
export class GuestHang {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly talks = new Map<string, Talk>();
  private lookedMs = 0;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  /** Asks those whose time has come. Never waits. @param wanted - guests whose silence matters */
  look(domains: ReadonlyMap<string, Observed>, wanted: (id: string) => boolean): void {
    const now = this.env.clock.nowMs();
    const still = this.env.keeper.state()?.mode !== 'run';
    // While libvirt was away, or this process stood still, nobody asked: that time does not count.
    const blindMs = now - this.lookedMs;
    this.lookedMs = now;
    if (blindMs > pingEveryMs)
      for (const talk of this.talks.values()) if (talk.answeredMs !== null) talk.answeredMs += blindMs;
    for (const id of this.talks.keys()) if (!domains.has(id)) this.talks.delete(id);
    for (const [id, d] of domains) {
      const gen = d.mark?.startedMs ?? 0;
      if (!d.active || d.state !== 'running' || !d.agentConnected || !wanted(id)) {
        this.talks.delete(id);
        continue;
      }
      let talk = this.talks.get(id);
      if (talk?.gen !== gen) {
        talk = { gen, answeredMs: null, askedMs: -Infinity, asking: false };
        this.talks.set(id, talk);
      }
      if (still) {
        if (talk.answeredMs !== null) talk.answeredMs = now;
        continue;
      }
      if (talk.asking || now - talk.askedMs < pingEveryMs) continue;
      talk.asking = true;
      talk.askedMs = now;
      void this.ping(id, talk);
    }
  }

  /** How long it has not answered, ms; null: it answers, never did, or cannot. */
  silentMs(id: string): number | null {
    const talk = this.talks.get(id);
    const now = this.env.clock.nowMs();
    if (talk === undefined || talk.answeredMs === null || now - this.lookedMs > pingEveryMs) return null;
    const ms = now - talk.answeredMs;
    return ms > pingEveryMs ? ms : null;
  }

  /** True once its agent answered in this run. */
  answered(id: string): boolean {
    return (this.talks.get(id)?.answeredMs ?? null) !== null;
  }

  /** It was reset: it starts to talk anew. */
  forget(id: string): void {
    this.talks.delete(id);
  }

  private async ping(id: string, talk: Talk): Promise<void> {
    const first = talk.answeredMs === null;
    const answered = await this.asked(id);
    talk.asking = false;
    // Where nobody can tell (libvirt is away or slow), the time does not count: a healthy guest is not reset for it.
    if (answered === 'yes' || (answered === 'unknown' && !first)) talk.answeredMs = this.env.clock.nowMs();
    if (answered === 'yes' && first) this.wake();
  }

  private async asked(id: string): Promise<'yes' | 'no' | 'unknown'> {
    try {
      await this.env.hypervisor.agent(id, 'guest-ping', undefined, { deadlineMs: pingDeadlineMs });
      return 'yes';
    } catch (e) {
      if (!(e instanceof LibvirtError)) return 'unknown';
      // An error of the guest's own is an answer.
      if (e.code === 'agent-failed') return 'yes';
      return e.code === 'agent-unresponsive' ? 'no' : 'unknown';
    }
  }
}
