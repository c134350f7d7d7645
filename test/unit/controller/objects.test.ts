import { gzipSync } from 'node:zlib';
import t from 'tap';
import { EventLog, eventsKeptMax } from '../../../controller/event-log.js';
import { writeRecord, ledger as kinds } from '../../../core/wire/ledger-keys.js';
import { rest, restStreams, type ImageView, type OpView, type VmView } from '../../../core/wire/rest.js';
import { GiB, rig, type Rig } from './rig.js';

async function opDone(r: Rig, id: string): Promise<OpView> {
  for (;;) {
    const op = (await r.call('GET', `/api/v1/ops/${id}?waitS=5`)).body as OpView;
    if (op.state !== 'queued' && op.state !== 'running') return op;
  }
}

/** An image that is ready to be cloned. */
async function image(r: Rig, body: Record<string, unknown>): Promise<ImageView> {
  const made = await r.call('POST', '/api/v1/images', { url: 'https://images.example/x', ...body });
  const { image: i, op } = made.body as { image: ImageView; op: OpView };
  await opDone(r, op.id);
  await r.view.ledger.refresh('image');
  return i;
}

void t.test(
  'an upload goes on where it broke off, and is checked before it is called complete',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    const bytes = Buffer.from('0123456789'.repeat(100));
    const made = await r.call('POST', '/api/v1/images', { name: 'img', sizeBytes: bytes.length });
    t.match(made, { status: 201, body: { image: { state: 'uploading', node: 'n1' }, op: null } });
    const put = (offset: number, data: Uint8Array) =>
      r.call('PUT', '/api/v1/images/img/content', data, { 'upload-offset': String(offset) });
    r.uploads.breakAfter = 1;
    t.match(await put(0, bytes.subarray(0, 300)), { status: 503, body: { code: 'node-unreachable' } });
    t.match((await r.call('GET', '/api/v1/images/img/upload')).body, { offset: 300, expectedBytes: 1000 });
    t.match(await put(7, bytes.subarray(7)), {
      status: 409,
      body: { code: 'offset-mismatch', details: { offset: 300 } },
    });
    t.match(await r.call('POST', '/api/v1/images/img/complete'), {
      status: 409,
      body: { code: 'offset-mismatch' },
    });
    t.match(await put(300, bytes.subarray(300)), { status: 200, body: { offset: 1000 } });
    t.same(r.uploads.files.get((made.body as { image: ImageView }).image.id), bytes);
    const done = await r.call('POST', '/api/v1/images/img/complete');
    t.match(done, {
      status: 202,
      body: { image: { state: 'importing' }, op: { kind: 'image.import', node: 'n1' } },
    });
    await opDone(r, (done.body as { op: OpView }).op.id);
    t.match((await r.call('GET', '/api/v1/images/img')).body, { state: 'ready' });
    t.match(await put(0, bytes), { status: 409, body: { code: 'wrong-state' } });
  },
);

