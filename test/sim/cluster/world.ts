import type { KeeperEnv } from '../../../agent/keeper/env.js';
import type { Ledger } from '../../../agent/ledger/ledger.js';
import { bulkAtOnce, type BulkAction, type BulkArgs, type BulkVm } from '../../../core/domain/bulk.js';
import { drainArgs } from '../../../core/domain/drain.js';
import type { NodeRecord } from '../../../core/domain/node.js';
import { policyDefault, vmHaDefault, type Policy } from '../../../core/domain/ha.js';
import type { Op, OpKind } from '../../../core/domain/op.js';
import { timingProfiles, type TimingProfile } from '../../../core/domain/timing.js';
import type { Image } from '../../../core/domain/image.js';
import type { RollingArgs } from '../../../core/domain/rolling.js';
import type { Replica } from '../../../core/domain/replica.js';
import { firstOwn } from '../../../core/decide/vm-make.js';
import type { Template } from '../../../core/domain/template.js';
import type { ServiceClass } from '../../../core/domain/service-class.js';
import type { LockstepAsk } from '../../../core/wire/lockstep.js';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VmOwn, VmSpec } from '../../../core/domain/vm.js';
import { epochKey, ledger as kinds, policyKey, unique, writeRecord } from '../../../core/wire/ledger-keys.js';
import { fakePeer } from '../fake-migration.js';
import { RadioHub } from '../memory-radio.js';
import { Checks } from './checks.js';
import { SimCopies } from './copies.js';
import { SimLockstep } from './lockstep.js';
import { SharedPool, type HostRules } from './host.js';
import { SimVoters } from './ledger.js';
import type { Trouble } from './faults.js';
import { SimNetwork } from './net.js';
import { ClusterNode, bootMs } from './node.js';
import { Rng } from './rng.js';
import { SimTime } from './time.js';

/** Pace of radios and checkers, ms. */
const tickMs = 250;

export interface WorldOptions {
  readonly seed: number;
  readonly nodes: number;
  /** Nodes that vote; by default the first three. */
  readonly voters?: number;
  readonly agentTiming?: Partial<TimingProfile>;
  readonly keeperTiming?: Partial<TimingProfile>;
  readonly rules?: Partial<HostRules>;
  readonly agentLedger?: (l: Ledger, node: string) => Ledger;
  readonly keeperLedger?: (l: KeeperEnv['ledger'], node: string) => KeeperEnv['ledger'];
  /** Nodes have BMCs that power them off. */
  readonly bmc?: boolean;
  /** How long a dead node's image locks live on, ms; null: the pool has no locks at all. */
  readonly locks?: number | null;
  /** QEMU takes its time to come to life, as it does. */
  readonly slowStarts?: boolean;
  /** VMs may have disks on two nodes. */
  readonly copies?: boolean;
  /** VMs may be in lockstep. */
  readonly lockstep?: boolean;
  /** Keeps the log; without it only counts. */
  readonly log?: boolean;
}

/** A whole simulated cluster. */
export class World {
  readonly time = new SimTime();
  readonly rng: Rng;
  readonly net: SimNetwork;
  readonly voters: SimVoters;
  readonly hub: RadioHub;
  readonly pool = new SharedPool();
  readonly copies: SimCopies | null;
  readonly lockstep: SimLockstep | null;
  /** Nodes between which blocks do not travel; and whether they have a network of their own for them. */
  readonly storage = { cut: false, own: false };
  readonly nodes = new Map<string, ClusterNode>();
  readonly checks: Checks;
  readonly lines: string[] = [];
  /** VMs by name. */
  readonly vms = new Map<string, string>();
  readonly names = new Map<string, string>();
  /** F of all nodes. */
  readonly fenceWaitMs: number;
  readonly standbyGraceMs: number;
  readonly #poolId: string;
  readonly #drivesId: string;
  readonly #localId: string;
  readonly #keepLog: boolean;

