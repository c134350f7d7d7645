import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { deflateSync } from 'node:zlib';
import t from 'tap';
import type { Disk } from '../../../../core/domain/disk.js';
import { Intake } from '../../../../agent/pool/intake.js';
import { streamedVmdk } from '../../../../agent/pool/vmdk-stream.js';
import {
  bytesOf,
  codeOf,
  diskOf,
  filesBelow,
  imageOf,
  importFile,
  infoOf,
  MiB,
  noise,
  poolAt,
  qemuImg,
  volumesAt,
  work,
} from './fixture.js';

/** What a stream-optimised vmdk becomes as it comes, judged by qemu-img; and all that it must not become. */

const grain = 65_536;

function vmdkOf(dir: string, raw: Buffer): Buffer {
  const from = path.join(dir, 'from.raw');
  const to = path.join(dir, 'from.vmdk');
  fs.writeFileSync(from, raw);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', from, to);
  return fs.readFileSync(to);
}

/** As VMware writes it: markers before all, tables behind the grains, and a footer. */
export function vmwareVmdk(grains: ReadonlyMap<number, Buffer>, capacity: number): Buffer {
  const header = (directory: bigint): Buffer => {
    const h = Buffer.alloc(512);
    h.write('KDMV', 0, 'latin1');
    h.writeUInt32LE(3, 4);
    h.writeUInt32LE(0x30001, 8);
    h.writeBigUInt64LE(BigInt(capacity / 512), 12);
    h.writeBigUInt64LE(128n, 20);
    h.writeBigUInt64LE(1n, 28);
    h.writeBigUInt64LE(20n, 36);
    h.writeUInt32LE(512, 44);
    h.writeBigUInt64LE(directory, 56);
    h.writeBigUInt64LE(128n, 64);
    h.write('\n \r\n', 73, 'latin1');
    h.writeUInt16LE(1, 77);
    return h;
  };
  const start = Buffer.alloc(grain);
  header(0xffff_ffff_ffff_ffffn).copy(start);
  start.write(
    `# Disk DescriptorFile\nversion=1\nCID=7b6f4a11\nparentCID=ffffffff\ncreateType="streamOptimized"\nRW ${capacity / 512} SPARSE "x.vmdk"\n`,
    512,
  );
  const parts: Buffer[] = [start];
  let at = grain;
  const add = (b: Buffer): void => {
    parts.push(b);
    at += b.length;
  };
  const marker = (sectors: number, kind: number): void => {
    const m = Buffer.alloc(512);
    m.writeBigUInt64LE(BigInt(sectors));
    m.writeUInt32LE(kind, 12);
    add(m);
  };
  const tables = new Map<number, Buffer>();
  for (const [index, data] of grains) {
    const packed = deflateSync(data);
    const b = Buffer.alloc(Math.ceil((12 + packed.length) / 512) * 512);
    b.writeBigUInt64LE(BigInt(index * 128));
    b.writeUInt32LE(packed.length, 8);
    packed.copy(b, 12);
    const table = tables.get(Math.floor(index / 512)) ?? Buffer.alloc(2048);
    tables.set(Math.floor(index / 512), table);
    table.writeUInt32LE(at / 512, (index % 512) * 4);
    add(b);
  }
  const directory = Buffer.alloc(Math.ceil(capacity / (512 * grain) / 128) * 512);
  for (const [number, table] of tables) {
    marker(4, 1);
    directory.writeUInt32LE(at / 512, number * 4);
    add(table);
  }
  marker(directory.length / 512, 2);
  const directoryAt = at / 512;
  add(directory);
  marker(1, 3);
  add(header(BigInt(directoryAt)));
  marker(0, 0);
  return Buffer.concat(parts);
}

/** @returns the qcow2's path; pieces are cut where they hurt */
async function taken(dir: string, vmdk: Buffer, pieceBytes: number, o = {}): Promise<string> {
  const facts = streamedVmdk(vmdk.subarray(0, grain), vmdk.length);
  if (facts === null) throw new Error('it is not taken as a stream');
  const out = path.join(dir, 'out.qcow2');
  const intake = new Intake(await open(out, 'w+'), facts, o);
  try {
    for (let p = 0; p < vmdk.length; p += pieceBytes)
      await intake.push(Uint8Array.from(vmdk.subarray(p, p + pieceBytes)));
    await intake.end();
  } finally {
    await intake.close();
  }
  return out;
}

