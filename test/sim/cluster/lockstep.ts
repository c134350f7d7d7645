import type { Lockstep, LockstepDoor, LockstepSeen } from '../../../agent/env.js';
import { parseDomain } from '../../../agent/vm/domain-xml.js';
import { checkpointEveryMs } from '../../../core/decide/lockstep.js';
import { FlotillaError } from '../../../core/domain/error.js';
import type { VmOwn } from '../../../core/domain/vm.js';
import type { SimHost } from './host.js';
import type { Process, SimTime } from './time.js';

/** Machines make progress, and are looked at, so often, ms. */
const tickMs = 50;
/** All of a machine is copied within this, ms. */
const copyMs = 1_500;
/** QEMU answers within this, ms. */
const actMs = 8;
/** A channel that was closed is noticed at the other end after this, ms. */
const finMs = 5;

/** A machine that can be one of a pair. The owner's is a domain of its host, too; the twin's is only this. */
interface Half {
  readonly node: string;
  /** Boots of its host so far: it lives as long as there is no other. */
  readonly boots: number;
  /** Of a twin: the pair. */
  gen: number;
  twin: boolean;
  xml: string;
  /** The other one, once all is copied. */
  mate: Half | null;
  /** It is being copied. */
  copying: boolean;
  /** Its ends of the channels are closed. */
  shut: boolean;
  checkpoints: number;
  lastMs: number | null;
  broken: string | null;
  panicked: boolean;
  gone: boolean;
}

export interface LockstepParts {
  readonly time: SimTime;
  host(node: string): SimHost;
  /** The network of the pairs works both ways. */
  reaches(a: string, b: string): boolean;
  own(vm: string): VmOwn | null;
  report(promise: string, text: string): void;
  changed(): void;
  say(text: string): void;
}

/** QEMUs in lockstep of a simulated cluster: pairs, checkpoints, held output. */
export class SimLockstep {
  readonly #p: LockstepParts;
  /** Of each VM that may have a twin: the node whose files are its data. */
  readonly #data = new Map<string, string>();
  readonly #halves = new Map<string, Half>();
  readonly #bells = new Map<string, Set<() => void>>();
  /** Twins that went on, by VM: for tests. */
  readonly taken: string[] = [];
  /** Pairs that began: joins that came to their first checkpoint. */
  joined = 0;
  /** QEMU does not go on as one, in its words; null: it does. */
  takeOverFault: string | null = null;
  /** Nodes with files of a VM's disk. */
  readonly files = new Map<string, Set<string>>();

  constructor(p: LockstepParts) {
    this.#p = p;
    this.#tick();
  }

  has(vm: string): boolean {
    return this.#data.has(vm);
  }

  add(vm: string, node: string): void {
    this.#data.set(vm, node);
    this.files.set(vm, new Set([node]));
  }

