import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  createReadStream,
  mkdtempSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createWriteStream } from 'node:fs';
import path from 'node:path';
import { OvfArchive } from '../../../agent/ovf/package.js';
import { tarOf } from '../../../test/unit/agent/ovf/make.js';
import { imageOf, noise, poolAt, volumesAt, work } from '../../../test/unit/agent/pool/fixture.js';
import { packageOf } from '../../../test/unit/core/ovf/read.js';
import { median, report } from './report.js';

const MiB = 2 ** 20;
/** Of the disk; the rest of it is empty. */
const dataMiB = 384;
const diskMiB = 2048;

/** A package whose disk is a stream-optimised vmdk. */
async function makeOva(dir: string): Promise<{ ova: string; vmdk: string }> {
  const raw = path.join(dir, 'disk.raw');
  const vmdk = path.join(dir, 'disk.vmdk');
  writeFileSync(raw, '');
  for (let i = 0; i < dataMiB; i += 1) appendFileSync(raw, noise(MiB, i + 1));
  truncateSync(raw, diskMiB * MiB);
  execFileSync('qemu-img', [
    'convert',
    '-f',
    'raw',
    '-O',
    'vmdk',
    '-o',
    'subformat=streamOptimized',
    raw,
    vmdk,
  ]);
  rmSync(raw);
  const descriptor = packageOf({
    files: '<File ovf:id="f" ovf:href="disk.vmdk"/>',
    disks: `<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="${diskMiB * MiB}"/>`,
  });
  const size = statSync(vmdk).size;
  const ova = path.join(dir, 'x.ova');
  writeFileSync(
    ova,
    tarOf(
      [
        { name: 'x.ovf', data: descriptor },
        { name: 'disk.vmdk', size },
      ],
      false,
    ),
  );
  await pipeline(createReadStream(vmdk), createWriteStream(ova, { flags: 'a' }));
  appendFileSync(ova, Buffer.alloc(((512 - (size % 512)) % 512) + 1024));
  return { ova, vmdk };
}

/**
 * From the archive to an image of the catalogue, through the pool's own door with all its checks, against `qemu-img
 * convert` of the bare disk and the flush of what it wrote, as ours is flushed when it is done; by turns, on the same
 * file system.
 */
export async function ovaImport(n: number): Promise<void> {
  const dir = mkdtempSync(path.join('build', 'ova-import-'));
  try {
    const { ova, vmdk } = await makeOva(dir);
    const ours: number[] = [];
    const theirs: number[] = [];
    const theirsUnflushed: number[] = [];
    let rss = 0;
    for (let i = 0; i < n; i += 1) {
      const pool = poolAt(path.resolve(dir, `pool${i}`));
      const volumes = volumesAt(path.resolve(dir, `state${i}`));
      const image = imageOf(pool);
      // A node has looked at its pools before an import.
      await volumes.probe(pool);
      let start = performance.now();
      const archive = await OvfArchive.open(ova);
      const { files } = await archive.report({
        verify: false,
        nowMs: Date.now(),
        signal: new AbortController().signal,
      });
      const [file] = files;
      if (file === undefined) throw new Error('the package has no file');
      await volumes.upload({ ...image, expectedBytes: file.storedBytes }, pool, 0, archive.content(file));
      await volumes.importImage(
        image,
        pool,
        work({ progress: () => (rss = Math.max(rss, process.memoryUsage.rss())) }),
      );
      ours.push(performance.now() - start);
      rmSync(pool.path, { recursive: true });
      const out = path.join(dir, 'out.qcow2');
      start = performance.now();
      execFileSync('qemu-img', ['convert', '-f', 'vmdk', '-O', 'qcow2', vmdk, out]);
      const unflushed = performance.now() - start;
      theirsUnflushed.push(unflushed);
      execFileSync('sync', ['--data', out]);
      theirs.push(performance.now() - start);
      rmSync(out);
    }
    report({
      figure: 'ova-import',
      value: median(ours) / median(theirs),
      unit: 'times qemu-img convert',
      target: { atMost: 1.2 },
      n,
      compared: {
        oursMs: Math.round(median(ours)),
        qemuImgMs: Math.round(median(theirs)),
        qemuImgUnflushedMs: Math.round(median(theirsUnflushed)),
        unflushedRatio: Math.round((median(ours) / median(theirsUnflushed)) * 100) / 100,
        rssMB: Math.round(rss / 1e6),
        vmdkMiB: Math.round(statSync(vmdk).size / MiB),
        diskMiB,
      },
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
