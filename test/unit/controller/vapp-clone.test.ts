import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VappApplied } from '../../../core/wire/rest.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import { recordsOf, wholeVapp } from './vapp-rig.js';

/** What is asked of a clone, at the command line and the API. The agents' part is in test/sim/vapp-clone.test.ts. */

const l = await lab(haRig);
const { r, dir } = l;
t.teardown(() => l.stop());

const records = <T>(prefix: string): T[] => recordsOf<T>(r, prefix);
const vappOf = (name: string): Vapp | undefined =>
  records<Vapp>(kinds.vapp.prefix).find((v) => v.name === name);

const of = await wholeVapp(r, {
  document: {
    kind: 'VApp',
    name: 'shop',
    owner: 'anna',
    properties: { port: { type: 'integer', default: 80 }, password: { secret: true } },
    networks: { back: { isolated: true, subnet: '10.9.0.0/24' } },
    members: {
      db: {
        vm: {
          memory: '128M',
          disks: [{ name: 'root', pool: 'shared', size: '1G' }],
          nics: [{ network: 'back' }],
          cloudInit: { userData: '#cloud-config\npassword: "@{password}"' },
        },
      },
      web: { vm: { memory: '128M', disks: [{ name: 'root', pool: 'shared', size: '1G' }] } },
    },
  },
  values: { password: 'hunter2-hunter2' },
});

await t.test('what would be made is said, and nothing is made', async (t) => {
  const ran = await l.run('vapp', 'clone', 'shop', 'second', '--dry-run');
  t.equal(ran.code, 0, ran.err);
  t.match(ran.out, /\+ isolated network "second-back", 10\.9\.0\.0\/24/);
  t.match(ran.out, /\+ VM "second-db" is made/);
  t.match(ran.out, /on db: n\d/);
  t.equal(vappOf('second'), undefined);
  t.equal(records(kinds.vmSnapshot.prefix).length, 0);
});

await t.test('what cannot be is refused before anything is made', async (t) => {
  const refusals: [string[], RegExp][] = [
    [['shop', 'shop'], /name|taken/],
    [['none', 'second'], /There is no vApp "none"/],
    [['shop', 'second', '--set', 'port=many'], /port.*is no integer/],
    [['shop', 'second', '--set', 'prot=1'], /there is no property "prot"/],
    [['shop', 'second', '--set', 'password=x'], /secret/],
    [['shop', 'second', '--linked', '--full'], /--full/],
  ];
  for (const [args, said] of refusals) {
    const ran = await l.run('vapp', 'clone', ...args);
    t.not(ran.code, 0, args.join(' '));
    t.match(ran.err, said, args.join(' '));
  }
  const [d] = r.memory.peekAll(kinds.disk.prefix);
  if (d === undefined) throw new Error('there is no disk');
  r.memory.poke(d.key, JSON.stringify({ ...(JSON.parse(d.value) as object), state: 'wanted' }));
  const early = await l.run('vapp', 'clone', 'shop', 'second');
  t.match(early.err, /No snapshot is taken of VM ".*": its disk root is not ready/);
  r.memory.poke(d.key, d.value);
  await r.view.ledger.refresh();
  t.equal(vappOf('second'), undefined);
});

await t.test(
  'a clone is asked for: its record and operation are written at once, secrets are in neither',
  async (t) => {
    const values = path.join(dir, 'values.yaml');
    await writeFile(values, 'password: another-secret\n');
    const ran = await l.run(
      ...['--json', 'vapp', 'clone', 'shop', 'second', '--linked', '--start'],
      ...['--set', 'port=9090', '--values', values, '--no-wait'],
    );
    t.equal(ran.code, 0, ran.err);
    const said = JSON.parse(ran.out) as VappApplied;
    t.match(said.op, { kind: 'vapp.clone', state: 'queued', args: { phase: 'snapshot', start: true } });
    const v = vappOf('second');
    t.match(v, { owner: '', generation: 1 });
    t.equal(v?.properties.find((p) => p.name === 'port')?.value, 9090);
    t.same(
      v?.members.map((m) => [m.from?.vm, m.from?.linked, m.from?.keep]),
      of.members.map((m) => [m.vm, true, false]),
    );
    t.ok(v?.members.every((m) => of.members.every((o) => o.vm !== m.vm)));
    const holders = r.memory.peekAll('/flotilla/').filter((e) => /another-secret|hunter2/.test(e.value));
    t.same(
      holders.map((e) => e.key.split('/')[2]),
      ['vapp-secret', 'vapp-secret'],
    );
    t.notMatch(ran.out + ran.err, /another-secret|hunter2/);
    t.notMatch(JSON.stringify((await r.call('GET', '/api/v1/vapps/second')).body), /"from"|"make"/);
    const twice = await l.run('vapp', 'clone', 'second', 'third');
    t.match(twice.err, /vapp\.clone of vApp "second" is not finished/);
  },
);

await t.test('asked again with its key it is the same one', async (t) => {
  const headers = { 'idempotency-key': 'clone-again' };
  const body = { name: 'fourth' };
  const first = await r.call('POST', '/api/v1/vapps/shop/clones', body, headers);
  t.equal(first.status, 202, JSON.stringify(first.body));
  const again = await r.call('POST', '/api/v1/vapps/shop/clones', body, headers);
  t.same((again.body as VappApplied).op?.id, (first.body as VappApplied).op?.id);
  t.equal(records<Vapp>(kinds.vapp.prefix).filter((v) => v.name === 'fourth').length, 1);
});
