import { vmHaDefault } from '../../../core/domain/ha.js';
import { opFinished } from '../../../core/domain/op.js';
import { epochKey, ledger as kinds, metaKey } from '../../../core/wire/ledger-keys.js';
import type { Edit } from './edits.js';
import { noteFault } from './faults.js';
import { World, type WorldOptions } from './world.js';

/**
 * A safety rule switched off, in the shipped program or in the world around it. The same bad night must then break a
 * promise, and must not where the rule holds: a checker that no longer bites is found.
 */
export interface Mutation {
  readonly name: string;
  /** The rule, as it stands while it holds. */
  readonly rule: string;
  /** What must be seen broken, as `promise: text`. */
  readonly breaks: RegExp;
  readonly edits?: readonly Edit[];
  /** The rule is one of the host. */
  readonly bend?: (w: World) => void;
  /** The world of the night, with and without the rule. */
  readonly world?: Partial<WorldOptions>;
  readonly before?: (w: World) => void;
  /** The VM of the night is protected before it begins; false: it cannot be. */
  readonly protected?: false;
  readonly night: (w: World, vm: string) => Promise<void>;
}

/** What came of a night. */
export interface NightResult {
  readonly violations: readonly string[];
  readonly simulatedSeconds: number;
  readonly lines: readonly string[];
}

const nightSeed = 99;
/** The owner of the VM of each night. */
const owner = 'n1';

const edit = (file: string, from: string, to: string): Edit => ({ file, from, to });
const failover = (from: string, to: string): Edit => edit('core/decide/failover.js', from, to);
const decideKeeper = (from: string, to: string): Edit => edit('core/decide/keeper.js', from, to);

/** The owner fails, and nothing else: its VM must be back in time. */
function failsAlone(w: World, kind: 'power-loss' | 'partition', fail: () => void): void {
  noteFault(w, kind, [owner], Infinity);
  fail();
}

const keeperHangs = async (w: World): Promise<void> => {
  w.node(owner).stall('keeper', 60_000);
  await w.pass(25_000);
};

/** The node that a VM comes back to learns that it is to come, and not that it has come: it loses the ledger before. */
export async function cutOffAsItComesBack(w: World): Promise<void> {
  const vm = w.createVm('roamer', 'n4');
  await w.until('it runs, protected', () => w.runsOn(vm)[0] === 'n4' && w.own(vm)?.standby !== null);
  const there = w.migrate(vm, 'n5');
  await w.until('it is at n5', () => opFinished(w.op(there)), 90_000);
  const back = w.migrate(vm, 'n4');
  // The wish and the leave to make ready at once, so that no note of it gets into the journal between.
  w.node('n4').stall('agent', 2_000);
  const away = (): boolean => w.own(vm)?.state === 'migrating' && w.runsOn(vm).length === 0;
  for (let ms = 0; ms < 60_000 && !away(); ms += 10) await w.pass(10);
  const mend = w.net.part(['n4'], w.voters.voters);
  await w.until('it is handed over', () => w.own(vm)?.owner === 'n4');
  await w.until('n4 has no ledger', () => w.node('n4').keeperState?.mode === 'ice');
  await w.pass(1_000);
  mend();
  await w.until('the op ends', () => opFinished(w.op(back)), 90_000);
}

const cutOffAndBack = async (w: World): Promise<void> => {
  // By the ledger alone it can learn what became of its VMs.
  w.node(owner).host.rules.takeoversRead = false;
  w.net.isolate(owner);
  await w.pass(20_000);
  w.net.heal();
  await w.pass(20_000);
};

const cutOffAlone = async (w: World): Promise<void> => {
  failsAlone(w, 'partition', () => void w.net.isolate(owner));
  await w.pass(30_000);
};

/** Whom it counts on: n2 or n3. */
function standbyOf(w: World, vm: string): string {
  const standby = w.own(vm)?.standby ?? null;
  if (standby === null) throw new Error('the VM of the night has no standby');
  return standby;
}

const rewrite = (w: World, vm: string, patch: object): void =>
  w.voters.store.poke(kinds.vmOwn.key(vm), JSON.stringify({ ...w.own(vm), ...patch }));

