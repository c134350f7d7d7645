import t from 'tap';
import type { ClusterView, HaView, PolicyView } from '../../../core/wire/rest.js';
import { armed, haRig, keeper, lost, made } from './ha-rig.js';
import { GiB, type Rig } from './rig.js';

const disks = [{ name: 'root', sizeBytes: GiB, pool: 'shared' }];

const timeline = {
  from: 'n1',
  to: 'n2',
  fence: 'waited',
  atMs: Date.UTC(2026, 10, 23),
  phasesMs: { 'last-beat': 0, 'lease-gone': 2100, 'wait-over': 9200, owned: 9300, running: 11_900 },
};

async function failedOver(r: Rig, vm: { id: string; name: string }, args: unknown = timeline): Promise<void> {
  const id = '00000000-0000-4000-8000-0000000000f1';
  const op = {
    id,
    kind: 'vm.failover',
    subject: { kind: 'vm', id: vm.id, name: vm.name },
    node: 'n2',
    askedBy: 'n2',
    args,
    state: 'done',
    step: 'runs',
    progress: 1,
    cancelAsked: false,
    createdMs: Date.now() + 5,
    updatedMs: Date.now() + 5,
    error: null,
  };
  r.memory.poke(`/flotilla/op/${id}`, JSON.stringify(op));
  await r.view.ledger.refresh('op');
}

void t.test('the policy: read, changed in parts, held to what its author saw', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'a', disks, node: 'n1', ha: { enabled: true } });
  await made(r, { name: 'b', disks, node: 'n1', ha: { enabled: true } });
  await armed(r, 'a', 'n2');
  const get = await r.call('GET', '/api/v1/policy');
  t.match(get, { status: 200, body: { ha: { paused: false, hold: false }, wanted: 2, armed: 1 } });
  const tag = get.headers.get('etag') ?? '';
  const patch = (ha: object, ifMatch?: string) =>
    r.call('PATCH', '/api/v1/policy', { ha }, ifMatch === undefined ? {} : { 'if-match': ifMatch });
  const paused = await patch({ paused: true }, tag);
  t.match(paused, { status: 200, body: { ha: { paused: true, hold: false, unsafeWithoutWatchdog: false } } });
  t.match(await patch({ hold: true }, tag), { status: 409, body: { code: 'edit-conflict' } });
  t.match(await patch({ hold: true }, paused.headers.get('etag') ?? ''), {
    body: { ha: { paused: true, hold: true } },
  });
  t.match((await r.call('GET', '/api/v1/vms/b')).body, { ha: { state: 'paused', text: /whole cluster/ } });
  const both = await Promise.all([patch({ paused: false }), patch({ unsafeWithoutWatchdog: true })]);
  t.same(
    both.map((x) => x.status),
    [200, 200],
  );
  t.match((await r.call('GET', '/api/v1/policy')).body, {
    ha: { paused: false, hold: true, unsafeWithoutWatchdog: true },
  });
  const before = r.memory.revision;
  const cases: [string, unknown, string][] = [
    ['nothing', { ha: {} }, 'bad-input'],
    ['an unknown switch', { ha: { paused: true, off: true } }, 'unknown-field'],
    ['an unknown part', { ha: { paused: true }, fences: [] }, 'unknown-field'],
    ['a word', { ha: { paused: 'true' } }, 'bad-input'],
    ['null', null, 'bad-input'],
  ];
  for (const [what, body, code] of cases)
    t.match((await r.call('PATCH', '/api/v1/policy', body)).body, { code }, what);
  t.equal(r.memory.revision, before);
});

void t.test('a policy that cannot be read holds failovers, and is named', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  r.memory.poke('/flotilla/policy', '{"ha":{"paused":"perhaps"}}');
  await r.view.ledger.refresh();
  const c = (await r.call('GET', '/api/v1/cluster')).body as ClusterView;
  t.match(c.unreadable, [{ key: '/flotilla/policy' }]);
  t.match((await r.call('GET', '/api/v1/ha')).body, { policy: { ha: { hold: true, paused: false } } });
  t.match(await r.call('GET', '/api/v1/policy'), { status: 500, body: { code: 'unreadable-record' } });
  t.match(await r.call('PATCH', '/api/v1/policy', { ha: { hold: false } }), { status: 500 });
});

