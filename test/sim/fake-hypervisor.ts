import { parseDomain } from '../../agent/vm/domain-xml.js';
import { fakeMigration } from './fake-migration.js';
import type { Clock } from '../../agent/env.js';
import {
  LibvirtError,
  type DomainState,
  type DomainStats,
  type HostEvent,
  type Hypervisor,
} from '../../agent/libvirt/hypervisor.js';

/** A domain of the fake daemon. */
export interface FakeDomain {
  xml: string;
  active: boolean;
  state: DomainState;
  id: number | null;
  agent: boolean;
  /** The copy that was made of it last. */
  copy?: FakeDomain;
  /** A copy whose original went on after it was taken: its memory is older than the disk. */
  older?: boolean;
}

const off = (
  reason: 'unknown' | 'shutdown' | 'destroyed' | 'crashed' | 'failed' | 'daemon' | 'migrated',
): DomainState => ({
  state: 'shut-off',
  reason,
});

/**
 * One node's libvirtd and its guests, in memory, on the given clock. It outlives agents, as the real one does.
 * Calls that it does not know throw.
 */
export class FakeHost {
  readonly domains = new Map<string, FakeDomain>();
  /** Every start, for checkers. */
  readonly starts: { readonly uuid: string; readonly gen: number }[] = [];
  /** Called before a machine comes to life: throw to refuse, look to check. */
  beforeStart: (uuid: string, gen: number, paused: boolean) => void = () => undefined;
  /** How many CPUs that machine keeps busy. */
  busy: (uuid: string) => number = () => 0;
  /** Called before a copy begins to arrive: throw to refuse. */
  beforeArrive: (uuid: string) => void = () => undefined;
  /** How long a guest takes to shut down; null: it does not listen. */
  guestStopMs: number | null = 1_000;
  /** This one goes as soon as its XML is asked for. */
  vanish: string | null = null;
  /** Whether guests with an open channel answer their agent's questions. */
  guestAnswers = true;
  /** Disks that QEMU copies, by machine and target: where to, and when both are the same. */
  readonly mirrors = new Map<string, { readonly xml: string; readonly beganMs: number; ready: boolean }>();
  /** Such a copy takes so long, ms. */
  mirrorMs = 1_000;
  /** Told when a machine goes over to the copy of a disk. */
  onPivot: (uuid: string) => void = () => undefined;
  /** Thrown by the next such copy, half-way. */
  failMirror: Error | null = null;
  /** Sizes that machines were told of their disks, by target. */
  readonly sizes = new Map<string, number>();
  /** How large what lies there is, as QEMU sees it; null: it is not known, and fits. */
  bytesAt: (path: string) => number | null = () => null;
  /** Guests whose file systems are held. */
  readonly frozen = new Set<string>();
  /** Called when a disk's mirror is cut: throw to refuse, look to check. */
  beforeCut: (uuid: string) => void = () => undefined;
  resets = 0;
  reboots = 0;
  /** False: libvirtd does not answer. */
  up = true;
  /** An answer to a look is so old when it arrives, ms; an act takes effect after so long. */
  lookMs = 20;
  actMs = 7;
  /** QEMU comes to life after so long, ms; null: as any act. */
  startMs: (() => number) | null = null;
  /** Migrations under way from here, and how each is broken off. */
  readonly jobs = new Map<string, () => void>();
  /** Sending a machine takes so long, ms. */
  migrateMs = 3_000;
  /** A machine that has been sent ends within, ms. */
  endMs = 5;
  /** Called when a copy is whole, and nobody here hears of it; null: it is heard of. */
  loseFinish: (() => void) | null = null;
  /** A frozen machine sends nothing. */
  standsStill: (uuid: string) => boolean = () => false;
  readonly wait = (ms: number): Promise<void> => this.#clock.sleep(ms);
  readonly #clock: Clock;
  #nextId = 1;
  readonly #readers = new Set<(e: HostEvent) => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** CPU time of that machine so far. */
  cpuNs(uuid: string): number {
    return Math.round(this.#clock.nowMs() * 1e6 * this.busy(uuid));
  }

  emit(e: HostEvent): void {
    for (const r of this.#readers) r(e);
  }

  listen(reader: (e: HostEvent) => void): () => void {
    this.#readers.add(reader);
    return () => void this.#readers.delete(reader);
  }

  get(uuid: string): FakeDomain {
    const d = this.domains.get(uuid);
    if (d === undefined)
      throw new LibvirtError('no such domain', { code: 'no-such-domain', outcome: 'refused' });
    return d;
  }

  active(uuid: string): FakeDomain {
    const d = this.get(uuid);
    if (!d.active) throw new LibvirtError('not running', { code: 'invalid-state', outcome: 'refused' });
    return d;
  }

  start(uuid: string, paused: boolean): void {
    const d = this.get(uuid);
    if (d.active) throw new LibvirtError('already running', { code: 'invalid-state', outcome: 'refused' });
    const gen = parseDomain(d.xml).mark?.gen ?? 0;
    try {
      this.beforeStart(uuid, gen, paused);
    } catch (e) {
      d.state = off('failed');
      throw e;
    }
    this.starts.push({ uuid, gen });
    d.active = true;
    d.id = this.#nextId++;
    d.state = paused ? { state: 'paused', reason: 'user' } : { state: 'running', reason: 'booted' };
    this.#ring(uuid, 'started');
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  /** QEMU copies, whether an agent lives or not. */
  async mirrored(key: string): Promise<void> {
    const m = this.mirrors.get(key);
    if (m === undefined) return;
    await this.#clock.sleep(this.mirrorMs);
    if (this.mirrors.get(key) !== m) throw new LibvirtError('gone', { code: 'aborted', outcome: 'refused' });
    const fault = this.failMirror;
    if (fault !== null) {
      this.failMirror = null;
      this.mirrors.delete(key);
      throw fault;
    }
    m.ready = true;
    const uuid = key.slice(0, key.indexOf('/'));
    this.emit({ type: 'lifecycle', uuid, name: uuid, event: 'resumed', detail: 'unknown' });
  }

  /** The machine goes off for that reason, by itself. */
  die(uuid: string, reason: 'shutdown' | 'destroyed' | 'crashed' | 'migrated' | 'failed'): void {
    const d = this.active(uuid);
    d.active = false;
    d.id = null;
    d.agent = false;
    d.state = off(reason);
    this.frozen.delete(uuid);
    for (const key of this.mirrors.keys()) if (key.startsWith(`${uuid}/`)) this.mirrors.delete(key);
    this.#ring(uuid, 'stopped');
  }

  /** A copy begins to arrive. */
  arriving(uuid: string, xml: string): FakeDomain {
    if (this.domains.get(uuid)?.active === true)
      throw new LibvirtError('domain is already active', { code: 'refused', outcome: 'refused' });
    this.beforeArrive(uuid);
    const state: DomainState = { state: 'paused', reason: 'migration' };
    const d: FakeDomain = { xml, active: true, state, id: this.#nextId++, agent: false };
    this.domains.set(uuid, d);
    this.#ring(uuid, 'started');
    return d;
  }

  /** A machine that ran as another one's twin is a domain from now on. */
  adopt(uuid: string, xml: string): void {
    const state: DomainState = { state: 'running', reason: 'migrated' };
    this.domains.set(uuid, { xml, active: true, state, id: this.#nextId++, agent: false });
    this.#ring(uuid, 'started');
  }

  whole(uuid: string): void {
    this.active(uuid).state = { state: 'paused', reason: 'user' };
    this.#ring(uuid, 'suspended');
  }

  /** All of it is sent. */
  standStill(uuid: string): void {
    this.active(uuid).state = { state: 'paused', reason: 'migration' };
    this.#ring(uuid, 'suspended');
  }

  /** The original goes on after all. */
  goOn(uuid: string): void {
    this.setPaused(uuid, false);
  }

  migratedAway(uuid: string): void {
    this.active(uuid);
    this.die(uuid, 'migrated');
  }

  /** Power loss and boot of the node: nothing runs, nobody knows why. */
  reboot(): void {
    this.jobs.clear();
    this.mirrors.clear();
    for (const d of this.domains.values()) {
      d.active = false;
      d.id = null;
      d.agent = false;
      d.state = off('unknown');
    }
  }

  askStop(uuid: string): void {
    this.active(uuid);
    const ms = this.guestStopMs;
    if (ms === null) return;
    void this.#clock.sleep(ms).then(() => {
      if (this.domains.get(uuid)?.active === true) this.die(uuid, 'shutdown');
    });
  }

  setPaused(uuid: string, paused: boolean): void {
    const d = this.active(uuid);
    if (!paused && d.copy !== undefined) d.copy.older = true;
    d.state = paused ? { state: 'paused', reason: 'user' } : { state: 'running', reason: 'unpaused' };
    this.#ring(uuid, paused ? 'suspended' : 'resumed');
  }

  #ring(uuid: string, event: 'started' | 'stopped' | 'suspended' | 'resumed'): void {
    this.emit({ type: 'lifecycle', uuid, name: uuid, event, detail: 'unknown' });
  }
}

/** As one word: of a device of which the machine sees a part, `bytes` says how much. */
const sourceOf = (xml: string): string => {
  const bytes = /<slice [^>]*size=["'](\d+)/.exec(xml)?.[1];
  const source = (/<source [^>]*\/?>/.exec(xml)?.[0] ?? '').replaceAll('"', "'").replace(/\/?>$/, '');
  return source === '' ? '' : `${source}${bytes === undefined ? '' : ` bytes='${bytes}'`}/>`;
};
const diskIn = (xml: string, dev: string): string =>
  [...xml.replaceAll('"', "'").matchAll(/<disk .*?<\/disk>/gs)].find((x) =>
    x[0].includes(`dev='${dev}'`),
  )?.[0] ?? '';
const pathOf = (source: string): string => /(?:file|dev)='([^']+)/.exec(source)?.[1] ?? '';
const seenBytes = (host: FakeHost, source: string): number | null => {
  const part = / bytes='(\d+)'/.exec(source)?.[1];
  return part === undefined ? host.bytesAt(pathOf(source)) : Number(part);
};

/**
 * One agent's connection to a {@link FakeHost}.
 *
 * @param alive - the agent lives: what it drives ends with it
 */
export function fakeHypervisor(host: FakeHost, alive: () => boolean = () => true): Hypervisor {
  const call = <T>(act: () => T): T => {
    if (!host.up) throw new LibvirtError('no daemon', { code: 'disconnected', outcome: 'not-sent' });
    return act();
  };
  /** What is seen is as old as its way back. */
  const look = async <T>(see: () => T): Promise<T> => {
    const seen = call(see);
    await host.wait(host.lookMs);
    return seen;
  };
  const answer = async <T>(act: () => T, ms = host.actMs): Promise<T> => {
    await host.wait(ms);
    return call(act);
  };
  const known: Partial<Hypervisor> = {
    connected: true,
    facts: () =>
      look(
        () =>
          ({ qemuVersion: '10.0.0', libvirtVersion: '11.3.0' }) as Awaited<ReturnType<Hypervisor['facts']>>,
      ),
    list: () =>
      look(() => [...host.domains].map(([uuid, d]) => ({ uuid, name: uuid, id: d.id, active: d.active }))),
    state: (d) => look(() => host.get(d).state),
    stats: () =>
      look(() =>
        [...host.domains].map(([uuid, d]): DomainStats => ({
          uuid,
          name: uuid,
          id: d.id,
          state: d.state,
          cpu: { timeNs: host.cpuNs(uuid) },
        })),
      ),
    xml: (d) =>
      look(() => {
        if (d === host.vanish) {
          host.vanish = null;
          host.domains.delete(d);
        }
        const dom = host.get(d);
        let text = dom.xml.replaceAll('"', "'");
        for (const [key, m] of host.mirrors) {
          const target = `<target dev='${key.slice(d.length + 1)}'`;
          if (key.startsWith(`${d}/`))
            text = text.replace(
              target,
              `<mirror job='copy'${m.ready ? " ready='yes'" : ''}>${sourceOf(m.xml)}</mirror>${target}`,
            );
        }
        return dom.agent
          ? text.replace("name='org.qemu.guest_agent.0'", "name='org.qemu.guest_agent.0' state='connected'")
          : text;
      }),
    define: (xml) =>
      answer(() => {
        const uuid = /<uuid>([^<]+)</.exec(xml)?.[1] ?? '';
        const old = host.domains.get(uuid);
        if (old) old.xml = xml;
        else host.domains.set(uuid, { xml, active: false, state: off('unknown'), id: null, agent: false });
        return { uuid, name: uuid, id: null, active: false };
      }),
    undefine: (d) =>
      answer(() => {
        host.get(d);
        host.domains.delete(d);
      }),
    start: (d, o) => answer(() => host.start(d, o?.paused === true), host.startMs?.()),
    stop: (d, how) =>
      answer(() => {
        if (how === 'destroy') return host.die(d, 'destroyed');
        return host.askStop(d);
      }),
    suspend: (d) => answer(() => host.setPaused(d, true)),
    resume: (d) => answer(() => host.setPaused(d, false)),
    reset: (d) =>
      answer(() => {
        host.active(d);
        host.resets++;
      }),
    reboot: (d) =>
      answer(() => {
        host.active(d);
        host.reboots++;
      }),
    migrate: (d, to, o) => fakeMigration(host, d, to, o, alive),
    jobProgress: (d) =>
      look(() => {
        host.active(d);
        return host.jobs.has(d) ? { phase: 'copying' as const, fraction: 0.5 } : null;
      }),
    fsFreeze: (d) =>
      answer(() => {
        const dom = host.active(d);
        if (!dom.agent || !host.guestAnswers || dom.state.state === 'paused')
          throw new LibvirtError('no answer', { code: 'agent-unresponsive', outcome: 'unknown' });
        host.frozen.add(d);
        return 1;
      }),
    fsThaw: (d) =>
      answer(() => {
        const dom = host.active(d);
        if (!dom.agent || !host.guestAnswers || dom.state.state === 'paused')
          throw new LibvirtError('no answer', { code: 'agent-unresponsive', outcome: 'unknown' });
        return host.frozen.delete(d) ? 1 : 0;
      }),
    abortJob: (d) => answer(() => host.jobs.get(d)?.()),
    setMetadata: (d, _kind, value) =>
      answer(() => {
        const dom = host.get(d);
        const attributes = /<vm (.*)\/>/.exec(value ?? '')?.[1] ?? '';
        dom.xml = dom.xml.replace(/<f:vm [^>]*>/, `<f:vm xmlns:f='urn:flotilla:vm:1' ${attributes}/>`);
      }),
    agent: (d) =>
      answer(() => {
        host.active(d);
        if (!host.guestAnswers)
          throw new LibvirtError('no answer', { code: 'agent-unresponsive', outcome: 'unknown' });
        return {};
      }),
    addresses: (d) =>
      answer(() => {
        host.active(d);
        return [];
      }),
    setVcpus: (d, n) =>
      answer(() => {
        const dom = host.active(d);
        dom.xml = dom.xml.replace(/current=["']\d+["']/, `current="${n}"`);
      }),
    setMemory: (d, kib) =>
      answer(() => {
        const dom = host.active(d);
        dom.xml = dom.xml.replace(
          /<currentMemory unit="MiB">\d+</,
          `<currentMemory unit="MiB">${kib / 1024}<`,
        );
      }),
    setCpuTune: (d, { shares, quotaUs }) =>
      answer(() => {
        const dom = host.active(d);
        const tune = `<cputune><shares>${shares}</shares><global_quota>${quotaUs ?? -1}</global_quota></cputune>`;
        dom.xml = dom.xml.includes('<cputune>')
          ? dom.xml.replace(/<cputune>.*?<\/cputune>/s, tune)
          : dom.xml.replace('</vcpu>', `</vcpu>${tune}`);
      }),
    attachDevice: (d, xml) =>
      answer(() => {
        const dom = host.active(d);
        dom.xml = dom.xml.replace('</devices>', `${xml}</devices>`);
      }),
    detachDevice: (d, xml) =>
      answer(() => {
        const dom = host.active(d);
        const alias = /ua-[a-z]+-[0-9a-z-]+/.exec(xml)?.[0] ?? '';
        const had = [...dom.xml.matchAll(/<disk .*?<\/disk>/gs)].find((m) => m[0].includes(alias));
        if (had === undefined) throw new Error(`the fake machine has no device ${alias}`);
        dom.xml = dom.xml.replace(had[0], '');
      }),
    blockResize: (d, disk, bytes) =>
      answer(() => {
        const dom = host.active(d);
        const source = sourceOf(diskIn(dom.xml, disk));
        host.sizes.set(`${d}/${disk}`, bytes ?? host.bytesAt(pathOf(source)) ?? 0);
        if (bytes === null) dom.xml = dom.xml.replace(/ bytes='\d+'/, '');
      }),
    blockInfo: (d, disk) =>
      look(() => {
        const bytes = seenBytes(host, sourceOf(diskIn(host.active(d).xml, disk))) ?? 0;
        return { capacityBytes: bytes, allocationBytes: bytes, physicalBytes: bytes };
      }),
    blockCopy: (d, disk, xml) => {
      const key = `${d}/${disk}`;
      const work = async (): Promise<void> => {
        await answer(() => {
          host.active(d);
          if (host.mirrors.has(key))
            throw new LibvirtError('is copied', { code: 'block-copy-active', outcome: 'refused' });
          const [from, to] = [sourceOf(diskIn(host.active(d).xml, disk)), sourceOf(xml)];
          const [had, has] = [seenBytes(host, from), seenBytes(host, to)];
          if (had !== null && has !== null && had !== has)
            throw new LibvirtError(`Source and target image have different sizes: ${had}, ${has}`, {
              code: 'refused',
              outcome: 'refused',
            });
          host.mirrors.set(key, { xml, beganMs: host.nowMs(), ready: false });
        });
        await host.mirrored(key);
      };
      const done = work();
      done.catch(() => undefined);
      return {
        done,
        async *progress() {
          await host.wait(500);
          yield { phase: 'copying' as const, fraction: 0.5 };
        },
        cancel: async () => void host.mirrors.delete(key),
      };
    },
    blockJobInfo: (d, disk) =>
      look(() => {
        host.active(d);
        const m = host.mirrors.get(`${d}/${disk}`);
        if (m === undefined) return null;
        const current = m.ready ? 1000 : Math.min(999, (1000 * (host.nowMs() - m.beganMs)) / host.mirrorMs);
        return { type: 'copy' as const, bandwidthBytes: 0, current, end: 1000 };
      }),
    blockJobAbort: (d, disk, o) =>
      answer(() => {
        const dom = host.active(d);
        const key = `${d}/${disk}`;
        const m = host.mirrors.get(key);
        if (o?.pivot !== true) {
          host.beforeCut(d);
          return void host.mirrors.delete(key);
        }
        if (m?.ready !== true) throw new LibvirtError('not ready', { code: 'refused', outcome: 'refused' });
        host.mirrors.delete(key);
        const text = dom.xml.replaceAll('"', "'");
        const had = [...text.matchAll(/<disk .*?<\/disk>/gs)].find((x) => x[0].includes(`dev='${disk}'`));
        if (had === undefined) throw new Error(`the fake machine has no disk ${disk}`);
        const now = had[0].replace(/<source [^>]*\/?>(<\/source>)?/, sourceOf(m.xml));
        dom.xml = text.replace(had[0], now);
        host.onPivot(d);
      }),
    updateDevice: (d, xml) =>
      answer(() => {
        const dom = host.active(d);
        const alias = /<alias name='[^']+'\/>/.exec(xml)?.[0] ?? '';
        const had = [...dom.xml.matchAll(/<disk .*?<\/disk>/gs)].find((m) => m[0].includes(alias));
        if (had === undefined) throw new Error(`the fake machine has no device ${alias}`);
        dom.xml = dom.xml.replace(had[0], xml);
      }),
    async *events(signal) {
      const queue: HostEvent[] = [{ type: 'resync', why: 'connected' }];
      let ring = (): void => undefined;
      const end = host.listen((e) => {
        queue.push(e);
        ring();
      });
      signal?.addEventListener('abort', () => ring(), { once: true });
      try {
        while (signal?.aborted !== true) {
          const e = queue.shift();
          if (e !== undefined) yield e;
          else await new Promise<void>((r) => (ring = r));
        }
      } finally {
        end();
      }
    },
  };
  return new Proxy(known as Hypervisor, {
    get(target, key) {
      const v = (target as unknown as Record<string | symbol, unknown>)[key];
      if (v === undefined && typeof key === 'string' && key !== 'then')
        throw new Error(`the fake hypervisor does not know "${key}"`);
      return v;
    },
  });
}
