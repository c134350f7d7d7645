import t from 'tap';
import type { Access } from '../../../core/wire/access.js';
import { mayAs } from '../../../core/domain/user.js';
import { made } from './ha-rig.js';
import { password, person, session } from './people.js';
import { callApp, rig } from './rig.js';

/**
 * Every route of the document, as everybody: a new route is in by itself. Requests are made so that they come to
 * nothing where they are let in (no such object, an empty body, an outdated tag).
 */
interface Route {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly access: Access;
}

const r = await rig();
t.teardown(() => r.stop());
const doc = (await r.call('GET', '/api/v1/openapi.json')).body as {
  paths: Record<string, Record<string, { operationId: string; 'x-flotilla-access': Access }>>;
};
const routes: Route[] = Object.entries(doc.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, o]) => ({
    name: o.operationId,
    method: method.toUpperCase(),
    path,
    access: o['x-flotilla-access'],
  })),
);
// What ends the session that asks comes last.
routes.sort((a, b) => Number(a.name === 'logout') - Number(b.name === 'logout'));
const namesWhere = (is: (x: Route) => boolean): string[] =>
  routes
    .filter(is)
    .map((x) => x.name)
    .sort();

await made(r, { name: 'web', node: 'n1' });
await made(r, { name: 'other', node: 'n2' });
await person(r, 'vera', 'viewer');
await person(r, 'olga', 'operator');
await person(r, 'wilma', 'viewer', ['web']);
await person(r, 'anna', 'admin');

async function ask(x: Route, token: string | null, vm = 'x'): Promise<{ status: number; code: string }> {
  const path = x.path.replaceAll('{vm}', vm).replaceAll(/\{.+?\}/g, 'x');
  const res = await r.app.request(
    `https://c${path}`,
    {
      method: x.method,
      headers: {
        'if-match': '"0"',
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(x.method === 'GET' ? {} : { 'content-type': 'application/json' }),
      },
      ...(x.method === 'GET' ? {} : { body: '{}' }),
    },
    { incoming: { socket: { remoteAddress: '10.0.0.9' } } },
  );
  if (res.headers.get('content-type')?.includes('event-stream') === true) {
    await res.body?.cancel();
    return { status: res.status, code: '' };
  }
  const text = await res.text();
  const body = (text === '' ? {} : JSON.parse(text)) as { code?: string };
  return { status: res.status, code: body.code ?? '' };
}

await t.test('each route says who may, and what viewers may beside looking is named here', (t) => {
  t.ok(routes.length > 50);
  for (const x of routes) t.ok(['open', 'self', 'viewer', 'operator', 'admin'].includes(x.access), x.name);
  t.same(
    namesWhere((x) => x.method !== 'GET' && !['operator', 'admin'].includes(x.access)),
    ['login', 'logout', 'mePassword', 'tokenCreate', 'tokenDelete', 'totpPut'],
  );
  t.same(
    namesWhere((x) => x.method === 'GET' && x.access === 'admin'),
    ['bmcGet', 'notifyGet', 'signOnGet', 'userGet', 'userList'],
  );
  t.same(
    namesWhere((x) => x.access === 'open'),
    ['login'],
  );
  t.end();
});

await t.test('without a session, and with a token of another cluster, nothing', async (t) => {
  const before = r.memory.revision;
  const flipped = `${r.token.slice(0, -1)}${r.token.endsWith('A') ? 'B' : 'A'}`;
  for (const x of routes) {
    const none = await ask(x, null);
    t.equal(none.status, x.access === 'open' ? 400 : 401, `${x.name} without`);
    for (const token of [`flt-api.aaaaaaaa.${'A'.repeat(43)}`, flipped, 'x'])
      t.match(await ask(x, token), { status: 403, code: 'token-unknown' }, `${x.name} with a foreign token`);
  }
  t.equal(r.memory.revision, before);
  const health = await r.app.request('https://c/healthz', {}, { incoming: { socket: {} } });
  t.same(Object.keys((await health.json()) as object), ['ok', 'part', 'version', 'fingerprint']);
  const page = await r.app.request('https://c/', {}, { incoming: { socket: {} } });
  t.equal(page.headers.get('location'), '/login');
});

