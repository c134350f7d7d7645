import fc from 'fast-check';
import t from 'tap';
import {
  afterWaitMsMax,
  brakeMs,
  decideFailover,
  isMassFailure,
  type FailoverNode,
  type FailoverPlan,
  type FailoverView,
  type FailoverVm,
} from '../../../../core/decide/failover.js';
import { vmHaDefault, type Fenced, type VmHa } from '../../../../core/domain/ha.js';
import type { VmOwn } from '../../../../core/domain/vm.js';

const now = 1_000_000;
const F = 7_000;
const pool = {
  id: 'p',
  name: 'share',
  kind: 'shared' as const,
  path: '/srv/share',
  nodes: null,
  reservePct: 5,
};
const use = { pool: 'p', totalBytes: 1e12, freeBytes: 5e11, ok: true, text: '', ageMs: 1_000 };

const node = (id: string, o: Partial<FailoverNode> = {}): FailoverNode => ({
  id,
  rack: null,
  counts: true,
  absence: null,
  fenced: null,
  bmc: false,
  beatMs: null,
  ...o,
});
/** Gone for so long, with `seen` at revision 5. */
const gone = (id: string, ms: number, o: Partial<FailoverNode> = {}): FailoverNode =>
  node(id, { absence: { sinceMs: now - ms, seenRevision: 5n }, ...o });
const proof = (seenRevision: string, how: Fenced['how'] = 'person'): Fenced => ({
  node: 'n1',
  seenRevision,
  how,
  by: 'somebody',
  atMs: 1,
});
const vm = (
  id: string,
  own: Partial<VmOwn> = {},
  o: Partial<FailoverVm> = {},
  ha: Partial<VmHa> = {},
): FailoverVm => ({
  id,
  name: id,
  memoryMiB: 100,
  ha: { ...vmHaDefault, enabled: true, ...ha },
  own: {
    owner: 'n1',
    standby: 'n2',
    copies: [],
    gen: 3,
    state: 'running',
    sync: 'ok',
    fence: { armed: true, waitMs: F },
    op: null,
    synced: [],
    syncEpoch: 0,
    failoversMs: [],
    ...own,
  },
  wanted: true,
  running: false,
  left: false,
  reach: { ok: true, pools: [pool], copied: false },
  ...o,
});
const view = (o: Partial<FailoverView> = {}): FailoverView => ({
  me: 'n2',
  live: true,
  policy: { paused: false, hold: false, unsafeWithoutWatchdog: false },
  fenceWaitMs: F,
  standbyGraceMs: 60_000,
  idle: new Map(),
  nodes: [gone('n1', 60_000), node('n2'), node('n3')],
  vms: [vm('a')],
  here: { stays: true, runsVms: true, armable: { ok: true, waitMs: F }, pools: [use], freeMiB: 10_000 },
  inFlight: [],
  wallMs: 1_700_000_000_000,
  ...o,
});
const taken = (p: FailoverPlan): string[] => p.actions.flatMap((a) => (a.do === 'take' ? [a.vm] : []));
const waits = (p: FailoverPlan): string[] => p.waiting.map((w) => w.code);

await t.test('the standby takes an armed VM after the longer of both waits, not before', async (t) => {
  const slow = [vm('a', { fence: { armed: true, waitMs: 9_000 } })];
  const early = decideFailover(view({ vms: slow, nodes: [gone('n1', 8_999), node('n2')] }), now);
  t.same(taken(early), []);
  t.same(waits(early), ['fence-wait']);
  t.equal(early.againMs, 1);
  t.same(taken(decideFailover(view({ vms: slow, nodes: [gone('n1', 9_000), node('n2')] }), now)), ['a']);
  const quick = [vm('a', { fence: { armed: true, waitMs: 1 } })];
  t.same(taken(decideFailover(view({ vms: quick, nodes: [gone('n1', F - 1), node('n2')] }), now)), []);
});

await t.test(
  'proof for this absence spares the wait and the arming; of another absence it is nothing',
  async (t) => {
    const unarmed = [vm('a', { fence: { armed: false, waitMs: 0 } })];
    const with5 = decideFailover(view({ vms: unarmed, nodes: [gone('n1', 0, { fenced: proof('5') })] }), now);
    t.match(with5.actions, [{ do: 'take', vm: 'a', fence: 'person' }]);
    const with4 = decideFailover(
      view({ vms: unarmed, nodes: [gone('n1', 1e6, { fenced: proof('4') })] }),
      now,
    );
    t.same(with4.actions, []);
    t.match(with4.waiting, [{ code: 'unarmed', text: /flotilla node confirm-off n1/ }]);
  },
);

