import { readFile } from 'node:fs/promises';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import { EventHub } from '../libvirt/event-hub.js';
import {
  LibvirtError,
  type BlockStats,
  type DomainRef,
  type DomainState,
  type DomainStats,
  type Hypervisor,
  type LibvirtErrorCode,
  type NetStats,
} from '../libvirt/hypervisor.js';
import { elementText } from '../libvirt/xml-facts.js';
import { Cgroup } from '../keeper/cgroup.js';
import { sliceOf } from './lockstep.js';
import type { LockstepMachine } from './machine.js';
import type { LockstepMachines } from './machines.js';
import { tuned, withMark } from './definition.js';
import { joinBridge } from '../net/tap.js';
import { diskAndNic } from './command-line.js';

/** What a machine in lockstep can do; all else is refused in words. */
export type LockstepCalls = Pick<
  Hypervisor,
  | 'list'
  | 'state'
  | 'stats'
  | 'memoryStats'
  | 'setMemoryStatsPeriod'
  | 'xml'
  | 'define'
  | 'undefine'
  | 'start'
  | 'stop'
  | 'reboot'
  | 'reset'
  | 'suspend'
  | 'resume'
  | 'setCpuTune'
  | 'setMetadata'
  | 'blockInfo'
  | 'blockJobInfo'
  | 'jobProgress'
  | 'monitor'
  | 'events'
>;

/** Figures are not worth waiting for a QEMU that hangs, ms. */
const figuresMs = 1_000;
/** Of proc(5): USER_HZ, which Linux tells programs as 100 on all machines. */
const ticksPerS = 100;
const sectorBytes = 512;

/**
 * Machines in lockstep in the words of a hypervisor, so that the rest of the agent sees one kind of VM. A twin is none of
 * them before it has taken over: it is not this node's.
 */
export class LockstepHypervisor implements LockstepCalls {
  readonly #machines: LockstepMachines;
  readonly #hub = new EventHub();
  #off: (() => void) | null = null;

  constructor(machines: LockstepMachines) {
    this.#machines = machines;
  }

