import type { DomainView } from '../../core/decide/vm-view.js';
import type { Hardware } from '../../core/domain/hardware.js';
import type { VmCounters } from '../../core/decide/stats.js';
import type { Clock } from '../env.js';
import {
  LibvirtError,
  type DomainRef,
  type DomainState,
  type DomainStats,
  type Hypervisor,
} from '../libvirt/hypervisor.js';
import { parseDomain, type DomainFacts } from './domain-xml.js';

/** A domain as observed in one pass. */
export interface Observed extends DomainView {
  readonly uuid: string;
  readonly hardware: Hardware;
}

interface Cached {
  readonly epoch: string;
  readonly readMs: number;
  readonly text: string;
  readonly facts: DomainFacts;
}

/** An XML text is read anew after this long even if nothing rang: an event may have been lost. */
const xmlAgeMsMax = 60_000;

/** What libvirt has on this node: one cheap call a pass, and the XML of a domain only when something changed. */
export class Domains {
  private readonly xml = new Map<string, Cached>();
  /** Rises with each forgetting: a text asked for before it is not kept after it. */
  private forgotten = 0;
  private readonly hypervisor: Hypervisor;
  private readonly clock: Clock;

  constructor(hypervisor: Hypervisor, clock: Clock) {
    this.hypervisor = hypervisor;
    this.clock = clock;
  }

  /** Forgets what was read of a domain, or of all. */
  forget(uuid?: string): void {
    this.forgotten++;
    if (uuid === undefined) this.xml.clear();
    else this.xml.delete(uuid);
  }

  /**
   * All domains by uuid. A domain that vanishes while it is read is left out.
   *
   * @throws LibvirtError: an error is not an absence, so nothing is concluded from it
   */
  async observe(): Promise<Map<string, Observed>> {
    const [refs, stats] = await Promise.all([
      this.hypervisor.list(),
      this.hypervisor.stats({ groups: ['state'] }),
    ]);
    const states = new Map(stats.map((s) => [s.uuid, s.state]));
    const out = new Map<string, Observed>();
    for (const ref of refs) {
      const seen = await this.one(ref, states.get(ref.uuid)).catch((e: unknown) => {
        // It went between the list and the question: that is an answer, not a failure.
        if (e instanceof LibvirtError && e.code === 'no-such-domain') return null;
        throw e;
      });
      if (seen !== null) out.set(ref.uuid, seen);
    }
    for (const uuid of this.xml.keys()) if (!out.has(uuid)) this.xml.delete(uuid);
    return out;
  }

  private async one(ref: DomainRef, known: DomainState | undefined): Promise<Observed> {
    const state = known ?? (await this.hypervisor.state(ref.uuid));
    const facts = await this.facts(ref.uuid, `${ref.id}`);
    return {
      uuid: ref.uuid,
      active: ref.active,
      state: state.state,
      reason: state.reason,
      mark: facts.mark,
      agentConnected: ref.active && facts.agentConnected,
      hardware: facts.hardware,
      diskIds: facts.hardware.disks.map((d) => d.id),
    };
  }

  private async facts(uuid: string, epoch: string): Promise<DomainFacts> {
    const now = this.clock.nowMs();
    const c = this.xml.get(uuid);
    if (c?.epoch === epoch && now - c.readMs < xmlAgeMsMax) return c.facts;
    const { forgotten } = this;
    const text = await this.hypervisor.xml(uuid);
    // Parsing costs a hundred times what reading does, and the text is nearly always the same.
    const facts = c?.text === text ? c.facts : parseDomain(text);
    if (forgotten === this.forgotten) this.xml.set(uuid, { epoch, readMs: now, text, facts });
    return facts;
  }
}

/** Sums of one domain's counters; null for a domain that is off. */
export function counters(s: DomainStats, monoMs: number): VmCounters | null {
  if (s.id === null || s.cpu === undefined) return null;
  const sum = <T>(items: readonly T[] | undefined, of: (t: T) => number | undefined): number =>
    (items ?? []).reduce((n, t) => n + (of(t) ?? 0), 0);
  const total = (s.balloon?.currentKiB ?? s.balloon?.maximumKiB ?? 0) * 1024;
  const unused = s.balloon?.usableKiB ?? s.balloon?.unusedKiB;
  return {
    monoMs,
    cpuNs: s.cpu.timeNs,
    vcpus: s.vcpu?.current ?? 1,
    memoryBytes: total,
    memoryUsedBytes:
      unused === undefined ? (s.balloon?.rssKiB ?? 0) * 1024 : Math.max(0, total - unused * 1024),
    diskReadBytes: sum(s.block, (b) => b.readBytes),
    diskWriteBytes: sum(s.block, (b) => b.writeBytes),
    netRxBytes: sum(s.net, (n) => n.rxBytes),
    netTxBytes: sum(s.net, (n) => n.txBytes),
  };
}
