/* The client of the benchmarks of the API, in a thread of its own: its work is not the controller's. */
import { parentPort, workerData } from 'node:worker_threads';
import { Api } from './api.js';

export interface ListJob {
  readonly host: string;
  readonly port: number;
  readonly ca: string;
  readonly token: string;
  readonly path: string;
  /** Items the answer must have; null: it is no list. */
  readonly count: number | null;
  readonly requests: number;
}

export interface ListTimes {
  readonly ms: readonly number[];
  readonly bytes: number;
}

const job = workerData as ListJob;
const api = new Api({ host: job.host, port: job.port, ca: job.ca, token: job.token });
const warmUp = 20;

const ms: number[] = [];
let bytes = 0;
for (let i = -warmUp; i < job.requests; i++) {
  const startMs = performance.now();
  const text = await api.raw('GET', job.path);
  const tookMs = performance.now() - startMs;
  if (i >= 0) ms.push(tookMs);
  if (i % 50 !== 0) continue;
  bytes = Buffer.byteLength(text);
  if (job.count === null) continue;
  const { items } = JSON.parse(text) as { items: unknown[] };
  if (items.length !== job.count) throw new Error(`${items.length} VMs instead of ${job.count}`);
}
api.close();
parentPort?.postMessage({ ms, bytes } satisfies ListTimes);