  constructor(o: WorldOptions) {
    this.rng = new Rng(o.seed);
    this.#keepLog = o.log === true;
    const ids = Array.from({ length: o.nodes }, (_, i) => `n${i + 1}`);
    const { time, rng } = this;
    this.net = new SimNetwork(ids);
    this.voters = new SimVoters({ voters: ids.slice(0, o.voters ?? 3), time, net: this.net, rng });
    this.hub = new RadioHub({
      cluster: 'sim',
      clock: { nowMs: () => time.nowMs, wallMs: () => this.wallMs },
    });
    this.net.onChange = () => this.#networkChanged();
    this.copies =
      o.copies !== true
        ? null
        : new SimCopies({
            time,
            uuid: () => rng.uuid(),
            chance: () => rng.below(1_000) / 1_000,
            powered: (n) => this.node(n).host.powered,
            reaches: (a, b) => !this.storage.cut && (this.storage.own || this.#bothWays(a, b)),
            executes: (n, vm) => this.node(n).host.executes(vm),
            holds: (n, vm) => this.node(n).host.exists(vm),
            report: (promise, text) => this.checks.report(promise, text),
            stale: (vm, n) => this.own(vm)?.copies.find((c) => c.node === n)?.state === 'stale',
            say: (text) => this.say(text),
          });
    this.lockstep =
      o.lockstep !== true
        ? null
        : new SimLockstep({
            time,
            host: (n) => this.node(n).host,
            // The way of the pairs is that of the certificates' addresses.
            reaches: (a, b) => this.net.both(a, b),
            own: (vm) => this.own(vm),
            report: (promise, text) => this.checks.report(promise, text),
            changed: () => (this.checks.dirty = true),
            say: (text) => this.say(text),
          });
    this.#poolId = rng.uuid();
    this.#localId = o.lockstep === true ? rng.uuid() : '';
    this.#drivesId = o.copies === true ? rng.uuid() : '';
    const found = {
      schema: 1 as const,
      id: rng.uuid(),
      name: 'sim',
      epoch: 1,
      ca: 'none',
      foundedMs: 0,
      founder: 'n1',
    };
    this.voters.store.found(
      found,
      ids.map((id, i): NodeRecord => ({
        id,
        addresses: [`10.0.0.${i + 1}`],
        voter: this.voters.voters.includes(id),
        desired: 'active',
        rack: null,
        witness: false,
        fingerprint: '0'.repeat(64),
        joinedMs: i,
      })),
    );
    this.voters.store.poke(
      kinds.pool.key(this.#poolId),
      writeRecord(kinds.pool, {
        id: this.#poolId,
        name: 'shared',
        kind: 'shared',
        path: this.pool.path,
        nodes: null,
        reservePct: 5,
      }),
    );
    if (o.copies === true)
      this.voters.store.poke(
        kinds.pool.key(this.#drivesId),
        writeRecord(kinds.pool, {
          id: this.#drivesId,
          name: 'drives',
          kind: 'thin',
          path: '/dev/flotilla-drives',
          nodes: null,
          reservePct: 5,
        }),
      );
    if (o.lockstep === true)
      this.voters.store.poke(
        kinds.pool.key(this.#localId),
        writeRecord(kinds.pool, {
          id: this.#localId,
          name: 'local',
          kind: 'local',
          path: '/srv/local',
          nodes: null,
          reservePct: 5,
        }),
      );
    this.pool.enforcesLocks = o.locks !== null;
    const production = timingProfiles.production;
    this.fenceWaitMs = production.fenceWaitMs;
    this.standbyGraceMs = production.standbyGraceMs;
    for (const id of ids) {
      const node = new ClusterNode(id, {
        time,
        rng,
        voters: this.voters,
        hub: this.hub,
        pool: this.pool,
        nodes: ids,
        copies: this.copies,
        lockstep: this.lockstep,
        askPeer: (from, to, address, ask, signal) => this.#askPeer(from, to, address, ask, signal),
        knock: (from, to, address, signal) => this.#knock(from, to, address, signal),
        agentTiming: { ...production, ...o.agentTiming },
        keeperTiming: { ...production, ...o.keeperTiming },
        power: (n, on) => {
          if (on) this.hub.startBroker(n);
          else this.hub.stopBroker(n);
          if (!on) this.copies?.powerOff(n);
          this.net.power(n, on);
        },
        peer: (from, address) => {
          const to = `n${address.split('.')[3] ?? ''}`;
          const on = (n: string): boolean => this.node(n).host.powered;
          return fakePeer(
            this.node(to).host.libvirt,
            () => on(from) && on(to) && this.net.reaches(from, to) && this.net.reaches(to, from),
          );
        },
        say: (n, text) => this.say(`${n} ${text}`),
        bmc: o.bmc === true,
        bmcOff: (address) => this.#bmcOff(address),
        bmcOn: (address) => this.#bmcOn(address),
        heard: (n, who, text, fields) => this.checks.heard(n, who, text, fields),
        renewed: (n, goodMs, aliveMs) => this.checks.rules.renewed(n, goodMs, aliveMs),
        agentLedger: o.agentLedger ?? ((l) => l),
        keeperLedger: o.keeperLedger ?? ((l) => l),
      });
      Object.assign(node.host.rules, o.rules ?? {});
      node.host.lockLeaseMs = o.locks ?? 0;
      node.host.twins = () => this.lockstep?.twins(id) ?? [];
      node.host.killTwin = (vm) => this.lockstep?.killTwin(id, vm) === true;
      node.host.holdsOutput = (vm) => this.lockstep?.holdsOutput(id, vm) === true;
      node.host.opensCopy = (vm) => {
        if (this.lockstep?.has(vm) === true) {
          this.lockstep.opens(id, vm);
          return true;
        }
        if (this.copies?.has(vm) !== true) return false;
        this.copies.open(id, vm);
        return true;
      };
      if (o.slowStarts === true) node.host.libvirt.startMs = () => rng.between(200, 900);
      if (o.bmc === true) this.#giveBmc(id);
      this.nodes.set(id, node);
    }
    this.checks = new Checks(this);
    for (const n of this.nodes.values()) n.host.onChange = () => (this.checks.dirty = true);
    time.afterStep = () => {
      this.#followMembers();
      this.checks.afterStep();
    };
    const tick = (): void => {
      this.hub.tick();
      this.checks.tick();
      time.after(tickMs, tick);
    };
    tick();
  }

  node(id: string): ClusterNode {
    const n = this.nodes.get(id);
    if (n === undefined) throw new Error(`there is no node ${id}`);
    return n;
  }

  say(text: string): void {
    if (this.#keepLog) {
      let line = text;
      for (const [id, name] of this.names) line = line.replaceAll(id, name);
      this.lines.push(`${(this.time.nowMs / 1000).toFixed(2)} ${line}`);
    }
  }

  #networkChanged(): void {
    this.hub.heal();
    for (const a of this.net.nodes)
      for (const b of this.net.nodes) if (!this.net.reaches(b, a)) this.hub.cut(a, b);
    this.voters.changed();
  }

  /** What one agent asks another: lost where the network is cut, refused where nobody listens. */
  async #askPeer(
    from: string,
    to: string,
    address: string,
    ask: LockstepAsk,
    signal: AbortSignal,
  ): Promise<unknown> {
    const silence = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    });
    const way = async (a: string, b: string): Promise<void> => {
      if (!(await this.#way(a, b, address))) await silence;
    };
    const answer = (async () => {
      await way(from, to);
      const said = await this.node(to).lockstepAsked(from, ask);
      await way(to, from);
      return structuredClone(said);
    })();
    answer.catch(() => undefined);
    silence.catch(() => undefined);
    return Promise.race([answer, silence]);
  }

  /** A packet, on the network of that address. @returns whether it comes to somebody who lives */
  async #way(a: string, b: string, address: string): Promise<boolean> {
    const net = address.startsWith('10.9.') ? 'storage' : 'management';
    await new Promise<void>((resolve) => this.time.after(2, resolve));
    return this.net.reaches(a, b, net) && !this.node(b).host.stalled;
  }

  /** The kernel of a node answers, whatever its programs do. */
  async #knock(from: string, to: string, address: string, signal: AbortSignal): Promise<boolean> {
    if (
      (await this.#way(from, to, address)) &&
      this.node(to).host.powered &&
      (await this.#way(to, from, address))
    )
      return true;
    return new Promise((resolve) => {
      if (signal.aborted) resolve(false);
      else signal.addEventListener('abort', () => resolve(false), { once: true });
    });
  }

  /** Every node on, every program started. */
  boot(): void {
    for (const n of this.nodes.values()) n.powerOn();
  }

  #giveBmc(id: string): void {
    const device = { kind: 'ipmi', address: `bmc-${id}`, user: 'admin', password: 'secret' };
    this.voters.store.poke(kinds.bmc.key(id), writeRecord(kinds.bmc, kinds.bmc.schema.parse(device)));
  }

  /** False: BMCs do not answer. */
  bmcAnswers = true;

  async #bmcOff(address: string): Promise<boolean> {
    const id = address.replace(/^bmc-/, '');
    await new Promise<void>((resolve) => this.time.after(this.rng.between(1_000, 6_000), resolve));
    if (!this.bmcAnswers) return false;
    this.say(`BMC powers ${id} off`);
    this.checks.struck(id);
    this.node(id).powerLoss();
    this.proven.add(id);
    // A person who has mended everything switches on again what an order under way still switched off.
    if (this.mended) this.time.after(20_000, () => this.node(id).powerOn());
    await new Promise<void>((resolve) => this.time.after(this.rng.between(200, 2_000), resolve));
    // Somebody may have switched it on again meanwhile: then the BMC says so.
    return !this.node(id).host.powered;
  }

