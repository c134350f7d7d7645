import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { isMap, parseDocument } from 'yaml';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VmSpec } from '../../../core/domain/vm.js';
import type { VappApplied, VappView } from '../../../core/wire/rest.js';
import { startStages, stopStages } from '../../../core/decide/vapp.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import type { Rig } from './rig.js';

/** The document of a vApp, from the command line to the ledger and back. The agents' part is in test/sim/vapp.test.ts. */

const shop = `kind: VApp
name: shop
tags: [prod]
properties:
  port: { type: integer, default: 8080 }
  password: { secret: true }
networks:
  back: { isolated: true, subnet: 10.9.0.0/24 }
  front: { network: lan }
members:
  web:
    start: { order: 3, wait: http, port: 80 }
    vm:
      memory: 128M
      nics: [{ network: front }, { network: back }]
  tiers:
    start: { order: 1 }
    vapp:
      members:
        db:
          start: { order: 1, wait: tcp, port: 5432 }
          vm:
            memory: 128M
            disks: [{ pool: shared, size: 1G }]
            nics: [{ network: back }]
            cloudInit:
              userData: |
                #cloud-config
                password: "@{password}"
        app:
          start: { order: 2 }
          vm:
            memory: 128M
            nics: [{ network: back }]
            cloudInit:
              userData: |
                #cloud-config
                db: "@{db.address}:@{port}"
failover: dependents
rules:
  - { kind: apart, members: [db, app] }
`;

const vappOf = (r: Rig): Vapp => {
  const [e] = r.memory.peekAll(kinds.vapp.prefix);
  return JSON.parse(e?.value ?? 'null') as Vapp;
};

const l = await lab(haRig);
const { r, dir } = l;
const run = (...args: string[]) => l.run(...args);
t.teardown(() => l.stop());
const file = path.join(dir, 'shop.yaml');
const write = (text: string): Promise<void> => writeFile(file, text);
await r.call('POST', '/api/v1/networks', {
  name: 'lan',
  bridge: 'fll0',
  subnet: '10.7.0.0/24',
  range: ['10.7.0.10', '10.7.0.99'],
});

await t.test('faults are told with line and column, all of them', async (t) => {
  const tries: [string, RegExp][] = [
    ['kind: VApp\nname: [', /shop\.yaml:2:8: /],
    [
      shop.replace('wait: tcp', 'wait: ping'),
      /shop\.yaml:21:30: members\.tiers\.vapp\.members\.db\.start\.wait: /,
    ],
    [
      shop.replace('{ network: front }', '{ network: fornt }'),
      /shop\.yaml:15:16: members\.web\.vm\.nics\.0\.network: the vApp has no network "fornt"/,
    ],
    [shop.replace('pool: shared', 'pool: sharde'), /shop\.yaml:24:23: .*there is no pool "sharde"/],
    [shop.replace('@{db.address}', '@{bd.address}'), /@\{bd\.address\} is no property/],
    [shop.replace('members: [db, app]', 'members: [db, ap]'), /rules\.0\.members: there is no member "ap"/],
    [shop.replace('memory: 128M', 'memroy: 128M'), /memroy/],
    [shop.replace('failover: dependents', 'failover: some'), /shop\.yaml:\d+:1: failover: /],
    [`${shop}x: &a [1]\n`, /shop\.yaml:1:1: .*x/],
  ];
  for (const [text, said] of tries) {
    await write(text);
    const ran = await run('diff', '-f', file);
    t.equal(ran.code, 2, ran.out + ran.err);
    t.match(ran.err, said);
  }
  await write(shop);
  const ran = await run('diff', '-f', file);
  t.match(ran.err, /properties|"password" has no value/, 'a secret that is used must be given');
});

