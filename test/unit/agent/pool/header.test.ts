import fs from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import {
  headBytes,
  judgeHeader,
  readQcow2Header,
  tailBytes,
  type Sample,
} from '../../../../agent/pool/header.js';
import { MiB, qemuImg } from './fixture.js';

function sampleOf(path: string): Sample {
  const all = fs.readFileSync(path);
  return {
    head: all.subarray(0, headBytes),
    tail: all.subarray(Math.max(0, all.length - tailBytes)),
    sizeBytes: all.length,
  };
}
const judgeText = (b: Buffer | string): ReturnType<typeof judgeHeader> => {
  const all = Buffer.isBuffer(b) ? b : Buffer.from(b, 'latin1');
  return judgeHeader({
    head: all.subarray(0, headBytes),
    tail: all.subarray(Math.max(0, all.length - tailBytes)),
    sizeBytes: all.length,
  });
};
const reason = (v: ReturnType<typeof judgeHeader>): string => (v.ok ? `taken as ${v.format}` : v.reason);

await t.test('what qemu-img writes is known by its format and size', async (t) => {
  const dir = t.testdir();
  for (const [format, options, size] of [
    ['qcow2', [], 5 * MiB],
    ['qcow2', ['-o', 'compat=0.10'], 5 * MiB],
    ['qcow2', ['-o', 'compression_type=zstd,extended_l2=on'], 5 * MiB],
    ['vmdk', [], 5 * MiB],
    ['vmdk', ['-o', 'subformat=streamOptimized'], 5 * MiB],
    ['vhdx', [], null],
    ['vpc', ['-o', 'force_size=on'], 5 * MiB],
    ['vpc', ['-o', 'subformat=fixed,force_size=on'], 5 * MiB],
    ['raw', [], 5 * MiB],
  ] as const) {
    const path = `${dir}/x`;
    fs.rmSync(path, { force: true });
    qemuImg('create', '-q', '-f', format, ...options, path, '5M');
    t.strictSame(
      judgeHeader(sampleOf(path)),
      { ok: true, format, virtualSizeBytes: size },
      `${format} ${options.join(' ')}`,
    );
  }
});

await t.test('images that need other files are refused', async (t) => {
  const dir = t.testdir({ base: '' });
  const refused = (path: string, pattern: RegExp) => t.match(reason(judgeHeader(sampleOf(path))), pattern);
  qemuImg('create', '-q', '-f', 'raw', `${dir}/base`, '5M');
  qemuImg('create', '-q', '-f', 'qcow2', '-b', `${dir}/base`, '-F', 'raw', `${dir}/backed`);
  refused(`${dir}/backed`, /backing file/);
  qemuImg(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    `data_file=${dir}/data,data_file_raw=on`,
    `${dir}/external`,
    '5M',
  );
  refused(`${dir}/external`, /data file/);
  qemuImg('create', '-q', '-f', 'vmdk', `${dir}/p.vmdk`, '5M');
  qemuImg('create', '-q', '-f', 'vmdk', '-b', `${dir}/p.vmdk`, '-F', 'vmdk', `${dir}/child.vmdk`);
  refused(`${dir}/child.vmdk`, /parent vmdk/);
  for (const subformat of ['monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat']) {
    qemuImg('create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, `${dir}/${subformat}.vmdk`, '5M');
    refused(`${dir}/${subformat}.vmdk`, /refers to other files/);
  }
  refused(`${dir}/twoGbMaxExtentSparse-s001.vmdk`, /split vmdk/);
});

await t.test('headers that lie are refused', async (t) => {
  const dir = t.testdir();
  const patched = (format: string, options: string[], patch: (b: Buffer) => void) => {
    const path = `${dir}/x`;
    fs.rmSync(path, { force: true });
    qemuImg('create', '-q', '-f', format, ...options, path, '5M');
    const b = fs.readFileSync(path);
    patch(b);
    return reason(judgeText(b));
  };
  t.match(
    patched('qcow2', [], (b) => b.writeBigUInt64BE(2n ** 62n, 24)),
    /claims a disk of/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeBigUInt64BE(0n, 24)),
    /no size/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeUInt32BE(4, 4)),
    /version 4/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeUInt32BE(1, 4)),
    /version 1/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeUInt32BE(63, 20)),
    /cluster size/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeBigUInt64BE(2n, 72)),
    /corrupt/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeBigUInt64BE(1n << 40n, 72)),
    /not known/,
  );
  t.match(
    patched('qcow2', [], (b) => b.writeUInt32BE(2, 32)),
    /encrypted/,
  );
  t.match(
    patched('qcow2', [], (b) => {
      // Only the extension says "external data file", the feature bit is left off.
      b.writeUInt32BE(0x44415441, b.readUInt32BE(100));
    }),
    /data file/,
  );
  t.match(
    patched('vmdk', [], (b) => b.writeBigUInt64LE(0n, 12)),
    /refers to other files/,
  );
  t.match(
    patched('vmdk', [], (b) => b.write('SPARSE "/etc/passwd', b.indexOf('SPARSE "'))),
    /taken as vmdk/,
    'QEMU does not open the name of an embedded extent',
  );
  t.match(
    patched('vmdk', [], (b) => b.write('FLAT   "', b.indexOf('SPARSE "'))),
    /extent/,
  );
  t.match(
    patched('vpc', [], (b) => b.writeUInt32BE(4, b.length - 512 + 60)),
    /differencing/,
  );
  t.match(
    patched('vpc', ['-o', 'subformat=fixed'], (b) => b.writeBigUInt64BE(2n ** 40n, b.length - 512 + 48)),
    /claims/,
  );
});

await t.test('what is no image is named as what it is', async (t) => {
  const padded = (start: Buffer | string, at = 0) => {
    const b = Buffer.alloc(4096);
    (Buffer.isBuffer(start) ? start : Buffer.from(start, 'latin1')).copy(b, at);
    return reason(judgeText(b));
  };
  t.match(padded('\x1f\x8b'), /gzip/);
  t.match(padded('\xfd7zXZ\0'), /xz/);
  t.match(padded('PK\x03\x04'), /zip/);
  t.match(padded('ustar', 257), /tar/);
  t.match(padded('LUKS\xba\xbe'), /encrypted/);
  t.match(padded('QED\0'), /qed/);
  t.match(padded('\x7f\x10\xda\xbe', 64), /vdi/);
  t.match(padded('<!DOCTYPE html><html>'), /web page/);
  t.match(padded('# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0'), /other files/);
  t.match(reason(judgeText('')), /empty/);
  t.match(reason(judgeText('some text')), /no whole number of sectors/);
});

await t.test('no header makes the judge fail, or lets more than 64 TiB through', async (t) => {
  const starts = ['QFI\xfb\0\0\0\x03', 'KDMV\x01\0\0\0', 'vhdxfile', 'conectix', '', '# Disk D'];
  fc.assert(
    fc.property(
      fc.constantFrom(...starts),
      fc.uint8Array({ maxLength: 700 }),
      fc.boolean(),
      (start, rest, footer) => {
        const b = Buffer.concat([
          Buffer.from(start, 'latin1'),
          rest,
          ...(footer ? [Buffer.from('conectix'), Buffer.alloc(504, 7)] : []),
        ]);
        const v = judgeText(b);
        if (v.ok)
          t.ok(v.virtualSizeBytes === null || (v.virtualSizeBytes > 0 && v.virtualSizeBytes <= 2 ** 46));
        readQcow2Header(b);
      },
    ),
    { numRuns: 2000 },
  );
  t.pass('all judged');
});
