import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import t from 'tap';
import { runTool, type Tool } from '../../../../agent/pool/tool.js';
import {
  bytesOf,
  diskOf,
  faultOf,
  filesBelow,
  imageOf,
  importFile,
  MiB,
  noise,
  poolAt,
  volumesAt,
  work,
} from './fixture.js';

/** A pool of its own small file system, so that it can really be full. */
function smallPool(t: { teardown: (f: () => void) => void }, sizeMiB: number, run: Tool = runTool) {
  // Not below the test's own folder: that is removed before the mount is.
  const dir = fs.mkdtempSync(`${os.tmpdir()}/flotilla-space-`);
  fs.mkdirSync(`${dir}/pool`);
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m`, 'flotilla-test', `${dir}/pool`]);
  t.teardown(() => {
    execFileSync('umount', ['-l', `${dir}/pool`]);
    fs.rmSync(dir, { recursive: true });
  });
  return { dir, pool: poolAt(`${dir}/pool`, { reservePct: 10 }), v: volumesAt(dir, { run }) };
}

await t.test('a clone that does not fit is refused before it begins', async (t) => {
  const { v, pool, dir } = smallPool(t, 128);
  fs.writeFileSync(`${dir}/src.raw`, noise(64 * MiB));
  const image = await importRoomy(dir, v, pool);
  const disk = diskOf(pool, {
    format: 'raw',
    sizeBytes: 64 * MiB,
    source: { kind: 'image', image: image.id, mode: 'full' },
  });
  const fault = await faultOf(v.makeDisk(disk, pool, { image, pool }, work()));
  t.equal(fault?.code, 'no-space');
  t.match(fault?.details, { totalBytes: 128 * MiB, usableBytes: Number, neededBytes: Number });
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('disks/')),
    [],
  );
  t.match(await v.probe(pool), { ok: true }, 'a full pool is still a pool');
});

await t.test(
  'a pool that is filled up by others during a clone stops it, and nothing half-made stays',
  async (t) => {
    const { v, pool, dir } = smallPool(t, 256, async (file, args, o) => {
      if (args[0] === 'convert' && ballast) execFileSync('fallocate', ['-l', ballast, `${pool.path}/other`]);
      return runTool(file, args, o);
    });
    let ballast = '';
    fs.writeFileSync(`${dir}/src.raw`, noise(96 * MiB));
    const image = await importRoomy(dir, v, pool);
    const disk = diskOf(pool, {
      format: 'raw',
      sizeBytes: 96 * MiB,
      source: { kind: 'image', image: image.id, mode: 'full' },
    });
    ballast = '120M';
    const fault = await faultOf(v.makeDisk(disk, pool, { image, pool }, work()));
    t.equal(fault?.code, 'no-space');
    t.match(fault?.hint, /Nothing half-made was kept/);
    t.strictSame(
      filesBelow(pool.path).filter((f) => f.startsWith('disks/')),
      [],
    );
    fs.unlinkSync(`${pool.path}/other`);
    ballast = '';
    await v.makeDisk(disk, pool, { image, pool }, work());
    t.equal(fs.statSync(v.diskPath(disk, pool)).size, 96 * MiB, 'with space again, it is made');
  },
);

await t.test('a copy that grows is stopped at the reserve, not at the last byte', async (t) => {
  let freeAtEnd = 0;
  // A tool that writes on and on, slowly, until it is told to stop.
  const endless: Tool = async (file, args, o) => {
    if (args[0] !== 'convert') return runTool(file, args, o);
    const to = args.at(-1) ?? '';
    while (!o.signal?.aborted) {
      fs.appendFileSync(to, Buffer.alloc(MiB / 4, 1));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    freeAtEnd = fs.statfsSync(to).bavail;
    throw o.signal.reason;
  };
  const { v, pool, dir } = smallPool(t, 256, endless);
  fs.writeFileSync(`${dir}/src.raw`, noise(MiB));
  const image = imageOf(pool);
  const half = { ...pool, reservePct: 50 };
  await v.upload(image, half, 0, fs.createReadStream(`${dir}/src.raw`));
  const fault = await faultOf(v.importImage(image, half, work()));
  t.equal(fault?.code, 'no-space');
  t.ok(freeAtEnd > 0, 'there was still space');
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('images/')),
    [],
  );
});

await t.test('an image that unpacks to more than the pool is stopped before the pool is full', async (t) => {
  const { v, pool, dir } = smallPool(t, 192);
  // 160 MiB of one pattern: small when compressed, and no zeros when unpacked.
  fs.writeFileSync(`${dir}/src.raw`, Buffer.alloc(160 * MiB, 'bomb'));
  execFileSync('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', `${dir}/src.raw`, `${dir}/bomb`]);
  t.ok(fs.statSync(`${dir}/bomb`).size < 16 * MiB);
  await v.probe(pool);
  execFileSync('fallocate', ['-l', '64M', `${pool.path}/ballast`]);
  const image = imageOf(pool);
  await v.upload(image, pool, 0, fs.createReadStream(`${dir}/bomb`));
  const fault = await faultOf(v.importImage(image, pool, work()));
  t.equal(fault?.code, 'no-space');
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('images/')),
    [],
  );
});

await t.test('an upload stops at the reserve and goes on when there is room', async (t) => {
  const { v, pool } = smallPool(t, 128);
  await v.probe(pool);
  const image = imageOf(pool, { expectedBytes: 200 * MiB });
  const fault = await faultOf(v.upload(image, pool, 0, bytesOf(noise(MiB))));
  t.equal(fault?.code, 'no-space', 'known before the first byte');
  const unknown = imageOf(pool);
  async function* endless() {
    for (;;) yield Buffer.alloc(8 * MiB, 1);
  }
  t.equal((await faultOf(v.upload(unknown, pool, 0, endless())))?.code, 'no-space');
  t.ok((await v.uploadOffset(unknown, pool)) >= 64 * MiB, 'what came is kept');
  await v.removeImage(unknown, pool);
  t.strictSame(filesBelow(pool.path), []);
});

await t.test('on a pool without a free byte disks can still be removed', async (t) => {
  const { v, pool } = smallPool(t, 64);
  const disk = diskOf(pool, { format: 'raw' });
  await v.makeDisk(disk, pool, null, work());
  const free = fs.statfsSync(pool.path).bavail * 4096;
  execFileSync('fallocate', ['-l', String(free), `${pool.path}/ballast`]);
  t.match(await v.probe(pool), { ok: true, freeBytes: 0 });
  t.equal((await faultOf(v.makeDisk(diskOf(pool), pool, null, work())))?.code, 'no-space');
  await v.removeDisk(disk, pool);
  t.strictSame(filesBelow(pool.path), ['ballast']);
});

/** Imports while the pool has room for the upload and the copy; afterwards it is as small as before. */
async function importRoomy(dir: string, v: ReturnType<typeof volumesAt>, pool: ReturnType<typeof poolAt>) {
  const before = fs.statfsSync(pool.path);
  execFileSync('mount', ['-o', 'remount,size=512m', pool.path]);
  const image = await importFile(v, pool, `${dir}/src.raw`);
  execFileSync('mount', ['-o', `remount,size=${(before.blocks * before.bsize) / MiB}m`, pool.path]);
  return image;
}
