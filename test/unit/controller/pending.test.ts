import t from 'tap';
import { FlotillaError } from '../../../core/domain/error.js';
import { encodeBeacon } from '../../../core/wire/mdns.js';
import { NetworkPendingNodes } from '../../../controller/pending-nodes.js';
import { parseJoinToken } from '../../../agent/pki/tokens.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import { callApp } from './rig.js';

const fingerprint = 'c0ffee00'.repeat(8);
const machine = { name: 'node-77', address: '10.0.0.77', fingerprint, version: '0.1.0' };
const at = '/api/v1/pending/10.0.0.77';

void t.test('a machine that waits: listed, looked at, admitted with a token of its own', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  t.match(await r.call('GET', '/api/v1/pending'), { status: 200, body: { items: [] } });
  r.pending.machines.push(machine);
  t.same((await r.call('GET', '/api/v1/pending')).body, { items: [machine] });
  t.same((await r.call('GET', at)).body, machine);
  t.match(await r.call('GET', '/api/v1/pending/10.0.0.78'), { status: 503 });
  for (const bad of ['n1', '10.0.0.256', '::1', '10.0.0.1%2F..'])
    t.match(await r.call('GET', `/api/v1/pending/${bad}`), { status: 400 }, bad);
  t.match(await callApp(r.app, 'flt-api.aaaaaaaa.x', 'POST', `${at}/actions/admit`, { fingerprint }), {
    status: 403,
  });
  t.match(await r.call('POST', `${at}/actions/admit`, {}), { status: 400 });
  t.match(await r.call('POST', `${at}/actions/admit`, { fingerprint: '0'.repeat(64) }), {
    status: 403,
    body: { code: 'wrong-certificate' },
  });
  t.equal(r.pending.given.size, 0, 'no token for another key');
  const answer = await r.call('POST', `${at}/actions/admit`, { fingerprint });
  t.match(answer, { status: 200, body: { node: 'node-77' } });
  const token = parseJoinToken(r.pending.given.get('10.0.0.77') ?? '');
  t.notMatch(JSON.stringify(answer.body), token.secret);
  t.equal(r.memory.peek(`/flotilla/token/${token.id}`), null, 'the token does not outlive the admission');
});

void t.test('before the admission it is said what of the machine does not fit', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  const lan = { name: 'lan', bridge: 'fl0', uplink: 'eth9' };
  t.match(await r.call('POST', '/api/v1/networks', lan), { status: 201 });
  r.pending.machines.push({ ...machine, machine: { cpu: 'Xeon', cards: ['eth0'] } });
  const { body } = await r.call('GET', at);
  t.match(body, { fingerprint, notes: [/no card eth9, which the network "lan"/] });
  t.notMatch(body, { machine: {} });
  l.stdin('no\n', true);
  t.match(await l.run('node', 'admit', '10.0.0.77'), { code: 2, err: /no card eth9/ });
});

void t.test('a failed admission leaves no token', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  r.pending.machines.push(machine);
  r.pending.fails = new FlotillaError('name-taken', 'There is a node "node-77" already', { hint: 'Rename.' });
  const tokens = async () => ((await r.call('GET', '/api/v1/tokens')).body as { items: unknown[] }).items;
  const before = await tokens();
  t.match(await r.call('POST', `${at}/actions/admit`, { fingerprint }), { status: 409 });
  t.same(await tokens(), before);
});

void t.test('from the command line: the fingerprint is compared by somebody', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  t.match(await l.run('node', 'pending'), { code: 0, out: /No machine that waits is heard/ });
  l.r.pending.machines.push(machine);
  t.match(await l.run('node', 'pending'), { code: 0, out: /node-77 +10\.0\.0\.77/ });
  t.match(await l.run('node', 'admit', '10.0.0.77'), { code: 2, err: /--fingerprint c0ffee00/ });
  l.stdin('no\n', true);
  t.match(await l.run('node', 'admit', '10.0.0.77'), { code: 2, err: /Nothing was changed/ });
  t.equal(l.r.pending.given.size, 0);
  l.stdin('yes\n', true);
  t.match(await l.run('node', 'admit', '10.0.0.77'), {
    code: 0,
    err: /c0ff ee00/,
    out: 'node-77 is admitted.\n',
  });
  l.r.pending.given.clear();
  const typed = fingerprint.toUpperCase().replace(/(.{4})(?=.)/g, '$1 ');
  t.match(await l.run('node', 'admit', '10.0.0.77', '--fingerprint', typed), { code: 0 });
  t.equal(l.r.pending.given.size, 1);
});

void t.test('who was heard is forgotten after a while; a flood fills nothing', async (t) => {
  let nowMs = 0;
  const clock = { nowMs: () => nowMs, wallMs: () => 0, sleep: () => Promise.resolve() };
  const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };
  const nodes = new NetworkPendingNodes({ clock, log: silent, port: 7443 });
  const say = (n: number): void =>
    nodes.take(
      encodeBeacon({
        ...machine,
        name: `n${n}`,
        port: 7443,
        fingerprint: n.toString(16).padStart(64, '0'),
      }),
    );
  say(1);
  nodes.take(encodeBeacon({ ...machine, port: 443 }));
  t.match(nodes.heard(), [{ name: 'n1' }]);
  nowMs += 31_000;
  t.same(nodes.heard(), []);
  for (let n = 0; n < 1_000; n++) say(n);
  t.equal(nodes.heard().length, 256);
});
