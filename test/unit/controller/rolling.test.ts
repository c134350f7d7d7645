import t from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { rollingArgs } from '../../../core/domain/rolling.js';
import { ledger as kinds, writeRecord } from '../../../core/wire/ledger-keys.js';
import type { RollingView } from '../../../core/wire/rest.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import type { Rig } from './rig.js';

const at = '/api/v1/rolling';
const opOf = (r: Rig, id: string): Op => JSON.parse(r.memory.peek(kinds.op.key(id))?.value ?? 'null') as Op;

/** What the agents write of it. */
async function now(r: Rig, id: string, patch: Partial<Op>): Promise<void> {
  r.memory.poke(kinds.op.key(id), writeRecord(kinds.op, { ...opOf(r, id), ...patch }));
  await r.view.ledger.refresh();
  r.view.fold();
}

void t.test('nodes are chosen by name and by tag; one such work at a time', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await r.call('PATCH', '/api/v1/nodes/n3', { tags: ['ssd'] });
  await r.view.ledger.refresh();
  const body = { work: 'reboot', nodes: ['n2'], tags: ['ssd'] };
  t.match(await r.call('POST', at, { ...body, work: 'update' }), { status: 400 });
  t.match(await r.call('POST', at, { ...body, image: 'x' }), { status: 400 });
  t.match(await r.call('POST', at, { work: 'update', image: 'none' }), { status: 404 });
  t.match(await r.call('POST', at, { ...body, nodes: ['n9'] }), { status: 404 });
  t.match(await r.call('POST', at, { ...body, nodes: [], tags: ['none'] }), { status: 400 });
  t.match(await r.call('POST', at, { ...body, atOnce: 0 }), { status: 400 });
  const plan = (await r.call('GET', `${at}?nodes=n2&tags=ssd`)).body as RollingView;
  t.same(
    plan.groups.map((g) => g.nodes),
    [['n2'], ['n3']],
  );
  const awake = r.memory.peek(kinds.node.key('n2'))?.value ?? '';
  const asleep = { sinceMs: 1, by: 'x', cpus: 1, memoryBytes: 1 };
  r.memory.poke(kinds.node.key('n2'), JSON.stringify({ ...JSON.parse(awake), asleep }));
  await r.view.ledger.refresh();
  t.match(await r.call('POST', at, body), { status: 409, body: { message: 'Node n2 sleeps' } });
  r.memory.poke(kinds.node.key('n2'), awake);
  await r.view.ledger.refresh();
  const headers = { 'idempotency-key': 'a-key-of-some-length' };
  const made = await r.call('POST', at, body, headers);
  t.match(made, { status: 202, body: { op: { kind: 'cluster.rolling', state: 'queued', node: null } } });
  const { op } = made.body as { op: Op };
  t.match(rollingArgs(opOf(r, op.id)), {
    work: 'reboot',
    atOnce: 1,
    nodes: [
      { node: 'n2', state: 'waiting' },
      { node: 'n3', state: 'waiting' },
    ],
  });
  t.match(await r.call('POST', at, body, headers), { status: 202, body: { op: { id: op.id } } });
  await r.view.ledger.refresh();
  const taken = { status: 409, body: { code: 'wrong-state', details: { op: op.id } } };
  t.match(await r.call('POST', at, body), taken);
  t.match(await r.call('POST', '/api/v1/nodes/n1/actions/reboot', {}), taken, 'nor a single node meanwhile');
});

void t.test('it is paused and gone on with; what stopped is begun anew with what is left', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const { op } = (await r.call('POST', at, { work: 'reboot' })).body as { op: Op };
  const act = (what: string, id = op.id) => r.call('POST', `/api/v1/ops/${id}/${what}`);
  t.match(await act('pause'), { status: 202, body: { args: { paused: true } } });
  t.match(await act('pause'), { status: 202 });
  t.match(await act('resume'), { status: 202, body: { id: op.id, args: { paused: false } } });
  const nodes = [
    { node: 'n1', state: 'done', version: '1', text: '' },
    { node: 'n2', state: 'emptying', op: '11111111-1111-4111-8111-111111111111', was: 'active', text: 'x' },
    { node: 'n3', state: 'waiting', text: '' },
  ];
  await now(r, op.id, { state: 'failed', args: { ...op.args, nodes, paused: false } });
  t.match(await act('pause'), { status: 409 });
  const next = (await act('resume')).body as Op;
  t.not(next.id, op.id);
  t.match(next, { state: 'queued', kind: 'cluster.rolling' });
  t.match(rollingArgs(next)?.nodes, [
    { node: 'n1', state: 'done' },
    { node: 'n2', state: 'waiting', was: 'active' },
    { node: 'n3', state: 'waiting' },
  ]);
  await now(r, next.id, { state: 'done', args: { ...next.args, nodes: [nodes[0]] } });
  t.match(await act('resume', next.id), { status: 409, body: { message: 'All of its nodes are done' } });
  const { op: reboot } = (await r.call('POST', '/api/v1/nodes/n1/actions/reboot', {})).body as { op: Op };
  t.match(reboot, { kind: 'node.reboot', node: 'n1', subject: { kind: 'node', id: 'n1' } });
  t.match(await act('pause', reboot.id), { status: 422 });
});

void t.test('the command line: looked at, begun, shown, paused, gone on with, cancelled', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  const plan = {
    code: 0,
    out: /3 nodes could go down in 3 turns, with 0 moves of VMs\.\n1\. n1\n2\. n2\n3\. n3/,
  };
  t.match(await l.run('rolling'), plan);
  t.match(await l.run('rolling', 'reboot', '--dry-run'), plan);
  t.match(await l.run('rolling', 'plan', '--nodes', 'n2,n3'), { out: /2 nodes could go down in 2 turns/ });
  t.match(await l.run('rolling', 'show'), { code: 3, err: /no rolling work of late/ });
  t.match(await l.run('rolling', 'update', '--image', 'none', '--no-wait'), { code: 3 });
  t.match(await l.run('rolling', 'reboot', '--nodes', 'n2', '--bring-back', '--no-wait'), { code: 0 });
  t.match(await l.run('rolling', 'show'), {
    code: 0,
    out: /cluster\.rolling .*: queued[^]*NODE +STATE[^]*n2 +waiting/,
  });
  t.match(await l.run('rolling', 'pause'), { code: 0, out: /^Paused/ });
  t.match(await l.run('rolling', 'resume', '--no-wait'), { code: 0 });
  t.match(await l.run('rolling', 'cancel', '--no-wait'), { code: 0 });
  const [op] = [...r.view.ledger.tables.op.values()]
    .map((k) => k.value)
    .filter((o) => o.kind === 'cluster.rolling');
  t.match(op, { cancelAsked: true, args: { bringBack: true, paused: false } });
});