  open(): void {
    this.#off ??= this.#machines.on((vm, change) => {
      if (change === null || this.#machines.get(vm)?.isTwin === true) return;
      const about = { uuid: vm, name: vm };
      if (change.event === 'reboot') this.#hub.emit({ type: 'reboot', ...about });
      else this.#hub.emit({ type: 'lifecycle', ...about, ...change });
    });
  }

  close(): void {
    this.#off?.();
    this.#off = null;
    this.#hub.end();
  }

  /** Whether that VM is one of these. */
  has(vm: string): boolean {
    const machine = this.#machines.get(vm);
    return machine !== null && !machine.isTwin;
  }

  events(signal?: AbortSignal): ReturnType<Hypervisor['events']> {
    return this.#hub.read(signal, []);
  }

  async list(): Promise<DomainRef[]> {
    return this.#mine().map((m) => ({ uuid: m.vm, name: m.vm, id: m.pid, active: m.active }));
  }

  async state(vm: string): Promise<DomainState> {
    return stateOf(this.#one(vm));
  }

  async stats(o: Parameters<Hypervisor['stats']>[0] = {}): Promise<DomainStats[]> {
    const wanted = this.#mine().filter((m) => o.domains === undefined || o.domains.includes(m.vm));
    const groups = o.groups ?? null;
    return Promise.all(
      wanted.map(async (m) => {
        const ref = { uuid: m.vm, name: m.vm, id: m.pid, state: stateOf(m) };
        return m.active && (groups === null || groups.some((g) => g !== 'state'))
          ? { ...ref, ...(await figures(m)) }
          : ref;
      }),
    );
  }

  async memoryStats(vm: string): ReturnType<Hypervisor['memoryStats']> {
    const m = this.#one(vm);
    return { actualKiB: m.hardware.memoryMaxMiB * 1024, rssKiB: await rssKiB(m.pid) };
  }

  /** It has no balloon: what it uses is seen from outside. */
  async setMemoryStatsPeriod(): Promise<void> {}

  async xml(vm: string): Promise<string> {
    return this.#one(vm).xml;
  }

  async define(xml: string): Promise<DomainRef> {
    const vm = elementText(xml, 'uuid');
    const there = this.#machines.get(vm);
    if (there?.active === true) throw refuse('invalid-state', vm, 'a machine of it runs');
    return words(vm, async () => {
      diskAndNic((await this.#machines.define(vm, xml)).hardware);
      return { uuid: vm, name: vm, id: null, active: false };
    });
  }

  async undefine(vm: string): Promise<void> {
    const m = this.#one(vm);
    if (m.active) throw refuse('invalid-state', vm, 'a machine of it runs');
    await words(vm, () => this.#machines.remove(vm));
  }

  async start(vm: string, o: { readonly paused?: boolean } = {}): Promise<void> {
    const m = this.#one(vm);
    if (m.active) throw refuse('invalid-state', vm, 'it runs already');
    const { nic } = diskAndNic(m.hardware);
    await words(vm, async () => {
      await m.start(sliceOf(m.xml), null);
      try {
        await joinBridge(this.#machines.node.run, m.tap, nic.bridge);
        if (o.paused !== true) await m.qmp().ask('cont');
      } catch (e) {
        await m.end('failed');
        throw e;
      }
    });
  }

  async stop(vm: string, how: Parameters<Hypervisor['stop']>[1]): Promise<void> {
    const m = this.#one(vm);
    if (!m.active) throw refuse('invalid-state', vm, 'it does not run');
    if (how === 'agent')
      throw refuse('agent-unresponsive', vm, 'no program of ours in a guest in lockstep is asked');
    await words(vm, async () => {
      if (how === 'acpi') await m.qmp().ask('system_powerdown');
      else await m.end('destroyed');
    });
  }

  async reboot(vm: string, how: 'acpi' | 'agent'): Promise<void> {
    const m = this.#one(vm);
    if (how === 'agent')
      throw refuse('agent-unresponsive', vm, 'no program of ours in a guest in lockstep is asked');
    await words(vm, async () => {
      m.rebooting = true;
      await m.qmp().ask('system_powerdown');
    });
  }

  async reset(vm: string): Promise<void> {
    await words(vm, () => this.#one(vm).qmp().ask('system_reset'));
  }

  async suspend(vm: string): Promise<void> {
    const m = this.#one(vm);
    // Both halves would have to stand still, and to go on, at one and the same step.
    if (m.state.inPair) throw refuse('unsupported', vm, 'a VM that has a twin cannot be paused');
    await words(vm, () => m.qmp().ask('stop'));
  }

  async resume(vm: string): Promise<void> {
    const m = this.#one(vm);
    if (m.state.inPair) return;
    await words(vm, () => m.qmp().ask('cont'));
  }

  async setCpuTune(vm: string, tune: Parameters<Hypervisor['setCpuTune']>[1]): Promise<void> {
    const m = this.#one(vm);
    await words(vm, async () => {
      if (m.pid !== null) await weigh(m.pid, tune);
      await this.#machines.define(vm, tuned(m.xml, tune));
    });
  }

  async setMetadata(
    vm: string,
    kind: Parameters<Hypervisor['setMetadata']>[1],
    value: string | null,
  ): Promise<void> {
    const m = this.#one(vm);
    // The mark alone is ours; titles and descriptions are for people at a node.
    if (typeof kind === 'string' || value === null) return;
    const mark: Record<string, string> = {};
    for (const [, name = '', text = ''] of value.matchAll(/ ([a-z]+)=["']([^"']*)["']/g)) mark[name] = text;
    await words(vm, () => this.#machines.define(vm, withMark(m.xml, mark)));
  }

  async blockInfo(vm: string): ReturnType<Hypervisor['blockInfo']> {
    const m = this.#one(vm);
    return words(vm, async () => {
      const nodes = (await m.qmp().ask('query-named-block-nodes', { flat: true })) as {
        'node-name'?: string;
        image: { 'virtual-size': number; 'actual-size'?: number };
      }[];
      const { image } = nodes.find((n) => ['own0', 'parent0'].includes(n['node-name'] ?? '')) ?? {};
      const capacityBytes = image?.['virtual-size'] ?? 0;
      const allocationBytes = image?.['actual-size'] ?? capacityBytes;
      return { capacityBytes, allocationBytes, physicalBytes: capacityBytes };
    });
  }

  /** The disk's copying to a twin is part of the pair, and no job of libvirt's. */
  async blockJobInfo(): Promise<null> {
    return null;
  }
  async jobProgress(): Promise<null> {
    return null;
  }

  async monitor(vm: string, command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    return words(vm, () =>
      this.#one(vm)
        .qmp()
        .ask(command, args ?? {}),
    );
  }

  #mine(): LockstepMachine[] {
    return this.#machines.all().filter((m) => !m.isTwin);
  }

  #one(vm: string): LockstepMachine {
    const m = this.#machines.get(vm);
    if (m === null || m.isTwin) throw refuse('no-such-domain', vm, 'no machine of it is here');
    return m;
  }
}

function stateOf(m: LockstepMachine): DomainState {
  if (!m.active) return { state: 'shut-off', reason: m.off };
  return m.running ? { state: 'running', reason: 'booted' } : { state: 'paused', reason: 'user' };
}

const refuse = (code: LibvirtErrorCode, vm: string, why: string): LibvirtError =>
  new LibvirtError(`VM ${vm}: ${why}`, { code, outcome: 'refused', domainId: vm });

/** Errors in the words of this interface. */
async function words<T>(vm: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof LibvirtError) throw cause;
    const { code, message, hint } = errorRecord(cause);
    const text = cause instanceof FlotillaError ? `${message}. ${hint}` : message;
    const as: Partial<Record<typeof code, LibvirtErrorCode>> = {
      timeout: 'deadline',
      'hypervisor-unavailable': 'disconnected',
      'wrong-state': 'invalid-state',
      unsupported: 'unsupported',
    };
    throw new LibvirtError(text, { code: as[code] ?? 'refused', outcome: 'unknown', domainId: vm, cause });
  }
}

async function figures(m: LockstepMachine): Promise<Partial<DomainStats>> {
  const h = m.hardware;
  const [cpu, rss, net, block] = await Promise.all([cpuNs(m.pid), rssKiB(m.pid), netOf(m.tap), blockOf(m)]);
  const each = Array.from({ length: h.cpus }, (_, index) => ({ index, state: 'running' as const }));
  return {
    ...(cpu === null ? {} : { cpu: { timeNs: cpu } }),
    balloon: { currentKiB: h.memoryMaxMiB * 1024, maximumKiB: h.memoryMaxMiB * 1024, rssKiB: rss },
    vcpu: { current: h.cpus, maximum: h.cpus, each },
    net: [net],
    block,
  };
}

async function cpuNs(pid: number | null): Promise<number | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => null);
  if (text === null) return null;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return ((Number(fields[11]) + Number(fields[12])) * 1e9) / ticksPerS;
}

