import type {
  Freezer,
  KeeperStore,
  Machine,
  RunRecord,
  Takeovers,
  Watchdog,
  WatchdogInfo,
} from '../../../agent/keeper/env.js';
import type { Journal } from '../../../agent/env.js';
import type { Clock } from '../../../agent/env.js';
import type { JournalEntry } from '../../../core/domain/ha.js';
import { LibvirtError } from '../../../agent/libvirt/hypervisor.js';
import { FakeHost } from '../fake-hypervisor.js';
import { Wanted } from './net.js';
import type { SimTime } from './time.js';

/** What a pool's files are to a simulated cluster: which machine holds a disk's lock, and what new owners left. */
export class SharedPool {
  readonly path = '/srv/shared';
  /** Which node's machine has the disk of a VM open, running or frozen. */
  readonly locks = new Map<string, string>();
  /** False: nothing but the protocol keeps two machines apart. */
  enforcesLocks = true;
  readonly takeovers = new Map<string, string>();
  /** Volumes of snapshots, with the disk each was taken of. */
  readonly snapshots = new Map<string, string>();
  readonly disks = new Map<string, number>();
  /** Nodes that it does not answer. */
  readonly unreachable = new Wanted();
}

/** Rules of the host that a mutation may break. */
export interface HostRules {
  /** What comes to life in a frozen slice is born frozen. */
  bornFrozen: boolean;
  /** tmpfs is empty after a boot. */
  tmpfsEmptied: boolean;
  /** libvirt starts nothing by itself. */
  noAutostart: boolean;
  /** A new owner's record in the pool is read by frozen nodes. */
  takeoversRead: boolean;
}

/** A simulated node's hardware and kernel: it outlives all its processes, and some of it a power loss. */
export class SimHost {
  readonly node: string;
  readonly libvirt: FakeHost;
  readonly pool: SharedPool;
  powered = false;
  rules: HostRules = { bornFrozen: true, tmpfsEmptied: true, noAutostart: true, takeoversRead: true };
  /** The slice of HA VMs stands still. */
  slice = false;
  readonly frozen = new Set<string>();
  /** Freezing fails, in words; null: it works. */
  freezeFault: string | null = null;
  tmpfs: RunRecord | null = null;
  epoch: number | null = null;
  readonly journalLast = new Map<string, JournalEntry>();
  /** Watchdog: when it was petted last; null: not open. */
  pettedMs: number | null = null;
  /** It bites so much later than it should, ms. */
  biteLateMs = 0;
  bites = 0;
  /** Rises at each power off: what was under way then has no effect any more. */
  boots = 0;
  /** The disk takes no writes (journal, epoch). */
  diskFault = false;
  /** QEMU does not come to life here, in its words; null: it does. */
  startFault: string | null = null;
  /** Slots of the boot drive, as GRUB sees them; null: it was not made by the image. */
  slots: { booted: 'a' | 'b'; good: 'a' | 'b'; onTrial: 'a' | 'b' | null } | null = null;
  /** What was written into the other slot does not get well: the one before is started again. */
  slotBroken = false;
  /** The whole machine stands still: no process, no guest, no driver; only the watchdog counts. */
  stalled = false;
  /** A machine hangs in the kernel and does not die. */
  killFault = false;
  /** A dead node's locks live on in the pool for so long, ms. */
  lockLeaseMs = 0;
  /** What this machine's monotonic clock is ahead of the simulation's: another at each boot. */
  zeroMs = 0;
  wallOffsetMs = 1_700_000_000_000;
  /** Told of each thing that may change who executes. */
  onChange: (what: string) => void = () => undefined;
  onBite: () => void = () => undefined;
  /** Told of a machine's start, and of one that the agent forced off. */
  onStart: (vm: string) => void = () => undefined;
  onDestroy: (vm: string) => void = () => undefined;
  /** Told of a kill by the keeper. */
  onKill: (vm: string) => void = () => undefined;
  readonly #time: SimTime;
  readonly #watchdogMs: number;
  /** What was born in a frozen slice although it should not run: only where the rule is broken. */
  readonly #thawedByBirth = new Set<string>();

