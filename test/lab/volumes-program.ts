import { createReadStream } from 'node:fs';
import { Bridges } from '../../agent/net/bridges.js';
import { Seeds } from '../../agent/guest/seed.js';
import { Volumes } from '../../agent/pool/volumes.js';
import type { WorkOptions } from '../../agent/env.js';
import type { Disk } from '../../core/domain/disk.js';
import { errorRecord } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import type { Network } from '../../core/domain/network.js';
import type { Pool } from '../../core/domain/pool.js';
import type { VmSpec } from '../../core/domain/vm.js';

/**
 * Runs in a node of the lab: does one thing with the node's own tools and prints the outcome as JSON. The lab's nodes
 * have no test runner, and their qemu-img, xorriso, iproute2 and util-linux are those that ship.
 */
type Job =
  | { do: 'probe'; pool: Pool }
  | { do: 'import'; pool: Pool; image: Image; file: string }
  | { do: 'make'; pool: Pool; disk: Disk; image: Image }
  | { do: 'grow'; pool: Pool; disk: Disk }
  | { do: 'remove'; pool: Pool; disk: Disk }
  | { do: 'sweep'; pool: Pool }
  | { do: 'seed'; spec: VmSpec; network: Network }
  | { do: 'bridge'; network: Network }
  | { do: 'unbridge'; network: Network };

const [node = '', stateDir = '', text = ''] = process.argv.slice(2);
const volumes = new Volumes({
  node,
  boot: `pid-${process.pid}`,
  stateDir,
  fetchImage: () => Promise.reject(new Error('no peer in this test')),
});
const work: WorkOptions = { signal: new AbortController().signal, progress: () => undefined };

async function run(job: Job): Promise<unknown> {
  switch (job.do) {
    case 'probe':
      return volumes.probe(job.pool);
    case 'import':
      await volumes.upload(job.image, job.pool, 0, createReadStream(job.file));
      return volumes.importImage(job.image, job.pool, work);
    case 'make':
      await volumes.makeDisk(job.disk, job.pool, { image: job.image, pool: job.pool }, work);
      return volumes.diskPath(job.disk, job.pool);
    case 'grow':
      return volumes.growDisk(job.disk, job.pool);
    case 'remove':
      return volumes.removeDisk(job.disk, job.pool);
    case 'sweep':
      return volumes.sweep(job.pool, { disks: new Set(), images: new Set() });
    case 'seed':
      return new Seeds({ stateDir }).make(job.spec, new Map([[job.network.id, job.network]]));
    case 'bridge':
      return new Bridges({ node }).ensure(job.network);
    case 'unbridge':
      return new Bridges({ node }).remove(job.network);
  }
}

const outcome = await run(JSON.parse(text) as Job).then(
  (value) => ({ value: value ?? null }),
  (e: unknown) => ({ error: errorRecord(e) }),
);
console.log(JSON.stringify(outcome));
