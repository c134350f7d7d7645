import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { DriveList } from '../../../../agent/lvm/drives.js';
import { driveFault, Lvm, mayWipe } from '../../../../agent/lvm/lvm.js';
import { readDevices, readGroups, readHealth, readSignatures } from '../../../../agent/lvm/report.js';
import { thinPath, ThinPools } from '../../../../agent/lvm/thin.js';
import { Turns } from '../../../../agent/pool/turn.js';
import type { SnapshotDisk } from '../../../../core/domain/vm-snapshot.js';
import type { Tool } from '../../../../agent/pool/tool.js';
import type { Disk } from '../../../../core/domain/disk.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import type { Pool } from '../../../../core/domain/pool.js';

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, `../../../../../../test/fixtures/lvm/2.03.31/${name}`), 'utf8');

const pool: Pool = {
  id: 'abcdef01-1111-4111-8111-111111111111',
  name: 'fast',
  kind: 'thin',
  path: '/dev/flotilla-abcdef01',
  nodes: ['n1'],
  reservePct: 5,
  drives: [{ node: 'n1', drive: 'drive1', wipe: false }],
};
const disk: Disk = {
  id: '22222222-2222-4222-8222-222222222220',
  name: 'root',
  vm: '11111111-1111-4111-8111-111111111111',
  pool: pool.id,
  node: 'n1',
  format: 'raw',
  sizeBytes: 256 << 20,
  madeBytes: 0,
  source: { kind: 'blank' },
  state: 'wanted',
  error: null,
};
const GiB = 2 ** 30;
const MiB = 2 ** 20;

void t.test('what the tools said on a node', async (t) => {
  const devices = readDevices(fixture('lsblk.json'));
  t.same(
    devices.map((d) => [d.path, d.serial, driveFault(d, [])]),
    [
      ['/dev/vda', 'root', 'can only be read'],
      ['/dev/vdb', 'state', 'is mounted at /run/boot/state'],
      ['/dev/vdc', 'drive1', null],
      ['/dev/vdd', 'drive2', null],
    ],
  );
  t.match(driveFault(devices[2]!, readSignatures(fixture('wipefs.json'))), 'LVM2_member');
  t.equal(readHealth(fixture('smartctl.json')), null, 'an emulated drive does not say');
  const said = readGroups(fixture('fullreport.json'));
  t.match(said.groups, [{ vg_name: 'vg', vg_extent_size: 4 * MiB, vg_tags: ['x'] }]);
  t.same(
    said.drives.map((d) => [d.pv_name, d.vg_name]),
    [
      ['/dev/vdc', 'vg'],
      ['/dev/vdd', ''],
    ],
  );
  t.match(said.volumes, [
    { lv_name: 'off', data_percent: null, lv_active: '' },
    { lv_name: 'pool', data_percent: 0, metadata_percent: 11.04, lv_metadata_size: 4 * MiB },
    { lv_name: 'r1', pool_lv: 'pool', data_percent: 0, lv_active: 'active' },
  ]);
  t.same(readGroups('{"report":[],"log":[]}'), { groups: [], volumes: [], drives: [] }, 'nothing of lvm2');
  for (const bad of ['', '{}', fixture('fullreport.json').replace('"11.04"', '"much"')])
    t.throws(() => readGroups(bad), { code: 'tool-failed' });
});

void t.test('health by the drive’s own account', async (t) => {
  const say = (o: object): unknown => readHealth(JSON.stringify({ smart_status: { passed: true }, ...o }));
  t.match(say({}), { well: true, text: '' });
  t.match(say({ smart_status: { passed: false } }), { well: false, text: /failing/ });
  t.match(say({ ata_smart_attributes: { table: [{ id: 197, raw: { value: 3 } }] } }), {
    well: false,
    text: /3 sectors/,
  });
  t.match(say({ nvme_smart_health_information_log: { percentage_used: 95, media_errors: 0 } }), {
    well: false,
  });
});