await t.test('a node that can be powered off is, once it is gone for a moment', async (t) => {
  const nodes = (ms: number) => [gone('n1', ms, { bmc: true }), node('n2')];
  t.same(decideFailover(view({ nodes: nodes(999) }), now).actions, []);
  t.match(decideFailover(view({ nodes: nodes(1_000) }), now).actions, [{ do: 'fence', node: 'n1' }]);
  const beating = (ageMs: number) => [
    { ...gone('n1', 20_000, { bmc: true }), beatMs: now - ageMs },
    node('n2'),
  ];
  const fences = (ageMs: number) =>
    decideFailover(view({ nodes: beating(ageMs) }), now).actions.filter((a) => a.do === 'fence').length;
  t.equal(fences(3_499), 0, 'one that is still heard has only lost the ledger');
  t.equal(fences(3_500), 1);
  const hold = { paused: false, hold: true, unsafeWithoutWatchdog: false };
  t.same(decideFailover(view({ nodes: nodes(1_000), policy: hold }), now).actions, [], 'not while held');
});

await t.test('no power is cut for a VM that could not be taken here then', async (t) => {
  const nodes = [gone('n1', 60_000, { bmc: true }), node('n2')];
  const plan = (o: Partial<FailoverView>): FailoverPlan => decideFailover(view({ nodes, ...o }), now);
  const { here } = view();
  const full = plan({ here: { ...here, freeMiB: 50 } });
  t.same(full.actions, []);
  t.same(waits(full), ['no-memory']);
  const wallMs = 1_700_000_000_000;
  for (const armed of [true, false]) {
    const own = { failoversMs: [wallMs - 1], fence: { armed, waitMs: F } };
    const often = plan({ wallMs, vms: [vm('a', own, {}, { restartsPerHourMax: 1 })] });
    t.same(often.actions, []);
    t.match(often.waiting, [{ code: 'too-often', text: /it waits for n1/ }]);
  }
  // Another VM of that node can be taken.
  const both = plan({ here: { ...here, freeMiB: 400 }, vms: [vm('a', {}, { memoryMiB: 900 }), vm('b')] });
  t.ok(both.actions.some((x) => x.do === 'fence'));
});

await t.test(
  'who is not the standby stays away, unless owner and standby are gone for the whole wait',
  async (t) => {
    const third = (nodes: FailoverNode[], own: Partial<VmOwn> = {}) =>
      taken(decideFailover(view({ me: 'n3', nodes, vms: [vm('a', own)] }), now));
    t.same(third([gone('n1', 60_000), node('n2'), node('n3')]), []);
    t.same(third([gone('n1', 60_000), gone('n2', F - 1), node('n3')]), []);
    t.same(third([gone('n1', 60_000), gone('n2', F), node('n3')]), ['a']);
    t.same(third([gone('n1', F), node('n2'), node('n3')], { standby: null }), ['a'], 'there is no standby');
  },
);

await t.test('a standby that lives and does not take has its time, then any node may', async (t) => {
  const at = (idle: Map<string, number>, o: Partial<FailoverView> = {}) =>
    decideFailover(view({ me: 'n3', idle, ...o }), now);
  const first = at(new Map());
  t.same(taken(first), []);
  t.match(first.waiting, [{ vm: 'a', code: 'standby', untilMs: now + 60_000 }]);
  t.equal(first.againMs, 60_000);
  t.same(taken(at(new Map([['a', now - 59_999]]))), []);
  const late = new Map([['a', now - 60_000]]);
  t.match(at(late).actions, [{ do: 'take', vm: 'a', standbyAbsence: null }]);
  const stopped = [vm('a', { state: 'stopped', fence: { armed: false, waitMs: 0 } })];
  t.match(at(late, { vms: stopped }).actions, [{ do: 'move', vm: 'a' }]);
  t.match(at(new Map(), { vms: stopped }).waiting, [{ code: 'standby' }]);
  // What else it waits for is the standby's to say, and no time of this one.
  const hold = at(late, { policy: { paused: false, hold: true, unsafeWithoutWatchdog: false } });
  t.same([hold.actions, hold.waiting], [[], []]);
  const { here } = view();
  t.same(at(late, { here: { ...here, freeMiB: 10 } }).actions, []);
  t.same(at(late, { here: { ...here, runsVms: false } }).actions, []);
  const bmc = (ms: number) =>
    at(new Map(), { nodes: [gone('n1', ms, { bmc: true }), node('n2'), node('n3')] });
  t.same(bmc(60_999).actions, [], 'the standby asks the BMC first');
  t.match(bmc(61_000).actions, [{ do: 'fence', node: 'n1' }]);
});

