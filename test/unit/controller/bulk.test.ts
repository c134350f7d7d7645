import t from 'tap';
import { bulkArgs } from '../../../core/domain/bulk.js';
import type { Op } from '../../../core/domain/op.js';
import type { VmBulkAnswer } from '../../../core/wire/rest.js';
import { lab } from './cli-rig.js';
import { armed, haRig, made } from './ha-rig.js';
import { GiB } from './rig.js';

const disks = [{ pool: 'shared', sizeBytes: GiB }];

void t.test(
  'the same with many VMs: what would become of each, then one operation, asked for once',
  async (t) => {
    const l = await lab(haRig);
    const { r } = l;
    t.teardown(() => l.stop());
    const names = ['web', 'db', 'mail'];
    for (const [i, name] of names.entries())
      await made(r, { name, disks, node: `n${i + 1}`, tags: ['office'], ha: { enabled: true } });
    await made(r, { name: 'on', disks, node: 'n1', power: 'running', ha: { enabled: true } });
    await armed(r, 'on', 'n2');
    const ask = async (body: object, headers: Record<string, string> = {}) =>
      r.call('POST', '/api/v1/bulk', body, headers);

    const dry = await ask({ action: 'start', vms: [...names, 'on', 'web'], dryRun: true, atOnce: 2 });
    t.match(dry, {
      status: 202,
      body: { op: null, sentence: '3 VMs on 3 nodes, 2 at a time; 1 VM is so already' },
    });
    t.same(
      (dry.body as VmBulkAnswer).vms.map((v) => [v.name, v.state]),
      [...names.map((n) => [n, 'waiting']), ['on', 'done']],
      'each once',
    );
    t.match(await r.call('GET', '/api/v1/ops?kind=vm.bulk'), { body: { total: 0 } }, 'nothing was done');

    const key = { 'idempotency-key': 'k-1234567' };
    const body = { action: 'start', vms: names };
    const first = (await ask(body, key)).body as VmBulkAnswer;
    const again = (await ask(body, key)).body as VmBulkAnswer;
    t.equal(again.op?.id, first.op?.id, 'sent twice it is one');
    t.match(await ask({ ...body, vms: ['web'] }, key), { status: 400, body: { code: 'bad-input' } });
    let now = first.op as Op;
    while (now.state === 'queued' || now.state === 'running')
      now = (await r.call('GET', `/api/v1/ops/${now.id}?waitS=5`)).body;
    t.match(now, { state: 'done', subject: { kind: 'cluster', name: 'start, 3 VMs' } });
    t.same(
      bulkArgs(now)?.vms.map((v) => v.state),
      ['done', 'done', 'done'],
    );

    t.match(await ask({ action: 'pause', vms: ['nobody'] }), { status: 404 });
    t.match(await ask({ action: 'start', vms: names }), { status: 409, body: { code: 'wrong-state' } });
    t.match(await ask({ action: 'stop', vms: names, to: 'n1' }), {
      status: 400,
      body: { code: 'bad-input' },
    });
    t.match(await ask({ action: 'stop', vms: Array.from({ length: 251 }, () => 'web') }), { status: 400 });

    for (const name of names) await armed(r, name, name === 'db' ? 'n3' : 'n2');
    const moves = (await ask({ action: 'migrate', vms: [...names, 'on'], to: 'n2', dryRun: true })).body;
    t.match(moves, { sentence: /3 VMs on 2 nodes, 2 at a time; 3 to n2; 1 VM is so already/ });

    const out = await l.run('vm', 'bulk', 'stop', '--tag', 'office', '--at-once', '3', '--dry-run');
    t.match(out, { code: 0, out: /web +n1 +be done/, err: /3 VMs on 3 nodes/ });
    t.match(await l.run('vm', 'stop', 'web', 'db', 'mail'), { code: 0, out: /stop, 3 VMs/ });
    t.match(await l.run('vm', 'bulk', 'stop'), { code: 2, err: /1 to 250 VMs/ });
    t.match(await l.run('vm', 'bulk', 'explode', 'web'), { code: 2 });
  },
);