void t.test('what may be taken, and what may be wiped', async (t) => {
  const [, state, empty] = readDevices(fixture('lsblk.json'));
  if (state === undefined || empty === undefined) return t.fail();
  t.match(driveFault({ ...empty, table: 'gpt' }, []), 'partition table');
  t.match(driveFault({ ...empty, content: 'ext4' }, []), 'ext4');
  t.match(driveFault({ ...empty, children: [{ ...empty, path: '/dev/vdc1', type: 'part' }] }, []), 'in use');
  t.match(driveFault(empty, ['linux_raid_member']), 'linux_raid_member');
  t.match(driveFault({ ...empty, type: 'part' }, []), 'no drive');
  t.notOk(mayWipe(state, []), 'what is mounted never');
  t.ok(mayWipe({ ...empty, content: 'ext4' }, ['ext4']));
  t.notOk(mayWipe({ ...empty, content: 'LVM2_member' }, []), 'nor a drive of another group');
  t.notOk(mayWipe(empty, ['LVM2_member']), 'also where only the drive itself says so');
  t.notOk(mayWipe({ ...empty, children: [{ ...empty, type: 'raid1', mounts: [] }] }, []));
});

/** A node with two drives: the commands as lvm2 takes them, their effect as it reports it. */
function fakeNode(o: { signatures?: string[]; head?: number } = {}) {
  const calls: string[] = [];
  const groups = new Map<string, { tags: string; drives: string[]; extents: number }>();
  const volumes = new Map<
    string,
    { group: string; size: number; pool: string; tags: string; data: string; meta: string; metaSize: number }
  >();
  let missing = false;
  let data = '0.00';
  let metadata = '10.00';
  const free = (g: string): number =>
    (groups.get(g)?.extents ?? 0) * 4 * MiB -
    [...volumes.values()]
      .filter((v) => v.group === g && v.pool === '')
      .reduce((n, v) => n + v.size + 2 * v.metaSize, 0);
  const word = (args: readonly string[], key: string): string =>
    args.find((a) => a.startsWith(`--${key}=`))?.split('=')[1] ?? '';
  const bytes = (text: string): number => Number(text.replace('b', ''));
  const run: Tool = async (file, args) => {
    const ok = (stdout = '') => ({ code: 0, stdout, stderr: '' });
    if (file === 'lsblk') return ok(fixture('lsblk.json'));
    if (file === 'wipefs' && args.includes('--no-act'))
      return ok(JSON.stringify({ signatures: (o.signatures ?? []).map((type) => ({ type })) }));
    if (file === 'cmp') return { ...ok(), code: o.head ?? 0 };
    if (file === 'smartctl') return ok(fixture('smartctl.json'));
    if (file === 'lvm')
      return ok(
        JSON.stringify({
          report: [...groups].map(([vg_name, g]) => ({
            vg: [
              {
                vg_name,
                vg_size: String(g.extents * 4 * MiB),
                vg_free: String(free(vg_name)),
                vg_extent_size: String(4 * MiB),
                vg_tags: g.tags,
              },
            ],
            pv: g.drives.map((pv_name) => ({
              pv_name,
              vg_name,
              pv_size: '1',
              pv_missing: missing ? 'missing' : '',
            })),
            lv: [...volumes]
              .filter(([, v]) => v.group === vg_name)
              .map(([lv_name, v]) => ({
                lv_name,
                vg_name,
                lv_size: String(v.size),
                pool_lv: v.pool,
                data_percent: v.pool === '' ? data : '0.00',
                metadata_percent: v.pool === '' ? metadata : '',
                lv_metadata_size: v.pool === '' ? String(v.metaSize) : '',
                lv_tags: v.tags,
                lv_active: 'active',
                lv_health_status: '',
              })),
          })),
          log: [],
        }),
      );
    calls.push([file, ...args].join(' '));
    const last = args.at(-1) ?? '';
    const at = args.indexOf('--');
    if (file === 'vgcreate')
      groups.set(args[at + 1] ?? '', {
        tags: args[1] ?? '',
        drives: args.slice(at + 2),
        extents: 1023 * (args.length - at - 2),
      });
    else if (file === 'vgextend') {
      const g = groups.get(args[at + 1] ?? '');
      if (g !== undefined) Object.assign(g, { drives: [...g.drives, last], extents: g.extents + 1023 });
    } else if (file === 'lvcreate') {
      const thin = args.includes('--thin');
      const name = word(args, 'name');
      if (volumes.has(name)) throw new FlotillaError('tool-failed', 'it exists', { hint: '' });
      const origin = volumes.get(last.split('/')[1] ?? '');
      if (args.includes('--snapshot')) {
        if (origin === undefined) throw new FlotillaError('tool-failed', 'no origin', { hint: '' });
        volumes.set(name, { ...origin, tags: '' });
        return ok();
      }
      volumes.set(name, {
        group: last.split('/')[0] ?? '',
        size: Math.ceil(bytes(word(args, thin ? 'virtualsize' : 'size')) / (4 * MiB)) * 4 * MiB,
        pool: thin ? (last.split('/')[1] ?? '') : '',
        tags: word(args, 'addtag'),
        data: '0.00',
        meta: '',
        metaSize: bytes(word(args, 'poolmetadatasize')),
      });
    } else if (file === 'lvextend') {
      const v = volumes.get(last.split('/')[1] ?? '');
      if (v !== undefined && word(args, 'size') !== '') v.size = bytes(word(args, 'size'));
      if (v !== undefined && word(args, 'poolmetadatasize') !== '')
        v.metaSize += bytes(word(args, 'poolmetadatasize').slice(1));
    } else if (file === 'lvremove') volumes.delete(last.split('/')[1] ?? '');
    else if (file === 'lvchange' && args[0]?.startsWith('--deltag')) {
      const v = volumes.get(last.split('/')[1] ?? '');
      if (v !== undefined) v.tags = '';
    } else if (file !== 'lvchange' && file !== 'wipefs') throw new Error(`the fake node knows no ${file}`);
    return ok();
  };
  const had = new Set<string>();
  const lvm = new Lvm(run);
  const thin = new ThinPools({
    node: 'n1',
    lvm,
    turns: new Turns(),
    had: async (p) => had.has(p.id),
    remember: async (p) => void had.add(p.id),
  });
  return {
    calls,
    groups,
    volumes,
    lvm,
    thin,
    fill: (d: string, m = '10.00') => ([data, metadata] = [d, m]),
    lose: () => (missing = true),
  };
}

