import { rates, type VmCounters } from '../../core/decide/stats.js';
import type { VmStats } from '../../core/domain/vm.js';
import type { AgentEnv } from '../env.js';
import { counters } from './domains.js';

/** Statistics are taken so often, ms. */
const everyMs = 5_000;

/** What the VMs of this node use, taken beside the loop: one call for all, now and then. */
export class Usage {
  private readonly env: AgentEnv;
  private readonly tell: () => Promise<void>;
  private readonly last = new Map<string, VmCounters>();
  private readonly rates = new Map<string, VmStats>();
  private lookedMs = -Infinity;
  private looking = false;

  /** @param tell - says on the radio what is known now */
  constructor(env: AgentEnv, tell: () => Promise<void>) {
    this.env = env;
    this.tell = tell;
  }

  of(id: string): VmStats | null {
    return this.rates.get(id) ?? null;
  }

  /**
   * Takes the figures if it is time. Never waits.
   *
   * @param ending - some machine here ends just now: libvirt takes it for one that is off before its turn in this comes, and would
   *   read its disks
   */
  look(ending: boolean): void {
    const now = this.env.clock.nowMs();
    if (ending || this.looking || now - this.lookedMs < everyMs) return;
    this.lookedMs = now;
    this.looking = true;
    void this.take()
      .catch((e: unknown) => this.env.log.warn(`statistics: ${e instanceof Error ? e.message : String(e)}`))
      .finally(() => {
        this.looking = false;
      });
  }

  private async take(): Promise<void> {
    // A disk that is frozen, as another node owns it, would hang the daemon, and this agent with it.
    const all = await this.env.hypervisor.stats({ running: true });
    const nowMs = this.env.clock.nowMs();
    const here = new Set(all.map((s) => s.uuid));
    for (const id of this.last.keys()) if (!here.has(id)) this.forget(id);
    let news = false;
    for (const s of all) {
      const c = counters(s, nowMs);
      const before = this.last.get(s.uuid);
      if (c === null) {
        this.forget(s.uuid);
        continue;
      }
      this.last.set(s.uuid, c);
      const r = before === undefined ? null : rates(before, c, this.env.clock.wallMs());
      if (r === null) continue;
      this.rates.set(s.uuid, r);
      news = true;
    }
    // New figures are no reason to look at everything: they are said, and that is all.
    if (news) await this.tell();
  }

  private forget(id: string): void {
    this.last.delete(id);
    this.rates.delete(id);
  }
}