for (const [user, role] of [
  ['vera', 'viewer'],
  ['olga', 'operator'],
  ['anna', 'admin'],
] as const) {
  await t.test(`as ${role}: by session and by token`, async (t) => {
    const mine = await session(r, user);
    const scoped = await callApp(r.app, mine, 'POST', '/api/v1/tokens', { name: `of ${user}`, kind: 'api' });
    for (const token of [(scoped.body as { token: string }).token, mine]) {
      for (const x of routes) {
        const may = x.access === 'open' || x.access === 'self' || mayAs(role, x.access);
        const before = r.memory.revision;
        const a = await ask(x, token);
        // Tokens have no password to change: refused for that, not for the role.
        const own = x.access === 'self' && a.code === 'forbidden';
        if (may) t.ok(own || ![401, 403].includes(a.status), `${x.name}: ${a.status} ${a.code}`);
        else {
          t.match(a, { status: 403, code: 'forbidden' }, x.name);
          t.equal(r.memory.revision, before, `${x.name} wrote nothing`);
        }
        t.ok(a.status < 500, `${x.name}: ${a.status} ${a.code}`);
      }
    }
    t.equal((await callApp(r.app, mine, 'GET', '/api/v1/me')).status, 403, 'after the logout it is over');
  });
}

await t.test('who operates one VM does so there only', async (t) => {
  const token = await session(r, 'wilma');
  for (const x of routes.filter((y) => y.path.includes('{vm}') && y.access === 'operator')) {
    t.not((await ask(x, token, 'web')).status, 403, `${x.name} of her own`);
    t.match(await ask(x, token, 'other'), { status: 403, code: 'forbidden' }, `${x.name} of another`);
  }
  const others = routes.filter((y) => !y.path.includes('{vm}') && ['operator', 'admin'].includes(y.access));
  for (const x of others) t.match(await ask(x, token), { status: 403, code: 'forbidden' }, x.name);
  t.equal((await r.call('GET', '/api/v1/vms/web')).status, 200);
});

await t.test('who operates a tag does so on its VMs, as long as they have it', async (t) => {
  const at = '/api/v1/vms/tagged';
  await r.call('POST', '/api/v1/vms', { name: 'tagged', tags: ['team-a'], node: 'n1' });
  const made = { name: 'tara', role: 'viewer', password: password('tara'), operatesTags: ['team-b'] };
  t.match(await r.call('POST', '/api/v1/users', made), { status: 201, body: { operatesTags: ['team-b'] } });
  t.match(await r.call('PATCH', '/api/v1/users/tara', { operatesTags: ['team-a'] }), { status: 200 });
  const token = await session(r, 'tara');
  const edit = (vm: string) => callApp(r.app, token, 'PATCH', vm, { note: 'x' });
  t.equal((await edit(at)).status, 202);
  t.equal((await edit('/api/v1/vms/other')).status, 403);
  t.equal(
    (await callApp(r.app, token, 'POST', '/api/v1/vms', { name: 'new', tags: ['team-a'] })).status,
    403,
  );
  await r.call('PATCH', at, { tags: ['team-c'] });
  t.equal((await edit(at)).status, 403);
});