void t.test('a pool is made of its drives, once, and grows by a drive', async (t) => {
  const n = fakeNode();
  const use = await n.thin.probe(pool);
  t.match(use, { ok: true, text: '', thin: { dataPct: 0, promisedBytes: 0 } });
  t.ok(use.totalBytes > 3.5 * GiB && use.totalBytes < 4 * GiB, String(use.totalBytes));
  t.match(n.calls[0], /^vgcreate --addtag flotilla\.abcdef01-\S+ -- flotilla-abcdef01 \/dev\/vdc$/);
  const before = n.calls.length;
  await n.thin.probe(pool);
  t.equal(n.calls.length, before, 'a second look changes nothing');
  const larger = { ...pool, drives: [...(pool.drives ?? []), { node: 'n1', drive: 'drive2', wipe: false }] };
  const grown = await n.thin.probe(larger);
  t.ok(grown.totalBytes > 7.4 * GiB, String(grown.totalBytes));
  t.match(n.calls.slice(before), [/^vgextend -- flotilla-abcdef01 \/dev\/vdd$/, /^lvextend --size=/]);
});

void t.test('a drive that cannot be taken is told, and keeps the pool from nothing', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  const before = n.calls.length;
  const drive = (name: string) => ({ node: 'n1', drive: name, wipe: false });
  const more = { ...pool, drives: [...(pool.drives ?? []), drive('nope'), drive('drive2')] };
  const use = await n.thin.probe(more);
  t.match(use, { ok: true, text: /^the drive "nope" is not taken: .*not in n1/ });
  t.ok(use.totalBytes > 7.4 * GiB, 'the one behind it is');
  t.match(n.calls.slice(before), [/^vgextend .*vdd$/, /^lvextend --size=/]);
  n.fill('81.00', '60.00');
  const full = await n.thin.probe(more);
  t.match(
    full,
    { ok: true, text: /81 % full.*; the drive "nope" is not taken/ },
    'the warning is there, too',
  );
  t.match(n.calls.at(-1), /--poolmetadatasize/, 'and it is kept up');
});

