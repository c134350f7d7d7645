import type { FileHandle } from 'node:fs/promises';

/** Clusters are gathered into writes of this size. */
const writeBytes = 1024 * 1024;
/** Tables kept in memory: 8 MiB at 64 KiB each, 64 GiB of a disk. Others are written, and read again when needed. */
const tablesMaxDefault = 128;
/** After so many bytes the kernel is told to write them to the drive, so that there is little left to wait for. */
const flushEveryBytes = 64 * 1024 * 1024;
const refcountBytes = 2;
const headerBytes = 112;
/** In an entry: nothing else refers to this cluster. */
const copied = 0x8000_0000;

/** An L2 table: where its clusters stand in the file. */
interface Table {
  readonly entries: Buffer;
  /** Its place; 0: none yet. */
  offset: number;
  changed: boolean;
}

/**
 * Writes a qcow2 file as its clusters come, each once, in any order, with few of its tables in memory. Before `finish`
 * the file is none.
 *
 * @see qemu docs/interop/qcow2.txt, version 3
 */
export class Qcow2Writer {
  readonly #file: FileHandle;
  readonly #sizeBytes: number;
  readonly #clusterBytes: number;
  readonly #entries: number;
  readonly #tablesMax: number;
  readonly #l1: Buffer;
  readonly #zeros: Buffer;
  readonly #tables = new Map<number, Table>();
  /** Clusters that wait to be written, and their bytes. */
  #gathered: Buffer[] = [];
  #filled = 0;
  /** Where they will stand in the file; the first cluster is the header's. */
  #bufferAt: number;
  #flushed = 0;
  #writing: Promise<unknown> = Promise.resolve();
  #flushing: Promise<unknown> | null = null;

  /** @param clusterBytes - a power of two, 64 KiB to 1 MiB */
  constructor(file: FileHandle, o: { sizeBytes: number; clusterBytes: number; tablesMax?: number }) {
    this.#file = file;
    this.#sizeBytes = o.sizeBytes;
    this.#clusterBytes = o.clusterBytes;
    this.#entries = o.clusterBytes / 8;
    this.#tablesMax = o.tablesMax ?? tablesMaxDefault;
    this.#l1 = Buffer.alloc(Math.max(1, Math.ceil(o.sizeBytes / (o.clusterBytes * this.#entries))) * 8);
    this.#zeros = Buffer.alloc(o.clusterBytes);
    this.#bufferAt = o.clusterBytes;
  }

  /** Bytes of the file so far. */
  get bytes(): number {
    return this.#bufferAt + this.#filled;
  }

