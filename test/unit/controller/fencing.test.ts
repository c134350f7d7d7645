import t from 'tap';
import type { ConfirmedOff } from '../../../core/wire/rest.js';
import { armed, haRig, lost, made } from './ha-rig.js';
import { callApp, GiB } from './rig.js';

const secret = 'pa55-of-the-BMC';
const ipmi = { kind: 'ipmi', address: '10.0.9.1', user: 'flotilla', password: secret };
const at = '/api/v1/nodes/n2/bmc';

void t.test('a fencing device: set, shown without its secret, changed, forgotten', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const answers: string[] = [];
  const call = async (method: string, path: string, body?: unknown, headers?: Record<string, string>) => {
    const a = await r.call(method, path, body, headers);
    answers.push(JSON.stringify([a.body, ...a.headers]));
    return a;
  };
  t.match(await call('GET', at), { status: 200, body: null });
  const put = await call('PUT', at, ipmi);
  t.match(put, { status: 200, body: { kind: 'ipmi', address: '10.0.9.1', port: 623, cipher: 17 } });
  t.match(JSON.parse(r.memory.peek('/flotilla/bmc/n2')?.value ?? '{}'), { password: secret });
  const get = await call('GET', at);
  t.same(Object.keys(get.body).sort(), ['address', 'cipher', 'kind', 'port', 'privilege', 'user']);
  t.equal(get.headers.get('etag'), put.headers.get('etag'));
  const tag = get.headers.get('etag') ?? '';
  t.match(await call('PUT', at, { ...ipmi, user: 'other' }, { 'if-match': tag }), { status: 200 });
  t.match(await call('PUT', at, ipmi, { 'if-match': tag }), { status: 409, body: { code: 'edit-conflict' } });
  t.match(await call('DELETE', at, undefined, { 'if-match': tag }), { status: 409 });
  for (const path of ['nodes/n2', 'nodes', 'cluster', 'ha', 'policy', 'ops', 'openapi.json'])
    await call('GET', `/api/v1/${path}`);
  await call('GET', '/');
  t.equal((await call('DELETE', at)).status, 204);
  t.match(await call('DELETE', at), { status: 404 });
  t.equal(r.memory.peek('/flotilla/bmc/n2'), null);
  t.notMatch(answers.join('\n'), secret, 'no answer ever has the secret');
  t.match(await call('PUT', '/api/v1/nodes/n9/bmc', ipmi), { status: 404 });
});

void t.test('a try of a fencing device: asked for, answered by a node, gone with the device', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const key = '/flotilla/bmc-test/n2';
  t.match(await r.call('POST', `${at}/test`), { status: 404, body: { hint: /bmc set n2/ } });
  await r.call('PUT', at, ipmi);
  t.match(await r.call('GET', `${at}/test`), { status: 200, body: null });
  const asked = await r.call('POST', `${at}/test`);
  t.match(asked, { status: 202, body: { node: 'n2', result: null } });
  const kept = JSON.parse(r.memory.peek(key)?.value ?? '{}') as object;
  const text = 'it belongs to the machine x, and n2 is y: it is not used';
  const result = { by: 'n1', atMs: 1, power: 'on', machine: 'other', text };
  r.memory.poke(key, JSON.stringify({ ...kept, result }));
  t.match(await r.call('GET', `${at}/test`), { status: 200, body: { result } });
  await r.view.ledger.refresh();
  const node = await r.call('GET', '/api/v1/nodes/n2');
  t.match((node.body as { problems: string[] }).problems.join(), /its BMC is another machine's: .* not used/);
  await r.call('PUT', at, { ...ipmi, user: 'other' });
  t.equal(r.memory.peek(key), null, 'what was tried was another one');
});