/** Two of five nodes lose their power, with many VMs. @param locked - the first to come back does not start */
const twoOfFive = (locked: boolean, ms: number) => async (w: World) => {
  for (const [name, node, priority] of [
    ['top', 'n4', 90],
    ['mid', 'n5', 50],
    ['more', 'n4', 50],
    ['less', 'n5', 30],
    ['low', 'n4', 10],
    ['last', 'n5', 10],
  ] as const)
    w.createVm(name, node, { ha: { ...vmHaDefault, enabled: true, priority } });
  await w.pass(15_000);
  for (const n of ['n4', 'n5']) w.node(n).powerLoss();
  if (locked)
    for (const name of ['top', 'mid', 'more', 'less']) w.pool.locks.set(w.vms.get(name) ?? '', 'elsewhere');
  await w.pass(ms);
};

/** One more VM, with its disk on n1 and n2, protected; and what is done to it. */
const withCopies = (act: (w: World, vm: string) => Promise<void>) => async (w: World) => {
  const vm = w.createVm('db', owner, {}, 'n2');
  await w.until('it is protected', () => w.own(vm)?.sync === 'ok' && w.own(vm)?.fence.armed === true);
  await w.pass(5_000);
  await act(w, vm);
  await w.pass(40_000);
  w.checks.atRest();
};

/** The way between the copies is cut for a while, and something happens meanwhile. */
const copiesApart = async (w: World, meanwhile: unknown = null): Promise<void> => {
  w.storage.cut = true;
  await w.pass(8_000);
  if (typeof meanwhile === 'function') (meanwhile as () => void)();
  w.storage.cut = false;
  await w.pass(8_000);
};

const copiesApartThenOwnerFails = async (w: World): Promise<void> => {
  w.storage.cut = true;
  await w.pass(8_000);
  w.node(owner).powerLoss();
  await w.pass(30_000);
  w.storage.cut = false;
  w.node(owner).powerOn();
  await w.pass(20_000);
};

/** One more VM, in lockstep on n1, protected; and what is done to it, with its twin's node. */
const inLockstep =
  (act: (w: World, vm: string, twin: string) => Promise<void> | void) =>
  async (w: World): Promise<void> => {
    const vm = w.createLockstep('twinned', owner);
    await w.until('it is in lockstep', () => w.own(vm)?.lockstep?.state === 'protected');
    await w.pass(3_000);
    await act(w, vm, w.own(vm)?.lockstep?.twin ?? '');
    await w.pass(15_000);
  };

const braked = { nodes: 5, slowStarts: true } as const;