await t.test(
  'who operates or owns a vApp does so on it and on all that is in it, and on nothing else',
  async (t) => {
    await r.call('POST', '/api/v1/pools', { name: 'shared', kind: 'shared', path: '/mnt/shared' });
    const doc = (name: string, more: object = {}) => ({
      document: { kind: 'VApp', name, owner: 'otto', members: { db: { vm: { memory: '64M' } } }, ...more },
    });
    const apply = (token: string, body: object) => callApp(r.app, token, 'POST', '/api/v1/vapps', body);
    t.equal((await r.call('POST', '/api/v1/vapps', doc('crew'))).status, 202);
    t.equal((await r.call('POST', '/api/v1/vapps', doc('strange', { owner: '' }))).status, 202);
    const id = r.view.find('vapp', 'crew') ?? '';
    const vm = await made(r, { name: 'crew-db', memoryMiB: 64 });
    const spec = { ...vm.spec, vapp: { id, member: 'db' } };
    const vapp = r.view.ledger.tables.vapp.get(id)?.value;
    const member = { ...vapp?.members[0], vm: vm.id, make: null };
    r.memory.poke(`/flotilla/vm/${vm.id}/spec`, JSON.stringify(spec));
    r.memory.poke(`/flotilla/vapp/${id}`, JSON.stringify({ ...vapp, members: [member] }));
    for (const e of r.memory.peekAll('/flotilla/op/'))
      r.memory.poke(e.key, JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'done' }));
    await r.view.ledger.refresh();
    await person(r, 'otto', 'viewer');
    await person(r, 'vito', 'viewer');
    const vito = await session(r, 'vito');
    const act = (token: string, name: string) =>
      callApp(r.app, token, 'POST', `/api/v1/vapps/${name}/actions/start`, {});
    t.equal((await act(vito, 'crew')).status, 403, 'he looks only');
    t.equal((await apply(vito, doc('crew'))).status, 403);
    t.match(await r.call('PATCH', '/api/v1/users/vito', { operatesVapps: ['crew'] }), {
      status: 200,
      body: { operatesVapps: [id] },
    });
    for (const token of [vito, await session(r, 'otto')]) {
      const edit = (name: string) => callApp(r.app, token, 'PATCH', `/api/v1/vms/${name}`, { note: 'x' });
      t.match((await callApp(r.app, token, 'GET', '/api/v1/me')).body, {
        role: 'viewer',
        operatesVapps: [id],
      });
      t.equal((await edit('crew-db')).status, 202);
      t.equal((await edit('other')).status, 403);
      t.equal((await act(token, 'strange')).status, 403);
      t.match(await apply(token, doc('strange', { note: 'mine' })), {
        status: 403,
        body: { code: 'forbidden' },
      });
      t.match(await apply(token, doc('new')), { status: 403 }, 'nobody makes vApps by that');
      for (const more of [
        { owner: 'vito' },
        { memoryAllocation: { limit: 1e6 } },
        { networks: { out: { network: 'lan' } } },
      ])
        t.match(
          (await apply(token, { ...doc('crew', more), dryRun: true })).status,
          /40[03]/,
          JSON.stringify(more),
        );
      t.match(await apply(token, { ...doc('crew', { note: 'ours' }), dryRun: true }), {
        status: 202,
        body: { changes: [{ path: ['note'] }] },
      });
      const started = await act(token, 'crew');
      t.equal(started.status, 202);
      const { op } = started.body as { op: { id: string } };
      t.equal((await callApp(r.app, token, 'POST', `/api/v1/ops/${op.id}/cancel`)).status, 202);
      r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify({ ...op, state: 'done' }));
      await r.view.ledger.refresh();
    }
    const scoped = await callApp(r.app, vito, 'POST', '/api/v1/tokens', {
      name: 'look',
      kind: 'api',
      role: 'viewer',
    });
    t.equal(
      (await act((scoped.body as { token: string }).token, 'crew')).status,
      403,
      'a token that may look',
    );
  },
);

await t.test('what was refused is in the audit, with who and from where', (t) => {
  t.ok(
    r.audit.some(
      (l) =>
        l['who'] === 'vera' &&
        l['what'] === 'vmCreate' &&
        l['from'] === '10.0.0.9' &&
        l['result'] === 'forbidden',
    ),
  );
  t.end();
});

await t.test('a vApp whose owner was deleted is nobody’s, also when a user of that name comes', async (t) => {
  const id = r.view.find('vapp', 'crew') ?? '';
  const ownerOf = (): unknown =>
    (JSON.parse(r.memory.peek(`/flotilla/vapp/${id}`)?.value ?? '{}') as { owner?: unknown }).owner;
  t.equal(ownerOf(), 'otto');
  t.equal((await r.call('DELETE', '/api/v1/users/otto')).status, 204);
  t.equal(ownerOf(), '');
  await person(r, 'otto', 'viewer');
  const token = await session(r, 'otto');
  t.match(await callApp(r.app, token, 'POST', '/api/v1/vapps/crew/actions/stop', {}), { status: 403 });
});
