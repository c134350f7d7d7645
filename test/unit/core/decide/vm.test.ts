import fc from 'fast-check';
import t from 'tap';
import { decideVm, hangMs } from '../../../../core/decide/vm.js';
import { isNodeFault } from '../../../../core/decide/node-fault.js';
import { freshMemory, type DomainView, type VmView } from '../../../../core/decide/vm-view.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { VmOwn, VmSpec } from '../../../../core/domain/vm.js';

const now = 10_000_000;
const spec: VmSpec = {
  id: '00000000-0000-4000-8000-000000000001',
  name: 'web',
  generation: 2,
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
  ha: { ...vmHaDefault, enabled: true },
};
const own: VmOwn = {
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
};
const domain: DomainView = {
  active: true,
  state: 'running',
  reason: 'booted',
  mark: { gen: 3, generation: 2, startedMs: 1 },
  agentConnected: false,
  diskIds: [],
};
const ha: VmView['ha'] = {
  arming: {
    ha: { state: 'protected', text: '', standby: 'n2' },
    step: null,
    standby: 'n2',
    atStart: true,
    inSlice: true,
  },
  held: false,
  frozen: false,
  failovers: 0,
  silentMs: null,
  lockPatienceMs: 97_000,
};
const view = (o: Partial<VmView> = {}): VmView => ({
  me: 'n1',
  spec,
  own,
  live: true,
  recovering: null,
  domain,
  disks: [],
  ops: [],
  diff: null,
  memory: freshMemory,
  ha,
  ...o,
});
const locked = (sinceMs: number, atMs: number): VmView['memory'] => ({
  ...freshMemory,
  failure: {
    sinceMs,
    atMs,
    count: 9,
    ofNode: 0,
    error: { code: 'disk-locked', message: 'locked', hint: '', causes: [] },
  },
});

await t.test('a VM that its node cannot start, for a reason of its own, is its standby’s', async (t) => {
  const failed = (ofNode: number): VmView['memory'] => ({
    ...freshMemory,
    failure: {
      sinceMs: now - 6_000,
      atMs: now,
      count: ofNode,
      ofNode,
      error: { code: 'pool-unavailable', message: 'the pool is gone', hint: '', causes: [] },
    },
  });
  const off = { domain: null, memory: failed(3) };
  const step = (o: Partial<VmView>): unknown => decideVm(view({ ...off, ...o }), now).step;
  t.same(step({}), { do: 'yield', to: 'n2', sinceMs: now - 6_000, why: 'the pool is gone' });
  t.match(step({ own: { ...own, state: 'stopped' } }), { do: 'yield', to: 'n2' });
  const stays: [string, Partial<VmView>][] = [
    ['it was tried twice', { memory: failed(2) }],
    ['nobody could take it', { ha: { ...ha, arming: { ...ha.arming, standby: null } } }],
    ['failovers are held', { ha: { ...ha, held: true } }],
    ['it has wandered too often', { ha: { ...ha, failovers: vmHaDefault.restartsPerHourMax } }],
    ['the other copy is stale', { own: { ...own, sync: 'stale' } }],
    ['this node is not alive', { live: false }],
    ['it is to stop', { spec: { ...spec, power: 'stopped' } }],
    ['it runs', { domain }],
  ];
  for (const [why, o] of stays) t.not((step(o) as { do: string }).do, 'yield', why);
});

await t.test('what another node need not have is told from what is wrong with the VM', async (t) => {
  const fault = (message: string, causes: string[] = [], code: 'internal' | 'disk-locked' = 'internal') =>
    isNodeFault({ code, message, hint: '', causes });
  for (const text of [
    'cannot set up guest memory: Cannot allocate memory',
    'Cannot check QEMU binary /usr/bin/qemu-system-x86_64: No such file or directory',
    "Cannot access storage file '/srv/shared/x.qcow2': Stale file handle",
    'Could not access KVM kernel module: Permission denied',
  ])
    t.ok(fault('start failed', [text]), text);
  t.ok(fault('The ownership journal /var/lib/flotilla/journal cannot be written'));
  t.notOk(fault('start failed', ['unsupported configuration: no such CPU model']));
  t.notOk(fault("Could not open 'x'", [], 'disk-locked'));
});

await t.test('a held lock is tried again under one generation', async (t) => {
  const memory = locked(now - 5_000, now - 1_000);
  const dead: DomainView = { ...domain, active: false, state: 'shut-off', reason: 'failed' };
  t.match(decideVm(view({ domain: dead, memory }), now).step, { do: 'start', again: true });
  t.match(decideVm(view({ domain: null, memory }), now).step, { do: 'start', again: false });
  const later = { ...own, gen: own.gen + 1 };
  t.match(decideVm(view({ domain: dead, own: later, memory }), now).step, { do: 'start', again: false });
});

await t.test(
  'a locked disk is tried each second for as long as a lock may live, then like all else',
  async (t) => {
    const off = { domain: null };
    const just = decideVm(view({ ...off, memory: locked(now - 5_000, now - 400) }), now);
    t.match(just, { phase: 'starting', step: { do: 'none' }, againMs: 600, reason: /92 s more/ });
    t.match(decideVm(view({ ...off, memory: locked(now - 5_000, now - 1_000) }), now).step, {
      do: 'start',
      arm: true,
    });
    const late = decideVm(view({ ...off, memory: locked(now - 97_000, now - 1_000) }), now);
    t.match(late, { phase: 'failed', step: { do: 'none' }, againMs: 59_000 });
  },
);

