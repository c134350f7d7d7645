import t from 'tap';
import type { OpView } from '../../../core/wire/rest.js';
import { haRig } from './ha-rig.js';
import { GiB, type Rig } from './rig.js';

/** Nodes that sleep, through the API. Agents do the rest: test/sim/power.test.ts. */

const edit = (r: Rig, key: string, patch: object): void =>
  r.memory.poke(
    key,
    JSON.stringify({ ...(JSON.parse(r.memory.peek(key)?.value ?? '{}') as object), ...patch }),
  );
const asleep = { sinceMs: 1000, by: 'saving power', cpus: 4, memoryBytes: 2 ** 34 };

async function rig(): Promise<Rig> {
  const r = await haRig();
  r.agents.stuck.add('node.sleep').add('node.wake');
  edit(r, '/flotilla/node/n3', { voter: false });
  await r.view.ledger.refresh();
  return r;
}

void t.test('who cannot sleep is refused, with the way out', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const sleep = (n: string) => r.call('POST', `/api/v1/nodes/${n}/actions/sleep`);
  edit(r, '/flotilla/node/n1', { voter: true });
  t.match(await sleep('n1'), { status: 409, body: { code: 'wrong-state', message: /votes in the ledger/ } });
  t.match(await sleep('n3'), { status: 409, body: { message: /no fencing device/, hint: /bmc set n3/ } });
  const bmc = { kind: 'ipmi', address: '10.0.9.3', user: 'fl', password: 'secret' };
  await r.call('PUT', '/api/v1/nodes/n3/bmc', bmc);
  t.match(await sleep('n3'), { status: 409, body: { message: /was not tried/, hint: /bmc test n3/ } });
  const tried = (result: object) =>
    r.memory.poke(
      '/flotilla/bmc-test/n3',
      JSON.stringify({
        node: 'n3',
        askedMs: 1,
        askedBy: 'x',
        result: { by: 'n1', atMs: 1, power: 'on', machine: 'same', text: '', ...result },
      }),
    );
  tried({ machine: 'other', text: 'it is of another machine' });
  t.match(await sleep('n3'), { status: 409, body: { message: /another machine/ } });
  tried({});
  t.match(await r.call('POST', '/api/v1/nodes/n3/actions/wake'), {
    status: 409,
    body: { message: /is not asleep/ },
  });
  const first = await sleep('n3');
  t.match(first, {
    status: 202,
    body: { op: { kind: 'node.sleep', subject: { id: 'n3' }, args: { node: 'n3' } } },
  });
  const { op } = first.body as { op: OpView };
  t.match((await sleep('n3')).body, { op: { id: op.id } }, 'asked for twice it is one');
  await r.view.ledger.refresh();
  edit(r, '/flotilla/node/n2', { asleep, desired: 'maintenance' });
  t.match(await r.call('POST', '/api/v1/nodes/n2/actions/wake'), {
    status: 409,
    body: { message: /node.sleep of n3 is not finished/ },
  });
});

void t.test('one that sleeps is shown so, and neither active nor drained before it is awake', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  edit(r, '/flotilla/node/n3', { asleep, desired: 'maintenance' });
  r.memory.drop('/flotilla/live/n3');
  r.radio.nodes.delete('n3');
  r.radio.news();
  await r.view.ledger.refresh();
  r.view.fold();
  t.match((await r.call('GET', '/api/v1/power')).body, {
    mode: 'recommend',
    sentence: 'No node has looked for it yet.',
    asleep: [{ node: 'n3', sinceMs: 1000, by: 'saving power' }],
  });
  t.match((await r.call('GET', '/api/v1/nodes/n3')).body, {
    problems: [],
    record: { asleep: { by: 'saving power' } },
  });
  const cluster = (await r.call('GET', '/api/v1/cluster')).body as {
    sentence: string;
    concerns: { subject: string }[];
  };
  t.match(cluster.sentence, /3 nodes \(1 asleep\)/);
  t.notOk(cluster.concerns.some((c) => c.subject === 'node n3'));
  for (const [path, body] of [
    ['actions/drain', {}],
    ['actions/activate', {}],
  ] as const)
    t.match(await r.call('POST', `/api/v1/nodes/n3/${path}`, body), {
      status: 409,
      body: { hint: /node wake n3/ },
    });
  t.match(await r.call('PATCH', '/api/v1/nodes/n3', { desired: 'active' }), {
    status: 409,
    body: { hint: /node wake n3/ },
  });
});

void t.test('what is refused for want of room wakes a node, where that is done by itself', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  edit(r, '/flotilla/node/n3', { asleep, desired: 'maintenance' });
  r.memory.drop('/flotilla/live/n3');
  await r.view.ledger.refresh();
  const large = { name: 'large', memoryMiB: 2 ** 20, disks: [{ pool: 'shared', sizeBytes: GiB }] };
  t.match((await r.call('POST', '/api/v1/vms', large)).status, 409);
  const wakes = () => [...r.view.ledger.tables.op.values()].filter((o) => o.value.kind === 'node.wake');
  t.equal(wakes().length, 0, 'not in the mode that recommends');
  t.match(await r.call('PATCH', '/api/v1/policy', { plan: { power: 'automatic' } }), { status: 200 });
  await r.view.ledger.refresh();
  const refused = await r.call('POST', '/api/v1/vms', large);
  t.match(refused, {
    status: 409,
    body: { code: 'no-node-fits', hint: /^n3 is being woken: ask again when it is awake/ },
  });
  await r.view.ledger.refresh();
  t.match(wakes()[0]?.value, { subject: { id: 'n3' }, askedBy: 'saving power' });
  await r.call('POST', '/api/v1/vms', large);
  await r.view.ledger.refresh();
  t.equal(wakes().length, 1, 'once');
});
