import { spawn } from 'node:child_process';
import fs from 'node:fs';
import fsPromises from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Files, type FileCalls } from '../../../../agent/pool/files.js';
import { runTool, type Tool } from '../../../../agent/pool/tool.js';
import type { Volumes } from '../../../../agent/pool/volumes.js';
import type { Pool } from '../../../../core/domain/pool.js';
import {
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

class Crash extends Error {}

/** Calls of files and tools of which the `at`-th and all later ones do not happen, as if the process had died there. */
function dying(at: number): { files: Files; run: Tool; dead: () => boolean } {
  let calls = 0;
  const step = () => {
    if (++calls >= at) throw new Crash(`died at step ${at}`);
  };
  const wrap = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(of, name) {
        const value: unknown = Reflect.get(of, name, of);
        if (typeof value !== 'function') return value;
        const call = (...args: unknown[]): unknown => (value as (...a: unknown[]) => unknown).apply(of, args);
        // A dead process closes its files too.
        if (name === 'close') return call;
        return async (...args: unknown[]) => {
          step();
          const result = await call(...args);
          return name === 'open' ? wrap(result as object) : result;
        };
      },
    });
  return {
    files: new Files(wrap<FileCalls>(fsPromises)),
    run: async (file, args, o) => {
      step();
      const r = await runTool(file, args, o);
      // Dead before the tool's end was heard of: its work is done, ours is not.
      step();
      return r;
    },
    dead: () => calls >= at,
  };
}

interface Job {
  run: (v: Volumes) => Promise<unknown>;
  /** The file that must be whole or absent. */
  path: string;
  check: () => void;
  known?: { images: ReadonlySet<string> };
}

/**
 * Does a job, dying at step 1, 2, 3... until it lives through, each time a new job. After each death the next boot
 * looks, repeats the work and sweeps.
 */
async function atEachStep(t: Tap, dir: string, pool: Pool, job: (v: Volumes) => Promise<Job>): Promise<void> {
  for (let at = 1; ; at++) {
    const { run, path, check, known } = await job(volumesAt(dir, { boot: `boot-${at}a` }));
    const death = dying(at);
    await run(volumesAt(dir, { boot: `boot-${at}b`, ...death })).catch((e: unknown) => {
      // A crash may come back wrapped, but nothing else may go wrong.
      if (!death.dead()) throw e;
    });
    // Whatever is there by its final name is whole.
    if (fs.existsSync(path)) check();
    const next = volumesAt(dir, { boot: `boot-${at}c` });
    await run(next);
    check();
    await next.sweep(pool, { disks: new Set(), images: new Set(), ...known });
    const left = filesBelow(pool.path).filter((f) => f.includes('.tmp.'));
    if (left.length > 0) t.fail(`left after a death at step ${at}: ${left.join(', ')}`);
    if (death.dead()) continue;
    t.ok(at > 10, `died at ${at - 1} different steps`);
    return;
  }
}
type Tap = Pick<typeof t, 'ok' | 'fail' | 'equal' | 'match'>;

await t.test('a disk made by copy is whole or not there, at whatever step the agent dies', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(MiB), Buffer.alloc(MiB)]));
  const image = await importFile(volumesAt(dir), pool, `${dir}/src.raw`);
  await atEachStep(t, dir, pool, async (v) => {
    const disk = diskOf(pool, { format: 'raw', source: { kind: 'image', image: image.id, mode: 'full' } });
    const path = v.diskPath(disk, pool);
    return {
      run: (volumes) => volumes.makeDisk(disk, pool, { image, pool }, work()),
      path,
      check: () => {
        const got = fs.readFileSync(path);
        t.equal(got.length, 8 * MiB);
        t.ok(got.subarray(0, MiB).equals(noise(MiB)));
      },
    };
  });
});

await t.test('a linked disk likewise', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  fs.writeFileSync(`${dir}/src.raw`, noise(MiB));
  const image = await importFile(volumesAt(dir), pool, `${dir}/src.raw`);
  await atEachStep(t, dir, pool, async (v) => {
    const disk = diskOf(pool, { source: { kind: 'image', image: image.id, mode: 'linked' } });
    const path = v.diskPath(disk, pool);
    const want = { 'virtual-size': 8 * MiB, 'backing-filename': v.imagePath(image, pool) };
    return {
      run: (volumes) => volumes.makeDisk(disk, pool, { image, pool }, work()),
      path,
      check: () => t.match(infoOf(path), want),
    };
  });
});