  /** Nodes that do not start when their power comes on. */
  readonly broken = new Set<string>();

  async #bmcOn(address: string): Promise<boolean> {
    const id = address.replace(/^bmc-/, '');
    await new Promise<void>((resolve) => this.time.after(this.rng.between(1_000, 6_000), resolve));
    if (!this.bmcAnswers) return false;
    this.say(`BMC powers ${id} on`);
    if (!this.broken.has(id))
      this.time.after(bootMs, () => {
        if (!this.node(id).host.powered) this.node(id).powerOn();
      });
    return true;
  }

  /** A BMC that was tried, and that says that it is the node's own. */
  bmcTried(id: string): void {
    const result = { by: 'n1', atMs: this.wallMs, power: 'on' as const, machine: 'same' as const, text: '' };
    const test = { node: id, askedMs: this.wallMs, askedBy: 'somebody', result };
    this.voters.store.poke(kinds.bmcTest.key(id), writeRecord(kinds.bmcTest, test));
  }

  /** Puts a node to sleep, or wakes it. @returns the op */
  power(does: 'sleep' | 'wake', node: string): string {
    return this.#ask(`node.${does}`, node, { node }, 'node');
  }

  /** A person looks: the node is off; and says so. */
  confirmOff(id: string): void {
    if (this.node(id).host.powered) throw new Error(`${id} is not off`);
    const { store } = this.voters;
    const seenRevision = String(store.peek(kinds.seen.key(id))?.modRevision ?? 0n);
    this.proven.add(id);
    this.say(`somebody confirms that ${id} is off`);
    store.poke(
      kinds.fenced.key(id),
      writeRecord(kinds.fenced, {
        node: id,
        seenRevision,
        how: 'person',
        by: 'somebody',
        atMs: this.wallMs,
      }),
    );
  }

  /** Wall clock of whoever's clock is right. */
  get wallMs(): number {
    return this.time.nowMs + 1_700_000_000_000;
  }

  /** The epoch of the ledger now. */
  get epoch(): number {
    return Number(this.voters.store.peek(epochKey)?.value);
  }

  /** Lets go of everything: nothing moves any more. */
  end(): void {
    for (const n of this.nodes.values()) {
      n.agent?.kill();
      n.keeper?.kill();
    }
    this.voters.store.close();
  }

  /** All faults are over, for good. */
  mended = false;

  /** Faults so far, the oldest first. */
  readonly faults: Trouble[] = [];

  /** Those that last, or ended at most so long ago. */
  troubles(withinMs: number): Trouble[] {
    const { nowMs } = this.time;
    return this.faults.filter((f) => f.untilMs + withinMs >= nowMs);
  }

  /** Lets time pass. */
  pass(ms: number): Promise<void> {
    return this.time.run(this.time.nowMs + ms);
  }

  /** Lets time pass until it holds. @throws Error after `limitMs` */
  async until(what: string, holds: () => boolean, limitMs = 60_000): Promise<void> {
    const end = this.time.nowMs + limitMs;
    while (!holds()) {
      if (this.time.nowMs >= end) throw new Error(`not within ${limitMs} ms: ${what}`);
      await this.pass(100);
    }
  }

  reboot(id: string, offMs = 0): void {
    this.node(id).powerLoss();
    this.time.after(offMs + bootMs, () => this.node(id).powerOn());
  }

  /* ---- what users do: written as the API does ---------------------------------------------------- */

  /** A VM with its disk made already, off. */
  createVm(
    name: string,
    owner: string,
    o: Partial<VmSpec> = {},
    copy: string | null = null,
    local = false,
  ): string {
    const id = this.rng.uuid();
    const disk = this.rng.uuid();
    const { store } = this.voters;
    this.vms.set(name, id);
    this.names.set(id, name);
    this.pool.disks.set(disk, 2 ** 30);
    store.poke(
      kinds.disk.key(disk),
      writeRecord(kinds.disk, {
        id: disk,
        name: 'root',
        vm: id,
        pool: local ? this.#localId : copy === null ? this.#poolId : this.#drivesId,
        ...(copy === null ? {} : { replicas: 2 as const }),
        node: local ? owner : null,
        format: copy === null && !local ? 'qcow2' : 'raw',
        sizeBytes: 2 ** 30,
        madeBytes: 2 ** 30,
        source: { kind: 'blank' },
        state: 'ready',
        error: null,
      }),
    );
    const spec: VmSpec = {
      id,
      name,
      generation: 1,
      note: '',
      tags: [],
      cpus: 1,
      memoryMiB: 128,
      firmware: 'bios',
      boot: ['disk'],
      disks: [{ disk, bus: 'virtio' }],
      cdroms: [],
      nics: [],
      cloudInit: null,
      power: 'running',
      powerGeneration: 1,
      stopTimeoutS: 10,
      onCrash: 'restart',
      ...o,
      ha: { ...vmHaDefault, enabled: true, ...o.ha },
    };
    if (local) this.lockstep?.add(id, owner);
    if (copy !== null) this.#addCopies(id, disk, [owner, copy]);
    store.poke(unique.name('vm', name), id);
    store.poke(kinds.vmOwn.key(id), writeRecord(kinds.vmOwn, firstOwn(owner, copy)));
    store.poke(kinds.vmSpec.key(id), writeRecord(kinds.vmSpec, spec));
    return id;
  }

  /** A VM in lockstep, its disk on its node. */
  createLockstep(name: string, owner: string): string {
    return this.createVm(name, owner, { ha: { ...vmHaDefault, enabled: true, lockstep: true } }, null, true);
  }

  #bothWays(a: string, b: string): boolean {
    return this.net.reaches(a, b) && this.net.reaches(b, a);
  }

  #addCopies(vm: string, disk: string, nodes: readonly [string, string]): void {
    if (this.copies === null) throw new Error('this world has no disks on two nodes');
    const minor = 1_000 + this.vms.size;
    const replica: Replica = {
      vm,
      port: 7_800 + this.vms.size,
      secret: '0'.repeat(32),
      nodes: nodes.map((node) => ({ node, address: `10.0.0.${node.slice(1)}` })),
      volumes: [{ disk, volume: 0, minor, pool: this.#drivesId, below: '/dev/flotilla-drives/d' }],
    };
    this.voters.store.poke(kinds.replica.key(vm), writeRecord(kinds.replica, replica));
    this.copies.add(vm, minor, nodes);
  }

  /** @param text - another one than that in the ledger now */
  own(vm: string, text = this.voters.store.peek(kinds.vmOwn.key(vm))?.value): VmOwn | null {
    if (text === undefined) return null;
    try {
      return JSON.parse(text) as VmOwn;
    } catch {
      return null;
    }
  }

  spec(vm: string): VmSpec {
    const e = this.voters.store.peek(kinds.vmSpec.key(vm));
    if (e === null) throw new Error(`VM ${vm} has no spec`);
    return JSON.parse(e.value) as VmSpec;
  }

  edit(vm: string, patch: Partial<VmSpec>): void {
    const spec = this.spec(vm);
    const next = { ...spec, ...patch, generation: spec.generation + 1 };
    this.voters.store.poke(kinds.vmSpec.key(vm), writeRecord(kinds.vmSpec, next));
  }

  action(kind: 'start' | 'stop' | 'force-stop', vm: string): void {
    const g = this.spec(vm).generation + 1;
    this.edit(vm, { power: kind === 'start' ? 'running' : 'stopped', powerGeneration: g });
    this.#ask(`vm.${kind}`, vm);
  }

  /** A VM is deleted with all it has. */
  deleteVm(vm: string): void {
    this.copies?.delete(vm);
    this.#members.set(this.names.get(vm) ?? vm, vm);
    this.#ask('vm.delete', vm);
  }

  /** A wish to migrate it there; cancelled by {@link cancel}. @returns the op */
  migrate(vm: string, to: string): string {
    const policy = { bandwidthMiBps: null, onSlow: 'cancel' as const };
    return this.#ask('vm.migrate', vm, { from: this.own(vm)?.owner ?? to, to, policy });
  }

  /** Another second node for a VM with two copies. @returns the op */
  standby(vm: string, to: string | null, unprotected: boolean): string {
    const from = this.own(vm)?.copies[1]?.node ?? '';
    return this.#ask('vm.standby', vm, { from, to, unprotected });
  }

  /** A person says whose copy is thrown away. */
  discard(vm: string, node: string): string {
    return this.#ask('vm.repair', vm, { discard: node });
  }

  /** Both copies were written apart, and the ledger, restored from an older snapshot, calls both good. */
  splitBrain(vm: string, node: string): void {
    this.copies?.writeApart(node, vm);
    const own = this.own(vm);
    const copies = own?.copies.map((c) => ({ ...c, state: 'ok' }));
    this.voters.store.poke(kinds.vmOwn.key(vm), JSON.stringify({ ...own, copies, sync: 'stale' }));
  }

  removeNode(node: string): void {
    this.voters.store.drop(kinds.node.key(node));
  }

  /** Empties a node, or brings back what an operation took from it. @returns the op */
  drain(
    node: string,
    o: { readonly restart?: boolean; readonly leave?: boolean; readonly back?: string } = {},
  ): string {
    const vms = o.back === undefined ? [] : (drainArgs(this.op(o.back))?.vms ?? []);
    this.desired(node, o.back === undefined ? 'maintenance' : 'active');
    const args = { node, restart: o.restart === true, leave: o.leave === true, vms };
    return this.#ask(o.back === undefined ? 'node.drain' : 'node.return', node, args, 'node');
  }

  /** The same with many VMs. @returns the op */
  bulk(action: BulkAction, vms: readonly string[], o: Partial<BulkArgs> = {}): string {
    const lines = vms.map((vm): BulkVm => ({ vm, state: 'waiting', text: '' }));
    const args: BulkArgs = { action, atOnce: bulkAtOnce(action), to: null, vms: lines, ...o };
    return this.#ask('vm.bulk', this.rng.uuid(), args, 'cluster');
  }

  /** The same work on nodes in turn; without names on all. @returns the op */
  rolling(o: Partial<RollingArgs> = {}, nodes: readonly string[] = [...this.nodes.keys()]): string {
    const args: RollingArgs = {
      work: 'reboot',
      image: null,
      atOnce: 1,
      restart: false,
      bringBack: false,
      paused: false,
      nodes: nodes.map((node) => ({ node, state: 'waiting', text: '' })),
      ...o,
    };
    return this.#ask('cluster.rolling', this.rng.uuid(), args, 'cluster');
  }

  /** Changes what an operation of {@link rolling} was asked for. */
  rollingArgs(op: string, patch: Partial<RollingArgs>): void {
    const was = this.op(op);
    this.voters.store.poke(kinds.op.key(op), JSON.stringify({ ...was, args: { ...was.args, ...patch } }));
  }

  /** An image of the appliance in the catalogue. */
  appliance(): { readonly id: string; readonly name: string } {
    const id = this.rng.uuid();
    const image: Image = {
      ...{ id, name: 'flotilla-2', pool: this.#poolId, node: null, state: 'ready', format: 'iso' },
      ...{ expectedBytes: null, sizeBytes: 1, virtualSizeBytes: 1, sha256: 'ab'.repeat(32) },
      ...{ source: null, createdMs: 0, error: null },
    };
    this.voters.store.poke(kinds.image.key(id), writeRecord(kinds.image, image));
    return { id, name: image.name };
  }

  /** Members of vApps: VMs as soon as they are made, and until they are gone. */
  readonly #members = new Map<string, string>();
  #followMembers(): void {
    for (const [name, vm] of this.#members)
      if (this.voters.store.peek(kinds.vmSpec.key(vm)) === null) this.vms.delete(name);
      else this.vms.set(name, vm);
  }

  /** A vApp as the API writes it, with the operation that makes it. @returns the op */
  deployVapp(vapp: Vapp, start: boolean): string {
    const { store } = this.voters;
    for (const m of vapp.members) {
      this.#members.set(m.name, m.vm);
      this.names.set(m.vm, m.name);
    }
    store.poke(unique.name('vapp', vapp.name), vapp.id);
    store.poke(kinds.vapp.key(vapp.id), writeRecord(kinds.vapp, vapp));
    const copies = vapp.members.some((m) => m.from?.keep === false);
    return copies
      ? this.#ask('vapp.clone', vapp.id, { phase: 'snapshot', start }, 'vapp')
      : this.#ask('vapp.deploy', vapp.id, { phase: 'make', start }, 'vapp');
  }

  /** The pool in which disks of VMs lie that say nothing else. */
  get sharedPool(): string {
    return this.#poolId;
  }

  /** @returns the op */
  onVapp(
    kind: 'vapp.start' | 'vapp.stop' | 'vapp.suspend' | 'vapp.resume' | 'vapp.delete',
    vapp: string,
  ): string {
    return this.#ask(kind, vapp, { phase: kind.slice('vapp.'.length) }, 'vapp');
  }

  /** A template as the API writes it, with the operation that makes it. @returns the op */
  makeTemplate(template: Template): string {
    const { store } = this.voters;
    store.poke(unique.name('template', template.name), template.id);
    store.poke(kinds.template.key(template.id), writeRecord(kinds.template, template));
    return this.#ask('template.create', template.id, {}, 'template');
  }

  /** A class as the API writes it, with the operation by which its VMs follow. @returns the op */
  changeClass(cls: ServiceClass): string {
    this.voters.store.poke(kinds.class.key(cls.id), writeRecord(kinds.class, cls));
    return this.#ask('class.update', cls.id, {}, 'class');
  }

  cancel(op: string): void {
    this.voters.store.poke(kinds.op.key(op), JSON.stringify({ ...this.op(op), cancelAsked: true }));
  }

  op(id: string): Op {
    const e = this.voters.store.peek(kinds.op.key(id));
    if (e === null) throw new Error(`there is no op ${id}`);
    return JSON.parse(e.value) as Op;
  }

  /** All that the ledger has. */
  ops(): Op[] {
    return this.voters.store.peekAll(kinds.op.prefix).map((e) => JSON.parse(e.value) as Op);
  }

  /** An operation that is over, as many are after a while. */
  finishedOp(kind: OpKind, subject: string): void {
    const id = this.#ask(kind, subject);
    this.voters.store.poke(kinds.op.key(id), JSON.stringify({ ...this.op(id), state: 'done' }));
  }

  #ask(kind: OpKind, subject: string, args: Op['args'] = {}, of: Op['subject']['kind'] = 'vm'): string {
    const id = this.rng.uuid();
    const now = this.wallMs;
    const op: Op = {
      id,
      kind,
      subject: { kind: of, id: subject, name: this.names.get(subject) ?? subject },
      node: null,
      askedBy: 'somebody',
      args,
      state: 'queued',
      step: '',
      progress: null,
      cancelAsked: false,
      createdMs: now,
      updatedMs: now,
      error: null,
    };
    this.voters.store.poke(kinds.op.key(id), writeRecord(kinds.op, op));
    return id;
  }

  /** When the policy was last written. */
  policyMs = 0;
  policy(ha: Partial<Policy['ha']>, plan: Partial<Policy['plan']> = {}): void {
    this.policyMs = this.time.nowMs;
    const e = this.voters.store.peek(policyKey);
    const before = e === null ? null : (JSON.parse(e.value) as Policy);
    const next: Policy = {
      ...policyDefault,
      ha: { paused: false, hold: false, unsafeWithoutWatchdog: false, ...before?.ha, ...ha },
      plan: { ...policyDefault.plan, ...before?.plan, ...plan },
    };
    this.voters.store.poke(policyKey, JSON.stringify(next));
  }

  replaceAfter(replaceAfterMin: number): void {
    this.voters.store.poke(policyKey, JSON.stringify({ ...policyDefault, copies: { replaceAfterMin } }));
  }

  desired(node: string, desired: NodeRecord['desired']): void {
    this.#editNode(node, (n) => ({ ...n, desired }));
  }

  storageAddress(node: string): void {
    this.#editNode(node, (n) => ({ ...n, addresses: [n.addresses[0] ?? '', `10.9.0.${node.slice(1)}`] }));
  }

  #editNode(node: string, edit: (n: NodeRecord) => NodeRecord): void {
    const e = this.voters.store.peek(kinds.node.key(node));
    if (e === null) return;
    this.voters.store.poke(
      kinds.node.key(node),
      writeRecord(kinds.node, edit(JSON.parse(e.value) as NodeRecord)),
    );
  }

  /** Nodes proven off for the absence they are in: one that is switched on starts nothing before it has a live key. */
  readonly proven = new Set<string>();
  /** When a lease last ended too early, by a fault. */
  earlyExpiryMs = -Infinity;
  currentPolicy(): Policy['ha'] {
    const e = this.voters.store.peek(policyKey);
    return e === null ? policyDefault.ha : (JSON.parse(e.value) as Policy).ha;
  }

  /** Where a VM's guest runs now. */
  runsOn(vm: string): string[] {
    return [...this.nodes.values()].filter((n) => n.host.executes(vm)).map((n) => n.id);
  }
}
