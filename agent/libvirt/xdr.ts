/**
 * XDR (RFC 4506) as small typed combinators. A codec is a pair of functions; `struct({...})` infers the type of
 * its value, and the order of its keys is the order on the wire. 64-bit integers are bigint, because libvirt's
 * counters and memory sizes do not fit a double in general.
 */
export interface Codec<T> {
  read(r: XdrReader): T;
  write(w: XdrWriter, v: T): void;
}

/** The type a codec carries. */
export type Of<C> = C extends Codec<infer T> ? T : never;

/** Bytes that are not what the codec says, or a value that does not fit the wire. */
export class XdrError extends Error {
  override readonly name = 'XdrError';
}

/** Longest string or opaque either way; the daemon has the same limit for strings. */
export const BYTES_MAX = 4 * 1024 * 1024;

/** Longest array either way; libvirt's largest list is 65536 too. */
export const ITEMS_MAX = 65536;

/** Reads one message. Every length is checked against what is left before anything is allocated. */
export class XdrReader {
  #at = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  #take(n: number): number {
    if (n > this.remaining)
      throw new XdrError(`message ends early: ${n} bytes wanted, ${this.remaining} left`);
    const at = this.#at;
    this.#at += n;
    return at;
  }

  u32(): number {
    return this.#bytes.readUInt32BE(this.#take(4));
  }
  i32(): number {
    return this.#bytes.readInt32BE(this.#take(4));
  }
  u64(): bigint {
    return this.#bytes.readBigUInt64BE(this.#take(8));
  }
  i64(): bigint {
    return this.#bytes.readBigInt64BE(this.#take(8));
  }
  f64(): number {
    return this.#bytes.readDoubleBE(this.#take(8));
  }

  /** `n` bytes and their padding to a multiple of four; a view, not a copy */
  bytes(n: number): Buffer {
    if (n > BYTES_MAX) throw new XdrError(`${n} bytes in one value, at most ${BYTES_MAX}`);
    const padding = -n & 3;
    const at = this.#take(n + padding);
    for (let i = at + n; i < at + n + padding; i++) {
      if (this.#bytes[i] !== 0) throw new XdrError('padding is not zero');
    }
    return this.#bytes.subarray(at, at + n);
  }

  /** the rest of the message */
  rest(): Buffer {
    return this.#bytes.subarray(this.#take(this.remaining));
  }
}

/** Builds one message in a growing buffer. */
export class XdrWriter {
  #bytes: Buffer;
  #at = 0;

  constructor(sizeBytes = 256) {
    this.#bytes = Buffer.allocUnsafe(sizeBytes);
  }

  #room(n: number): number {
    const at = this.#at;
    if (at + n > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(at + n, this.#bytes.length * 2));
      this.#bytes.copy(larger, 0, 0, at);
      this.#bytes = larger;
    }
    this.#at += n;
    return at;
  }

  u32(v: number): void {
    if (!Number.isInteger(v) || v < 0 || v > 0xffffffff)
      throw new XdrError(`${v} is no unsigned 32-bit integer`);
    const at = this.#room(4);
    this.#bytes.writeUInt32BE(v, at);
  }
  i32(v: number): void {
    if (!Number.isInteger(v) || v < -0x80000000 || v > 0x7fffffff)
      throw new XdrError(`${v} is no 32-bit integer`);
    const at = this.#room(4);
    this.#bytes.writeInt32BE(v, at);
  }
  u64(v: bigint): void {
    if (v < 0n || v >= 1n << 64n) throw new XdrError(`${v} is no unsigned 64-bit integer`);
    const at = this.#room(8);
    this.#bytes.writeBigUInt64BE(v, at);
  }
  i64(v: bigint): void {
    if (v < -(1n << 63n) || v >= 1n << 63n) throw new XdrError(`${v} is no 64-bit integer`);
    const at = this.#room(8);
    this.#bytes.writeBigInt64BE(v, at);
  }
  f64(v: number): void {
    const at = this.#room(8);
    this.#bytes.writeDoubleBE(v, at);
  }
  bytes(v: Uint8Array): void {
    if (v.length > BYTES_MAX) throw new XdrError(`${v.length} bytes in one value, at most ${BYTES_MAX}`);
    const padding = -v.length & 3;
    const at = this.#room(v.length + padding);
    this.#bytes.set(v, at);
    this.#bytes.fill(0, at + v.length, at + v.length + padding);
  }

  /** what was written so far; a view, valid until the next write */
  done(): Buffer {
    return this.#bytes.subarray(0, this.#at);
  }
}