  constructor(o: { node: string; time: SimTime; pool: SharedPool; watchdogMs: number }) {
    this.node = o.node;
    this.pool = o.pool;
    this.#time = o.time;
    this.#watchdogMs = o.watchdogMs;
    const time = o.time;
    const clock: Clock = {
      nowMs: () => time.nowMs,
      wallMs: () => time.nowMs + this.wallOffsetMs,
      sleep: (ms) => this.#wait(ms),
    };
    this.libvirt = new FakeHost(clock);
    this.libvirt.standsStill = (vm) => this.stalled || this.standsStill(vm);
    this.libvirt.beforeStart = (vm, _gen, paused) => this.#beforeStart(vm, paused);
    this.libvirt.beforeArrive = (vm) => void this.opensCopy(vm);
    this.libvirt.listen((e) => {
      if (e.type !== 'lifecycle') return;
      if (e.event === 'stopped') {
        this.#gone(e.uuid);
        if (this.libvirt.domains.get(e.uuid)?.state.reason === 'destroyed') this.onDestroy(e.uuid);
      } else if (e.event === 'started') this.onStart(e.uuid);
      this.onChange(`${e.event} ${e.uuid}`);
    });
  }

  /** Its guest may run, but nothing of it leaves. */
  holdsOutput: (vm: string) => boolean = () => false;
  /** VMs of other nodes whose twins are here. */
  twins: () => readonly string[] = () => [];
  killTwin: (vm: string) => boolean = () => false;
  /** Opens the disk of a VM that has copies on two nodes. @returns false: it has none */
  opensCopy: (vm: string) => boolean = () => false;

  /** Ran before each start, to refuse what this host cannot do. */
  refuseStart: (vm: string, paused: boolean) => void = () => undefined;

