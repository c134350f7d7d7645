import t from 'tap';
import { listTar, type TarEntry } from '../../../../core/ovf/tar.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { pax, tarOf, type TarFile } from '../../agent/ovf/make.js';

const list = (bytes: Buffer, sizeBytes = bytes.length): Promise<TarEntry[]> =>
  listTar('x.ova', (o, n) => Promise.resolve(bytes.subarray(o, Math.min(o + n, bytes.length))), sizeBytes);

async function refusal(bytes: Buffer): Promise<string> {
  try {
    await list(bytes);
  } catch (e) {
    if (e instanceof FlotillaError && e.code === 'bad-input') return e.message;
    throw e;
  }
  return 'was taken';
}

void t.test('files of ustar, GNU and pax archives, without their bytes', async (t) => {
  const long = `${'n'.repeat(150)}.vmdk`;
  const bytes = tarOf([
    { name: 'a.ovf', data: 'hello' },
    { name: './b.mf', data: '' },
    { name: 'dir/', kind: '5' },
    { name: '././@LongLink', kind: 'L', data: `${long}\0` },
    { name: long.slice(0, 99), data: 'x'.repeat(700) },
    { name: 'ignored', kind: 'g', data: '18 comment=global\n' },
    pax('path', 'ünder.iso'),
    { name: 'short', data: 'iso' },
    { name: 'file', prefix: 'some/folder', data: 'p' },
    { name: 'big', data: 'binary', binary: true },
  ]);
  const entries = await list(bytes);
  t.strictSame(
    entries.map((e) => [e.name, e.sizeBytes]),
    [
      ['a.ovf', 5],
      ['b.mf', 0],
      [long, 700],
      ['ünder.iso', 3],
      ['some/folder/file', 1],
      ['big', 6],
    ],
  );
  const at = entries[5]?.offset ?? 0;
  t.equal(bytes.toString('utf8', at, at + 6), 'binary');
  t.equal((await list(tarOf([{ name: 'a' }], false))).length, 1, 'the end may be missing');
});

void t.test('an archive of 3 TiB is listed by its headers alone', async (t) => {
  const size = 3 * 2 ** 40;
  const first = tarOf([{ name: 'a.ovf', data: 'x' }], false);
  const head = tarOf([{ name: 'huge.img', size, binary: true }], false);
  const end = Buffer.alloc(1024);
  let read = 0;
  const entries = await listTar(
    'x.ova',
    (offset, length) => {
      read += length;
      const whole = first.length + 512;
      const bytes = offset >= whole + size ? end : Buffer.concat([first, head]).subarray(offset);
      return Promise.resolve(bytes.subarray(0, length));
    },
    first.length + 512 + size + 1024,
  );
  t.match(entries, [{ name: 'a.ovf' }, { name: 'huge.img', sizeBytes: size, offset: first.length + 512 }]);
  t.ok(read < 4096);
});

void t.test('what is no plain file of the package is refused', async (t) => {
  const cases: [TarFile, RegExp][] = [
    [{ name: '../x' }, /"\.\.\/x" leads out of the package/],
    [{ name: 'a/../../x' }, /leads out of the package/],
    [{ name: '/etc/passwd' }, /is absolute/],
    [{ name: 'c:\\x' }, /is absolute/],
    [{ name: 'a\\b' }, /characters that no file of a package has/],
    [{ name: 'a\u001b[31m' }, /characters that no file/],
    [{ name: '' }, /empty or overlong/],
    [{ name: 'l', kind: '2' }, /"l" is a symbolic link, not a file/],
    [{ name: 'l', kind: '1' }, /"l" is a hard link, not a file/],
    [{ name: 'd', kind: '3' }, /is a device/],
    [{ name: 'd', kind: '4' }, /is a device/],
    [{ name: 'p', kind: '6' }, /is a pipe/],
    [{ name: 's', kind: 'S' }, /is a sparse file/],
    [{ name: 'z', kind: 'Z' }, /of an unknown kind/],
    [pax('path', '../../../etc/shadow'), /leads out of the package/],
    [pax('size', '9999999'), /cut off/],
    [pax('size', '-1'), /impossible size/],
    [{ name: 'p', kind: 'x', data: 'nonsense' }, /unreadable extended header/],
    [{ name: 'p', kind: 'x', data: '99 path=a\n' }, /unreadable extended header/],
    [pax('GNU.sparse.major', '1'), /sparse/],
    [{ name: 'p', kind: 'x', data: '16 size=999999\n' }, /unreadable extended header/],
    [{ name: 'p', kind: 'L', data: 'n'.repeat(70_000) }, /overlong name/],
  ];
  for (const [file, expected] of cases)
    t.match(
      await refusal(tarOf([{ name: 'a.ovf' }, file, { name: 'after' }])),
      expected,
      JSON.stringify(file).slice(0, 80),
    );
  t.match(
    await refusal(
      tarOf([{ name: 'p', kind: 'x', data: '27 path=../../../etc/shadow' + '\n' }, { name: 'x' }]),
    ),
    /leads out of the package|unreadable/,
  );
  const latin = tarOf([{ name: 'a' }]);
  latin[0] = 0xff;
  latin.write(
    `${latin
      .subarray(0, 512)
      .reduce((n, b, i) => n + (i >= 148 && i < 156 ? 0x20 : b), 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  );
  t.match(await refusal(latin), /is not UTF-8/);
  t.match(
    await refusal(tarOf([{ name: 'a' }, { name: './a' }])),
    /"\.\/a" is there twice|"a" is there twice/,
  );
});

void t.test('cut off or damaged', async (t) => {
  const whole = tarOf([
    { name: 'a.ovf', data: 'x'.repeat(1000) },
    { name: 'b.vmdk', data: 'y'.repeat(5000) },
  ]);
  t.match(await refusal(whole.subarray(0, 4000)), /cut off: "b\.vmdk" needs 5000 bytes, and \d+ are there/);
  t.match(await refusal(whole.subarray(0, 1700)), /ends within a header, at byte 1536/);
  t.match(await refusal(Buffer.from('no archive at all'.repeat(50))), /it is no tar archive/);
  const flipped = Buffer.from(whole);
  flipped[1540] = 0x41;
  t.match(await refusal(flipped), /no valid header at byte 1536/);
  t.match(await refusal(tarOf([{ name: 'a', size: 2 ** 33 - 1 }])), /cut off/);
  const negative = tarOf([{ name: 'a', size: 5, binary: true }]);
  negative.fill(0xff, 124, 136);
  t.match(await refusal(negative), /no tar archive|impossible size/);
});