await t.test('a node that leaves takes nothing, not even as standby', async (t) => {
  const { here } = view();
  for (const me of ['n2', 'n3'])
    t.same(
      decideFailover(
        view({ me, here: { ...here, stays: false }, vms: [vm('a'), vm('b', { standby: null })] }),
        now,
      ).actions,
      [],
    );
});

await t.test('a stopped VM is moved after the wait, armed or not', async (t) => {
  const stopped = [vm('a', { state: 'stopped', fence: { armed: false, waitMs: 0 } })];
  t.match(decideFailover(view({ vms: stopped }), now).actions, [{ do: 'move', vm: 'a' }]);
  t.same(decideFailover(view({ vms: stopped, nodes: [gone('n1', 10), node('n2')] }), now).actions, []);
});

await t.test('a stopped VM that nobody else could make whole stays where it is', async (t) => {
  const why = 'disk "root" is being made from a snapshot that only n1 has';
  const off = vm('v', { state: 'stopped' }, { wanted: false, running: false, reach: { ok: false, why } });
  const plan = decideFailover(view({ vms: [off] }), now);
  t.same(plan.actions, []);
  t.match(plan.waiting, [{ vm: 'v', code: 'no-pool', text: why }]);
});

await t.test('each reason not to act is said', async (t) => {
  const one = (o: Partial<FailoverView>): string[] => {
    const p = decideFailover(view(o), now);
    t.same(taken(p), []);
    return waits(p);
  };
  const policy = { paused: false, hold: false, unsafeWithoutWatchdog: false };
  const { here } = view();
  t.same(one({ live: false }), ['no-lease']);
  t.same(one({ policy: { ...policy, paused: true } }), ['paused']);
  t.same(one({ policy: { ...policy, hold: true } }), ['hold']);
  t.same(one({ vms: [vm('a', { fence: { armed: false, waitMs: 0 } })] }), ['unarmed']);
  t.same(one({ vms: [vm('a', { sync: 'stale' })] }), ['stale']);
  t.same(one({ here: { ...here, armable: { ok: false, why: 'no watchdog' } } }), ['not-armable']);
  t.same(one({ here: { ...here, pools: [{ ...use, ok: false, text: 'dead' }] } }), ['no-pool']);
  t.same(
    one({ here: { ...here, pools: [{ ...use, ageMs: 30_001 }] } }),
    ['no-pool'],
    'not written to of late',
  );
  t.same(one({ vms: [vm('a', {}, { reach: { ok: false, why: 'local' } })] }), ['no-pool']);
  t.same(one({ here: { ...here, freeMiB: 163 } }), ['no-memory']);
  const often = Array.from({ length: 5 }, (_, i) => view().wallMs - i * 60_000);
  t.same(one({ vms: [vm('a', { failoversMs: often })] }), ['too-often']);
  const [wait] = decideFailover(view({ vms: [vm('a', { failoversMs: often })] }), now).waiting;
  t.equal(wait?.untilMs, now + 3_600_000 - 4 * 60_000 + 1, 'taken when the first of five is an hour old');
});

await t.test('priority, then name; memory goes to the first', async (t) => {
  const vms = [vm('c'), vm('b'), vm('a', {}, {}, { priority: 10 }), vm('d', {}, {}, { priority: 90 })];
  t.same(taken(decideFailover(view({ vms }), now)), ['d', 'b', 'c', 'a']);
  const { here } = view();
  const tight = decideFailover(view({ vms, here: { ...here, freeMiB: 330 } }), now);
  t.same(taken(tight), ['d', 'b']);
  t.same(waits(tight), ['no-memory', 'no-memory']);
});

