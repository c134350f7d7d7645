import { checkpointEveryMs } from '../../core/decide/lockstep.js';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import { names, tlsObject, type TwinPorts } from './command-line.js';
import type { Qmp, QmpEvent } from './qmp.js';

/**
 * The words to QEMU by which a machine gets a twin, loses it, or goes on as one. Who may do what is decided elsewhere.
 *
 * What a primary's guest sends is kept by `compare` until the twin's guest has sent the same, or until the next checkpoint,
 * which makes both the same. So nothing of a primary leaves while its twin does not answer.
 *
 * @see QEMU 11.1: "COLO-FT Fault Tolerance", qmp-ref; measured sequences in docs/lockstep.md
 */

/** A packet that the twin has not sent within that causes a checkpoint, ms. QEMU's 3 s would be felt. */
const compareTimeoutMs = 200;
/** Packets are looked through so often, ms. */
const compareScanMs = 100;
/** What ends by itself in a blink on an idle node: a state that follows a command. */
const stepMs = 30_000;
/** Memory of gigabytes over a slow network, and the first checkpoint after it. */
const copyMs = 30 * 60_000;

/** Names of one pair in the primary's QEMU: each pair has its own, so that what one left behind is in no other's way. */
export interface PairNames {
  readonly tls: string;
  readonly nbd: string;
  readonly mirror: string;
  readonly verdict: string;
  readonly filters: readonly [string, string, string];
  readonly compare: string;
  readonly iothread: string;
  /** Two chardevs each, that are two ends of one socket within this QEMU. */
  readonly loops: { readonly out: readonly [string, string]; readonly own: readonly [string, string] };
}

export const pairNames = (gen: number): PairNames => ({
  tls: `tls-${gen}`,
  nbd: `nbd-${gen}`,
  mirror: `mirror-${gen}`,
  verdict: `verdict-${gen}`,
  filters: [`fm-${gen}`, `fo-${gen}`, `fi-${gen}`],
  compare: `compare-${gen}`,
  iothread: `comparer-${gen}`,
  loops: { out: [`out-${gen}`, `outs-${gen}`], own: [`own-${gen}`, `owns-${gen}`] },
});

/** True for the events of a checkpoint: the guest stands still, or goes on. */
const isEvent =
  (...of: string[]) =>
  (e: QmpEvent): boolean =>
    of.includes(e.event);

/** A job or the copying came to a bad end; said as soon as it is, for those who wait for the good one. */
function failIf(e: QmpEvent, job: string): void {
  const { device, error } = e.data;
  if (
    (e.event === 'BLOCK_JOB_COMPLETED' && device === job && error !== undefined) ||
    e.event === 'BLOCK_JOB_ERROR'
  )
    throw failed(
      `its disk is not copied: ${typeof error === 'string' ? error : 'an error of the disk or of the network'}`,
    );
  if (e.event === 'MIGRATION' && e.data['status'] === 'failed') throw failed('its memory is not copied');
  if (e.event === 'COLO_EXIT') throw failed(`its twin was lost at once (${String(e.data['reason'])})`);
}

const failed = (why: string): FlotillaError =>
  new FlotillaError('tool-failed', `The VM has no twin: ${why}`, {
    hint: 'It goes on alone, and another try is made. The journals of both nodes have more.',
  });

/** On a twin: opens its disk and its memory to the primary. */
export async function openDoors(qmp: Qmp, address: string, ports: TwinPorts): Promise<void> {
  await setCapabilities(qmp);
  await qmp.ask('migrate-set-parameters', { 'tls-creds': names.tls });
  await qmp.ask('nbd-server-start', {
    addr: { type: 'inet', data: { host: address, port: String(ports.disk) } },
    'tls-creds': names.tls,
  });
  await qmp.ask('block-export-add', {
    type: 'nbd',
    id: names.export,
    'node-name': names.base,
    name: names.export,
    writable: true,
  });
  await qmp.ask('migrate-incoming', { uri: `tcp:${address}:${ports.memory}` });
}

const setCapabilities = (qmp: Qmp, on = true): Promise<unknown> =>
  qmp.ask('migrate-set-capabilities', {
    capabilities: ['x-colo', 'return-path', 'events'].map((capability) => ({ capability, state: on })),
  });

export interface JoinPlan {
  readonly gen: number;
  readonly address: string;
  readonly ports: TwinPorts;
  readonly tlsDir: string;
  /** For sockets within QEMU. */
  readonly runDir: string;
  /** It was a twin itself: its filters go before the one that rewrites. */
  readonly wasTwin: boolean;
  readonly signal: AbortSignal;
  progress(share: number): void;
  nowMs(): number;
}

/**
 * On the owner: the disk is copied while the guest runs, then it stands still, its memory is copied, and both run. A guest that
 * runs meanwhile gets a twin with other memory (measured), so there is no other way.
 *
 * Failed or cancelled it leaves all as it is: {@link drop} tidies up.
 *
 * @returns how long the guest stood still, ms
 */
