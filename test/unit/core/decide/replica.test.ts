import t from 'tap';
import { decideFence, decideSync, replicaWords } from '../../../../core/decide/replica.js';
import type { PairSeen, VolumeSeen } from '../../../../core/domain/replica.js';
import type { VmOwn } from '../../../../core/domain/vm.js';
import { ownOf, pair as open, volume } from './pairs.js';

const d0 = '22222222-2222-4222-8222-222222222220';
const d1 = '22222222-2222-4222-8222-222222222221';

const own = (o: Partial<VmOwn> = {}): VmOwn => ownOf(3, { synced: [d0, d1], ...o });
const pair = (o: Partial<PairSeen> = {}): PairSeen =>
  open({ role: 'Primary', volumes: [volume(), volume({ volume: 1, minor: 1001 })], ...o });
const lost = pair({
  connection: 'Connecting',
  suspended: true,
  volumes: [volume({ there: 'DUnknown', replication: 'Off' })],
});
const ask = { me: 'n1', live: true, own: own(), pair: lost };
const both = [
  { disk: d0, volume: 0 },
  { disk: d1, volume: 1 },
];

void t.test('writes go on without the peer only after "stale" in a new epoch', async (t) => {
  const d = decideFence(ask);
  t.ok(d.ok);
  if (!d.ok) return;
  t.match(d.own, { sync: 'stale', synced: [], syncEpoch: 4, gen: 7, owner: 'n1', standby: 'n2' });
  t.same(
    d.own.copies.map((c) => [c.node, c.state, c.epoch]),
    [
      ['n1', 'ok', 4],
      ['n2', 'stale', 3],
    ],
  );
});

void t.test('what is stale already gets a new epoch all the same', async (t) => {
  const d = decideFence({ ...ask, own: own({ sync: 'stale', synced: [], syncEpoch: 9 }) });
  t.ok(d.ok && d.own.syncEpoch === 10);
});

void t.test('who may not let writes go on', async (t) => {
  const refused: [string, Partial<typeof ask>][] = [
    ['without a lease', { live: false }],
    ['another owns it', { own: own({ owner: 'n2' }) }],
    ['no record', { own: null as never }],
    ['nothing can be seen', { pair: null as never }],
    ['no disk is seen', { pair: pair({ volumes: [] }) }],
    [
      'without its own drive: the peer may have the only whole copy',
      { pair: pair({ volumes: [volume(), volume({ volume: 1, here: 'Diskless' })] }) },
    ],
    ['half copied', { pair: pair({ volumes: [volume({ here: 'Inconsistent' })] }) }],
    ['out of date', { pair: pair({ volumes: [volume({ here: 'Outdated' })] }) }],
    [
      'alone after a boot, and the ledger calls this copy stale',
      {
        own: own({ copies: [{ node: 'n1', state: 'stale', epoch: 1 }] }),
        pair: pair({ volumes: [volume({ here: 'Consistent' })] }),
      },
    ],
    [
      'up to date to itself, but stale to the ledger',
      { own: own({ copies: [{ node: 'n1', state: 'stale', epoch: 1 }] }) },
    ],
  ];
  for (const [name, o] of refused) t.notOk(decideFence({ ...ask, ...o }).ok, name);
});

void t.test('alone after a boot, and the ledger calls this copy whole', async (t) => {
  t.ok(decideFence({ ...ask, pair: pair({ volumes: [volume({ here: 'Consistent' })] }) }).ok);
});

const stale = own({
  sync: 'stale',
  synced: [],
  syncEpoch: 4,
  copies: [
    { node: 'n1', state: 'ok', epoch: 4 },
    { node: 'n2', state: 'stale', epoch: 3 },
  ],
});

