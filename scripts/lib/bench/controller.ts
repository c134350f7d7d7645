import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { MqttClient } from 'mqtt';
import { pkiPaths } from '../../../agent/pki/store.js';
import type { ClusterMeta } from '../../../core/domain/cluster.js';
import type { NodeRecord } from '../../../core/domain/node.js';
import type { VmState } from '../../../core/domain/vm.js';
import { ledger as kinds, metaKey } from '../../../core/wire/ledger-keys.js';
import { radioPayloadBytesMax, topic } from '../../../core/wire/radio.js';
import { apiRoot } from '../../../core/wire/rest.js';
import { waitFor } from '../../../test/lab/harness.js';
import { freePorts, TestCluster } from '../../../test/unit/agent/ledger/real-etcd.js';
import { Broker } from '../../../test/unit/agent/radio/broker.js';
import { rig, type Rig } from '../../../test/unit/controller/rig.js';
import { Api } from './api.js';
import { inject, measured } from './api-list.js';
import { median, percentile, report, round, say } from './report.js';

const nodeCount = 16;
const vmCount = 400;
const beatEveryMs = 1_000;
/** VM lines a second while its memory is watched: each VM says something new every ten seconds. */
const linesPerSecond = 40;
const limitMs = 300_000;

/**
 * The shipped controller as a process of its own, against a real etcd and a real mosquitto for each of 16 nodes, on
 * addresses of the loopback; only the agents are played. What it takes to start, to read and to keep.
 */
