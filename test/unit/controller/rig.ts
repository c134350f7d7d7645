import { createHash } from 'node:crypto';
import { duplexPair, type Duplex } from 'node:stream';
import type { HeardNode, Log, Radio } from '../../../agent/env.js';
import type { Ledger, Write } from '../../../agent/ledger/ledger.js';
import { apiTokenText, makeToken } from '../../../agent/pki/tokens.js';
import { controllerApp } from '../../../controller/api/app.js';
import type { AgentExports, AgentUploads } from '../../../controller/api/uploads.js';
import type { AgentAsk } from '../../../controller/agent-ask.js';
import { Consoles, type ConsoleDial } from '../../../controller/consoles.js';
import { EventLog } from '../../../controller/event-log.js';
import { systemChance, systemClock as clock } from '../../../controller/system.js';
import type { PendingNodes } from '../../../controller/pending-nodes.js';
import { View } from '../../../controller/view.js';
import type { WebFiles } from '../../../controller/web-files.js';
import { withPower } from '../../../core/decide/vm-edit.js';
import { bulkArgs } from '../../../core/domain/bulk.js';
import { FlotillaError } from '../../../core/domain/error.js';
import type { Image } from '../../../core/domain/image.js';
import type { NodeRecord, NodeState } from '../../../core/domain/node.js';
import type { Op } from '../../../core/domain/op.js';
import type { VmPhase, VmSpec, VmState } from '../../../core/domain/vm.js';
import type { Newcomer, PendingView } from '../../../core/wire/adopt.js';
import { ledger as kinds, unique, writeRecord } from '../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../sim/memory-ledger.js';
import { testCa } from './test-ca.js';

export const GiB = 2 ** 30;

/** What nodes are heard to say, set by the test. */
export class FakeRadio implements Radio {
  readonly nodes = new Map<string, { state: NodeState; vms: Map<string, VmState>; silentMs: number }>();
  private readonly wakes = new Set<() => void>();

  say(): void {
    throw new Error('the controller only listens');
  }
  unsay(): void {
    throw new Error('the controller only listens');
  }
  heard(): readonly HeardNode[] {
    return [...this.nodes].map(([node, n]) => ({
      node,
      beatAgeMs: n.silentMs,
      stateAgeMs: n.silentMs,
      state: n.state,
      vms: new Map([...n.vms].map(([id, state]) => [id, { ageMs: 5, state }])),
      agentGone: false,
      connected: true,
      events: [],
    }));
  }
  refused(): Readonly<Record<string, number>> {
    return {};
  }
  onChange(wake: () => void): () => void {
    this.wakes.add(wake);
    return () => this.wakes.delete(wake);
  }
  setPeers(): void {
    // The test says who is heard.
  }
  news(): void {
    for (const w of this.wakes) w();
  }
}

export function nodeRecord(id: string, i: number): NodeRecord {
  return {
    id,
    addresses: [`10.0.0.${i + 1}`],
    voter: true,
    desired: 'active',
    rack: null,
    witness: false,
    fingerprint: String(i).repeat(64).slice(0, 64),
    joinedMs: 1,
  };
}

export function nodeState(node: string, pools: NodeState['pools'] = []): NodeState {
  return {
    node,
    boot: 'b',
    seq: 1,
    version: '0',
    atMs: 1,
    upSinceMs: 1,
    accel: 'tcg',
    qemu: null,
    libvirt: null,
    cpus: 8,
    cpuUsedPct: 3,
    memoryBytes: 16 * GiB,
    memoryUsedBytes: GiB,
    loadAvg1: 0,
    pools,
    health: [],
    hears: {},
    refused: {},
    facts: null,
    keeper: null,
  };
}

export function vmState(
  spec: Pick<VmSpec, 'id' | 'name' | 'generation'>,
  node: string,
  phase: VmPhase,
): VmState {
  return {
    vm: spec.id,
    name: spec.name,
    node,
    boot: 'b',
    seq: 1,
    atMs: Date.now() + 1,
    phase,
    reason: '',
    generation: spec.generation,
    pendingRestart: [],
    upSinceMs: null,
    guestAgent: false,
    addresses: [],
    hostname: null,
    filesystems: [],
    stats: null,
    consoles: { serial: null, vnc: null },
    error: null,
    ha: { state: 'off', text: '', standby: null },
  };
}