await t.test("HA's own step comes before others, but not before an end", async (t) => {
  const arming = { ...ha.arming, step: { do: 'arm' as const } };
  t.same(decideVm(view({ ha: { ...ha, arming } }), now).step, { do: 'arm' });
  const failed = { ...freshMemory, armFailedMs: now - 2_000 };
  t.match(decideVm(view({ ha: { ...ha, arming }, memory: failed }), now), {
    phase: 'running',
    step: { do: 'none' },
    againMs: 3_000,
  });
  const stopped = { ...spec, power: 'stopped' as const };
  t.equal(decideVm(view({ spec: stopped, ha: { ...ha, arming } }), now).step.do, 'ask-stop');
});

await t.test('a silent guest is reset where that is asked for, and as often as allowed', async (t) => {
  const silent = { ...ha, silentMs: hangMs };
  const resets = { ...spec, ha: { ...spec.ha, onHang: 'reset' as const } };
  t.equal(decideVm(view({ ha: silent }), now).step.do, 'none');
  t.equal(decideVm(view({ spec: resets, ha: silent }), now).step.do, 'reset-hung');
  t.match(decideVm(view({ spec: resets, ha: { ...silent, failovers: 5 } }), now), {
    step: { do: 'none' },
    reason: /left as it is/,
  });
});

await t.test('a machine that died comes back as often as its HA allows, failovers counted', async (t) => {
  const dead = { ...domain, active: false, state: 'shut-off', reason: 'crashed' };
  t.match(decideVm(view({ domain: dead, ha: { ...ha, failovers: 4 } }), now).step, {
    do: 'start',
    crashed: true,
  });
  t.match(decideVm(view({ domain: dead, ha: { ...ha, failovers: 5 } }), now).step, {
    do: 'settle',
    powerOff: true,
  });
});

await t.test('starts need ownership and a lease; ends of a foreign machine need proof', async (t) => {
  const anyView = fc.record({
    owner: fc.constantFrom('n1', 'n2'),
    gen: fc.integer({ min: 1, max: 4 }),
    state: fc.constantFrom('stopped' as const, 'running' as const, 'migrating' as const),
    live: fc.boolean(),
    recovering: fc.boolean(),
    power: fc.constantFrom('running' as const, 'stopped' as const, 'paused' as const),
    domain: fc.option(
      fc.record({
        active: fc.boolean(),
        gen: fc.option(fc.integer({ min: 1, max: 4 })),
        reason: fc.constantFrom('shutdown', 'crashed', 'unknown', 'user'),
      }),
    ),
    frozen: fc.boolean(),
    armStep: fc.boolean(),
  });
  fc.assert(
    fc.property(anyView, (r) => {
      const d =
        r.domain === null
          ? null
          : {
              ...domain,
              active: r.domain.active,
              reason: r.domain.reason,
              mark: r.domain.gen === null ? null : { gen: r.domain.gen, generation: 2, startedMs: 1 },
            };
      const v = view({
        own: { ...own, owner: r.owner, gen: r.gen, state: r.state },
        spec: { ...spec, power: r.power },
        live: r.live,
        recovering: r.recovering ? 'is being recovered' : null,
        domain: d,
        ha: {
          ...ha,
          frozen: r.frozen,
          arming: { ...ha.arming, step: r.armStep ? { do: 'disarm', why: 'x' } : null },
        },
      });
      const { step } = decideVm(v, now);
      const mine = r.owner === 'n1' && !r.recovering;
      switch (step.do) {
        case 'start':
          return mine && r.live && d?.active !== true && r.power !== 'stopped' && step.arm && step.inSlice;
        case 'arm':
        case 'disarm':
        case 'set-standby':
          // Off but not yet settled: the mark must go on naming the run, or why it went off is lost.
          return mine && r.live && (d?.active === true || r.state === 'stopped');
        case 'remove-foreign':
          return (
            !mine &&
            (d?.mark ?? null) !== null &&
            r.gen > (d?.mark?.gen ?? 9) &&
            !(d?.active === true && r.frozen)
          );
        case 'none':
          return true;
        default:
          return mine;
      }
    }),
    { numRuns: 5_000 },
  );
  t.pass();
});

await t.test('a copy that was handed over is taken in, unless it is to end', async (t) => {
  const migration = { to: 'n1', op: 'x', gen: 2, handedOver: true };
  const came = { ...own, gen: 3, migration };
  const mark = { gen: 2, generation: 2, startedMs: 1, incoming: true };
  const step = (o: Partial<VmView>, state: DomainView['state'] = 'running'): unknown =>
    decideVm(view({ own: came, domain: { ...domain, mark, state }, ...o }), now).step;
  const del = { id: 'x', kind: 'vm.delete', state: 'running' } as unknown as VmView['ops'][number];
  t.match(step({}, 'paused'), { do: 'take-in', paused: false });
  t.match(step({}), { do: 'take-in' }, 'until the pool has its takeover record');
  t.match(step({ ops: [del] }), { do: 'destroy', why: 'it is being deleted' });
  t.match(step({ ops: [del] }, 'paused'), { do: 'destroy' });
  t.match(step({ hold: 'held' }), { do: 'destroy', why: 'held' });
  const stopped = { spec: { ...spec, power: 'stopped' as const } };
  t.match(step(stopped), { do: 'adopt' }, 'which needs no pool; then it is asked to stop');
  t.match(step(stopped, 'paused'), { do: 'take-in' }, 'it cannot hear the request while it stands still');
  const force = { id: 'x', kind: 'vm.force-stop', state: 'running' } as unknown as VmView['ops'][number];
  t.match(step({ ...stopped, ops: [force] }, 'paused'), { do: 'adopt' }, 'it need not hear this one');
  const full = { ...domain, mark, state: 'paused' as const, reason: 'io-error' as const };
  t.match(step({ ...stopped, domain: full }), { do: 'adopt' }, 'it had gone on until the pool was full');
  t.match(step({ own: { ...came, gen: 4 } }), { do: 'destroy', why: /did not come to its end/ });
});