await t.test('what must run before is waited for, but not for ever', async (t) => {
  const vms = [vm('db'), vm('web', {}, {}, { after: ['db'], priority: 99 })];
  t.same(taken(decideFailover(view({ vms }), now)), ['db']);
  const up = [vm('db', { owner: 'n2' }, { running: true }), vms[1] as FailoverVm];
  t.same(taken(decideFailover(view({ vms: up }), now)), ['web']);
  const nodes = [gone('n1', F + afterWaitMsMax), node('n2')];
  const lost = [vm('db', { fence: { armed: false, waitMs: 0 } }), vms[1] as FailoverVm];
  t.same(taken(decideFailover(view({ vms: lost, nodes }), now)), ['web']);
});

await t.test('many nodes gone at once: one VM after the other', async (t) => {
  const nodes = [gone('n1', 60_000), node('n2'), gone('n3', 60_000)];
  t.ok(isMassFailure(nodes));
  t.notOk(isMassFailure([gone('n1', 1), node('n2'), node('n3')]), 'one is not many');
  t.notOk(
    isMassFailure([gone('n1', 1, { rack: 'r' }), node('n2', { rack: 's' }), gone('n3', 1, { rack: 'r' })]),
    'one rack',
  );
  const vms = [vm('a'), vm('b')];
  const p = decideFailover(view({ vms, nodes }), now);
  t.same(taken(p), ['a']);
  t.same(waits(p), ['brake']);
  const flying = (ms: number) => [{ vm: 'x', sinceMs: now - ms }];
  t.same(taken(decideFailover(view({ vms, nodes, inFlight: flying(brakeMs - 1) }), now)), []);
  t.same(
    taken(decideFailover(view({ vms, nodes, inFlight: flying(brakeMs) }), now)),
    ['a'],
    'it never blocks for ever',
  );
});

/** Any cluster of four nodes and some VMs, as node `me` may see it. */
const ids = ['n1', 'n2', 'n3', 'n4'];
const absences = fc.record({ ms: fc.integer({ min: 0, max: 20_000 }), seen: fc.integer({ min: 0, max: 2 }) });
const anyNode = (id: string) =>
  fc
    .record({
      gone: fc.option(absences),
      fenced: fc.option(fc.integer({ min: 0, max: 2 })),
      rack: fc.constantFrom(null, 'r', 's'),
      bmc: fc.boolean(),
    })
    .map(({ gone: g, fenced, rack, bmc }) =>
      node(id, {
        rack,
        bmc,
        absence: g === null ? null : { sinceMs: now - g.ms, seenRevision: BigInt(g.seen) },
        fenced: fenced === null ? null : { ...proof(String(fenced), 'bmc'), node: id },
      }),
    );
const anyVm = (i: number) =>
  fc
    .record({
      owner: fc.constantFrom(...ids),
      standby: fc.option(fc.constantFrom(...ids)),
      state: fc.constantFrom('running' as const, 'stopped' as const, 'migrating' as const),
      armed: fc.boolean(),
      waitMs: fc.integer({ min: 0, max: 15_000 }),
      enabled: fc.boolean(),
      priority: fc.integer({ min: 0, max: 2 }),
      after: fc.constantFrom<string[]>([], ['vm0'], ['vm1']),
      running: fc.boolean(),
    })
    .map((r) =>
      vm(
        `vm${i}`,
        { owner: r.owner, standby: r.standby, state: r.state, fence: { armed: r.armed, waitMs: r.waitMs } },
        { running: r.running },
        { enabled: r.enabled, priority: r.priority, after: r.after },
      ),
    );
const anyView = fc.record({
  nodes: fc.tuple(...ids.map(anyNode)),
  vms: fc.tuple(anyVm(0), anyVm(1), anyVm(2), anyVm(3)),
  live: fc.boolean(),
  hold: fc.boolean(),
  idleMs: fc.option(fc.integer({ min: 0, max: 120_000 })),
});
interface AnyView {
  nodes: FailoverNode[];
  vms: FailoverVm[];
  live: boolean;
  hold: boolean;
  idleMs: number | null;
}
const seenBy = ({ idleMs, ...c }: AnyView, me: string) =>
  view({
    idle: new Map(idleMs === null ? [] : c.vms.map((m) => [m.id, now - idleMs])),
    ...c,
    me,
    policy: { paused: false, hold: c.hold, unsafeWithoutWatchdog: false },
  });

