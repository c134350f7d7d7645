import t from 'tap';
import { cannotGrow, decideCopies, isPaired, type CopiesView } from '../../../../core/decide/copies.js';
import type { CopyState, Replica } from '../../../../core/domain/replica.js';
import type { VmOwn } from '../../../../core/domain/vm.js';
import { ownOf, pair, vm, volume } from './pairs.js';

const disk = '22222222-2222-4222-8222-222222222220';
const replica: Replica = {
  vm,
  port: 7800,
  secret: '0123456789abcdef0123456789abcdef',
  nodes: [
    { node: 'n1', address: '10.0.1.1' },
    { node: 'n2', address: '10.0.1.2' },
  ],
  volumes: [{ disk, volume: 0, minor: 1000, pool: vm, below: '/dev/flotilla-p/d0' }],
};
const own = (o: Partial<VmOwn> = {}): VmOwn => ownOf(3, { synced: [disk], ...o });
const stale = own({
  sync: 'stale',
  synced: [],
  copies: [
    { node: 'n1', state: 'ok', epoch: 4 },
    { node: 'n2', state: 'stale', epoch: 3 },
  ],
});
const view = (o: Partial<CopiesView> = {}): CopiesView => ({
  me: 'n1',
  live: true,
  replica,
  own: own(),
  disks: new Map([[disk, { id: disk, state: 'ready' as const }]]),
  pair: pair(),
  asRecorded: true,
  addresses: ['10.0.1.1', '10.0.1.2'],
  inUse: false,
  ending: false,
  oneWriter: true,
  ...o,
});
const wanted = new Map([[disk, { id: disk, state: 'wanted' as const }]]);
const fresh = pair({ volumes: [volume({ here: 'Inconsistent', there: 'Inconsistent' })] });
const apart = pair({
  connection: 'StandAlone',
  volumes: [volume({ there: 'DUnknown', replication: 'Off' })],
});
const step = (o: Partial<CopiesView>) => decideCopies(view(o));

void t.test(
  'a migration: opened on both, once both have all; closed by who does not own it; then one writer only',
  async (t) => {
    const moving = own({
      state: 'migrating',
      migration: { to: 'n2', op: vm, gen: 7, handedOver: false },
    });
    const seen = pair({ peerRole: 'Primary' });
    const step = (o: Partial<CopiesView>) =>
      decideCopies(view({ me: 'n2', own: moving, pair: seen, ...o })).do;
    t.equal(step({}), 'open-second');
    t.equal(step({ pair: pair({ ...seen, role: 'Primary' }) }), 'none', 'it stays open while it migrates');
    t.equal(step({ pair: pair() }), 'none', 'not before its owner');
    t.equal(step({ pair: pair({ peerRole: 'Primary', connection: 'Connecting' }) }), 'none');
    t.equal(step({ own: { ...moving, sync: 'stale' } }), 'none', 'not with less than all');
    t.equal(step({ own: { ...moving, migration: { to: 'n3', op: vm, gen: 7, handedOver: false } } }), 'none');
    t.equal(step({ live: false }), 'none');
    const open = pair({ role: 'Primary', peerRole: 'Primary' });
    t.equal(step({ own: own({ gen: 9 }), pair: open, oneWriter: false }), 'let-go', 'it came to nothing');
    t.equal(step({ me: 'n1', own: own({ gen: 9 }), pair: open, inUse: true, oneWriter: false }), 'none');
    const closed = pair({ role: 'Primary' });
    t.equal(
      step({ me: 'n1', own: own({ gen: 9 }), pair: closed, inUse: true, oneWriter: false }),
      'one-writer',
    );
    t.equal(step({ me: 'n1', own: own({ gen: 9 }), pair: closed, inUse: true }), 'none');
  },
);

void t.test('all is well: nothing', async (t) => {
  t.same(step({}), { do: 'none' });
  t.same(step({ me: 'n2' }), { do: 'none' });
  t.same(step({ me: 'n3', pair: null }), { do: 'none' }, 'it has no copy');
});

void t.test('a copy is made new only where nothing can be lost by it', async (t) => {
  const make = (o: Partial<CopiesView>): number | null => {
    const s = step({ pair: null, ...o });
    return s.do === 'open' ? s.make.length : null;
  };
  t.equal(make({}), 0, 'after a boot of the owner');
  t.equal(make({ me: 'n2' }), 0, 'of a standby in sync');
  t.equal(make({ own: stale }), 0, 'the owner never, whatever the ledger says of the other');
  t.equal(make({ me: 'n2', own: stale }), 1, 'a stale one is of no use to anybody');
  t.equal(make({ disks: wanted }), 1);
  t.equal(make({ me: 'n2', disks: wanted }), 1);
  t.equal(make({ own: null }), null, 'no record of its owner is no leave for anything');
  t.equal(make({ ending: true }), null);
  t.equal(make({ disks: new Map() }), 0, 'a disk without a record');
});

