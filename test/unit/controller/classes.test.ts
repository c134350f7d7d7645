import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { followClass } from '../../../core/decide/service-class.js';
import type { ServiceClass } from '../../../core/domain/service-class.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { VmSpec } from '../../../core/domain/vm.js';
import type { ClassChanged, ClassView, VmView } from '../../../core/wire/rest.js';
import { lab } from './cli-rig.js';
import { haRig, made, vmOf } from './ha-rig.js';
import { GiB } from './rig.js';

/** Service classes, from the command line to the ledger. That members follow is the agents' part: test/sim/classes.test.ts. */

const disks = [{ pool: 'shared', sizeBytes: GiB }];
const l = await lab(haRig);
const { r, dir } = l;
const run = (...args: string[]) => l.run(...args);
t.teardown(() => l.stop());

const settings = { ha: true, haPriority: 90, autoMove: false, cpuShares: 400, replicas: 2 };
const by = (vm: VmView, setting: string): string | undefined =>
  vm.settings.find((s) => s.setting === setting)?.by;
const patch = (name: string, body: object) => r.call('PATCH', `/api/v1/vms/${name}`, body);

await t.test('a class is made once, and takes only what it knows', async (t) => {
  const post = (body: object) => r.call('POST', '/api/v1/classes', body);
  t.match(await post({ name: 'gold', settings }), {
    status: 201,
    body: { name: 'gold', generation: 1, vms: [] },
  });
  t.match(await post({ name: 'GOLD', settings }), { status: 409, body: { code: 'name-taken' } });
  for (const bad of [
    { name: 'x' },
    { name: 'x', settings: { speed: 1 } },
    { name: 'x', settings: { haPriority: 101 } },
    { name: 'x', settings: { replicas: 3 } },
    { name: 'x', settings: { cpuShares: 0 } },
    { name: 'x', settings: {}, more: 1 },
  ])
    t.match(await post(bad), { status: 400 }, JSON.stringify(bad));
  const ran = await run('class', 'create', 'bronze', '--ha', 'off', '--cpu-shares', '50');
  t.equal(ran.code, 0, ran.err);
  t.match((await run('class', 'list')).out, /bronze .*HA: no, CPU shares: 50/);
});

await t.test('a VM asks for it by name; what it says itself stays its own', async (t) => {
  const web = await made(r, { name: 'web', disks, class: 'gold', ha: { priority: 20 } });
  t.match(web.spec, {
    ha: { enabled: true, priority: 20 },
    autoMove: false,
    cpuShares: 400,
    class: { own: ['haPriority'] },
  });
  t.equal(web.className, 'gold');
  t.same(
    ['ha', 'haPriority', 'onHang'].map((s) => by(web, s)),
    ['class', 'own', 'vm'],
  );
  t.match(await r.call('POST', '/api/v1/vms', { name: 'no', disks, class: 'silver' }), {
    status: 404,
    body: { code: 'not-found', message: /no class "silver"/ },
  });
  t.match(
    await r.call('POST', '/api/v1/vms', {
      name: 'no',
      disks: [{ sizeBytes: GiB, pool: 'local' }],
      class: 'gold',
    }),
    { status: 422, body: { code: 'unsupported', message: /no other node reaches its disk/ } },
  );

  // An edit makes a setting its own, and gives it back.
  await patch('web', { autoMove: true });
  t.match((await vmOf(r, 'web')).spec, { autoMove: true, class: { own: ['haPriority', 'autoMove'] } });
  await patch('web', { note: 'nothing of classes' });
  t.match((await vmOf(r, 'web')).spec.class?.own, ['haPriority', 'autoMove']);
  const back = await run(
    'vm',
    'edit',
    'web',
    '--as-class',
    'autoMove',
    '--as-class',
    'haPriority',
    '--no-wait',
  );
  t.equal(back.code, 0, back.err);
  t.match((await vmOf(r, 'web')).spec, { autoMove: false, ha: { priority: 90 }, class: { own: [] } });
  t.match(await run('vm', 'edit', 'web', '--as-class', 'colour'), { code: 2, err: /no setting of classes/ });
  t.match((await run('vm', 'show', 'web')).out, /Class +gold[^]*By its class +.*HA priority: 90/);

  await made(r, { name: 'old', disks });
  t.match(await patch('old', { asClass: ['ha'] }), { status: 400, body: { message: /is of no class/ } });
  await patch('old', { class: 'gold', cpuShares: 70 });
  t.match((await vmOf(r, 'old')).spec, {
    ha: { enabled: true },
    cpuShares: 70,
    class: { own: ['cpuShares'] },
  });
  await run('vm', 'edit', 'old', '--class', 'none', '--no-wait');
  const left = (await vmOf(r, 'old')).spec;
  t.match(left, { ha: { enabled: true, priority: 90 }, cpuShares: 70 }, 'what it had stays');
  t.equal(left.class, undefined);
});

