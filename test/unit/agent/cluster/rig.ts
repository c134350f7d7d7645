import https from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { createAdaptorServer } from '@hono/node-server';
import { Hono } from 'hono';
import { agentConfigSchema, type AgentConfig } from '../../../../agent/cluster/config.js';
import { found, type Founded } from '../../../../agent/cluster/found.js';
import { joinApp, type JoinApp } from '../../../../agent/cluster/join-app.js';
import type { Services, Unit } from '../../../../agent/cluster/services.js';
import type { Member } from '../../../../agent/ledger/members.js';
import { RecordStore } from '../../../../agent/ledger/records.js';
import { certificateSha256 } from '../../../../agent/pki/bundle.js';
import { readTls } from '../../../../agent/pki/store.js';
import { httpsServerOptions } from '../../../../agent/pki/tls.js';
import { createToken, joinTokenText, type NewToken } from '../../../../agent/pki/tokens.js';
import { systemRandom } from '../../../../agent/system.js';
import type { Clock } from '../../../../agent/env.js';
import type { ClusterMeta } from '../../../../core/domain/cluster.js';
import { MemoryLedger, type MemoryClient } from '../../../sim/memory-ledger.js';
import { FakeClock } from '../ledger/fake-clock.js';

/** Services that only remember what was asked of them. */
export class FakeServices implements Services {
  readonly running = new Set<Unit>();
  readonly calls: string[] = [];
  onEnable: (unit: Unit) => void = () => undefined;

  async enable(unit: Unit): Promise<void> {
    this.calls.push(`enable ${unit}`);
    this.running.add(unit);
    this.onEnable(unit);
  }
  async disable(unit: Unit): Promise<void> {
    this.calls.push(`disable ${unit}`);
    this.running.delete(unit);
  }
  async restart(unit: Unit): Promise<void> {
    this.calls.push(`restart ${unit}`);
  }
  async reload(unit: Unit): Promise<void> {
    this.calls.push(`reload ${unit}`);
  }
  async active(unit: Unit): Promise<boolean> {
    return this.running.has(unit);
  }
}

/** A log that keeps its lines, so that tests can look for secrets in them. */
export class KeptLog {
  readonly lines: string[] = [];
  readonly info = (text: string, fields?: object) =>
    void this.lines.push(`info ${text} ${JSON.stringify(fields)}`);
  readonly warn = (text: string, fields?: object) =>
    void this.lines.push(`warn ${text} ${JSON.stringify(fields)}`);
  readonly error = (text: string, fields?: object) =>
    void this.lines.push(`error ${text} ${JSON.stringify(fields)}`);
}

/** Real time for waiting, so that real sockets get their turn, and a wall clock that tests may turn. */
export class TestClock implements Clock {
  wallOffsetMs = 0;
  /** Time that went by at once. */
  passedMs = 0;
  nowMs = () => performance.now() + this.passedMs;
  wallMs = () => Date.now() + this.wallOffsetMs;
  sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, Math.min(ms, 20)));
}

/** A founder with its HTTPS server, on a ledger in memory. */
export class Rig {
  readonly dir: string;
  readonly memory = new MemoryLedger(new FakeClock());
  readonly clock = new TestClock();
  readonly log = new KeptLog();
  readonly services = new FakeServices();
  members: Member[] = [];
  founded!: Founded;
  config!: AgentConfig;
  client!: MemoryClient;
  store!: RecordStore;
  meta!: ClusterMeta;
  join!: JoinApp;
  #server: https.Server | null = null;

  constructor(dir: string) {
    this.dir = dir;
  }

  nodeConfig(name: string, address: string, port = 7443): AgentConfig {
    return agentConfigSchema.parse({
      name,
      address,
      stateDir: path.join(this.dir, name),
      ports: { agent: port },
    });
  }

  async start(): Promise<void> {
    this.config = this.nodeConfig('n1', '127.0.0.11');
    this.founded = await found(
      {
        config: this.config,
        services: this.services,
        clock: this.clock,
        random: systemRandom,
        log: this.log,
        ledger: async () => this.memory.client('founder'),
      },
      'test',
    );
    this.client = this.memory.client('n1');
    const opened = await RecordStore.open(this.client);
    this.store = opened.store;
    this.meta = opened.meta;
    this.join = joinApp({
      config: this.config,
      cluster: () => ({ store: this.store, meta: this.meta }),
      members: { list: async () => this.members },
      clock: this.clock,
      log: this.log,
    });
    const main = new Hono();
    main.route('/', this.join.app);
    main.post('/upload', async (c) => c.text(String((await c.req.arrayBuffer()).byteLength)));
    const tls = await readTls(this.config.stateDir);
    this.#server = createAdaptorServer({
      fetch: main.fetch,
      createServer: https.createServer,
      serverOptions: httpsServerOptions(tls),
    }) as https.Server;
    await new Promise<void>((resolve) => this.#server?.listen(0, '127.0.0.11', resolve));
  }

  /** As the agent does after its certificate or its CAs changed. */
  async reloadTls(): Promise<void> {
    this.#server?.setSecureContext(httpsServerOptions(await readTls(this.config.stateDir)));
  }

  get port(): number {
    return (this.#server?.address() as AddressInfo).port;
  }

  async token(o: Partial<NewToken> = {}): Promise<string> {
    const b = await createToken(
      this.store,
      { kind: 'join', name: null, ttlMs: 3_600_000, uses: 1, ...o },
      this.clock.wallMs(),
    );
    const caSha256 = certificateSha256(this.meta.ca);
    return joinTokenText({
      address: this.config.address,
      port: this.port,
      id: b.id,
      secret: b.secret,
      caSha256,
    });
  }

  stop(): void {
    this.#server?.close();
    this.#server?.closeAllConnections();
    this.memory.close();
  }
}
