import { readFileSync, statSync, mkdtempSync, mkdirSync, writeFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { resourceConfig, resourceName, vmOfResource } from '../../../../agent/drbd/config.js';
import { Drbd } from '../../../../agent/drbd/drbd.js';
import { FlotillaError, errorRecord } from '../../../../core/domain/error.js';
import type { Replica } from '../../../../core/domain/replica.js';
import { inSync } from '../../../../core/decide/replica.js';
import { parseDump, parseLine } from '../../../../agent/drbd/events.js';

const vm = '11111111-1111-4111-8111-111111111111';
const secret = '0123456789abcdef0123456789abcdef';
const replica: Replica = {
  vm,
  port: 7800,
  secret,
  nodes: [
    { node: 'n1', address: '10.84.200.1' },
    { node: 'n2', address: '10.84.200.2' },
  ],
  volumes: [
    {
      disk: '22222222-2222-4222-8222-222222222220',
      volume: 0,
      minor: 1000,
      below: '/dev/flotilla-p/d0',
      pool: vm,
    },
    {
      disk: '22222222-2222-4222-8222-222222222221',
      volume: 1,
      minor: 1001,
      below: '/dev/flotilla-p/d1',
      pool: vm,
    },
  ],
};
// Captured with a resource named vm1.
const fixture = (name: string): string =>
  readFileSync(
    join(import.meta.dirname, `../../../../../../test/fixtures/drbd/8.4/${name}.txt`),
    'utf8',
  ).replaceAll('name:vm1 ', `name:${resourceName(vm)} `);

void t.test('names', async (t) => {
  t.equal(vmOfResource(resourceName(vm)), vm);
  t.equal(vmOfResource('r0'), null);
  t.equal(vmOfResource('flotilla-x'), null);
  t.throws(() => resourceName('../x'));
});

void t.test('a configuration', async (t) => {
  const text = resourceConfig(replica, 'n1');
  t.match(text, `resource flotilla-${vm} {`);
  t.match(text, 'fencing resource-and-stonith;');
  for (const n of [0, 1, 2]) t.match(text, `after-sb-${n}pri disconnect;`);
  t.match(text, 'address ipv4 10.84.200.2:7800;');
  t.match(text, 'volume 1 { device minor 1001; disk /dev/flotilla-p/d1; meta-disk internal; }');
  t.throws(() => resourceConfig(replica, 'n9'), { code: 'not-owner' });
  const hostile = { ...replica, volumes: [{ ...(replica.volumes[0] as object), below: '/dev/a/b; }' }] };
  t.throws(() => resourceConfig(hostile as Replica, 'n1'), { code: 'bad-input' });
  t.throws(() => resourceConfig({ ...replica, secret: 'x"; on' }, 'n1'), { code: 'bad-input' });
});

void t.test('what DRBD 8.4.11 says', async (t) => {
  const of = (name: string) => {
    const d = parseDump(fixture(name));
    t.same(d.unreadable, [], name);
    return d.pairs.get(vm);
  };
  t.match(of('connected-new'), {
    connection: 'Connected',
    role: 'Secondary',
    volumes: [{ here: 'Inconsistent' }],
  });
  const well = of('in-sync');
  t.equal(well?.suspended, false);
  t.equal(well?.volumes.length, 2);
  t.ok(well?.volumes.every((v) => inSync(well, v)));
  t.ok(well?.volumes.every((v) => v.sizeBytes > 60 << 20 && v.behindBytes === 0));
  const frozen = of('suspended');
  t.match(frozen, { role: 'Primary', suspended: true, connection: 'Connecting' });
  const diskless = of('diskless');
  t.match(diskless, {
    volumes: [{ there: 'Inconsistent', replication: 'SyncSource' }, { here: 'Diskless' }],
  });
  t.ok((diskless?.volumes[0]?.behindBytes ?? 0) > 0);
  const target = of('sync-target');
  t.match(target, { volumes: [{ here: 'Inconsistent', replication: 'SyncTarget' }, { here: 'UpToDate' }] });
  t.match(of('disconnected'), {
    connection: 'StandAlone',
    volumes: [{ there: 'Outdated' }, { there: 'Outdated' }],
  });
  for (const p of [frozen, diskless, of('disconnected'), of('connected-new')])
    t.notOk(p?.volumes.every((v) => inSync(p, v)));
  t.equal(target?.volumes.filter((v) => inSync(target, v)).length, 1, 'one of two is not both');
});

void t.test('what cannot be read is not taken for well', async (t) => {
  const name = resourceName(vm);
  const good = `exists resource name:${name} role:Primary suspended:no\nexists -\n`;
  t.ok(parseDump(good).pairs.has(vm));
  t.notOk(parseDump(good.replace('exists -\n', '')).pairs.has(vm), 'cut off');
  t.notOk(parseDump(good.replace('Primary', 'Captain')).pairs.has(vm), 'a role there is not');
  const more = `exists device name:${name} volume:0 minor:1 disk:Brandnew\n${good}`;
  t.match(parseDump(more), { unreadable: [/Brandnew/] });
  t.notOk(parseDump(more).pairs.has(vm));
  t.same(parseDump(`exists resource name:other role:Primary suspended:no\n${good}`).unreadable, []);
  t.equal(parseLine('call helper name:x helper:split-brain')?.words.get('helper'), 'split-brain');
  t.equal(parseLine('- skipped 3'), null);
});

void t.test('the driver: files of root alone, no secret in what it says, no other DRBD', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'drbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, 'module/parameters'), { recursive: true });
  const calls: string[][] = [];
  let fails: Error | null = null;
  const drbd = new Drbd({
    node: 'n1',
    clock: { nowMs: () => 0, wallMs: () => 0, sleep: async () => undefined },
    runDir: join(dir, 'run'),
    module: join(dir, 'module'),
    handler: '/usr/lib/flotilla/fence-peer',
    run: async (file, args) => {
      calls.push([file, ...args]);
      if (fails !== null)
        throw new FlotillaError('tool-failed', `${file} failed`, { hint: 'h', cause: fails });
      return { code: 0, stdout: '', stderr: '' };
    },
    follow: async (file, args, told) => {
      calls.push([file, ...args]);
      told();
    },
  });
  let told = 0;
  await drbd.watch(() => told++, new AbortController().signal);
  t.same([told, calls.splice(0)], [1, [['drbdsetup', 'events2']]]);
  await drbd.adjust(replica);
  const path = join(dir, 'run', `${resourceName(vm)}.res`);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(statSync(join(dir, 'run')).mode & 0o777, 0o700);
  t.same(calls.splice(0), [['drbdadm', '-c', `${path}.next`, 'adjust', resourceName(vm)]]);
  t.equal(await drbd.reconnects(replica), false, 'it was made from this');
  const [a, b] = replica.nodes;
  const moved = { ...replica, nodes: [a, { ...b, address: '10.9.0.2' }] } as Replica;
  t.equal(await drbd.reconnects(moved), true);
  t.same(calls.splice(0), [['drbdadm', '-c', `${path}.next`, '-d', 'adjust', resourceName(vm)]], 'only said');
  t.match(readFileSync(path, 'utf8'), '10.84.200.2', 'what is in force stays until it is replaced');
  fails = new Error('IP not found on this host');
  await t.rejects(drbd.reconnects(moved), { code: 'tool-failed' });
  await t.rejects(drbd.adjust(moved));
  t.match(readFileSync(path, 'utf8'), '10.84.200.2');
  fails = null;
  await drbd.adjust(moved);
  t.match(readFileSync(path, 'utf8'), '10.9.0.2');
  calls.length = 0;
  await drbd.closeVolume(1001);
  t.same(calls.splice(0), [
    ['drbdsetup', 'secondary', '1001'],
    ['drbdsetup', 'detach', '1001'],
  ]);
  t.notOk(calls.flat().some((w) => w.includes(secret)));

  fails = new Error(
    `Command 'drbdsetup-84 connect --shared-secret=${secret} --x' terminated with exit code 10`,
  );
  const e = await drbd.promote(vm).then(
    () => null,
    (x: unknown) => x,
  );
  t.match(e, { code: 'replica-refused' });
  t.notOk(JSON.stringify(errorRecord(e)).includes(secret));
  t.match(JSON.stringify(errorRecord(e)), 'exit code 10');
  t.match(await drbd.usable(), { ok: false, why: /no DRBD/ });

  fails = null;
  writeFileSync(join(dir, 'module/version'), '9.2.1\n');
  t.match(await drbd.usable(), { ok: false, why: /9\.2\.1 is not 8\.4/ });
  writeFileSync(join(dir, 'module/version'), '8.4.11\n');
  t.match(await drbd.usable(), { ok: true });
  t.equal(
    readFileSync(join(dir, 'module/parameters/usermode_helper'), 'utf8'),
    '/usr/lib/flotilla/fence-peer',
  );
});
