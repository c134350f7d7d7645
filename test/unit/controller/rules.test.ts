import t from 'tap';
import type { RuleList, RuleView } from '../../../core/wire/rest.js';
import { haRig, made } from './ha-rig.js';
import { GiB } from './rig.js';

const disks = [{ pool: 'shared', sizeBytes: GiB }];

void t.test(
  'rules: made, listed with what breaks them, refused where they cannot be kept, removed',
  async (t) => {
    const r = await haRig();
    t.teardown(() => r.stop());
    const post = (body: object) => r.call('POST', '/api/v1/rules', body);
    const list = async () => (await r.call('GET', '/api/v1/rules')).body as RuleList;
    t.same(await list(), { items: [], conflicts: [] });
    const web = await made(r, { name: 'web', disks, node: 'n1', tags: ['front'] });
    await made(r, { name: 'db', disks, node: 'n1' });
    const apart = await post({ name: 'two', kind: 'apart', vms: ['web', 'DB'] });
    t.match(apart, {
      status: 201,
      body: { name: 'two', must: true, over: 'node', vms: [{ name: 'db' }, { name: 'web', vm: web.id }] },
    });
    t.match((apart.body as RuleView).broken, [/db on n1: web is there/, /web on n1: db is there/]);
    t.match(await post({ name: 'TWO', kind: 'apart', tags: ['x'] }), {
      status: 409,
      body: { code: 'name-taken' },
    });
    t.match(await post({ name: 'near', kind: 'together', vms: ['web', 'db'] }), {
      status: 409,
      body: { code: 'rule-conflict', message: /db and web must be together and apart/, hint: /"two"/ },
    });
    t.match(await post({ name: 'near', kind: 'together', must: false, vms: ['web', 'db'] }), { status: 201 });
    for (const bad of [
      { name: 'x', kind: 'apart', vms: ['web'] },
      { name: 'x', kind: 'on', vms: ['web'] },
      { name: 'x', kind: 'together', vms: ['web', 'db'], nodes: ['n1'] },
      { name: 'x', kind: 'on', nodes: ['n1'] },
      { name: 'x', kind: 'sometimes', vms: ['web', 'db'] },
      { name: 'x', kind: 'on', vms: ['web'], nodes: ['n1'], more: 1 },
    ])
      t.match(await post(bad), { status: 400 }, JSON.stringify(bad));
    t.match(await post({ name: 'x', kind: 'on', vms: ['nobody'], nodes: ['n1'] }), { status: 404 });
    t.match(await post({ name: 'x', kind: 'on', vms: ['web'], nodes: ['n9'] }), { status: 404 });

    // Placement and the start of VMs keep to them.
    t.match(await post({ name: 'front', kind: 'on', tags: ['front'], nodes: ['n2'] }), {
      status: 201,
      body: { broken: [/web on n1: only n2/] },
    });
    t.match((await made(r, { name: 'web2', disks, tags: ['front'] })).own, { owner: 'n2' });
    t.match(await r.call('POST', '/api/v1/vms', { name: 'web3', disks, tags: ['front'], node: 'n1' }), {
      status: 409,
      body: { code: 'no-node-fits', message: /the rule "front" bars it: only n2/ },
    });
    t.match(await r.call('POST', '/api/v1/vms/web/actions/start'), {
      status: 409,
      body: {
        code: 'rule-conflict',
        message: /it breaks the rule "front": only n2/,
        hint: /balance mode rules-only/,
      },
    });
    await r.call('PATCH', '/api/v1/policy', { plan: { balance: 'rules-only' } });
    t.match(await r.call('POST', '/api/v1/vms/web/actions/start'), {
      status: 202,
      body: { warnings: [/breaks the rule "front"/, /breaks the rule "two"/] },
    });
    t.match(await r.call('DELETE', '/api/v1/rules/Front'), { status: 204 });
    t.same(
      (await list()).items.map((x) => x.name),
      ['near', 'two'],
    );
    t.match(await r.call('DELETE', '/api/v1/rules/front'), { status: 404 });
  },
);

void t.test('nodes are named by rack and tag', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  await made(r, { name: 'web', disks, node: 'n1' });
  t.match(await r.call('PATCH', '/api/v1/nodes/n3', { tags: ['ssd'], rack: 'r7' }), {
    body: { record: { tags: ['ssd'], rack: 'r7' } },
  });
  const rule = (name: string, o: object) =>
    r.call('POST', '/api/v1/rules', { name, kind: 'on', vms: ['web'], ...o });
  t.match(await rule('a', { nodeTags: ['ssd'] }), { body: { broken: [/only n3/] } });
  t.match(await rule('b', { racks: ['r7'] }), { status: 201 });
  t.match(await rule('c', { racks: ['r8'] }), { status: 409, body: { message: /no node is left for web/ } });
  await r.call('PATCH', '/api/v1/nodes/n3', { tags: [] });
  t.match(((await r.call('GET', '/api/v1/rules')).body as RuleList).conflicts, [
    { rules: ['a', 'b'], text: 'no node is left for web' },
  ]);
});
