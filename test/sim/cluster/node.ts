import type {
  AgentEnv,
  Keeper as KeeperOfAgent,
  KeeperState,
  Liveness,
  Slots,
  Volumes,
} from '../../../agent/env.js';
import { Keeper } from '../../../agent/keeper/keeper.js';
import type { KeeperEnv } from '../../../agent/keeper/env.js';
import { AgentLoop } from '../../../agent/loop.js';
import { FlotillaError } from '../../../core/domain/error.js';
import type { TimingProfile } from '../../../core/domain/timing.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Ledger } from '../../../agent/ledger/ledger.js';
import type { FenceDevice } from '../../../agent/fence/fence-agent.js';
import { fakeHypervisor } from '../fake-hypervisor.js';
import type { FakePeer } from '../fake-migration.js';
import type { MemoryRadio, RadioHub } from '../memory-radio.js';
import type { Peers } from '../../../agent/env.js';
import type { LockstepAnswers, LockstepAsk } from '../../../core/wire/lockstep.js';
import type { SimCopies } from './copies.js';
import type { SimLockstep } from './lockstep.js';
import { SimHost, type SharedPool } from './host.js';
import { SimLedger, type SimVoters } from './ledger.js';
import type { Rng } from './rng.js';
import { Process, type Death, type SimTime } from './time.js';

/** The agent's calls end within this, ms, as those of the real client. */
const agentDeadlineMs = 2_000;
/** systemd starts what died anew after this, ms. */
const restartMs = 200;
/** From power on to systemd starting our units, ms: quicker than any real machine, which finds more. */
export const bootMs = 4_000;

export interface NodeParts {
  readonly time: SimTime;
  readonly rng: Rng;
  readonly voters: SimVoters;
  readonly hub: RadioHub;
  readonly pool: SharedPool;
  readonly nodes: readonly string[];
  /** Disks on two nodes; null: the cluster has none. */
  readonly copies: SimCopies | null;
  /** Machines with twins; null: the cluster has none. */
  readonly lockstep: SimLockstep | null;
  /** The agent of another node, as this one reaches it. */
  knock(from: string, to: string, address: string, signal: AbortSignal): Promise<boolean>;
  askPeer(from: string, to: string, address: string, ask: LockstepAsk, signal: AbortSignal): Promise<unknown>;
  readonly agentTiming: TimingProfile;
  readonly keeperTiming: TimingProfile;
  /** Told when power goes off or comes on. */
  power(node: string, on: boolean): void;
  /** The libvirt daemon of another node, as this one reaches it. */
  peer(node: string, address: string): FakePeer;
  /** A line for the log. */
  say(node: string, text: string): void;
  /** Powers the node off from outside, as its BMC does. @returns whether it confirmed */
  bmcOff(address: string): Promise<boolean>;
  bmcOn(address: string): Promise<boolean>;
  readonly bmc: boolean;
  /** What a process writes to its log, whole. */
  heard(node: string, who: 'agent' | 'keeper', text: string, fields: Record<string, unknown>): void;
  /** A keeper counts a renewal: when it was sent, and when the ledger last showed it alive. */
  renewed(node: string, goodMs: number, aliveMs: number): void;
  /** What a mutation puts between a process and its ledger. */
  agentLedger(l: Ledger, node: string): Ledger;
  keeperLedger(l: KeeperEnv['ledger'], node: string): KeeperEnv['ledger'];
}

/** One node: the shipped keeper and agent loop over a simulated host. */
export class ClusterNode {
  readonly id: string;
  readonly host: SimHost;
  agent: Process | null = null;
  keeper: Process | null = null;
  loop: AgentLoop | null = null;
  version = '1';
  /** Its keeper counts no further machine, nor one anew. */
  armsNothing = false;
  /** Its agent is of a release that writes a field more into ownership records. */
  nextSchema = false;
  /** Since when keeper and its way to the ledger are well, ms; null: they are not. */
  healthySinceMs: number | null = null;
  /** Since when its keeper runs and can freeze, whatever the ledger does, ms; null: it does not. */
  ableSinceMs: number | null = null;
  readonly #p: NodeParts;
  #keeperCore: Keeper | null = null;
  #keeperState: KeeperState | null = null;
  #radio: MemoryRadio | null = null;
  readonly #listeners = new Set<() => void>();

