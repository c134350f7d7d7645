import { createHash, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import t from 'tap';
import { OvfArchive } from '../../../../agent/ovf/package.js';
import { tarHeader } from '../../../../agent/ovf/tar-writer.js';
import { listTar } from '../../../../core/ovf/tar.js';
import type { ExportedVm } from '../../../../core/ovf/export.js';
import {
  diskOf,
  faultOf,
  filesBelow,
  importFile,
  MiB,
  noise,
  poolAt,
  qemuImg,
  volumesAt,
  work,
} from '../pool/fixture.js';

/** A VM's disks become a package, and the package the same disks: real files, real qemu-img. */

const spec: ExportedVm['spec'] = {
  name: 'web',
  note: 'a note',
  cpus: 2,
  memoryMiB: 512,
  firmware: 'bios',
  cdroms: [],
};

async function prepared(t: { testdir(): string }) {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const v = volumesAt(dir);
  fs.writeFileSync(`${dir}/a.raw`, Buffer.concat([noise(2 * MiB, 1), Buffer.alloc(6 * MiB), noise(MiB, 2)]));
  fs.writeFileSync(`${dir}/b.raw`, Buffer.alloc(4 * MiB, 'data'));
  const base = await importFile(v, pool, `${dir}/a.raw`);
  const linked = diskOf(pool, {
    name: 'root',
    sizeBytes: 9 * MiB,
    source: { kind: 'image', image: base.id, mode: 'linked' },
  });
  await v.makeDisk(linked, pool, { image: base, pool }, work());
  const raw = diskOf(pool, { name: 'data', format: 'raw', sizeBytes: 4 * MiB });
  await v.makeDisk(raw, pool, null, work());
  fs.copyFileSync(`${dir}/b.raw`, v.diskPath(raw, pool));
  const vm = {
    spec,
    nics: [{ network: 'lan', model: 'virtio' as const }],
    disks: [
      { disk: linked, pool, bus: 'virtio' as const },
      { disk: raw, pool, bus: 'scsi' as const },
    ],
  };
  return { dir, pool, v, vm, exports: v.exports() };
}

async function bytesFrom(
  archive: { read(from: number): AsyncGenerator<Buffer> },
  from: number,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of archive.read(from)) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

void t.test('what is packed is imported as it was', async (t) => {
  const { dir, pool, v, vm, exports } = await prepared(t);
  const op = randomUUID();
  const steps: number[] = [];
  const { sizeBytes } = await exports.make(op, vm, pool, work({ progress: (share) => steps.push(share) }));
  t.ok(steps.every((s) => s >= 0 && s <= 1));
  const archive = await exports.open(op, [pool]);
  if (archive === null) return void t.fail('there is no archive');
  const whole = await bytesFrom(archive, 0);
  t.equal(whole.length, sizeBytes);
  t.equal(archive.sizeBytes, sizeBytes);
  for (const from of [1, 511, 512, 3000, 5000, Math.floor(sizeBytes / 2), sizeBytes - 700, sizeBytes])
    t.ok((await bytesFrom(archive, from)).equals(whole.subarray(from)), `from byte ${from}`);
  fs.writeFileSync(`${dir}/x.ova`, whole);
  const report = await (
    await OvfArchive.open(`${dir}/x.ova`)
  ).report({ verify: true, nowMs: 0, signal: new AbortController().signal });
  t.strictSame(report.warnings, []);
  t.strictSame(report.manifest?.verified, ['web.ovf', 'web-disk1.vmdk', 'web-disk2.vmdk']);
  for (const [i, name] of ['a.raw', 'b.raw'].entries()) {
    const piece = report.files[i];
    if (piece === undefined) return void t.fail('a disk is missing');
    const parts: Buffer[] = [];
    for await (const part of (await OvfArchive.open(`${dir}/x.ova`)).content(piece))
      parts.push(Buffer.from(part));
    const data = Buffer.concat(parts);
    t.equal(createHash('sha256').update(data).digest('hex'), piece.sha256);
    fs.writeFileSync(`${dir}/back.vmdk`, data);
    const back = await importFile(v, pool, `${dir}/back.vmdk`, { expectedBytes: data.length });
    t.match(
      qemuImg('compare', '-f', 'raw', '-F', 'qcow2', `${dir}/${name}`, v.imagePath(back, pool)),
      /Images are identical/,
    );
  }
  await exports.sweep([pool], new Set([op]));
  t.ok(await exports.open(op, [pool]), 'it is kept');
  await exports.sweep([pool], new Set());
  t.equal(await exports.open(op, [pool]), null, 'nobody fetched it');
});

void t.test('of a snapshot it has what was then, whatever was written since', async (t) => {
  const { dir, pool, v, vm, exports } = await prepared(t);
  const [, data] = vm.disks;
  if (data === undefined) return void t.fail();
  const { disk } = data;
  const snapshot = {
    ...disk,
    id: randomUUID(),
    disk: disk.id,
    bus: data.bus,
    replicated: false,
    usedBytes: null,
  };
  await v.takeSnapshot(disk, pool, snapshot, work());
  fs.writeFileSync(v.diskPath(disk, pool), Buffer.alloc(4 * MiB, 'later'));
  const op = randomUUID();
  const packed = { ...vm, disks: [{ snapshot, pool, bus: data.bus }] };
  await exports.make(op, packed, pool, work());
  const archive = await exports.open(op, [pool]);
  if (archive === null) return void t.fail('there is no archive');
  fs.writeFileSync(`${dir}/x.ova`, await bytesFrom(archive, 0));
  const ova = await OvfArchive.open(`${dir}/x.ova`);
  const report = await ova.report({ verify: true, nowMs: 0, signal: new AbortController().signal });
  const [piece] = report.files;
  if (piece === undefined) return void t.fail('the disk is missing');
  const parts: Buffer[] = [];
  for await (const part of ova.content(piece)) parts.push(Buffer.from(part));
  fs.writeFileSync(`${dir}/back.vmdk`, Buffer.concat(parts));
  t.match(qemuImg('compare', '-f', 'raw', '-F', 'vmdk', `${dir}/b.raw`, `${dir}/back.vmdk`), /identical/);
});

void t.test('cancelled or failed, nothing is left', async (t) => {
  const { pool, vm, exports } = await prepared(t);
  const left = (): string[] => filesBelow(pool.path).filter((f) => f.startsWith('exports'));
  const abort = new AbortController();
  abort.abort();
  t.match(await faultOf(exports.make(randomUUID(), vm, pool, work({ signal: abort.signal }))), {
    code: 'cancelled',
  });
  t.strictSame(left(), []);
  const gone = { ...vm, disks: vm.disks.map((d) => ({ ...d, disk: { ...d.disk, id: randomUUID() } })) };
  t.match(await faultOf(exports.make(randomUUID(), gone, pool, work())), { code: 'tool-failed' });
  t.strictSame(left(), []);
});

void t.test('sizes beyond what eleven octal digits hold', async (t) => {
  const size = 3 * 2 ** 40;
  const header = tarHeader('large.vmdk', size);
  const files = await listTar(
    'x.ova',
    (offset, length) => Promise.resolve(offset === 0 ? header : Buffer.alloc(length)),
    size + 1536,
  );
  t.match(files, [{ name: 'large.vmdk', offset: 512, sizeBytes: size }]);
});
