import { Duplex } from 'node:stream';
import type { LibvirtError } from './error.js';

/** How a stream reaches its connection. */
export interface StreamTransport {
  send(data: Buffer, done: (error?: Error | null) => void): void;
  /** say that we write no more and want no more */
  finish(): void;
  /** say that we gave up */
  abort(): void;
  /** stop or go on reading from the daemon: a slow reader holds the daemon back instead of filling memory */
  pause(): void;
  resume(): void;
}

/** Largest piece of stream data per message, what every daemon accepts. */
export const STREAM_CHUNK_BYTES = 262120;

/**
 * A byte stream that belongs to one call (serial console, screenshot). Ending it finishes it at the daemon,
 * destroying it aborts it.
 */
export class RpcStream extends Duplex {
  readonly #transport: StreamTransport;
  #ended = false;
  #begun = false;

  constructor(transport: StreamTransport) {
    // half open makes no sense here: when the daemon has no more, we are done as well
    super({ allowHalfOpen: false, autoDestroy: true });
    this.#transport = transport;
  }

  /** the reply of the call came; data may have come before it */
  begin(): void {
    this.#begun = true;
  }

  /** the daemon sent data; none means that it has no more */
  arrived(data: Buffer): void {
    if (this.#ended || this.destroyed) return;
    if (data.length === 0) return this.finished();
    // never before the reply, which would then not be read either
    if (!this.push(data) && this.#begun) this.#transport.pause();
  }

  /** the daemon closed the stream well */
  finished(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.push(null);
  }

  /** the daemon, or the connection, closed it with an error */
  failed(error: LibvirtError): void {
    this.#ended = true;
    this.destroy(error);
  }

  override _read(): void {
    this.#transport.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const next = (at: number): void => {
      const piece = chunk.subarray(at, at + STREAM_CHUNK_BYTES);
      const last = at + piece.length >= chunk.length;
      this.#transport.send(piece, (error) => {
        if (error || last) done(error);
        else next(at + piece.length);
      });
    };
    if (chunk.length === 0) done();
    else next(0);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#transport.finish();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#ended || !this.writableFinished) this.#transport.abort();
    done(error);
  }
}
