import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { createInflate, type Inflate } from 'node:zlib';
import { Qcow2Writer } from './qcow2-writer.js';
import { VmdkFault, VmdkReader, type Grain, type StreamedVmdk } from './vmdk-stream.js';

/** Grains unpacked at the same time: one may be written while these keep two cores at work. */
const lanes = 3;
/** Grains that wait for a lane, at most: 4 MiB at 64 KiB each. */
const waitingMax = 64;

/** What came in when it is whole. */
export interface TakenIn {
  /** Of the bytes as they came. */
  readonly sha256: string;
  readonly virtualSizeBytes: number;
}

/**
 * A stream-optimised vmdk that becomes a qcow2 file as its bytes come: what came is never stored as it is. Breaks between
 * pieces do not matter to it, the end of its process does: then it is begun anew.
 */
export class Intake {
  readonly #file: FileHandle;
  readonly #facts: StreamedVmdk;
  readonly #reader: VmdkReader;
  readonly #writer: Qcow2Writer;
  readonly #hash = createHash('sha256');
  readonly #lanes: Lane[];
  readonly #idle: Lane[];
  readonly #waiting: Grain[] = [];
  #turn: Promise<void> = Promise.resolve();
  #fault: Error | null = null;
  #offset = 0;
  /** Called when a lane is free again. */
  #freed: (() => void) | null = null;

  /** @param file - empty; it is closed by `close` */
  constructor(file: FileHandle, facts: StreamedVmdk, o: { tablesMax?: number } = {}) {
    this.#file = file;
    this.#facts = facts;
    this.#reader = new VmdkReader(facts);
    this.#writer = new Qcow2Writer(file, {
      sizeBytes: facts.virtualSizeBytes,
      clusterBytes: facts.grainBytes,
      ...o,
    });
    this.#lanes = Array.from({ length: lanes }, () => new Lane(facts.grainBytes));
    this.#idle = [...this.#lanes];
  }

  /** Bytes that came. */
  get offset(): number {
    return this.#offset;
  }

  /** Bytes that were written. */
  get writtenBytes(): number {
    return this.#writer.bytes;
  }

  /**
   * Takes the next bytes, which must not change afterwards. Returns when the next may come.
   *
   * @throws VmdkFault; what the file throws. It is of no use afterwards.
   */
  async push(chunk: Uint8Array): Promise<void> {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#offset += bytes.length;
    this.#hash.update(bytes);
    for (const grain of this.#reader.push(bytes)) {
      this.#waiting.push(grain);
      this.#start();
      while (this.#waiting.length >= waitingMax && this.#fault === null) await this.#free();
    }
    if (this.#fault !== null) throw this.#fault;
  }

  /** When all came: what it was. @throws VmdkFault */
  async end(): Promise<TakenIn> {
    while (this.#idle.length < lanes && this.#fault === null) await this.#free();
    await this.#turn;
    if (this.#fault !== null) throw this.#fault;
    this.#reader.end();
    await this.#writer.finish();
    return { sha256: this.#hash.digest('hex'), virtualSizeBytes: this.#facts.virtualSizeBytes };
  }

  /** Also after a fault. The file is left as it is. */
  async close(): Promise<void> {
    this.#fault ??= new VmdkFault('it was given up');
    for (const lane of this.#lanes) lane.close();
    await this.#turn.catch(() => undefined);
    await this.#file.close();
  }

  #free(): Promise<void> {
    return new Promise((resolve) => (this.#freed = resolve));
  }

  #start(): void {
    while (this.#fault === null) {
      const lane = this.#waiting.length === 0 ? undefined : this.#idle.pop();
      if (lane === undefined) return;
      const grain = this.#waiting.shift();
      if (grain !== undefined) void this.#work(lane, grain);
    }
  }

  async #work(lane: Lane, grain: Grain): Promise<void> {
    try {
      const data = await lane.unpack(grain.data);
      const turn = this.#turn.then(() => this.#put(grain.index, data));
      this.#turn = turn.catch(() => undefined);
      await turn;
    } catch (e) {
      this.#fault ??= e instanceof Error ? e : new VmdkFault('it cannot be read', { cause: e });
    }
    this.#idle.push(lane);
    this.#start();
    const freed = this.#freed;
    this.#freed = null;
    freed?.();
  }

  async #put(index: number, data: Buffer): Promise<void> {
    if (this.#fault !== null) return;
    const { grainBytes, virtualSizeBytes } = this.#facts;
    const wanted = Math.min(grainBytes, virtualSizeBytes - index * grainBytes);
    if (data.length < wanted) throw new VmdkFault(`grain ${index} holds ${data.length} bytes, not ${wanted}`);
    const whole =
      data.length === grainBytes ? data : Buffer.concat([data, Buffer.alloc(grainBytes - data.length)]);
    if (!(await this.#writer.put(index, whole))) throw new VmdkFault(`grain ${index} is there twice`);
  }
}

/** Unpacks one grain after the other, on another thread. */
class Lane {
  readonly #grainBytes: number;
  readonly #inflate: Inflate;
  #parts: Buffer[] = [];
  #length = 0;
  #failed: (e: Error) => void = () => undefined;

  constructor(grainBytes: number) {
    this.#grainBytes = grainBytes;
    this.#inflate = createInflate({ chunkSize: grainBytes });
    this.#inflate.on('data', (part: Buffer) => {
      this.#length += part.length;
      // More than fits is only counted.
      if (this.#length <= grainBytes) this.#parts.push(part);
    });
    this.#inflate.on('error', (e) => this.#failed(e));
  }

  /** @throws VmdkFault: it is damaged, or longer than a grain */
  async unpack(data: Buffer): Promise<Buffer> {
    this.#parts = [];
    this.#length = 0;
    await new Promise<void>((resolve, reject) => {
      this.#failed = () => reject(new VmdkFault('a grain of it cannot be unpacked'));
      this.#inflate.write(data, (e) => (e ? this.#failed(e) : resolve()));
    });
    this.#inflate.reset();
    if (this.#length > this.#grainBytes) throw new VmdkFault('a grain of it unpacks to more than its size');
    const [only] = this.#parts;
    return this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts);
  }

  close(): void {
    this.#inflate.destroy();
  }
}
