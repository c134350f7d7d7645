import { FRAME_BYTES_MAX, FRAME_BYTES_MIN } from './protocol.js';
import { XdrError, XdrReader, XdrWriter, type Codec } from './xdr.js';

/** The six words in front of every message. */
export interface Header {
  readonly program: number;
  readonly version: number;
  readonly procedure: number;
  readonly type: number;
  readonly serial: number;
  readonly status: number;
}

/** One message as it travels: header and still encoded body. */
export interface Frame {
  readonly header: Header;
  readonly body: Buffer;
}

function writeHeader(w: XdrWriter, h: Header): void {
  w.u32(h.program);
  w.u32(h.version);
  w.i32(h.procedure);
  w.u32(h.type);
  w.u32(h.serial);
  w.u32(h.status);
}

/**
 * A whole frame with an encoded body.
 *
 * @throws XdrError when a value does not fit the wire or the frame would be larger than the daemon accepts
 */
export function encodeFrame<T>(header: Header, codec: Codec<T>, value: T): Buffer {
  const w = new XdrWriter();
  w.u32(0);
  writeHeader(w, header);
  codec.write(w, value);
  const bytes = w.done();
  if (bytes.length > FRAME_BYTES_MAX)
    throw new XdrError(`message of ${bytes.length} bytes, at most ${FRAME_BYTES_MAX}`);
  bytes.writeUInt32BE(bytes.length, 0);
  return bytes;
}

/** The first 28 bytes of a frame whose body is sent as it is (stream data). */
export function encodeHead(header: Header, bodyBytes: number): Buffer {
  const w = new XdrWriter(FRAME_BYTES_MIN);
  w.u32(FRAME_BYTES_MIN + bodyBytes);
  writeHeader(w, header);
  return w.done();
}

/**
 * Cuts a byte stream into frames, however the bytes were split on the way. It holds at most one unfinished
 * frame, and refuses a length before it buffers for it.
 */
export class FrameSplitter {
  #chunks: Buffer[] = [];
  #bytes = 0;
  /** length of the frame being collected; 0 while its length word is not complete */
  #wanted = 0;

  /**
   * @returns the frames that are complete now
   * @throws XdrError when a length is impossible: the stream cannot be read any further
   */
  push(chunk: Buffer): Frame[] {
    const frames: Frame[] = [];
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    for (;;) {
      if (this.#wanted === 0) {
        if (this.#bytes < 4) break;
        this.#wanted = checkLength(this.#joined().readUInt32BE(0));
      }
      if (this.#bytes < this.#wanted) break;
      const all = this.#joined();
      frames.push(parse(all.subarray(0, this.#wanted)));
      const rest = all.subarray(this.#wanted);
      this.#chunks = rest.length > 0 ? [rest] : [];
      this.#bytes = rest.length;
      this.#wanted = 0;
    }
    return frames;
  }

  /** one buffer of all chunks; joined only when something can be cut off, so a large frame is copied once */
  #joined(): Buffer {
    const [first, ...others] = this.#chunks;
    if (first !== undefined && others.length === 0) return first;
    const all = Buffer.concat(this.#chunks, this.#bytes);
    this.#chunks = [all];
    return all;
  }
}

function checkLength(length: number): number {
  if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) {
    throw new XdrError(`frame of ${length} bytes, must be ${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX}`);
  }
  return length;
}

function parse(frame: Buffer): Frame {
  const r = new XdrReader(frame.subarray(4));
  const header: Header = {
    program: r.u32(),
    version: r.u32(),
    procedure: r.i32(),
    type: r.u32(),
    serial: r.u32(),
    status: r.u32(),
  };
  return { header, body: r.rest() };
}