void t.test('what is in use is not deleted', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await r.call('POST', '/api/v1/networks', {
    name: 'lan',
    bridge: 'lan0',
    subnet: '10.0.0.0/24',
    range: ['10.0.0.5', '10.0.0.9'],
  });
  await image(r, { name: 'base' });
  await image(r, { name: 'cd', format: 'iso' });
  const bad = await r.call('POST', '/api/v1/vms', { name: 'v', disks: [{ image: 'cd' }] });
  t.match(bad, { status: 400, body: { message: /ISO/ } });
  const made = await r.call('POST', '/api/v1/vms', {
    name: 'v',
    disks: [{ image: 'base', mode: 'linked' }],
    cdroms: [{ image: 'cd' }],
    nics: [{ network: 'lan' }],
  });
  t.equal(made.status, 202);
  t.match((made.body as { vm: VmView }).vm.disks, [
    { sizeBytes: 2 * GiB, source: { kind: 'image', mode: 'linked' } },
  ]);
  await opDone(r, (made.body as { op: OpView }).op.id);
  for (const path of ['images/base', 'images/cd', 'networks/lan', 'pools/local'])
    t.match(await r.call('DELETE', `/api/v1/${path}`), { status: 409, body: { code: 'in-use' } }, path);
  t.match(await r.call('PATCH', '/api/v1/networks/lan', { subnet: '10.9.0.0/24', range: null }), {
    status: 409,
    body: { code: 'in-use' },
  });
  const renamed = await r.call('PATCH', '/api/v1/networks/lan', { name: 'Lan 2', dns: ['10.0.0.1'] });
  t.match(renamed, { status: 200, body: { name: 'Lan 2', nics: 1 } });
  // VMs write again what they refer to; who saw the same content may still edit it.
  const seen = (await r.call('GET', '/api/v1/networks/lan 2')).headers.get('etag') ?? '';
  t.equal((await r.call('POST', '/api/v1/vms', { name: 'w', nics: [{ network: 'Lan 2' }] })).status, 202);
  await r.view.ledger.refresh();
  const again = (await r.call('GET', '/api/v1/networks/lan 2')).headers.get('etag');
  t.equal(again, seen);
  const edit = await r.call('PATCH', '/api/v1/networks/lan 2', { dns: ['10.0.0.2'] }, { 'if-match': seen });
  t.equal(edit.status, 200);
  t.not(edit.headers.get('etag'), seen);
  await opDone(r, ((await r.call('DELETE', '/api/v1/vms/w?force=true')).body as { op: OpView }).op.id);
  const old = { 'if-match': '"1"' };
  t.match(await r.call('PATCH', '/api/v1/networks/lan 2', { dns: [] }, old), {
    status: 409,
    body: { code: 'edit-conflict' },
  });
  await opDone(r, ((await r.call('DELETE', '/api/v1/vms/v?force=true')).body as { op: OpView }).op.id);
  await r.view.ledger.refresh();
  for (const path of ['images/base', 'images/cd'])
    t.equal((await r.call('DELETE', `/api/v1/${path}`)).status, 202, path);
  t.equal((await r.call('DELETE', '/api/v1/networks/lan 2')).status, 204);
});

void t.test('a VM made while its image is deleted: one of the two is refused, whoever wins', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const two = r.second();
  for (let i = 0; i < 5; i++) {
    await image(r, { name: `base${i}` });
    await two.view.ledger.refresh();
    const [made, gone] = await Promise.all([
      r.call('POST', '/api/v1/vms', { name: `v${i}`, disks: [{ image: `base${i}`, mode: 'linked' }] }),
      two.app.request(
        `https://c/api/v1/images/base${i}`,
        { method: 'DELETE', headers: { authorization: `Bearer ${r.token}` } },
        { incoming: { socket: {} } },
      ),
    ]);
    t.ok((made.status === 202) !== (gone.status === 202), `${made.status} ${gone.status}`);
  }
});

