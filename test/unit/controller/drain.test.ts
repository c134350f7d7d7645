import t from 'tap';
import { drainArgs } from '../../../core/domain/drain.js';
import type { BalanceAnswer, DrainAnswer, OpView } from '../../../core/wire/rest.js';
import { allLockstep, armed, haRig, made, paired, vmOf } from './ha-rig.js';
import { GiB } from './rig.js';

const disks = [{ pool: 'shared', sizeBytes: GiB }];

void t.test('can this node go? each VM with where it would go, or what keeps it', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const look = async () => (await r.call('GET', '/api/v1/nodes/n1/drain')).body as DrainAnswer;
  t.match(await look(), { canGo: true, sentence: /Node n1 can go: it owns no VM/, vms: [], op: null });
  await made(r, { name: 'web', disks, node: 'n1', power: 'running', ha: { enabled: true } });
  await armed(r, 'web', 'n2');
  await made(r, { name: 'off', disks, node: 'n1' });
  t.match(await look(), {
    canGo: true,
    sentence: /1 VM would move while running; 1 VM is off and would get another owner/,
  });
  await made(r, { name: 'bound', disks: [{ pool: 'local', sizeBytes: GiB }], node: 'n1', power: 'running' });
  await armed(r, 'bound', 'n1');
  const d = await look();
  t.match(d, { canGo: false, sentence: /cannot go as it is: .*1 VM runs and cannot leave it/ });
  const how = Object.fromEntries(d.vms.map((v) => [v.name, v.how]));
  t.same(how, { web: 'migrate', off: 'relocate', bound: 'stays' });
  t.match(d.vms.find((v) => v.name === 'bound')?.text, /local pool "local", which no other node reaches/);
  const off = await vmOf(r, 'off');
  const diskKey = `/flotilla/disk/${off.disks[0]?.id}`;
  const whole = JSON.parse(r.memory.peek(diskKey)?.value ?? '{}') as object;
  const howOff = async (patch: object): Promise<DrainAnswer['vms'][number] | undefined> => {
    r.memory.poke(diskKey, JSON.stringify({ ...whole, ...patch }));
    await r.view.ledger.refresh();
    r.view.fold();
    return (await look()).vms.find((v) => v.name === 'off');
  };
  const error = { code: 'not-found', message: 'Disk root: its image is gone', hint: 'h', causes: [] };
  t.match(await howOff({ state: 'failed', error }), { how: 'stays', text: 'Disk root: its image is gone' });
  t.match(await howOff({ state: 'wanted' }), { how: 'wait', text: 'its disks are being made' });
  t.match(await howOff({}), { how: 'relocate' });
  for (const n of ['n2', 'n3']) {
    const said = r.radio.nodes.get(n);
    if (said !== undefined) said.state = { ...said.state, accel: 'kvm' };
  }
  r.radio.news();
  r.view.fold();
  t.match(
    (await look()).vms.find((v) => v.name === 'web'),
    { how: 'restart', text: /KVM/ },
  );
});

void t.test(
  'disks with two copies: the VM goes to the other one, and only while they are the same',
  async (t) => {
    const r = await haRig();
    t.teardown(() => r.stop());
    await made(r, { name: 'db', disks, node: 'n1', power: 'running', ha: { enabled: true } });
    const {
      id,
      own,
      disks: [disk],
    } = await armed(r, 'db', 'n3');
    const diskKey = `/flotilla/disk/${disk?.id}`;
    const record = JSON.parse(r.memory.peek(diskKey)?.value ?? '{}') as object;
    r.memory.poke(diskKey, JSON.stringify({ ...record, replicas: 2, node: null }));
    const is = async (patch: object): Promise<void> => {
      const copies = ['n1', 'n3'].map((node) => ({ node, state: 'ok', epoch: 1 }));
      r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify({ ...own, copies, ...patch }));
      await r.view.ledger.refresh();
      r.view.fold();
    };
    const check = async () => (await r.call('GET', '/api/v1/vms/db/migrate')).body;
    const going = async () => ((await r.call('GET', '/api/v1/nodes/n1/drain')).body as DrainAnswer).vms[0];

    await is({ sync: 'ok', synced: [disk?.id] });
    t.match(await check(), {
      to: 'n3',
      blockers: [],
      nodes: [{ node: 'n2', blockers: [{ code: 'no-copy' }] }],
    });
    t.match(await going(), { how: 'migrate', to: 'n3' });
    await is({ sync: 'stale', synced: [] });
    t.match(await check(), { to: null, blockers: [{ code: 'copies-differ', text: /not in sync/ }] });
    t.match(await going(), { how: 'wait', text: /not in sync/ });

    const specKey = `/flotilla/vm/${id}/spec`;
    const spec = JSON.parse(r.memory.peek(specKey)?.value ?? '{}') as object;
    r.memory.poke(specKey, JSON.stringify({ ...spec, power: 'stopped' }));
    await is({ sync: 'stale', synced: [], state: 'stopped' });
    t.match(await going(), { how: 'wait', text: /not in sync/ });
    await is({ sync: 'ok', synced: [disk?.id], state: 'stopped' });
    t.match(await going(), { how: 'relocate', to: 'n3' });
  },
);