/** Ends operations as agents do, without any machine. */
export class FakeAgents {
  /** Operations of these kinds are left as they are. */
  readonly stuck = new Set<string>();
  /** Deployments of vApps are called done, without their VMs. */
  deploys = false;
  private readonly ledger: Ledger;
  private readonly radio: FakeRadio;
  private busy = false;
  private again = false;
  private ended = false;
  private readonly unwatch: () => void;

  /** What was uploaded, by image. */
  private readonly files: ReadonlyMap<string, Buffer>;

  constructor(ledger: Ledger, radio: FakeRadio, files: ReadonlyMap<string, Buffer> = new Map()) {
    this.ledger = ledger;
    this.radio = radio;
    this.files = files;
    this.unwatch = ledger.watch(kinds.op.prefix, () => void this.look());
  }

  stop(): void {
    this.ended = true;
    this.unwatch();
  }

  async look(): Promise<void> {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    do {
      this.again = false;
      const { entries } = await this.ledger.list(kinds.op.prefix);
      for (const e of entries) {
        const op = kinds.op.schema.parse(JSON.parse(e.value));
        if (op.state === 'queued' && !this.stuck.has(op.kind) && !this.ended) await this.act(op);
      }
    } while (this.again);
    this.busy = false;
  }

  private async act(op: Op): Promise<void> {
    if (op.kind.startsWith('image.')) await this.image(op);
    else if (op.kind === 'vm.bulk') await this.bulk(op);
    else if (op.kind === 'vapp.deploy' && this.deploys) {
      const done = { ...op, state: 'done' as const, progress: 1, updatedMs: Date.now() };
      await this.ledger.txn([], [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, done) }]);
    } else await this.vm(op);
  }

  private async image(op: Op): Promise<void> {
    const key = kinds.image.key(op.subject.id);
    const e = await this.ledger.get(key);
    if (e === null) return;
    const image = kinds.image.schema.parse(JSON.parse(e.value));
    const done = { ...op, state: 'done' as const, progress: 1, updatedMs: Date.now() };
    const put = { put: kinds.op.key(op.id), value: writeRecord(kinds.op, done) };
    if (op.kind === 'image.delete') {
      await this.ledger.txn([], [{ del: key }, { del: unique.name('image', image.name) }, put]);
      return;
    }
    const ready: Image = {
      ...image,
      state: 'ready',
      sizeBytes: image.expectedBytes ?? GiB,
      virtualSizeBytes: 2 * GiB,
      sha256:
        image.sha256 ??
        createHash('sha256')
          .update(this.files.get(image.id) ?? '')
          .digest('hex'),
      error: null,
    };
    await this.ledger.txn([], [{ put: key, value: writeRecord(kinds.image, ready) }, put]);
  }

  /** All at once, without operations for each. */
  private async bulk(op: Op): Promise<void> {
    const args = bulkArgs(op);
    if (args === null) return;
    for (const { vm, state } of args.vms) {
      const e = await this.ledger.get(kinds.vmSpec.key(vm));
      if (e === null || state !== 'waiting' || args.action === 'migrate') continue;
      const spec = kinds.vmSpec.schema.parse(JSON.parse(e.value));
      const next = withPower(spec, args.action) ?? spec;
      await this.ledger.txn([], [{ put: kinds.vmSpec.key(vm), value: writeRecord(kinds.vmSpec, next) }]);
      await this.vm({ ...op, kind: `vm.${args.action}`, subject: { kind: 'vm', id: vm, name: spec.name } });
    }
    const vms = args.vms.map((v) => ({ ...v, state: v.state === 'waiting' ? ('done' as const) : v.state }));
    const done = {
      ...op,
      args: { ...op.args, vms },
      state: 'done' as const,
      progress: 1,
      updatedMs: Date.now(),
    };
    await this.ledger.txn([], [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, done) }]);
  }

  private async vm(op: Op): Promise<void> {
    const id = op.subject.id;
    const [s, o] = await Promise.all([
      this.ledger.get(kinds.vmSpec.key(id)),
      this.ledger.get(kinds.vmOwn.key(id)),
    ]);
    if (s === null || o === null) return;
    const spec = kinds.vmSpec.schema.parse(JSON.parse(s.value));
    const own = kinds.vmOwn.schema.parse(JSON.parse(o.value));
    const disks = (await this.ledger.list(kinds.disk.prefix)).entries
      .map((e) => kinds.disk.schema.parse(JSON.parse(e.value)))
      .filter((d) => d.vm === id);
    const lines = this.radio.nodes.get(own.owner)?.vms;
    const done = { ...op, state: 'done' as const, progress: 1, step: 'done', updatedMs: Date.now() };
    const put = { put: kinds.op.key(op.id), value: writeRecord(kinds.op, done) };
    if (op.kind === 'vm.delete') {
      await this.ledger.txn(
        [],
        [
          { del: kinds.vmSpec.key(id) },
          { del: kinds.vmOwn.key(id) },
          { del: unique.name('vm', spec.name) },
          ...disks.map((d) => ({ del: kinds.disk.key(d.id) })),
          ...spec.nics.map((n) => ({ del: unique.mac(n.mac) })),
          ...spec.nics.flatMap((n) =>
            n.address === null ? [] : [{ del: unique.address(n.network, n.address) }],
          ),
          put,
        ],
      );
      lines?.delete(id);
      this.radio.news();
      return;
    }
    const writes = disks.flatMap((d): Write[] =>
      d.state === 'deleting'
        ? [{ del: kinds.disk.key(d.id) }]
        : d.state === 'ready' && d.madeBytes === d.sizeBytes
          ? []
          : [
              {
                put: kinds.disk.key(d.id),
                value: writeRecord(kinds.disk, { ...d, state: 'ready', madeBytes: d.sizeBytes }),
              },
            ],
    );
    for (const e of (await this.ledger.list(kinds.vmSnapshot.prefix)).entries) {
      const x = kinds.vmSnapshot.schema.parse(JSON.parse(e.value));
      if (![op.args['snapshot'], op.args['before']].includes(x.id)) continue;
      const disks = x.disks.map((d) => ({ ...d, usedBytes: d.sizeBytes / 2 }));
      const ready = { ...x, disks, state: 'ready' as const };
      writes.push({ put: e.key, value: writeRecord(kinds.vmSnapshot, ready) });
    }
    await this.ledger.txn([], [...writes, put]);
    lines?.set(id, vmState(spec, own.owner, spec.power));
    this.radio.news();
  }
}

