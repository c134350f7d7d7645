import t from 'tap';
import { exitCodes } from '../../../controller/cli/exit.js';
import { lab } from './cli-rig.js';

interface Answer {
  status: number;
  body: Record<string, unknown> & { op?: { id: string }; items?: Record<string, unknown>[] };
}

void t.test('keep, look, go back, delete', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const call = (method: string, at: string, body?: unknown) =>
    l.r.call(method, `/api/v1/vms/${at}`, body) as unknown as Promise<Answer>;
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB', '--start'), { code: 0 });
  t.match(await l.run('snapshot', 'create', 'web', 'first', '--note', 'one'), { code: 0, out: /web/ });
  t.match(await l.run('snapshot', 'list', 'web'), { code: 0, out: /first .*512 MiB .*n\d .*ready .*you/ });
  t.match(await call('POST', 'web/snapshots', { name: 'first' }), {
    status: 409,
    body: { code: 'name-taken' },
  });
  t.match(await call('POST', 'web/snapshots', { consistency: 'perhaps' }), { status: 400 });
  t.match(await call('POST', 'web/snapshots', { name: '../x' }), { status: 400 });
  t.match(await call('GET', 'none/snapshots'), { status: 404 });
  t.match(await l.run('snapshot', 'revert', 'web', 'first', '--yes'), {
    code: exitCodes.refused,
    err: /it is not off/,
  });
  t.match(await l.run('vm', 'stop', 'web'), { code: 0 });
  t.match(await l.run('snapshot', 'revert', 'web', 'none', '--yes'), { err: /no snapshot "none"/ });
  t.match(await l.run('snapshot', 'revert', 'web', 'first'), {
    code: exitCodes.usage,
    err: /--snapshot-before/,
  });
  t.match(await l.run('snapshot', 'revert', 'web', 'first', '--snapshot-before'), { code: 0 });
  // The ledger tells the end of it before the radio tells the phase.
  const vm = (await call('GET', 'web')).body as unknown as { id: string; node: string };
  const lines = l.r.radio.nodes.get(vm.node)?.vms;
  const line = lines?.get(vm.id);
  if (lines === undefined || line === undefined) throw new Error('nobody tells of it');
  const say = (phase: 'creating' | 'stopped', atMs: number): void => {
    lines.set(vm.id, { ...line, phase, atMs });
    l.r.radio.news();
    l.r.view.fold();
  };
  say('creating', 1);
  const start = call('POST', 'web/actions/start');
  setTimeout(() => say('stopped', Date.now()), 200);
  t.equal((await start).status, 202);
  const { body } = await call('GET', 'web/snapshots');
  t.match(
    body.items?.map((x) => [x['state'], x['note']]).sort(),
    [
      ['ready', 'Before going back to first'],
      ['ready', 'one'],
    ],
    'what was there is kept',
  );
  t.match(await l.run('snapshot', 'delete', 'web', 'first'), { code: 0, out: /first is being deleted/ });
  t.match(await l.run('snapshot', 'list', 'web', '--json'), { out: /"state": "deleting"/ });
});

void t.test('one at a time, and sent twice it is one', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB'), { code: 0 });
  l.r.agents.stuck.add('vm.snapshot');
  const path = '/api/v1/vms/web/snapshots';
  const headers = { 'idempotency-key': 'a-key-of-a-request' };
  const first = (await l.r.call('POST', path, { name: 'a' }, headers)) as unknown as Answer;
  const again = (await l.r.call('POST', path, { name: 'a' }, headers)) as unknown as Answer;
  t.equal(first.status, 202);
  t.equal(again.body.op?.id, first.body.op?.id);
  const other = (await l.r.call('POST', path, { name: 'b' })) as unknown as Answer;
  t.match(other, { status: 409, body: { code: 'wrong-state', message: /vm.snapshot under way/ } });
  const del = (await l.r.call('DELETE', `${path}/a`)) as unknown as Answer;
  t.match(del, { status: 409, body: { code: 'in-use' } });
});

