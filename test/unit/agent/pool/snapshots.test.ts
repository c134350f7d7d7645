import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import t from 'tap';
import type { Disk } from '../../../../core/domain/disk.js';
import type { Pool } from '../../../../core/domain/pool.js';
import type { SnapshotDisk } from '../../../../core/domain/vm-snapshot.js';
import {
  codeOf,
  diskOf,
  filesBelow,
  importFile,
  infoOf,
  MiB,
  noise,
  poolAt,
  volumesAt,
  work,
} from './fixture.js';

const volumeOf = (disk: Disk, pool: Pool): SnapshotDisk => ({
  id: randomUUID(),
  disk: disk.id,
  name: disk.name,
  pool: pool.id,
  format: disk.format,
  bus: 'virtio',
  sizeBytes: disk.sizeBytes,
  replicated: false,
  usedBytes: null,
});

await t.test('a file that is off is kept as it is, and a new disk begins as it was', async (t) => {
  for (const format of ['raw', 'qcow2'] as const) {
    const dir = t.testdir();
    const pool = poolAt(`${dir}/pool`);
    const v = volumesAt(dir);
    const disk = diskOf(pool, { format });
    fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(MiB), Buffer.alloc(7 * MiB)]));
    const image = await importFile(v, pool, `${dir}/src.raw`);
    const root: Disk = { ...disk, source: { kind: 'image', image: image.id, mode: 'full' } };
    await v.makeDisk(root, pool, { image, pool }, work());
    const volume = volumeOf(root, pool);
    const bytes = await v.takeSnapshot(root, pool, volume, work());
    t.ok(bytes >= MiB && bytes < 4 * MiB, `${bytes} bytes`);
    t.equal(await v.takeSnapshot(root, pool, volume, work()), bytes, 'taken is taken');
    await v.removeDisk(root, pool);
    const back: Disk = {
      ...root,
      id: randomUUID(),
      source: { kind: 'snapshot', snapshot: randomUUID(), volume: volume.id },
    };
    await v.makeDisk(back, pool, { snapshot: volume, pool }, work());
    t.match(infoOf(v.diskPath(back, pool)), { format, 'virtual-size': 8 * MiB });
    if (format === 'raw')
      t.ok(fs.readFileSync(v.diskPath(back, pool)).subarray(0, MiB).equals(noise(MiB)), 'its data');
    await v.removeSnapshot(volume, pool);
    await v.removeSnapshot(volume, pool);
    t.same(
      filesBelow(pool.path).filter((f) => f.startsWith('snapshots/') || f.startsWith('disks/')),
      [`disks/${back.id}.${format}`],
    );
    const gone: Disk = { ...back, id: randomUUID() };
    t.equal(await codeOf(v.makeDisk(gone, pool, { snapshot: volume, pool }, work())), 'not-found');
  }
});

await t.test('of a linked disk all of its data is kept, so that the image may go', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const v = volumesAt(dir);
  fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(MiB), Buffer.alloc(7 * MiB)]));
  const image = await importFile(v, pool, `${dir}/src.raw`);
  const disk = diskOf(pool, { source: { kind: 'image', image: image.id, mode: 'linked' } });
  await v.makeDisk(disk, pool, { image, pool }, work());
  const volume = volumeOf(disk, pool);
  await v.takeSnapshot(disk, pool, volume, work());
  t.equal(infoOf(`${pool.path}/snapshots/${volume.id}.qcow2`)['backing-filename'], undefined);
  t.ok(fs.statSync(`${pool.path}/snapshots/${volume.id}.qcow2`).size >= MiB);
});

await t.test(
  'a draft that a machine fills is kept when it is whole, and goes with its snapshot',
  async (t) => {
    const dir = t.testdir();
    const pool = poolAt(`${dir}/pool`);
    const v = volumesAt(dir);
    const disk = diskOf(pool, { format: 'raw' });
    await v.makeDisk(disk, pool, null, work());
    const volume = volumeOf(disk, pool);
    const draft = await v.snapshotDraft(volume, pool);
    fs.writeFileSync(draft, noise(MiB));
    t.equal(await v.snapshotDraft(volume, pool), draft);
    t.notOk(fs.existsSync(draft), 'begun anew');
    fs.writeFileSync(draft, noise(MiB));
    t.ok((await v.keepDraft(volume, pool)) >= MiB);
    t.ok(fs.existsSync(`${pool.path}/snapshots/${volume.id}.raw`));
    const other = volumeOf(disk, pool);
    fs.writeFileSync(await v.snapshotDraft(other, pool), 'half');
    await v.removeSnapshot(other, pool);
    await v.removeSnapshot(volume, pool);
    t.same(filesBelow(`${pool.path}/snapshots`), []);
  },
);

await t.test('a linked disk stores what differs, and its snapshot is not removed before it', async (t) => {
  for (const format of ['raw', 'qcow2'] as const) {
    const dir = t.testdir();
    const pool = poolAt(`${dir}/pool`);
    const v = volumesAt(dir);
    const disk = diskOf(pool, { format });
    fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(4 * MiB), Buffer.alloc(4 * MiB)]));
    const image = await importFile(v, pool, `${dir}/src.raw`);
    const root: Disk = { ...disk, source: { kind: 'image', image: image.id, mode: 'full' } };
    await v.makeDisk(root, pool, { image, pool }, work());
    const volume = volumeOf(root, pool);
    await v.takeSnapshot(root, pool, volume, work());
    const kept = `${pool.path}/snapshots/${volume.id}.${format}`;
    const linked: Disk = {
      ...root,
      id: randomUUID(),
      format: 'qcow2',
      source: { kind: 'snapshot', snapshot: randomUUID(), volume: volume.id, mode: 'linked' },
    };
    await v.makeDisk(linked, pool, { snapshot: volume, pool }, work());
    t.match(infoOf(v.diskPath(linked, pool)), { format: 'qcow2', 'virtual-size': 8 * MiB });
    t.match(infoOf(v.diskPath(linked, pool)), {
      'backing-filename': kept,
      'backing-filename-format': format,
    });
    t.ok(fs.statSync(v.diskPath(linked, pool)).size < MiB, 'none of its data');
    t.equal(await codeOf(v.removeSnapshot(volume, pool)), 'in-use');
    const again = volumeOf(linked, pool);
    await v.takeSnapshot(linked, pool, again, work());
    t.equal(
      infoOf(`${pool.path}/snapshots/${again.id}.qcow2`)['backing-filename'],
      undefined,
      'what is taken of it needs nothing else',
    );
    await v.removeDisk(linked, pool);
    await v.removeSnapshot(volume, pool);
    t.notOk(fs.existsSync(kept));
    const raw: Disk = { ...linked, id: randomUUID(), format: 'raw' };
    t.equal(await codeOf(v.makeDisk(raw, pool, { snapshot: again, pool }, work())), 'internal');
    const other = poolAt(`${dir}/other`);
    const away: Disk = {
      ...linked,
      id: randomUUID(),
      pool: other.id,
      source: { kind: 'snapshot', snapshot: randomUUID(), volume: again.id, mode: 'linked' },
    };
    t.equal(await codeOf(v.makeDisk(away, other, { snapshot: again, pool }, work())), 'bad-input');
    t.equal(
      await codeOf(
        v.makeDisk({ ...away, pool: pool.id, format: 'raw' }, pool, { snapshot: again, pool }, work()),
      ),
      'bad-input',
    );
  }
});
