import type { Disk } from '../../../../core/domain/disk.js';
import type { Image } from '../../../../core/domain/image.js';
import type { Pool } from '../../../../core/domain/pool.js';
import { volumesAt, work } from './fixture.js';

/** A process that makes one disk, to be killed at it. */
const job = JSON.parse(process.argv[2] ?? '') as { dir: string; pool: Pool; image: Image; disk: Disk };
await volumesAt(job.dir, { boot: 'boot-2' }).makeDisk(
  job.disk,
  job.pool,
  { image: job.image, pool: job.pool },
  work(),
);