void t.test('a node is removed when it owns nothing, is set to leave, and votes no more', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const ask = () => r.call('DELETE', '/api/v1/nodes/n2');
  const vm = await r.call('POST', '/api/v1/vms', { name: 'v', node: 'n2' });
  t.match(await ask(), { status: 409, body: { code: 'in-use' } });
  await opDone(r, (vm.body as { op: OpView }).op.id);
  await opDone(r, ((await r.call('DELETE', '/api/v1/vms/v?force=true')).body as { op: OpView }).op.id);
  const kept = {
    id: '00000000-0000-4000-8000-00000000000a',
    vm: '00000000-0000-4000-8000-00000000000b',
    name: 'x',
    note: '',
    node: 'n2',
    disks: [
      {
        id: '00000000-0000-4000-8000-00000000000c',
        disk: '00000000-0000-4000-8000-00000000000d',
        name: 'root',
        pool: '00000000-0000-4000-8000-00000000000e',
        format: 'raw' as const,
        bus: 'virtio' as const,
        sizeBytes: 2 ** 30,
        replicated: false,
        usedBytes: 0,
      },
    ],
    consistency: 'crash' as const,
    state: 'ready' as const,
    takenMs: 0,
    keptFor: [],
    error: null,
  };
  r.memory.poke(kinds.vmSnapshot.key(kept.id), writeRecord(kinds.vmSnapshot, kept));
  t.match(await ask(), { status: 409, body: { code: 'in-use', message: /has 1 snapshots/ } });
  const inPool = { ...kept, node: null, disks: kept.disks.map((d) => ({ ...d, pool: r.local })) };
  r.memory.poke(kinds.vmSnapshot.key(kept.id), writeRecord(kinds.vmSnapshot, inPool));
  t.match(await r.call('DELETE', '/api/v1/pools/local'), {
    status: 409,
    body: { code: 'in-use', message: /holds 1 disks, images and snapshots, e.g. "x"/ },
  });
  r.memory.poke(kinds.vmSnapshot.key(kept.id), writeRecord(kinds.vmSnapshot, { ...kept, state: 'deleting' }));
  t.match(await ask(), { status: 409, body: { code: 'wrong-state', message: /not set to leave/ } });
  const dark = '/flotilla/vm/00000000-0000-4000-8000-00000000000d/own';
  r.memory.poke(dark, '{"owner":7}');
  await r.view.ledger.refresh();
  const unread = { status: 500, body: { code: 'unreadable-record', message: new RegExp(dark) } };
  t.match(await ask(), unread, 'nobody knows whose that VM is');
  t.match(await r.call('PATCH', '/api/v1/nodes/n2', { desired: 'leaving' }), unread);
  await r.ledger.txn([], [{ del: dark }]);
  await r.view.ledger.refresh();
  await r.call('PATCH', '/api/v1/nodes/n2', { desired: 'leaving' });
  const setVoter = async (voter: boolean): Promise<void> => {
    const key = kinds.node.key('n2');
    const at = await r.ledger.get(key);
    r.memory.poke(key, JSON.stringify({ ...(JSON.parse(at?.value ?? '') as object), voter }));
    await r.view.ledger.refresh('node');
  };
  await setVoter(true);
  t.match(await ask(), { status: 409, body: { code: 'wrong-state', details: { waitsFor: 'voter' } } });
  await setVoter(false);
  const etag = (await r.call('GET', '/api/v1/nodes/n2')).headers.get('etag') ?? '';
  const held = (tag: string) => r.call('DELETE', '/api/v1/nodes/n2', undefined, { 'if-match': tag });
  t.match(await held('"other"'), { status: 409, body: { code: 'edit-conflict' } });
  const certificate = (serial: string, node: string, key: string) => ({
    serial,
    node,
    fingerprint: key.repeat(64),
    issuedMs: 1,
    notAfterMs: 4e12,
    pem: 'x',
    revoked: null,
  });
  for (const c of [certificate('0A', 'n1', '0'), certificate('0B', 'n2', '1')])
    r.memory.poke(kinds.cert.key(c.serial), JSON.stringify(c));
  const revoke = (body: object) => r.call('POST', '/api/v1/certificates/0A/actions/revoke', body);
  t.match(await revoke({}), { status: 409, body: { code: 'in-use', hint: /flotilla node remove n1/ } });
  t.match(await r.call('POST', '/api/v1/certificates/0C/actions/revoke', {}), { status: 404 });
  t.equal((await held(etag)).status, 204);
  t.equal((await r.call('GET', '/api/v1/nodes/n2')).status, 404);
  t.match((await r.call('GET', '/api/v1/certificates')).body, {
    items: [
      { id: '0A', member: true, revoked: null },
      { id: '0B', member: false, revoked: { why: 'removed' } },
    ],
  });
  t.notMatch((await r.ledger.get(kinds.cert.key('0B')))?.value, /"pem":"/);
  t.match(await revoke({ force: true }), {
    status: 200,
    body: { member: false, revoked: { why: 'by-hand' } },
  });
  t.match(await revoke({}), { status: 200 }, 'said again it is no fault');
  t.equal(await r.ledger.get(kinds.node.key('n2')), null);
  t.match(await ask(), { status: 404 });
});

