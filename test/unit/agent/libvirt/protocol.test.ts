import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import t from 'tap';
import { EVENTS, PROCEDURES, typedParam, uuid, type TypedParam } from '../../../../agent/libvirt/protocol.js';
import { decode, encode } from '../../../../agent/libvirt/xdr.js';

await t.test('no number is used twice', async (t) => {
  const procedures = Object.values(PROCEDURES).map((row) => `${row.program} ${row.number}`);
  const events = Object.values(EVENTS).map((row) => `remote ${row.number}`);
  const all = [...procedures, ...events];
  t.same(
    all.filter((number, i) => all.indexOf(number) !== i),
    [],
  );
  const ids = Object.values(EVENTS).map((row) => row.eventId);
  t.equal(new Set(ids).size, ids.length);
});

await t.test('uuids', async (t) => {
  const text = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
  t.equal(encode(uuid, text.toUpperCase()).toString('hex'), text.replaceAll('-', ''));
  t.equal(decode(uuid, encode(uuid, text)), text);
  for (const wrong of [
    '',
    'x',
    text.slice(1),
    `${text}0`,
    text.replaceAll('-', ''),
    `${text.slice(0, -1)}g`,
  ]) {
    t.throws(() => encode(uuid, wrong), /no uuid/, wrong);
  }
});

await t.test('typed parameters, by example', async (t) => {
  const hex = (p: TypedParam): string => encode(typedParam, p).toString('hex');
  const name = '0000000161000000';
  t.equal(hex({ field: 'a', type: 'int', value: -1 }), `${name}00000001ffffffff`);
  t.equal(hex({ field: 'a', type: 'uint', value: 1 }), `${name}0000000200000001`);
  t.equal(hex({ field: 'a', type: 'llong', value: -1n }), `${name}00000003ffffffffffffffff`);
  t.equal(hex({ field: 'a', type: 'ullong', value: 1n }), `${name}000000040000000000000001`);
  t.equal(hex({ field: 'a', type: 'double', value: 1 }), `${name}000000053ff0000000000000`);
  t.equal(hex({ field: 'a', type: 'boolean', value: true }), `${name}0000000600000001`);
  t.equal(hex({ field: 'a', type: 'string', value: 'b' }), `${name}000000070000000162000000`);
  t.throws(() => decode(typedParam, Buffer.from(`${name}0000000800000001`, 'hex')), /unknown type 8/);
});

await t.test('typed parameters read back', async () => {
  const field = fc.stringMatching(/^[a-z.]{1,30}$/);
  const plain = { noNullPrototype: true };
  const of = <T extends TypedParam['type'], V>(
    type: T,
    value: fc.Arbitrary<V>,
  ): fc.Arbitrary<{ field: string; type: T; value: V }> =>
    fc.record({ field, type: fc.constant(type), value }, plain);
  const value = fc.oneof(
    of('int', fc.integer()),
    of('uint', fc.nat()),
    of('llong', fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n })),
    of('ullong', fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
    of('double', fc.double()),
    of('boolean', fc.boolean()),
    of('string', field),
  );
  fc.assert(
    fc.property(value, (p: TypedParam) => isDeepStrictEqual(decode(typedParam, encode(typedParam, p)), p)),
  );
});
