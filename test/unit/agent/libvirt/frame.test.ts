import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import t from 'tap';
import {
  encodeFrame,
  encodeHead,
  FrameSplitter,
  type Frame,
  type Header,
} from '../../../../agent/libvirt/frame.js';
import { FRAME_BYTES_MAX } from '../../../../agent/libvirt/protocol.js';
import { opaque, string } from '../../../../agent/libvirt/xdr.js';

const header: Header = { program: 0x20008086, version: 1, procedure: 7, type: 1, serial: 9, status: 0 };

await t.test('a frame by example', async (t) => {
  t.equal(
    encodeFrame(header, string, 'x').toString('hex'),
    [
      '00000024',
      '20008086',
      '00000001',
      '00000007',
      '00000001',
      '00000009',
      '00000000',
      '00000001',
      '78000000',
    ].join(''),
  );
  t.equal(
    encodeHead(header, 8).toString('hex'),
    encodeFrame(header, string, 'x').subarray(0, 28).toString('hex'),
  );
});

await t.test('split at every byte, the same frames come out', async (t) => {
  const frames = [
    encodeFrame(header, string, 'one'),
    encodeFrame({ ...header, serial: 10 }, string, ''),
    encodeFrame({ ...header, serial: 11 }, string, 'three and more'),
  ];
  const all = Buffer.concat(frames);
  for (let at = 0; at <= all.length; at++) {
    const splitter = new FrameSplitter();
    const got = [...splitter.push(all.subarray(0, at)), ...splitter.push(all.subarray(at))];
    t.same(
      got.map((f) => f.header.serial),
      [9, 10, 11],
      `split at ${at}`,
    );
    t.same(got[2]?.body, frames[2]?.subarray(28));
  }
});

await t.test('any splitting, the same frames', async () => {
  const bodies = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(
      bodies,
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 20 }),
      (bodies, cuts) => {
        const all = Buffer.concat(
          bodies.map((body, i) => encodeFrame({ ...header, serial: i }, opaque, body)),
        );
        const splitter = new FrameSplitter();
        const got: Frame[] = [];
        for (let at = 0, i = 0; at < all.length; i++) {
          const n = cuts[i % cuts.length] ?? 1;
          got.push(...splitter.push(all.subarray(at, at + n)));
          at += n;
        }
        const serials = got.map((f) => f.header.serial);
        const read = got.map((f) => Buffer.from(f.body.subarray(4, 4 + f.body.readUInt32BE(0))));
        return isDeepStrictEqual(
          [serials, read],
          [bodies.map((_, i) => i), bodies.map((b) => Buffer.from(b))],
        );
      },
    ),
  );
});

await t.test('impossible lengths are refused at the length word', async (t) => {
  for (const length of [0, 4, 27, FRAME_BYTES_MAX + 1, 0xffffffff]) {
    const word = Buffer.alloc(4);
    word.writeUInt32BE(length);
    t.throws(() => new FrameSplitter().push(word), /frame of/, `${length}`);
  }
});
