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
