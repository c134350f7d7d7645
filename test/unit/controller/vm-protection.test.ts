import t from 'tap';
import type { Problem, ProtectionView } from '../../../core/wire/rest.js';
import { allLockstep, haRig, lost, made, paired, vmOf } from './ha-rig.js';
import { GiB } from './rig.js';

const raw = [{ name: 'root', sizeBytes: GiB, pool: 'local', format: 'raw' }];
const lockstep = { enabled: true, lockstep: true };

async function lockstepRig() {
  const r = await haRig();
  allLockstep(r);
  const look = async (vm: string): Promise<ProtectionView> =>
    (await r.call('GET', `/api/v1/vms/${vm}/protection`)).body;
  const patch = (vm: string, body: unknown) => r.call('PATCH', `/api/v1/vms/${vm}`, body);
  return { r, look, patch };
}

const blockersOf = (p: { readonly body: unknown }): string[] =>
  ((p.body as Problem).details as { blockers: { code: string }[] }).blockers.map((b) => b.code);

void t.test('each level says what is lost, what it costs and what speaks against it', async (t) => {
  const { r, look } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', memoryMiB: 2048 });
  const p = await look('web');
  t.match(p, { name: 'web', level: 'none', pair: null, waitsForStart: false, now: { state: 'off' } });
  t.match(p.levels, [
    { level: 'none', experimental: false, blockers: [], to: null },
    { level: 'restart', experimental: false, blockers: [{ code: 'no-reach', text: /local pool "local"/ }] },
    { level: 'lockstep', experimental: true, blockers: [], nodes: [], to: 'n2' },
  ]);
  const costs = p.levels[2]?.costs.join('\n') ?? '';
  t.match(costs, /another 2 GiB and 1 CPU on a second node/);
  t.match(costs, /stands still once for about 16 s/, '2 GiB over a network of 125 MiB/s');
  for (const l of p.levels) t.ok(l.loses.length > 20 && l.costs.length > 0, l.level);
});

void t.test('lockstep is asked for and given up, and comes with the next start', async (t) => {
  const { r, look, patch } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', power: 'running' });
  t.equal((await patch('web', { ha: lockstep })).status, 202, 'though its disk is on a local pool');
  t.match(await vmOf(r, 'web'), { level: 'lockstep', spec: { ha: lockstep }, pair: null });
  const running = await paired(r, 'web', null);
  t.match(running.pair, { state: 'alone', twin: null, degraded: true, text: /runs alone on n1/ });
  t.match(await paired(r, 'web', 'n2'), {
    pair: { state: 'protected', twin: 'n2', degraded: false, text: 'its twin on n2 goes on if n1 dies' },
    ha: { standby: 'n2' },
    pendingRestart: [],
  });
  t.match(await look('web'), { level: 'lockstep', waitsForStart: false, pair: { state: 'protected' } });
  t.match((await look('web')).levels[2], { to: 'n2', reasons: ['its twin is there'] });
  await patch('web', { ha: { enabled: false } });
  const off = await vmOf(r, 'web');
  t.equal(off.level, 'none');
  t.notOk('lockstep' in off.spec.ha, 'who turns HA off has neither');
  t.match(off.pendingRestart, ['protection is no longer lockstep']);
  t.match(await look('web'), { waitsForStart: true });
  t.match(await patch('web', { ha: { lockstep: true } }), {
    status: 400,
    body: { code: 'bad-input', message: /without HA/ },
  });
});

void t.test('a refusal has all blockers, of the VM and of each node', async (t) => {
  const { r, patch } = await lockstepRig();
  t.teardown(() => r.stop());
  const qcow2 = [
    { name: 'root', sizeBytes: GiB, pool: 'shared' },
    { name: 'data', sizeBytes: GiB, pool: 'local', format: 'qcow2' },
  ];
  await made(r, {
    name: 'big',
    disks: qcow2,
    cpus: 4,
    firmware: 'uefi',
    node: 'n1',
    ha: { onHang: 'reset' },
  });
  const before = r.memory.revision;
  const no = await patch('big', { ha: lockstep });
  t.match(no, {
    status: 422,
    body: { code: 'unsupported', message: /4 vCPUs.*UEFI.*"data" is a qcow2 file/ },
  });
  t.same(blockersOf(no), ['cpus', 'firmware', 'watchdog', 'disks', 'pool', 'format', 'format']);
  t.match(await r.call('POST', '/api/v1/vms', { name: 'new', disks: qcow2, ha: lockstep }), {
    status: 422,
    body: { code: 'unsupported' },
  });
  t.equal(r.memory.revision, before, 'nothing is written');
  await made(r, { name: 'web', disks: raw, node: 'n1' });
  allLockstep(r, 'QEMU 11.1 is not there');
  const none = await patch('web', { ha: lockstep });
  t.match(none.body, { code: 'unsupported', details: { blockers: [{ code: 'no-lockstep' }] } });
  const { nodes } = (none.body as Problem).details as { nodes: { node: string; blockers: unknown[] }[] };
  t.same(
    nodes.map((n) => n.node),
    ['n2', 'n3'],
  );
  t.match(await r.call('POST', '/api/v1/vms', { name: 'new', disks: raw, ha: lockstep }), {
    status: 422,
    body: { code: 'unsupported', message: /is not made/ },
  });
});