void t.test('nodes: what they shall be', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const n = await r.call('GET', '/api/v1/nodes/n1');
  const etag = n.headers.get('etag') ?? '';
  t.match(
    (await r.call('PATCH', '/api/v1/nodes/n1', { desired: 'maintenance' }, { 'if-match': etag })).body,
    {
      record: { desired: 'maintenance' },
    },
  );
  t.match(await r.call('PATCH', '/api/v1/nodes/n1', { rack: 'r1' }, { 'if-match': etag }), {
    status: 409,
    body: { code: 'edit-conflict' },
  });
  const storage = (node: string, storageAddress: string | null) =>
    r.call('PATCH', `/api/v1/nodes/${node}`, { storageAddress });
  t.match(await storage('n1', '10.9.0.1'), {
    status: 200,
    body: { record: { addresses: ['10.0.0.1', '10.9.0.1'] } },
  });
  t.match(await storage('n1', '10.9.0.1'), { status: 200 }, 'it has it already');
  t.match(await storage('n2', '10.9.0.1'), { status: 409, body: { code: 'address-taken' } });
  t.match(await storage('n2', '10.0.0.2'), { status: 400 }, 'that is its other one');
  t.match(await storage('n2', '224.0.0.1'), { status: 400 });
  t.match(await storage('n1', null), { status: 200, body: { record: { addresses: ['10.0.0.1'] } } });
  t.match(await storage('n2', '10.9.0.1'), { status: 200 }, 'it was given back');
  const vm = await r.call('POST', '/api/v1/vms', { name: 'v' });
  t.equal((vm.body as { vm: VmView }).vm.node, 'n2', 'nothing new comes to a node in maintenance');
});

void t.test(
  'the event stream: snapshot, changes, resume without a gap, snapshot for a foreign id',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    const open = async (lastEventId?: string) => {
      const res = await r.app.request(
        'https://c/api/v1/events?kinds=vm',
        {
          headers: {
            authorization: `Bearer ${r.token}`,
            ...(lastEventId ? { 'last-event-id': lastEventId } : {}),
          },
        },
        { incoming: { socket: {} } },
      );
      t.match(res.headers.get('content-type'), /event-stream/);
      const reader = (res.body as ReadableStream<Uint8Array>).getReader();
      let text = '';
      return {
        async next(): Promise<{ id: string; kind: string; data: Record<string, unknown> }> {
          for (;;) {
            const end = text.indexOf('\n\n');
            if (end !== -1) {
              const block = text.slice(0, end);
              text = text.slice(end + 2);
              const get = (k: string) => new RegExp(`^${k}: (.*)$`, 'm').exec(block)?.[1] ?? '';
              if (get('event') !== '')
                return { id: get('id'), kind: get('event'), data: JSON.parse(get('data')) as never };
              continue;
            }
            const { value } = await reader.read();
            text += new TextDecoder().decode(value);
          }
        },
        close: () => reader.cancel(),
      };
    };
    const a = await open();
    const snapshot = await a.next();
    t.match(snapshot, { kind: 'snapshot', data: { vms: [] } });
    await r.call('POST', '/api/v1/vms', { name: 'v' });
    const first = await a.next();
    t.match(first, { kind: 'vm', data: { name: 'v' } });
    await a.close();
    const made = await r.call('POST', '/api/v1/vms', { name: 'w' });
    await opDone(r, (made.body as { op: OpView }).op.id);
    const b = await open(first.id);
    const names = new Set<unknown>();
    while (!names.has('w')) {
      const e = await b.next();
      t.equal(e.kind, 'vm', 'no snapshot where the buffer still has all');
      names.add(e.data['name']);
    }
    await b.close();
    const c = await open('otherboot-17');
    t.match(await c.next(), { kind: 'snapshot', data: { vms: [{ name: 'v' }, { name: 'w' }] } });
    await c.close();
    t.match((await r.call('GET', '/api/v1/events?kinds=wat')).body, { code: 'bad-input' });
  },
);

void t.test('the event buffer is bounded, and says so to who fell behind', (t) => {
  const log = new EventLog('b');
  for (let i = 0; i < eventsKeptMax * 3; i++) log.push('vm', `{"i":${i}}`);
  t.equal(log.after(1), null);
  t.equal(log.after(log.lastSeq)?.length, 0);
  t.equal(log.after(log.lastSeq - 10)?.length, 10);
  t.equal(log.after(log.lastSeq - 10)?.[0]?.seq, log.lastSeq - 9);
  t.equal(log.after(log.lastSeq + 1), null, 'a cursor of the future is not one');
  const big = 'x'.repeat(1024 * 1024);
  for (let i = 0; i < 100; i++) log.push('vm', big);
  t.equal(log.after(log.lastSeq - 50), null, 'bounded by size, too');
  t.equal(log.after(log.lastSeq - 1)?.length, 1);
  t.end();
});

