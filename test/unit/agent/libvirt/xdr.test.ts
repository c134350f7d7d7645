import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import t from 'tap';
import {
  array,
  BYTES_MAX,
  chars,
  decode,
  encode,
  f64,
  fixed,
  i32,
  i64,
  nothing,
  opaque,
  optional,
  string,
  struct,
  u32,
  u64,
  XdrError,
  type Codec,
} from '../../../../agent/libvirt/xdr.js';

function hex<T>(codec: Codec<T>, value: T): string {
  return encode(codec, value).toString('hex');
}
function read<T>(codec: Codec<T>, bytes: string): T {
  return decode(codec, Buffer.from(bytes, 'hex'));
}

await t.test('examples, worked out by hand from RFC 4506', async (t) => {
  t.equal(hex(u32, 0xfffffffe), 'fffffffe');
  t.equal(hex(i32, -2), 'fffffffe');
  t.equal(hex(u64, 0x0102030405060708n), '0102030405060708');
  t.equal(hex(i64, -1n), 'ffffffffffffffff');
  t.equal(hex(f64, 1), '3ff0000000000000');
  t.equal(hex(string, 'ä'), '00000002c3a40000');
  t.equal(hex(string, ''), '00000000');
  t.equal(hex(opaque, Buffer.from([1, 2, 3, 4])), '0000000401020304');
  t.equal(hex(fixed(2), Buffer.from([1, 2])), '01020000');
  t.equal(hex(optional(u32), null), '00000000');
  t.equal(hex(optional(u32), 7), '0000000100000007');
  t.equal(hex(array(u32), [1, 2]), '000000020000000100000002');
  t.equal(hex(chars(3), 'ab'), '000000610000006200000000');
  t.equal(hex(struct({ b: u32, a: string }), { a: 'x', b: 1 }), '000000010000000178000000');
  t.equal(hex(nothing, undefined), '');
});

await t.test('what was written reads back, whatever it is', async () => {
  const plain = { noNullPrototype: true };
  const codec = struct({
    a: u32,
    b: i32,
    c: u64,
    d: i64,
    e: f64,
    f: string,
    g: opaque,
    h: optional(array(struct({ x: string, y: fixed(5) }))),
    i: chars(8),
  });
  const text = fc.string({ unit: 'grapheme' }).filter((s) => !s.includes('\0'));
  const bytes = fc.uint8Array({ maxLength: 40 }).map((b) => Buffer.from(b));
  const value = fc.record(
    {
      a: fc.integer({ min: 0, max: 0xffffffff }),
      b: fc.integer(),
      c: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      d: fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
      e: fc.double(),
      f: text,
      g: bytes,
      h: fc.option(
        fc.array(
          fc.record(
            { x: text, y: fc.uint8Array({ minLength: 5, maxLength: 5 }).map((b) => Buffer.from(b)) },
            plain,
          ),
          { maxLength: 5 },
        ),
      ),
      i: fc.stringMatching(/^[a-z]{0,7}$/),
    },
    plain,
  );
  fc.assert(
    fc.property(value, (v) => {
      const encoded = encode(codec, v);
      return encoded.length % 4 === 0 && isDeepStrictEqual(decode(codec, encoded), v);
    }),
    { numRuns: 200 },
  );
});

await t.test('arbitrary bytes are read or refused, nothing else', async () => {
  const codec = struct({ a: optional(array(struct({ s: string, n: u64 }))), b: opaque, c: string });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        decode(codec, Buffer.from(bytes));
      } catch (error) {
        if (!(error instanceof XdrError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});

await t.test('lies about lengths are refused before anything is allocated', async (t) => {
  t.throws(() => read(string, 'ffffffff41414141'), XdrError);
  t.throws(() => read(array(u32), 'ffffffff'), XdrError);
  t.throws(() => read(array(u32), '0000000300000001'), XdrError);
  t.throws(() => read(array(u32, 1), '000000020000000100000002'), /at most 1/);
  t.throws(() => read(string, `${(BYTES_MAX + 1).toString(16).padStart(8, '0')}`), /at most/);
});

await t.test('malformed values are refused', async (t) => {
  t.throws(() => read(u32, '000000'), /ends early/);
  t.throws(() => read(u32, '0000000000'), /1 bytes more/);
  t.throws(() => read(optional(u32), '0000000200000001'), /present or absent/);
  t.throws(() => read(string, '0000000178000001'), /padding/);
});

await t.test('values that do not fit are refused when writing', async (t) => {
  t.throws(() => encode(u32, -1), XdrError);
  t.throws(() => encode(u32, 2 ** 32), XdrError);
  t.throws(() => encode(u32, 1.5), XdrError);
  t.throws(() => encode(u32, NaN), XdrError);
  t.throws(() => encode(i32, 2 ** 31), XdrError);
  t.throws(() => encode(u64, -1n), XdrError);
  t.throws(() => encode(u64, 1n << 64n), XdrError);
  t.throws(() => encode(i64, 1n << 63n), XdrError);
  t.throws(() => encode(string, 'a\0b'), /NUL/);
  t.throws(() => encode(string, 'x'.repeat(BYTES_MAX + 1)), /at most/);
  t.throws(() => encode(fixed(2), Buffer.from([1])), XdrError);
  t.throws(() => encode(array(u32, 1), [1, 2]), XdrError);
  t.throws(() => encode(chars(2), 'ab'), XdrError);
});