void t.test('the first copying is skipped by the owner, of disks that were never used', async (t) => {
  t.match(step({ disks: wanted, pair: fresh }), { do: 'skip-first-sync' });
  t.same(step({ disks: wanted, pair: fresh, me: 'n2' }), { do: 'none' });
  t.same(step({ pair: fresh }), { do: 'none' }, 'a disk in use is copied');
  t.same(step({ disks: wanted, pair: fresh, live: false }), { do: 'none' });
  const alone = { ...fresh, connection: 'Connecting' };
  t.same(step({ disks: wanted, pair: alone }), { do: 'none' });
});

void t.test('in sync is noted by a live owner alone', async (t) => {
  t.same(step({ own: stale }), { do: 'note-sync' });
  t.same(step({ own: stale, me: 'n2' }), { do: 'none' });
  t.same(step({ own: stale, live: false }), { do: 'none' });
  t.same(step({ own: stale, disks: wanted }), { do: 'none' }, 'nothing is on it yet');
});

void t.test('a copy that is behind while its node is there is called so, by the owner alone, once', (t) => {
  const seen = (there: CopyState, here: CopyState = 'UpToDate') =>
    pair({ volumes: [volume({ here, there })] });
  for (const there of ['Inconsistent', 'Outdated', 'Diskless', 'Failed', 'Detaching'] as const)
    t.same(step({ pair: seen(there) }), { do: 'note-behind' }, there);
  t.same(step({ pair: seen('UpToDate') }), { do: 'none' });
  t.same(step({ pair: seen('DUnknown') }), { do: 'none' }, 'the kernel asks for that itself');
  t.same(step({ pair: seen('Inconsistent', 'Diskless') }), { do: 'none' }, 'it may be the only one');
  t.same(step({ pair: seen('Inconsistent'), own: stale }), { do: 'none' }, 'said already');
  t.same(step({ pair: seen('Inconsistent'), live: false }), { do: 'none' });
  t.same(step({ pair: seen('Inconsistent'), own: own({ owner: 'n2', standby: 'n1' }) }), { do: 'none' });
  t.end();
});

void t.test(
  'frozen writes: the owner asks again, another lets them go when its machine is gone',
  async (t) => {
    const frozen = pair({
      role: 'Primary',
      suspended: true,
      connection: 'Connecting',
      volumes: [volume({ there: 'DUnknown' })],
    });
    t.same(step({ pair: frozen, inUse: true }), { do: 'ask' });
    t.same(step({ pair: frozen, inUse: true, me: 'n2' }), { do: 'none' }, 'a frozen machine is not woken');
    t.same(step({ pair: frozen, me: 'n2' }), { do: 'let-go' });
    t.same(step({ pair: pair({ role: 'Primary' }) }), { do: 'let-go' }, 'it was stopped');
    t.same(step({ pair: pair({ role: 'Primary' }), inUse: true }), { do: 'none' });
    t.same(step({ pair: frozen, own: null }), { do: 'none' });
  },
);

void t.test(
  'what is written apart is given up only where the ledger proves that nobody was told of it',
  async (t) => {
    t.same(step({ pair: apart }), { do: 'connect', discardMine: false });
    t.same(step({ pair: apart, me: 'n2', own: stale }), { do: 'connect', discardMine: true });
    t.same(step({ pair: apart, me: 'n2' }), { do: 'connect', discardMine: false }, 'it counts as whole');
    const both = own({ copies: stale.copies.map((c) => ({ ...c, state: 'stale' })) });
    t.same(step({ pair: apart, me: 'n2', own: both }), { do: 'connect', discardMine: false });
    t.same(
      step({ pair: { ...apart, role: 'Primary' }, me: 'n2', own: stale, inUse: true }),
      { do: 'none' },
      'while a machine of it is here',
    );
  },
);

void t.test('taken away where the VM is deleted, by each node its own', async (t) => {
  const gone = { ...replica, volumes: replica.volumes.map((v) => ({ ...v, deleting: ['n2'] })) };
  t.same(step({ replica: gone, own: null, me: 'n2' }), { do: 'drop' });
  t.same(step({ replica: gone, own: null }), { do: 'none' });
});