void t.test('a drive with data is not touched', async (t) => {
  const n = fakeNode({ signatures: ['ext4'] });
  t.match(await n.thin.probe(pool), { ok: false, text: /vdc has data: ext4/ });
  t.same(n.calls, []);
  const wiped = { ...pool, drives: [{ node: 'n1', drive: 'drive1', wipe: true }] };
  t.match(await n.thin.probe(wiped), { ok: true });
  t.match(n.calls[0], /^wipefs --all -- \/dev\/vdc$/);
  const nameless = fakeNode({ head: 1 });
  t.match(await nameless.thin.probe(pool), { ok: false, text: /something without a name/ });
  t.same(nameless.calls, []);
  const system = { ...pool, drives: [{ node: 'n1', drive: 'state', wipe: true }] };
  const other = fakeNode();
  t.match(await other.thin.probe(system), { ok: false, text: /mounted/ });
  const unknown = { ...pool, drives: [{ node: 'n1', drive: 'nope', wipe: true }] };
  t.match(await other.thin.probe(unknown), { ok: false, text: /not in n1/ });
  t.same(other.calls, []);
});

void t.test('a pool whose drives went away is not made anew', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  n.groups.clear();
  n.volumes.clear();
  const before = n.calls.length;
  t.match(await n.thin.probe(pool), { ok: false, text: /missing/ });
  t.equal(n.calls.length, before);
  const m = fakeNode();
  await m.thin.probe(pool);
  m.lose();
  t.match(await m.thin.probe(pool), { ok: false, text: /1 of its drives are missing/ });
});

void t.test('another’s group of that name is left alone', async (t) => {
  const n = fakeNode();
  n.groups.set('flotilla-abcdef01', { tags: 'mine', drives: ['/dev/vdc'], extents: 1000 });
  t.match(await n.thin.probe(pool), { ok: false, text: /not this pool's/ });
  t.same(n.calls, []);
});

void t.test('disks: made, half-made, grown, removed', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  t.equal(await n.thin.make(disk, pool), thinPath(disk, pool));
  t.equal(thinPath(disk, pool), `/dev/flotilla-abcdef01/d-${disk.id}`);
  t.equal(await n.thin.make(disk, pool), thinPath(disk, pool), 'a crash half-way: made anew');
  t.match(n.calls.at(-2), /^lvremove/);
  await n.thin.done(disk, pool);
  t.equal(await n.thin.make(disk, pool), null, 'done is done');
  await n.thin.grow({ ...disk, sizeBytes: 300 << 20 }, pool);
  t.equal(n.volumes.get(`d-${disk.id}`)?.size, 300 << 20);
  const calls = n.calls.length;
  await n.thin.grow({ ...disk, sizeBytes: 300 << 20 }, pool);
  t.equal(n.calls.length, calls, 'grown is grown');
  await t.rejects(n.thin.grow(disk, pool), { code: 'unsupported' });
  await n.thin.grow({ ...disk, sizeBytes: 300 << 20, replicas: 2 }, pool);
  t.equal(n.volumes.get(`d-${disk.id}`)?.size, 304 << 20, 'with room for what is noted of a copy');
  await n.thin.remove(disk, pool);
  t.notOk(n.volumes.has(`d-${disk.id}`));
  await n.thin.remove(disk, pool);
  await t.rejects(n.thin.grow(disk, pool), { code: 'not-found' });
});

void t.test('filling: a warning, then a stop, before anybody’s writes wait', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  n.fill('81.00');
  t.match(await n.thin.probe(pool), { ok: true, text: /81 % full: give it a drive/ });
  t.ok(await n.thin.make(disk, pool));
  n.fill('95.50');
  await t.rejects(n.thin.make({ ...disk, id: disk.vm }, pool), { code: 'no-space' });
  await t.rejects(n.thin.grow({ ...disk, sizeBytes: GiB }, pool), { code: 'no-space' });
  n.fill('10.00', '92.00');
  await t.rejects(n.thin.make({ ...disk, id: disk.vm }, pool), { code: 'no-space' });
  t.match(await n.thin.probe(pool), { ok: true, text: /metadata 92 % full/ });
});