async function rssKiB(pid: number | null): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '');
  return Number(/^VmRSS:\s+(\d+)/m.exec(text)?.[1] ?? 0);
}

/** What the guest sent is what the node received. */
async function netOf(tap: string): Promise<NetStats> {
  const of = async (name: string): Promise<number> =>
    Number(await readFile(`/sys/class/net/${tap}/statistics/${name}`, 'utf8').catch(() => '0'));
  const [rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped] =
    await Promise.all(
      ['tx', 'rx'].flatMap((d) => ['bytes', 'packets', 'errors', 'dropped'].map((n) => of(`${d}_${n}`))),
    );
  return {
    name: tap,
    rxBytes: rxBytes ?? 0,
    rxPackets: rxPackets ?? 0,
    rxErrors: rxErrors ?? 0,
    rxDropped: rxDropped ?? 0,
    txBytes: txBytes ?? 0,
    txPackets: txPackets ?? 0,
    txErrors: txErrors ?? 0,
    txDropped: txDropped ?? 0,
  };
}

/** Sums since it began. Not told while QEMU hangs. */
async function blockOf(m: LockstepMachine): Promise<BlockStats[]> {
  try {
    const all = (await m.qmp().ask('query-blockstats', {}, { deadlineMs: figuresMs })) as {
      qdev?: string;
      stats: Record<string, number>;
    }[];
    return all
      .filter((b) => b.qdev?.includes('disk0') === true)
      .map(({ stats: s }) => ({
        name: 'vda',
        readRequests: s['rd_operations'] ?? 0,
        readBytes: s['rd_bytes'] ?? 0,
        readNs: s['rd_total_time_ns'] ?? 0,
        writeRequests: s['wr_operations'] ?? 0,
        writeBytes: s['wr_bytes'] ?? 0,
        writeNs: s['wr_total_time_ns'] ?? 0,
        flushRequests: s['flush_operations'] ?? 0,
        capacityBytes: Math.ceil((s['wr_highest_offset'] ?? 0) / sectorBytes) * sectorBytes,
      }));
  } catch {
    return [];
  }
}

/** What the scheduler gives it, in its own group; where the kernel does not weigh there is no such file. */
async function weigh(pid: number, tune: Parameters<Hypervisor['setCpuTune']>[1]): Promise<void> {
  const text = await readFile(`/proc/${pid}/cgroup`, 'utf8');
  const group = new Cgroup(`/sys/fs/cgroup${/^0::(.*)$/m.exec(text)?.[1] ?? ''}`);
  if (tune.shares !== undefined) group.write('cpu.weight', String(tune.shares));
  if (tune.quotaUs !== undefined) group.write('cpu.max', `${tune.quotaUs ?? 'max'} 100000`);
}
