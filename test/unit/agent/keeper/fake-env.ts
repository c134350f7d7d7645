import type { KeeperState, Log } from '../../../../agent/env.js';
import type {
  Freezer,
  KeeperEnv,
  KeeperLedger,
  KeeperStore,
  Machine,
  RunRecord,
  Takeovers,
  Watchdog,
  WatchdogInfo,
} from '../../../../agent/keeper/env.js';
import { Keeper } from '../../../../agent/keeper/keeper.js';
import type { LedgerEntry } from '../../../../agent/ledger/ledger.js';
import { timingProfiles, type TimingProfile } from '../../../../core/domain/timing.js';
import { epochKey } from '../../../../core/wire/key-names.js';
import { MemoryLedger, type MemoryClient } from '../../../sim/memory-ledger.js';
import { FakeClock } from '../ledger/fake-clock.js';

/** A client of the ledger in memory, as the keeper asks it. */
export function keeperLedger(client: MemoryClient): KeeperLedger {
  return {
    read: async (keys) => {
      const found = new Map<string, LedgerEntry>();
      const entries = await Promise.all(keys.map((k) => client.get(k)));
      for (const e of entries) if (e !== null) found.set(e.key, e);
      return found;
    },
    txn: (compare, writes) => client.txn(compare, writes),
    grantLease: (ttlS) => client.grantLease(ttlS),
    keepAlive: (lease) => client.keepAlive(lease),
    revokeLease: (lease) => client.revokeLease(lease),
  };
}

/** Machines as the kernel would have them. */
export class FakeFreezer implements Freezer {
  readonly there = new Map<string, { inSlice: boolean; frozen: boolean; twin?: boolean }>();
  sliceFrozen = false;
  /** Machines that no freezing reaches. */
  readonly stubborn = new Set<string>();
  /** Machines that do not die. */
  readonly undead = new Set<string>();
  readonly killed: string[] = [];
  /** Looking for machines fails. */
  blind = false;

  add(vm: string, inSlice = true): void {
    this.there.set(vm, { inSlice, frozen: false });
  }

  /** Runs guest code now. */
  runs(vm: string): boolean {
    const m = this.there.get(vm);
    if (m === undefined || this.killed.includes(vm)) return false;
    return this.stubborn.has(vm) || !(m.frozen || (m.inSlice && this.sliceFrozen));
  }

  async machines(): Promise<readonly Machine[]> {
    if (this.blind) throw new Error('cannot look');
    return [...this.there].map(([vm, m]) => ({ vm, inSlice: m.inSlice, twin: m.twin === true }));
  }

  async freeze(vms: readonly string[]): Promise<readonly string[]> {
    this.sliceFrozen = true;
    if (this.blind) throw new Error('cannot look');
    for (const [vm, m] of this.there) if (!m.inSlice && vms.includes(vm)) m.frozen = true;
    return [...this.there].filter(([vm, m]) => (m.inSlice || m.frozen) && this.runs(vm)).map(([vm]) => vm);
  }

  async thaw(hold: readonly string[]): Promise<void> {
    for (const [vm, m] of this.there) m.frozen = hold.includes(vm);
    this.sliceFrozen = false;
  }

  async kill(vm: string): Promise<void> {
    this.killed.push(vm);
    if (!this.undead.has(vm)) this.there.delete(vm);
  }
}

/** A device that bites on the fake clock. */
export class FakeWatchdog implements Watchdog {
  readonly #clock: FakeClock;
  petMs: number | null = null;
  pets = 0;
  kind: WatchdogInfo['kind'] = 'hardware';
  timeoutMs: number | null;
  nowayout = false;
  kept: WatchdogInfo['kept'] = 'yes';
  broken = false;
  /** Longest time between two pets while it counted. */
  longestMs = 0;

  constructor(clock: FakeClock, timeoutMs: number) {
    this.#clock = clock;
    this.timeoutMs = timeoutMs;
  }

  get counts(): boolean {
    return this.petMs !== null;
  }

  bitten(): boolean {
    this.#note();
    return this.longestMs >= (this.timeoutMs ?? Infinity);
  }

  info(): WatchdogInfo {
    const { kind, timeoutMs, nowayout, kept } = this;
    return { kind, timeoutMs, nowayout, running: this.counts, fault: null, kept };
  }

  pet(): void {
    if (this.broken) throw new Error('device or resource busy');
    this.#note();
    this.petMs = this.#clock.nowMs();
    this.pets++;
  }

  async disarm(still: () => boolean): Promise<void> {
    if (this.nowayout || !still()) return;
    this.#note();
    this.petMs = null;
  }

  release(): void {
    this.#note();
  }

  #note(): void {
    if (this.petMs !== null) this.longestMs = Math.max(this.longestMs, this.#clock.nowMs() - this.petMs);
  }
}

