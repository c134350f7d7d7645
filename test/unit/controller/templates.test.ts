import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import type { Template } from '../../../core/domain/template.js';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VmSnapshot } from '../../../core/domain/vm-snapshot.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { TemplateView, VappApplied } from '../../../core/wire/rest.js';
import { lab } from './cli-rig.js';
import { haRig, made } from './ha-rig.js';
import { finishTemplate, namedOf, recordsOf } from './vapp-rig.js';

/** Templates at the command line and the API. The agents' part is in test/sim/template.test.ts. */

const l = await lab(haRig);
const { r, dir } = l;
t.teardown(() => l.stop());

const records = <T>(prefix: string): T[] => recordsOf<T>(r, prefix);
const one = <T>(prefix: string, name: string): T | undefined => namedOf<T>(r, prefix, name);
const again = async (): Promise<void> => {
  await r.view.ledger.refresh();
  r.view.fold();
};

await r.call('POST', '/api/v1/networks', {
  name: 'lan',
  bridge: 'fll0',
  subnet: '10.7.0.0/24',
  range: ['10.7.0.10', '10.7.0.99'],
});
await made(r, {
  name: 'golden',
  memoryMiB: 128,
  disks: [{ name: 'root', pool: 'shared', sizeBytes: 2 ** 30 }],
  nics: [{ network: 'lan' }],
  cloudInit: { userData: '#cloud-config\nport: @{port}\npassword: "@{password}"' },
});

const finish = (name: string): Promise<void> => finishTemplate(r, name);

const properties = path.join(dir, 'properties.yaml');
await writeFile(
  properties,
  'port: { type: integer, default: 80, choices: [80, 8080], label: Port }\npassword: { secret: true }\n',
);

await t.test('what a guest asks for must be a property: said before anything is made', async (t) => {
  const bare = await l.run('template', 'create', 'web', '--vm', 'golden');
  t.match(bare.err, /"vm" asks for @\{port\}, which is no property/);
  for (const args of [['web'], ['web', '--vm', 'golden', '--vapp', 'shop'], ['web', '--vm', 'none']])
    t.not((await l.run('template', 'create', ...args)).code, 0, args.join(' '));
  await writeFile(path.join(dir, 'list.yaml'), '- a\n');
  const list = await l.run(
    'template',
    'create',
    'web',
    '--vm',
    'golden',
    '--properties',
    path.join(dir, 'list.yaml'),
  );
  t.match(list.err, /no mapping/);
  t.same(records(kinds.template.prefix), []);
});

await t.test('it is made of a VM, listed, shown, and of use when it is ready', async (t) => {
  for (const e of r.memory.peekAll(kinds.disk.prefix))
    r.memory.poke(
      e.key,
      JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'ready', madeBytes: 2 ** 30 }),
    );
  await again();
  const ran = await l.run(
    ...['template', 'create', 'web', '--vm', 'golden', '--note', 'serves', '--tag', 'base'],
    ...['--properties', properties, '--no-wait'],
  );
  t.equal(ran.code, 0, ran.err);
  t.match(one<Template>(kinds.template.prefix, 'web'), {
    state: 'making',
    of: { kind: 'vm', name: 'golden' },
  });
  const early = await l.run('template', 'deploy', 'web', 'w1');
  t.match(early.err, /Nothing can be made of template "web": it is being made/);
  t.match((await l.run('template', 'delete', 'web')).err, /is being made/);
  await finish('web');
  t.match((await l.run('template', 'list')).out, /web +ready +VM golden +1 +1 MiB +port, password/);
  const shown = await l.run('template', 'show', 'web');
  t.match(shown.out, /Port: integer, usually 80, one of 80, 8080/);
  t.match(shown.out, /Property password +string, secret/);
  const view = (await r.call('GET', '/api/v1/templates/web')).body as TemplateView;
  t.match(view, { networks: [{ name: 'lan', isolated: false }], unusable: '', tags: ['base'] });
  const [x] = records<VmSnapshot>(kinds.vmSnapshot.prefix);
  t.match(await r.call('DELETE', `/api/v1/vms/golden/snapshots/${x?.id ?? ''}`), {
    status: 409,
    body: { code: 'in-use', message: /is the data of template "web"/ },
  });
});