void t.test('a new disk is there when both copies are the same', async (t) => {
  t.equal(isPaired(disk, replica, pair()), true);
  t.equal(isPaired(disk, replica, fresh), false);
  t.equal(isPaired(disk, replica, null), false);
  t.equal(isPaired(vm, replica, pair()), false);
});

void t.test('other addresses, or a record that the pair was not made from', async (t) => {
  const there: [string, string] = ['10.9.0.1', '10.9.0.2'];
  t.same(step({ addresses: there }), { do: 'readdress', addresses: there });
  t.same(step({ addresses: there, me: 'n2' }), { do: 'none' }, 'the owner says so');
  t.same(step({ addresses: there, live: false }), { do: 'none' });
  t.same(step({ addresses: there, own: own({ state: 'migrating' }) }), { do: 'none' });
  t.same(step({ addresses: null }), { do: 'none' }, 'a node without a record');
  for (const me of ['n1', 'n2']) t.same(step({ me, asRecorded: false }), { do: 'adjust' });
  t.same(step({ asRecorded: false, own: own({ state: 'migrating' }) }), { do: 'none' });
  t.same(step({ asRecorded: false, pair: pair({ role: 'Primary', peerRole: 'Primary' }), inUse: true }), {
    do: 'none',
  });
});

void t.test('a disk that is to grow: room on the other node first, then the owner may', async (t) => {
  const made = 2 ** 30;
  const big = { id: disk, name: 'data', state: 'ready' as const, sizeBytes: 2 * made, madeBytes: made };
  const disks = new Map([[disk, big]]);
  const at = (o: object): Replica => ({
    ...replica,
    volumes: replica.volumes.map((v) => ({ ...v, ...o })),
  });
  t.match(step({ me: 'n2', disks }), { do: 'make-room', volumes: [{ disk }] });
  t.equal(step({ disks }).do, 'none', 'the owner waits');
  const room = at({ room: { node: 'n2', sizeBytes: 2 * made } });
  t.equal(step({ me: 'n2', disks, replica: room }).do, 'none', 'it is there');
  const why = (r: Replica, p = pair()) => cannotGrow(big, { me: 'n1', replica: r, pair: p });
  t.match(why(replica), /waits for room on n2/);
  t.match(why(at({ room: { node: 'n2', sizeBytes: made } })), /waits for room/, 'of an earlier growth');
  t.match(why(at({ room: { node: 'n3', sizeBytes: 2 * made } })), /waits for room/, 'of a former node');
  t.match(why(room, apart), /are the same/);
  t.equal(why(room), null);
});

void t.test('a disk that was taken from the VM: closed on each node, then its copy goes', async (t) => {
  const two = '22222222-2222-4222-8222-222222222221';
  const gone = { ...(replica.volumes[0] as Replica['volumes'][number]), disk: two, volume: 1, minor: 1001 };
  const left: Replica = { ...replica, volumes: [...replica.volumes, { ...gone, deleting: ['n1', 'n2'] }] };
  const seen = (here: CopyState, there: CopyState, o: Partial<ReturnType<typeof pair>> = {}) =>
    pair({ volumes: [volume({}), volume({ volume: 1, minor: 1001, here, there })], ...o });
  const closes = (me: string, p: ReturnType<typeof pair>) =>
    step({ me, replica: left, asRecorded: false, pair: p });
  t.match(closes('n1', seen('UpToDate', 'UpToDate')), { do: 'close-volumes', minors: [1001] });
  t.equal(closes('n2', seen('UpToDate', 'UpToDate')).do, 'none', 'its owner does so first');
  t.equal(closes('n2', seen('UpToDate', 'Diskless')).do, 'close-volumes');
  t.equal(closes('n1', seen('Diskless', 'UpToDate')).do, 'none', 'nobody forgets it before both have');
  t.equal(closes('n1', seen('Diskless', 'Diskless')).do, 'adjust');
  const lonely = { connection: 'Connecting' };
  t.equal(closes('n2', seen('UpToDate', 'DUnknown', lonely)).do, 'close-volumes');
  t.equal(closes('n2', seen('Diskless', 'DUnknown', lonely)).do, 'adjust');
  t.equal(step({ replica: left, asRecorded: false }).do, 'adjust');
  t.match(step({ replica: left }), { do: 'remove', volumes: [{ disk: two }] });
  const mine = { ...left, volumes: [replica.volumes[0], { ...gone, deleting: ['n2'] }] } as Replica;
  t.equal(step({ replica: mine }).do, 'none', 'the other node has still to');
});