/** One machine that waits at an address. */
export class FakePending implements PendingNodes {
  readonly machines: (PendingView & { readonly machine?: Newcomer })[] = [];
  /** Tokens that were handed over, by address. */
  readonly given = new Map<string, string>();
  /** Makes the next handing over fail. */
  fails: FlotillaError | null = null;

  heard(): readonly PendingView[] {
    return this.machines.map(({ machine: _, ...view }) => view);
  }

  look(address: string): ReturnType<PendingNodes['look']> {
    const found = this.machines.find((m) => m.address === address);
    if (found !== undefined) return Promise.resolve(found);
    return Promise.reject(
      new FlotillaError('node-unreachable', `Nothing answers at ${address}`, { hint: '' }),
    );
  }

  async adopt(address: string, fingerprint: string, token: string): Promise<string> {
    if (this.fails !== null) throw this.fails;
    const { name, fingerprint: own } = await this.look(address);
    if (own !== fingerprint) throw new FlotillaError('wrong-certificate', 'Another key', { hint: '' });
    this.given.set(address, token);
    return name;
  }
}

/** Keeps uploads in memory. */
export class FakeUploads implements AgentUploads, AgentExports {
  readonly files = new Map<string, Buffer>();
  /** Archives by their ops. */
  readonly archives = new Map<string, Buffer>();