void t.test('the OpenAPI document has every route of the table, with named schemas', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const doc = (await r.call('GET', '/api/v1/openapi.json')).body as {
    openapi: string;
    paths: Record<string, Record<string, { operationId: string }>>;
    components: { schemas: Record<string, unknown> };
  };
  t.equal(doc.openapi, '3.1.0');
  const ids = Object.values(doc.paths).flatMap((m) => Object.values(m).map((o) => o.operationId));
  t.same(ids.filter((i) => !(i in restStreams)).sort(), Object.keys(rest).sort());
  t.equal(new Set(ids).size, ids.length);
  for (const name of ['Vm', 'VmRow', 'Node', 'Op', 'Problem', 'VmCreate', 'VmPatch'])
    t.ok(doc.components.schemas[name], name);
  t.match(doc.components.schemas['VmCreate'], { additionalProperties: false, required: ['name'] });
  const refs = [...JSON.stringify(doc).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map((m) => m[1]);
  t.same(
    refs.filter((x) => x === undefined || !(x in doc.components.schemas)),
    [],
    'no reference leads nowhere',
  );
});

void t.test('the page: for whoever is logged in, each time under a policy of its own', async (t) => {
  const file = (type: string, text: string) => ({ type, gzip: Uint8Array.from(gzipSync(text)) });
  const web = new Map([
    ['index.html', file('text/html; charset=utf-8', '<meta content="__NONCE__">')],
    ['assets/index-1.js', file('text/javascript; charset=utf-8', 'go()')],
  ]);
  const r = await rig(['n1'], web);
  t.teardown(() => r.stop());
  const nonces = new Set<string>();
  for (const path of ['/', '/vms/1/disks', '/nodes/n1']) {
    const page = await r.call('GET', path);
    t.equal(page.status, 200, path);
    const policy = page.headers.get('content-security-policy') ?? '';
    t.match(policy, /^default-src 'none'; script-src 'self';/);
    const nonce = /'nonce-([\w-]{22})'/.exec(policy)?.[1] ?? '';
    t.equal(page.body, `<meta content="${nonce}">`);
    nonces.add(nonce);
  }
  t.equal(nonces.size, 3, 'never the same twice');
  const script = await r.app.request('/assets/index-1.js', {
    headers: { 'accept-encoding': 'gzip' },
  });
  t.equal(script.headers.get('content-encoding'), 'gzip');
  t.match(script.headers.get('cache-control'), /immutable/);
  t.equal(await (await r.app.request('/assets/index-1.js')).text(), 'go()', 'for who takes no gzip');
  t.equal((await r.app.request('/assets/..%2findex.html')).status, 404);
  t.equal((await r.app.request('/assets/index-2.js')).status, 404);
});

void t.test('a thousand VMs are listed from texts at hand', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  r.agents.stop();
  const made = await r.call('POST', '/api/v1/vms', { name: 'seed', memoryMiB: 32 });
  const { spec, own } = (made.body as { vm: VmView }).vm;
  for (let i = 0; i < 1000; i++) {
    const id = `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`;
    r.memory.poke(`/flotilla/vm/${id}/spec`, JSON.stringify({ ...spec, id, name: `vm${i}` }));
    r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify(own));
  }
  await r.view.ledger.refresh();
  const { body } = await r.call('GET', '/api/v1/vms');
  const page = body as { total: number; items: { name: string }[] };
  t.equal(page.total, 1001);
  t.equal(page.items.length, 1001);
  const cellsBefore = r.view.list('vm').map((c) => c.json);
  await r.call('PATCH', '/api/v1/vms/vm7', { tags: ['x'] });
  const after = r.view.list('vm').map((c) => c.json);
  t.equal(after.filter((j, i) => j !== cellsBefore[i]).length, 1, 'one change makes one text');
});