  /** Machines of twins on that node: VMs. */
  twins(node: string): string[] {
    return [...this.#data.keys()].filter((vm) => this.#get(node, vm)?.twin === true);
  }

  /** The keeper, or somebody else, kills a twin there. @returns false: there is none */
  killTwin(node: string, vm: string): boolean {
    const h = this.#get(node, vm);
    if (h?.twin !== true) return false;
    this.#end(vm, h);
    return true;
  }

  /** A machine is started there. */
  opens(node: string, vm: string): void {
    if (this.#data.get(vm) !== node)
      this.#p.report('P3', `VM ${vm} is started on ${node}, whose files are not its data`);
    this.#halves.set(`${node} ${vm}`, this.#new(node, false, 0, ''));
  }

  /** Its files there are taken away. */
  wiped(node: string, vm: string): void {
    // Its owner deletes it.
    if (this.#p.own(vm)?.owner === node) return void this.files.get(vm)?.delete(node);
    if (this.#data.get(vm) === node) this.#p.report('P3', `the data of VM ${vm} on ${node} is wiped`);
    if (this.#get(node, vm) !== null)
      this.#p.report('P3', `${node} wipes files of VM ${vm} that a machine uses`);
    this.files.get(vm)?.delete(node);
  }

  /** Its guest panics there, and not on the other node. */
  panics(node: string, vm: string): void {
    const h = this.#get(node, vm);
    if (h !== null) h.panicked = true;
    this.#p.changed();
  }

  /** Its guest runs there, and nothing of it is let out. */
  holdsOutput(node: string, vm: string): boolean {
    const h = this.#halves.get(`${node} ${vm}`);
    if (h === undefined || h.mate === null) return false;
    return h.shut || h.broken !== null || !this.#together(vm, h, h.mate);
  }

  /** What the ledger says of a pair has changed hands. */
  ownerChanged(vm: string, a: VmOwn, b: VmOwn): void {
    const h = this.#get(b.owner, vm);
    if (a.lockstep?.state !== 'protected' || a.lockstep.twin !== b.owner)
      this.#p.report(
        'safety 11',
        `${b.owner} made itself the owner of VM ${vm}, whose twin the ledger does not count there`,
      );
    if (h?.twin !== true || !h.shut)
      this.#p.report(
        'safety 11',
        `${b.owner} made itself the owner of VM ${vm} before its channels were shut`,
      );
    this.#data.set(vm, b.owner);
  }

  driver(node: string, process: Process): Lockstep {
    const p = this.#p;
    const wait = (ms: number): Promise<void> => p.host(node).wait(ms);
    const act = async <T>(does: () => T): Promise<T> => {
      await wait(actMs);
      return does();
    };
    const failed = (why: string): FlotillaError => new FlotillaError('tool-failed', why, { hint: '' });
    return {
      usable: async () => Promise.resolve(null),
      observe: async () => {
        const seen = [...this.#data.keys()].flatMap((vm) => this.#see(node, vm) ?? []);
        await wait(1);
        return seen;
      },
      bear: (o) =>
        act((): LockstepDoor => {
          const old = this.#get(node, o.vm);
          if (old !== null && !old.twin) throw failed('a machine of it runs here');
          if (old !== null) this.#end(o.vm, old);
          this.#halves.set(`${node} ${o.vm}`, this.#new(node, true, o.gen, o.xml));
          this.files.get(o.vm)?.add(node);
          this.#ring(node);
          return { address: o.address, memory: 1, disk: 2, input: 3, output: 4 };
        }),
      join: async (vm, door, o) => {
        const to = `n${door.address.split('.')[3] ?? ''}`;
        const beganMs = p.time.nowMs;
        const { libvirt } = p.host(node);
        const a = this.#get(node, vm);
        const b = this.#get(to, vm);
        if (a === null || b?.twin !== true || b.mate !== null) throw failed('nothing listens there');
        a.copying = true;
        libvirt.setPaused(vm, true);
        // QEMU goes on with it, whether an agent lives or not.
        const all = (async (): Promise<void> => {
          for (let ms = 0; ms < copyMs; ms += 100) {
            await wait(100);
            while (!p.reaches(node, to)) await wait(100);
            if (!a.copying || a.gone) throw failed('it was broken off');
            if (b.gone || b.mate !== null) throw failed('the other end closed the connection');
            o.progress(ms / copyMs);
          }
          Object.assign(a, { copying: false, mate: b, checkpoints: 0, lastMs: p.time.nowMs, broken: null });
          Object.assign(b, { mate: a, lastMs: p.time.nowMs });
          libvirt.setPaused(vm, false);
          p.say(`${vm} is in lockstep on ${node} and ${to}`);
        })();
        const cancelled = new Promise<never>((_, reject) => {
          o.signal.addEventListener('abort', () => reject(o.signal.reason as Error), { once: true });
        });
        try {
          await Promise.race([all, cancelled]);
          const first = async (): Promise<void> => {
            while (a.checkpoints === 0) {
              await wait(20);
              if (a.gone || a.broken !== null) throw failed('the pair broke');
            }
          };
          await Promise.race([first(), cancelled]);
        } catch (e) {
          all.catch(() => undefined);
          if (!a.gone) this.#alone(vm, a);
          throw e;
        }
        this.joined++;
        return { pausedMs: p.time.nowMs - beganMs };
      },
      shut: (vm) =>
        act(() => {
          const h = this.#get(node, vm);
          if (h?.twin !== true) throw failed('there is no twin');
          if (!h.shut) this.#close(h, 'the other end closed its channel');
          h.shut = true;
          p.changed();
        }),
      takeOver: (vm, gen) =>
        act(() => {
          const h = this.#get(node, vm);
          if (h === null) throw failed('there is no twin');
          if (!h.twin) return;
          if (h.panicked) p.report('lockstep', `the twin of VM ${vm} on ${node} goes on, and has panicked`);
          if (this.takeOverFault !== null) throw failed(this.takeOverFault);
          if (p.own(vm)?.owner !== node)
            p.report('safety 11', `the twin of VM ${vm} on ${node} goes on, which does not own it`);
          if (!h.shut)
            p.report('safety 11', `the twin of VM ${vm} on ${node} goes on with its channels open`);
          h.twin = false;
          h.mate = null;
          h.shut = false;
          h.broken = null;
          const xml = h.xml.replace(/gen=(["'])\d+\1/, `gen="${gen}"`);
          this.taken.push(vm);
          p.host(node).libvirt.adopt(vm, xml);
          p.changed();
        }),
      goAlone: (vm, _gen) =>
        act(() => {
          const h = this.#get(node, vm);
          if (h === null || h.twin) throw failed('it is not here');
          const own = p.own(vm);
          if (own?.owner !== node || (own.lockstep?.twin ?? null) !== null)
            p.report(
              'safety 11',
              `VM ${vm} goes on alone on ${node}, and the ledger names a twin or another owner`,
            );
          this.#alone(vm, h);
        }),
      end: (vm) =>
        act(() => {
          const h = this.#get(node, vm);
          if (h === null) return;
          if (h.twin) this.#end(vm, h);
          else p.host(node).libvirt.die(vm, 'destroyed');
        }),
      on: (listener) => {
        const bells = this.#bells.get(node) ?? new Set();
        this.#bells.set(node, bells);
        const bell = (): void => process.enter(listener);
        bells.add(bell);
        return () => void bells.delete(bell);
      },
    };
  }

  #new(node: string, twin: boolean, gen: number, xml: string): Half {
    const { boots } = this.#p.host(node);
    const none = {
      mate: null,
      copying: false,
      shut: false,
      checkpoints: 0,
      lastMs: null,
      broken: null,
      panicked: false,
    };
    return { node, boots, gen, twin, xml, gone: false, ...none };
  }

  /** One that lives. */
  #get(node: string, vm: string): Half | null {
    const h = this.#halves.get(`${node} ${vm}`);
    if (h === undefined) return null;
    const host = this.#p.host(node);
    const lives = host.powered && host.boots === h.boots && (h.twin || host.exists(vm));
    if (lives) return h;
    this.#halves.delete(`${node} ${vm}`);
    h.gone = true;
    // The kernel of a machine that lives says goodbye for a process that died.
    if (host.powered && host.boots === h.boots) this.#close(h, 'the other end is gone');
    return null;
  }

  #see(node: string, vm: string): LockstepSeen | null {
    const h = this.#get(node, vm);
    if (h === null) return null;
    const host = this.#p.host(node);
    const domain = host.libvirt.domains.get(vm);
    const gen = h.twin ? h.gen : (parseDomain(domain?.xml ?? '').mark?.gen ?? 0);
    return {
      vm,
      gen,
      role: h.twin ? 'twin' : h.mate === null ? 'alone' : 'primary',
      running: h.twin ? h.mate !== null : domain?.state.state === 'running' && !host.standsStill(vm),
      checkpoints: h.checkpoints,
      lastCheckpointMs: h.lastMs === null ? null : h.lastMs + host.zeroMs,
      broken: h.broken,
      panicked: h.panicked,
      settled: true,
    };
  }

  /** It ends: what is told to the other end depends on its host. */
  #end(vm: string, h: Half): void {
    h.gone = true;
    this.#halves.delete(`${h.node} ${vm}`);
    this.#close(h, 'the other end is gone');
    this.#p.changed();
  }

  #close(h: Half, why: string): void {
    const other = h.mate;
    if (other === null || other.gone) return;
    this.#p.time.after(finMs, () => {
      // Nobody hears of it where the network is cut; QEMU never asks.
      if (other.gone || other.mate !== h || !this.#p.reaches(h.node, other.node)) return;
      other.broken ??= why;
      this.#ring(other.node);
      this.#p.changed();
    });
  }

  #alone(vm: string, h: Half): void {
    const { mate } = h;
    if (mate !== null) this.#close(h, 'the other end went on alone');
    Object.assign(h, { mate: null, copying: false, broken: null, checkpoints: 0, lastMs: null, shut: false });
    const { libvirt } = this.#p.host(h.node);
    if (libvirt.domains.get(vm)?.state.state === 'paused') libvirt.setPaused(vm, false);
    this.#p.changed();
  }