  async exported(
    _node: unknown,
    op: string,
    range: string | undefined,
  ): ReturnType<AgentExports['exported']> {
    const all = this.archives.get(op);
    if (all === undefined) throw new FlotillaError('not-found', 'no such export', { hint: 'again' });
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    const data = all.subarray(from);
    return {
      status: from > 0 ? 206 : 200,
      headers: { 'content-type': 'application/x-tar', 'content-length': String(data.length) },
      body: new Blob([Uint8Array.from(data)]).stream(),
    };
  }

  /** Break off after so many bytes of the next piece. */
  breakAfter: number | null = null;

  async offset(_node: unknown, imageId: string): Promise<number> {
    return this.files.get(imageId)?.length ?? 0;
  }

  async append(
    _node: unknown,
    imageId: string,
    o: { offset: number; body: ReadableStream<Uint8Array> | null },
  ): Promise<number> {
    let file = this.files.get(imageId) ?? Buffer.alloc(0);
    if (file.length !== o.offset)
      throw new FlotillaError('offset-mismatch', 'not there', {
        hint: 'ask',
        details: { offset: file.length },
      });
    const limit = this.breakAfter;
    this.breakAfter = null;
    const parts = [file];
    let length = file.length;
    try {
      for await (const part of o.body ?? []) {
        parts.push(Buffer.from(part));
        length += part.length;
        if (limit !== null && length >= limit)
          throw new FlotillaError('node-unreachable', 'the wire was cut', { hint: 'again' });
      }
    } finally {
      file = Buffer.concat(parts);
      this.files.set(imageId, file);
    }
    return file.length;
  }
}

/** The machines' ends of consoles, by node. */
export class FakeMachines implements ConsoleDial {
  /** Asked for, `node path`, with the end that the test writes to and reads. */
  readonly dialled: { readonly at: string; readonly end: Duplex }[] = [];
  /** Nodes that do not answer. */
  readonly silent = new Set<string>();
  /** Leads to real ones instead. */
  real: ((node: string, path: string, signal: AbortSignal) => Promise<Duplex>) | null = null;

  async dial(node: { id: string }, path: string, signal: AbortSignal): Promise<Duplex> {
    if (this.real !== null) return this.real(node.id, path, signal);
    if (this.silent.has(node.id))
      throw new FlotillaError('node-unreachable', `Node ${node.id} does not open the console`, {
        hint: 'look',
      });
    const [ours, theirs] = duplexPair();
    this.dialled.push({ at: `${node.id} ${path}`, end: theirs });
    return ours;
  }
}

/** What nodes' agents answer, set by the test; those without an answer do not answer. */
export class FakeAsk implements AgentAsk {
  /** By `node path`. */
  readonly answers = new Map<string, unknown>();

  async get(node: { id: string }, path: string): Promise<unknown> {
    const answer = this.answers.get(`${node.id} ${path}`);
    if (answer !== undefined) return answer;
    throw new FlotillaError('node-unreachable', `Node ${node.id} does not answer`, { hint: 'look' });
  }
}

