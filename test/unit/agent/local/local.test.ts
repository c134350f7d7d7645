import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { Hono } from 'hono';
import type { AuthEnv, Identity } from '../../../../agent/http/auth.js';
import { problemResponse } from '../../../../agent/http/problem.js';
import { actsHere, localApp } from '../../../../agent/local/app.js';
import { HoldFile } from '../../../../agent/local/holds.js';
import { statusPage } from '../../../../agent/status/page.js';
import type { Role } from '../../../../core/domain/user.js';
import { runningVm, sampleHeard, sampleView, sampleVms } from '../status/samples.js';

const file = path.join(t.testdir({}), 'holds.json');
const vm = '00000000-0000-4000-8000-000000000001';
const holds = new HoldFile(file);
const audit: Record<string, unknown>[] = [];
let woken = 0;
const app = localApp({
  node: 'n1',
  holds,
  isHere: (id) => id === vm,
  wake: () => (woken += 1),
  clock: { wallMs: () => 1_000 },
  log: { info: () => undefined, warn: (_, f) => void audit.push(f ?? {}), error: () => undefined },
});
const token = (role: Role, byCookie = true): Identity => ({
  kind: 'token',
  id: 'abcd1234',
  name: 'anna',
  byCookie,
  rights: { role, operates: [], operatesTags: [], operatesVapps: [], user: null, session: true },
});
function as(who: Identity | null) {
  const all = new Hono<AuthEnv>();
  all.onError((e) => problemResponse(e));
  all.use(async (c, next) => {
    c.set('identity', who);
    await next();
  });
  all.route('/local', app);
  return (at: string, form?: Record<string, string>, site = 'same-origin') =>
    all.request(
      `/local/${at}`,
      form === undefined
        ? {}
        : {
            method: 'POST',
            body: new URLSearchParams(form),
            headers: { 'content-type': 'application/x-www-form-urlencoded', 'sec-fetch-site': site },
          },
      { incoming: { socket: { remoteAddress: '10.0.0.9' } } },
    );
}

await t.test('only admins, only from this page, only what was confirmed and is here', async (t) => {
  const sure = { vm, sure: 'yes' };
  for (const who of [
    null,
    token('viewer'),
    token('operator'),
    { kind: 'node', node: 'n2', fingerprint: 'x' },
  ] as const) {
    t.equal((await as(who)('hold', sure)).status, 403);
    t.equal((await as(who)('logs/flotilla-agent')).status, 403);
    t.equal(actsHere(who), false);
  }
  const anna = as(token('admin'));
  t.equal((await anna('hold', sure, 'cross-site')).status, 403);
  t.equal((await anna('hold', sure, 'same-site')).status, 403);
  t.equal((await anna('hold', { vm })).status, 400, 'not confirmed');
  t.equal((await anna('hold', { vm: '../x', sure: 'yes' })).status, 400);
  t.equal((await anna('hold', { vm: vm.replace(/1$/, '2'), sure: 'yes' })).status, 404);
  t.equal((await anna('logs/..%2f..%2fetc%2fshadow')).status, 404);
  t.equal(holds.all().size, 0);
  t.equal(woken, 0);
});

await t.test('a VM is held and let go; another process sees it, and its words come here', async (t) => {
  const anna = as(token('admin'));
  t.equal((await anna('hold', { vm, sure: 'yes' })).status, 303);
  t.same([...holds.all()], [[vm, { by: 'anna', atMs: 1_000 }]]);
  t.match(audit.at(-1), { who: 'anna', what: 'hold', on: vm, result: 'done' });
  const root = new HoldFile(file);
  await root.look();
  t.equal(root.all().get(vm)?.by, 'anna');
  await root.release(vm);
  await holds.look();
  t.equal(holds.all().size, 0);
  await root.hold(vm, { by: 'root at the console', atMs: 2 });
  await holds.look();
  t.equal((await anna('release', { vm })).status, 303);
  t.equal(await readFile(file, 'utf8'), '[]');
  t.equal(woken, 2);
});

await t.test('a file that cannot be read leaves all as it was', async (t) => {
  await holds.hold(vm, { by: 'anna', atMs: 1 });
  await writeFile(file, 'rubbish');
  await t.rejects(holds.look());
  t.equal(holds.all().size, 1, 'nothing held starts for that');
});

await t.test('the page has the actions for whoever may, and stands still for them', async (t) => {
  const v = sampleView({ heard: [sampleHeard('n1', { vms: sampleVms(runningVm(1, { name: '<b>web' })) })] });
  const local = { holds: new Map([[vm, { by: '<i>anna', atMs: 1_000 }]]), accountsUntilMs: 2_000_000 };
  t.notMatch(await statusPage(v, { still: true }), /by-hand/);
  t.match(await statusPage(v, { still: false, local }), /href="\/\?still#by-hand"/);
  const page = await statusPage(v, { still: true, local });
  t.match(page, /action="\/local\/(hold|release)"/);
  t.match(page, 'flotilla-agent recover status');
  t.notMatch(page, /<b>web|<i>anna/);
});
