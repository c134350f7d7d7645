import fc from 'fast-check';
import t from 'tap';
import { decideArming, standbyPatienceMs, type ArmingView } from '../../../../core/decide/arming.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { VmOwn, VmSpec } from '../../../../core/domain/vm.js';

const spec = (enabled: boolean): VmSpec => ({
  id: '00000000-0000-4000-8000-000000000001',
  name: 'web',
  generation: 1,
  note: '',
  tags: [],
  cpus: 1,
  memoryMiB: 128,
  firmware: 'bios',
  boot: ['disk'],
  disks: [],
  cdroms: [],
  nics: [],
  cloudInit: null,
  power: 'running',
  powerGeneration: 1,
  stopTimeoutS: 30,
  onCrash: 'restart',
  ha: { ...vmHaDefault, enabled },
});
const own = (o: Partial<VmOwn> = {}): VmOwn => ({
  owner: 'n1',
  standby: 'n2',
  copies: [],
  gen: 3,
  state: 'running',
  sync: 'ok',
  fence: { armed: true, waitMs: 7_000 },
  op: null,
  synced: [],
  syncEpoch: 0,
  failoversMs: [],
  ...o,
});
const view = (o: Partial<ArmingView> = {}): ArmingView => ({
  paused: false,
  reach: { ok: true, pools: [], copied: false },
  keeper: { armed: true, armable: { ok: true, waitMs: 7_000 } },
  standby: { ok: true, node: 'n2' },
  unfitMs: 0,
  ...o,
});
const off = { armed: false, waitMs: 0 };
const unarmedKeeper = { armed: false, armable: { ok: true as const, waitMs: 7_000 } };
const deaf = { armed: false, armable: { ok: false as const, why: 'no watchdog' } };

await t.test('all well: protected, nothing to do', async (t) => {
  const a = decideArming(spec(true), own(), true, view());
  t.same(a, {
    ha: { state: 'protected', text: '', standby: 'n2' },
    step: null,
    standby: 'n2',
    atStart: true,
    inSlice: true,
  });
});

await t.test(
  'a disk with a copy on the standby: protected only in sync, and no other node is chosen',
  async (t) => {
    const copies = ['n1', 'n2'].map((node) => ({ node, state: 'ok', epoch: 0 }));
    const copied = (o: Partial<ArmingView> = {}) =>
      view({ reach: { ok: true, pools: [], copied: true }, ...o });
    t.match(decideArming(spec(true), own({ copies }), true, copied()), { ha: { state: 'protected' } });
    const behind = decideArming(spec(true), own({ copies, sync: 'stale' }), true, copied());
    t.match(behind, {
      ha: { state: 'unprotected', text: /on n2 is not in sync/ },
      step: null,
      standby: null,
    });
    const none = { ok: false as const, nodes: [{ node: 'n2', reasons: ['is not alive'] }] };
    const away = decideArming(spec(true), own({ copies }), true, copied({ standby: none, unfitMs: 60_000 }));
    t.match(away, { ha: { state: 'unprotected' }, step: null });
    t.same(
      decideArming(spec(false), own({ copies, fence: off }), true, copied({ keeper: unarmedKeeper })).step,
      null,
    );
  },
);

await t.test('HA turned on while it runs: armed, then a standby', async (t) => {
  const first = decideArming(
    spec(true),
    own({ fence: off, standby: null }),
    true,
    view({ keeper: unarmedKeeper }),
  );
  t.same(first.step, { do: 'arm' });
  t.equal(first.ha.state, 'unprotected');
  const then = decideArming(spec(true), own({ standby: null }), true, view());
  t.same(then.step, { do: 'set-standby', node: 'n2' });
});

await t.test(
  'HA turned off or paused, or a disk on a local pool: disarmed; only a pause keeps the standby',
  async (t) => {
    t.match(decideArming(spec(false), own(), true, view()), { ha: { state: 'off' }, step: { do: 'disarm' } });
    t.match(decideArming(spec(true), own(), true, view({ paused: true })), {
      ha: { state: 'paused' },
      step: { do: 'disarm' },
    });
    const local = view({ reach: { ok: false, why: 'disk "root" is on the local pool "fast"' } });
    t.match(decideArming(spec(true), own(), true, local), {
      ha: { state: 'unprotected', text: /^not protected: disk "root"/ },
      step: { do: 'disarm' },
    });
    const calm = own({ fence: off });
    t.same(decideArming(spec(false), calm, true, view({ keeper: unarmedKeeper })).step, {
      do: 'set-standby',
      node: null,
    });
    t.equal(decideArming(spec(true), calm, true, view({ keeper: unarmedKeeper, paused: true })).step, null);
  },
);

await t.test(
  'the ledger says armed and the keeper does not: armed anew, or the ledger is put right',
  async (t) => {
    t.same(decideArming(spec(true), own(), true, view({ keeper: unarmedKeeper })).step, { do: 'arm' });
    t.match(decideArming(spec(true), own(), true, view({ keeper: deaf })), {
      ha: { state: 'unprotected', text: /no watchdog/ },
      step: { do: 'disarm' },
    });
    const short = own({ fence: { armed: true, waitMs: 5_000 } });
    t.same(decideArming(spec(true), short, true, view()).step, { do: 'arm' }, 'its wait is too short now');
  },
);

await t.test(
  'a standby that no longer fits is replaced after some patience, and kept where nobody else fits',
  async (t) => {
    const other = view({ standby: { ok: true, node: 'n3' }, unfitMs: standbyPatienceMs - 1 });
    t.match(decideArming(spec(true), own(), true, other), { ha: { state: 'unprotected' }, step: null });
    t.same(decideArming(spec(true), own(), true, { ...other, unfitMs: standbyPatienceMs }).step, {
      do: 'set-standby',
      node: 'n3',
    });
    const nobody = view({
      standby: { ok: false, nodes: [{ node: 'n2', reasons: ['is a witness'] }] },
      unfitMs: 1e6,
    });
    t.match(decideArming(spec(true), own(), true, nobody), {
      ha: { state: 'unprotected', text: /n2 is a witness/, standby: 'n2' },
      step: null,
    });
  },
);

await t.test(
  '"protected" is never said unless ledger and keeper are armed and the standby fits',
  async (t) => {
    const anyView = fc.record({
      paused: fc.boolean(),
      reach: fc.constantFrom(
        { ok: true as const, pools: [], copied: false },
        { ok: false as const, why: 'local' },
      ),
      keeper: fc.constantFrom(null, unarmedKeeper, deaf, view().keeper),
      standby: fc.constantFrom(
        { ok: true as const, node: 'n2' },
        { ok: true as const, node: 'n3' },
        { ok: false as const, nodes: [] },
      ),
      unfitMs: fc.integer({ min: 0, max: 30_000 }),
    });
    const anyOwn = fc.record({
      standby: fc.constantFrom(null, 'n2', 'n3'),
      fence: fc.constantFrom(off, { armed: true, waitMs: 7_000 }),
    });
    fc.assert(
      fc.property(anyView, anyOwn, fc.boolean(), (v, o, enabled) => {
        const a = decideArming(spec(enabled), own(o), true, v);
        if (a.ha.state === 'unprotected' && a.ha.text === '') return false;
        if (a.ha.state !== 'protected') return true;
        const { fence, standby } = own(o);
        const fits = v.standby.ok && v.standby.node === standby;
        return (
          enabled &&
          !v.paused &&
          v.reach.ok &&
          fence.armed &&
          v.keeper?.armed === true &&
          fits &&
          a.step === null
        );
      }),
      { numRuns: 2_000 },
    );
    t.pass();
  },
);
