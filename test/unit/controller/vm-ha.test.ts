import t from 'tap';
import type { Problem, VmRow, VmView } from '../../../core/wire/rest.js';
import { armed, haRig, lost, made, vmOf } from './ha-rig.js';
import { callApp, GiB } from './rig.js';

const disks = [{ name: 'root', sizeBytes: GiB, pool: 'shared' }];

void t.test('HA of a VM is asked for, merged, and ordered by names', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const db = await made(r, { name: 'db', disks, ha: { enabled: true, priority: 90 } });
  t.same(db.spec.ha, { enabled: true, priority: 90, after: [], onHang: 'nothing', restartsPerHourMax: 5 });
  await made(r, { name: 'web', disks, ha: { enabled: true, after: ['DB', db.id] } });
  const web = await vmOf(r, 'web');
  t.same(web.spec.ha.after, [db.id], 'named twice, kept once');
  t.same(web.afterNames, ['db']);
  await r.call('PATCH', '/api/v1/vms/web', { ha: { onHang: 'reset', restartsPerHourMax: 2 } });
  t.match((await vmOf(r, 'web')).spec.ha, { enabled: true, after: [db.id], onHang: 'reset' });
  await r.call('PATCH', '/api/v1/vms/web', { ha: { after: [] } });
  t.match(await vmOf(r, 'web'), { spec: { ha: { after: [], enabled: true } }, afterNames: [] });
});

void t.test('a ring is refused with its way named, whoever closes it', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  for (const name of ['a', 'b', 'c']) await made(r, { name, disks });
  const after = (vm: string, ...names: string[]) =>
    r.call('PATCH', `/api/v1/vms/${vm}`, { ha: { after: names } });
  t.equal((await after('a', 'b')).status, 202);
  t.equal((await after('b', 'c')).status, 202);
  t.match(await after('c', 'a'), {
    status: 400,
    body: {
      code: 'bad-input',
      message: 'The order has no beginning: VM "c" comes after "a" comes after "b" comes after VM "c"',
    },
  });
  t.match(await after('c', 'c'), { status: 400, body: { code: 'bad-input', message: /itself/ } });
  t.match(await after('c', 'nope'), { status: 404, body: { code: 'not-found' } });
  for (let i = 0; i < 34; i++)
    await made(r, { name: `s${i}`, ...(i === 0 ? {} : { ha: { after: [`s${i - 1}`] } }) }).catch(
      (e: unknown) => {
        t.match(String(e), /More than 32 VMs would have to run before/);
        t.equal(i, 33, 'the way back is bounded');
      },
    );
  // Two controllers at the same moment, each of which sees no ring.
  t.equal((await after('b')).status, 202);
  const two = r.second();
  await two.view.ledger.refresh();
  await made(r, { name: 'x', disks });
  await made(r, { name: 'y', disks });
  const [one, other] = await Promise.all([
    after('x', 'y'),
    callApp(two.app, r.token, 'PATCH', '/api/v1/vms/y', { ha: { after: ['x'] } }),
  ]);
  t.same([one.status, other.status].sort(), [202, 400], 'one of both closes the ring, and is refused');
});

void t.test('HA with disks that only one node reaches is refused, and says which', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const local = { name: 'data', sizeBytes: GiB, pool: 'local' };
  const refused = await r.call('POST', '/api/v1/vms', {
    name: 'v',
    disks: [...disks, local],
    ha: { enabled: true },
  });
  t.match(refused, {
    status: 422,
    body: { code: 'unsupported', message: /"data" \(pool "local"\)/, hint: /shared pool/ },
  });
  t.notMatch((refused.body as Problem).message, /root/, 'only those that are in the way');
  await made(r, { name: 'v', disks: [...disks, local] });
  t.match(await r.call('PATCH', '/api/v1/vms/v', { ha: { enabled: true } }), {
    status: 422,
    body: { code: 'unsupported', details: { disks: [{ disk: 'data', pool: 'local' }] } },
  });
  t.equal((await r.call('PATCH', '/api/v1/vms/v', { ha: { priority: 3 } })).status, 202);
  const moved = await r.call('PATCH', '/api/v1/vms/v', { removeDisks: ['data'], ha: { enabled: true } });
  t.equal(moved.status, 202, 'the way out');
  t.match(await r.call('PATCH', '/api/v1/vms/v', { addDisks: [{ ...local, name: 'more' }] }), {
    status: 422,
    body: { code: 'unsupported' },
  });
  t.match(
    await r.call('PATCH', '/api/v1/vms/v', {
      addDisks: [{ ...local, name: 'more' }],
      ha: { enabled: false },
    }),
    {
      status: 202,
    },
  );
});

