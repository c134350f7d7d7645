import t from 'tap';
import type { OpView, VmRow, VmView } from '../../../core/wire/rest.js';
import { callApp, GiB, rig, type Rig } from './rig.js';

type Change = { op: OpView; vm: VmView };

async function opDone(r: Rig, id: string): Promise<OpView> {
  for (;;) {
    const { body } = await r.call('GET', `/api/v1/ops/${id}?waitS=5`);
    const op = body as OpView;
    if (op.state !== 'queued' && op.state !== 'running') return op;
  }
}

async function created(r: Rig, body: Record<string, unknown>): Promise<VmView> {
  const { status, body: answer } = await r.call('POST', '/api/v1/vms', body);
  if (status !== 202) throw new Error(`create: ${status} ${JSON.stringify(answer)}`);
  const { op, vm } = answer as Change;
  await opDone(r, op.id);
  return vm;
}

async function inPhase(r: Rig, name: string, phase: string): Promise<VmView> {
  for (let i = 0; i < 500; i++) {
    const { body } = await r.call('GET', `/api/v1/vms/${name}`);
    if ((body as VmView).phase === phase) return body;
    await new Promise((go) => setTimeout(go, 10));
  }
  throw new Error(`${name} never came to be ${phase}`);
}

void t.test('a VM lives: made, started, edited, stopped, deleted; nothing stays behind', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await r.call('POST', '/api/v1/networks', {
    name: 'lan',
    bridge: 'fl-lan',
    subnet: '10.1.0.0/24',
    gateway: '10.1.0.1',
    range: ['10.1.0.1', '10.1.0.9'],
  });
  const keysBefore = r.memory.peekAll('/flotilla/').map((e) => e.key);
  const vm = await created(r, {
    name: 'web',
    cpus: 2,
    memoryMiB: 512,
    disks: [{ sizeBytes: GiB }],
    nics: [{ network: 'LAN' }],
  });
  t.equal(vm.node, 'n1');
  t.equal(vm.spec.nics[0]?.address, '10.1.0.2', 'the gateway is not handed out');
  t.match(vm.spec.nics[0]?.mac, /^02:f1:/);
  t.equal(vm.disks[0]?.node, 'n1');
  await inPhase(r, 'web', 'stopped');

  const start = await r.call('POST', '/api/v1/vms/web/actions/start');
  t.equal(start.status, 202);
  const started = (start.body as Change).vm.spec;
  t.match(started, { power: 'running', generation: 2, powerGeneration: 2 });
  await inPhase(r, 'web', 'running');

  const edit = await r.call(
    'PATCH',
    '/api/v1/vms/web',
    {
      name: 'web2',
      addDisks: [{ name: 'data', sizeBytes: GiB + 1 }],
      growDisks: [{ disk: 'disk0', sizeBytes: 2 * GiB }],
    },
    { 'if-match': '"2"' },
  );
  t.equal(edit.status, 202);
  t.equal(edit.headers.get('etag'), '"3"');
  const edited = (edit.body as Change).vm;
  t.same(
    edited.disks.map((d) => [d.name, d.sizeBytes]).sort(),
    [
      ['data', GiB + 2 ** 20],
      ['disk0', 2 * GiB],
    ],
    'sizes are whole MiB',
  );
  await opDone(r, (edit.body as Change).op.id);
  t.equal((await r.call('GET', '/api/v1/vms/web')).status, 404, 'the old name is free');

  const refused = await r.call('DELETE', '/api/v1/vms/web2');
  t.match(refused, { status: 409, body: { code: 'wrong-state', hint: /force/ } });
  const stop = await r.call('POST', '/api/v1/vms/web2/actions/stop');
  await opDone(r, (stop.body as Change).op.id);
  const gone = await r.call('DELETE', '/api/v1/vms/web2');
  t.equal(gone.status, 202);
  await opDone(r, (gone.body as { op: OpView }).op.id);
  const left = r.memory.peekAll('/flotilla/').map((e) => e.key);
  t.same(
    left.filter((k) => !keysBefore.includes(k) && !k.startsWith('/flotilla/op/')),
    [],
    'no key stays behind',
  );
});