  #beforeStart(vm: string, paused: boolean): void {
    this.refuseStart(vm, paused);
    if (this.opensCopy(vm)) return;
    if (this.startFault !== null)
      throw new LibvirtError(this.startFault, { code: 'refused', outcome: 'refused' });
    if (this.pool.unreachable.has(this.node))
      throw new LibvirtError('Cannot access storage file: Input/output error', {
        code: 'refused',
        outcome: 'refused',
      });
    const holder = this.pool.enforcesLocks ? this.pool.locks.get(vm) : undefined;
    if (holder !== undefined && holder !== this.node)
      throw new LibvirtError('Failed to get "write" lock', { code: 'refused', outcome: 'refused' });
    this.pool.locks.set(vm, this.node);
    if (this.slice && !this.rules.bornFrozen) this.#thawedByBirth.add(vm);
  }

  #gone(vm: string): void {
    if (this.pool.locks.get(vm) === this.node) this.pool.locks.delete(vm);
    this.frozen.delete(vm);
    this.#thawedByBirth.delete(vm);
  }

  #inSlice(vm: string): boolean {
    return this.libvirt.domains.get(vm)?.xml.includes('/machine/ha') === true;
  }

  standsStill(vm: string): boolean {
    if (this.frozen.has(vm)) return true;
    return this.slice && this.#inSlice(vm) && !this.#thawedByBirth.has(vm);
  }

  exists(vm: string): boolean {
    return this.powered && this.libvirt.domains.get(vm)?.active === true;
  }

  /** Its guest runs code in this very moment. */
  executes(vm: string): boolean {
    const d = this.libvirt.domains.get(vm);
    const up = this.powered && !this.stalled;
    const runs = up && d?.active === true && d.state.state === 'running' && !this.standsStill(vm);
    return runs && !this.holdsOutput(vm);
  }

  machines(): Machine[] {
    const domains = [...this.libvirt.domains].filter(([, d]) => d.active);
    return [
      ...domains.map(([vm]) => ({ vm, inSlice: this.#inSlice(vm), twin: false })),
      ...this.twins().map((vm) => ({ vm, inSlice: false, twin: true })),
    ];
  }

  /** Everything volatile goes. */
  powerOff(): void {
    this.powered = false;
    this.stalled = false;
    this.boots++;
    this.zeroMs = Math.round(((this.zeroMs + 1) * 7919) % 1e6);
    this.pettedMs = null;
    if (this.rules.tmpfsEmptied) this.tmpfs = null;
    for (const [vm, d] of this.libvirt.domains) {
      if (!d.active) continue;
      const { boots } = this;
      if (this.lockLeaseMs === 0) this.#gone(vm);
      // The server gives the dead node's locks up after its lease, or when the node is back.
      else
        this.#time.after(this.lockLeaseMs, () => {
          if (!this.powered && this.boots === boots) this.#gone(vm);
        });
    }
    this.libvirt.reboot();
    this.slice = false;
    this.frozen.clear();
    this.libvirt.up = true;
    this.onChange('power off');
  }

  powerOn(): void {
    this.powered = true;
    const { slots } = this;
    if (slots !== null)
      slots.booted = slots.onTrial !== null && !this.slotBroken ? slots.onTrial : slots.good;
    for (const [vm, node] of this.pool.locks) if (node === this.node) this.pool.locks.delete(vm);
    if (!this.rules.noAutostart)
      for (const vm of this.libvirt.domains.keys()) {
        try {
          this.libvirt.start(vm, false);
        } catch {
          // as libvirt does: logged, and that is it
        }
      }
    this.onChange('power on');
  }

  readonly freezer: Freezer = {
    machines: async () => {
      await this.#wait(3);
      return this.machines();
    },
    freeze: async (vms) => {
      await this.#wait(5);
      if (this.freezeFault !== null) return [this.freezeFault];
      this.slice = true;
      for (const m of this.machines()) if (!m.inSlice && vms.includes(m.vm)) this.frozen.add(m.vm);
      this.onChange('freeze');
      return [];
    },
    thaw: async (hold) => {
      await this.#wait(3);
      const here = new Set(this.machines().map((m) => m.vm));
      this.frozen.clear();
      for (const vm of hold) if (here.has(vm)) this.frozen.add(vm);
      this.slice = false;
      this.onChange('thaw');
    },
    kill: async (vm) => {
      await this.#wait(5);
      if (this.killTwin(vm)) return;
      if (this.killFault || this.libvirt.domains.get(vm)?.active !== true) return;
      this.onKill(vm);
      this.libvirt.die(vm, 'crashed');
    },
  };

  readonly watchdog: Watchdog = {
    info: (): WatchdogInfo => ({
      kind: 'hardware',
      timeoutMs: this.#watchdogMs,
      nowayout: false,
      running: this.pettedMs !== null,
      fault: null,
      kept: 'yes',
    }),
    pet: () => {
      const petted = this.#time.nowMs;
      this.pettedMs = petted;
      const check = (): void => {
        if (!this.powered || this.pettedMs !== petted) return;
        this.bites++;
        this.onBite();
      };
      this.#time.after(this.#watchdogMs, () => {
        if (this.biteLateMs > 0) this.#time.after(this.biteLateMs, check);
        else check();
      });
    },
    disarm: async () => {
      this.pettedMs = null;
      this.onChange('watchdog stopped');
      return Promise.resolve();
    },
    release: () => undefined,
  };

  readonly store: KeeperStore = {
    loadRun: () => this.tmpfs,
    saveRun: (r) => void (this.tmpfs = r),
    admittedEpoch: async () => {
      await this.#wait(1);
      return this.epoch;
    },
    admitTo: async (epoch) => {
      await this.#disk();
      this.epoch = epoch;
    },
    journalGen: async (vm) => {
      await this.#wait(1);
      const e = this.journalLast.get(vm);
      if (e === undefined) return null;
      return e.owner === this.node ? e.gen : e.gen - 1;
    },
  };

  readonly journal: Journal = {
    record: async (e) => {
      await this.#disk();
      const old = this.journalLast.get(e.vm);
      if (old === undefined || old.epoch < e.epoch || old.gen <= e.gen) this.journalLast.set(e.vm, e);
    },
  };

  readonly takeovers: Takeovers = {
    read: async (files) => {
      await this.#wait(5);
      // A pool that is away holds the reader until it is back.
      while (this.pool.unreachable.has(this.node)) await this.#wait(500);
      if (!this.rules.takeoversRead) return [];
      return files.flatMap((f) => this.pool.takeovers.get(f) ?? []);
    },
  };

  /** Time as a program here sees it: never over, if the power goes meanwhile. */
  wait(ms: number): Promise<void> {
    return this.#wait(ms);
  }

  #wait(ms: number): Promise<void> {
    const { boots } = this;
    return new Promise((resolve) => {
      const due = (): void => {
        if (this.boots !== boots) return;
        if (this.stalled) this.#time.after(100, due);
        else resolve();
      };
      this.#time.after(ms, due);
    });
  }

  async #disk(): Promise<void> {
    await this.#wait(4);
    if (this.diskFault) throw new Error('EIO: i/o error, write');
  }
}
