import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { makeCa, makeCsr, signNode } from '../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../agent/pki/keys.js';
import type { TlsMaterial } from '../../../agent/pki/tls.js';
import { ControllerServer } from '../../../controller/server.js';
import { firstOwn } from '../../../core/decide/vm-make.js';
import type { Disk } from '../../../core/domain/disk.js';
import { vmHaDefault } from '../../../core/domain/ha.js';
import type { VmOwn, VmSpec, VmState } from '../../../core/domain/vm.js';
import { ledger as kinds, unique, writeRecord } from '../../../core/wire/ledger-keys.js';
import { waitFor } from '../../../test/lab/harness.js';
import { GiB, rig, vmState, type Rig } from '../../../test/unit/controller/rig.js';
import { median, percentile, report, round, say } from './report.js';
import type { ListJob, ListTimes } from './list-worker.js';

const count = 1_000;
const changesPerSecond = 10;

/**
 * `GET /api/v1/vms` of a thousand VMs, all in one page, as a person's browser or script sees it: over HTTPS, from
 * another thread. The controller's own app, view and server; ledger and radio are in memory, so that the state is
 * injected rather than lived. Once in silence, once while VM lines change.
 */
export async function apiList(n: number): Promise<void> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-bench-'));
  const r = await rig(['n1', 'n2', 'n3']);
  const tls = await certificate(dir);
  const server = new ControllerServer({ app: r.app, consoles: r.consoles, host: '127.0.0.1', port: 0, tls });
  try {
    const vms = inject(r);
    await waitFor('the controller sees all VMs', async () => {
      await r.view.ledger.refresh();
      return r.view.list('vm').length === count;
    });
    await server.start();
    const job: ListJob = {
      host: '127.0.0.1',
      port: server.port,
      ca: tls.ca,
      token: r.token,
      path: `/vms?limit=${count}`,
      count,
      requests: n,
    };
    say(`api-list: ${n} requests, twice`);
    const still = await measured(job);
    const timer = setInterval(() => change(r, vms), 1000 / changesPerSecond);
    const moving = await measured(job);
    clearInterval(timer);
    print('api-list', still, n, 0);
    print('api-list-changing', moving, n, changesPerSecond);
  } finally {
    await server.stop();
    r.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

function print(figure: string, t: ListTimes, n: number, lines: number): void {
  report({
    figure,
    value: percentile(t.ms, 0.99),
    unit: 'ms p99',
    target: { atMost: 50 },
    n,
    median: median(t.ms),
    p99: percentile(t.ms, 0.99),
    compared: { vms: count, bytes: t.bytes, changedLinesPerSecond: lines, worstMs: round(Math.max(...t.ms)) },
  });
}

/** That many VMs over all nodes: each with spec, owner, disk, name, and a line on the radio. */
export function inject(r: Rig, vms = count): VmState[] {
  const nodes = [...r.radio.nodes.keys()];
  const out: VmState[] = [];
  for (let i = 0; i < vms; i++) {
    const id = randomUUID();
    const owner = nodes[i % nodes.length] ?? 'n1';
    const disk: Disk = {
      id: randomUUID(),
      name: 'disk0',
      vm: id,
      pool: r.local,
      node: owner,
      format: 'qcow2',
      sizeBytes: 20 * GiB,
      madeBytes: 20 * GiB,
      source: { kind: 'blank' },
      state: 'ready',
      error: null,
    };
    const spec: VmSpec = {
      id,
      name: `vm-${String(i).padStart(4, '0')}`,
      generation: 3,
      note: '',
      tags: ['bench', i % 2 === 0 ? 'even' : 'odd'],
      cpus: 2,
      memoryMiB: 2048,
      firmware: 'bios',
      boot: ['disk'],
      disks: [{ disk: disk.id, bus: 'virtio' }],
      cdroms: [],
      nics: [],
      cloudInit: null,
      power: 'running',
      powerGeneration: 1,
      stopTimeoutS: 90,
      onCrash: 'restart',
      ha: vmHaDefault,
    };
    const own: VmOwn = { ...firstOwn(owner, null), gen: 2, state: 'running' };
    r.memory.poke(kinds.vmSpec.key(id), writeRecord(kinds.vmSpec, spec));
    r.memory.poke(kinds.vmOwn.key(id), writeRecord(kinds.vmOwn, own));
    r.memory.poke(kinds.disk.key(disk.id), writeRecord(kinds.disk, disk));
    r.memory.poke(unique.name('vm', spec.name), id);
    const state = {
      ...vmState(spec, owner, 'running'),
      hostname: spec.name,
      addresses: [`10.1.${i >> 8}.${i & 255}`],
    };
    r.radio.nodes.get(owner)?.vms.set(id, state);
    out.push(state);
  }
  r.radio.news();
  return out;
}

let changes = 0;

/** One VM says something new, as agents do with their statistics. */
function change(r: Rig, vms: VmState[]): void {
  const i = changes++ % vms.length;
  const old = vms[i];
  if (old === undefined) return;
  const next: VmState = {
    ...old,
    seq: old.seq + 1,
    atMs: Date.now(),
    stats: {
      atMs: Date.now(),
      cpuPct: changes % 100,
      memoryUsedBytes: GiB,
      memoryBytes: 2 * GiB,
      diskReadBps: changes,
      diskWriteBps: changes,
      netRxBps: changes,
      netTxBps: changes,
    },
  };
  vms[i] = next;
  r.radio.nodes.get(next.node)?.vms.set(next.vm, next);
  r.radio.news();
}

/** Asks, from a thread of its own. */
export async function measured(job: ListJob): Promise<ListTimes> {
  const worker = new Worker(new URL('./list-worker.js', import.meta.url), { workerData: job });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the client ended with ${code}`)));
  });
}

/** A certificate of 127.0.0.1, by the project's own CA. */
async function certificate(dir: string): Promise<TlsMaterial> {
  const file = (name: string): string => path.join(dir, name);
  const wallMs = Date.now();
  await ensurePrivateKey(file('ca.key'));
  const key = await ensurePrivateKey(file('node.key'));
  const ca = await makeCa({ clusterId: randomUUID(), keyFile: file('ca.key'), wallMs });
  const csr = await makeCsr({ keyFile: file('node.key'), commonName: 'n1' });
  const cert = await signNode(
    { cert: ca, keyFile: file('ca.key') },
    csr,
    { node: 'n1', addresses: [] },
    wallMs,
  );
  return { ca, cert, key };
}