void t.test('a create that is sent twice makes one VM', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const body = { name: 'twin', disks: [{ sizeBytes: GiB }] };
  const key = { 'idempotency-key': 'k-12345678' };
  const [a, b] = await Promise.all([
    r.call('POST', '/api/v1/vms', body, key),
    r.call('POST', '/api/v1/vms', body, key),
  ]);
  t.equal(a.status, 202);
  t.equal(b.status, 202);
  t.equal((a.body as Change).op.id, (b.body as Change).op.id);
  t.equal((a.body as Change).vm.id, (b.body as Change).vm.id);
  const two = r.second();
  await two.view.ledger.refresh();
  const edit = { note: 'once' };
  const [c, d] = await Promise.all([
    r.call('PATCH', '/api/v1/vms/twin', edit, { 'idempotency-key': 'edit-1234' }),
    callApp(two.app, r.token, 'PATCH', '/api/v1/vms/twin', edit, { 'idempotency-key': 'edit-1234' }),
  ]);
  t.equal((c.body as Change).op.id, (d.body as Change).op.id, 'also at two controllers');
  const fresh = { name: 'fresh' };
  const [e, f] = await Promise.all([
    r.call('POST', '/api/v1/vms', fresh, { 'idempotency-key': 'create-1234' }),
    callApp(two.app, r.token, 'POST', '/api/v1/vms', fresh, { 'idempotency-key': 'create-1234' }),
  ]);
  t.same([e.status, f.status], [202, 202]);
  t.equal((e.body as Change).vm.id, (f.body as Change).vm.id);
  const other = await r.call('POST', '/api/v1/vms', { name: 'another' }, key);
  t.match(other, { status: 400, body: { code: 'bad-input', message: /another request/ } });
  await r.view.ledger.refresh();
  const list = await r.call('GET', '/api/v1/vms');
  t.equal((list.body as { total: number }).total, 2);
  t.match(await r.call('POST', '/api/v1/vms', body), { status: 409, body: { code: 'name-taken' } });
});

void t.test('two people who edit one VM: the second is told, nothing is lost', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const two = r.second();
  await two.view.ledger.refresh();
  const vm = await created(r, { name: 'shared' });
  const tag = { 'if-match': `"${vm.generation}"` };
  const edits = await Promise.all([
    r.call('PATCH', '/api/v1/vms/shared', { cpus: 2 }, tag),
    callApp(two.app, r.token, 'PATCH', '/api/v1/vms/shared', { memoryMiB: 2048 }, tag),
  ]);
  t.same(edits.map((e) => e.status).sort(), [202, 409]);
  const lost = edits.find((e) => e.status === 409);
  t.match(lost?.body, { code: 'edit-conflict', hint: /again/ });
  // Without a tag both edits of different fields hold, whoever comes first.
  await Promise.all([
    r.call('PATCH', '/api/v1/vms/shared', { note: 'one' }),
    callApp(two.app, r.token, 'PATCH', '/api/v1/vms/shared', { tags: ['two'] }),
  ]);
  const now = await r.call('GET', '/api/v1/vms/shared');
  await r.view.ledger.refresh();
  t.match((await r.call('GET', '/api/v1/vms/shared')).body, { spec: { note: 'one', tags: ['two'] } });
  t.equal(now.status, 200);
});

