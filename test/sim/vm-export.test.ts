import t from 'tap';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { SimNode, type Death } from './sim-node.js';

/** A package of a VM that runs: from a snapshot that is taken for it and goes with the operation, whatever comes of that. */

async function running(n: SimNode, thin: boolean): Promise<string> {
  const vm = n.createVm({}, { thin });
  await n.until('running', () => n.said.get(vm.id)?.phase === 'running');
  return vm.id;
}

async function exported(
  thin: boolean,
  death: Death | null,
): Promise<{ n: SimNode; vm: string; acts: number }> {
  const n = new SimNode();
  n.boot();
  const vm = await running(n, thin);
  const until = n.untilOutlived.bind(n);
  n.acts = 0;
  n.death = death;
  const x = n.export(vm);
  await until('packed', () => n.op(x.op).state === 'done');
  await until('its snapshot is gone', () => n.snapshotsOf(vm).length === 0);
  t.same(n.files.packed.get(x.op), x.volumes, 'the snapshot was packed, not the disk');
  return { n, vm, acts: n.acts };
}

const runsFree = (n: SimNode, vm: string): boolean =>
  n.host.mirrors.size === 0 &&
  n.files.snapshots.size === 0 &&
  n.host.domains.get(vm)?.state.state === 'running';

for (const thin of [true, false])
  await t.test(`on a ${thin ? 'thin' : 'local'} pool, with the agent dying at each act`, async (t) => {
    const whole = await exported(thin, null);
    t.ok(runsFree(whole.n, whole.vm));
    t.ok(whole.acts >= 5, `${whole.acts} acts`);
    await whole.n.stop();
    for (let at = 0; at < whole.acts; at++)
      for (const when of ['before', 'after'] as const) {
        const { n, vm } = await exported(thin, { at, when });
        t.ok(runsFree(n, vm), `${when} act ${at}: it runs, and nothing is left`);
        await n.stop();
      }
  });

await t.test(
  'cancelled while it is packed, refused, or its VM deleted: the snapshot goes all the same',
  async (t) => {
    const n = new SimNode();
    n.boot();
    const vm = await running(n, true);
    let packing = false;
    n.files.packing = () => {
      packing = true;
      return n.clock.sleep(5_000);
    };
    const first = n.export(vm);
    await n.until('it is being packed', () => packing);
    n.ledger.poke(kinds.op.key(first.op), writeRecord(kinds.op, { ...n.op(first.op), cancelAsked: true }));
    await n.until('cancelled', () => n.op(first.op).state === 'cancelled');
    await n.until('its snapshot is gone', () => n.snapshotsOf(vm).length === 0);
    n.files.beforeSnapshot = () => {
      throw new Error('the pool is full');
    };
    const second = n.export(vm);
    await n.until('failed', () => n.op(second.op).state === 'failed');
    await n.until('its snapshot is gone', () => n.snapshotsOf(vm).length === 0);
    n.files.beforeSnapshot = () => undefined;
    packing = false;
    const third = n.export(vm);
    await n.until('it is being packed', () => packing);
    const del = n.ask('vm.delete', vm);
    await n.until('deleted', () => n.op(del).state === 'done');
    await n.until('ended', () => ['done', 'failed'].includes(n.op(third.op).state));
    await n.until('its snapshot is gone', () => n.snapshotsOf(vm).length === 0);
    t.equal(n.files.snapshots.size, 0);
    t.same([...n.files.packed.keys()], [third.op], 'the volumes stayed until it was packed');
    await n.stop();
  },
);