await t.test('values are judged, secrets must be given, and nothing is made of a wrong one', async (t) => {
  const tries: [string[], RegExp][] = [
    [['--set', 'port=many'], /port.*is no integer/],
    [['--set', 'port=81'], /port.*is none of 80, 8080/],
    [['--set', 'prot=80'], /no property "prot"/],
    [['--set', 'password=x'], /secret/],
    [[], /"password" has no value/],
  ];
  for (const [args, said] of tries) {
    const ran = await l.run('template', 'deploy', 'web', 'w1', ...args);
    t.equal(ran.code, 2, args.join(' '));
    t.match(ran.err, said);
  }
  t.same(records(kinds.vapp.prefix), []);
});

await t.test('it is deployed: a vApp whose VM has its name, of the template’s data', async (t) => {
  const values = path.join(dir, 'values.yaml');
  await writeFile(values, 'password: hunter2-hunter2\n');
  const said = ['template', 'deploy', 'web', 'w1', '--linked', '--set', 'port=8080', '--values', values];
  const dry = await l.run(...said, '--dry-run');
  t.match(dry.out, /\+ VM "w1" is made\non vm: n\d/, dry.err);
  t.same(records(kinds.vapp.prefix), []);
  const ran = await l.run('--json', ...said, '--start', '--no-wait');
  t.equal(ran.code, 0, ran.err);
  t.match((JSON.parse(ran.out) as VappApplied).op, {
    kind: 'vapp.deploy',
    args: { phase: 'make', start: true },
  });
  const v = one<Vapp>(kinds.vapp.prefix, 'w1');
  const template = one<Template>(kinds.template.prefix, 'web');
  t.match(v?.members, [
    {
      from: { snapshot: template?.begins[0]?.from.snapshot, linked: true, keep: true },
      make: { name: 'w1' },
    },
  ]);
  t.match(v?.properties, [
    { name: 'port', value: 8080 },
    { name: 'password', value: null },
  ]);
  t.notMatch(ran.out + ran.err, /hunter2/);
  t.same(
    r.memory
      .peekAll('/flotilla/')
      .filter((e) => e.value.includes('hunter2'))
      .map((e) => e.key.split('/')[2]),
    ['vapp-secret'],
  );
  t.match((await l.run('template', 'delete', 'web')).err, /vApp "w1" is being made of template "web"/);
});

await t.test('a key that comes again makes no second one', async (t) => {
  const headers = { 'idempotency-key': 'deploy-again' };
  const body = { name: 'w2', values: { password: 'another-one' } };
  const first = await r.call('POST', '/api/v1/templates/web/vapps', body, headers);
  t.equal(first.status, 202, JSON.stringify(first.body));
  const second = await r.call('POST', '/api/v1/templates/web/vapps', body, headers);
  t.same((second.body as VappApplied).op?.id, (first.body as VappApplied).op?.id);
});

await t.test('deleted, its data go, as soon as nothing needs them', async (t) => {
  for (const e of r.memory.peekAll(kinds.vapp.prefix)) {
    const v = JSON.parse(e.value) as Vapp;
    const members = v.members.map(({ from: _, ...m }) => ({ ...m, make: null }));
    r.memory.poke(e.key, JSON.stringify({ ...v, members }));
  }
  await again();
  const ran = await l.run('template', 'delete', 'web');
  t.equal(ran.code, 0, ran.err);
  t.same(records(kinds.template.prefix), []);
  t.match(records<VmSnapshot>(kinds.vmSnapshot.prefix), [{ state: 'deleting' }]);
  t.equal(r.memory.peek('/flotilla/name/template/web'), null);
});