void t.test('names, MACs and addresses are given once, also by two controllers at once', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const two = r.second();
  await r.call('POST', '/api/v1/networks', {
    name: 'lan',
    bridge: 'lan0',
    subnet: '10.1.0.0/24',
    range: ['10.1.0.10', '10.1.0.13'],
  });
  await two.view.ledger.refresh();
  const make = (i: number) =>
    callApp(i % 2 === 0 ? r.app : two.app, r.token, 'POST', '/api/v1/vms', {
      name: `v${i}`,
      nics: [{ network: 'lan' }],
    });
  const made = await Promise.all([0, 1, 2, 3].map(make));
  t.same(
    made.map((m) => m.status),
    [202, 202, 202, 202],
  );
  const addresses = made.map((m) => (m.body as Change).vm.spec.nics[0]?.address).sort();
  t.same(addresses, ['10.1.0.10', '10.1.0.11', '10.1.0.12', '10.1.0.13']);
  t.match(await make(4), { status: 409, body: { code: 'no-address-left' } });
  const taken = { name: 'x', nics: [{ network: 'lan', address: '10.1.0.10' }] };
  t.match(await r.call('POST', '/api/v1/vms', taken), { status: 409, body: { code: 'address-taken' } });
  const mac = (made[0]?.body as unknown as Change).vm.spec.nics[0]?.mac;
  const sameMac = { name: 'y', nics: [{ network: 'lan', mac, address: null }] };
  t.match(await r.call('POST', '/api/v1/vms', sameMac), { status: 409, body: { code: 'address-taken' } });
  const same = await Promise.all([
    r.call('POST', '/api/v1/vms', { name: 'Same' }),
    callApp(two.app, r.token, 'POST', '/api/v1/vms', { name: 'sAME' }),
  ]);
  t.same(same.map((s) => s.status).sort(), [202, 409]);
});

void t.test('two controllers at once do not promise the same memory twice', async (t) => {
  const r = await rig(['n1', 'n2']);
  t.teardown(() => r.stop());
  const two = r.second();
  await two.view.ledger.refresh();
  const body = (name: string) => ({ name, memoryMiB: 4 * 1024 });
  const here = (name: string) => r.call('POST', '/api/v1/vms', body(name));
  const there = (name: string) => callApp(two.app, r.token, 'POST', '/api/v1/vms', body(name));
  const answers = await Promise.all(
    ['a', 'b', 'c', 'd', 'e'].flatMap((n) => [here(`${n}1`), there(`${n}2`)]),
  );
  const made = answers.filter((a) => a.status === 202).map((a) => (a.body as Change).vm.node);
  t.same(
    made.sort(),
    ['n1', 'n1', 'n1', 'n2', 'n2', 'n2'],
    '3 of 4 GiB fit into 16 GiB, with QEMU and reserve',
  );
  for (const a of answers.filter((x) => x.status !== 202))
    t.match(a, { status: 409, body: { code: 'no-node-fits' } });
});

void t.test('two controllers at once do not let two VMs of a node grow into the same memory', async (t) => {
  const r = await rig(['n1']);
  t.teardown(() => r.stop());
  for (const name of ['a', 'b']) await created(r, { name, memoryMiB: 4 * 1024 });
  const two = r.second();
  await two.view.ledger.refresh();
  const body = { memoryMiB: 9 * 1024 };
  const answers = await Promise.all([
    r.call('PATCH', '/api/v1/vms/a', body),
    callApp(two.app, r.token, 'PATCH', '/api/v1/vms/b', body),
  ]);
  t.same(answers.map((a) => a.status).sort(), [202, 409]);
});

void t.test('two creates at once do not promise the same memory twice', async (t) => {
  const r = await rig(['n1', 'n2']);
  t.teardown(() => r.stop());
  const big = (name: string) => r.call('POST', '/api/v1/vms', { name, memoryMiB: 10 * 1024 });
  const made = await Promise.all([big('a'), big('b'), big('c')]);
  const nodes = made.filter((m) => m.status === 202).map((m) => (m.body as Change).vm.node);
  t.same(nodes.sort(), ['n1', 'n2']);
  const no = made.find((m) => m.status !== 202);
  t.match(no, {
    status: 409,
    body: {
      code: 'no-node-fits',
      message: /n1: needs .* MiB .*n2: needs/,
      details: { nodes: [{ node: 'n1' }, {}] },
    },
  });
});