  /** Both run, and hear each other. */
  #together(vm: string, a: Half, b: Half): boolean {
    const [x, y] = [this.#p.host(a.node), this.#p.host(b.node)];
    if (this.#get(a.node, vm) !== a || this.#get(b.node, vm) !== b) return false;
    if (b.mate !== a || a.mate !== b || a.shut || b.shut || a.broken !== null || b.broken !== null)
      return false;
    const runs = (h: SimHost): boolean => !h.stalled && !h.standsStill(vm);
    return runs(x) && runs(y) && this.#p.reaches(a.node, b.node);
  }

  #ring(node: string): void {
    for (const bell of [...(this.#bells.get(node) ?? [])]) this.#p.time.after(1, bell);
  }

  #tick(): void {
    const { nowMs } = this.#p.time;
    for (const [key, h] of [...this.#halves]) {
      const vm = key.split(' ')[1] ?? '';
      if (this.#get(h.node, vm) !== h || h.twin || h.mate === null) continue;
      if (!this.#together(vm, h, h.mate) || nowMs - (h.lastMs ?? -Infinity) < checkpointEveryMs) continue;
      for (const x of [h, h.mate]) Object.assign(x, { checkpoints: x.checkpoints + 1, lastMs: nowMs });
      this.#ring(h.node);
      this.#ring(h.mate.node);
    }
    if (this.#halves.size > 0) this.#p.changed();
    this.#p.time.after(tickMs, () => this.#tick());
  }
}
