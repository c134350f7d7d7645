import t from 'tap';
import {
  notWhole,
  chooseSecond,
  decideFormer,
  secondFaults,
  withSecond,
  type SecondNode,
  type SecondVm,
} from '../../../../core/decide/second-node.js';
import type { VmOwn } from '../../../../core/domain/vm.js';
import type { Pool } from '../../../../core/domain/pool.js';
import type { Replica } from '../../../../core/domain/replica.js';
import { ownOf, pair, vm, volume } from './pairs.js';

const GiB = 2 ** 30;
const disk = '22222222-2222-4222-8222-222222222220';
const pool: Pool = {
  id: '33333333-3333-4333-8333-333333333333',
  name: 'fast',
  kind: 'thin',
  path: '/dev/flotilla-33333333',
  nodes: ['n1', 'n2', 'n3', 'n4', 'n5'],
  reservePct: 5,
  drives: [],
};
const replica: Replica = {
  vm,
  port: 7800,
  secret: '0123456789abcdef0123456789abcdef',
  nodes: [
    { node: 'n1', address: '10.0.1.1' },
    { node: 'n2', address: '10.0.1.2' },
  ],
  volumes: [{ disk, volume: 0, minor: 1000, pool: pool.id, below: '/dev/flotilla-33333333/d0' }],
};
const of = (o: Partial<SecondVm> = {}): SecondVm => ({
  owner: 'n1',
  ownerRack: null,
  memoryMiB: 512,
  pools: [pool],
  ha: true,
  replica,
  disks: [{ pool: pool.id, sizeBytes: 10 * GiB }],
  ...o,
});
const keeper = {
  mode: 'run' as const,
  armable: true,
  why: '',
  watchdog: 'hardware' as const,
  armed: 0,
  held: [],
  text: '',
};
const use = { pool: pool.id, totalBytes: 100 * GiB, freeBytes: 50 * GiB, ok: true, text: '', ageMs: 10 };
const node = (id: string, o: Partial<SecondNode> = {}, line: Partial<NonNullable<SecondNode['line']>> = {}) =>
  ({
    id,
    alive: true,
    desired: 'active',
    witness: false,
    rack: null,
    noCopies: '',
    owned: { vms: 0, memoryMiB: 0 },
    promised: { vms: 0, memoryMiB: 0 },
    promisedTogether: { vms: 0, memoryMiB: 0 },
    ...o,
    line: { ageMs: 10, keeper, pools: [use], memoryBytes: 8 * GiB, unwell: [], ...line },
  }) satisfies SecondNode as SecondNode;
const own = (o: Partial<VmOwn> = {}): VmOwn => ({
  ...ownOf(4),
  copies: [
    { node: 'n1', state: 'ok', epoch: 4 },
    { node: 'n2', state: 'stale', epoch: 3 },
  ],
  sync: 'stale',
  ...o,
});

void t.test('which node: not one that has a copy, has no room for it, or could not run the VM', async (t) => {
  t.match(secondFaults(of(), node('n2')), [/present second copy/]);
  t.match(secondFaults(of(), node('n3', { noCopies: 'no DRBD' })), ['no DRBD']);
  t.match(secondFaults(of(), node('n3', { noCopies: null })), [/not said/]);
  t.match(secondFaults(of(), node('n3', {}, { pools: [{ ...use, freeBytes: 9 * GiB }] })), [/not the space/]);
  t.match(secondFaults(of({ memoryMiB: 9000 }), node('n3')), [/MiB of memory/]);
  t.match(secondFaults(of({ pools: [{ ...pool, nodes: ['n1'] }] }), node('n3')), [/does not have the pool/]);
  t.match(secondFaults(of({ replica: { ...replica, former: [{ node: 'n3', epoch: 1 }] } }), node('n3')), [
    /older copy/,
  ]);
  const unarmed = node('n3', {}, { keeper: { ...keeper, armable: false, why: 'no watchdog' } });
  t.match(secondFaults(of(), unarmed), [/no watchdog/]);
  t.same(secondFaults(of({ ha: false }), unarmed), [], 'without HA no keeper is needed');
});

void t.test('of those that fit another rack comes first, then room, then the name', async (t) => {
  const near = node('n3', { rack: 'a' });
  const full = node('n4', { rack: 'b', owned: { vms: 1, memoryMiB: 4096 } });
  const far = node('n5', { rack: 'b' });
  const pick = (nodes: SecondNode[], o: Partial<SecondVm> = {}, asked: string | null = null) =>
    chooseSecond(of({ ownerRack: 'a', ...o }), nodes, asked);
  t.same(pick([near, full, far]), { ok: true, node: 'n5' });
  t.same(pick([near, full]), { ok: true, node: 'n4' }, 'the rack counts for more than room');
  t.same(pick([far, near], { ownerRack: null }), { ok: true, node: 'n3' });
  t.same(pick([near, far], {}, 'n3'), { ok: true, node: 'n3' }, 'the one that was asked for');
  t.match(pick([node('n3', { alive: false })]), { ok: false, why: /n3 is not alive/ });
});

void t.test('an owner whose own copy is not whole gives the other one up for nobody', async (t) => {
  t.equal(notWhole(own(), 'n1', pair()), null);
  t.match(notWhole(own(), 'n2', pair()), /n1 owns it/);
  t.match(notWhole(own(), 'n1', null), /cannot be seen/);
  for (const here of ['Diskless', 'Inconsistent', 'Outdated', 'Failed'] as const)
    t.match(notWhole(own(), 'n1', pair({ volumes: [volume({ here })] })), here);
  const copies = [{ node: 'n1', state: 'stale', epoch: 1 }];
  t.match(notWhole(own({ copies }), 'n1', pair()), /does not call/);
  t.match(notWhole(own({ state: 'migrating' }), 'n1', pair()), /migrates/);
});

void t.test('what is written: a new epoch, one good copy, and where the old one lies', async (t) => {
  const [o, r] = withSecond(own({ sync: 'ok', synced: [disk] }), replica, { node: 'n3' });
  t.match(o, { standby: 'n3', sync: 'stale', synced: [], syncEpoch: 5, gen: 7 });
  t.same(o.copies, [
    { node: 'n1', state: 'ok', epoch: 5 },
    { node: 'n3', state: 'stale', epoch: 0 },
  ]);
  t.same(r.former, [{ node: 'n2', epoch: 3 }]);
});

void t.test('a replaced copy is closed, and goes only when the present ones are the same', async (t) => {
  const v = { replica, own: own(), me: 'n2', pair: pair(), inUse: false };
  t.same(decideFormer(v), { do: 'close' });
  t.same(decideFormer({ ...v, pair: null }), { do: 'none' }, 'kept');
  t.same(decideFormer({ ...v, own: own({ sync: 'ok' }) }), { do: 'drop' });
  t.same(decideFormer({ ...v, own: own({ sync: 'ok' }), inUse: true }), { do: 'none' });
  t.same(decideFormer({ ...v, own: null }), { do: 'none' }, 'an error is not an absence');
  t.same(decideFormer({ ...v, pair: pair({ role: 'Primary' }) }), { do: 'let-go' });
  const gone = { ...replica, volumes: replica.volumes.map((x) => ({ ...x, deleting: ['n1'] })) };
  t.same(decideFormer({ ...v, own: null, replica: gone }), { do: 'drop' }, 'the VM was deleted');
});