void t.test('a clone has an identity of its own', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const get = async (name: string) =>
    ((await l.r.call('GET', `/api/v1/vms/${name}`)) as unknown as { body: CloneSeen }).body;
  t.match(
    await l.run(
      'network',
      'create',
      'lan',
      '--bridge',
      'fl-lan',
      '--subnet',
      '10.0.0.0/24',
      '--range',
      '10.0.0.10-10.0.0.99',
    ),
    { code: 0 },
  );
  const made = await l.r.call('POST', '/api/v1/vms', {
    name: 'web',
    disks: [{ sizeBytes: 2 ** 30 }, { sizeBytes: 2 ** 31 }],
    nics: [{ network: 'lan' }],
    cloudInit: { hostname: 'web', sshKeys: ['ssh-ed25519 AAAA x'] },
    power: 'running',
  });
  t.equal(made.status, 202);
  const { op } = made.body as { op: { id: string } };
  t.match((await l.r.call('GET', `/api/v1/ops/${op.id}?waitS=30`)).body, { state: 'done' });
  t.match(await l.run('snapshot', 'create', 'web', 'gold'), { code: 0 });
  t.match(await l.run('vm', 'clone', 'web', 'Web Two', '--snapshot', 'gold'), {
    code: 0,
    out: /"Web Two" is made on n\d/,
  });
  const [web, two] = [await get('web'), await get('Web%20Two')];
  t.not(two.id, web.id);
  t.equal(two.node, web.node, 'where the snapshot is');
  t.not(two.spec.nics[0]?.mac, web.spec.nics[0]?.mac);
  t.match([web.spec.nics[0]?.address, two.spec.nics[0]?.address], ['10.0.0.10', '10.0.0.11']);
  t.match(two.spec, {
    power: 'stopped',
    cloudInit: { hostname: 'web-two', sshKeys: ['ssh-ed25519 AAAA x'] },
  });
  t.same(
    two.disks.map((d) => [d.name, d.sizeBytes, d.source.kind]),
    web.disks.map((d) => [d.name, d.sizeBytes, 'snapshot']),
  );
  t.equal(two.disks.filter((d) => web.disks.some((o) => o.id === d.id)).length, 0);
  t.match(await l.run('vm', 'clone', 'web', 'web', '--snapshot', 'gold'), {
    code: exitCodes.refused,
    err: /web/,
  });
  t.match(await l.run('vm', 'clone', 'web', 'x', '--snapshot', 'none'), { code: exitCodes.notFound });
  const other = web.node === 'n1' ? 'n2' : 'n1';
  t.match(await l.run('vm', 'clone', 'web', 'x', '--snapshot', 'gold', '--node', other), {
    err: /lies on n\d/,
  });
  t.match(await l.run('vm', 'clone', 'web', 'three'), { code: 0 }, 'without a snapshot one is taken');
  const { out } = await l.run('snapshot', 'list', 'web', '--json');
  t.match((JSON.parse(out) as { note: string; state: string }[]).map((x) => [x.note, x.state]).sort(), [
    ['', 'ready'],
    ['For three', 'deleting'],
  ]);
  t.match(await l.run('snapshot', 'create', 'web', 'silver'), { code: 0 });
  const clone = (snapshot: string): Promise<Answer> =>
    l.r.call(
      'POST',
      '/api/v1/clones',
      { name: 'four', vm: 'web', snapshot },
      { 'idempotency-key': 'clone-12345678' },
    );
  const [first, again] = [await clone('gold'), await clone('gold')];
  t.equal(first.status, 202);
  t.equal(again.body.op?.id, first.body.op?.id, 'asked again it is one');
  t.equal((await clone('silver')).status, 400, 'of another snapshot it is another request');
});

interface CloneSeen {
  id: string;
  node: string;
  spec: { nics: { mac: string; address: string }[]; power: string; cloudInit: unknown };
  disks: { id: string; name: string; sizeBytes: number; source: { kind: string } }[];
}

void t.test('a schedule is set, shown, and ended', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB'), { code: 0 });
  t.match(await l.run('snapshot', 'schedule', 'web'), { code: 0, out: /no snapshots/ });
  t.match(await l.run('snapshot', 'schedule', 'web', '--hourly', '24', '--weekly', '4'), {
    code: 0,
    out: /24 hours, 0 days and 4 weeks/,
  });
  t.match(await l.run('snapshot', 'schedule', 'web', '--daily', '7'), {
    out: /24 hours, 7 days and 4 weeks/,
  });
  t.match(await l.run('snapshot', 'schedule', 'web', '--hourly', '99'), { code: exitCodes.usage });
  t.match(await l.run('snapshot', 'schedule', 'web', '--off'), { code: 0, out: /no snapshots/ });
});