void t.test('what it could not be in lockstep with any more is refused; the rest is edited', async (t) => {
  const { r, patch } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', ha: lockstep });
  t.match(await patch('web', { cpus: 3 }), {
    status: 422,
    body: { code: 'unsupported', message: /3 vCPUs/ },
  });
  t.match(await patch('web', { addDisks: [{ sizeBytes: GiB, pool: 'local', format: 'raw' }] }), {
    status: 422,
    body: { message: /2 disks/ },
  });
  t.equal((await patch('web', { cdroms: [{ image: null }] })).status, 202, 'an empty drive is no matter');
  t.equal((await patch('web', { cpus: 2, note: 'x' })).status, 202);
  t.equal(
    (await patch('web', { cpus: 3, ha: { lockstep: false, enabled: false } })).status,
    202,
    'the way out',
  );
});

void t.test('no start without room for the twin, where promises are kept', async (t) => {
  const { r } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', memoryMiB: 8192, ha: lockstep });
  t.match(
    await r.call('POST', '/api/v1/vms', { name: 'full', node: 'n2', memoryMiB: 12_000 }),
    {
      status: 409,
      body: { code: 'no-node-fits', message: /6490 MiB are free/ },
    },
    'its room is kept for the twin, also while it is off',
  );
  for (const n of ['n2', 'n3']) {
    const said = r.radio.nodes.get(n);
    if (said !== undefined) said.state = { ...said.state, memoryBytes: 4 * GiB };
  }
  r.radio.news();
  r.view.fold();
  const start = () => r.call('POST', '/api/v1/vms/web/actions/start', {});
  t.match(await start(), {
    status: 409,
    body: { code: 'no-node-fits', message: /is not started: n2: needs/ },
  });
  await r.call('PATCH', '/api/v1/policy', { plan: { admission: 'warn' } });
  const warned = await start();
  t.match(warned, { status: 202, body: { warnings: [/runs without a twin: n2: needs/] } });
});

void t.test('its owner is gone: the twin goes on, or nobody does', async (t) => {
  const { r } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', power: 'running', ha: lockstep });
  await paired(r, 'web', 'n2');
  await lost(r, 'n1');
  t.match((await vmOf(r, 'web')).ha, { state: 'protected', text: /its twin on n2 goes on/, standby: 'n2' });
  await paired(r, 'web', null);
  t.match((await vmOf(r, 'web')).ha, { state: 'unprotected', text: /comes back with n1/ });
});

void t.test('no snapshot, no move and no growing of its disk while it runs in lockstep', async (t) => {
  const { r, patch } = await lockstepRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks: raw, node: 'n1', ha: lockstep });
  const move = (body: unknown) => r.call('POST', '/api/v1/vms/web/disks/root/move', body);
  t.match(await move({ format: 'qcow2' }), {
    status: 422,
    body: { code: 'unsupported', message: /qcow2 file/ },
  });
  t.match(await move({ pool: 'shared' }), { status: 422, body: { message: /the shared pool "shared"/ } });
  await paired(r, 'web', 'n2');
  const stands = { status: 409, body: { code: 'wrong-state', message: /is moved or grown while it is off/ } };
  t.match(await move({ pool: 'shared' }), stands);
  t.match(await patch('web', { growDisks: [{ disk: 'root', sizeBytes: 2 * GiB }] }), stands);
  t.match(await r.call('POST', '/api/v1/vms/web/snapshots', {}), {
    status: 409,
    body: { code: 'wrong-state', message: /it is in lockstep/ },
  });
  const { id, own } = await vmOf(r, 'web');
  const off = { ...own, state: 'stopped', lockstep: null, left: ['n2', 'n9'] };
  r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify(off));
  await r.view.ledger.refresh();
  r.view.fold();
  // n9 is no node any more.
  t.match(await move({ format: 'qcow2' }), {
    status: 409,
    body: { code: 'wrong-state', message: /has left files of its disk on n2$/ },
  });
});