export async function join(qmp: Qmp, p: JoinPlan): Promise<number> {
  const n = pairNames(p.gen);
  const { signal } = p;
  const host = p.address;
  await qmp.ask('object-add', tlsObject(n.tls, 'client', p.tlsDir));
  await connectTwin(qmp, n.mirror, host, p.ports.input, n.tls);
  await connectTwin(qmp, n.verdict, host, p.ports.output, n.tls);
  for (const [near, far] of [n.loops.out, n.loops.own]) {
    const addr = { type: 'unix', data: { path: `${p.runDir}/${near}.sock` } };
    const local = (server: boolean): object => ({
      type: 'socket',
      data: { addr, server, ...(server ? { wait: false } : {}) },
    });
    await qmp.ask('chardev-add', { id: near, backend: local(true) });
    await qmp.ask('chardev-add', { id: far, backend: local(false) });
  }
  await qmp.ask('blockdev-add', {
    driver: 'nbd',
    'node-name': n.nbd,
    server: { type: 'inet', host, port: String(p.ports.disk) },
    export: names.export,
    'tls-creds': n.tls,
    'tls-hostname': host,
    'detect-zeroes': 'on',
  });
  await copyDisk(qmp, n.nbd, p);
  const stoppedMs = p.nowMs();
  await qmp.ask('stop');
  const completed = qmp.until(
    'the copy of the disk',
    (e) => (failIf(e, n.nbd), e.event === 'BLOCK_JOB_COMPLETED'),
    {
      deadlineMs: copyMs,
      signal,
    },
  );
  await qmp.ask('block-job-cancel', { device: n.nbd });
  await completed;
  await qmp.ask('x-blockdev-change', { parent: names.disk, node: n.nbd });
  await addFilters(qmp, n, p.wasTwin);
  await setCapabilities(qmp);
  await qmp.ask('migrate-set-parameters', {
    // At least so often; guests that differ cause one at once.
    'x-checkpoint-delay': checkpointEveryMs,
    'max-bandwidth': 0,
    'tls-creds': n.tls,
    'tls-hostname': host,
  });
  const o = { deadlineMs: copyMs, signal };
  const resumed = qmp.until('the first common step', (e) => (failIf(e, n.nbd), isEvent('RESUME')(e)), o);
  await qmp.ask('migrate', { uri: `tcp:${host}:${p.ports.memory}` });
  await resumed;
  const pausedMs = p.nowMs() - stoppedMs;
  p.progress(0.99);
  // Only a further checkpoint shows that the twin keeps up.
  await qmp.until('the first checkpoint', (e) => (failIf(e, n.nbd), isEvent('RESUME')(e)), o);
  return pausedMs;
}

async function connectTwin(qmp: Qmp, id: string, host: string, port: number, tls: string): Promise<void> {
  await qmp.ask('chardev-add', {
    id,
    backend: {
      type: 'socket',
      data: { addr: { type: 'inet', data: { host, port: String(port) } }, server: false, 'tls-creds': tls },
    },
  });
}

async function copyDisk(qmp: Qmp, target: string, p: JoinPlan): Promise<void> {
  const ready = qmp.until('the copy of the disk', (e) => (failIf(e, target), e.event === 'BLOCK_JOB_READY'), {
    deadlineMs: copyMs,
    signal: p.signal,
  });
  await qmp.ask('blockdev-mirror', { 'job-id': target, device: names.disk, target, sync: 'full' });
  const look = setInterval(() => {
    void qmp.ask('query-block-jobs').then(
      (jobs) => {
        const [job] = Array.isArray(jobs) ? (jobs as { offset?: number; len?: number }[]) : [];
        // Memory is the rest; how long it takes nobody knows before.
        if (job?.len !== undefined && job.len > 0) p.progress((0.9 * (job.offset ?? 0)) / job.len);
      },
      () => undefined,
    );
  }, 1_000);
  try {
    await ready;
  } finally {
    clearInterval(look);
  }
}

async function addFilters(qmp: Qmp, n: PairNames, wasTwin: boolean): Promise<void> {
  const of = {
    netdev: names.nic,
    vnet_hdr_support: true,
    ...(wasTwin ? { insert: 'before', position: `id=${names.rewriter}` } : {}),
  };
  const [mirror, out, own] = n.filters;
  await qmp.ask('object-add', {
    'qom-type': 'filter-mirror',
    id: mirror,
    queue: 'tx',
    outdev: n.mirror,
    ...of,
  });
  await qmp.ask('object-add', {
    'qom-type': 'filter-redirector',
    id: out,
    queue: 'rx',
    indev: n.loops.out[0],
    ...of,
  });
  await qmp.ask('object-add', {
    'qom-type': 'filter-redirector',
    id: own,
    queue: 'rx',
    outdev: n.loops.own[0],
    ...of,
  });
  await qmp.ask('object-add', { 'qom-type': 'iothread', id: n.iothread });
  await qmp.ask('object-add', {
    'qom-type': 'colo-compare',
    id: n.compare,
    primary_in: n.loops.own[1],
    secondary_in: n.verdict,
    outdev: n.loops.out[1],
    iothread: n.iothread,
    vnet_hdr_support: true,
    compare_timeout: compareTimeoutMs,
    expired_scan_cycle: compareScanMs,
  });
}