export const u32: Codec<number> = { read: (r) => r.u32(), write: (w, v) => w.u32(v) };
export const i32: Codec<number> = { read: (r) => r.i32(), write: (w, v) => w.i32(v) };
export const u64: Codec<bigint> = { read: (r) => r.u64(), write: (w, v) => w.u64(v) };
export const i64: Codec<bigint> = { read: (r) => r.i64(), write: (w, v) => w.i64(v) };
export const f64: Codec<number> = { read: (r) => r.f64(), write: (w, v) => w.f64(v) };

/**
 * UTF-8 text. A NUL inside is refused when writing: the daemon's C code would silently stop reading there.
 */
export const string: Codec<string> = {
  read: (r) => r.bytes(r.u32()).toString('utf8'),
  write: (w, v) => {
    if (v.includes('\0')) throw new XdrError('text contains a NUL character');
    const bytes = Buffer.from(v, 'utf8');
    w.u32(bytes.length);
    w.bytes(bytes);
  },
};

/** Bytes with a length in front. */
export const opaque: Codec<Uint8Array> = {
  read: (r) => r.bytes(r.u32()),
  write: (w, v) => {
    w.u32(v.length);
    w.bytes(v);
  },
};

/** No value at all, for procedures without arguments or without an answer. */
export const nothing: Codec<void> = { read: () => undefined, write: () => undefined };

/** Exactly `n` bytes without a length. */
export function fixed(n: number): Codec<Uint8Array> {
  return {
    read: (r) => r.bytes(n),
    write: (w, v) => {
      if (v.length !== n) throw new XdrError(`${v.length} bytes where ${n} are fixed`);
      w.bytes(v);
    },
  };
}

/** Text in a C array of `n` chars, each of which XDR blows up to four bytes. */
export function chars(n: number): Codec<string> {
  return {
    read: (r) => {
      const codes = Array.from({ length: n }, () => r.i32() & 0xff);
      const end = codes.indexOf(0);
      return Buffer.from(end < 0 ? codes : codes.slice(0, end)).toString('utf8');
    },
    write: (w, v) => {
      const bytes = Buffer.from(v, 'utf8');
      if (bytes.length >= n) throw new XdrError(`text of ${bytes.length} bytes in a field of ${n}`);
      for (let i = 0; i < n; i++) w.i32(bytes[i] ?? 0);
    },
  };
}

/** A value that may be absent. */
export function optional<T>(of: Codec<T>): Codec<T | null> {
  return {
    read: (r) => {
      const there = r.u32();
      if (there > 1) throw new XdrError(`${there} where present or absent is said by 1 or 0`);
      return there === 1 ? of.read(r) : null;
    },
    write: (w, v) => {
      w.u32(v === null ? 0 : 1);
      if (v !== null) of.write(w, v);
    },
  };
}

/** A list with its length in front, at most `max` long. */
export function array<T>(of: Codec<T>, max = ITEMS_MAX): Codec<readonly T[]> {
  return {
    read: (r) => {
      const n = r.u32();
      // every item takes four bytes at least, so a lying length cannot make us allocate
      if (n > max || n > r.remaining / 4)
        throw new XdrError(`list of ${n} items, at most ${max} and ${r.remaining} bytes left`);
      const items: T[] = [];
      for (let i = 0; i < n; i++) items.push(of.read(r));
      return items;
    },
    write: (w, v) => {
      if (v.length > max) throw new XdrError(`list of ${v.length} items, at most ${max}`);
      w.u32(v.length);
      for (const item of v) of.write(w, item);
    },
  };
}

type Fields = Readonly<Record<string, Codec<never>>>;
type ValueOf<F> = { readonly [K in keyof F]: F[K] extends Codec<infer T> ? T : never };

/** Fields one after the other, in the order of the keys. */
export function struct<F extends { readonly [K in keyof F]: Codec<never> | F[K] } & object>(
  fields: F,
): Codec<ValueOf<F>> {
  const entries = Object.entries(fields as unknown as Fields) as unknown as readonly (readonly [
    string,
    Codec<unknown>,
  ])[];
  return {
    read: (r) => {
      const value: Record<string, unknown> = {};
      for (const [name, codec] of entries) value[name] = codec.read(r);
      return value as ValueOf<F>;
    },
    write: (w, v) => {
      const value = v as Readonly<Record<string, unknown>>;
      for (const [name, codec] of entries) codec.write(w, value[name]);
    },
  };
}

/** The same bytes, seen as another type. */
export function map<A, B>(of: Codec<A>, to: (a: A) => B, from: (b: B) => A): Codec<B> {
  return { read: (r) => to(of.read(r)), write: (w, v) => of.write(w, from(v)) };
}

/** Writes one value as bytes of its own. */
export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const w = new XdrWriter();
  codec.write(w, value);
  return w.done();
}

/** @throws XdrError when the bytes are short, malformed, or more than the value */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  const r = new XdrReader(bytes);
  const value = codec.read(r);
  if (r.remaining > 0) throw new XdrError(`${r.remaining} bytes more than the value has`);
  return value;
}
