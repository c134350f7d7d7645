import t, { type Test } from 'tap';
import type { Disk } from '../../core/domain/disk.js';
import { opFinished } from '../../core/domain/op.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { World } from './cluster/world.js';

/** A VM with two copies that are the same, on n2 and n1. A lost standby is replaced after a minute. */
async function cluster(nodes: number): Promise<{ w: World; vm: string }> {
  const w = new World({ seed: 7, nodes, log: true, locks: null, copies: true });
  w.boot();
  const vm = w.createVm('db', 'n2', {}, 'n1');
  await w.until('both have every write', () => w.own(vm)?.sync === 'ok' && w.runsOn(vm)[0] === 'n2');
  w.replaceAfter(1);
  return { w, vm };
}

const second = (w: World, vm: string): string => w.own(vm)?.copies[1]?.node ?? '';
const standbyOp = (w: World): string =>
  w.ops().find((o) => o.kind === 'vm.standby' && !opFinished(o))?.id ?? '';

/** n1 is lost, and another node copies in its place. @returns which, and the operation */
async function replaced(w: World, vm: string): Promise<{ to: string; op: string }> {
  w.node('n1').powerLoss();
  await w.until('another one is in its place', () => second(w, vm) !== 'n1', 120_000);
  return { to: second(w, vm), op: standbyOp(w) };
}

await t.test('the new standby is lost before it is whole: the next one takes its place', async (t) => {
  const { w, vm } = await cluster(5);
  const { to, op } = await replaced(w, vm);
  w.node(to).powerLoss();
  w.node('n1').powerOn();
  await w.until(
    'a third one has every write',
    () => {
      return w.own(vm)?.sync === 'ok' && !['n1', to].includes(second(w, vm));
    },
    180_000,
  );
  t.match(w.op(op), { state: 'failed', error: { code: 'node-unreachable', message: `${to} was lost` } });
  await w.until('its own op is done', () => standbyOp(w) === '', 30_000);
  t.equal(w.runsOn(vm)[0], 'n2');
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('it is cancelled while it copies: the copies meet when they can', async (t) => {
  const { w, vm } = await cluster(4);
  const { to, op } = await replaced(w, vm);
  w.storage.cut = true;
  w.cancel(op);
  await w.until('it ends', () => opFinished(w.op(op)), 30_000);
  t.match(w.op(op), { state: 'cancelled' });
  w.storage.cut = false;
  await w.until('they are the same', () => w.own(vm)?.sync === 'ok', 60_000);
  t.equal(second(w, vm), to);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('its VM is deleted while it copies: no operation is left open', async (t) => {
  const { w, vm } = await cluster(4);
  const { op } = await replaced(w, vm);
  w.storage.cut = true;
  w.deleteVm(vm);
  await w.until('it is gone', () => w.own(vm) === null, 60_000);
  t.match(w.op(op), { state: 'cancelled', step: 'deleted' });
  t.same(w.checks.violations, []);
  w.end();
});

async function halfReverted(t: Test, deleted: boolean): Promise<void> {
  const w = new World({ seed: 7, nodes: 3, log: true, locks: null, copies: true });
  w.boot();
  const vm = w.createVm('off', 'n1', { power: 'stopped' }, 'n2');
  await w.until('both have every write', () => w.own(vm)?.sync === 'ok');
  const { store } = w.voters;
  const of = <T>(prefix: string, is: (x: T) => boolean): readonly [string, T] => {
    const found = store
      .peekAll(prefix)
      .map((e) => [e.key, JSON.parse(e.value) as T] as const)
      .find(([, x]) => is(x));
    if (found === undefined) throw new Error(`nothing below ${prefix}`);
    return found;
  };
  const [key, disk] = of<Disk>(kinds.disk.prefix, (d) => d.vm === vm);
  w.node('n1').powerLoss();
  const x: VmSnapshot = {
    id: '00000000-0000-4000-8000-0000000000a1',
    vm,
    name: 'x',
    note: '',
    node: 'n1',
    disks: [
      {
        id: '00000000-0000-4000-8000-0000000000a2',
        disk: disk.id,
        name: disk.name,
        pool: disk.pool,
        format: 'raw',
        bus: 'virtio',
        sizeBytes: disk.sizeBytes,
        replicated: true,
        usedBytes: 0,
      },
    ],
    consistency: 'stopped',
    state: 'ready',
    takenMs: 1,
    keptFor: [],
    error: null,
  };
  store.poke(kinds.vmSnapshot.key(x.id), writeRecord(kinds.vmSnapshot, x));
  const source = { kind: 'snapshot', snapshot: x.id, volume: x.disks[0]?.id ?? '' } as const;
  store.poke(key, writeRecord(kinds.disk, { ...disk, state: 'wanted', source }));
  await w.pass(60_000);
  t.equal(w.own(vm)?.owner, 'n1');
  if (deleted) {
    w.deleteVm(vm);
    await w.until('it is gone all the same', () => w.own(vm) === null, 60_000);
    return w.end();
  }
  store.poke(key, writeRecord(kinds.disk, disk));
  await w.until('it goes to its other copy', () => w.own(vm)?.owner === 'n2', 30_000);
  t.same(w.checks.violations, []);
  w.end();
}

await t.test('off, and half reverted to a snapshot that its lost owner has: it waits for that one', (t) =>
  halfReverted(t, false),
);
await t.test('and is deleted without it', (t) => halfReverted(t, true));
