import { readdirSync, readFileSync, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { build } from 'esbuild';
import t from 'tap';
import { KeeperFiles } from '../../../../agent/keeper/store.js';
import { readEndpoints, readKeeperConfig } from '../../../../agent/keeper/surroundings.js';
import { PoolTakeovers } from '../../../../agent/keeper/takeovers.js';
import { readAgentConfig } from '../../../../agent/cluster/config.js';
import { timingProfiles } from '../../../../core/domain/timing.js';

void t.test('the program is made of Node and of own files alone', async (t) => {
  const { metafile } = await build({
    entryPoints: ['agent/keeper/main.ts'],
    bundle: true,
    platform: 'node',
    format: 'esm',
    write: false,
    metafile: true,
  });
  const files = Object.keys(metafile.inputs);
  t.ok(files.length > 15);
  for (const f of files) t.match(f, /^(agent|core)\//, f);
  const outside = Object.values(metafile.outputs).flatMap((o) => o.imports);
  for (const i of outside) t.match(i.path, /^node:/, i.path);
  const size = files.reduce((sum, f) => sum + readFileSync(f, 'utf8').split('\n').length, 0);
  t.ok(size < 3_700, `${size} lines: small enough to read`);
});

void t.test('memory is protected all the way up: the slice has what its units ask for', async (t) => {
  const dir = 'systemd';
  const setting = (file: string, name: string): string | undefined =>
    new RegExp(`^${name}=(.+)$`, 'm').exec(readFileSync(path.join(dir, file), 'utf8'))?.[1];
  const megabytes = (file: string): number => Number(/^(\d+)M$/.exec(setting(file, 'MemoryMin') ?? '')?.[1]);
  const guarded = readdirSync(dir).filter(
    (f) => setting(f, 'MemoryMin') !== undefined && f.endsWith('.service'),
  );
  t.same(guarded, ['flotilla-etcd.service', 'flotilla-keeper.service']);
  for (const f of guarded) t.equal(setting(f, 'Slice'), 'flotilla.slice', f);
  t.equal(
    megabytes('flotilla.slice'),
    guarded.reduce((sum, f) => sum + megabytes(f), 0),
  );
});

void t.test('a thread of the same program reads takeover records', async (t) => {
  const dir = t.testdir({ a: 'one', b: 'x'.repeat(5_000) });
  const program = path.join(dir, 'keeper.mjs');
  await build({
    entryPoints: ['agent/keeper/main.ts'],
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile: program,
  });
  const takeovers = new PoolTakeovers(program);
  t.teardown(() => takeovers.close());
  const read = takeovers.read([path.join(dir, 'a'), path.join(dir, 'b'), path.join(dir, 'none')]);
  t.same(await read, ['one'], 'what is there and of the size of a record');
  t.same(await takeovers.read([path.join(dir, 'a')]), ['one']);
});

void t.test('what a boot keeps: written whole, believed whole or not at all', async (t) => {
  const dir = t.testdir({ run: {}, state: {} });
  const o = { runtimeDir: path.join(dir, 'run'), stateDir: path.join(dir, 'state'), node: 'n1' };
  const files = new KeeperFiles(o);
  t.equal(files.loadRun(), null);
  const record = {
    boot: 'b',
    mode: 'run' as const,
    lease: '12345678901234567890',
    createRevision: 2n ** 60n,
    goodMs: 12.5,
    armed: [{ vm: 'v', takeover: ['/x'], gen: 3, confirmed: true }],
    held: ['w'],
  };
  files.saveRun(record);
  t.same(new KeeperFiles(o).loadRun(), record);
  t.same(readdirSync(o.runtimeDir), ['keeper.json']);
  const file = path.join(o.runtimeDir, 'keeper.json');
  t.equal(statSync(file).mode & 0o777, 0o600);
  const good = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  for (const wrong of [
    { boot: 1 },
    { mode: 'x' },
    { lease: 5 },
    { createRevision: 'x' },
    { goodMs: 'x' },
    { armed: [{ vm: 'v' }] },
    { held: [1] },
  ]) {
    await writeFile(file, JSON.stringify({ ...good, ...wrong }));
    t.equal(files.loadRun(), null, JSON.stringify(wrong));
  }
  await writeFile(file, '{"boot":');
  t.equal(files.loadRun(), null);
});

void t.test('epoch and journal on the disk', async (t) => {
  const dir = t.testdir();
  const files = new KeeperFiles({ runtimeDir: path.join(dir, 'run'), stateDir: dir, node: 'n1' });
  t.equal(await files.admittedEpoch(), null);
  await files.admitTo(3);
  t.equal(await files.admittedEpoch(), 3);
  await writeFile(path.join(dir, 'epoch'), 'x');
  await t.rejects(files.admittedEpoch(), 'an error is not an absence');

  const vm = '00000000-0000-4000-8000-000000000001';
  t.equal(await files.journalGen(vm), null);
  const line = (gen: number, owner: string): string =>
    `${JSON.stringify({ vm, gen, role: owner === 'n1' ? 'owner' : 'none', owner, epoch: 1 })}\n`;
  await writeFile(path.join(dir, 'journal'), line(4, 'n1'));
  t.equal(await files.journalGen(vm), 4);
  await writeFile(path.join(dir, 'journal'), line(4, 'n1') + line(5, 'n2'));
  t.equal(await files.journalGen(vm), 4, 'it says itself that another one owns generation 5');
});

void t.test('configuration: name, times, where the cluster is', async (t) => {
  const dir = t.testdir({
    'good.json': '{"name":"n1","timing":"lab","stateDir":"/s"}',
    'short.json': '{"name":"n1"}',
    'bad.json': '{"name":"N 1"}',
    'times.json': '{"name":"n1","timing":"slow"}',
  });
  t.same(await readKeeperConfig(path.join(dir, 'good.json')), {
    node: 'n1',
    stateDir: '/s',
    timing: timingProfiles.lab,
  });
  t.match(await readKeeperConfig(path.join(dir, 'short.json')), { timing: { name: 'production' } });
  await t.rejects(readKeeperConfig(path.join(dir, 'bad.json')));
  await t.rejects(readKeeperConfig(path.join(dir, 'times.json')));
  for (const profile of Object.values(timingProfiles)) {
    const file = path.join(dir, `${profile.name}.json`);
    await writeFile(file, JSON.stringify({ name: 'n1', address: '10.0.0.1', timing: profile.name }));
    t.same((await readKeeperConfig(file)).timing, profile);
    t.equal((await readAgentConfig(file)).timing, profile.name, 'keeper and agent know the same profiles');
  }
  t.equal(await readEndpoints(dir), null);
  await writeFile(path.join(dir, 'cluster.json'), '{"ledgerEndpoints":["https://a:1"]}');
  t.same(await readEndpoints(dir), ['https://a:1']);
  await writeFile(path.join(dir, 'cluster.json'), '{"ledgerEndpoints":[]}');
  await t.rejects(readEndpoints(dir));
});