void t.test('what a silent owner does nobody knows, and the list says so', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const vm = await created(r, { name: 'lost', node: 'n2', power: 'running' });
  await inPhase(r, 'lost', 'running');
  const n2 = r.radio.nodes.get('n2');
  if (n2 !== undefined) n2.silentMs = 60_000;
  r.radio.news();
  const seen = await inPhase(r, 'lost', 'unknown');
  t.match(seen, { presence: 'silent', reason: /n2 is silent/, cpuPct: null });
  t.ok(seen.heardMs !== null, 'with the age of the last word');
  const del = await r.call('DELETE', `/api/v1/vms/${vm.id}`);
  t.match(del, { status: 409, body: { code: 'wrong-state', message: /silent/ } });
  const cluster = await r.call('GET', '/api/v1/cluster');
  t.match(cluster.body, { well: false, sentence: /2 of 3 nodes/ });
});

void t.test('lists: pages, filters, fields', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  for (const name of ['c', 'a', 'e', 'B', 'd'])
    await created(r, { name, memoryMiB: 64, tags: name < 'd' ? ['x'] : [] });
  const names: string[] = [];
  let after = '';
  do {
    const { body } = await r.call('GET', `/api/v1/vms?limit=2${after}`);
    const page = body as { items: VmRow[]; next: string | null; total: number };
    t.equal(page.total, names.length === 0 ? 5 : page.total);
    names.push(...page.items.map((v) => v.name));
    after = page.next === null ? '' : `&after=${encodeURIComponent(page.next)}`;
    // One that was listed goes away between the pages: no other is skipped.
    if (names.length === 2) {
      const del = await r.call('DELETE', '/api/v1/vms/B');
      await opDone(r, (del.body as { op: OpView }).op.id);
      await r.view.ledger.refresh();
    }
  } while (after !== '');
  t.same(names, ['a', 'B', 'c', 'd', 'e']);
  const some = await r.call('GET', '/api/v1/vms?tag=x&fields=name,spec&name=A');
  t.match(some.body, { total: 1, items: [{ name: 'a', spec: { memoryMiB: 64 } }] });
  t.match(await r.call('GET', '/api/v1/vms?fields=nonsense'), {
    status: 400,
    body: { code: 'unknown-field' },
  });
  t.match(await r.call('GET', '/api/v1/vms?after=%00'), { status: 400, body: { code: 'bad-input' } });
  t.match(await r.call('GET', '/api/v1/vms?limit=-1'), { status: 400 });
  t.match(await r.call('GET', '/api/v1/vms?wat=1'), { status: 400, body: { code: 'unknown-field' } });
});

void t.test('the ledger away: changes are refused as not done, reads say that they are old', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await created(r, { name: 'v' });
  r.memory.quorum = false;
  const create = await r.call('POST', '/api/v1/vms', { name: 'w' });
  t.match(create, { status: 503, body: { code: 'ledger-unavailable' } });
  await r.view.ledger.refresh().catch(() => undefined);
  const list = await r.call('GET', '/api/v1/vms');
  t.match(list, { status: 200, body: { ledger: 'stale', items: [{ name: 'v' }] } });
  t.match((await r.call('GET', '/api/v1/cluster')).body, { well: false, concerns: [{ subject: 'ledger' }] });
  r.memory.quorum = true;
  await r.view.ledger.refresh();
  t.match((await r.call('GET', '/api/v1/vms')).body, { ledger: 'ok' });
});