await t.test('nothing is taken but from a node that is gone and can no longer run it', async (t) => {
  fc.assert(
    fc.property(anyView, fc.constantFrom(...ids), (c, me) => {
      const v = seenBy(c, me);
      const plan = decideFailover(v, now);
      for (const a of plan.actions) {
        if (a.do === 'fence') continue;
        const m = c.vms.find((x) => x.id === a.vm) as FailoverVm;
        const owner = c.nodes.find((n) => n.id === m.own.owner);
        if (!v.live || v.policy.hold || !m.ha.enabled || m.own.owner === me) return false;
        if (!owner?.absence) return false;
        const proven = owner.fenced?.seenRevision === String(owner.absence.seenRevision);
        const waited = now - owner.absence.sinceMs >= Math.max(F, m.own.fence.waitMs);
        if (a.do === 'take' && !proven && !(m.own.fence.armed && waited)) return false;
        if (a.do === 'move' && !proven && !waited) return false;
        if (m.own.standby !== null && m.own.standby !== me) {
          const standby = c.nodes.find((n) => n.id === m.own.standby);
          if (standby === undefined) return false;
          if (standby.absence !== null && a.standbyAbsence === null) return false;
          if (standby.absence === null && (c.idleMs ?? 0) < 60_000) return false;
        }
      }
      return true;
    }),
    { numRuns: 3_000 },
  );
  t.pass();
});

await t.test(
  'two nodes both want a VM only where its standby is gone, had its time, or there is none',
  async (t) => {
    fc.assert(
      fc.property(anyView, (c) => {
        const plans = ids.map((me) => taken(decideFailover(seenBy(c, me), now)));
        return c.vms.every((m) => {
          const takers = ids.filter((_, i) => plans[i]?.includes(m.id) === true);
          const standby = c.nodes.find((n) => n.id === m.own.standby);
          const had = (c.idleMs ?? 0) >= 60_000;
          return takers.length <= 1 || standby === undefined || standby.absence !== null || had;
        });
      }),
      { numRuns: 2_000 },
    );
    t.pass();
  },
);

await t.test(
  'each VM of a lost node is acted on or its wait is said; the order of the records changes nothing',
  async (t) => {
    fc.assert(
      fc.property(anyView, fc.constantFrom(...ids), (c, me) => {
        const v = seenBy(c, me);
        const plan = decideFailover(v, now);
        for (const m of c.vms) {
          const owner = c.nodes.find((n) => n.id === m.own.owner);
          if (m.own.standby !== me || m.own.owner === me || !owner?.absence || !m.ha.enabled) continue;
          const acted = plan.actions.some((a) => a.do !== 'fence' && a.vm === m.id);
          if (acted === plan.waiting.some((w) => w.vm === m.id)) return false;
        }
        const turned = { ...v, vms: [...v.vms].reverse(), nodes: [...v.nodes].reverse() };
        const text = (p: FailoverPlan) =>
          JSON.stringify(p, (_, x: unknown) => (typeof x === 'bigint' ? String(x) : x));
        return text(decideFailover(turned, now)) === text(plan);
      }),
      { numRuns: 2_000 },
    );
    t.pass();
  },
);

await t.test('a disk with two copies: its standby alone takes it, and only in sync', async (t) => {
  const copies = ['n1', 'n2'].map((node) => ({ node, state: 'ok', epoch: 0 }));
  const plan = (o: Partial<VmOwn>, more: Partial<FailoverView> = {}): FailoverPlan =>
    decideFailover(view({ vms: [vm('a', { copies, ...o })], ...more }), now);
  t.same(taken(plan({})), ['a']);
  for (const sync of ['stale', 'none'] as const) {
    t.same(plan({ sync }).actions, [], sync);
    t.same(waits(plan({ sync })), ['stale']);
    t.same(plan({ sync, state: 'stopped' }).actions, [], 'not even one that is off');
  }
  const third = { me: 'n3' };
  t.same(plan({}, third).actions, []);
  t.same(plan({ standby: null }, third).actions, []);
});
