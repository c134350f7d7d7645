import fs from 'node:fs';
import fsPromises from 'node:fs/promises';
import t from 'tap';
import { Files } from '../../../../agent/pool/files.js';
import { runTool } from '../../../../agent/pool/tool.js';
import {
  codeOf,
  diskOf,
  faultOf,
  filesBelow,
  importFile,
  infoOf,
  MiB,
  noise,
  poolAt,
  qemuImg,
  volumesAt,
  work,
} from './fixture.js';

const setUp = (t: { testdir: () => string }) => {
  const dir = t.testdir();
  return { dir, pool: poolAt(`${dir}/pool`), v: volumesAt(dir) };
};

/** An image of 4 MiB whose first MiB is noise. */
function source(dir: string): string {
  fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(MiB), Buffer.alloc(3 * MiB)]));
  return `${dir}/src.raw`;
}

await t.test('a blank disk has its size, costs nothing yet, and only root reads it', async (t) => {
  const { v, pool } = setUp(t);
  for (const format of ['qcow2', 'raw'] as const) {
    const disk = diskOf(pool, { format, sizeBytes: 64 * MiB });
    await v.makeDisk(disk, pool, null, work());
    const path = v.diskPath(disk, pool);
    t.match(infoOf(path), { format, 'virtual-size': 64 * MiB });
    const stat = fs.statSync(path);
    t.ok(stat.blocks * 512 < MiB, 'sparse');
    t.equal(stat.mode & 0o777, 0o600);
  }
  for (const folder of ['disks', 'images', 'incoming'])
    t.equal(fs.statSync(`${pool.path}/${folder}`).mode & 0o777, 0o700);
});

await t.test('made twice, also at once, it is made once and keeps what was written to it', async (t) => {
  const { v, pool } = setUp(t);
  const disk = diskOf(pool, { format: 'raw' });
  await Promise.all([1, 2, 3].map(() => v.makeDisk(disk, pool, null, work())));
  fs.writeFileSync(v.diskPath(disk, pool), 'guest data', { flag: 'r+' });
  await v.makeDisk(disk, pool, null, work());
  t.equal(fs.readFileSync(v.diskPath(disk, pool)).toString('utf8', 0, 10), 'guest data');
  t.strictSame(filesBelow(pool.path), [`disks/${disk.id}.raw`]);
});

await t.test('another node has made it meanwhile, and its guest writes: that stays', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = await importFile(v, pool, source(dir));
  const disk = diskOf(pool, { format: 'raw', source: { kind: 'image', image: image.id, mode: 'full' } });
  const path = v.diskPath(disk, pool);
  let wrote = false;
  const progress = (): void => {
    if (!wrote) fs.writeFileSync(path, 'of its guest');
    wrote = true;
  };
  await v.makeDisk(disk, pool, { image, pool }, work({ progress }));
  t.ok(wrote);
  t.equal(fs.readFileSync(path, 'utf8'), 'of its guest');
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('disks/')),
    [`disks/${disk.id}.raw`],
    'nothing else is left',
  );
});

await t.test('a full copy has the image’s data, in the disk’s own format and size', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = await importFile(v, pool, source(dir));
  for (const format of ['qcow2', 'raw'] as const) {
    const disk = diskOf(pool, { format, source: { kind: 'image', image: image.id, mode: 'full' } });
    const shares: number[] = [];
    await v.makeDisk(disk, pool, { image, pool }, work({ progress: (s) => shares.push(s) }));
    const path = v.diskPath(disk, pool);
    const info = infoOf(path);
    t.equal(info['virtual-size'], 8 * MiB);
    t.equal(info['backing-filename'], undefined);
    qemuImg('resize', '-q', '-f', 'raw', source(dir), '8M');
    t.match(qemuImg('compare', '-f', 'raw', '-F', format, `${dir}/src.raw`, path), 'Images are identical');
    t.equal(shares.at(-1), 1);
  }
});

await t.test('a linked disk stands on the image, which then cannot go', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = await importFile(v, pool, source(dir));
  const disk = diskOf(pool, { source: { kind: 'image', image: image.id, mode: 'linked' } });
  await v.makeDisk(disk, pool, { image, pool }, work());
  t.equal(infoOf(v.diskPath(disk, pool))['backing-filename'], v.imagePath(image, pool));
  t.ok(fs.statSync(v.diskPath(disk, pool)).size < MiB, 'holds only changes');
  const fault = await faultOf(v.removeImage(image, pool));
  t.equal(fault?.code, 'in-use');
  t.strictSame(fault?.details, { disks: [disk.id] });
  await v.removeDisk(disk, pool);
  await v.removeImage(image, pool);
  t.strictSame(filesBelow(pool.path), []);
});

