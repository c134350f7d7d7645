import t from 'tap';
import type { NodeView, VappApplied, VmView } from '../../../core/wire/rest.js';
import { haRig, made } from './ha-rig.js';

/** What is reserved and allowed for all of a vApp, at the door. How it is divided: test/unit/core/decide/bundle.test.ts. */

const r = await haRig();
t.teardown(() => r.stop());

const doc = (o: object, memory = '1G') => ({
  document: { kind: 'VApp', name: 'crew', members: { db: { vm: { memory, node: 'n1' } } }, ...o },
});
const apply = (body: object) => r.call('POST', '/api/v1/vapps', body);
const promised = async (): Promise<number> =>
  ((await r.call('GET', '/api/v1/nodes/n1')).body as NodeView).committedMemoryMiB;

await t.test('a document that does not keep to its own limits is refused', async (t) => {
  t.match(await apply(doc({ memoryAllocation: { limit: 1023 } })), {
    status: 400,
    body: {
      code: 'bad-input',
      message: /memoryAllocation\.limit: its members have 1024 MiB, more than 1023/,
    },
  });
  for (const key of ['memoryAllocation', 'cpuAllocation'])
    t.match(await apply(doc({ [key]: { reservation: 5000, limit: 4000 } })), {
      status: 400,
      body: { message: new RegExp(`${key}\\.reservation: is more than the limit of 4000`) },
    });
});

await t.test('more than any node has cannot be reserved', async (t) => {
  t.match(await apply({ ...doc({ memoryAllocation: { reservation: 1e7 } }), dryRun: true }), {
    status: 409,
    body: { code: 'no-node-fits' },
  });
});

await t.test(
  'what is reserved is promised by its node, and its members grow into it up to the limit',
  async (t) => {
    const applied = await apply(doc({ memoryAllocation: { reservation: 3072, limit: 4096 } }));
    t.equal(applied.status, 202, JSON.stringify(applied.body));
    const id = (applied.body as VappApplied).vapp?.id ?? '';
    const before = await promised();
    // As the agents leave it.
    const vm = await made(r, { name: 'crew-db', memoryMiB: 1024, node: 'n1' });
    const vapp = r.view.ledger.tables.vapp.get(id)?.value;
    const member = { ...vapp?.members[0], vm: vm.id, make: null };
    r.memory.poke(`/flotilla/vm/${vm.id}/spec`, JSON.stringify({ ...vm.spec, vapp: { id, member: 'db' } }));
    r.memory.poke(`/flotilla/vapp/${id}`, JSON.stringify({ ...vapp, members: [member] }));
    for (const e of r.memory.peekAll('/flotilla/op/'))
      r.memory.poke(e.key, JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'done' }));
    await r.view.ledger.refresh();
    t.equal((await promised()) - before, 3072);
    const grow = (memoryMiB: number) => r.call('PATCH', '/api/v1/vms/crew-db', { memoryMiB });
    t.equal((await grow(2048)).status, 202);
    t.equal((await promised()) - before, 3072, 'from what was reserved');
    t.equal((await grow(4096)).status, 202);
    t.equal((await promised()) - before, 4096);
    t.match(await grow(4097), {
      status: 400,
      body: {
        message: /vApp "crew" would have 4097 MiB, and its limit is 4096 MiB/,
        hint: /memoryAllocation/,
      },
    });
    t.equal(((await r.call('GET', '/api/v1/vms/crew-db')).body as VmView).memoryMiB, 4096);
  },
);