/**
 * On the owner: whatever it has of a pair goes, and its guest goes on. What hangs on the other machine is broken first, past
 * whatever waits for it. Repeated, or with half of a pair, it does what is left to do.
 */
export async function drop(qmp: Qmp, gen: number): Promise<void> {
  const n = pairNames(gen);
  await yank(qmp, [n.mirror, n.verdict], [n.nbd]);
  await ifThere(qmp.ask('block-job-cancel', { device: n.nbd, force: true }));
  await ifThere(qmp.ask('x-blockdev-change', { parent: names.disk, child: 'children.1' }));
  // Nothing more goes into the comparing: whoever takes it away while it sends brings QEMU down (measured).
  for (const id of n.filters)
    await ifThere(qmp.ask('qom-set', { path: `/objects/${id}`, property: 'status', value: 'off' }));
  await ifThere(qmp.ask('x-colo-lost-heartbeat'));
  const { status } = (await qmp.ask('query-migrate')) as { status?: string };
  if (['setup', 'active', 'device'].includes(status ?? '')) await ifThere(qmp.ask('migrate_cancel'));
  await goOn(qmp);
  for (const id of n.filters) await ifThere(qmp.ask('object-del', { id }));
  await ifThere(qmp.ask('object-del', { id: n.compare }));
  await ifThere(qmp.ask('object-del', { id: n.iothread }));
  for (const id of [n.mirror, n.verdict, ...n.loops.own, ...n.loops.out])
    await ifThere(qmp.ask('chardev-remove', { id }));
  await ifThere(qmp.ask('blockdev-del', { 'node-name': n.nbd }));
  await setCapabilities(qmp, false);
  await qmp.ask('migrate-set-parameters', { 'tls-creds': '', 'tls-hostname': '' });
  await ifThere(qmp.ask('object-del', { id: n.tls }));
}

/** On a twin: its channels to the primary end, past whatever waits for them. Nothing of the primary leaves from here on. */
export async function shut(qmp: Qmp): Promise<void> {
  await yank(qmp, [names.input.chardev, names.output.chardev], []);
  await ifThere(qmp.ask('nbd-server-stop'));
}

/**
 * On a twin after {@link shut}: it is the machine now. `connect` joins its NIC to the network, once it runs.
 */
export async function takeOver(qmp: Qmp, connect: () => Promise<void>): Promise<void> {
  await ifThere(qmp.ask('x-colo-lost-heartbeat'));
  await goOn(qmp);
  await connect();
  for (const { filter } of [names.output, names.input]) await ifThere(qmp.ask('object-del', { id: filter }));
  for (const { chardev } of [names.output, names.input])
    await ifThere(qmp.ask('chardev-remove', { id: chardev }));
  await qmp.ask('announce-self', { initial: 50, max: 500, rounds: 5, step: 100 });
  await setCapabilities(qmp, false);
  await qmp.ask('migrate-set-parameters', { 'tls-creds': '' });
  await ifThere(qmp.ask('object-del', { id: names.tls }));
}

/** Waits until the guest runs, where it does not by itself starts it. */
async function goOn(qmp: Qmp): Promise<void> {
  const until = performance.now() + stepMs;
  for (;;) {
    const { status, running } = (await qmp.ask('query-status')) as { status: string; running: boolean };
    if (running) return;
    // `colo`, `finish-migrate`: it is on its way.
    if (['paused', 'prelaunch', 'postmigrate'].includes(status)) await ifThere(qmp.ask('cont'));
    if (performance.now() > until) throw failed(`it stands still (${status})`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Breaks what is there of these. Never the monitor's own channel. */
async function yank(qmp: Qmp, chardevs: readonly string[], nodes: readonly string[]): Promise<void> {
  const all = (await qmp.askNow('query-yank')) as { type: string; id?: string; 'node-name'?: string }[];
  const instances = all.filter(
    (i) =>
      i.type === 'migration' ||
      (i.type === 'chardev' && chardevs.includes(i.id ?? '')) ||
      (i.type === 'block-node' && nodes.includes(i['node-name'] ?? '')),
  );
  if (instances.length > 0) await qmp.askNow('yank', { instances });
}

/** QEMU's refusal means that there is nothing to do: the thing is not there, or not in that state. */
async function ifThere(asked: Promise<unknown>): Promise<void> {
  await asked.catch((e: unknown) => {
    if (errorRecord(e).code !== 'hypervisor-error') throw e;
  });
}
