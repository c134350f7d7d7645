import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import t from 'tap';
import { runTool, type Tool } from '../../../../agent/pool/tool.js';
import { codeOf, diskOf, faultOf, filesBelow, poolAt, volumesAt, work } from './fixture.js';

await t.test('a new pool gets its mark and folders; the next look finds them', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const use = await volumesAt(dir).probe(pool);
  t.match(use, { pool: pool.id, ok: true, text: '' });
  t.ok(use.totalBytes > 0 && use.freeBytes > 0);
  t.strictSame(JSON.parse(fs.readFileSync(`${pool.path}/.flotilla-pool`, 'utf8')), {
    pool: pool.id,
    node: 'n1',
  });
  t.match(await volumesAt(dir, { boot: 'boot-2' }).probe(pool), { ok: true });
});

await t.test('a pool that is well is looked at by one program, which writes to no other one', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`, { kind: 'shared' });
  t.match(await volumesAt(dir).probe(pool), { ok: true });
  const ran: string[] = [];
  const run: Tool = (file, args, o) => {
    ran.push(file);
    return runTool(file, args, o);
  };
  const v = volumesAt(dir, { run });
  const probe = `${pool.path}/incoming/.probe.n1`;
  fs.rmSync(probe);
  t.match(await v.probe(pool), { ok: true });
  t.strictSame(ran, ['sh']);
  t.equal(fs.statSync(probe).size, 512);
  fs.rmSync(probe);
  const other = { ...pool, id: randomUUID() };
  t.match(await v.probe(other), { ok: false, text: /belongs to another pool/ });
  t.equal(fs.existsSync(probe), false);
  // A mark written differently, and a folder that is missing: found out step by step.
  fs.writeFileSync(`${pool.path}/.flotilla-pool`, JSON.stringify({ node: null, pool: pool.id }, null, 1));
  fs.rmdirSync(`${pool.path}/incoming`);
  t.match(await v.probe(pool), { ok: true, text: '' });
  t.equal(fs.statSync(probe).size, 512);
});

await t.test('a directory with anybody’s files in it is not taken', async (t) => {
  const dir = t.testdir({ pool: { 'letter.txt': 'dear' } });
  t.match(await volumesAt(dir).probe(poolAt(`${dir}/pool`)), { ok: false, text: /not empty \(letter.txt\)/ });
  t.strictSame(fs.readdirSync(`${dir}/pool`), ['letter.txt']);
});

await t.test('an unmounted pool is noticed and never written to, also by the next boot', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`, { kind: 'shared' });
  const disk = diskOf(pool);
  const v = volumesAt(dir);
  await v.makeDisk(disk, pool, null, work());
  fs.renameSync(pool.path, `${dir}/away`);
  fs.mkdirSync(pool.path);
  for (const volumes of [v, volumesAt(dir, { boot: 'boot-2' })]) {
    t.match(await volumes.probe(pool), { ok: false, text: /not mounted/ });
    const fault = await faultOf(volumes.makeDisk(diskOf(pool), pool, null, work()));
    t.equal(fault?.code, 'pool-unavailable');
    t.match(fault?.message, /"test".*n1.*not mounted/);
    t.equal(
      await codeOf(volumes.removeDisk(disk, pool)),
      'pool-unavailable',
      'what cannot be seen is not called removed',
    );
  }
  t.strictSame(fs.readdirSync(pool.path), []);
  fs.rmdirSync(pool.path);
  fs.renameSync(`${dir}/away`, pool.path);
  t.match(await v.probe(pool), { ok: true }, 'well again by itself');
  t.ok(fs.existsSync(v.diskPath(disk, pool)));
});

await t.test('a shared pool on the node’s own root file system is a forgotten mount', async (t) => {
  // A folder of the root file system, wherever the checkout and /tmp may be mounted.
  const dir = fs.mkdtempSync('/root/flotilla-guard-');
  t.equal(fs.statSync(dir).dev, fs.statSync('/').dev);
  t.teardown(() => fs.rmSync(dir, { recursive: true }));
  const pool = poolAt(`${dir}/pool`, { kind: 'shared' });
  t.match(await volumesAt(dir, { sharedNeedsMount: true }).probe(pool), { ok: false, text: /not mounted/ });
  t.equal(fs.existsSync(pool.path), false);
  t.match(await volumesAt(dir, { sharedNeedsMount: true }).probe({ ...pool, kind: 'local' }), { ok: true });
});

await t.test('the directory of another pool, or of another node, is not ours', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  await volumesAt(dir).probe(pool);
  t.match(await volumesAt(`${dir}/b`).probe(poolAt(pool.path)), {
    ok: false,
    text: /belongs to another pool/,
  });
  t.match(await volumesAt(`${dir}/c`, { node: 'n2' }).probe(pool), {
    ok: false,
    text: /directory of node n1/,
  });
  t.match(await volumesAt(dir).probe({ ...pool, nodes: ['n2'] }), { ok: false, text: /not on this node/ });
  fs.writeFileSync(`${pool.path}/.flotilla-pool`, 'rubbish');
  t.match(await volumesAt(dir).probe(pool), { ok: false, text: /cannot be read/ });
});

await t.test('a pool that hangs is told in time, and does not hang the caller', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  await volumesAt(dir).probe(pool);
  const v = volumesAt(dir, { probeMs: 300 });
  // Reading a pipe that nobody writes to hangs as a dead server does.
  fs.unlinkSync(`${pool.path}/.flotilla-pool`);
  execFileSync('mkfifo', [`${pool.path}/.flotilla-pool`]);
  const [a, b] = await Promise.all([v.probe(pool), v.probe(pool)]);
  t.match(a, { ok: false, text: /does not answer within 0.3 s/ });
  t.equal(a, b, 'asked once for both');
  t.equal(await codeOf(v.makeDisk(diskOf(pool), pool, null, work())), 'pool-unavailable');
  t.strictSame(filesBelow(pool.path), []);
});

await t.test('two nodes that found a shared pool at once agree on one mark', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`, { kind: 'shared' });
  const nodes = ['n1', 'n2', 'n3', 'n4'].map((node) => volumesAt(`${dir}/${node}`, { node }));
  for (const use of await Promise.all(nodes.map((v) => v.probe(pool)))) t.match(use, { ok: true, text: '' });
  t.strictSame(
    fs.readdirSync(pool.path).filter((f) => f.startsWith('.flotilla-pool')),
    ['.flotilla-pool'],
  );
});
