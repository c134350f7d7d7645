import t from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { ledger as kinds, unique, writeRecord } from '../../../core/wire/ledger-keys.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import type { Rig } from './rig.js';

const imageId = '22222222-2222-4222-8222-222222222222';
const at = '/api/v1/nodes/n1/actions/update';

async function image(
  r: Rig,
  o: { format?: 'iso' | 'qcow2'; state?: 'ready' | 'importing' } = {},
): Promise<void> {
  const pool = [...r.view.ledger.tables.pool.keys()][0] ?? '';
  const record = {
    ...{ id: imageId, name: 'flotilla-2', pool, node: 'n1', state: o.state ?? 'ready' },
    ...{ format: o.format ?? 'iso', expectedBytes: null, sizeBytes: 1, virtualSizeBytes: 1 },
    ...{ sha256: 'ab'.repeat(32), source: null, createdMs: 0, error: null },
  } as const;
  const put = { put: kinds.image.key(imageId), value: writeRecord(kinds.image, record) };
  await r.ledger.txn([], [put, { put: unique.name('image', record.name), value: imageId }]);
  await r.view.ledger.refresh();
}

const opOf = (r: Rig, id: string): Op => JSON.parse(r.memory.peek(kinds.op.key(id))?.value ?? 'null') as Op;

void t.test('an update is wished for once, for one node at a time', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const body = { image: 'flotilla-2' };
  t.match(await r.call('POST', at, body), { status: 404 });
  await image(r, { format: 'qcow2' });
  t.match(await r.call('POST', at, body), { status: 422, body: { code: 'image-refused' } });
  await image(r, { state: 'importing' });
  t.match(await r.call('POST', at, body), { status: 422 });
  await image(r);
  t.match(await r.call('POST', '/api/v1/nodes/n9/actions/update', body), { status: 404 });
  const headers = { 'idempotency-key': 'a-key-of-some-length' };
  const first = await r.call('POST', at, body, headers);
  t.match(first, { status: 202, body: { op: { kind: 'node.update', node: 'n1', state: 'queued' } } });
  const { op } = first.body as { op: Op };
  t.match(opOf(r, op.id), { subject: { kind: 'image', id: imageId }, node: 'n1' });
  t.match(await r.call('POST', at, body, headers), { status: 202, body: { op: { id: op.id } } });
  await r.view.ledger.refresh();
  t.match(await r.call('POST', '/api/v1/nodes/n2/actions/update', body), {
    status: 409,
    body: { code: 'wrong-state', details: { op: op.id } },
  });
});

void t.test('a node on which VMs run is not updated', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  await l.run('vm', 'create', 'db', '--disk', 'size=1G,pool=shared', '--node', 'n1', '--start');
  await image(r);
  t.match(await l.run('node', 'update', 'n1', '--image', 'flotilla-2', '--no-wait'), {
    code: 4,
    err: /VMs run on n1/,
  });
  t.match(await l.run('node', 'reboot', 'n1', '--no-wait'), { code: 4, err: /VMs run on n1/ });
  t.match(await l.run('node', 'update', 'n2', '--image', 'flotilla-2', '--no-wait'), { code: 0 });
  t.match(await l.run('node', 'reboot', 'n2', '--no-wait'), {
    code: 4,
    err: /node.update of .* is under way/,
  });
});