await t.test('a change is previewed: which VM, what, and when', async (t) => {
  await made(r, { name: 'loner', class: 'bronze', disks: [{ sizeBytes: GiB, pool: 'local' }] });
  const gold = (await r.call('GET', '/api/v1/classes/gold')).body as ClassView;
  const change = (name: string, body: object, etag?: string) =>
    r.call('PATCH', `/api/v1/classes/${name}`, body, etag === undefined ? {} : { 'if-match': etag });
  const dry = (await change('gold', { settings: { haPriority: 95, onHang: 'reset' }, dryRun: true }))
    .body as ClassChanged;
  t.match(dry, {
    op: null,
    cannot: [],
    changes: [
      {
        name: 'web',
        effects: [
          { setting: 'replicas', when: 'new-disks' },
          { setting: 'haPriority', text: /90 → 95/, when: 'now' },
          { setting: 'onHang' },
        ],
      },
    ],
  });
  t.match((await r.call('GET', '/api/v1/classes/gold')).body, { generation: 1 }, 'nothing was changed');
  t.match(await change('gold', { settings: { haPriority: 95 } }, '"7"'), {
    status: 409,
    body: { code: 'edit-conflict' },
  });
  const refused = await change('bronze', { settings: { ha: true } });
  t.match(refused, {
    status: 422,
    body: { code: 'unsupported', message: /HA of VM "loner"/, hint: /--ha off/ },
  });
  const said = await run('class', 'edit', 'bronze', '--ha', 'on', '--dry-run');
  t.match(said, { code: 0, out: /! HA of VM "loner" is not possible/ });
  await patch('loner', { ha: { enabled: false } });
  t.match(await change('bronze', { settings: { ha: true } }), {
    status: 202,
    body: { op: null, changes: [] },
  });

  const ran = await run('class', 'edit', 'gold', '--ha-priority', '95', '--unset', 'replicas', '--no-wait');
  t.match(ran, { code: 0, err: /~ VM "web": HA priority: 90 → 95/ }, ran.out + ran.err);
  t.match((await r.call('GET', '/api/v1/classes/gold')).body, {
    generation: 2,
    settings: { haPriority: 95, replicas: undefined },
    vms: [{ name: 'web', follows: false }],
  });
  const [op] = r.memory
    .peekAll(kinds.op.prefix)
    .map((e) => JSON.parse(e.value) as { kind: string; subject: object })
    .filter((o) => o.kind === 'class.update');
  t.match(op?.subject, { kind: 'class', id: gold.id, name: 'gold' });
});

await t.test('one that something is of is not removed', async (t) => {
  t.match(await r.call('DELETE', '/api/v1/classes/gold'), {
    status: 409,
    body: { code: 'in-use', message: /that of VM "web"/ },
  });
  await patch('web', { class: null });
  t.match(await run('class', 'delete', 'gold'), { code: 0, out: /is removed/ });
  t.match(await r.call('GET', '/api/v1/classes/gold'), { status: 404 });
});

