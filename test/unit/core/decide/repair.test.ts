import t from 'tap';
import { guidedRepair, withDiscarded } from '../../../../core/decide/repair.js';
import type { CopyWords, VmOwn } from '../../../../core/domain/vm.js';
import { ownOf, pair, volume } from './pairs.js';

const own = (o: Partial<VmOwn> = {}): VmOwn => ownOf(4, { sync: 'stale', ...o });
const apart = pair({ connection: 'StandAlone', role: 'Primary' });
const v = { pair: apart, inUse: true, peerLive: true };

void t.test('the other side thrown away: the ledger calls it stale, in a new epoch', async (t) => {
  const d = withDiscarded(own(), 'n1', 'n2', v);
  t.match(d, {
    ok: true,
    own: { owner: 'n1', gen: 7, syncEpoch: 5, copies: [{ state: 'ok' }, { state: 'stale' }] },
  });
  for (const here of ['Diskless', 'Inconsistent', 'Outdated'] as const) {
    const bad = pair({ connection: 'StandAlone', volumes: [volume({ here })] });
    t.match(withDiscarded(own(), 'n1', 'n2', { ...v, pair: bad }), { ok: false, why: /whole/ });
  }
  t.match(withDiscarded(own(), 'n1', 'n2', { ...v, pair: null }), { ok: false });
});

void t.test('the own side thrown away: only off, and then it belongs to the other', async (t) => {
  t.match(withDiscarded(own(), 'n1', 'n1', v), { ok: false, why: /stop it first/ });
  const off = own({ state: 'stopped' });
  t.match(withDiscarded(off, 'n1', 'n1', v), { ok: false, why: /stop it first/ }, 'a machine is still there');
  const idle = { ...v, inUse: false };
  t.match(withDiscarded(off, 'n1', 'n1', { ...idle, peerLive: false }), { ok: false, why: /not alive/ });
  t.match(withDiscarded(off, 'n1', 'n1', idle), {
    ok: true,
    own: {
      owner: 'n2',
      standby: 'n1',
      gen: 8,
      fence: { armed: false },
      copies: [
        { node: 'n1', state: 'stale' },
        { node: 'n2', state: 'ok' },
      ],
    },
  });
});

void t.test('never what is connected, migrates, or is not asked for here', async (t) => {
  t.match(withDiscarded(own(), 'n1', 'n2', { ...v, pair: pair() }), { ok: false, why: /connected/ });
  t.match(withDiscarded(own({ state: 'migrating' }), 'n1', 'n2', v), { ok: false });
  t.match(withDiscarded(own(), 'n1', 'n3', v), { ok: false, why: /n3 has no copy/ });
  t.match(withDiscarded(own(), 'n2', 'n1', v), { ok: false, why: /n1 owns/ });
});

void t.test('one thing to do, the gravest first', async (t) => {
  const say = (...states: CopyWords['state'][]) =>
    guidedRepair(
      'db',
      states.map((state) => ({ state, peer: 'n2' })),
      'n1',
    );
  t.equal(say('in-sync'), null);
  t.match(say('stale', 'split-brain'), { command: 'flotilla vm repair db --discard n2' });
  t.match(say('stale'), { command: 'flotilla vm standby db', text: /Bring n2/ });
  t.match(say('diskless', 'in-sync'), { text: /drive of n1 failed/ });
  for (const s of ['inconsistent', 'waiting', 'syncing', 'unknown'] as const)
    t.match(say(s), { command: null, text: /./ });
});
