import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import type { IntakeAnswer, IntakeOrder, IntakeStart } from './intake-thread.js';
import { pieceBytes } from './intake-thread.js';
import { VmdkFault, VmdkReader, type StreamedVmdk } from './vmdk-reader.js';

/** Pieces under way: one is filled, one is worked on, two wait. */
const piecesMax = 4;

/** What came in when it is whole. */
export interface TakenIn {
  /** Of the bytes as they came. */
  readonly sha256: string;
  readonly virtualSizeBytes: number;
}

export interface IntakeOptions {
  /** What the thread runs; absent: the file beside this one. */
  readonly program?: URL | string | undefined;
  /** Asked again and again while it writes; what it throws ends the intake. */
  readonly room?: () => Promise<void>;
  readonly tablesMax?: number;
}

/**
 * A stream-optimised vmdk that becomes a qcow2 file as its bytes come: what came is never stored as it is. Breaks between
 * pieces do not matter to it, the end of its process does: then it is begun anew.
 *
 * Unpacking and writing have a thread of their own, to which bytes go in large pieces: handing over each grain cost more
 * than unpacking it.
 */
export class Intake {
  readonly #facts: StreamedVmdk;
  readonly #room: () => Promise<void>;
  readonly #thread: Worker;
  readonly #hash = createHash('sha256');
  /** Bytes before those of a piece, for what is left of the one before. */
  readonly #headroom: number;
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  #made = 0;
  #filling: Uint8Array<ArrayBuffer> | null = null;
  #filled = 0;
  #done = false;
  #closed = false;
  #fault: Error | null = null;
  #offset = 0;
  /** Called when the thread has said something. */
  #heard: () => void = () => undefined;

  /** @param file - empty; the thread has it from now on, and closes it after `close` */
  constructor(file: FileHandle, facts: StreamedVmdk, o: IntakeOptions = {}) {
    this.#facts = facts;
    this.#room = o.room ?? (() => Promise.resolve());
    this.#headroom = VmdkReader.restBytesMax(facts);
    const start: IntakeStart = { file, facts, tablesMax: o.tablesMax };
    this.#thread = new Worker(o.program ?? new URL('./intake-program.js', import.meta.url), {
      workerData: start,
      transferList: [file],
      resourceLimits: { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 8 },
      execArgv: [],
    });
    this.#thread.on('message', (a: IntakeAnswer) => this.#hear(a));
    this.#thread.on('error', (e) => this.#fail(e));
    this.#thread.on('exit', () => {
      this.#closed = true;
      this.#fail(new VmdkFault('it was given up'));
    });
    // After the handlers, which undo it: what nobody sends any more keeps no process alive.
    this.#thread.unref();
  }

  /** Bytes that came. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * Takes the next bytes. Returns when the next may come.
   *
   * @throws VmdkFault; what the file or `room` throws. It is of no use afterwards.
   */
  async push(chunk: Uint8Array): Promise<void> {
    this.#offset += chunk.length;
    this.#hash.update(chunk);
    for (let p = 0; p < chunk.length;) {
      const piece = (this.#filling ??= await this.#piece());
      const length = Math.min(pieceBytes - this.#filled, chunk.length - p);
      piece.set(chunk.subarray(p, p + length), this.#headroom + this.#filled);
      this.#filled += length;
      p += length;
      if (this.#filled === pieceBytes) this.#send();
    }
    if (this.#fault !== null) throw this.#fault;
  }

  /** When all came: what it was. @throws VmdkFault; what the file throws */
  async end(): Promise<TakenIn> {
    if (this.#filled > 0) this.#send();
    this.#order({ kind: 'end' });
    await this.#until(() => this.#done || this.#fault !== null);
    if (this.#fault !== null) throw this.#fault;
    return { sha256: this.#hash.digest('hex'), virtualSizeBytes: this.#facts.virtualSizeBytes };
  }

  /** Also after a fault. The file is left as it is. */
  async close(): Promise<void> {
    this.#fault ??= new VmdkFault('it was given up');
    this.#order({ kind: 'close' });
    await this.#until(() => this.#closed);
    await this.#thread.terminate();
  }

  async #piece(): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#free.length === 0 && this.#made < piecesMax) {
      this.#made += 1;
      return new Uint8Array(this.#headroom + pieceBytes);
    }
    await this.#until(() => this.#free.length > 0 || this.#fault !== null);
    if (this.#fault !== null) throw this.#fault;
    return this.#free.pop() ?? new Uint8Array(this.#headroom + pieceBytes);
  }

  #send(): void {
    const piece = this.#filling;
    if (piece === null) return;
    this.#order({ kind: 'piece', piece, from: this.#headroom, to: this.#headroom + this.#filled }, [
      piece.buffer,
    ]);
    this.#filling = null;
    this.#filled = 0;
  }

  #order(order: IntakeOrder, moved: ArrayBuffer[] = []): void {
    this.#thread.postMessage(order, moved);
  }

  /** Until it holds, or nothing will make it. */
  async #until(holds: () => boolean): Promise<void> {
    // Who waits for it is kept alive.
    this.#thread.ref();
    while (!holds()) await new Promise<void>((resolve) => (this.#heard = resolve));
    this.#thread.unref();
  }

  #hear(a: IntakeAnswer): void {
    switch (a.kind) {
      case 'free':
        this.#free.push(a.piece);
        break;
      case 'wrote':
        this.#room().then(
          () => this.#order({ kind: 'go' }),
          (e: unknown) => this.#fail(e instanceof Error ? e : new Error('there is no room', { cause: e })),
        );
        break;
      case 'done':
        this.#done = true;
        break;
      case 'closed':
        this.#closed = true;
        break;
      case 'fault':
        this.#fail(
          a.code === null ? new VmdkFault(a.text) : Object.assign(new Error(a.text), { code: a.code }),
        );
    }
    this.#heard();
  }

  #fail(e: Error): void {
    this.#fault ??= e;
    this.#heard();
  }
}