void t.test('an unreadable record is counted and shown, its VM is left alone', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const vm = await created(r, { name: 'v' });
  r.memory.poke(`/flotilla/vm/${vm.id}/own`, '{"owner":7}');
  await r.view.ledger.refresh();
  const cluster = await r.call('GET', '/api/v1/cluster');
  t.match(cluster.body, {
    well: false,
    counts: { unreadable: 1 },
    unreadable: [{ key: `/flotilla/vm/${vm.id}/own` }],
  });
  t.match((await r.call('GET', '/api/v1/vms/v')).body, { phase: 'unknown', own: null });
  t.match(await r.call('POST', '/api/v1/vms/v/actions/start'), {
    status: 500,
    body: { code: 'unreadable-record' },
  });
});

void t.test('a wrong action names what can be done now', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await created(r, { name: 'v' });
  t.match(await r.call('POST', '/api/v1/vms/v/actions/reboot'), {
    status: 409,
    body: { code: 'wrong-state', message: /is stopped/, hint: /start/ },
  });
  r.agents.stuck.add('vm.start');
  const a = await r.call('POST', '/api/v1/vms/v/actions/start');
  const b = await r.call('POST', '/api/v1/vms/v/actions/start');
  t.equal((a.body as Change).op.id, (b.body as Change).op.id, 'two who press the button follow one op');
  const cancel = await r.call('POST', `/api/v1/ops/${(a.body as Change).op.id}/cancel`);
  t.match(cancel, { status: 202, body: { cancelAsked: true } });
});

void t.test('firmware waits for a stop; disks do not shrink', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await created(r, { name: 'v', power: 'running', disks: [{ sizeBytes: GiB }] });
  await inPhase(r, 'v', 'running');
  t.match(await r.call('PATCH', '/api/v1/vms/v', { firmware: 'uefi' }), {
    status: 409,
    body: { code: 'needs-stop' },
  });
  const shrink = { growDisks: [{ disk: 'disk0', sizeBytes: 4096 }] };
  t.match(await r.call('PATCH', '/api/v1/vms/v', shrink), { status: 422, body: { code: 'unsupported' } });
  const huge = { growDisks: [{ disk: 'disk0', sizeBytes: 10 * 1024 * GiB }] };
  t.match(await r.call('PATCH', '/api/v1/vms/v', huge), { status: 507, body: { code: 'no-space' } });
  t.match(await r.call('PATCH', '/api/v1/vms/v', { memoryMiB: 1024 * 1024 }), {
    status: 409,
    body: { code: 'no-node-fits', message: /n1: needs/ },
  });
  t.match(await r.call('PATCH', '/api/v1/vms/v', {}), { status: 400 });
});

void t.test(
  'admission: a VM that no node could take over is refused, or warned of, as the policy says',
  async (t) => {
    const r = await rig(['n1', 'n2']);
    t.teardown(() => r.stop());
    const admission = async (mode: string) =>
      t.equal((await r.call('PATCH', '/api/v1/policy', { plan: { admission: mode } })).status, 200);
    const make = (name: string) =>
      r.call('POST', '/api/v1/vms', { name, memoryMiB: 9_000, ha: { enabled: true } });
    t.match(await make('web'), { status: 202, body: { vm: { node: 'n1' }, warnings: [] } });
    const no = await make('db');
    t.match(no, {
      status: 409,
      body: {
        code: 'no-failover-room',
        message: /if n1 fails, n2 .*web would stay off/,
        hint: /admission warn/,
      },
    });
    await admission('warn');
    t.match(await make('db'), { status: 202, body: { vm: { node: 'n2' }, warnings: [/would stay off/] } });
    await admission('enforce');
    r.memory.drop('/flotilla/live/n2');
    await r.view.ledger.refresh();
    await inPhase(r, 'web', 'stopped');
    const start = await r.call('POST', '/api/v1/vms/web/actions/start');
    t.match(start, {
      status: 409,
      body: { code: 'no-failover-room', message: /not started: no node has the memory/ },
    });
    await admission('off');
    t.match(await r.call('POST', '/api/v1/vms/web/actions/start'), { status: 202, body: { warnings: [] } });
  },
);
