import type { FileHandle } from 'node:fs/promises';
import type { MessagePort } from 'node:worker_threads';
import { inflateSync } from 'node:zlib';
import { Qcow2Writer } from './qcow2-writer.js';
import { VmdkFault, VmdkReader, type Grain, type StreamedVmdk } from './vmdk-reader.js';

/** Bytes that go to the thread at once. */
export const pieceBytes = 512 * 1024;
/** After so many written bytes it asks whether there is room, and stops when it has not heard of the time before. */
const askEveryBytes = 4 * 1024 * 1024;

export interface IntakeStart {
  readonly file: FileHandle;
  readonly facts: StreamedVmdk;
  readonly tablesMax: number | undefined;
}

export type IntakeOrder =
  | {
      readonly kind: 'piece';
      readonly piece: Uint8Array<ArrayBuffer>;
      /** Where its bytes are; before them there is room for what is left of the piece before. */
      readonly from: number;
      readonly to: number;
    }
  | { readonly kind: 'go' | 'end' | 'close' };

export type IntakeAnswer =
  | { readonly kind: 'free'; readonly piece: Uint8Array<ArrayBuffer> }
  /** So many bytes more were written: is there room? */
  | { readonly kind: 'wrote' | 'done' | 'closed' }
  /** The code is a file call's; null: it is the vmdk's fault. */
  | { readonly kind: 'fault'; readonly text: string; readonly code: string | null };

/** The thread's side of an intake: takes the grains out of the pieces, unpacks them, and writes them. */
export class IntakeThread {
  readonly #port: MessagePort;
  readonly #file: FileHandle;
  readonly #facts: StreamedVmdk;
  readonly #reader: VmdkReader;
  readonly #writer: Qcow2Writer;
  /** The piece that the reader still looks at. */
  #last: Uint8Array<ArrayBuffer> | null = null;
  #work: Promise<void> = Promise.resolve();
  #failed = false;
  #askedAt = 0;
  #asking: Promise<void> | null = null;
  #go: () => void = () => undefined;

  constructor(port: MessagePort, { file, facts, tablesMax }: IntakeStart) {
    this.#port = port;
    this.#file = file;
    this.#facts = facts;
    this.#reader = new VmdkReader(facts);
    this.#writer = new Qcow2Writer(file, {
      sizeBytes: facts.virtualSizeBytes,
      clusterBytes: facts.grainBytes,
      ...(tablesMax === undefined ? {} : { tablesMax }),
    });
  }

  start(): void {
    this.#port.on('message', (order: IntakeOrder) => {
      if (order.kind === 'go') return this.#go();
      if (order.kind === 'close') {
        this.#failed = true;
        this.#go();
      }
      this.#work = this.#work.then(() => this.#obey(order)).catch((e: unknown) => this.#tell(e));
    });
  }

  async #obey(order: IntakeOrder): Promise<void> {
    if (order.kind === 'close') {
      await this.#file.close().catch(() => undefined);
      return this.#answer({ kind: 'closed' });
    }
    if (this.#failed) return;
    if (order.kind === 'piece') return this.#take(order);
    this.#reader.end();
    await this.#writer.finish();
    this.#answer({ kind: 'done' });
  }

  async #take({ piece, from, to }: IntakeOrder & { kind: 'piece' }): Promise<void> {
    const { rest } = this.#reader;
    const start = from - rest.length;
    piece.set(rest, start);
    for (const grain of this.#reader.read(Buffer.from(piece.buffer, start, to - start))) {
      await this.#put(grain);
      if (this.#writer.bytes - this.#askedAt >= askEveryBytes) await this.#ask();
      if (this.#failed) return;
    }
    if (this.#last !== null) this.#answer({ kind: 'free', piece: this.#last }, [this.#last.buffer]);
    this.#last = piece;
  }

  async #ask(): Promise<void> {
    await this.#asking;
    this.#askedAt = this.#writer.bytes;
    this.#asking = new Promise((resolve) => (this.#go = resolve));
    this.#answer({ kind: 'wrote' });
  }

  async #put({ index, data }: Grain): Promise<void> {
    const { grainBytes, virtualSizeBytes } = this.#facts;
    const unpacked = inflated(data, grainBytes);
    const wanted = Math.min(grainBytes, virtualSizeBytes - index * grainBytes);
    if (unpacked.length < wanted)
      throw new VmdkFault(`grain ${index} holds ${unpacked.length} bytes, not ${wanted}`);
    const whole =
      unpacked.length === grainBytes
        ? unpacked
        : Buffer.concat([unpacked, Buffer.alloc(grainBytes - unpacked.length)]);
    if (!(await this.#writer.put(index, whole))) throw new VmdkFault(`grain ${index} is there twice`);
  }

  #tell(e: unknown): void {
    this.#failed = true;
    const text = e instanceof Error ? e.message : 'it cannot be read';
    const code = e instanceof VmdkFault ? null : ((e as { code?: unknown } | null)?.code ?? 'EIO');
    this.#answer({
      kind: 'fault',
      text,
      code: typeof code === 'string' ? code : code === null ? null : 'EIO',
    });
  }

  #answer(answer: IntakeAnswer, moved: ArrayBuffer[] = []): void {
    this.#port.postMessage(answer, moved);
  }
}

/** @throws VmdkFault: it is damaged, or longer than a grain */
function inflated(data: Buffer, grainBytes: number): Buffer {
  try {
    // A little more than fits: else a second buffer is made to see that nothing is left.
    return inflateSync(data, { chunkSize: grainBytes + 64, maxOutputLength: grainBytes });
  } catch (e) {
    const long = e instanceof RangeError && (e as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE';
    throw new VmdkFault(
      long ? 'a grain of it unpacks to more than its size' : 'a grain of it cannot be unpacked',
      { cause: e },
    );
  }
}