  /**
   * Calls must not overlap.
   *
   * @param data - a whole cluster, which must not change afterwards; zeros take no space
   * @returns false: this cluster was put already
   */
  async put(index: number, data: Buffer): Promise<boolean> {
    const table =
      this.#tables.get(Math.floor(index / this.#entries)) ??
      (await this.#table(Math.floor(index / this.#entries)));
    const entry = (index % this.#entries) * 8;
    if (table.entries.readUInt32BE(entry) !== 0) return false;
    if (data.equals(this.#zeros)) return true;
    const offset = await this.#append(data);
    writeEntry(table.entries, entry, offset);
    table.changed = true;
    return true;
  }

  /** Writes what makes it a qcow2 file, and waits until the drive has all. */
  async finish(): Promise<void> {
    for (const [number, table] of this.#tables) await this.#write(number, table);
    this.#tables.clear();
    const l1At = await this.#appendAll(this.#l1);
    const used = this.bytes / this.#clusterBytes;
    const perBlock = this.#clusterBytes / refcountBytes;
    let blocks = 0;
    let tableClusters = 0;
    for (let before = -1; before !== blocks + tableClusters;) {
      before = blocks + tableClusters;
      blocks = Math.ceil((used + before) / perBlock);
      tableClusters = Math.ceil((blocks * 8) / this.#clusterBytes);
    }
    const total = used + blocks + tableClusters;
    const blocksAt = this.bytes;
    const block = Buffer.alloc(this.#clusterBytes);
    for (let p = 0; p < perBlock; p += 1) block.writeUInt16BE(1, p * refcountBytes);
    for (let b = 0; b < blocks; b += 1) {
      const here = Math.min(perBlock, total - b * perBlock);
      await this.#append(here === perBlock ? block : Buffer.from(block).fill(0, here * refcountBytes));
    }
    const refcounts = Buffer.alloc(tableClusters * this.#clusterBytes);
    for (let b = 0; b < blocks; b += 1) {
      const at = blocksAt + b * this.#clusterBytes;
      refcounts.writeBigUInt64BE(BigInt(at), b * 8);
    }
    const refcountsAt = await this.#appendAll(refcounts);
    await this.#drain();
    await this.#writing;
    await writeAll(this.#file, [this.#header(l1At, refcountsAt, tableClusters)], 0);
    await this.#flushing;
    await this.#file.sync();
  }

  #header(l1At: number, refcountsAt: number, refcountClusters: number): Buffer {
    const h = Buffer.alloc(this.#clusterBytes);
    h.writeUInt32BE(0x514649fb, 0);
    h.writeUInt32BE(3, 4);
    h.writeUInt32BE(Math.log2(this.#clusterBytes), 20);
    h.writeBigUInt64BE(BigInt(this.#sizeBytes), 24);
    h.writeUInt32BE(this.#l1.length / 8, 36);
    h.writeBigUInt64BE(BigInt(l1At), 40);
    h.writeBigUInt64BE(BigInt(refcountsAt), 48);
    h.writeUInt32BE(refcountClusters, 56);
    h.writeUInt32BE(4, 96);
    h.writeUInt32BE(headerBytes, 100);
    return h;
  }

  async #table(number: number): Promise<Table> {
    if (this.#tables.size >= this.#tablesMax) {
      const [oldest, old] = this.#tables.entries().next().value ?? [];
      if (oldest !== undefined && old !== undefined) {
        await this.#write(oldest, old);
        this.#tables.delete(oldest);
      }
    }
    const offset = this.#l1.readUInt32BE(number * 8) === 0 ? 0 : Number(entryAt(this.#l1, number * 8));
    const entries = Buffer.alloc(this.#clusterBytes);
    if (offset > 0) {
      await this.#drain();
      await this.#writing;
      await this.#file.read(entries, 0, entries.length, offset);
    }
    const table = { entries, offset, changed: false };
    this.#tables.set(number, table);
    return table;
  }

  async #write(number: number, table: Table): Promise<void> {
    if (!table.changed) return;
    table.changed = false;
    if (table.offset === 0) {
      table.offset = await this.#append(table.entries);
      writeEntry(this.#l1, number * 8, table.offset);
      return;
    }
    await this.#drain();
    await this.#writing;
    await writeAll(this.#file, [table.entries], table.offset);
  }

  /** @param cluster - must not change afterwards @returns where it will stand */
  async #append(cluster: Buffer): Promise<number> {
    if (this.#filled + cluster.length > writeBytes) await this.#drain();
    const offset = this.bytes;
    this.#gathered.push(cluster);
    this.#filled += cluster.length;
    return offset;
  }

  async #appendAll(data: Buffer): Promise<number> {
    const offset = this.bytes;
    for (let p = 0; p < data.length; p += this.#clusterBytes) {
      const cluster = Buffer.alloc(this.#clusterBytes);
      data.copy(cluster, 0, p, Math.min(data.length, p + this.#clusterBytes));
      await this.#append(cluster);
    }
    return offset;
  }

  /** Hands what is gathered to the kernel; one write is under way while the next is gathered. */
  async #drain(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#writing;
    const work = writeAll(this.#file, this.#gathered, this.#bufferAt);
    // A fault is told at the next wait for it.
    work.catch(() => undefined);
    this.#writing = work;
    this.#bufferAt += this.#filled;
    this.#filled = 0;
    this.#gathered = [];
    if (this.#flushing === null && this.#bufferAt - this.#flushed >= flushEveryBytes) {
      this.#flushed = this.#bufferAt;
      const flush = this.#file.datasync();
      this.#flushing = flush.finally(() => (this.#flushing = null));
      this.#flushing.catch(() => undefined);
    }
  }
}

function writeEntry(table: Buffer, at: number, offset: number): void {
  table.writeUInt32BE((copied | Math.floor(offset / 2 ** 32)) >>> 0, at);
  table.writeUInt32BE(offset >>> 0, at + 4);
}

const entryAt = (table: Buffer, at: number): bigint => table.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n;

async function writeAll(file: FileHandle, parts: readonly Buffer[], at: number): Promise<void> {
  const bytes = parts.reduce((n, p) => n + p.length, 0);
  let { bytesWritten: done } = await file.writev(parts, at);
  if (done === bytes) return;
  // Less than all is written where the file system is about to be full, or the call was interrupted.
  const whole = Buffer.concat(parts);
  while (done < bytes) done += (await file.write(whole, done, bytes - done, at + done)).bytesWritten;
}