export const mutations: readonly Mutation[] = [
  {
    name: 'r1-start-unwritten',
    rule: 'R1: only the ledger key lets a VM run: a start is written there first',
    breaks: /^R1/,
    edits: [
      edit(
        'agent/vm/actor.js',
        "await this.own.swap(s, { ...s.own.value, gen, state: 'running', fence, fresh: false, ...pair });",
        '',
      ),
    ],
    night: (w) => w.pass(10_000),
  },
  {
    name: 'r1-swap-uncompared',
    rule: 'R1: an ownership is written only on the revision that was read',
    breaks: /^R1/,
    edits: [
      edit('agent/vm/ownership.js', '{ key: kinds.vmOwn.key(s.id), modRevision: s.own.modRevision },', ''),
    ],
    night: (w) => w.pass(10_000),
  },
  {
    name: 'r2-renewal-unread',
    rule: 'R2: a renewal is a keepalive and a linearizable reading of the own live key',
    breaks: /^R2/,
    edits: [
      edit(
        'agent/keeper/lease.js',
        'const { live, stranger } = await this.#read();',
        "return { is: 'good', sentMs };",
      ),
    ],
    night: async (w) => {
      // It leads the ledger, so for two seconds more it is told that its lease lives.
      w.net.isolate(owner);
      await w.pass(25_000);
    },
  },
  {
    name: 'r2-dated-from-answer',
    rule: 'R2: a renewal is dated at its sending',
    breaks: /^R2/,
    edits: [
      edit('agent/keeper/lease.js', 'const sentMs = this.#env.clock.nowMs();', 'let sentMs = 0;'),
      edit(
        'agent/keeper/lease.js',
        'const { live, stranger } = await this.#read();',
        'const { live, stranger } = await this.#read(); sentMs = this.#env.clock.nowMs();',
      ),
    ],
    night: async (w) => {
      w.voters.addWeather({ slowMs: 150 });
      await w.pass(20_000);
    },
  },
  {
    name: 'r2-too-late-to-pet',
    rule: 'R2: with VMs armed a renewal that is too old to pet on is none: the node freezes, and is not reset',
    breaks: /^P4/,
    edits: [edit('agent/keeper/lease.js', 'inTime(clock.nowMs() - r.sentMs, youngMs);', ';')],
    night: async (w) => {
      // Two calls take 1.0 to 1.4 s.
      w.voters.addWeather({ longMs: 249, slowMs: 90 });
      await w.pass(20_000);
    },
  },
  {
    name: 'r2-not-mine',
    rule: 'R2: an ownership is written only while the own live key is there',
    breaks: /^R2/,
    edits: [edit('agent/vm/ownership.js', '            mine,\n', '')],
    night: (w) => w.pass(10_000),
  },
  {
    name: 'r3-autostart',
    rule: 'R3: nothing starts by itself after a boot',
    breaks: /^P1/,
    bend: (w) => {
      for (const n of w.nodes.values()) n.host.rules.noAutostart = false;
    },
    night: async (w, vm) => {
      w.node(owner).powerLoss();
      await w.until('another node runs it', () => w.runsOn(vm).some((n) => n !== owner));
      w.node(owner).powerOn();
      await w.pass(20_000);
    },
  },
  {
    name: 'r4-no-fence-wait',
    rule: 'R4: the standby waits longer than the watchdog',
    breaks: /^P1/,
    edits: [failover('const waitMs = Math.max(v.fenceWaitMs, own.fence.waitMs);', 'const waitMs = 0;')],
    night: keeperHangs,
  },
  {
    name: 'r4-owners-wait-ignored',
    rule: "R4: the standby waits for the owner's own watchdog, where that is slower",
    breaks: /^R4/,
    edits: [failover('Math.max(v.fenceWaitMs, own.fence.waitMs)', 'v.fenceWaitMs')],
    world: { keeperTiming: { watchdogMs: 8_000, fenceWaitMs: 10_000 } },
    night: keeperHangs,
  },
  {
    name: 'r5-stale-copy-taken',
    rule: 'R5, safety 2: no program takes a VM over on a copy that is stale',
    breaks: /^R5/,
    edits: [failover("vm.own.sync === 'stale'", 'false')],
    night: async (w, vm) => {
      rewrite(w, vm, { sync: 'stale' });
      w.node(owner).powerLoss();
      await w.pass(20_000);
    },
  },
  {
    name: 's2-stale-unsaid',
    rule: 'safety 2: writes go on without the other copy only after the ledger calls it stale',
    breaks: /^P2/,
    edits: [
      edit(
        'agent/drbd/fence-door.js',
        'if (kept === null || mine === null || epoch === null)',
        "return { ok: true, why: '', stays: false }; if (kept === null || mine === null || epoch === null)",
      ),
    ],
    world: { copies: true },
    night: withCopies(copiesApartThenOwnerFails),
  },
  {
    name: 's2-old-epoch',
    rule: 'safety 2: a copy is called stale in a new epoch',
    breaks: /^safety 2/,
    edits: [edit('core/decide/replica.js', 'own.syncEpoch + 1', 'own.syncEpoch')],
    world: { copies: true },
    night: withCopies(copiesApart),
  },
  {
    name: 's2-sync-unseen',
    rule: 'safety 2: copies are called the same only when they were seen to be',
    breaks: /^P2/,
    edits: [edit('core/decide/replica.js', '(v !== undefined && inSync(pair, v))', '(true)')],
    world: { copies: true },
    night: withCopies(copiesApartThenOwnerFails),
  },
  {
    name: 's3-without-its-drive',
    rule: 'safety 3: an owner without its drive never calls the other copy stale',
    breaks: /^safety 3/,
    edits: [
      edit('core/decide/replica.js', "const whole = v.here === 'UpToDate' ||", 'const whole = true ||'),
    ],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.copies?.loseDrive(owner, vm);
      await copiesApart(w);
    }),
  },
  {
    name: 's3-gives-the-good-copy-up',
    rule: 'safety 3: an owner whose copy is not whole gives the other one up for nobody',
    breaks: /^safety 3/,
    edits: [edit('core/decide/second-node.js', "v.here !== 'UpToDate' && v.here !== 'Consistent'", 'false')],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.copies?.loseDrive(owner, vm);
      w.standby(vm, 'n3', true);
      await w.pass(10_000);
    }),
  },
  {
    name: 's8-thrown-away-unproven',
    rule: 'safety 8: what was written apart is thrown away only where the ledger proves that nobody was told of it',
    breaks: /^safety 8/,
    edits: [edit('core/decide/copies.js', 'discardMine: stale && peerWhole', 'discardMine: true')],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      await copiesApart(w, () => {
        w.copies?.writeApart('n2', vm);
        // As after the ledger was restored from an older snapshot.
        const copies = w.own(vm)?.copies.map((c) => ({ ...c, state: 'ok' }));
        rewrite(w, vm, { copies, sync: 'stale' });
      });
    }),
  },
  {
    name: 's13-given-up-unasked',
    rule: 'safety 13: a good copy is given up for another one only when somebody said so',
    breaks: /^safety 13/,
    edits: [edit('agent/replica/standby-desk.js', "x.own.value.sync === 'ok' && !args.unprotected", 'false')],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.standby(vm, 'n3', false);
      await w.pass(10_000);
    }),
  },
  {
    name: 's13-taken-away-early',
    rule: 'safety 13: a replaced copy is taken away only when the present ones are the same',
    breaks: /^safety 13/,
    edits: [edit('core/decide/second-node.js', "if (v.own.sync === 'ok')", 'if (true)')],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.standby(vm, 'n3', true);
      await w.pass(10_000);
    }),
  },
  {
    name: 'r6-radio-decides',
    rule: 'R6: silence on the radio decides nothing',
    breaks: /^P1/,
    edits: [
      edit(
        'agent/ha/failover-desk.js',
        'absence: this.absences.of(id),',
        `absence: this.absences.of(id) ?? (now - (this.lastBeatMs.get(id) ?? now) > 3_500
          ? { sinceMs: this.lastBeatMs.get(id), seenRevision: s.seen.get(id) ?? 0n } : null),`,
      ),
      edit('agent/ha/takeover.js', '{ key: kinds.live.key(node), createRevision: 0n },', ''),
    ],
    night: async (w) => {
      w.hub.stopBroker(owner);
      await w.pass(25_000);
    },
  },
  {
    name: 'r7-wall-clock',
    rule: 'R7: waits are told by clocks that nobody sets',
    breaks: /^P1/,
    edits: [
      edit(
        'agent/ha/failover-desk.js',
        'const now = this.env.clock.nowMs();',
        'const now = this.env.clock.wallMs();',
      ),
      edit(
        'agent/loop.js',
        'this.snapshotMs = this.env.clock.nowMs();',
        'this.snapshotMs = this.env.clock.wallMs();',
      ),
    ],
    night: async (w) => {
      w.node(owner).stall('keeper', 60_000);
      await w.until('its lease is over', () => w.voters.store.peek(kinds.live.key(owner)) === null);
      await w.pass(600);
      for (const n of ['n2', 'n3']) w.node(n).host.wallOffsetMs += 3_600_000;
      await w.pass(20_000);
    },
  },
  {
    name: 's1-unarmed-taken',
    rule: 'safety 1: only an armed owner is failed over without proof',
    breaks: /^safety 1:/,
    edits: [failover('runs && !own.fence.armed && proof === null', 'false')],
    protected: false,
    before: (w) => {
      const { watchdog } = w.node(owner).host;
      const info = { ...watchdog.info(), kind: 'none' as const, timeoutMs: null };
      Object.assign(watchdog, { info: () => info });
    },
    night: async (w) => {
      w.net.isolate(owner);
      await w.pass(25_000);
    },
  },
  {
    name: 's1-disarmed-first',
    rule: 'safety 1: the ledger says "unarmed" before the watchdog is let go',
    breaks: /^safety 1:/,
    edits: [
      edit(
        'agent/vm/actor.js',
        'if (s.own.value.fence.armed)\n',
        'await env.keeper.disarm(s.id);\nif (s.own.value.fence.armed)\n',
      ),
    ],
    night: async (w, vm) => {
      w.edit(vm, { ha: { ...w.spec(vm).ha, enabled: false } });
      await w.pass(10_000);
    },
  },
  {
    name: 'seen-uncompared',
    rule: 'a failover compares that the owner was not back since the wait began (`seen`)',
    breaks: /^R4/,
    edits: [
      edit('agent/ha/takeover.js', '{ key: kinds.seen.key(node), modRevision: seenRevision },', ''),
      edit(
        'agent/ha/absence.js',
        'this.gone.get(node)?.seenRevision !== seenRevision',
        'this.gone.get(node) === undefined',
      ),
    ],
    night: async (w) => {
      const back = w.net.isolate(owner);
      await w.until('its live key is gone', () => w.voters.store.peek(kinds.live.key(owner)) === null);
      await w.pass(1_000);
      // Nobody looks while it is back, and then hangs.
      for (const n of ['n2', 'n3']) w.node(n).stall('agent', 8_000);
      back();
      await w.until('it is back', () => w.node(owner).keeperState?.mode === 'run');
      await w.pass(3_500);
      await keeperHangs(w);
    },
  },
  {
    name: 's4-no-takeover-record',
    rule: 'safety 4: a new owner leaves its record in the pool',
    breaks: /^P5/,
    edits: [edit('agent/vm/ownership.js', 'for (const pool of sharedPools(s))', 'for (const pool of [])')],
    night: cutOffAlone,
  },
  {
    name: 's10-record-of-an-earlier-stay',
    rule: 'safety 10: a record of before the VM was armed is no proof against the machine that a migration brings',
    breaks: /^safety 10: n4 killed/,
    edits: [decideKeeper('if (r.gen <= of.above)', 'if (false)')],
    world: { nodes: 5, locks: null },
    night: cutOffAsItComesBack,
  },
  {
    name: 's4-thawed-not-killed',
    rule: 'safety 4: what another node owns is killed, not thawed',
    breaks: /^P1/,
    edits: [decideKeeper("return { do: 'kill', why: is };", "return { do: 'go-on' };")],
    night: cutOffAndBack,
  },
  {
    name: 's4-lock-not-retried',
    rule: 'safety 4: a held lock is tried each second',
    breaks: /^P5/,
    edits: [edit('core/decide/vm.js', 'failure.atMs + lockRetryMs - nowMs', 'failure.atMs + 60_000 - nowMs')],
    world: { locks: 20_000 },
    night: async (w) => {
      failsAlone(w, 'power-loss', () => w.node(owner).powerLoss());
      await w.pass(50_000);
    },
  },
  {
    name: 's4-generation-each-try',
    rule: 'safety 4, 12: a held lock is tried again under the generation that there is',
    breaks: /^safety 12: .* generations/,
    edits: [edit('core/decide/vm.js', "v.memory.failure?.error.code === 'disk-locked' &&", 'false &&')],
    world: { locks: 20_000 },
    night: async (w) => {
      failsAlone(w, 'power-loss', () => w.node(owner).powerLoss());
      await w.pass(50_000);
    },
  },
  {
    name: 'yield-before-down',
    rule: 'an owner gives a VM over only when nothing of it is left there',
    breaks: /^(P1|R1)/,
    // It gives it over as soon as the machine is asked to end.
    edits: [
      edit(
        'core/decide/vm.js',
        "if (spec.power === 'stopped') {\n        if (v.ops.some",
        "if (spec.power === 'stopped' && v.ha.arming.standby !== null) return t.answer('stopping', { do: 'yield', to: v.ha.arming.standby, sinceMs: nowMs, why: 'x' });\n    if (spec.power === 'stopped') {\n        if (v.ops.some",
      ),
      edit(
        'agent/vm/actor.js',
        "if (s.domain?.active === true)\n            await ignoreGone(env.hypervisor.stop(s.id, 'destroy'));\n        await this.undefine(s.id, true);\n        if",
        'if',
      ),
    ],
    night: async (w, vm) => {
      w.action('stop', vm);
      await w.pass(10_000);
    },
  },
  {
    name: 'yield-stale',
    rule: 'R5: an owner gives no VM to a copy that is stale',
    breaks: /^R5/,
    edits: [edit('core/decide/vm.js', "v.own?.sync === 'stale'", 'false')],
    night: async (w, vm) => {
      rewrite(w, vm, { sync: 'stale' });
      const { host } = w.node(owner);
      host.startFault = 'cannot set up guest memory: Cannot allocate memory';
      host.libvirt.die(vm, 'crashed');
      await w.pass(20_000);
    },
  },
  {
    name: 's5-living-standby-passed-over',
    rule: 'safety 5: while the standby lives it has its time, and nobody else takes the VM',
    breaks: /^safety 5/,
    edits: [failover('standby?.absence === null ? standby : null', 'null')],
    night: async (w, vm) => {
      w.node(standbyOf(w, vm)).stall('agent', 20_000);
      w.node(owner).powerLoss();
      await w.pass(40_000);
    },
  },
  {
    name: 's5-standby-not-waited-for',
    rule: 'safety 5: another node waits until owner and standby are both gone for the whole wait',
    breaks: /^safety 5/,
    edits: [failover('standbyAbsence.sinceMs + waitMs', '-Infinity')],
    world: { nodes: 5, voters: 5 },
    night: async (w, vm) => {
      const standby = standbyOf(w, vm);
      w.node(owner).powerLoss();
      await w.pass(6_000);
      w.node(standby).powerLoss();
      await w.pass(25_000);
    },
  },
  {
    name: 's5-pool-not-asked',
    rule: 'safety 5: a standby has written to the pool of late',
    breaks: /^P5/,
    edits: [
      edit('core/decide/standby.js', 'if (!use.ok)', 'if (false)'),
      edit('core/decide/standby.js', 'probedMs <= probeAgeMsMax', 'true'),
    ],
    night: async (w, vm) => {
      w.pool.unreachable.add(standbyOf(w, vm));
      await w.pass(45_000);
      failsAlone(w, 'power-loss', () => w.node(owner).powerLoss());
      await w.pass(25_000);
    },
  },
  {
    name: 's6-handed-over-early',
    rule: 'safety 6: own is handed over only when libvirt has reported the copy whole',
    breaks: /^P1: .* handed over .* while it ran/,
    edits: [
      edit(
        'agent/vm/migration-source.js',
        'leavePaused: true,',
        'leavePaused: (void this.handOver(t).catch(() => undefined), true),',
      ),
    ],
    night: async (w, vm) => {
      w.migrate(vm, standbyOf(w, vm));
      await w.pass(20_000);
    },
  },
  {
    name: 's6-second-writer-allowed',
    rule: 'safety 6: after a migration the kernels let one node write only',
    breaks: /^P1: both copies/,
    edits: [edit('agent/replica/replica-desk.js', 'await replication.allowTwoPrimaries(vm, false);', '')],
    world: { copies: true },
    night: withCopies(async (w, vm) => void w.migrate(vm, 'n2')),
  },
  {
    name: 's6-left-open',
    rule: 'safety 6: who handed a VM over closes its disks',
    breaks: /^P1: both copies/,
    edits: [
      edit(
        'core/decide/copies.js',
        "pair?.role === 'Primary' && !v.inUse && own.state !== 'migrating'",
        "pair?.role === 'Primary' && !v.inUse && own.state !== 'migrating' && mine",
      ),
    ],
    world: { copies: true },
    night: withCopies(async (w, vm) => void w.migrate(vm, 'n2')),
  },
  {
    name: 's6-opened-behind',
    rule: 'safety 6: a second node opens the disks only where it has every write',
    breaks: /^safety 6: .* is to come to n2/,
    edits: [
      edit(
        'core/decide/copies.js',
        'pair.volumes.length > 0 && pair.volumes.every((v) => inSync(pair, v))',
        'true',
      ),
      edit('core/decide/copies.js', "own.sync === 'ok' && pair.peerRole", 'pair.peerRole'),
      edit('core/decide/migrate.js', "&& (own.sync !== 'ok' ||", '&& ('),
    ],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.storage.cut = true;
      await w.until('it goes on with one copy', () => w.own(vm)?.sync === 'stale');
      await w.pass(5_000);
      w.migrate(vm, 'n2');
      w.storage.cut = false;
    }),
  },
  {
    name: 's6-handed-over-apart',
    rule: 'safety 6: a VM is handed over only on the word that its copies are the same',
    breaks: /^(P1|P2)/,
    edits: [
      edit('agent/vm/ownership.js', '{ key: kinds.vmOwn.key(s.id), modRevision: s.own.modRevision },', ''),
      edit('agent/vm/migration-source.js', 'if (why !== null && t.end !== null)', 'if (false)'),
    ],
    world: { copies: true },
    night: withCopies(async (w, vm) => {
      w.migrate(vm, 'n2');
      await w.until('it comes to its end', () => w.own(vm)?.state === 'migrating');
      await w.pass(2_000);
      w.storage.cut = true;
      await w.pass(10_000);
      w.storage.cut = false;
    }),
  },
  {
    name: 's7-freeze-unseen',
    rule: 'safety 7: frozen means seen to be frozen',
    breaks: /^P1/,
    edits: [edit('agent/keeper/keeper.js', 'faults.length === 0 && !overdue', 'true')],
    night: async (w) => {
      w.node(owner).host.freezeFault = 'a thread runs on';
      w.net.isolate(owner);
      await w.pass(25_000);
    },
  },
  {
    name: 'born-awake',
    rule: 'what begins in a frozen slice is born frozen',
    breaks: /^P1/,
    bend: (w) => {
      for (const n of w.nodes.values()) n.host.rules.bornFrozen = false;
    },
    night: async (w) => {
      const late = w.createVm('late', owner, { power: 'stopped' });
      await w.pass(8_000);
      w.node(owner).host.libvirt.startMs = () => 4_000;
      w.action('start', late);
      await w.until('its start is decided', () => w.own(late)?.state === 'running');
      w.node(owner).host.rules.takeoversRead = false;
      w.net.isolate(owner);
      await w.pass(40_000);
    },
  },
  {
    name: 'thaw-unread',
    rule: 'THAW reads the owners before anything goes on',
    breaks: /^P1/,
    edits: [decideKeeper('sinceEntered(p.goodMs) && sinceEntered(p.ownersMs)', 'sinceEntered(p.goodMs)')],
    night: cutOffAndBack,
  },
  {
    name: 's9-pets-beside-the-undead',
    rule: 'safety 9: free petting ends a minute after a machine of another owner does not die',
    breaks: /^safety 9/,
    edits: [edit('agent/keeper/owners.js', 'now - k.sinceMs >= killOverdueMs', 'false')],
    night: async (w) => {
      w.node(owner).host.killFault = true;
      w.net.isolate(owner);
      await w.pass(100_000);
    },
  },
  {
    name: 's9-zombie',
    rule: 'safety 9: a node whose agent is dead gives its lease up when a VM of it is gone',
    breaks: /^safety 9/,
    edits: [decideKeeper('v.beatAgeMs >= zombieMs && v.armed', 'false && v.armed')],
    night: async (w, vm) => {
      w.node(owner).kill('agent', false);
      w.node(owner).host.libvirt.die(vm, 'crashed');
      await w.pass(170_000);
    },
  },
  {
    name: 's9-keeper-looks-away',
    rule: 'safety 9: in ICE the keeper itself reads who took its VMs',
    breaks: /^P5/,
    edits: [edit('agent/keeper/keeper.js', "this.#job('pools', () => this.#readPools());", '')],
    night: cutOffAlone,
  },
  {
    name: 's10-older-owner-believed',
    rule: "safety 10: killed only on a generation above the journal's",
    breaks: /^safety 10/,
    edits: [decideKeeper('if (own.gen <= journalGen)', 'if (false)')],
    night: async (w, vm) => {
      w.net.isolate(owner);
      await w.pass(4_000);
      rewrite(w, vm, { owner: 'n9', gen: 1, standby: null, fence: { armed: false, waitMs: 0 } });
      w.net.heal();
      await w.pass(10_000);
    },
  },
  {
    name: 's10-absent-owner-believed',
    rule: 'safety 10: an absent ownership is no proof',
    breaks: /^safety 10/,
    edits: [
      decideKeeper(
        "{ do: 'hold', why: 'the ledger has no owner of it' }",
        "{ do: 'kill', why: 'the ledger has no owner of it' }",
      ),
    ],
    night: async (w, vm) => {
      w.net.isolate(owner);
      await w.pass(4_000);
      w.voters.store.drop(kinds.vmOwn.key(vm));
      w.net.heal();
      await w.pass(10_000);
    },
  },
  {
    name: 's10-epoch-uncompared',
    rule: 'safety 10: every change of an ownership compares the epoch',
    breaks: /^safety 10/,
    edits: [
      edit('agent/vm/ownership.js', '{ key: epochKey, value: String(s.snapshot.meta.value.epoch) },', ''),
    ],
    night: (w) => w.pass(10_000),
  },
  {
    name: 's10-unadmitted',
    rule: 'safety 10: a keeper renews in a restored ledger only when it was admitted',
    breaks: /^safety 10/,
    edits: [
      edit(
        'agent/keeper/lease.js',
        'this.#epoch === null || at.get(admittedKey(node))?.value === text',
        'true',
      ),
    ],
    night: async (w) => {
      const { store } = w.voters;
      const meta = JSON.parse(store.peek(metaKey)?.value ?? '{}') as object;
      store.poke(metaKey, JSON.stringify({ ...meta, epoch: 2 }));
      store.poke(epochKey, '2');
      await w.pass(15_000);
    },
  },
  {
    name: 's11-alone-unwritten',
    rule: 'safety 11: an owner goes on without its twin only when the ledger names none any more',
    breaks: /^(safety 11: .* goes on alone|P1)/,
    edits: [
      edit(
        'agent/lockstep/lockstep-desk.js',
        'const next = ownAlone(own);\n                await p.ownership.swap(s, next);',
        'const next = ownAlone(own);',
      ),
    ],
    world: { lockstep: true },
    night: inLockstep((w, _, twin) => void w.net.part([owner], [twin])),
  },
  {
    name: 's11-taken-unwritten',
    rule: 'safety 11: a twin goes on only when the ledger names its node as owner',
    breaks: /^(safety 11: the twin .* does not own it|P1)/,
    edits: [
      edit('agent/lockstep/lockstep-desk.js', 'await p.ownership.swap(s, next, { compare, writes });', ''),
    ],
    world: { lockstep: true },
    night: inLockstep((w) => w.node(owner).stallAll(4_000)),
  },
  {
    name: 's11-channels-open',
    rule: "safety 11: a twin's node shuts the channels before it makes itself the owner",
    breaks: /^safety 11: .* before its channels were shut/,
    edits: [edit('agent/lockstep/lockstep-desk.js', 'await lockstep.shut(s.id);', '')],
    world: { lockstep: true },
    night: inLockstep((w) => w.node(owner).stallAll(4_000)),
  },
  {
    name: 's11-half-made-taken',
    rule: 'safety 11: a twin that the ledger does not call whole takes nothing over',
    breaks: /^safety 11: .* whose twin the ledger does not count/,
    edits: [edit('core/decide/lockstep.js', "if (pair.state !== 'protected')", 'if (false)')],
    world: { lockstep: true },
    night: async (w) => {
      const vm = w.createLockstep('twinned', owner);
      await w.until('a twin is there', () =>
        [...w.nodes.keys()].some((n) => w.lockstep?.twins(n).includes(vm) === true),
      );
      w.node(owner).powerLoss();
      await w.pass(20_000);
    },
  },
  {
    name: 's11-twin-outlives-its-lease',
    rule: 'safety 11: a keeper that loses its lease ends the twins on its node',
    breaks: /^safety 11: the twin of VM .* lives on/,
    edits: [edit('agent/keeper/keeper.js', "this.#job('twins', () => this.#killTwins(), false);", '')],
    world: { lockstep: true, nodes: 4, voters: 1 },
    night: inLockstep((w, _, twin) => void w.net.part([twin], w.voters.voters)),
  },
  {
    name: 's12-untrimmed',
    rule: 'safety 12: finished operations have a cap',
    breaks: /^safety 12/,
    edits: [edit('agent/op-book.js', 'over <= 0', 'true')],
    night: async (w, vm) => {
      for (let i = 0; i < 260; i++) w.finishedOp('vm.stop', vm);
      await w.pass(60_000);
    },
  },
  {
    name: 's12-growing-ownership',
    rule: 'safety 12: an ownership remembers so many failovers, and no more',
    // Its schema knows a bound as well, so without the cut nobody can take the VM over any more.
    breaks: /^(safety 12|P5)/,
    edits: [edit('agent/ha/failover-op.js', '.slice(-failoversKept)', '')],
    night: async (w, vm) => {
      const twoHoursAgoMs = w.wallMs - 7_200_000;
      rewrite(w, vm, { failoversMs: Array.from({ length: 16 }, (_, i) => twoHoursAgoMs + i) });
      failsAlone(w, 'power-loss', () => w.node(owner).powerLoss());
      await w.pass(20_000);
    },
  },
  {
    name: 's15-no-brake',
    rule: 'safety 15: with many nodes gone at once VMs come back one after the other',
    breaks: /^safety 15: .* under way/,
    edits: [failover('mass && (takes > 0 || flying.length > 0)', 'false')],
    world: braked,
    night: twoOfFive(false, 40_000),
  },
  {
    name: 's15-priority-turned',
    rule: 'safety 15: the VM of higher priority comes first',
    breaks: /^safety 15: .* higher/,
    edits: [failover('b.ha.priority - a.ha.priority', 'a.ha.priority - b.ha.priority')],
    world: braked,
    night: twoOfFive(false, 40_000),
  },
  {
    name: 's15-brake-for-ever',
    rule: 'safety 15: the brake never blocks for ever',
    breaks: /^safety 15: .* for ever/,
    edits: [failover('nowMs - f.sinceMs < brakeMs', 'true')],
    world: braked,
    night: twoOfFive(true, 290_000),
  },
];

/** @param off - the rule is; what the shipped program does without it was edited when it was loaded */
export async function runNight(m: Mutation, off: boolean): Promise<NightResult> {
  const w = new World({ seed: nightSeed, nodes: 3, log: true, ...m.world });
  m.before?.(w);
  if (off) m.bend?.(w);
  try {
    w.boot();
    const vm = w.createVm('web', owner);
    await w.until('it runs', () => w.runsOn(vm).length === 1);
    if (m.protected !== false) await w.until('it is protected', () => w.own(vm)?.standby !== null);
    await w.pass(12_000);
    await m.night(w, vm);
  } catch (error) {
    // Without its rule the cluster may not even get that far.
    if (!off) throw error;
    w.say(`the night ends early: ${String(error)}`);
  }
  return {
    violations: w.checks.violations.map((v) => `${v.promise}: ${v.text}`),
    simulatedSeconds: Math.round(w.time.nowMs / 1000),
    lines: w.lines,
  };
}