void t.test('snapshots: taken once, made a disk of, removed; none in a pool that fills', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  await n.thin.make(disk, pool);
  await n.thin.done(disk, pool);
  const promised = (await n.thin.probe(pool)).thin?.promisedBytes;
  const volume: SnapshotDisk = {
    id: '0d1a5e11-0000-4000-8000-000000000001',
    disk: disk.id,
    name: disk.name,
    pool: pool.id,
    format: 'raw',
    bus: 'virtio',
    sizeBytes: disk.sizeBytes,
    replicated: false,
    usedBytes: null,
  };
  t.equal(await n.thin.snapshot(disk, pool, volume), 0);
  t.match(
    n.calls.at(-1),
    `lvcreate --yes --snapshot --setactivationskip=n --name=s-${volume.id} -- flotilla-abcdef01/d-${disk.id}`,
  );
  const calls = n.calls.length;
  await n.thin.snapshot(disk, pool, volume);
  t.equal(n.calls.length, calls, 'taken is taken');
  t.equal((await n.thin.probe(pool)).thin?.promisedBytes, promised, 'it promises nothing');
  const other = { ...disk, id: '0d1a5e11-0000-4000-8000-000000000002' };
  await n.thin.makeFrom(other, pool, volume);
  t.ok(n.volumes.has(`d-${other.id}`));
  await n.thin.makeFrom(other, pool, volume);
  await n.thin.remove(disk, pool);
  const path = `/dev/flotilla-abcdef01/s-${volume.id}`;
  t.match(await n.thin.openSnapshot(volume, pool), { path }, 'it needs no disk');
  const twice = { ...disk, id: '0d1a5e11-0000-4000-8000-000000000003', replicas: 2 as const };
  const below = { ...volume, id: '0d1a5e11-0000-4000-8000-000000000004', disk: twice.id, replicated: true };
  await n.thin.openCopy(twice, pool, async () => undefined);
  await n.thin.snapshot(twice, pool, below);
  const { bytes } = await n.thin.openSnapshot(below, pool);
  t.ok(bytes > twice.sizeBytes && bytes < twice.sizeBytes + 4 * MiB, 'all that its machine saw');
  n.fill('86.00');
  await t.rejects(n.thin.snapshot(other, pool, { ...volume, id: other.id }), { code: 'no-space' });
  await n.thin.makeFrom({ ...disk, id: disk.vm }, pool, volume);
  await n.thin.removeSnapshot(volume, pool);
  await n.thin.removeSnapshot(volume, pool);
  t.notOk(n.volumes.has(`s-${volume.id}`));
  await t.rejects(n.thin.openSnapshot(volume, pool), { code: 'not-found' });
  await t.rejects(n.thin.makeFrom({ ...disk, id: volume.id }, pool, volume), { code: 'not-found' });
});

void t.test('metadata is enlarged before it is short', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  n.fill('10.00', '55.00');
  await n.thin.probe(pool);
  t.match(n.calls.at(-1), /^lvextend --poolmetadatasize=\+/);
});

void t.test('the list of drives', async (t) => {
  const n = fakeNode();
  await n.thin.probe(pool);
  const list = await new DriveList(n.lvm, {
    nowMs: () => 0,
    wallMs: () => 0,
    sleep: async () => undefined,
  }).list();
  t.same(
    list.map((d) => [d.device, d.serial, d.use]),
    [
      ['/dev/vda', 'root', 'system'],
      ['/dev/vdb', 'state', 'system'],
      ['/dev/vdc', 'drive1', 'pool'],
      ['/dev/vdd', 'drive2', 'empty'],
    ],
  );
});