/** What a node keeps: it outlives a keeper; {@link reboot} empties what a boot empties. */
export class FakeStore implements KeeperStore {
  run: RunRecord | null = null;
  epoch: number | null = null;
  /** The record's file system takes no more. */
  full = false;
  readonly journal = new Map<string, number>();

  loadRun(): RunRecord | null {
    return this.run;
  }

  saveRun(r: RunRecord): void {
    if (this.full) throw new Error('ENOSPC: no space left on device');
    this.run = structuredClone(r);
  }

  async admittedEpoch(): Promise<number | null> {
    return this.epoch;
  }

  async admitTo(epoch: number): Promise<void> {
    this.epoch = epoch;
  }

  async journalGen(vm: string): Promise<number | null> {
    return this.journal.get(vm) ?? null;
  }
}

export class FakeTakeovers implements Takeovers {
  readonly files = new Map<string, string>();

  async read(files: readonly string[]): Promise<readonly string[]> {
    return files.flatMap((f) => this.files.get(f) ?? []);
  }
}

/** One node as its keeper sees it, on fake time, with the ledger in memory. */
export class KeeperRig {
  readonly clock: FakeClock;
  readonly memory: MemoryLedger;
  readonly client: MemoryClient;
  readonly freezer = new FakeFreezer();
  readonly watchdog: FakeWatchdog;
  readonly store: FakeStore;
  readonly takeovers = new FakeTakeovers();
  readonly timing: TimingProfile;
  readonly said: string[] = [];
  readonly states: KeeperState[] = [];
  readonly ledger: KeeperLedger;
  keeper: Keeper;
  onPublish: (s: KeeperState) => void = () => undefined;
  #uuid = 0;
  #life = { over: false };

  constructor(o: { clock?: FakeClock; memory?: MemoryLedger; timing?: TimingProfile } = {}) {
    this.timing = o.timing ?? timingProfiles.production;
    this.clock = o.clock ?? new FakeClock();
    this.memory = o.memory ?? new MemoryLedger(this.clock);
    if (this.memory.peek(epochKey) === null) this.memory.poke(epochKey, '1');
    this.client = this.memory.client('keeper');
    this.client.deadlineMs = this.timing.renewDeadlineMs;
    this.ledger = keeperLedger(this.client);
    this.watchdog = new FakeWatchdog(this.clock, this.timing.watchdogMs);
    this.store = new FakeStore();
    this.keeper = this.make();
  }

  make(): Keeper {
    const say = (text: string): void => void this.said.push(text);
    const log: Log = { info: say, warn: say, error: say };
    const life = { over: false };
    this.#life = life;
    const env: KeeperEnv = {
      node: 'n1',
      version: '0',
      timing: this.timing,
      clock: mortal(this.clock, life),
      random: { uuid: () => `boot-${++this.#uuid}`, below: () => 0 },
      log,
      ledger: mortal(this.ledger, life),
      freezer: mortal(this.freezer, life),
      watchdog: mortal(this.watchdog, life),
      store: mortal(this.store, life),
      takeovers: mortal(this.takeovers, life),
      publish: (s) => {
        this.states.push(s);
        this.onPublish(s);
      },
    };
    return new Keeper(env);
  }

  /** Starts it, and lets it come to RUN. */
  async up(): Promise<void> {
    this.keeper.start();
    await this.clock.advance(200);
  }

  /** A VM of this node that runs, armed. */
  async armed(vm: string, o: { inSlice?: boolean; takeover?: string[] } = {}): Promise<void> {
    this.own(vm, 'n1', 3);
    this.store.journal.set(vm, 3);
    this.freezer.add(vm, o.inSlice ?? true);
    const done = this.keeper.arm(vm, { takeover: o.takeover ?? [], gen: 3 });
    await this.clock.advance(50);
    await done;
  }

  own(vm: string, owner: string, gen: number): void {
    this.memory.poke(`/flotilla/vm/${vm}/own`, JSON.stringify({ owner, gen }));
  }

  /** The process dies at once; another one starts with what is on the node. */
  async crash(forMs = 300): Promise<void> {
    this.#life.over = true;
    await this.clock.advance(forMs);
    this.keeper = this.make();
    this.keeper.start();
  }

  async end(): Promise<void> {
    const stopped = this.keeper.stop();
    await this.clock.advance(10_000);
    await stopped;
    this.memory.close();
  }
}

/** The same object for one process: once that is over, nothing it asks is done or answered. */
function mortal<T extends object>(target: T, life: { readonly over: boolean }): T {
  return new Proxy(target, {
    get(of, name) {
      const value: unknown = Reflect.get(of, name, of);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (life.over) return never;
        const result: unknown = Reflect.apply(value, of, args);
        if (!(result instanceof Promise)) return result;
        return result.then(
          (v: unknown) => (life.over ? never : v),
          (e: unknown) => (life.over ? never : Promise.reject(e instanceof Error ? e : new Error(String(e)))),
        );
      };
    },
  });
}

const never = new Promise<never>(() => undefined);