export interface Rig {
  readonly memory: MemoryLedger;
  readonly ledger: Ledger;
  readonly radio: FakeRadio;
  readonly agents: FakeAgents;
  readonly uploads: FakeUploads;
  readonly machines: FakeMachines;
  readonly ask: FakeAsk;
  /** The lines of the audit. */
  readonly audit: Record<string, unknown>[];
  readonly consoles: Consoles;
  readonly pending: FakePending;
  readonly view: View;
  readonly app: ReturnType<typeof controllerApp>;
  readonly token: string;
  readonly local: string;
  /** Another controller on the same ledger. */
  second(): { app: ReturnType<typeof controllerApp>; view: View };
  call(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<{ status: number; body: never; headers: Headers }>;
  stop(): void;
}

const quiet: Log = { info: () => undefined, warn: () => undefined, error: (t, f) => console.error(t, f) };

/** A cluster of `nodes` with a `local` pool of 100 GiB each, an API token, and a controller. */
export async function rig(
  nodes: readonly string[] = ['n1', 'n2', 'n3'],
  web: WebFiles = new Map(),
): Promise<Rig> {
  const memory = new MemoryLedger(clock);
  memory.found(
    {
      schema: 1,
      id: '00000000-0000-4000-8000-0000000000c1',
      name: 'test',
      epoch: 1,
      ca: testCa,
      foundedMs: 1,
      founder: 'n1',
    },
    nodes.map(nodeRecord),
  );
  const local = '00000000-0000-4000-8000-00000000000a';
  const ledger = memory.client('controller');
  const { record, secret, writes } = makeToken({ kind: 'api', name: 'admin', ttlMs: null, uses: null }, 1);
  await ledger.txn(
    [],
    [
      ...writes,
      {
        put: kinds.pool.key(local),
        value: writeRecord(kinds.pool, {
          id: local,
          name: 'local',
          kind: 'local',
          path: '/var/lib/flotilla/pools/local',
          nodes: null,
          reservePct: 5,
        }),
      },
      { put: unique.name('pool', 'local'), value: local },
      ...nodes.map((n) => ({
        put: kinds.live.key(n),
        value: JSON.stringify({ node: n, boot: 'b', version: '0' }),
      })),
    ],
  );
  const radio = new FakeRadio();
  for (const n of nodes) {
    const use = { pool: local, totalBytes: 100 * GiB, freeBytes: 80 * GiB, ok: true, text: '' };
    radio.nodes.set(n, { state: nodeState(n, [use]), vms: new Map(), silentMs: 100 });
  }
  const uploads = new FakeUploads();
  const pending = new FakePending();
  const stops: (() => void)[] = [];
  const machines = new FakeMachines();
  const ask = new FakeAsk();
  const audit: Record<string, unknown>[] = [];
  const keep = (text: string, fields?: Record<string, unknown>): void => {
    if (text === 'audit' && fields !== undefined) audit.push(fields);
  };
  const log: Log = { ...quiet, info: keep, warn: keep };
  const controller = (client: Ledger, boot: string) => {
    const view = new View({ ledger: client, radio, clock, log: quiet, events: new EventLog(boot) });
    const consoles = new Consoles({ view, clock, chance: systemChance, agents: machines });
    view.start();
    stops.push(() => view.stop());
    const app = controllerApp({
      view,
      ledger: client,
      clock,
      chance: systemChance,
      log,
      uploads,
      ask,
      consoles,
      pending,
      version: '0.0.0',
      fingerprint: 'f'.repeat(64),
      web,
    });
    return { app, view, consoles };
  };
  const { app, view, consoles } = controller(ledger, 'boot1');
  await view.ledger.refresh();
  const agents = new FakeAgents(memory.client('agents'), radio, uploads.files);
  const token = apiTokenText({ id: record.id, secret });
  return {
    memory,
    ledger,
    radio,
    agents,
    uploads,
    machines,
    ask,
    audit,
    consoles,
    pending,
    view,
    app,
    token,
    local,
    second: () => controller(memory.client('controller2'), 'boot2'),
    call: (method, path, body, headers = {}) => callApp(app, token, method, path, body, headers),
    stop: () => {
      agents.stop();
      for (const s of stops) s();
      memory.close();
    },
  };
}

/** One request, in process. */
export async function callApp(
  app: ReturnType<typeof controllerApp>,
  token: string | null,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
  from = '127.0.0.1',
): Promise<{ status: number; body: never; headers: Headers }> {
  const raw = typeof body === 'string' || body instanceof Uint8Array;
  const res = await app.request(
    `https://c${path}`,
    {
      method,
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined || raw ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: (raw ? body : JSON.stringify(body)) as string }),
    },
    { incoming: { socket: { remoteAddress: from } } },
  );
  const text = await res.text();
  let parsed: unknown = text;
  if (res.headers.get('content-type')?.includes('json')) parsed = JSON.parse(text);
  return { status: res.status, body: parsed as never, headers: res.headers };
}
