import { randomUUID } from 'node:crypto';
import t, { type Test } from 'tap';
import { newCopies, newReplica, newVolumes } from '../../core/decide/replica-edit.js';
import type { Disk } from '../../core/domain/disk.js';
import type { Replica } from '../../core/domain/replica.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { FakePairs } from './fake-pairs.js';
import { SimNode, type Death } from './sim-node.js';

const GiB = 2 ** 30;
const none = { minors: new Set<number>(), ports: new Set<number>() };

function get<T>(n: SimNode, key: string): T | null {
  const e = n.ledger.peek(key);
  return e === null ? null : (JSON.parse(e.value) as T);
}
const diskOf = (n: SimNode, id: string): Disk | null => get<Disk>(n, kinds.disk.key(id));
const replicaOf = (n: SimNode, vm: string): Replica | null => get<Replica>(n, kinds.replica.key(vm));
const paths = (n: SimNode, vm: string): string => n.host.domains.get(vm)?.xml ?? '';

/** What the API writes for a new disk of a VM that is there; with two copies: beside those that it has. */
function addDisk(n: SimNode, vm: string, replicas: 1 | 2, pool?: string): string {
  const id = randomUUID();
  const first = n.spec(vm)?.disks[0]?.disk ?? '';
  const like = diskOf(n, first);
  if (like === null) throw new Error('the VM has no disk');
  const { replicas: _, ...rest } = like;
  const disk: Disk = {
    ...rest,
    id,
    name: `more-${id.slice(0, 4)}`,
    pool: pool ?? like.pool,
    ...(replicas === 2 ? { replicas, node: null } : { node: n.node }),
    format: 'raw',
    madeBytes: 0,
    state: 'wanted',
  };
  n.ledger.poke(kinds.disk.key(id), writeRecord(kinds.disk, disk));
  if (replicas === 2) {
    const before = replicaOf(n, vm);
    const nodes = [
      { id: 'n1', addresses: ['10.0.0.1'] },
      { id: 'n2', addresses: ['10.0.0.2'] },
    ] as const;
    const taken = { ...none, minors: new Set((before?.volumes ?? []).map((v) => v.minor)) };
    const next =
      before === null
        ? newReplica({ vm, disks: [disk], nodes, secret: 'a'.repeat(32), taken })
        : { ...before, volumes: [...before.volumes, ...newVolumes([disk], before.volumes, taken)] };
    if (next === null) throw new Error('no pair');
    n.ledger.poke(kinds.replica.key(vm), writeRecord(kinds.replica, next));
    const own = n.own(vm);
    if (own !== null && before === null)
      n.ledger.poke(
        kinds.vmOwn.key(vm),
        writeRecord(kinds.vmOwn, { ...own, ...newCopies('n1', 'n2'), synced: [] }),
      );
  }
  n.edit(vm, { disks: [...(n.spec(vm)?.disks ?? []), { disk: id, bus: 'virtio' }] });
  return id;
}

const grow = (n: SimNode, id: string, sizeBytes: number): void => {
  const d = diskOf(n, id);
  if (d === null) throw new Error('no such disk');
  n.ledger.poke(kinds.disk.key(id), writeRecord(kinds.disk, { ...d, sizeBytes }));
};

const remove = (n: SimNode, vm: string, id: string): void => {
  const d = diskOf(n, id);
  if (d === null) throw new Error('no such disk');
  n.ledger.poke(kinds.disk.key(id), writeRecord(kinds.disk, { ...d, state: 'deleting' }));
  n.edit(vm, { disks: (n.spec(vm)?.disks ?? []).filter((x) => x.disk !== id) });
};