void t.test(
  'a drain sets the node to maintenance and is one operation, however often it is asked for',
  async (t) => {
    const r = await haRig();
    t.teardown(() => r.stop());
    r.agents.stuck.add('node.drain').add('node.return');
    const web = await made(r, { name: 'web', disks, node: 'n1' });
    const ask = () => r.call('POST', '/api/v1/nodes/n1/actions/drain', { leave: true });
    const first = await ask();
    t.match(first, {
      status: 202,
      body: { op: { kind: 'node.drain', subject: { kind: 'node', id: 'n1' } } },
    });
    t.equal(((await ask()).body as { op: OpView }).op.id, (first.body as { op: OpView }).op.id);
    t.match((await r.call('GET', '/api/v1/nodes/n1')).body, {
      record: { desired: 'maintenance' },
    });
    const { op } = first.body as { op: OpView };
    t.match(drainArgs(op), { node: 'n1', leave: true, restart: false, vms: [] });
    t.match(await r.call('POST', '/api/v1/nodes/n1/actions/activate', {}), {
      status: 409,
      body: { code: 'wrong-state', hint: /op cancel/ },
    });
    t.match(await r.call('POST', '/api/v1/nodes/n9/actions/drain', {}), { status: 404 });

    // As agents end it: the VM is elsewhere.
    const own = (await vmOf(r, 'web')).own;
    r.memory.poke(`/flotilla/vm/${web.id}/own`, JSON.stringify({ ...own, owner: 'n2' }));
    const vms = [{ vm: web.id, state: 'moved', to: 'n2', tries: 0, restart: false, text: '' }];
    r.memory.poke(
      `/flotilla/op/${op.id}`,
      JSON.stringify({ ...op, state: 'done', args: { ...op.args, vms } }),
    );
    await r.view.ledger.refresh();
    const back = await r.call('POST', '/api/v1/nodes/n1/actions/activate', { bringBack: true });
    t.match(back, { status: 202, body: { op: { kind: 'node.return', args: { vms: [{ vm: web.id }] } } } });
    t.match((await r.call('GET', '/api/v1/nodes/n1')).body, { record: { desired: 'active' } });
    const none = await r.call('POST', '/api/v1/nodes/n2/actions/activate', { bringBack: true });
    t.match(none, { status: 202, body: { op: null } });
  },
);