void t.test('what qemu-img wrote reads the same afterwards, however it was cut', async (t) => {
  const dir = t.testdir();
  // Data, a hole, data that packs well, zeros that were written, and an end that is no whole grain.
  const raw = Buffer.concat([
    noise(3 * grain + 512, 1),
    Buffer.alloc(5 * grain),
    Buffer.alloc(2 * grain, 'flotilla '),
    noise(grain, 2),
    Buffer.alloc(512 * 7),
    noise(512, 3),
  ]);
  const vmdk = vmdkOf(dir, raw);
  for (const piece of [vmdk.length, 1_000_003, grain, 4093, 511]) {
    const out = await taken(dir, vmdk, piece);
    t.match(qemuImg('check', '-f', 'qcow2', out), /No errors/, `pieces of ${piece}`);
    t.equal(infoOf(out)['virtual-size'], raw.length);
    t.match(
      qemuImg('compare', '-f', 'raw', '-F', 'qcow2', path.join(dir, 'from.raw'), out),
      /Images are identical/,
    );
  }
});

void t.test('a disk of more tables than are kept in memory, its grains in no order', async (t) => {
  const dir = t.testdir();
  const tables = 6;
  const spread = 512 * MiB;
  const capacity = tables * spread;
  const order = Array.from({ length: tables * 2 }, (_, i) => (i * 5) % (tables * 2));
  const grains = new Map(
    order.map((i) => [Math.floor(i / 2) * (spread / grain) + (i % 2) * 9, noise(grain, i + 1)]),
  );
  const vmdk = vmwareVmdk(grains, capacity);
  const out = await taken(dir, vmdk, 300_000, { tablesMax: 2 });
  t.match(qemuImg('check', '-f', 'qcow2', out), /No errors/);
  fs.writeFileSync(`${dir}/in.vmdk`, vmdk);
  t.match(qemuImg('compare', '-f', 'vmdk', '-F', 'qcow2', `${dir}/in.vmdk`, out), /Images are identical/);
});

void t.test('what must not be taken', async (t) => {
  const dir = t.testdir();
  const good = vmwareVmdk(
    new Map([
      [0, noise(grain, 1)],
      [5, noise(grain, 2)],
    ]),
    8 * MiB,
  );
  const refused = async (name: string, change: (b: Buffer) => Buffer, why: RegExp): Promise<void> => {
    await t.rejects(taken(dir, change(Buffer.from(good)), 100_000), why, name);
  };
  t.ok(await taken(dir, good, 100_000), 'the unchanged one is');
  const front = vmdkOf(dir, noise(8 * grain));
  await t.rejects(
    taken(dir, front.subarray(0, front.length - 200 * 512), 100_000),
    /ends in|tables name/,
    'cut off, its tables before its data',
  );
  // Cut where a grain ends: only the tables tell.
  const end = (() => {
    for (let p = front.length - 512; ; p -= 512)
      if (front.readUInt32LE(p + 8) > 60_000 && Number(front.readBigUInt64LE(p)) === 7 * 128) return p;
  })();
  await t.rejects(
    taken(dir, front.subarray(0, end), 100_000),
    /tables name 8 grains, and 7/,
    'cut off between grains',
  );
  await refused('cut off', (b) => b.subarray(0, b.length - 512 * 3), /ends in the middle|tables name/);
  await refused('cut off within a grain', (b) => b.subarray(0, grain + 30_000), /ends in the middle/);
  await refused(
    'a grain beyond the end of the disk',
    (b) => (b.writeBigUInt64LE(BigInt(8 * MiB) / 512n, grain), b),
    /belongs to no place/,
  );
  await refused(
    'a grain between two places',
    (b) => (b.writeBigUInt64LE(1n, grain), b),
    /belongs to no place/,
  );
  await refused('a grain of 4 GiB', (b) => (b.writeUInt32LE(0xffff_ffff, grain + 8), b), /longer than/);
  await refused('damaged data', (b) => (b.fill(0xff, grain + 12, grain + 64), b), /cannot be unpacked/);
  const second = good.indexOf(deflateSync(noise(grain, 2))) - 12;
  await refused('the same grain twice', (b) => (b.writeBigUInt64LE(0n, second), b), /is there twice/);
  const bomb = vmwareVmdk(new Map([[0, Buffer.alloc(64 * MiB)]]), 8 * MiB);
  await t.rejects(taken(dir, bomb, 100_000), /more than its size/, 'a grain that unpacks to 64 MiB');
  const short = vmwareVmdk(new Map([[0, noise(100, 1)]]), 8 * MiB);
  await t.rejects(taken(dir, short, 100_000), /holds 100 bytes/, 'a grain that is too short');
  const unnamed = Buffer.from(good);
  unnamed.writeUInt32LE(0, good.length - 5 * 512 - 2048);
  await t.rejects(taken(dir, unnamed, 100_000), /tables name 1 grains, and 2/, 'a grain that no table names');
});