void t.test('hostile and wrong HA is refused, and changes nothing', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'v', disks });
  const before = r.memory.revision;
  const cases: [string, unknown, string][] = [
    ['an unknown field', { enable: true }, 'unknown-field'],
    ['a word for a switch', { enabled: 'yes' }, 'bad-input'],
    ['a priority above all', { priority: 101 }, 'bad-input'],
    ['half a priority', { priority: 0.5 }, 'bad-input'],
    ['endless restarts', { restartsPerHourMax: 1e9 }, 'bad-input'],
    ['another act on a hang', { onHang: 'rm -rf /' }, 'bad-input'],
    ['seventeen before it', { after: Array.from({ length: 17 }, () => 'v') }, 'bad-input'],
    ['a path for a name', { after: ['../../etc'] }, 'bad-input'],
    ['a prototype for a name', { after: ['__proto__'] }, 'not-found'],
    ['a list for all of it', [], 'bad-input'],
  ];
  for (const [what, ha, code] of cases)
    t.match((await r.call('PATCH', '/api/v1/vms/v', { ha })).body, { code }, what);
  t.equal(r.memory.revision, before);
});

void t.test('how a VM stands: its owner’s word, and without it what the ledger tells', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'off', disks, node: 'n1' });
  t.match((await vmOf(r, 'off')).ha, { state: 'off' });
  for (const name of ['safe', 'bare']) await made(r, { name, disks, node: 'n1', ha: { enabled: true } });
  t.match((await vmOf(r, 'safe')).ha, { state: 'unprotected', text: 'n1 has not taken it up yet' });
  t.match((await armed(r, 'safe', 'n2')).ha, { state: 'protected', standby: 'n2', text: '' });
  const why = { state: 'unprotected', text: 'not protected: no node has the memory', standby: null } as const;
  const bare = await vmOf(r, 'bare');
  const line = r.radio.nodes.get('n1')?.vms.get(bare.id);
  if (line !== undefined) r.radio.nodes.get('n1')?.vms.set(bare.id, { ...line, phase: 'running', ha: why });
  r.memory.poke(`/flotilla/vm/${bare.id}/own`, JSON.stringify({ ...bare.own, state: 'running' }));
  await r.view.ledger.refresh();
  r.radio.news();
  t.match((await vmOf(r, 'bare')).ha, why);
  await lost(r, 'n1');
  t.match((await vmOf(r, 'safe')).ha, {
    state: 'protected',
    text: /n1 has lost its lease; its standby n2 takes it over/,
  });
  t.match((await vmOf(r, 'bare')).ha, { state: 'unprotected', text: /flotilla node confirm-off n1/ });
  const idle = await vmOf(r, 'safe');
  const off = { ...idle.own, state: 'stopped', fence: { armed: false, waitMs: 0 } };
  r.memory.poke(`/flotilla/vm/${idle.id}/own`, JSON.stringify(off));
  await r.view.ledger.refresh();
  t.match((await vmOf(r, 'safe')).ha, {
    state: 'protected',
    text: /lost its lease; it is off; its standby n2/,
  });
  const rows = ((await r.call('GET', '/api/v1/vms')).body as { items: VmRow[] }).items;
  t.match(rows.find((v) => v.name === 'bare')?.ha.text, /was not armed/, 'lists say it, too');
  const fields = (await r.call('GET', '/api/v1/vms?fields=name,ha,afterNames')).body as { items: VmView[] };
  t.same(Object.keys(fields.items[0] ?? {}), ['name', 'ha', 'afterNames']);
});

void t.test('what a lost owner said last is no news, neither while it is suspected nor after', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const { id } = await made(r, { name: 'v', disks, node: 'n1', ha: { enabled: true } });
  const { own } = await armed(r, 'v', 'n2');
  await lost(r, 'n1');
  const n1 = r.radio.nodes.get('n1');
  if (n1 === undefined) throw new Error('no n1');
  n1.silentMs = 6_000;
  r.radio.news();
  r.view.fold();
  t.match(await vmOf(r, 'v'), {
    presence: 'suspect',
    ha: { text: /lost its lease; its standby n2 takes it over/ },
  });
  r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify({ ...own, owner: 'n2', standby: 'n3' }));
  await r.view.ledger.refresh();
  t.match(
    (await vmOf(r, 'v')).problems,
    [/n1 says it is running there/],
    'it may still run: nobody knows yet',
  );
  n1.silentMs = 60_000;
  r.radio.news();
  r.view.fold();
  t.same((await vmOf(r, 'v')).problems, []);
});