void t.test('a standby that has promised more memory than it has is told, and what would help', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const look = async () => (await r.call('GET', '/api/v1/ha')).body as HaView;
  for (const [name, node] of [
    ['web', 'n1'],
    ['db', 'n1'],
    ['mail', 'n3'],
  ] as const) {
    await made(r, { name, disks, node, memoryMiB: 4096, ha: { enabled: true } });
    await armed(r, name, 'n2');
  }
  t.same((await look()).shortfalls, [], 'n2 has room for what either of the others runs');
  const n2 = r.radio.nodes.get('n2');
  if (n2 !== undefined) n2.state = { ...n2.state, memoryBytes: 6 * GiB };
  r.radio.news();
  const [first, ...more] = (await look()).shortfalls;
  t.same(more, [], 'mail by itself still fits');
  t.match(first, { fails: 'n1', node: 'n2', needsMiB: 8320, vms: ['web'] });
  t.match(first?.text, /^if n1 fails, n2 has 5530 MiB for the 8320 MiB it promised; web would stay off$/);
  t.match(first?.help, /^n3 could stand by for web instead/);
  await made(r, { name: 'local', disks, node: 'n2', memoryMiB: 2048 });
  t.equal((await look()).shortfalls.length, 2, 'a VM without standby takes of the same memory');
});

void t.test('HA at a glance: protected, bare, waiting, failed over', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const look = async () => (await r.call('GET', '/api/v1/ha')).body as HaView;
  t.match(await look(), { sentence: /No VM has HA/, nodes: [{ node: 'n1', live: true }] });
  const safe = await made(r, { name: 'safe', disks, node: 'n1', ha: { enabled: true } });
  await armed(r, 'safe', 'n2');
  t.match(await look(), { sentence: 'The only VM with HA is protected.', unprotected: [] });
  await made(r, { name: 'bare', disks, node: 'n3', ha: { enabled: true } });
  await armed(r, 'bare', 'n2', { state: 'unprotected', text: 'not protected: no watchdog', standby: null });
  t.match(await look(), {
    sentence: '1 of 2 VMs with HA is protected; not "bare".',
    unprotected: [{ name: 'bare', node: 'n3', text: 'no watchdog' }],
    waiting: [],
  });
  await failedOver(r, safe);
  const n2 = r.radio.nodes.get('n2');
  if (n2 !== undefined)
    n2.state = {
      ...n2.state,
      keeper: keeper({ armable: false, why: 'there is no watchdog', watchdog: 'none' }),
      health: [{ part: 'failover', ok: false, text: 'VM "safe": needs 512 MiB' }],
    };
  const n3 = r.radio.nodes.get('n3');
  const held = [
    { vm: safe.id, why: 'frozen' },
    { vm: '00000000-0000-4000-8000-00000000dead', why: 'killed' },
  ];
  if (n3 !== undefined) n3.state = { ...n3.state, keeper: keeper({ mode: 'ice', held }) };
  await lost(r, 'n1');
  await r.call('PATCH', '/api/v1/policy', { ha: { hold: true } });
  const h = await look();
  t.match(h.waiting, [{ name: 'safe', node: 'n1', standby: 'n2', text: /held until flotilla ha release/ }]);
  t.match(h.nodes, [
    { node: 'n1', live: false, keeper: null },
    { node: 'n2', live: true, keeper: { armable: false }, failover: 'VM "safe": needs 512 MiB' },
    {
      node: 'n3',
      live: true,
      keeper: { mode: 'ice', held: [{ name: 'safe', why: 'frozen' }, { name: null }] },
    },
  ]);
  t.match(h.failovers, [{ name: 'safe', totalMs: 11_900, timeline: { from: 'n1', to: 'n2' } }]);
  const c = (await r.call('GET', '/api/v1/cluster')).body as ClusterView;
  const concerns = c.concerns.map((x) => `${x.level} ${x.subject}: ${x.text}`).join('\n');
  t.match(concerns, /error VM safe: waits: its owner n1 has lost its lease/);
  t.match(concerns, /warning VM bare: is not protected: no watchdog/);
  t.match(concerns, /warning HA: failovers are held/);
  await failedOver(r, safe, { from: 'n1', phases: '<script>' });
  t.match((await look()).failovers, [{ timeline: null, totalMs: null }], 'an unknown form is said to be one');
});

void t.test('another controller hears of a change of the policy by itself', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const { view } = r.second();
  await view.ledger.refresh();
  const changed = (await r.call('PATCH', '/api/v1/policy', { ha: { paused: true } })).body as PolicyView;
  t.equal(changed.ha.paused, true);
  const endMs = Date.now() + 4_000;
  while (!view.ledger.policy.ha.paused && Date.now() < endMs) await new Promise((go) => setImmediate(go));
  t.equal(view.ledger.policy.ha.paused, true, 'rung, not only re-read after 5 s');
});
