import { randomUUID } from 'node:crypto';
import { AgentLoop } from '../../agent/loop.js';
import { ReplicaDesk } from '../../agent/replica/replica-desk.js';
import { Snapshots } from '../../agent/snapshot.js';
import { Turns } from '../../agent/vm/turns.js';
import type { FenceDevice } from '../../agent/fence/fence-agent.js';
import type {
  AgentEnv,
  Clock,
  HeardNode,
  Hold,
  PackedDisk,
  Radio,
  Volumes,
  WorkOptions,
} from '../../agent/env.js';
import { ledger as kinds, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import type { RadioKind, RadioPayload } from '../../core/wire/radio.js';
import { firstOwn } from '../../core/decide/vm-make.js';
import { newSnapshot } from '../../core/decide/vm-snapshot.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Disk } from '../../core/domain/disk.js';
import { groupPath, type Pool } from '../../core/domain/pool.js';
import { vmHaDefault, type JournalEntry, type Takeover } from '../../core/domain/ha.js';
import type { Image } from '../../core/domain/image.js';
import type { Op, OpKind } from '../../core/domain/op.js';
import { timingProfiles } from '../../core/domain/timing.js';
import type { VmOwn, VmSpec, VmState } from '../../core/domain/vm.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { FakeClock } from '../unit/agent/ledger/fake-clock.js';
import { FakeHost, fakeHypervisor } from './fake-hypervisor.js';
import { FakeKeeper } from './fake-keeper.js';
import { pairActs, type FakePairs } from './fake-pairs.js';
import { MemoryLedger } from './memory-ledger.js';

/** Files of a node's pools; they outlive agents. */
export class FakeFiles {
  readonly disks = new Map<string, number>();
  /** By volume. */
  readonly snapshots = new Map<string, number>();
  /** When each of them was cut, ms of the wall clock. */
  readonly cutMs = new Map<string, number>();
  /** Called when a disk is snapshotted: throw to refuse, look to check. */
  beforeSnapshot: (vm: string) => void = () => undefined;
  readonly log: string[] = [];
  /** Images whose file is here. */
  readonly images = new Set<string>();
  /** Takeover records by VM. */
  readonly takeovers = new Map<string, Takeover>();
  /** The pools answer writes. */
  poolsOk = true;
  /** A plain copy of a volume takes so long, ms. */
  copyMs = 4_000;
  /** Told when a plain copy is whole. */
  onCopy: (from: string, to: string) => void = () => undefined;
  /** Thrown by the next making of a disk. */
  failMake: Error | null = null;
  /** Volumes of the packages that were made, by op. */
  readonly packed = new Map<string, string[]>();
  /** What a package waits for before it is whole. */
  packing: () => Promise<void> = async () => undefined;
}

function fakeVolumes(files: FakeFiles, clock: Clock): Volumes {
  const no = (): never => {
    throw new Error('the fake volumes do not know this call');
  };
  return {
    probe: async (p) => ({ pool: p.id, totalBytes: 1e12, freeBytes: 5e11, ok: files.poolsOk, text: '' }),
    makeDisk: async (d) => {
      await Promise.resolve();
      if (files.failMake !== null) {
        const e = files.failMake;
        files.failMake = null;
        throw e;
      }
      files.log.push(`make ${d.name}`);
      files.disks.set(d.id, d.sizeBytes);
    },
    openDisk: async () => undefined,
    openCopy: no,
    fillDisk: no,
    takeSnapshot: async (d, _, v) => {
      await Promise.resolve();
      files.log.push(`snapshot ${d.name}`);
      files.beforeSnapshot(d.vm);
      // One that is there is that already.
      if (files.snapshots.has(v.id)) return d.sizeBytes;
      files.snapshots.set(v.id, files.disks.get(d.id) ?? 0);
      files.cutMs.set(v.id, clock.wallMs());
      return d.sizeBytes;
    },
    snapshotDraft: async (v, p) => `${p.path}/snapshots/.${v.id}.tmp`,
    keepDraft: async (v) => {
      files.snapshots.set(v.id, v.sizeBytes);
      return v.sizeBytes;
    },
    removeSnapshot: async (v) => void files.snapshots.delete(v.id),
    growDisk: async (d) => void files.disks.set(d.id, d.sizeBytes),
    fitDisk: async (d, _, bytes) => void files.disks.set(d.id, bytes),
    removeDisk: async (d) => void files.disks.delete(d.id),
    copyDisk: async (from, to, o) => {
      const { copyMs } = files;
      for (let i = 1; i <= 4; i++) {
        await clock.sleep(copyMs / 4, o.signal);
        o.progress(i / 4);
      }
      files.onCopy(from.path, to.path);
    },
    diskPath: (d, p) => `${p.path}/disks/${d.id}.${d.format}`,
    imagePath: (i, p) => `${p.path}/images/${i.id}.${i.format}`,
    importImage: no,
    removeImage: no,
    haveImage: async (i, p) => {
      if (files.images.has(i.id)) return `${p.path}/images/${i.id}.${i.format}`;
      throw new FlotillaError('node-unreachable', `Image "${i.name}" could not be fetched`, { hint: '' });
    },
    uploadOffset: no,
    upload: no,
    recordTakeover: async (_, r) => void files.takeovers.set(r.vm, r),
    takeoverPath: (vm, p) => `${p.path}/takeover/${vm}.json`,
    sweep: async () => [],
  };
}

/** How an agent dies in a test: at its n-th act, before or after the act has its effect. */
export interface Death {
  readonly at: number;
  readonly when: 'before' | 'after';
}

/**
 * One node in one process on a clock that tests move: the shipped agent loop over an in-memory ledger,
 * libvirt and pools, which outlive it.
 */
export class SimNode {
  readonly clock = new FakeClock();
  readonly ledger = new MemoryLedger(this.clock);
  readonly host = new FakeHost(this.clock);
  readonly files = new FakeFiles();
  /** Disks with two copies; null: the node has none. */
  pairs: FakePairs | null = null;
  /** Powers nodes off from outside; null: this node cannot. */
  fencer: FenceDevice | null = null;
  readonly keeper = new FakeKeeper();
  /** VMs that somebody holds off at this node. */
  readonly holds = new Map<string, Hold>();
  readonly journal: JournalEntry[] = [];
  /** What is heard of other nodes. */
  heard: HeardNode[] = [];
  /** What the agent says on the radio now. */
  readonly said = new Map<string, VmState>();
  readonly events: RadioPayload<'event'>[] = [];
  /** Acts of the present agent: calls with an effect outside. */
  acts = 0;
  death: Death | null = null;
  dead = false;
  /** Agents that died and were started again. */
  deaths = 0;
  loop: AgentLoop | null = null;
  /** Signs of life to the keeper. */
  beats = 0;
  #leaseOk = true;
  #liveRevision = 0n;
  readonly #poolId = randomUUID();
  readonly sharedId = randomUUID();
  readonly thinId = randomUUID();
  readonly node = 'n1';

  constructor() {
    this.ledger.found(
      {
        schema: 1,
        id: randomUUID(),
        name: 'sim',
        epoch: 1,
        ca: 'none',
        foundedMs: 0,
        founder: this.node,
      },
      [],
    );
    this.ledger.poke(
      kinds.pool.key(this.#poolId),
      writeRecord(kinds.pool, {
        id: this.#poolId,
        name: 'local',
        kind: 'local',
        path: '/pool',
        nodes: null,
        reservePct: 5,
      }),
    );
    this.ledger.poke(
      kinds.pool.key(this.sharedId),
      writeRecord(kinds.pool, {
        id: this.sharedId,
        name: 'share',
        kind: 'shared',
        path: '/share',
        nodes: null,
        reservePct: 5,
      }),
    );
    this.ledger.poke(
      kinds.pool.key(this.thinId),
      writeRecord(kinds.pool, {
        id: this.thinId,
        name: 'thin',
        kind: 'thin',
        path: groupPath(this.thinId),
        nodes: null,
        reservePct: 5,
        drives: [],
      }),
    );
    this.addNode(this.node);
    this.keeper.lease = this.ledger.grant(1_000_000);
    // Safety 1: while the ledger says that this node has a VM armed, its keeper has.
    this.keeper.onDisarm = (vm) => {
      const own = this.own(vm);
      if (own?.owner === this.node && own.fence.armed)
        throw new Error(`disarmed ${vm} before the ledger said so`);
    };
    // R1: a machine comes to life only while the ledger says that it runs here, in this generation.
    this.host.beforeStart = (uuid, gen) => {
      const own = this.own(uuid);
      if (own === null || own.owner !== this.node || own.state !== 'running' || own.gen !== gen) {
        throw new Error(`R1 broken: started ${uuid} gen ${gen} against ${JSON.stringify(own)}`);
      }
      if (own.fence.armed && !this.keeper.armed.has(uuid))
        throw new Error(`started ${uuid} armed for the ledger only`);
      const last = this.journal.findLast((e) => e.vm === uuid);
      if (last?.gen !== gen) throw new Error(`started ${uuid} gen ${gen} before the journal had it`);
    };
  }

  /** A node that the ledger knows. */
  addNode(id: string): void {
    this.ledger.poke(
      kinds.node.key(id),
      writeRecord(kinds.node, {
        id,
        addresses: [`10.0.0.${id.slice(1)}`],
        voter: true,
        desired: 'active',
        rack: null,
        witness: false,
        fingerprint: '0'.repeat(64),
        joinedMs: 0,
      }),
    );
  }

  /** Another node comes (back) to life: its keeper's transaction, and what its agent says. */
  peerUp(id: string): void {
    if (this.ledger.peek(kinds.node.key(id)) === null) this.addNode(id);
    this.ledger.poke(kinds.seen.key(id), JSON.stringify({ node: id, boot: randomUUID() }));
    this.ledger.poke(kinds.live.key(id), JSON.stringify({ node: id, boot: randomUUID(), version: '0' }));
    this.heard = [...this.heard.filter((h) => h.node !== id), this.#line(id)];
  }

  /** It is gone: its lease has ended and its beats have. */
  async peerDown(id: string): Promise<void> {
    this.heard = this.heard.filter((h) => h.node !== id);
    this.ledger.drop(kinds.live.key(id));
    await this.clock.advance(0);
  }

  #line(id: string): HeardNode {
    return {
      node: id,
      beatAgeMs: 100,
      stateAgeMs: 100,
      state: {
        node: id,
        boot: 'b',
        seq: 1,
        version: '0',
        atMs: 0,
        upSinceMs: 0,
        accel: 'tcg',
        qemu: null,
        libvirt: null,
        cpus: 4,
        cpuUsedPct: 0,
        memoryBytes: 8e9,
        memoryUsedBytes: 1e9,
        loadAvg1: 0,
        pools: [{ pool: this.sharedId, totalBytes: 1e12, freeBytes: 5e11, ok: true, text: '', ageMs: 100 }],
        health: [],
        hears: {},
        refused: {},
        facts: null,
        keeper: { mode: 'run', armable: true, why: '', watchdog: 'hardware', armed: 0, held: [], text: '' },
      },
      vms: new Map(),
      agentGone: false,
      connected: true,
      events: [],
    };
  }

  own(id: string): VmOwn | null {
    const e = this.ledger.peek(kinds.vmOwn.key(id));
    return e === null ? null : (JSON.parse(e.value) as VmOwn);
  }

  spec(id: string): VmSpec | null {
    const e = this.ledger.peek(kinds.vmSpec.key(id));
    return e === null ? null : (JSON.parse(e.value) as VmSpec);
  }

  op(id: string): Op {
    const e = this.ledger.peek(kinds.op.key(id));
    if (e === null) throw new Error(`no op ${id}`);
    return JSON.parse(e.value) as Op;
  }

  /** The lease of the node is lost or regained. */
  set leased(ok: boolean) {
    this.#leaseOk = ok;
  }

  /** Starts an agent as systemd would: a new boot of it, over what is there. */
  boot(death: Death | null = null): void {
    this.acts = 0;
    this.host.bytesAt = (path) => {
      const minor = /^\/dev\/drbd(\d+)$/.exec(path)?.[1];
      if (minor !== undefined) return this.pairs?.deviceBytes(Number(minor)) ?? null;
      return this.files.disks.get(/[0-9a-f-]{36}/.exec(path)?.[0] ?? '') ?? null;
    };
    this.death = death;
    this.dead = false;
    this.ledger.poke(
      kinds.live.key(this.node),
      JSON.stringify({ node: this.node, boot: randomUUID(), version: '0' }),
    );
    this.#liveRevision = this.ledger.peek(kinds.live.key(this.node))?.createRevision ?? 0n;
    this.loop = new AgentLoop(this.#env(), undefined, undefined, () => void this.beats++);
    this.loop.start();
  }

  /** Ends the agent in order. */
  async stop(): Promise<void> {
    const ended = this.loop?.stop();
    await this.clock.advance(6_000);
    await ended;
    this.loop = null;
    this.ledger.close();
  }

  /**
   * Lets time pass until it holds.
   *
   * @throws Error after `limitMs` of simulated time
   */
  async until(what: string, holds: () => boolean, limitMs = 120_000): Promise<void> {
    const end = this.clock.nowMs() + limitMs;
    while (!holds()) {
      if (this.clock.nowMs() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
      await this.clock.advance(100);
    }
  }

  /** As {@link until}; an agent that has died meanwhile is started again. */
  untilOutlived(what: string, holds: () => boolean): Promise<void> {
    return this.until(what, () => {
      if (this.dead) {
        this.deaths++;
        void this.loop?.stop(); // a dead process: its calls never answer
        this.boot();
      }
      return holds();
    });
  }

  /** What the API writes when a VM is created. */
  createVm(
    o: Partial<VmSpec> = {},
    at: { shared?: boolean; thin?: boolean; own?: Partial<VmOwn> } = {},
  ): { id: string; op: string; disk: string } {
    const id = randomUUID();
    const diskId = randomUUID();
    const disk: Disk = {
      id: diskId,
      name: 'root',
      vm: id,
      pool: at.shared === true ? this.sharedId : at.thin === true ? this.thinId : this.#poolId,
      node: at.shared === true ? null : this.node,
      format: at.thin === true ? 'raw' : 'qcow2',
      sizeBytes: 2 ** 30,
      madeBytes: 0,
      source: { kind: 'blank' },
      state: at.own === undefined ? 'wanted' : 'ready',
      error: null,
    };
    if (at.own !== undefined) disk.madeBytes = disk.sizeBytes;
    const spec: VmSpec = {
      id,
      name: `vm-${id.slice(0, 4)}`,
      generation: 1,
      note: '',
      tags: [],
      cpus: 1,
      memoryMiB: 128,
      firmware: 'bios',
      boot: ['disk'],
      disks: [{ disk: diskId, bus: 'virtio' }],
      cdroms: [],
      nics: [],
      cloudInit: null,
      power: 'running',
      powerGeneration: 1,
      stopTimeoutS: 30,
      onCrash: 'restart',
      ha: vmHaDefault,
      ...o,
    };
    const own: VmOwn = { ...firstOwn(this.node, null), ...at.own };
    this.ledger.poke(kinds.disk.key(diskId), writeRecord(kinds.disk, disk));
    this.ledger.poke(unique.name('vm', spec.name), id);
    this.ledger.poke(kinds.vmOwn.key(id), writeRecord(kinds.vmOwn, own));
    this.ledger.poke(kinds.vmSpec.key(id), writeRecord(kinds.vmSpec, spec));
    return { id, disk: diskId, op: this.ask('vm.create', id) };
  }

  /** An ISO image whose only file is in the local pool of that node. */
  createIso(node: string): string {
    const id = randomUUID();
    const image: Image = {
      id,
      name: `iso-${id.slice(0, 4)}`,
      pool: this.#poolId,
      node,
      state: 'ready',
      format: 'iso',
      expectedBytes: null,
      sizeBytes: 1,
      virtualSizeBytes: 1,
      sha256: null,
      source: null,
      createdMs: 0,
      error: null,
    };
    this.ledger.poke(kinds.image.key(id), writeRecord(kinds.image, image));
    return id;
  }

  /** What the API writes for an edit. */
  edit(id: string, patch: Partial<VmSpec>): void {
    const spec = this.spec(id);
    if (spec === null) throw new Error('no such VM');
    this.ledger.poke(
      kinds.vmSpec.key(id),
      writeRecord(kinds.vmSpec, { ...spec, ...patch, generation: spec.generation + 1 }),
    );
  }

  /** What the API writes for an action: the power that goes with it, and the op. */
  action(
    kind: 'start' | 'stop' | 'force-stop' | 'pause' | 'resume' | 'reboot' | 'reset',
    id: string,
  ): string {
    const spec = this.spec(id);
    if (spec === null) throw new Error('no such VM');
    const g = spec.generation + 1;
    if (kind === 'start') this.edit(id, { power: 'running', powerGeneration: g });
    if (kind === 'stop' || kind === 'force-stop') this.edit(id, { power: 'stopped', powerGeneration: g });
    if (kind === 'pause') this.edit(id, { power: 'paused' });
    if (kind === 'resume') this.edit(id, { power: 'running' });
    return this.ask(`vm.${kind}`, id);
  }

  disks(vm: string): Disk[] {
    return this.ledger
      .peekAll(kinds.disk.prefix)
      .map((e) => JSON.parse(e.value) as Disk)
      .filter((d) => d.vm === vm);
  }

  snapshotsOf(vm: string): VmSnapshot[] {
    return this.ledger
      .peekAll(kinds.vmSnapshot.prefix)
      .map((e) => JSON.parse(e.value) as VmSnapshot)
      .filter((x) => x.vm === vm);
  }

  /** What the API writes when a snapshot is asked for. */
  snapshot(
    vm: string,
    name: string,
    consistency: 'auto' | 'crash' | 'filesystem' = 'auto',
  ): { id: string; op: string } {
    const x = this.wanted(vm, name, consistency);
    return { id: x, op: this.ask('vm.snapshot', vm, { node: this.node, args: { snapshot: x } }) };
  }

  deleteSnapshot(x: VmSnapshot): void {
    this.ledger.poke(kinds.vmSnapshot.key(x.id), writeRecord(kinds.vmSnapshot, { ...x, state: 'deleting' }));
  }

  /** Asks for a package, of a snapshot that is taken for it. */
  export(vm: string): { op: string; volumes: string[] } {
    const snapshot = this.wanted(vm, 'export');
    const args = { snapshot, before: null, taken: false };
    const op = this.ask('vm.export', vm, { node: this.node, args });
    const x = this.snapshotsOf(vm).find((y) => y.id === snapshot);
    if (x === undefined) throw new Error('no snapshot');
    this.ledger.poke(kinds.vmSnapshot.key(x.id), writeRecord(kinds.vmSnapshot, { ...x, forOp: op }));
    return { op, volumes: x.disks.map((d) => d.id) };
  }

  /** The record of a snapshot that an op is to take. */
  wanted(vm: string, name: string, consistency: 'auto' | 'crash' | 'filesystem' = 'auto'): string {
    const spec = this.spec(vm);
    const own = this.own(vm);
    if (spec === null || own === null) throw new Error('no such VM');
    const pools = this.ledger.peekAll(kinds.pool.prefix).map((e) => JSON.parse(e.value) as Pool);
    const x = newSnapshot(
      {
        spec,
        own,
        disks: this.disks(vm),
        pool: (id) => pools.find((p) => p.id === id),
        snapshots: this.snapshotsOf(vm),
      },
      {
        id: randomUUID(),
        name,
        note: '',
        consistency,
        keptFor: [],
        nowMs: this.clock.wallMs(),
        newId: () => randomUUID(),
      },
    );
    this.ledger.poke(kinds.vmSnapshot.key(x.id), writeRecord(kinds.vmSnapshot, x));
    return x.id;
  }

  ask(kind: OpKind, subject: string, o: { node?: string; args?: Op['args'] } = {}): string {
    const id = randomUUID();
    const now = this.clock.wallMs();
    const op: Op = {
      id,
      kind,
      subject: { kind: 'vm', id: subject, name: 'vm' },
      node: o.node ?? null,
      askedBy: 'test',
      args: o.args ?? {},
      state: 'queued',
      step: '',
      progress: null,
      cancelAsked: false,
      createdMs: now,
      updatedMs: now,
      error: null,
    };
    this.ledger.poke(kinds.op.key(id), writeRecord(kinds.op, op));
    return id;
  }

  /** The agent of another node, as far as it has to do with copies: they are opened, enlarged and taken away there. */
  peerDesk(id: string, pairs: FakePairs): void {
    this.peerUp(id);
    const { clock } = this;
    const ledger = this.ledger.client(id);
    const no = (): never => {
      throw new Error('the other node does not do that here');
    };
    const env: AgentEnv = {
      ...this.#env(),
      node: id,
      ledger,
      live: {
        compare: () => ({
          key: kinds.live.key(id),
          createRevision: this.ledger.peek(kinds.live.key(id))?.createRevision ?? 0n,
        }),
      },
      hypervisor: new Proxy({} as AgentEnv['hypervisor'], { get: no }),
      replication: pairs.driver(id),
      volumes: pairs.volumes(id, fakeVolumes(new FakeFiles(), clock)),
    };
    const turns = new Turns(() => undefined);
    const desk = new ReplicaDesk(env, turns, () => undefined);
    const snapshots = new Snapshots(ledger);
    const loop = async (): Promise<void> => {
      for (;;) {
        turns.next();
        snapshots.changed();
        desk.look(await snapshots.read(), new Map());
        await clock.sleep(500);
      }
    };
    // Ends with the test's clock.
    void loop().catch(() => undefined);
  }

  #env(): AgentEnv {
    const client = this.ledger.client(this.node);
    const revision = this.#liveRevision;
    const die = this.#mortal();
    const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };
    const radio: Radio = {
      say: <K extends RadioKind>(kind: K, payload: RadioPayload<K>, id?: string) => {
        if (this.dead) return;
        if (kind === 'vm' && id !== undefined) this.said.set(id, payload as VmState);
        if (kind === 'event') this.events.unshift(payload as RadioPayload<'event'>);
      },
      unsay: (_kind, id) => void this.said.delete(id),
      heard: () => this.heard,
      refused: () => ({}),
      onChange: () => () => undefined,
      setPeers: () => undefined,
    };
    return {
      node: this.node,
      boot: randomUUID(),
      version: '0.0.0',
      clock: this.clock,
      random: { uuid: () => randomUUID(), below: () => 0 },
      log: quiet,
      ledger: die(client, ['txn'], ['get', 'list', 'watch']),
      live: {
        compare: () =>
          this.#leaseOk && !this.dead ? { key: kinds.live.key(this.node), createRevision: revision } : null,
      },
      keeper: die(this.keeper, ['arm', 'disarm', 'holds'], ['state', 'onChange']),
      journal: die({ record: async (e: JournalEntry) => void this.journal.push(e) }, ['record'], []),
      ...(this.fencer === null ? {} : { fencer: die(this.fencer, ['off', 'on'], ['status', 'identify']) }),
      timing: timingProfiles.production,
      radio,
      peers: {
        libvirt: () => {
          throw new Error('this simulation has one node');
        },
        lockstep: () => {
          throw new Error('this simulation has one node');
        },
        knock: async () => false,
      },
      hypervisor: die(
        fakeHypervisor(this.host),
        [
          'define',
          'undefine',
          'start',
          'stop',
          'suspend',
          'resume',
          'reset',
          'reboot',
          'setMetadata',
          'setVcpus',
          'setMemory',
          'setCpuTune',
          'attachDevice',
          'detachDevice',
          'blockResize',
          'updateDevice',
          'fsFreeze',
          'fsThaw',
          'blockJobAbort',
        ],
        [
          'blockCopy',
          'blockInfo',
          'blockJobInfo',
          'agent',
          'addresses',
          'list',
          'state',
          'stats',
          'xml',
          'facts',
          'events',
          'connected',
        ],
      ),
      ...(this.pairs === null
        ? {}
        : {
            replication: die(this.pairs.driver(this.node), pairActs, [
              'usable',
              'observe',
              'watch',
              'reconnects',
            ]),
          }),
      volumes: die(
        this.pairs?.volumes(this.node, fakeVolumes(this.files, this.clock)) ??
          fakeVolumes(this.files, this.clock),
        [
          'makeDisk',
          'growDisk',
          'fitDisk',
          'removeDisk',
          'recordTakeover',
          'openCopy',
          'fillDisk',
          'copyDisk',
          'takeSnapshot',
          'keepDraft',
          'removeSnapshot',
        ],
        ['probe', 'openDisk', 'snapshotDraft', 'diskPath', 'imagePath', 'haveImage', 'takeoverPath', 'sweep'],
      ),
      exports: die(
        {
          make: async (op: string, vm: { disks: readonly PackedDisk[] }, _into: Pool, o: WorkOptions) => {
            const volumes = vm.disks.map((d) => ('disk' in d ? d.disk.id : d.snapshot.id));
            await this.files.packing();
            o.signal.throwIfAborted();
            for (const v of volumes)
              if (!this.files.disks.has(v) && !this.files.snapshots.has(v)) throw new Error(`no volume ${v}`);
            this.files.packed.set(op, volumes);
            return { sizeBytes: 1e6 };
          },
          sweep: async () => undefined,
        },
        ['make'],
        ['sweep'],
      ),
      holds: { look: async () => undefined, all: () => this.holds },
      seeds: { make: async () => '/seed.iso', remove: async () => undefined },
      bridges: {
        answers: async () => true,
        ensure: async () => undefined,
        owned: async () => [],
        remove: async () => undefined,
      },
      sockets: {
        paths: (id) => ({ serial: `/run/${id}/serial`, vnc: `/run/${id}/vnc`, serialLog: `/log/${id}` }),
        prepare: async () => undefined,
        remove: async () => undefined,
      },
      machine: {
        accel: async () => 'tcg',
        isDead: async (vm) => this.host.domains.get(vm)?.active !== true,
        facts: () => null,
        cpuTune: () => ({ cpuMHz: 2000 }),
        use: async () => ({
          cpus: 4,
          cpuUsedPct: 0,
          memoryBytes: 8e9,
          memoryUsedBytes: 1e9,
          loadAvg1: 0,
          upSinceMs: 0,
        }),
      },
    };
  }

  /**
   * Wraps a part of the environment so that the agent can die in it: a dead agent's calls have no effect and
   * never answer. `acting` calls are counted as places to die at.
   */
  #mortal(): <T extends object>(part: T, acting: readonly string[], looking: readonly string[]) => T {
    const never = new Promise<never>(() => undefined);
    let alive = true;
    return (part, acting, looking) =>
      new Proxy(part, {
        get: (target, key) => {
          const value = (target as Record<string | symbol, unknown>)[key];
          if (typeof value !== 'function') return value;
          const name = String(key);
          const call = value as (...a: unknown[]) => unknown;
          if (looking.includes(name))
            return (...a: unknown[]) => {
              if (!alive) return never;
              const got = call.apply(target, a);
              // Work that goes on beside it, which a dead agent does not end either.
              return got instanceof Object && 'cancel' in got
                ? { ...got, cancel: async () => (alive ? (got.cancel as () => unknown)() : never) }
                : got;
            };
          if (!acting.includes(name))
            throw new FlotillaError('internal', `the simulator does not know ${name}`, { hint: '' });
          return async (...a: unknown[]) => {
            if (!alive) return never;
            const n = this.acts++;
            const dies = this.death?.at === n;
            if (dies && this.death?.when === 'before') {
              alive = false;
              this.dead = true;
              return never;
            }
            const result = await (call.apply(target, a) as Promise<unknown>);
            if (dies || !alive) {
              alive = false;
              this.dead = true;
              return never;
            }
            return result;
          };
        },
      });
  }
}