export async function controller(starts: number, reads: number, watchS: number): Promise<void> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-bench-'));
  const etcd = new TestCluster(path.join(dir, 'etcd'));
  const stage = new Stage(dir, etcd);
  try {
    await stage.up();
    const took: number[] = [];
    for (let i = 0; i < starts; i++) {
      took.push(await stage.startController());
      if (i < starts - 1) await stage.stopController();
    }
    report({
      figure: 'controller-cold-start',
      value: percentile(took, 1) / 1000,
      unit: 's, worst',
      target: { atMost: 10 },
      n: starts,
      median: median(took) / 1000,
      compared: { nodes: nodeCount, vms: vmCount, aimS: 2 },
    });
    await stage.reads(reads);
    await stage.watch(watchS);
  } finally {
    await stage.down();
    await etcd.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

class Stage {
  readonly #dir: string;
  readonly #etcd: TestCluster;
  readonly #brokers: Broker[] = [];
  readonly #voices = new Map<string, MqttClient>();
  #beats: NodeJS.Timeout | null = null;
  #rig: Rig | null = null;
  #vms: VmState[] = [];
  #cluster = '';
  #child: ChildProcess | null = null;
  #log = '';
  #ports = { api: 0, radio: 0 };

  constructor(dir: string, etcd: TestCluster) {
    this.#dir = dir;
    this.#etcd = etcd;
  }

  async up(): Promise<void> {
    say(`controller: etcd, ${nodeCount} brokers, ${vmCount} VMs`);
    const names = Array.from({ length: nodeCount }, (_, i) => `n${i + 1}`);
    await mkdir(path.join(this.#dir, 'etcd'), { recursive: true });
    // Each broker is killed with this process.
    process.setMaxListeners(nodeCount + 10);
    await this.#etcd.start(['n1']);
    const r = await rig(names);
    this.#rig = r;
    this.#vms = inject(r, vmCount);
    const { entries } = await r.ledger.list('/flotilla/');
    const meta = entries.find((e) => e.key === metaKey);
    this.#cluster = (JSON.parse(meta?.value ?? '{}') as ClusterMeta).id;
    const ledger = await this.#etcd.client();
    await this.#etcd.ready(ledger);
    const puts = entries.map((e) => ({ put: e.key, value: this.#placed(e.key, e.value, names) }));
    // etcd takes 128 writes in one transaction.
    for (let i = 0; i < puts.length; i += 100) await ledger.txn([], puts.slice(i, i + 100));
    await ledger.close();
    const [api = 0, radio = 0] = await freePorts(2);
    this.#ports = { api, radio };
    await Promise.all(names.map((n, i) => this.#node(n, i, r)));
    this.#beats = setInterval(() => {
      for (const [node, voice] of this.#voices) this.#beat(node, voice);
    }, beatEveryMs);
    await this.#state();
  }

  /** Nodes are where their brokers are, and the one that has an etcd votes. */
  #placed(key: string, value: string, names: readonly string[]): string {
    if (!names.some((n) => key === kinds.node.key(n))) return value;
    const record = JSON.parse(value) as NodeRecord;
    const at = addressOf(names.indexOf(record.id));
    return JSON.stringify({ ...record, addresses: [at], voter: record.id === 'n1' });
  }

  async #node(node: string, i: number, r: Rig): Promise<void> {
    const tls = await this.#etcd.tls(node, [addressOf(i), '127.0.0.1']);
    const dir = path.join(this.#dir, `broker-${node}`);
    const broker = new Broker({ dir, port: this.#ports.radio, address: addressOf(i), tls });
    await broker.start();
    this.#brokers.push(broker);
    const voice = new MqttClient(() => tlsConnect({ host: addressOf(i), port: this.#ports.radio, ...tls }), {
      protocolVersion: 5,
      clean: true,
      clientId: `agent-${node}`,
    });
    voice.on('error', () => undefined);
    await new Promise<void>((resolve) => voice.once('connect', () => resolve()));
    const heard = r.radio.nodes.get(node);
    if (heard === undefined) throw new Error(`no node ${node}`);
    await this.#say(voice, topic(this.#cluster, node, 'state'), { ...heard.state, atMs: Date.now() });
    for (const [id, line] of heard.vms) await this.#say(voice, topic(this.#cluster, node, 'vm', id), line);
    this.#voices.set(node, voice);
  }

  async #say(voice: MqttClient, to: string, what: unknown): Promise<void> {
    const text = JSON.stringify(what);
    if (text.length > radioPayloadBytesMax) throw new Error(`${to}: too long`);
    await voice.publishAsync(to, text, { qos: 1, retain: true });
  }

  #seq = 0;
  #beat(node: string, voice: MqttClient): void {
    const beat = { boot: 'b', seq: ++this.#seq, atMs: Date.now() };
    voice.publish(topic(this.#cluster, node, 'beat'), JSON.stringify(beat), { qos: 0 });
  }

  /** The state directory of n1, as its agent would have left it. */
  async #state(): Promise<void> {
    const stateDir = path.join(this.#dir, 'state');
    const p = pkiPaths(stateDir);
    await mkdir(p.dir, { recursive: true });
    const tls = await this.#etcd.tls('n1', ['127.0.0.1', addressOf(0)]);
    await writeFile(p.caCert, tls.ca);
    await writeFile(p.nodeCert, tls.cert);
    await writeFile(p.nodeKey, tls.key, { mode: 0o600 });
    const cluster = {
      clusterId: this.#cluster,
      name: 'bench',
      node: 'n1',
      ledgerEndpoints: this.#etcd.endpoints,
    };
    await writeFile(path.join(stateDir, 'cluster.json'), JSON.stringify(cluster));
    const config = {
      stateDir,
      host: '127.0.0.1',
      port: this.#ports.api,
      radioPort: this.#ports.radio,
      ledgerPort: this.#etcd.ports.ledger,
    };
    await writeFile(path.join(this.#dir, 'controller.json'), JSON.stringify(config));
  }

  get #client(): { host: string; port: number; ca: string; token: string } {
    return {
      host: '127.0.0.1',
      port: this.#ports.api,
      ca: this.#etcd.ca.cert,
      token: this.#rig?.token ?? '',
    };
  }

  /** @returns ms from its start until it lists every node as heard and every VM as running */
  async startController(): Promise<number> {
    const unit = await readFile('systemd/flotilla-controller.service', 'utf8');
    const flags = /^ExecStart=\/usr\/bin\/node (.*?) \//m.exec(unit)?.[1]?.split(' ') ?? [];
    const began = performance.now();
    const child = spawn(
      process.execPath,
      [
        ...flags,
        'build/dist/flotilla-controller.mjs',
        'run',
        '--config',
        path.join(this.#dir, 'controller.json'),
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.#child = child;
    for (const s of [child.stdout, child.stderr])
      s.on('data', (d: Buffer) => (this.#log = (this.#log + d.toString()).slice(-4_000)));
    const api = new Api(this.#client);
    const all = async (): Promise<boolean> => {
      const nodes = await api.get<{ items: { presence: string }[] }>('/nodes?limit=100');
      if (nodes.items.filter((n) => n.presence === 'here').length < nodeCount) return false;
      const vms = await api.get<{ items: { phase: string }[] }>(`/vms?limit=1000`);
      return vms.items.filter((v) => v.phase === 'running').length === vmCount;
    };
    try {
      await waitFor('the whole inventory', all, { limitMs, everyMs: 20 });
    } catch (e) {
      throw new Error(this.#log, { cause: e });
    } finally {
      api.close();
    }
    return performance.now() - began;
  }

  async stopController(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child?.exitCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await gone;
  }

  /** Single reads, one after the other on one connection, while VM lines change. */
  async reads(n: number): Promise<void> {
    const [vm] = this.#vms;
    const moving = this.#changes();
    for (const [figure, at] of [
      ['api-read-vm', `/vms/${vm?.vm}`],
      ['api-read-node', '/nodes/n1'],
      ['api-read-cluster', '/cluster'],
    ] as const) {
      say(`${figure}: ${n} requests`);
      const { ms, bytes } = await measured({ ...this.#client, path: at, count: null, requests: n });
      report({
        figure,
        value: percentile(ms, 0.99),
        unit: 'ms p99',
        target: { atMost: 10 },
        n,
        median: median(ms),
        p99: percentile(ms, 0.99),
        compared: { bytes, changedLinesPerSecond: linesPerSecond, worstMs: round(Math.max(...ms)) },
      });
    }
    clearInterval(moving);
  }

  #at = 0;
  #changes(): NodeJS.Timeout {
    return setInterval(() => {
      const old = this.#vms[this.#at++ % vmCount];
      if (old === undefined) return;
      const stats = {
        atMs: Date.now(),
        cpuPct: this.#at % 100,
        memoryUsedBytes: this.#at * 4_096,
        memoryBytes: 2 ** 31,
        diskReadBps: this.#at,
        diskWriteBps: this.#at,
        netRxBps: this.#at,
        netTxBps: this.#at,
      };
      const voice = this.#voices.get(old.node);
      const next = { ...old, seq: old.seq + this.#at, atMs: Date.now(), stats };
      if (voice !== undefined) void this.#say(voice, topic(this.#cluster, old.node, 'vm', old.vm), next);
    }, 1000 / linesPerSecond);
  }

  /** Its memory while lines change, four pages listen to the events, and one reads the whole list each second. */
  async watch(seconds: number): Promise<void> {
    say(`controller-memory: ${seconds} s`);
    const pid = this.#child?.pid;
    const moving = this.#changes();
    const pages = Array.from({ length: 4 }, () => this.#listen());
    const api = new Api(this.#client);
    const rss: number[] = [];
    for (let i = 0; i < seconds; i++) {
      await api.raw('GET', '/vms?limit=1000');
      const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
      rss.push((Number(/^Rss:\s+(\d+) kB/m.exec(text)?.[1]) * 1024) / 1e6);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
    clearInterval(moving);
    api.close();
    for (const page of pages) page();
    report({
      figure: 'controller-memory',
      value: Math.max(...rss),
      unit: 'MB resident, highest',
      target: { atMost: 250 },
      n: seconds,
      median: median(rss),
      compared: { nodes: nodeCount, vms: vmCount, changedLinesPerSecond: linesPerSecond, pages: 4 },
    });
  }

  /** A page that is open. @returns closes it */
  #listen(): () => void {
    const { token, ...to } = this.#client;
    const req = request(
      { ...to, path: `${apiRoot}/events`, headers: { authorization: `Bearer ${token}` } },
      (res) => res.resume(),
    );
    req.on('error', () => undefined);
    req.end();
    return () => req.destroy();
  }

  async down(): Promise<void> {
    await this.stopController();
    if (this.#beats !== null) clearInterval(this.#beats);
    for (const voice of this.#voices.values()) voice.end(true);
    await Promise.all(this.#brokers.map((b) => b.stop('SIGKILL')));
    this.#rig?.stop();
  }
}

/** The etcd of the first is at the same address. */
const addressOf = (i: number): string => `127.0.0.${i + 10}`;