void t.test('balance: a busy node would give a VM away, each move with why', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  t.match((await r.call('GET', '/api/v1/balance')).body, {
    mode: 'recommend',
    movesPerHourMax: 10,
    by: null,
    moves: [],
    past: [],
    sentence: /is even/,
  });
  for (const name of ['web', 'db', 'mail']) {
    const { id } = await made(r, { name, disks, node: 'n1', cpus: 4, power: 'running' });
    await armed(r, name, 'n2');
    const line = r.radio.nodes.get('n1')?.vms.get(id);
    const stats = {
      atMs: 1,
      cpuPct: 60,
      memoryUsedBytes: GiB,
      memoryBytes: GiB,
      diskReadBps: 0,
      diskWriteBps: 0,
      netRxBps: 0,
      netTxBps: 0,
    };
    if (line !== undefined) r.radio.nodes.get('n1')?.vms.set(id, { ...line, stats });
  }
  r.radio.news();
  r.view.fold();
  const { body } = await r.call('GET', '/api/v1/balance');
  t.match(body, {
    sentence: /moves would even/,
    moves: [{ from: 'n1', why: /n1 has 90 % of its CPUs busy/ }],
  });

  const set = await r.call('PATCH', '/api/v1/policy', { plan: { balance: 'automatic', movesPerHourMax: 3 } });
  t.match(set, {
    status: 200,
    body: { plan: { balance: 'automatic', movesPerHourMax: 3, admission: 'enforce' } },
  });
  t.match(await r.call('PATCH', '/api/v1/policy', { plan: { admission: 'warn' } }), {
    body: { plan: { balance: 'automatic', movesPerHourMax: 3, admission: 'warn' } },
  });
  t.match(await r.call('PATCH', '/api/v1/policy', { plan: { balance: 'sometimes' } }), { status: 400 });

  const { id } = await vmOf(r, 'web');
  const move = {
    vm: id,
    name: 'web',
    from: 'n1',
    to: 'n2',
    for: 'load',
    why: 'n1 is full',
    before: 1,
    after: 0.5,
    memoryMiB: 64,
  };
  const other = { ...move, vm: (await vmOf(r, 'db')).id, name: 'db', from: 'n3' };
  const record = {
    by: 'n2',
    atMs: Date.now(),
    sentence: '2 moves would help',
    moves: [move, other],
    past: [],
  };
  r.memory.poke('/flotilla/balance/cluster', JSON.stringify(record));
  await r.view.ledger.refresh();
  t.match((await r.call('GET', '/api/v1/balance')).body, {
    by: 'n2',
    sentence: '2 moves would help.',
    moves: [{ vm: id, why: 'n1 is full' }],
  });
  const { moves } = (await r.call('GET', '/api/v1/balance')).body as BalanceAnswer;
  t.equal(moves.length, 1, 'what is not where the plan has it is not shown');
  r.memory.poke('/flotilla/balance/cluster', JSON.stringify({ ...record, atMs: 1 }));
  await r.view.ledger.refresh();
  t.match(
    (await r.call('GET', '/api/v1/balance')).body,
    { by: null, moves: [{ from: 'n1' }] },
    'an old plan is none',
  );
  t.match(await r.call('PATCH', '/api/v1/vms/web', { autoMove: false }), {
    status: 202,
    body: { vm: { spec: { autoMove: false } } },
  });
  const after = (await r.call('GET', '/api/v1/balance')).body as BalanceAnswer;
  t.ok(
    after.moves.every((m) => m.name !== 'web'),
    'never this one',
  );
});

void t.test('a VM in lockstep goes to its twin, and twins of others are made anew elsewhere', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  allLockstep(r);
  const look = async (node: string) =>
    (await r.call('GET', `/api/v1/nodes/${node}/drain`)).body as DrainAnswer;
  const body = { disks: [{ pool: 'local', sizeBytes: GiB, format: 'raw' }], node: 'n1', power: 'running' };
  await made(r, { name: 'pair', ...body });
  await paired(r, 'pair', 'n2');
  t.match(await look('n1'), {
    canGo: true,
    sentence: /1 VM is in lockstep and would go on with the twin/,
    vms: [{ name: 'pair', how: 'switch', to: 'n2' }],
    twins: [],
  });
  t.match(await look('n2'), {
    canGo: true,
    sentence: /1 VM of another node would lose the twin here/,
    vms: [],
    twins: [{ name: 'pair', to: 'n3' }],
  });
  t.match((await r.call('GET', '/api/v1/vms/pair/migrate')).body, {
    to: null,
    blockers: [{ code: 'lockstep' }],
  });
  t.match((await r.call('GET', '/api/v1/nodes/n2')).body, {
    vms: 0,
    committedMemoryMiB: 1024,
    committedCpus: 1,
  });
  await paired(r, 'pair', null);
  t.match((await look('n1')).vms, [{ how: 'wait', text: 'its twin is being made' }]);
  allLockstep(r, 'no QEMU for it');
  t.match(await look('n1'), { canGo: false, vms: [{ how: 'stays', text: /no QEMU for it/ }] });
  await paired(r, 'pair', 'n2');
  t.match((await look('n2')).twins, [{ name: 'pair', to: null, text: /no QEMU for it/ }]);
});