await t.test('what cannot be is refused before anything is made', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = await importFile(v, pool, source(dir));
  const other = poolAt(`${dir}/other`);
  const from = { image, pool };
  const linked = { kind: 'image', image: image.id, mode: 'linked' } as const;
  const full = { kind: 'image', image: image.id, mode: 'full' } as const;
  const cases: [string, string, Parameters<typeof v.makeDisk>][] = [
    [
      'smaller than its image',
      'bad-input',
      [diskOf(pool, { sizeBytes: MiB, source: full }), pool, from, work()],
    ],
    ['linked raw', 'bad-input', [diskOf(pool, { format: 'raw', source: linked }), pool, from, work()]],
    ['linked across pools', 'bad-input', [diskOf(other, { source: linked }), other, from, work()]],
    [
      'image not ready',
      'wrong-state',
      [diskOf(pool, { source: full }), pool, { image: { ...image, state: 'importing' }, pool }, work()],
    ],
    [
      'an ISO as a disk',
      'bad-input',
      [diskOf(pool, { source: full }), pool, { image: { ...image, format: 'iso' }, pool }, work()],
    ],
    ['another node’s disk', 'not-owner', [diskOf(pool, { node: 'n2' }), pool, null, work()]],
    ['larger than the pool', 'no-space', [diskOf(pool, { sizeBytes: 2 ** 45 }), pool, null, work()]],
    ['cancelled before', 'cancelled', [diskOf(pool), pool, null, work({ signal: AbortSignal.abort() })]],
  ];
  const before = filesBelow(pool.path);
  for (const [name, code, args] of cases) t.equal(await codeOf(v.makeDisk(...args)), code, name);
  const missing = { ...image, id: diskOf(pool).id };
  const orphan = diskOf(pool, { source: { ...full, image: missing.id } });
  t.equal(await codeOf(v.makeDisk(orphan, pool, { image: missing, pool }, work())), 'not-found', 'no file');
  t.strictSame(filesBelow(pool.path), before);
});

await t.test('a disk grows, says no to shrinking, and is left alone when it has its size', async (t) => {
  const { v, pool } = setUp(t);
  for (const format of ['qcow2', 'raw'] as const) {
    const disk = diskOf(pool, { format });
    await v.makeDisk(disk, pool, null, work());
    const grown = { ...disk, sizeBytes: 16 * MiB };
    await v.growDisk(grown, pool);
    await v.growDisk(grown, pool);
    t.equal(infoOf(v.diskPath(disk, pool))['virtual-size'], 16 * MiB);
    t.equal(await codeOf(v.growDisk(disk, pool)), 'unsupported');
    // A new one, to which a machine's disk of that size is to be copied.
    for (const bytes of [12 * MiB - 40960, 20 * MiB]) {
      await v.fitDisk(disk, pool, bytes);
      t.equal(infoOf(v.diskPath(disk, pool))['virtual-size'], bytes);
    }
  }
  t.equal(await codeOf(v.growDisk(diskOf(pool), pool)), 'not-found');
});

await t.test('removing twice is removing', async (t) => {
  const { v, pool } = setUp(t);
  const disk = diskOf(pool);
  await v.makeDisk(disk, pool, null, work());
  await v.removeDisk(disk, pool);
  await v.removeDisk(disk, pool);
  t.strictSame(filesBelow(pool.path), []);
});

await t.test('cancelled in the middle of a copy, nothing of it stays', async (t) => {
  const { v, pool, dir } = setUp(t);
  fs.writeFileSync(`${dir}/big.raw`, Buffer.concat([noise(96 * MiB), Buffer.alloc(MiB)]));
  const image = await importFile(v, pool, `${dir}/big.raw`);
  const disk = diskOf(pool, {
    format: 'raw',
    sizeBytes: 128 * MiB,
    source: { kind: 'image', image: image.id, mode: 'full' },
  });
  const stop = new AbortController();
  const watch = fs.watch(`${pool.path}/disks`, () => stop.abort());
  const code = await codeOf(v.makeDisk(disk, pool, { image, pool }, work({ signal: stop.signal })));
  watch.close();
  t.equal(code, 'cancelled');
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('disks/')),
    [],
  );
  await v.makeDisk(disk, pool, { image, pool }, work());
  t.equal(infoOf(v.diskPath(disk, pool))['virtual-size'], 128 * MiB, 'asked again, it is made');
});

await t.test(
  'a copy is on its drive before the old one may go, and says what could not be written',
  async (t) => {
    const { dir, pool } = setUp(t);
    const did: string[] = [];
    let fault: Error | null = null;
    const open: typeof fsPromises.open = async (...args) => {
      const handle = await fsPromises.open(...args);
      const sync = handle.sync.bind(handle);
      handle.sync = async () => {
        did.push(`sync ${String(args[0])}`);
        if (fault !== null) throw fault;
        return sync();
      };
      return handle;
    };
    const v = volumesAt(dir, {
      files: new Files({ ...fsPromises, open }),
      run: (file, args, o) => {
        did.push(`${file} ${args[0]}`);
        return runTool(file, args, o);
      },
    });
    const [from, to] = [diskOf(pool, { format: 'raw' }), diskOf(pool, { format: 'raw' })];
    for (const disk of [from, to]) await v.makeDisk(disk, pool, null, work());
    fs.writeFileSync(v.diskPath(from, pool), 'of its guest', { flag: 'r+' });
    const at = (disk: typeof from) => ({ format: 'raw', path: v.diskPath(disk, pool) }) as const;
    did.length = 0;
    await v.copyDisk(at(from), at(to), work());
    t.strictSame(did, ['qemu-img convert', `sync ${at(to).path}`]);
    t.match(fs.readFileSync(at(to).path, 'utf8'), /^of its guest/);
    fault = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    await t.rejects(v.copyDisk(at(from), at(to), work()), { code: 'ENOSPC' });
  },
);
