import type { VmState } from '../../core/domain/vm.js';
import type { AgentEnv } from '../env.js';
import type { Observed } from './domains.js';

export interface GuestFacts {
  readonly addresses: readonly string[];
  readonly hostname: string | null;
  readonly filesystems: VmState['filesystems'];
}

/** A guest is asked so often, ms; its agent may be slow, and addresses change rarely. */
const askEveryMs = 20_000;
/** After its agent connected or answered nothing useful, sooner. */
const askSoonMs = 3_000;
/** One question may take so long, ms. */
const answerMs = 4_000;

/** What guests tell of themselves through their agent, gathered beside the loop: a deaf guest delays nobody. */
export class GuestInfo {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly facts = new Map<string, GuestFacts>();
  private readonly nextMs = new Map<string, number>();
  private readonly asking = new Set<string>();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  of(id: string): GuestFacts | null {
    return this.facts.get(id) ?? null;
  }

  /** Its agent came or went: ask soon. */
  changed(id: string): void {
    this.nextMs.delete(id);
  }

  /** Asks the guests whose time has come. Never waits. */
  look(domains: ReadonlyMap<string, Observed>): void {
    const now = this.env.clock.nowMs();
    for (const id of this.facts.keys()) {
      if (domains.get(id)?.active === true && domains.get(id)?.agentConnected === true) continue;
      this.facts.delete(id);
      this.nextMs.delete(id);
    }
    for (const [id, d] of domains) {
      if (!d.active || !d.agentConnected || d.state !== 'running' || this.asking.has(id)) continue;
      if (now < (this.nextMs.get(id) ?? 0)) continue;
      this.asking.add(id);
      void this.ask(id).finally(() => {
        this.asking.delete(id);
        this.wake();
      });
    }
  }

  private async ask(id: string): Promise<void> {
    const h = this.env.hypervisor;
    const o = { deadlineMs: answerMs };
    const [interfaces, host, fs] = await Promise.all([
      h.addresses(id, 'agent', o).catch(() => null),
      h.agent(id, 'guest-get-host-name', undefined, o).catch(() => null),
      h.agent(id, 'guest-get-fsinfo', undefined, o).catch(() => null),
    ]);
    const addresses = (interfaces ?? [])
      .filter((i) => i.name !== 'lo')
      .flatMap((i) => i.addresses)
      // Link-local addresses help nobody reach the VM.
      .filter((a) => !a.address.startsWith('fe80:') && !a.address.startsWith('169.254.'))
      .map((a) => a.address.slice(0, 64))
      .slice(0, 64);
    const before = this.facts.get(id);
    this.facts.set(id, {
      addresses: interfaces === null ? (before?.addresses ?? []) : addresses,
      hostname: field(host, 'host-name')?.slice(0, 255) ?? before?.hostname ?? null,
      filesystems: fs === null ? (before?.filesystems ?? []) : filesystems(fs),
    });
    const useful = addresses.length > 0;
    this.nextMs.set(id, this.env.clock.nowMs() + (useful ? askEveryMs : askSoonMs));
  }
}

function field(value: unknown, name: string): string | null {
  if (typeof value !== 'object' || value === null) return null;
  const v = (value as Record<string, unknown>)[name];
  return typeof v === 'string' ? v : null;
}

/** Reads qemu-guest-agent's `guest-get-fsinfo`. The guest may send anything: what does not fit is left out. */
export function filesystems(value: unknown): VmState['filesystems'] {
  if (!Array.isArray(value)) return [];
  return value
    .flatMap((f: unknown) => {
      const mount = field(f, 'mountpoint');
      const type = field(f, 'type');
      if (mount === null || type === null) return [];
      const { 'total-bytes': total, 'used-bytes': used } = f as Record<string, unknown>;
      if (typeof total !== 'number' || typeof used !== 'number') return [];
      return [{ mount: mount.slice(0, 255), type: type.slice(0, 32), totalBytes: total, usedBytes: used }];
    })
    .slice(0, 32);
}
