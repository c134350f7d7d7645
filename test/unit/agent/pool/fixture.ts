import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import type { Disk } from '../../../../core/domain/disk.js';
import type { Image } from '../../../../core/domain/image.js';
import type { Pool } from '../../../../core/domain/pool.js';
import { FlotillaError, type ErrorCode } from '../../../../core/domain/error.js';
import { Volumes, type VolumesOptions } from '../../../../agent/pool/volumes.js';
import type { WorkOptions } from '../../../../agent/env.js';

export const MiB = 1024 * 1024;

export const qemuImg = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });

/** Virtual size, backing file... as qemu-img tells it: the oracle. */
export function infoOf(path: string): {
  'virtual-size': number;
  'backing-filename'?: string;
  format: string;
} {
  return JSON.parse(qemuImg('info', '--output=json', path)) as ReturnType<typeof infoOf>;
}

/** Bytes that do not compress and are no zeros, the same each time. */
export function noise(bytes: number, seed = 1): Buffer {
  const b = Buffer.alloc(bytes);
  let x = seed >>> 0 || 1;
  for (let i = 0; i + 4 <= bytes; i += 4) {
    x ^= x << 13;
    x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5;
    x >>>= 0;
    b.writeUInt32LE(x, i);
  }
  return b;
}

export const poolAt = (path: string, o: Partial<Pool> = {}): Pool => ({
  id: randomUUID(),
  name: 'test',
  kind: 'local',
  path,
  nodes: null,
  reservePct: 0,
  ...o,
});

export const diskOf = (pool: Pool, o: Partial<Disk> = {}): Disk => ({
  id: randomUUID(),
  name: 'root',
  vm: randomUUID(),
  pool: pool.id,
  node: pool.kind === 'local' ? 'n1' : null,
  format: 'qcow2',
  sizeBytes: 8 * MiB,
  source: { kind: 'blank' },
  madeBytes: 0,
  state: 'wanted',
  error: null,
  ...o,
});

export const imageOf = (pool: Pool, o: Partial<Image> = {}): Image => ({
  id: randomUUID(),
  name: 'debian',
  pool: pool.id,
  node: pool.kind === 'local' ? 'n1' : null,
  state: 'uploading',
  format: 'qcow2',
  expectedBytes: null,
  sizeBytes: 0,
  virtualSizeBytes: 0,
  sha256: null,
  source: null,
  createdMs: 0,
  error: null,
  ...o,
});

export const noPeer: VolumesOptions['fetchImage'] = async () => {
  throw new Error('no peer is asked in this test');
};

export function volumesAt(dir: string, o: Partial<VolumesOptions> = {}): Volumes {
  return new Volumes({
    node: 'n1',
    boot: 'boot-1',
    stateDir: `${dir}/state`,
    fetchImage: noPeer,
    sharedNeedsMount: false,
    source: { allowAddress: () => true },
    ...o,
  });
}

export const work = (o: Partial<WorkOptions> = {}): WorkOptions => ({
  signal: new AbortController().signal,
  progress: () => undefined,
  ...o,
});

export async function* bytesOf(...parts: (Uint8Array | string)[]): AsyncGenerator<Uint8Array> {
  for (const p of parts) yield typeof p === 'string' ? Buffer.from(p) : p;
}

/** The error's code and message, or null when the work ended well. */
export async function faultOf(promise: Promise<unknown>): Promise<FlotillaError | null> {
  try {
    await promise;
    return null;
  } catch (e) {
    if (e instanceof FlotillaError) return e;
    throw e;
  }
}

export async function codeOf(promise: Promise<unknown>): Promise<ErrorCode | null> {
  return (await faultOf(promise))?.code ?? null;
}

/** All files below a directory, without our probe and mark. */
export function filesBelow(dir: string): string[] {
  return fs
    .readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && !e.name.startsWith('.probe.') && e.name !== '.flotilla-pool')
    .map((e) => `${e.parentPath}/${e.name}`.slice(dir.length + 1))
    .sort();
}

/** An image that is ready, made by import of `file`. */
export async function importFile(
  v: Volumes,
  pool: Pool,
  file: string,
  o: Partial<Image> = {},
): Promise<Image> {
  const image = imageOf(pool, o);
  await v.upload(image, pool, 0, fs.createReadStream(file));
  return { ...image, ...(await v.importImage(image, pool, work())), state: 'ready' };
}
