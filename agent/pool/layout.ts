import { idSchema } from '../../core/domain/schema.js';
import type { Disk } from '../../core/domain/disk.js';
import type { Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { SnapshotDisk } from '../../core/domain/vm-snapshot.js';

/*
 * What stands where in a pool's directory:
 *
 *   .flotilla-pool              whose directory this is; absent: not mounted
 *   images/<id>.<format>        finished images
 *   images/<id>.json            facts of an image; written before the image appears
 *   disks/<id>.<format>         disks of VMs
 *   snapshots/<id>.<format>     disks as they were, whole
 *   incoming/<id>               an upload or download, resumable
 *   incoming/<id>.json          how much of it is safe on the drive, and who writes it
 *   takeover/<vm>.json          who took that VM over last, for nodes that cannot ask the ledger
 *   .<id>.tmp.<node>.<boot>[.x] in any of the folders: work in progress, nobody else's business
 */

export const identityName = '.flotilla-pool';
export const folders = ['images', 'disks', 'snapshots', 'incoming', 'takeover'] as const;
export type Folder = (typeof folders)[number];

export const imageFormats = ['qcow2', 'raw', 'iso'] as const;
export const diskFormats = ['qcow2', 'raw'] as const;

type At = Pick<Pool, 'path'>;

export const folderPath = (pool: At, folder: Folder): string => `${pool.path}/${folder}`;

/** Ids reach paths: anything else than a UUID is a defect of the caller and stops here. */
const safe = (id: string): string => idSchema.parse(id);

export const diskPath = (disk: Pick<Disk, 'id' | 'format'>, pool: At): string =>
  `${pool.path}/disks/${safe(disk.id)}.${disk.format}`;

export const snapshotPath = (volume: Pick<SnapshotDisk, 'id' | 'format'>, pool: At): string =>
  `${pool.path}/snapshots/${safe(volume.id)}.${volume.format}`;

export const imagePath = (image: Pick<Image, 'id' | 'format'>, pool: At): string =>
  `${pool.path}/images/${safe(image.id)}.${image.format}`;

export const imageFactsPath = (imageId: string, pool: At): string =>
  `${pool.path}/images/${safe(imageId)}.json`;
export const takeoverPath = (vmId: string, pool: At): string => `${pool.path}/takeover/${safe(vmId)}.json`;
export const incomingPath = (imageId: string, pool: At): string => `${pool.path}/incoming/${safe(imageId)}`;
export const incomingFactsPath = (imageId: string, pool: At): string =>
  `${pool.path}/incoming/${safe(imageId)}.json`;

/** Who works: on a shared pool several nodes do at once, and each boot of an agent is another worker. */
export interface Worker {
  readonly node: string;
  readonly boot: string;
}

/** A name that no other worker uses, and that tells whose it is when the worker is gone. */
export const tempPath = (pool: At, folder: Folder, id: string, w: Worker, part?: string): string =>
  `${pool.path}/${folder}/.${safe(id)}.tmp.${w.node}.${w.boot}${part === undefined ? '' : `.${part}`}`;

export interface TempName extends Worker {
  readonly id: string;
}

/** @returns null for what is not a temporary name of ours: such a file is never touched */
export function parseTempName(name: string): TempName | null {
  const m = /^\.([0-9a-f-]{36})\.tmp\.([a-z0-9-]{1,32})\.([A-Za-z0-9-]{1,64})(?:\.[a-z]{1,8})?$/.exec(name);
  if (!m) return null;
  const [, id = '', node = '', boot = ''] = m;
  return idSchema.safeParse(id).success ? { id, node, boot } : null;
}

/** @returns the object of a finished file's name, e.g. `<id>.qcow2` or `<id>.json`; null: not of ours */
export function parseFinalName(name: string): { id: string; ext: string } | null {
  const m = /^([0-9a-f-]{36})(?:\.([a-z0-9]{1,8}))?$/.exec(name);
  if (!m) return null;
  const [, id = '', ext = ''] = m;
  return idSchema.safeParse(id).success ? { id, ext } : null;
}