void t.test('in sync is said of what is seen to be so, by the owner alone', async (t) => {
  t.match(decideSync(stale, 'n1', both, pair()), { sync: 'ok', synced: [d0, d1], syncEpoch: 4, gen: 7 });
  t.same(
    decideSync(stale, 'n1', both, pair())?.copies.map((c) => [c.state, c.epoch]),
    [
      ['ok', 4],
      ['ok', 4],
    ],
  );
  t.equal(decideSync(own(), 'n1', both, pair()), null, 'nothing new');
  t.equal(decideSync(stale, 'n2', both, pair()), null, 'not the owner');
  t.equal(decideSync(stale, 'n1', both, null), null, 'nothing seen');
  t.equal(decideSync(stale, 'n1', [], pair()), null, 'no disks with two copies');
});

void t.test('a disk at a time; the VM only when all are', async (t) => {
  const half = pair({
    volumes: [volume(), volume({ volume: 1, there: 'Inconsistent', replication: 'SyncSource' })],
  });
  t.match(decideSync(stale, 'n1', both, half), { sync: 'stale', synced: [d0] });
  const [, n2] = decideSync(stale, 'n1', both, half)?.copies ?? [];
  t.match(n2, { state: 'stale', epoch: 3 });
});

void t.test('a new disk whose copy is not there yet ends "in sync" of the VM', async (t) => {
  const d = decideSync(own({ synced: [d0] }), 'n1', both, pair({ volumes: [volume()] }));
  t.match(d, { sync: 'stale', synced: [d0] });
});

void t.test(
  'a peer that goes away changes nothing by itself: that is for whoever lets writes go on',
  async (t) => {
    t.equal(decideSync(own(), 'n1', both, lost), null);
  },
);

void t.test('not in sync: each doubt alone', async (t) => {
  const one = [{ disk: d0, volume: 0 }];
  for (const p of [
    pair({ connection: 'Connecting' }),
    pair({ suspended: true }),
    pair({ volumes: [volume({ here: 'Diskless' })] }),
    pair({ volumes: [volume({ there: 'Consistent' })] }),
    pair({ volumes: [volume({ replication: 'VerifyS' })] }),
    pair({ volumes: [volume({ volume: 5 })] }),
  ])
    t.equal(decideSync(stale, 'n1', one, p), null);
});

void t.test('in words', async (t) => {
  const o = { peer: 'n2', split: false, bytesPerS: null };
  const state = (p: PairSeen | null, v: VolumeSeen | undefined, more: Partial<typeof o> = {}): string =>
    replicaWords(p, v, { ...o, ...more }).state;
  t.equal(state(pair(), volume()), 'in-sync');
  t.equal(state(null, undefined), 'unknown');
  t.equal(state(lost, lost.volumes[0]), 'waiting');
  t.equal(state(pair(), volume({ here: 'Diskless' })), 'diskless');
  t.equal(
    state(pair({ connection: 'Connecting' }), volume({ there: 'Outdated', replication: 'Off' })),
    'stale',
  );
  t.equal(
    state(pair({ connection: 'StandAlone' }), volume({ there: 'DUnknown', replication: 'Off' })),
    'apart',
  );
  t.equal(state(pair({ connection: 'StandAlone' }), volume(), { split: true }), 'split-brain');
  t.equal(
    state(pair({ connection: 'Connecting' }), volume({ here: 'Inconsistent', replication: 'Off' })),
    'inconsistent',
  );
  const copying = volume({
    replication: 'SyncSource',
    there: 'Inconsistent',
    sizeBytes: 1000,
    behindBytes: 250,
  });
  const w = replicaWords(pair({ volumes: [copying] }), copying, { ...o, bytesPerS: 50 });
  t.match(w, { state: 'syncing', done: 0.75, leftS: 5 });
});

void t.test('nothing is in sync with a copy that another node writes to', async (t) => {
  const stale = own({ sync: 'stale', synced: [] });
  t.ok(decideSync(stale, 'n1', both, pair()));
  t.equal(decideSync(stale, 'n1', both, pair({ role: 'Secondary', peerRole: 'Primary' })), null);
});