await t.test('an import is whole or can be repeated, at whatever step the agent dies', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  fs.writeFileSync(`${dir}/src.raw`, Buffer.concat([noise(MiB), Buffer.alloc(MiB)]));
  await atEachStep(t, dir, pool, async (v) => {
    const image = imageOf(pool);
    await v.upload(image, pool, 0, fs.createReadStream(`${dir}/src.raw`));
    const path = v.imagePath(image, pool);
    return {
      run: (volumes) => volumes.importImage(image, pool, work()),
      path,
      check: () =>
        t.match(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', `${dir}/src.raw`, path), 'identical'),
      known: { images: new Set([image.id]) },
    };
  });
});

await t.test('killed in the middle of a copy, its tools die too and the next boot sweeps', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  fs.writeFileSync(`${dir}/big.raw`, noise(192 * MiB));
  const image = await importFile(volumesAt(dir), pool, `${dir}/big.raw`);
  const disk = diskOf(pool, {
    format: 'raw',
    sizeBytes: 192 * MiB,
    source: { kind: 'image', image: image.id, mode: 'full' },
  });
  const job = { dir, pool, image, disk };
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('./maker.js', import.meta.url)), JSON.stringify(job)],
    {
      stdio: 'inherit',
    },
  );
  const ended = new Promise((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
  const temps = () => fs.readdirSync(`${pool.path}/disks`).filter((f) => f.includes('.tmp.'));
  await until(() => temps().some((f) => fs.statSync(`${pool.path}/disks/${f}`).size > 0));
  child.kill('SIGKILL');
  t.equal(await ended, 'SIGKILL');
  t.equal(fs.existsSync(volumesAt(dir).diskPath(disk, pool)), false, 'nothing by the final name');
  t.equal(temps().length, 1, 'what it left is known by its name');
  const temp = `${pool.path}/disks/${temps()[0]}`;
  await until(() => !isOpen(temp));
  t.ok(fs.statSync(temp).blocks * 512 < 192 * MiB, 'the tool died too, before its work was done');
  const next = volumesAt(dir, { boot: 'boot-3' });
  t.strictSame(await next.sweep(pool, { disks: new Set([disk.id]), images: new Set([image.id]) }), [temp]);
  await next.makeDisk(disk, pool, { image, pool }, work());
  t.equal(infoOf(next.diskPath(disk, pool))['virtual-size'], 192 * MiB);
});

await t.test('a sweep touches nothing of another node, of this boot, or of nobody', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`, { kind: 'shared' });
  const v = volumesAt(dir, { boot: 'now' });
  await v.probe(pool);
  const id = diskOf(pool).id;
  const keep = [
    `disks/.${id}.tmp.n2.old`,
    `disks/.${id}.tmp.n1.now`,
    `images/.${id}.tmp.n1.now.facts`,
    `disks/${id}.qcow2`,
    'disks/notes.txt',
    'disks/.hidden',
    `incoming/${id}`,
    `images/${id}.qcow2`,
  ];
  const go = [`disks/.${id}.tmp.n1.old`, `images/.${id}.tmp.n1.old.facts`, `incoming/.${id}.tmp.n1.older`];
  for (const f of [...keep, ...go]) fs.writeFileSync(`${pool.path}/${f}`, 'x');
  const removed = await v.sweep(pool, { disks: new Set(), images: new Set() });
  t.strictSame([...removed].sort(), go.map((f) => `${pool.path}/${f}`).sort());
  t.strictSame(filesBelow(pool.path), keep.sort());
});

async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error('waited 30 s in vain');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Whether any process has the file open, as /proc tells. */
function isOpen(path: string): boolean {
  const real = fs.realpathSync(path);
  for (const pid of fs.readdirSync('/proc').filter((p) => /^\d+$/.test(p))) {
    try {
      for (const fd of fs.readdirSync(`/proc/${pid}/fd`))
        if (fs.readlinkSync(`/proc/${pid}/fd/${fd}`) === real) return true;
    } catch {
      // It ended while we looked, or is not ours to look into.
    }
  }
  return false;
}
