import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { z } from 'zod';
import type { Disk } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Pool } from '../../core/domain/pool.js';
import { idSchema } from '../../core/domain/schema.js';
import { descriptorOf, fileNameOf, type ExportedDisk, type ExportedVm } from '../../core/ovf/export.js';
import type { SnapshotDisk } from '../../core/domain/vm-snapshot.js';
import type { Exports, PackedDisk, WorkOptions } from '../env.js';
import { tarBytes, tarOf, type TarPart } from '../ovf/tar-writer.js';
import type { Files } from '../pool/files.js';
import { sha256Of } from '../pool/facts.js';
import type { QemuImg } from '../pool/qemu-img.js';
import type { Tool } from '../pool/tool.js';

const readBytes = 256 * 1024;

/** What lies in an export's folder when it is whole: the files of its archive, in their order. */
const indexSchema = z.object({
  name: z.string(),
  parts: z.array(
    z.object({
      name: z.string(),
      sizeBytes: z.number().int().nonnegative(),
      /** Small ones are here; null: a file of this name beside. */
      text: z.string().nullable(),
    }),
  ),
});
type Index = z.output<typeof indexSchema>;

/** An export that is whole, as the archive it is sent as. */
export interface ExportArchive {
  readonly name: string;
  readonly sizeBytes: number;
  /** @param from - byte to begin at */
  read(from: number): AsyncGenerator<Buffer>;
}

export interface PackageWriterOptions {
  readonly files: Files;
  readonly run: Tool;
  readonly qemuImg: QemuImg;
  /** Makes it readable; `sizeBytes`: the device holds more than the disk. */
  readonly open: (d: PackedDisk) => Promise<{ path: string; format: string; sizeBytes?: number }>;
  /** Bytes that may be used in a pool. */
  readonly usableBytes: (pool: Pool) => Promise<number>;
}

/** Packages of VMs that are made to be fetched, each in a folder of a pool: `exports/<op>/`. */
export class PackageWriter implements Exports {
  readonly #o: PackageWriterOptions;

  constructor(o: PackageWriterOptions) {
    this.#o = o;
  }

  async make(
    op: string,
    vm: Omit<ExportedVm, 'disks'> & { disks: readonly PackedDisk[] },
    into: Pool,
    o: WorkOptions,
  ): Promise<{ sizeBytes: number }> {
    const { files, run, qemuImg } = this.#o;
    const folder = folderOf(op, into);
    const base = fileNameOf(vm.spec.name);
    await rm(folder, { recursive: true, force: true });
    await files.makeDir(folder);
    try {
      const made: (ExportedDisk & { sha256: string })[] = [];
      const total = vm.disks.reduce((n, d) => n + facts(d).sizeBytes, 0);
      let done = 0;
      for (const [i, packed] of vm.disks.entries()) {
        const { name, sizeBytes } = facts(packed);
        await this.#needSpace(name, into);
        const href = `${base}-disk${i + 1}.vmdk`;
        const path = `${folder}/${href}`;
        await qemuImg.convert(
          await this.#o.open(packed),
          { format: 'vmdk', path, options: 'subformat=streamOptimized' },
          {
            signal: o.signal,
            progress: (share) =>
              o.progress(((done + share * sizeBytes) / total) * 0.95, `packs disk ${name}`),
          },
        );
        const storedBytes = (await files.stat(path))?.sizeBytes ?? 0;
        const sha256 = await sha256Of(run, path, storedBytes, o.signal);
        made.push({ bus: packed.bus, name, capacityBytes: sizeBytes, href, storedBytes, sha256 });
        done += sizeBytes;
      }
      const descriptor = descriptorOf({ spec: vm.spec, nics: vm.nics, disks: made });
      const lines = [
        [`${base}.ovf`, createHash('sha256').update(descriptor).digest('hex')],
        ...made.map((d) => [d.href, d.sha256]),
      ];
      const manifest = lines.map(([name, hex]) => `SHA256(${name})= ${hex}\n`).join('');
      const text = (name: string, t: string): Index['parts'][number] => ({
        name,
        sizeBytes: Buffer.byteLength(t),
        text: t,
      });
      const index: Index = {
        name: base,
        parts: [
          text(`${base}.ovf`, descriptor),
          text(`${base}.mf`, manifest),
          ...made.map((d) => ({ name: d.href, sizeBytes: d.storedBytes, text: null })),
        ],
      };
      // Last: a folder with it is whole.
      await files.writeText(`${folder}/.index.tmp`, `${folder}/index.json`, JSON.stringify(index));
      return { sizeBytes: tarBytes(index.parts) };
    } catch (e) {
      await rm(folder, { recursive: true, force: true });
      throw e;
    }
  }

  /** @returns null: there is none */
  async open(op: string, pools: readonly Pool[]): Promise<ExportArchive | null> {
    for (const pool of pools) {
      if (pool.kind === 'thin') continue;
      const folder = folderOf(op, pool);
      const text = await this.#o.files.readText(`${folder}/index.json`);
      if (text === null) continue;
      const index = indexSchema.parse(JSON.parse(text));
      return {
        name: index.name,
        sizeBytes: tarBytes(index.parts),
        read: (from) => tarOf(partsOf(index, folder), from),
      };
    }
    return null;
  }

  async sweep(pools: readonly Pool[], keep: ReadonlySet<string>): Promise<void> {
    for (const pool of pools) {
      if (pool.kind === 'thin') continue;
      const names = await readdir(`${pool.path}/exports`).catch(() => []);
      for (const name of names)
        if (idSchema.safeParse(name).success && !keep.has(name))
          await rm(folderOf(name, pool), { recursive: true, force: true });
    }
  }

  async #needSpace(disk: string, into: Pool): Promise<void> {
    const usableBytes = await this.#o.usableBytes(into);
    // What packs badly is hardly longer than its disk, and disks are seldom full: only what is sure to fail is refused.
    if (usableBytes > 0) return;
    throw new FlotillaError('no-space', `Disk "${disk}" cannot be packed: pool "${into.name}" is full`, {
      hint: 'Make room there; the package lies in it until it is fetched.',
    });
  }
}

const facts = (d: PackedDisk): Disk | SnapshotDisk => ('disk' in d ? d.disk : d.snapshot);

const folderOf = (op: string, pool: Pool): string => `${pool.path}/exports/${idSchema.parse(op)}`;

/** The archive's files: small ones are in the index, the others beside it. */
const partsOf = (index: Index, folder: string): TarPart[] =>
  index.parts.map((part) => ({
    name: part.name,
    sizeBytes: part.sizeBytes,
    read: async function* (start: number) {
      if (part.text !== null) yield Buffer.from(part.text).subarray(start);
      else if (start < part.sizeBytes)
        for await (const data of createReadStream(`${folder}/${part.name}`, {
          start,
          end: part.sizeBytes - 1,
          highWaterMark: readBytes,
        }))
          yield data as Buffer;
    },
  }));