await t.test('a secret goes by a file, and is in no answer, operation or argument', async (t) => {
  await write(shop);
  t.equal((await run('apply', '-f', file, '--set', 'password=hunter2')).code, 2, 'not at the command line');
  const values = path.join(dir, 'values.yaml');
  await writeFile(values, 'password: hunter2-hunter2\n');
  const dry = await run('apply', '-f', file, '--values', values, '--dry-run');
  t.equal(dry.code, 0, dry.err);
  t.match(dry.out, /\+ isolated network "shop-back", 10\.9\.0\.0\/24/);
  t.match(dry.out, /\+ VM "shop-db" is made/);
  t.match(dry.out, /on web: n\d/);
  t.same(r.memory.peekAll(kinds.vapp.prefix), [], 'nothing was made');
  const ran = await run('--json', 'apply', '-f', file, '--values', values, '--set', 'port=9090', '--no-wait');
  t.equal(ran.code, 0, ran.err);
  const said = JSON.parse(ran.out) as VappApplied;
  t.match(said.op, { kind: 'vapp.deploy', state: 'queued', args: { phase: 'make' } });
  const holders = r.memory.peekAll('/flotilla/').filter((e) => e.value.includes('hunter2'));
  t.same(
    holders.map((e) => e.key.split('/')[2]),
    ['vapp-secret'],
  );
  t.notMatch(ran.out + ran.err, /hunter2/);
  const v = vappOf(r);
  t.equal(v.properties.find((p) => p.name === 'port')?.value, 9090);
  t.equal(v.failover, 'dependents');
  t.same(
    startStages(v).map((s) => s.members.map((m) => m.name)),
    [['db'], ['app'], ['web']],
  );
  t.same(
    stopStages(v).map((s) => s.members.map((m) => m.name)),
    [['web'], ['app'], ['db']],
  );
  const own = v.networks.find((n) => n.own)?.network ?? '';
  const network = JSON.parse(r.memory.peek(kinds.network.key(own))?.value ?? '{}') as Record<string, unknown>;
  t.match(network, { name: 'shop-back', vni: 4096, vapp: v.id, range: ['10.9.0.10', '10.9.0.253'] });
  const seen = (await r.call('GET', '/api/v1/vapps/shop')).body as VappView;
  t.match(seen, { name: 'shop', state: 'making' });
  t.notMatch(JSON.stringify(seen), /hunter2|"make"/);
  t.match((await r.call('POST', '/api/v1/vapps/shop/actions/start', {})).body, { code: 'wrong-state' });
});

await t.test('applied twice nothing is different; a change is told, and only it is done', async (t) => {
  const v = vappOf(r);
  // As the agents leave it.
  for (const m of v.members) {
    const { name, nics, disks, cloudInit } = m.make as {
      name: string;
      nics: { network: string }[];
      disks: object[];
      cloudInit: object;
    };
    const body = { name, memoryMiB: 128, nics, disks, cloudInit };
    const made = (await r.call('POST', '/api/v1/vms', body)).body as { vm: { id: string } };
    if (made.vm === undefined) t.fail(JSON.stringify(made));
    m.vm = made.vm.id;
    m.make = null;
    const kept = r.memory.peek(kinds.vmSpec.key(m.vm));
    const spec = JSON.parse(kept?.value ?? '{}') as VmSpec;
    r.memory.poke(kinds.vmSpec.key(m.vm), JSON.stringify({ ...spec, vapp: { id: v.id, member: m.name } }));
  }
  r.memory.poke(kinds.vapp.key(v.id), JSON.stringify(v));
  for (const e of r.memory.peekAll(kinds.op.prefix))
    r.memory.poke(e.key, JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'done' }));
  const again = await run('apply', '-f', file);
  t.match(again, { code: 0, out: /Nothing is different/ }, again.err + again.out);
  await write(shop.replace('failover: dependents', 'failover: all'));
  t.match((await run('diff', '-f', file)).out, /failover/);
  await write(shop.replace('memory: 128M', 'memory: 256M'));
  const diff = await run('diff', '-f', file);
  t.match(diff.out, /^~ VM "shop-web": memoryMiB 128 → 256\non /, diff.err);
  const before = r.memory.peekAll(kinds.vmSpec.prefix).map((e) => [e.key, e.value]);
  const ran = await run('apply', '-f', file, '--no-wait');
  t.equal(ran.code, 0, ran.err);
  const after = new Map(r.memory.peekAll(kinds.vmSpec.prefix).map((e) => [e.key, e.value]));
  const changed = before.filter(([k, value]) => k?.endsWith('/spec') && after.get(k ?? '') !== value);
  t.equal(changed.length, 1, 'one VM was edited');
  t.match((await run('apply', '-f', file)).out, /Nothing is different/);
  const less = shop.replace(/ {2}web:[^]*?(?= {2}tiers:)/, '').replace('memory: 128M', 'memory: 256M');
  await write(less);
  t.match((await run('diff', '-f', file)).out, /- VM "shop-web" is deleted with its disks/);
  await write(shop);
  const wide = await run('diff', '-f', file);
  t.match(wide.out, /256 → 128/);
});