void t.test('hostile devices are refused without repeating what they hold', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const before = r.memory.revision;
  const said: string[] = [];
  const cases: [string, unknown, string][] = [
    ['no kind', { ...ipmi, kind: undefined }, 'bad-input'],
    ['another kind', { ...ipmi, kind: 'telnet' }, 'bad-input'],
    ['an unknown field', { ...ipmi, action: 'reboot' }, 'unknown-field'],
    ['a newline in the password', { ...ipmi, password: `${secret}\naction=on` }, 'bad-input'],
    ['a password of 1 kB', { ...ipmi, password: secret.repeat(70) }, 'bad-input'],
    ['no password', { ...ipmi, password: '' }, 'bad-input'],
    ['an option for a user', { ...ipmi, user: '--action=on' }, 'bad-input'],
    ['a command for an address', { ...ipmi, address: '$(reboot)' }, 'bad-input'],
    ['a port beyond all', { ...ipmi, port: 70_000 }, 'bad-input'],
    ['a cipher that hides nothing', { ...ipmi, cipher: 0 }, 'bad-input'],
    ['a path out of Redfish', { ...ipmi, kind: 'redfish', systemUri: '/redfish/v1/../../etc' }, 'bad-input'],
    ['a list', [ipmi], 'bad-input'],
  ];
  for (const [what, body, code] of cases) {
    const a = await r.call('PUT', at, body);
    t.match(a.body, { code }, what);
    said.push(JSON.stringify(a.body));
  }
  t.notMatch(said.join('\n'), secret);
  t.equal(r.memory.revision, before);
});

void t.test('a broken record of a device can be replaced', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  r.memory.poke('/flotilla/bmc/n2', `{"kind":"ipmi","password":"${secret}"}`);
  const broken = await r.call('GET', at);
  t.match(broken, { status: 500, body: { code: 'unreadable-record' } });
  t.notMatch(JSON.stringify(broken.body), secret);
  t.equal((await r.call('PUT', at, ipmi)).status, 200);
  t.equal((await r.call('GET', at)).status, 200);
});

void t.test('nobody is believed about a node that is alive', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const off = (node: string) => r.call('POST', `/api/v1/nodes/${node}/actions/confirm-off`);
  r.memory.poke('/flotilla/seen/n1', '{"node":"n1","boot":"b"}');
  await made(r, {
    name: 'db',
    disks: [{ sizeBytes: GiB, pool: 'shared' }],
    node: 'n1',
    ha: { enabled: true },
  });
  await made(r, { name: 'plain', node: 'n1' });
  await armed(r, 'db', 'n2');
  t.match(await off('n1'), { status: 409, body: { code: 'wrong-state', message: /holds its lease/ } });
  await r.ledger.txn([], [{ del: '/flotilla/live/n1' }]);
  t.match(await off('n1'), {
    status: 409,
    body: { code: 'wrong-state', message: /heard just now on the radio/ },
  });
  t.equal(r.memory.peek('/flotilla/fenced/n1'), null);
  await lost(r, 'n1');
  const seen = r.memory.peek('/flotilla/seen/n1')?.modRevision;
  const yes = await off('n1');
  t.match(yes, { status: 200, body: { vms: [{ name: 'db', standby: 'n2' }] } });
  t.equal((yes.body as ConfirmedOff).vms.length, 1, 'only those with HA');
  t.match(JSON.parse(r.memory.peek('/flotilla/fenced/n1')?.value ?? '{}'), {
    node: 'n1',
    seenRevision: String(seen),
    how: 'person',
    by: 'admin',
  });
  t.match(await off('n9'), { status: 404 });
  t.match(await callApp(r.app, 'flt-api.aaaaaaaa.x', 'POST', '/api/v1/nodes/n1/actions/confirm-off'), {
    status: 403,
  });
});

void t.test('a node that comes back between reading and writing is not called off', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await lost(r, 'n1');
  r.memory.poke('/flotilla/seen/n1', '{"node":"n1","boot":"b"}');
  const txn = r.ledger.txn.bind(r.ledger);
  let back = 0;
  r.ledger.txn = async (compare, writes) => {
    if (back++ === 0) {
      // It made its live key, was seen, and lost it again.
      r.memory.poke('/flotilla/seen/n1', '{"node":"n1","boot":"c"}');
    }
    if (back === 2) r.memory.poke('/flotilla/live/n1', '{"node":"n1","boot":"c","version":"0"}');
    return txn(compare, writes);
  };
  const a = await r.call('POST', '/api/v1/nodes/n1/actions/confirm-off');
  t.match(a, { status: 409, body: { code: 'wrong-state', message: /holds its lease/ } });
  t.ok(back >= 2, 'planned anew each time');
  t.equal(r.memory.peek('/flotilla/fenced/n1'), null);
});