await t.test('a disk is added, grown, taken out, put back and deleted while its VM runs', async (t) => {
  const n = new SimNode();
  n.boot();
  t.teardown(() => n.stop());
  const vm = n.createVm();
  await n.until('running', () => n.said.get(vm.id)?.phase === 'running');

  const disk = addDisk(n, vm.id, 1);
  await n.until('it is in the machine', () => paths(n, vm.id).includes(disk));
  t.ok(n.files.disks.has(disk));

  grow(n, disk, 2 * GiB);
  const update = n.ask('vm.update', vm.id);
  await n.until('grown', () => diskOf(n, disk)?.madeBytes === 2 * GiB);
  t.equal(n.host.sizes.get(`${vm.id}/vdb`), 2 * GiB);
  await n.until('done', () => n.op(update).state === 'done');

  const plug = (detached: boolean): void =>
    n.edit(vm.id, {
      disks: (n.spec(vm.id)?.disks ?? []).map((d) =>
        d.disk === disk ? { disk, bus: d.bus, ...(detached ? { detached } : {}) } : d,
      ),
    });
  plug(true);
  await n.until('it is out', () => !paths(n, vm.id).includes(disk));
  await n.clock.advance(20_000);
  t.ok(n.files.disks.has(disk), 'its data stay');
  grow(n, disk, 3 * GiB);
  const later = n.ask('vm.update', vm.id);
  await n.until('nobody waits for what is not in the machine', () => n.op(later).state === 'done');
  plug(false);
  await n.until('it is back', () => paths(n, vm.id).includes(disk));
  await n.until('and has grown', () => diskOf(n, disk)?.madeBytes === 3 * GiB);

  remove(n, vm.id, disk);
  await n.until('it is gone', () => diskOf(n, disk) === null && !n.files.disks.has(disk));
  t.notOk(paths(n, vm.id).includes(disk));
  t.equal(n.host.starts.length, 1);
});

/** A VM that runs gets its first disk with two copies, a second one, which grows, and loses both. */
async function copies(death: Death | null): Promise<{ n: SimNode; pairs: FakePairs; acts: number }> {
  const n = new SimNode();
  const pairs = new FakePairs(n.clock);
  n.pairs = pairs;
  n.peerDesk('n2', pairs);
  n.boot(death);
  const until = n.untilOutlived.bind(n);
  const vm = n.createVm();
  await until('running', () => n.said.get(vm.id)?.phase === 'running');
  const inSync = (): boolean => n.own(vm.id)?.sync === 'ok';

  const one = addDisk(n, vm.id, 2, n.thinId);
  await until('its first pair', () => paths(n, vm.id).includes('/dev/drbd1000') && inSync());
  const two = addDisk(n, vm.id, 2, n.thinId);
  await until('its second disk', () => paths(n, vm.id).includes('/dev/drbd1001') && inSync());
  if (!pairs.has('n1', two) || !pairs.has('n2', two)) throw new Error('a copy is missing');

  grow(n, two, 5 * GiB);
  await until('room on both', () => pairs.sizeOf(vm.id, 1) === 5 * GiB);
  if (inSync()) throw new Error('what is new is not copied yet, and the ledger calls the copies the same');
  await until('the guest sees it', () => diskOf(n, two)?.madeBytes === 5 * GiB);
  await until('the same again', inSync);

  remove(n, vm.id, two);
  await until('its copies are gone', () => !pairs.has('n1', two) && !pairs.has('n2', two));
  await until('one volume is left', () => replicaOf(n, vm.id)?.volumes.length === 1 && inSync());
  remove(n, vm.id, one);
  await until('no pair is left', () => replicaOf(n, vm.id) === null);
  await until('settled', () => n.own(vm.id)?.copies.length === 0 && diskOf(n, one) === null);
  const { acts } = n;
  if (n.host.starts.length !== 1) throw new Error('the machine was started again');
  if (pairs.below.size > 0) throw new Error('a volume is left');
  return { n, pairs, acts };
}

