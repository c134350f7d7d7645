import fc from 'fast-check';
import t from 'tap';
import { decodeBeacon, encodeBeacon, type Beacon } from '../../../../core/wire/mdns.js';

const beacon: Beacon = {
  name: 'node-1a2b3c',
  address: '10.0.0.7',
  port: 7443,
  fingerprint: 'ab'.repeat(32),
  version: '0.1.0',
};

void t.test('what a waiting node says is what is heard', (t) => {
  t.same(decodeBeacon(encodeBeacon(beacon)), beacon);
  const long = { ...beacon, name: 'a'.repeat(63), address: '255.255.255.255', port: 65_535 };
  t.same(decodeBeacon(encodeBeacon(long)), long);
  t.end();
});

void t.test('names with pointers, as responders write them, are followed; circles are not', (t) => {
  const packet = encodeBeacon(beacon);
  // The first record's owner stands at 12; the second's parent is the same name: instance label, then a pointer.
  const text = Buffer.from(packet).toString('latin1');
  const tail = '\x09_flotilla\x04_tcp\x05local\x00';
  const first = text.indexOf(tail);
  const second = text.indexOf(tail, text.indexOf(tail, first + 1) + 1);
  const shorter = `${text.slice(0, second)}\xc0${String.fromCharCode(first)}${text.slice(second + tail.length)}`;
  t.same(decodeBeacon(Buffer.from(shorter, 'latin1')), beacon);
  const circle = `${text.slice(0, second)}\xc0${String.fromCharCode(second)}${text.slice(second + tail.length)}`;
  t.equal(decodeBeacon(Buffer.from(circle, 'latin1')), null);
  t.end();
});

void t.test('anything else is nothing: cut off, changed, not pending, noise', (t) => {
  const packet = encodeBeacon(beacon);
  for (let n = 0; n < packet.length; n++) t.equal(decodeBeacon(packet.subarray(0, n)), null);
  const asked = Uint8Array.from(packet);
  asked[2] = 0;
  t.equal(decodeBeacon(asked), null, 'a question');
  t.equal(decodeBeacon(encodeBeacon({ ...beacon, fingerprint: 'x'.repeat(64) })), null);
  t.equal(decodeBeacon(encodeBeacon({ ...beacon, name: '../etc' })), null);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1_600 }), (bytes) => {
      decodeBeacon(bytes);
    }),
  );
  fc.assert(
    fc.property(fc.nat(packet.length - 1), fc.nat(255), (at, value) => {
      const changed = Uint8Array.from(packet);
      changed[at] = value;
      const heard = decodeBeacon(changed);
      if (heard !== null) {
        t.match(heard.name, /^[a-z0-9-]{1,63}$/);
        t.match(heard.fingerprint, /^[0-9a-f]{64}$/);
        t.match(heard.version, /^[\x21-\x7e]{0,64}$/);
      }
    }),
  );
  t.end();
});