  constructor(id: string, p: NodeParts) {
    this.id = id;
    this.#p = p;
    this.host = new SimHost({
      node: id,
      time: p.time,
      pool: p.pool,
      watchdogMs: p.keeperTiming.watchdogMs,
    });
    this.host.onBite = () => {
      p.say(id, 'watchdog resets the node');
      this.powerLoss();
      this.#p.time.after(bootMs, () => this.powerOn());
    };
  }

  get keeperState(): KeeperState | null {
    return this.keeper?.alive === true ? this.#keeperState : null;
  }

  powerOn(): void {
    if (this.host.powered) return;
    this.host.powerOn();
    this.#p.power(this.id, true);
    this.startKeeper();
    this.startAgent();
  }

  powerLoss(): void {
    if (!this.host.powered) return;
    this.#end('agent');
    this.#end('keeper');
    this.host.powerOff();
    this.#p.power(this.id, false);
  }

  /** kill -9; systemd starts it anew. */
  kill(what: 'agent' | 'keeper', restart = true): void {
    this.#end(what);
    if (restart) this.#p.time.after(restartMs, () => this.#restart(what));
  }

  #restart(what: 'agent' | 'keeper'): void {
    if (!this.host.powered) return;
    if (what === 'agent' && this.agent === null) this.startAgent();
    if (what === 'keeper' && this.keeper === null) this.startKeeper();
  }

  stall(what: 'agent' | 'keeper', ms: number): void {
    const process = what === 'agent' ? this.agent : this.keeper;
    if (process === null) return;
    const radio = what === 'agent' ? this.#radio : null;
    if (radio !== null) radio.paused = true;
    process.stall();
    this.#p.time.after(ms, () => this.goOn(what, process));
  }

  /** Ends a stall of that process; on a machine that stands still itself it goes on with that. */
  goOn(what: 'agent' | 'keeper', process: Process | null): void {
    if (this.host.stalled) return;
    if (what === 'agent' && this.agent === process && this.#radio !== null) this.#radio.paused = false;
    process?.resume();
  }

  /** The whole machine stands still for a while, as one that swaps or whose firmware is busy. */
  stallAll(ms: number): void {
    const { host } = this;
    const { boots } = host;
    if (!host.powered) return;
    host.stalled = true;
    host.onChange('stalled');
    this.stall('agent', ms);
    this.stall('keeper', ms);
    this.#p.time.after(ms, () => this.goOnAll(boots));
  }

  /** Ends a stall of the machine, if it was not reset meanwhile. */
  goOnAll(boots: number): void {
    const { host } = this;
    if (host.boots !== boots || !host.stalled) return;
    host.stalled = false;
    this.goOn('agent', this.agent);
    this.goOn('keeper', this.keeper);
    host.onChange('goes on');
  }

  /** It dies at one of its next acts, before or after the act has its effect. */
  dieAt(what: 'agent' | 'keeper', n: number, when: Death['when']): void {
    const process = what === 'agent' ? this.agent : this.keeper;
    if (process !== null) process.death = { at: process.acts + n, when };
  }

  /** In order, as systemd stops it; and another release is started. */
  async upgrade(what: 'agent' | 'keeper', version: string): Promise<void> {
    this.version = version;
    if (what === 'agent' && this.agent !== null) {
      const { agent } = this;
      await this.loop?.stop();
      if (this.agent === agent) this.kill('agent');
    }
    if (what === 'keeper' && this.keeper !== null) {
      const { keeper } = this;
      await this.#keeperCore?.stop();
      if (this.keeper === keeper) this.kill('keeper');
    }
  }

  /** systemctl reboot: first our programs, then the machines, then the power. */
  async shutDown(machinesMs: number): Promise<void> {
    const { boots } = this.host;
    const { agent, keeper } = this;
    await this.loop?.stop();
    if (this.agent === agent) this.#end('agent');
    await this.#keeperCore?.stop();
    if (this.keeper === keeper) this.#end('keeper');
    this.#p.time.after(machinesMs, () => {
      if (this.host.boots === boots) this.powerLoss();
    });
  }

  /** systemctl reboot, to its end. */
  restart(): void {
    const { boots } = this.host;
    const { time } = this.#p;
    this.#p.say(this.id, 'restarts');
    time.after(1, () => void this.shutDown(1_000));
    const again = (): void => {
      if (this.host.boots === boots) time.after(500, again);
      else time.after(bootMs, () => this.powerOn());
    };
    again();
  }

  #end(what: 'agent' | 'keeper'): void {
    if (what === 'agent') {
      const { agent } = this;
      this.agent = null;
      this.loop = null;
      agent?.kill();
    } else {
      const { keeper } = this;
      this.keeper = null;
      keeper?.kill();
      this.#keeperCore = null;
      this.#keeperState = null;
      this.#tell();
    }
  }

  #tell(): void {
    for (const l of [...this.#listeners]) l();
  }

  startKeeper(): void {
    const { time, rng, voters, keeperTiming } = this.#p;
    const { host } = this;
    const process = new Process(time, `keeper ${this.id}`, () => time.nowMs + host.wallOffsetMs, host.zeroMs);
    this.keeper = process;
    process.onDeath = () => {
      if (this.keeper !== process) return;
      // By an armed death: systemd sees it end.
      this.#end('keeper');
      this.#p.say(this.id, 'keeper dies in the middle of an act');
      time.after(restartMs, () => this.#restart('keeper'));
    };
    const client = new SimLedger(voters, this.id, process, keeperTiming.renewDeadlineMs);
    const ledger = this.#p.keeperLedger(client, this.id);
    const env: KeeperEnv = {
      node: this.id,
      version: this.version,
      timing: keeperTiming,
      clock: process.clock,
      random: { uuid: () => rng.uuid(), below: (n) => rng.below(n) },
      log: this.#log(process, 'keeper'),
      ledger: process.guard(ledger),
      freezer: process.guard(host.freezer),
      watchdog: process.guard(host.watchdog),
      store: process.guard(host.store),
      takeovers: process.guard(host.takeovers),
      publish: (s) => {
        if (!process.alive) return;
        const before = this.#keeperState;
        this.#keeperState = s;
        if (before !== null && s.goodMs !== null && s.goodMs !== before.goodMs)
          this.#p.renewed(this.id, s.goodMs - host.zeroMs, client.aliveMs);
        if (before?.mode !== s.mode) this.#p.say(this.id, `keeper ${s.mode}`);
        this.#tell();
      },
    };
    this.#keeperCore = new Keeper(env);
    this.#keeperCore.start();
  }

  startAgent(): void {
    const { time, rng, voters, hub } = this.#p;
    const { host } = this;
    const process = new Process(time, `agent ${this.id}`, () => time.nowMs + host.wallOffsetMs, host.zeroMs);
    this.agent = process;
    const boot = rng.uuid();
    const radio = hub.join(this.id, boot);
    this.#radio = radio;
    radio.setPeers(this.#p.nodes.filter((n) => n !== this.id).map((node) => ({ node, address: node })));
    process.onDeath = () => {
      radio.die();
      if (this.agent !== process) return;
      // By an armed death: systemd sees it end.
      this.agent = null;
      this.loop = null;
      this.#p.say(this.id, 'agent dies in the middle of an act');
      time.after(restartMs, () => this.#restart('agent'));
    };
    const client = new SimLedger(voters, this.id, process, agentDeadlineMs);
    const ledger = this.#p.agentLedger(this.nextSchema ? nextSchema(client) : client, this.id);
    const replication = this.#p.copies?.driver(this.id, process, () => env);
    const env: AgentEnv = {
      node: this.id,
      boot,
      version: this.version,
      clock: process.clock,
      random: { uuid: () => rng.uuid(), below: (n) => rng.below(n) },
      log: this.#log(process, 'agent'),
      timing: this.#p.agentTiming,
      ledger: process.guard(ledger),
      ...(replication === undefined ? {} : { replication: process.guard(replication) }),
      ...(this.#p.bmc ? { fencer: process.guard(this.#fencer()) } : {}),
      live: this.#liveness(process),
      keeper: process.guard(this.#link()),
      journal: process.guard(host.journal),
      slots: process.guard(this.#slots()),
      voters: process.guard({
        faults: async () =>
          voters.voters.flatMap((v) => (voters.up(v) ? [] : [{ node: v, text: 'does not answer' }])),
      }),
      radio: process.guard(radio),
      peers: {
        libvirt: (address) => this.#p.peer(this.id, address),
        lockstep: process.guard({
          ask: (to: { node: string; address: string }, ask: LockstepAsk, signal: AbortSignal) =>
            this.#p.askPeer(this.id, to.node, to.address, ask, signal),
        }).ask as Peers['lockstep'],
        knock: process.guard({
          ask: (to: { node: string; address: string }, signal: AbortSignal) =>
            this.#p.knock(this.id, to.node, to.address, signal),
        }).ask,
      },
      ...(this.#p.lockstep === null
        ? {}
        : { lockstep: process.guard(this.#p.lockstep.driver(this.id, process)) }),
      hypervisor: this.#hypervisor(process),
      volumes: process.guard(this.#volumes()),
      seeds: process.guard({ make: async () => '/seed.iso', remove: async () => undefined }),
      bridges: process.guard({
        answers: async () => true,
        ensure: async () => undefined,
        owned: async () => [],
        remove: async () => undefined,
      }),
      sockets: {
        paths: (id) => ({ serial: `/run/${id}/serial`, vnc: `/run/${id}/vnc`, serialLog: `/log/${id}` }),
        prepare: async () => undefined,
        remove: async () => undefined,
      },
      machine: {
        accel: async () => 'tcg',
        isDead: async (vm) => this.host.libvirt.domains.get(vm)?.active !== true,
        facts: () => null,
        cpuTune: () => ({ cpuMHz: 2000 }),
        use: async () => ({
          cpus: 4,
          cpuUsedPct: 0,
          memoryBytes: 16e9,
          memoryUsedBytes: 1e9,
          loadAvg1: 0,
          upSinceMs: 0,
        }),
      },
    };
    this.loop = new AgentLoop(env, undefined, undefined, () => {
      const core = this.#keeperCore;
      this.keeper?.enter(() => core?.beat());
    });
    this.loop.start();
  }

  /** A question of another node's agent; no answer ever, where it dies meanwhile. @throws Error nobody listens */
  async lockstepAsked(from: string, ask: LockstepAsk): Promise<LockstepAnswers[LockstepAsk['do']]> {
    const { agent, loop } = this;
    if (agent === null || loop === null) throw new Error('connection refused');
    return new Promise((resolve, reject) =>
      agent.enter(() => void loop.lockstepAsked(from, ask).then(resolve, reject)),
    );
  }

  #log(process: Process, who: 'agent' | 'keeper'): AgentEnv['log'] {
    const say = (text: string, fields: Record<string, unknown> = {}): void => {
      if (!process.alive) return;
      this.#p.heard(this.id, who, text, fields);
      this.#p.say(this.id, `${who}: ${text}`);
    };
    return { info: say, warn: say, error: say };
  }

  /** As KeeperLink has it. */
  #liveness(process: Process): Liveness {
    return {
      compare: () => {
        const s = this.keeperState;
        if (!process.alive || s?.mode !== 'run' || s.goodMs === null || s.createRevision === null)
          return null;
        if (process.clock.nowMs() - s.goodMs >= this.#p.agentTiming.renewalGoodMs) return null;
        return { key: kinds.live.key(this.id), createRevision: s.createRevision };
      },
    };
  }

  #slots(): Slots {
    const { host } = this;
    const slots = (): NonNullable<SimHost['slots']> => {
      if (host.slots === null) throw new Error('this machine has no slots');
      return host.slots;
    };
    return {
      state: async () => (host.slots === null ? null : { ...host.slots, boot: `${this.id} ${host.boots}` }),
      write: async () => Promise.resolve(slots().booted === 'a' ? 'b' : 'a'),
      tryNext: async () => {
        await Promise.resolve();
        slots().onTrial = slots().booted === 'a' ? 'b' : 'a';
      },
      good: async () => {
        await Promise.resolve();
        Object.assign(slots(), { good: slots().booted, onTrial: null });
      },
      restart: async () => {
        await Promise.resolve();
        this.restart();
      },
    };
  }

  #fencer(): FenceDevice {
    const silent = {
      kind: 'not-confirmed' as const,
      error: new FlotillaError('fence-timeout', 'The BMC does not answer', { hint: 'Is it there?' }),
    };
    return {
      off: async (device) => ((await this.#p.bmcOff(device.address)) ? { kind: 'confirmed-off' } : silent),
      on: async (device) => ((await this.#p.bmcOn(device.address)) ? { kind: 'confirmed-on' } : silent),
      status: async () => Promise.resolve({ kind: 'answers', power: 'on' }),
      identify: async () => Promise.resolve({ kind: 'answers', uuid: null }),
    };
  }

  #link(): KeeperOfAgent {
    const silent = (): FlotillaError =>
      new FlotillaError('not-armable', "This node's keeper does not answer", { hint: 'It comes back.' });
    /** A question to a keeper that dies is answered by the connection's end. */
    const ask = async <T>(question: (k: Keeper) => Promise<T> | T): Promise<T> => {
      const core = this.#keeperCore;
      const process = this.keeper;
      if (core === null || process === null) throw silent();
      let stop = (): void => undefined;
      const gone = new Promise<never>((_, reject) => {
        const listener = (): void => {
          if (this.keeper !== process) reject(silent());
        };
        this.#listeners.add(listener);
        const limit = this.#p.time.after(this.#p.agentTiming.renewalGoodMs * 2, () => reject(silent()));
        stop = () => {
          this.#listeners.delete(listener);
          limit();
        };
      });
      try {
        return await Promise.race([
          new Promise<T>((resolve, reject) =>
            process.enter(() => void Promise.resolve(question(core)).then(resolve, reject)),
          ),
          gone,
        ]);
      } finally {
        stop();
      }
    };
    return {
      state: () => this.keeperState,
      onChange: (listener) => {
        this.#listeners.add(listener);
        return () => void this.#listeners.delete(listener);
      },
      arm: (vm, o) =>
        ask((k) => {
          if (this.armsNothing)
            throw new FlotillaError('not-armable', 'Its record cannot be written', { hint: 'Make room.' });
          return k.arm(vm, o);
        }),
      disarm: (vm) => ask((k) => k.disarm(vm)),
      holds: (vm) => ask((k) => k.holds(vm)),
    };
  }

  #hypervisor(process: Process): AgentEnv['hypervisor'] {
    const real = fakeHypervisor(this.host.libvirt, () => process.alive);
    const guarded = process.guard(real);
    return new Proxy(real, {
      get: (target, key) => {
        // A generator: each of its steps is an answer.
        if (key === 'events')
          return async function* (signal?: AbortSignal) {
            for await (const e of target.events(signal))
              yield await new Promise<typeof e>((resolve) => process.enter(() => resolve(e)));
          };
        return (guarded as unknown as Record<string | symbol, unknown>)[key];
      },
    });
  }

  #volumes(): Volumes {
    const { pool, copies } = this.#p;
    const no = (): never => {
      throw new Error('the simulated volumes do not know this call');
    };
    const reach = (): void => {
      if (pool.unreachable.has(this.id))
        throw new FlotillaError('pool-unavailable', 'The pool "shared" does not answer', {
          hint: 'Look at its server.',
        });
    };
    return {
      probe: async (p) => {
        const ok = p.kind === 'thin' || !pool.unreachable.has(this.id);
        return { pool: p.id, totalBytes: 1e12, freeBytes: 5e11, ok, text: ok ? '' : 'it does not answer' };
      },
      makeDisk: async (d) => {
        reach();
        await Promise.resolve();
        if (d.source.kind === 'snapshot' && !pool.snapshots.has(d.source.volume))
          throw new Error(`the snapshot of disk ${d.id} is not there`);
        pool.disks.set(d.id, d.sizeBytes);
      },
      openDisk: async () => undefined,
      openCopy: async (disk, _pool, format) => {
        if (copies === null || copies.holds(this.id, disk.vm)) return;
        if (format === null) throw new FlotillaError('not-found', 'the volume is not there', { hint: '' });
        await format();
      },
      fillDisk: no,
      takeSnapshot: async (d, _, v) => {
        reach();
        await Promise.resolve();
        if (!pool.disks.has(d.id)) throw new Error(`there is no disk ${d.id} to snapshot`);
        pool.snapshots.set(v.id, d.id);
        return d.sizeBytes;
      },
      snapshotDraft: no,
      keepDraft: no,
      fitDisk: async () => undefined,
      removeSnapshot: async (v) => {
        reach();
        await Promise.resolve();
        pool.snapshots.delete(v.id);
      },
      growDisk: async (d) => {
        reach();
        await Promise.resolve();
        pool.disks.set(d.id, d.sizeBytes);
      },
      removeDisk: async (d, p) => {
        if (p.kind === 'thin') return copies?.remove(this.id, d.vm);
        if (p.kind === 'local') return this.#p.lockstep?.wiped(this.id, d.vm);
        reach();
        await Promise.resolve();
        pool.disks.delete(d.id);
      },
      diskPath: (d, p) => `${p.path}/disks/${d.id}.${d.format}`,
      imagePath: (i, p) => `${p.path}/images/${i.id}.${i.format}`,
      takeoverPath: (vm, p) => `${p.path}/takeover/${vm}.json`,
      recordTakeover: async (p, t) => {
        reach();
        await Promise.resolve();
        pool.takeovers.set(`${p.path}/takeover/${t.vm}.json`, JSON.stringify(t));
      },
      copyDisk: no,
      importImage: no,
      removeImage: no,
      haveImage: async (i, p) => Promise.resolve(`${p.path}/images/${i.id}`),
      uploadOffset: no,
      upload: no,
      sweep: async () => [],
    };
  }
}

/** A later release writes a field that this one does not know, and every one since must keep it. @see safety 10 */
function nextSchema(l: SimLedger): Ledger {
  const txn: Ledger['txn'] = (compare, writes) =>
    l.txn(
      compare,
      writes.map((w) =>
        'put' in w && kinds.vmOwn.idOf(w.put) !== null
          ? { ...w, value: JSON.stringify({ ...(JSON.parse(w.value) as object), later: { is: 2 } }) }
          : w,
      ),
    );
  return new Proxy<Ledger>(l, {
    get: (target, key) => {
      if (key === 'txn') return txn;
      const value = (target as unknown as Record<string | symbol, unknown>)[key];
      return typeof value === 'function' ? (value as (...a: unknown[]) => unknown).bind(target) : value;
    },
  });
}