await t.test('disks with two copies are added, grown and removed while the VM runs', async (t) => {
  const { n } = await copies(null);
  t.match(n.own(n.ledger.peekAll('/flotilla/vm/')[0]?.key.split('/')[3] ?? ''), {
    sync: 'none',
    standby: null,
  });
  t.same(
    n.ledger.peekAll('/flotilla/').filter((e) => /\/(replica|minor|replica-port)\//.test(e.key)),
    [],
    'no number is left',
  );
  await n.stop();
});

/** A VM that runs, on a node whose kernel has DRBD, as that of n2. */
async function running(t: Test) {
  const n = new SimNode();
  const pairs = new FakePairs(n.clock);
  n.pairs = pairs;
  n.peerDesk('n2', pairs);
  n.boot();
  t.teardown(() => n.stop());
  const vm = n.createVm();
  await n.until('running', () => n.said.get(vm.id)?.phase === 'running');
  return { n, pairs, vm };
}

await t.test(
  'copies that are well are looked at seldom, and at once when the kernel tells of a change',
  async (t) => {
    const { n, vm, pairs } = await running(t);
    const inSync = (): boolean => n.own(vm.id)?.sync === 'ok';
    addDisk(n, vm.id, 2, n.thinId);
    await n.until('its pair', () => paths(n, vm.id).includes('/dev/drbd1000') && inSync());
    const looksIn = async (ms: number): Promise<number> => {
      const before = pairs.looks.get('n1') ?? 0;
      await n.clock.advance(ms);
      return (pairs.looks.get('n1') ?? 0) - before;
    };
    await n.clock.advance(20_000);
    const calm = await looksIn(60_000);
    t.ok(calm >= 5 && calm <= 8, `${calm} times in a minute`);

    const fell = n.clock.nowMs();
    pairs.fallBehind(vm.id, 0);
    await n.until('the ledger says so', () => !inSync());
    t.ok(n.clock.nowMs() - fell < 1_000, `after ${n.clock.nowMs() - fell} ms`);
    await n.until('the same again', inSync);

    pairs.mute = true;
    await n.clock.advance(20_000);
    const blind = await looksIn(60_000);
    t.ok(blind > 50, `${blind} times in a minute where nobody tells`);
    pairs.mute = false;
    await n.clock.advance(20_000);
    t.ok((await looksIn(60_000)) < 10, 'and seldom again');
  },
);

await t.test('a VM that ran is started again without the disk that could not be added to it', async (t) => {
  const { n, vm } = await running(t);
  n.files.failMake = new Error('the pool is full');
  const disk = addDisk(n, vm.id, 1);
  await n.until('it cannot be made', () => diskOf(n, disk)?.state === 'failed');
  n.host.die(vm.id, 'crashed');
  await n.until('it runs again', () => n.host.starts.length === 2 && n.said.get(vm.id)?.phase === 'running');
  t.notOk(paths(n, vm.id).includes(disk));

  const stop = n.action('stop', vm.id);
  await n.until('off', () => n.op(stop).state === 'done');
  n.action('start', vm.id);
  await n.until('whoever starts it is told', () => n.said.get(vm.id)?.phase === 'failed');
  t.equal(n.host.starts.length, 2);
});

await t.test('what takes the place of its only disk is waited for, and the old one kept', async (t) => {
  const { n, vm } = await running(t);
  const old = diskOf(n, vm.disk);
  if (old === null) throw new Error('it has no disk');
  n.files.failMake = new Error('the pool is full');
  const disk = addDisk(n, vm.id, 1);
  n.ledger.poke(kinds.disk.key(old.id), writeRecord(kinds.disk, { ...old, state: 'deleting' }));
  n.edit(vm.id, { disks: [{ disk, bus: 'virtio' }] });
  await n.until('it cannot be made', () => diskOf(n, disk)?.state === 'failed');
  n.host.die(vm.id, 'crashed');
  await n.until('it says so', () => n.said.get(vm.id)?.phase === 'failed');
  await n.clock.advance(60_000);
  t.equal(n.host.starts.length, 1);
  t.ok(n.files.disks.has(old.id));
});

await t.test('no snapshot is taken of a copy that does not have every write', async (t) => {
  const { n, vm, pairs } = await running(t);
  addDisk(n, vm.id, 2, n.thinId);
  await n.until('its pair', () => paths(n, vm.id).includes('/dev/drbd1000') && n.own(vm.id)?.sync === 'ok');

  pairs.loseDrive('n1', 1000, true);
  const early = n.snapshot(vm.id, 'early', 'crash');
  await n.until('refused', () => n.op(early.op).state === 'failed');
  t.match(n.op(early.op).error, { code: 'wrong-state', message: /its copy of volume 0 is Diskless/ });

  pairs.loseDrive('n1', 1000, false);
  n.files.beforeSnapshot = () => pairs.loseDrive('n1', 1000, true);
  const torn = n.snapshot(vm.id, 'torn', 'crash');
  await n.until('refused at the very moment', () => n.op(torn.op).state === 'failed');
  t.match(n.op(torn.op).error, { code: 'wrong-state', message: /Diskless/ });
  await n.until('it goes on', () => n.host.domains.get(vm.id)?.state.state === 'running');

  n.files.beforeSnapshot = () => undefined;
  pairs.loseDrive('n1', 1000, false);
  const whole = n.snapshot(vm.id, 'whole', 'crash');
  await n.until('taken', () => n.op(whole.op).state === 'done');
  t.equal(n.files.snapshots.size, 2, 'and nothing is left of the others');
});

await t.test('the agent dies at each act of that', async (t) => {
  const whole = await copies(null);
  await whole.n.stop();
  t.ok(whole.acts > 20, `${whole.acts} acts`);
  for (let at = 0; at < whole.acts; at += 2) {
    const when = at % 4 === 0 ? 'before' : 'after';
    const { n } = await copies({ at, when }).catch((e: unknown) => {
      throw new Error(`${when} act ${at}`, { cause: e });
    });
    await n.stop();
  }
});

/** A VM with a disk of each kind is snapshotted while it runs, and goes back; its agent dies meanwhile. */
async function andBack(death: Death | null): Promise<{ n: SimNode; pairs: FakePairs; acts: number }> {
  const n = new SimNode();
  const pairs = new FakePairs(n.clock);
  n.pairs = pairs;
  n.peerDesk('n2', pairs);
  n.boot();
  const vm = n.createVm();
  await n.until('running', () => n.said.get(vm.id)?.phase === 'running');
  const inSync = (): boolean => n.own(vm.id)?.sync === 'ok';
  const two = addDisk(n, vm.id, 2, n.thinId);
  await n.until('its pair', () => paths(n, vm.id).includes('/dev/drbd1000') && inSync());
  n.acts = 0;
  n.death = death;
  const until = n.untilOutlived.bind(n);
  const x = n.snapshot(vm.id, 'x');
  await until('taken', () => n.op(x.op).state === 'done');
  const stop = n.action('stop', vm.id);
  await until('off', () => n.op(stop).state === 'done' && n.said.get(vm.id)?.phase === 'stopped');
  await until('in sync', inSync);
  const back = n.ask('vm.revert', vm.id, { node: n.node, args: { snapshot: x.id } });
  await until('reverted', () => n.op(back).state === 'done');
  const start = n.action('start', vm.id);
  await until('runs again', () => n.op(start).state === 'done');
  await until('in sync again', inSync);
  const volume = n.snapshotsOf(vm.id)[0]?.disks.find((d) => d.disk === two)?.id;
  if (!pairs.log.includes(`${two} as ${volume}`)) throw new Error('it was not written over');
  if (!pairs.has('n1', two) || !pairs.has('n2', two)) throw new Error('a copy is missing');
  if (diskOf(n, vm.disk) !== null) throw new Error('the disk of one copy is still there');
  if (n.disks(vm.id).length !== 2) throw new Error('it has other disks');
  return { n, pairs, acts: n.acts };
}

await t.test(
  'a disk with two copies goes back to a snapshot in place, whenever its agent dies',
  async (t) => {
    const whole = await andBack(null);
    t.ok(whole.acts > 10, `${whole.acts} acts`);
    t.equal(whole.pairs.log.length, 1);
    await whole.n.stop();
    for (let at = 0; at < whole.acts; at++) {
      const { n } = await andBack({ at, when: 'after' });
      t.equal(n.host.frozen.size, 0, `act ${at}`);
      await n.stop();
    }
  },
);