await t.test('a network is put in and taken out again, where nothing is on it', async (t) => {
  const wide = shop.replace('memory: 128M', 'memory: 256M');
  const spare = wide.replace('  front:', '  spare: { isolated: true, subnet: 10.9.1.0/24 }\n  front:');
  const names = (): string[] =>
    r.memory.peekAll(kinds.network.prefix).map((e) => (JSON.parse(e.value) as { name: string }).name);
  await write(spare);
  t.match(await run('apply', '-f', file), { code: 0, out: /\+ isolated network "shop-spare"|changed/ });
  t.same(names().sort(), ['lan', 'shop-back', 'shop-spare']);
  await write(wide);
  t.match((await run('diff', '-f', file)).out, /- isolated network "shop-spare" is deleted/);
  t.match(await run('apply', '-f', file), { code: 0 });
  t.same(names().sort(), ['lan', 'shop-back']);
  t.same(r.memory.peekAll('/flotilla/name/network/').length, 2, 'its name is free');
  t.match((await run('apply', '-f', file)).out, /Nothing is different/);
  await write(wide.replace(/ {2}front:.*\n/, '').replace('{ network: front }, ', ''));
  const used = await run('diff', '-f', file);
  t.match(used.err, /network "front" is in use by "shop-web": apply the document without those NICs first/);
});

await t.test('exported, it is a document that changes nothing', async (t) => {
  const ran = await run('vapp', 'export', 'shop');
  t.equal(ran.code, 0, ran.err);
  t.ok(isMap(parseDocument(ran.out).contents));
  await write(ran.out);
  const again = await run('diff', '-f', file);
  t.match(again, { code: 0, out: /Nothing is different/ }, again.out + again.err);
  t.match(ran.out, /^failover: dependents$/m);
  const template = await run('vapp', 'export', 'shop', '--template');
  t.notMatch(template.out, /mac:|hunter2/);
  await write(template.out.replace('name: shop', 'name: second'));
  const values = path.join(dir, 'values.yaml');
  const beside = await run('diff', '-f', file, '--values', values);
  t.match(beside, { code: 0, out: /\+ VM "second-db" is made/ }, beside.out + beside.err);
});

await t.test('the schema is served, and says what a document is', async (t) => {
  const { status, body } = await r.call('GET', '/api/v1/schemas/vapp');
  t.equal(status, 200);
  t.match(body, { $defs: { VappMember: { type: 'object' } } });
  const published = JSON.parse(await readFile('docs/vapp.schema.json', 'utf8')) as unknown;
  t.same(body, published, 'docs/vapp.schema.json is the same');
});

await t.test('it is suspended and resumed; what stands still, or does not, says so', async (t) => {
  const v = vappOf(r);
  const power = (to: VmSpec['power']): void => {
    for (const m of v.members) {
      const key = kinds.vmSpec.key(m.vm);
      const spec = JSON.parse(r.memory.peek(key)?.value ?? '{}') as VmSpec;
      r.memory.poke(key, JSON.stringify({ ...spec, power: to }));
    }
  };
  power('stopped');
  const off = await run('vapp', 'suspend', 'shop');
  t.match(off, { code: 4, err: /vApp "shop" cannot be suspended: none of its VMs is running/ }, off.err);
  power('running');
  t.match(await run('vapp', 'resume', 'shop'), { err: /cannot be resumed: none of its VMs is paused/ });
  t.match(await run('vapp', 'suspend', 'shop', '--group', 'nobody'), { err: /has no vApp "nobody" in it/ });
  const ran = await run('--json', 'vapp', 'suspend', 'shop', '--no-wait');
  t.equal(ran.code, 0, ran.err);
  t.match(JSON.parse(ran.out), { kind: 'vapp.suspend', state: 'queued', args: { phase: 'suspend' } });
  t.match(await run('vapp', 'stop', 'shop'), { err: /vapp\.suspend/ }, 'one operation at a time');
});