await t.test('a vApp names it for all of its VMs, and one of them another', async (t) => {
  const file = path.join(dir, 'app.yaml');
  const doc = `kind: VApp
name: app
class: silver
members:
  db: { vm: { memory: 128M, disks: [{ pool: shared, size: 1G }], ha: { priority: 10 } } }
  web: { vm: { memory: 128M, class: bronze, ha: { enabled: false } } }
`;
  await writeFile(file, doc);
  const faulty = await run('diff', '-f', file);
  t.match(faulty, { code: 2, err: /app\.yaml:3:1: class: there is no class "silver"/ });
  await r.call('POST', '/api/v1/classes', { name: 'silver', settings: { ha: true, haPriority: 60 } });
  const ran = await run('apply', '-f', file, '--no-wait');
  t.equal(ran.code, 0, ran.err);
  t.match((await r.call('GET', '/api/v1/vapps/app')).body, { className: 'silver' });
  t.match(await r.call('DELETE', '/api/v1/classes/silver'), { status: 409, body: { message: /vApp "app"/ } });
  const [e] = r.memory.peekAll(kinds.vapp.prefix);
  const vapp = JSON.parse(e?.value ?? '{}') as {
    members: { name: string; vm: string; make: Record<string, unknown> | null }[];
  };
  // As the agents leave it.
  for (const m of vapp.members) {
    const vm = await made(r, { ...m.make });
    m.vm = vm.id;
    m.make = null;
    const spec = JSON.parse(r.memory.peek(kinds.vmSpec.key(vm.id))?.value ?? '{}') as VmSpec;
    const member = { id: (vapp as unknown as { id: string }).id, member: m.name };
    r.memory.poke(kinds.vmSpec.key(vm.id), JSON.stringify({ ...spec, vapp: member }));
  }
  r.memory.poke(e?.key ?? '', JSON.stringify(vapp));
  for (const o of r.memory.peekAll(kinds.op.prefix))
    r.memory.poke(o.key, JSON.stringify({ ...(JSON.parse(o.value) as object), state: 'done' }));
  await r.view.ledger.refresh();
  t.match((await vmOf(r, 'app-db')).spec, {
    ha: { enabled: true, priority: 10 },
    class: { own: ['haPriority'] },
  });
  t.match((await vmOf(r, 'app-web')).className, 'bronze');
  t.match(await run('diff', '-f', file), { code: 0, out: /Nothing is different/ });
  const exported = await run('vapp', 'export', 'app');
  t.match(exported.out, /^class: silver$/m);
  t.notMatch(exported.out, /priority: 60|restartsPerHourMax: 5[^]*class: bronze[^]*enabled: true/);
  await writeFile(file, exported.out);
  t.match(await run('diff', '-f', file), { code: 0, out: /Nothing is different/ });
  await writeFile(file, doc.replace('class: silver', 'class: bronze'));
  const diff = await run('diff', '-f', file);
  t.match(diff, { code: 0, out: /~ VM "app-db": class bronze/ });
});

await t.test('a class says how many snapshots are kept; a VM’s own word stays, and 0 ends it', async (t) => {
  t.equal((await run('class', 'create', 'kept', '--daily', '7', '--weekly', '4')).code, 0);
  t.match((await run('class', 'list')).out, /kept .*snapshots taken by themselves: 7 daily 4 weekly/);
  const schedule = { hourly: 0, daily: 7, weekly: 4 };
  t.same((await made(r, { name: 'k1', disks, class: 'kept' })).spec.snapshots, schedule);
  const own = { hourly: 24, daily: 0, weekly: 0 };
  await made(r, { name: 'k2', disks, class: 'kept' });
  await patch('k2', { snapshots: own });
  t.match((await vmOf(r, 'k2')).spec, { snapshots: own, class: { own: ['snapshots'] } });
  t.match(
    await r.call('PATCH', '/api/v1/classes/kept', { settings: { snapshots: { ...schedule, daily: 99 } } }),
    {
      status: 400,
    },
  );
  const would = await run('class', 'edit', 'kept', '--daily', '3', '--dry-run');
  t.match(would.out, /~ VM "k1": snapshots taken by themselves: 7 daily 4 weekly → 3 daily/);
  t.notMatch(would.out, /k2/);
  const cls = (settings: object) => ({ ...(JSON.parse(kept()) as ServiceClass), settings });
  const kept = (): string =>
    r.memory.peekAll(kinds.class.prefix).find((e) => e.value.includes('"kept"'))?.value ?? '';
  const { spec } = await vmOf(r, 'k1');
  const none = followClass(spec, cls({ snapshots: { hourly: 0, daily: 0, weekly: 0 } }));
  t.notOk('snapshots' in none, 'all 0: it has no schedule');
  t.equal(none.generation, spec.generation + 1);
  t.equal(followClass(none, cls({ snapshots: { hourly: 0, daily: 0, weekly: 0 } })), none, 'it follows');
  t.equal(followClass(spec, cls({})), spec, 'of what is not said it keeps what it has');
  await patch('k2', { asClass: ['snapshots'] });
  t.same((await vmOf(r, 'k2')).spec.snapshots, schedule);
  await patch('k1', { class: 'kept', snapshots: null });
  t.match((await vmOf(r, 'k1')).spec, { snapshots: undefined, class: { own: ['snapshots'] } });
});