void t.test('what is no stream has to lie on a disk first', (t) => {
  const dir = t.testdir();
  fs.writeFileSync(`${dir}/r`, noise(MiB));
  for (const subformat of ['monolithicSparse', 'streamOptimized']) {
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, `${dir}/r`, `${dir}/v`);
    const head = fs.readFileSync(`${dir}/v`).subarray(0, grain);
    t.equal(
      streamedVmdk(head, fs.statSync(`${dir}/v`).size) !== null,
      subformat === 'streamOptimized',
      subformat,
    );
  }
  t.equal(streamedVmdk(noise(grain), MiB), null);
  t.end();
});

void t.test('an upload that is taken in as it comes', async (t) => {
  const dir = t.testdir();
  const vmdk = vmdkOf(dir, noise(20 * grain, 7));
  const pool = poolAt(`${dir}/pool`);
  const image = imageOf(pool, { expectedBytes: vmdk.length });
  const v = volumesAt(dir);
  const half = Math.floor(vmdk.length / 2);

  await t.test('goes on where it broke off', async (t) => {
    t.equal(await v.upload(image, pool, 0, bytesOf(vmdk.subarray(0, half))), half);
    t.equal(await v.uploadOffset(image, pool), half);
    t.equal(await codeOf(v.upload(image, pool, 5, bytesOf('x'))), 'offset-mismatch');
  });
  await t.test('begins anew after the agent has', async (t) => {
    const later = volumesAt(dir, { boot: 'boot-2' });
    t.equal(await later.uploadOffset(image, pool), 0);
    t.equal(await later.upload(image, pool, 0, bytesOf(vmdk)), vmdk.length);
    // What came to its end is kept also then.
    const last = volumesAt(dir, { boot: 'boot-3' });
    t.equal(await last.uploadOffset(image, pool), vmdk.length);
    const facts = await last.importImage(image, pool, work());
    t.match(facts, {
      format: 'qcow2',
      virtualSizeBytes: 20 * grain,
      sha256: createHash('sha256').update(vmdk).digest('hex'),
    });
    const file = last.imagePath({ id: image.id, format: 'qcow2' }, pool);
    t.match(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', `${dir}/from.raw`, file), /Images are identical/);
    t.strictSame(
      filesBelow(pool.path).filter((f) => f.startsWith('incoming')),
      [],
      'nothing of what came is left',
    );
  });
  await t.test('leaves nothing behind when it is damaged, or another than was said', async (t) => {
    const bad = Buffer.from(vmdk);
    bad.fill(0xff, bad.length - 20_000, bad.length - 10_000);
    const one = imageOf(pool, { expectedBytes: bad.length });
    t.equal(await codeOf(v.upload(one, pool, 0, bytesOf(bad))), 'image-refused');
    const other = imageOf(pool, { expectedBytes: vmdk.length, sha256: '0'.repeat(64) });
    await v.upload(other, pool, 0, bytesOf(vmdk));
    t.equal(await codeOf(v.importImage(other, pool, work())), 'checksum-mismatch');
    t.strictSame(
      filesBelow(pool.path).filter((f) => f.startsWith('incoming')),
      [],
    );
  });
});

void t.test('an image becomes a disk by its own file', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const v = volumesAt(dir);
  fs.writeFileSync(`${dir}/r.raw`, noise(4 * MiB, 5));
  const moved = (image: { id: string }, o: Partial<Disk> = {}): Disk =>
    diskOf(pool, { sizeBytes: 4 * MiB, source: { kind: 'image', image: image.id, mode: 'moved' }, ...o });
  const image = await importFile(v, pool, `${dir}/r.raw`);
  const disk = moved(image);
  await v.makeDisk(disk, pool, { image, pool }, work());
  t.match(
    qemuImg('compare', '-f', 'raw', '-F', 'qcow2', `${dir}/r.raw`, v.diskPath(disk, pool)),
    /Images are identical/,
  );
  t.equal(await v.imageFacts(image.id, pool), null, 'the image has no file any more');
  await v.makeDisk(disk, pool, { image, pool }, work());
  t.equal(await codeOf(v.makeDisk(moved(image), pool, { image, pool }, work())), 'not-found', 'nor twice');
  await v.removeImage(image, pool);

  const base = await importFile(v, pool, `${dir}/r.raw`);
  const linked = diskOf(pool, {
    sizeBytes: 4 * MiB,
    source: { kind: 'image', image: base.id, mode: 'linked' },
  });
  await v.makeDisk(linked, pool, { image: base, pool }, work());
  t.equal(await codeOf(v.makeDisk(moved(base), pool, { image: base, pool }, work())), 'unsupported');
  const larger = moved(base, { sizeBytes: 8 * MiB });
  t.equal(await codeOf(v.makeDisk(larger, pool, { image: base, pool }, work())), 'unsupported');
  t.ok(await v.imageFacts(base.id, pool), 'what is refused is left as it was');
});
