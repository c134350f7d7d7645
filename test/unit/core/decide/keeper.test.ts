import fc from 'fast-check';
import t from 'tap';
import {
  armRefusal,
  fenceWaitMs,
  isZombie,
  mayPet,
  nextMode,
  ownerVerdict,
  startMode,
  takeoverVerdict,
  unsafeAllowed,
  zombieMs,
  type KeeperMode,
  type Pulse,
} from '../../../../core/decide/keeper.js';
import { timingFaults, timingProfiles } from '../../../../core/domain/timing.js';
import { admittedKey, fencedKey, liveKey, ownKey, seenKey } from '../../../../core/wire/key-names.js';
import * as keys from '../../../../core/wire/key-names.js';
import * as records from '../../../../core/wire/ledger-keys.js';

const timing = timingProfiles.production;
const kept = { kind: 'hardware', kept: 'yes' } as const;

void t.test('the profiles keep the rules of the model', async (t) => {
  for (const p of Object.values(timingProfiles)) {
    t.same(timingFaults(p), [], p.name);
    t.ok(p.fenceWaitMs >= fenceWaitMs(p, kept), 'F covers what a node asks to be waited for');
  }
  t.same(timingFaults({ ...timing, fenceWaitMs: 6_999 }).length, 1);
  t.same(timingFaults({ ...timing, renewalGoodMs: 3_000 }).length, 1);
  t.same(timingFaults({ ...timing, watchdogMs: 2_500, fenceWaitMs: 9_000 }).length, 1);
});

void t.test(
  'a device that the death of the keeper closes is waited for once more: closing pets',
  async (t) => {
    const { watchdogMs: w, petAgeMs: d } = timing;
    t.equal(fenceWaitMs(timing, kept), w + d + 1_000);
    t.equal(fenceWaitMs(timing, { ...kept, kept: 'no' }), 2 * w + d + 1_000);
    t.equal(fenceWaitMs(timing, { kind: 'none', kept: 'no' }), w + d + 1_000, 'there is none to pet');
  },
);

void t.test('the keys are those of the records', async (t) => {
  t.equal(keys.ledgerRoot, records.ledgerRoot);
  t.equal(keys.epochKey, records.epochKey);
  t.equal(keys.policyKey, records.policyKey);
  t.equal(liveKey('n1'), records.ledger.live.key('n1'));
  t.equal(seenKey('n1'), records.ledger.seen.key('n1'));
  t.equal(fencedKey('n1'), records.ledger.fenced.key('n1'));
  t.equal(ownKey('x'), records.ledger.vmOwn.key('x'));
  t.match(admittedKey('n1'), /admitted\/n1$/);
});

const pulse = (p: Partial<Pulse>): Pulse => ({
  mode: 'run',
  enteredMs: 0,
  mine: true,
  goodMs: 0,
  ownersMs: null,
  frozen: false,
  armed: 1,
  ...p,
});
const next = (p: Partial<Pulse>, now: number): KeeperMode | null =>
  nextMode(pulse(p), now, timing)?.mode ?? null;

void t.test('RUN ends when the last good renewal is too old, or the key is lost', async (t) => {
  t.equal(next({}, 2_499), null);
  t.equal(next({}, 2_500), 'ice');
  t.equal(next({ mine: false }, 1), 'ice');
  t.equal(next({ goodMs: null }, 1), 'ice');
});

void t.test('ICE ends only by a renewal that was sent in it', async (t) => {
  t.equal(next({ mode: 'ice', enteredMs: 100, goodMs: 99 }, 110), null);
  t.equal(next({ mode: 'ice', enteredMs: 100, goodMs: 100 }, 110), 'thaw');
  t.equal(next({ mode: 'ice', enteredMs: 100, goodMs: 100 }, 2_600), null, 'not by an old one');
  t.equal(next({ mode: 'ice', enteredMs: 100, goodMs: 100, mine: false }, 110), null);
});

void t.test('THAW needs a renewal and the owners, both asked for after entering', async (t) => {
  const thaw = { mode: 'thaw', enteredMs: 100 } as const;
  t.equal(next({ ...thaw, goodMs: 100, ownersMs: null }, 200), null);
  t.equal(next({ ...thaw, goodMs: 99, ownersMs: 100 }, 200), null);
  t.equal(next({ ...thaw, goodMs: 100, ownersMs: 99 }, 200), null);
  t.equal(next({ ...thaw, goodMs: 100, ownersMs: 120 }, 200), 'run');
  t.equal(next({ ...thaw, goodMs: 100, ownersMs: 120 }, 2_600), 'ice', 'too late');
  t.equal(next({ ...thaw, mine: false, goodMs: 100, ownersMs: 120 }, 200), 'ice');
});

const anyPulse = fc.record({
  mode: fc.constantFrom<KeeperMode>('run', 'ice', 'thaw'),
  enteredMs: fc.integer({ min: 0, max: 10_000 }),
  mine: fc.boolean(),
  goodMs: fc.option(fc.integer({ min: 0, max: 10_000 })),
  ownersMs: fc.option(fc.integer({ min: 0, max: 10_000 })),
  frozen: fc.boolean(),
  armed: fc.integer({ min: 1, max: 3 }),
});

void t.test('no pet without proof, whatever the state', async () => {
  fc.assert(
    fc.property(anyPulse, fc.integer({ min: 0, max: 20_000 }), (p, now) => {
      const young = p.mine && p.goodMs !== null && now - p.goodMs < timing.petAgeMs;
      if (mayPet(p, now, timing, 'free') && !(p.mode === 'ice' && p.frozen)) return false;
      if (p.mode !== 'ice' && mayPet(p, now, timing, 'renewal') !== young) return false;
      return mayPet({ ...p, armed: 0 }, now, timing, 'free');
    }),
    { numRuns: 2_000 },
  );
});

void t.test('the modes settle: no state goes round in circles', async () => {
  fc.assert(
    fc.property(anyPulse, fc.integer({ min: 10_000, max: 20_000 }), (start, now) => {
      let p: Pulse = start;
      for (let i = 0; i < 4; i++) {
        const to = nextMode(p, now, timing);
        if (to === null) return true;
        p = { ...p, mode: to.mode, enteredMs: now, ownersMs: null, frozen: false };
      }
      return false;
    }),
    { numRuns: 2_000 },
  );
});

/**
 * A node by these decisions against a standby that follows the contract, at any interleaving: renewals that are lost,
 * late or refused, leases that end early (a known fault of etcd 3.4), a keeper that stalls, freezing that fails. The
 * VM must never run on both.
 */
void t.test('whatever happens, the VM never runs where another node has taken it', async (t) => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ do: fc.constant('pass'), ms: fc.integer({ min: 50, max: 3_000 }) }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant('stall'), ms: fc.integer({ min: 500, max: 4_000 }) }),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom(...['cut', 'heal', 'stubborn', 'expire'].map((d) => ({ do: d, ms: 0 }))),
    },
  );
  let taken = 0;
  let ran = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), fc.boolean(), (steps, slow) => {
      const w = new World(slow);
      w.pass(3_000, false);
      for (const s of steps) {
        if (s.do === 'cut') w.reach = false;
        else if (s.do === 'heal') w.reach = true;
        else if (s.do === 'stubborn') w.stubborn = true;
        else if (s.do === 'expire') w.expire();
        else w.pass(s.ms, s.do === 'stall');
        if (w.both) return false;
      }
      if (w.taken) taken++;
      if (w.ran) ran++;
      return true;
    }),
    { numRuns: 1_000 },
  );
  // The world is not so kind that nothing is ever tried.
  t.ok(ran > 900 && taken > 200, `ran ${ran}, taken ${taken}`);
});

/** Time in steps of 50 ms, with production's times. */
class World {
  now = 0;
  reach = true;
  stubborn = false;
  both = false;
  taken = false;
  ran = false;
  readonly #slow: boolean;
  #p: Pulse = pulse({ mode: 'ice', mine: false, goodMs: null });
  #up = true;
  /** When the lease ends; null: there is none. */
  #lease: number | null = null;
  #petMs: number | null = null;
  #sent: { ms: number; answerMs: number; alive: boolean; taken: boolean; thaw: boolean } | null = null;
  #running = false;
  #absentMs: number | null = null;

  constructor(slow: boolean) {
    this.#slow = slow;
  }

  pass(ms: number, stalled: boolean): void {
    for (let i = 0; i < ms; i += 50) {
      this.now += 50;
      this.#others();
      if (this.#up && this.#petMs !== null && this.now - this.#petMs >= timing.watchdogMs) {
        this.#up = false;
        this.#running = false;
      }
      if (this.#up && !stalled) this.#keeper();
      this.ran ||= this.#running;
      if (this.#running && this.taken) this.both = true;
    }
  }

  expire(): void {
    this.#lease = null;
  }

  get #alive(): boolean {
    return this.#lease !== null && this.now < this.#lease;
  }

  #others(): void {
    if (this.#alive) this.#absentMs = null;
    else if (this.ran) this.#absentMs ??= this.now;
    if (this.#absentMs !== null && this.now - this.#absentMs >= fenceWaitMs(timing, kept)) this.taken = true;
  }

  #keeper(): void {
    const answer = this.#sent !== null && this.now >= this.#sent.answerMs ? this.#sent : null;
    if (answer !== null) this.#sent = null;
    const heard = answer !== null && this.reach ? answer : null;
    if (heard?.alive === true) {
      this.#p = { ...this.#p, mine: true, goodMs: heard.ms };
      if (heard.thaw && heard.ms >= this.#p.enteredMs) {
        // What another owns is killed.
        if (heard.taken) this.#up = false;
        else this.#p = { ...this.#p, ownersMs: heard.ms };
      }
    } else if (heard !== null) this.#p = { ...this.#p, mine: false };
    this.#settle();
    if (heard?.alive === true && this.#p.mode !== 'ice' && mayPet(this.#p, this.now, timing, 'renewal')) {
      this.#petMs = this.now;
    }
    if (this.#p.mode === 'ice') {
      if (!this.stubborn) this.#running = false;
      this.#p = { ...this.#p, frozen: !this.#running };
      if (this.#petMs !== null && mayPet(this.#p, this.now, timing, 'free')) this.#petMs = this.now;
    } else if (this.#petMs !== null && mayPet(this.#p, this.now, timing, 'free')) this.#petMs = this.now;
    // It runs only after a first pet, and in RUN.
    if (this.#p.mode === 'run' && this.#petMs !== null && this.#up) this.#running = true;
    if (this.#sent === null) this.#send();
  }

  /** Keepalive and reading reach the ledger at once; the answer takes its time. */
  #send(): void {
    const lives = this.now + timing.leaseTtlS * 1_000;
    if (this.reach && (this.#alive || this.#p.mode === 'ice')) this.#lease = lives;
    this.#sent = {
      ms: this.now,
      answerMs: this.now + (this.#slow ? 700 : 100),
      alive: this.#alive,
      taken: this.taken,
      thaw: this.#p.mode === 'thaw',
    };
  }

  #settle(): void {
    for (;;) {
      const to = nextMode(this.#p, this.now, timing);
      if (to === null) return;
      this.#p = { ...this.#p, mode: to.mode, enteredMs: this.now, ownersMs: null, frozen: false };
    }
  }
}

void t.test('a start goes on as it was only within the boot, in RUN, in time', async (t) => {
  const was = { mode: 'run', lease: '7', createRevision: 3n, goodMs: 1_000 } as const;
  t.equal(startMode(was, 3_400, timing), 'run');
  t.equal(startMode(was, 3_500, timing), 'ice');
  t.equal(startMode(was, 900, timing), 'ice', 'a time to come is of another boot');
  t.equal(startMode({ ...was, mode: 'thaw' }, 1_001, timing), 'ice');
  t.equal(startMode({ ...was, lease: null }, 1_001, timing), 'ice');
  t.equal(startMode({ ...was, createRevision: null }, 1_001, timing), 'ice');
  t.equal(startMode(null, 1_001, timing), 'ice');
});

void t.test('kills on proof alone', async (t) => {
  const own = (owner: unknown, gen: unknown): string => JSON.stringify({ owner, gen });
  t.equal(ownerVerdict(own('n1', 1), 'n1', 9, null).do, 'go-on');
  t.equal(ownerVerdict(own('n2', 10), 'n1', 9, null).do, 'kill');
  // Recovered: its own again, but another had it since.
  const fresh = (gen: number, is: unknown = true): string => JSON.stringify({ owner: 'n1', gen, fresh: is });
  t.equal(ownerVerdict(fresh(1_010), 'n1', 9, null).do, 'kill');
  t.equal(ownerVerdict(fresh(1_010), 'n1', 1_010, null).do, 'go-on');
  t.equal(ownerVerdict(fresh(1_010), 'n1', null, null).do, 'hold');
  t.equal(ownerVerdict(fresh(1_010, false), 'n1', 9, null).do, 'go-on');
  for (const [text, gen] of [
    [null, 9],
    ['', 9],
    ['[]', 9],
    [own('n2', 9), 9],
    [own('n2', 8), 9],
    [own('n2', 10), null],
    [own('', 10), 9],
    [own('n2', '10'), 9],
    [own('n2', 10.5), 9],
    [own(null, 10), 9],
  ] as const) {
    t.equal(ownerVerdict(text, 'n1', gen, null).do, 'hold', `${text} over ${gen}`);
  }
});

void t.test('spares the copy that a migration brings, and no machine of before', async (t) => {
  const own = (o: object, m: object = {}): string =>
    JSON.stringify({
      owner: 'n2',
      gen: 10,
      state: 'migrating',
      migration: { to: 'n1', gen: 10, ...m },
      ...o,
    });
  // The swap that follows may have been done when this is read.
  t.equal(ownerVerdict(own({}), 'n1', 9, 9).do, 'go-on');
  for (const [text, armedGen] of [
    [own({}), null],
    [own({}), 8],
    [own({}), 10],
    [own({ state: 'running' }), 9],
    [own({ gen: 11 }), 10],
    [own({ migration: null }), 9],
    [own({ migration: 'n1' }), 9],
    [own({}, { to: 'n3' }), 9],
    [own({}, { gen: 9 }), 9],
  ] as const) {
    t.equal(ownerVerdict(text, 'n1', 9, armedGen).do, 'kill', `${text}, armed on ${armedGen}`);
  }
});

void t.test('a takeover record of another VM, epoch or this node proves nothing', async (t) => {
  const of = { vm: 'v', node: 'n1', epoch: 2, above: 3 };
  const text = (o: object): string => JSON.stringify({ vm: 'v', owner: 'n2', gen: 5, epoch: 2, ...o });
  t.equal(takeoverVerdict(text({}), of, 4)?.do, 'kill');
  for (const o of [{ vm: 'w' }, { owner: 'n1' }, { epoch: 1 }, { gen: 4 }, { gen: 0 }, { owner: 3 }]) {
    t.equal(takeoverVerdict(text(o), of, 4), null, JSON.stringify(o));
  }
  t.equal(takeoverVerdict(text({}), { ...of, above: 5 }, 4), null, 'of an earlier stay');
  t.equal(takeoverVerdict(text({}), of, null), null);
  t.equal(takeoverVerdict(text({}), { ...of, epoch: null }, 4), null);
  t.equal(takeoverVerdict('{"vm":"v","owner":"n2","gen":5', of, 4), null, 'half a record');
});

void t.test('arming needs RUN, safe times and a watchdog of W', async (t) => {
  const w = { kind: 'hardware', timeoutMs: 5_000, fault: null } as const;
  const view = { mode: 'run', slowAgoMs: 2_250, watchdog: w, unsafeAllowed: false } as const;
  t.equal(armRefusal(view, timing), null);
  t.match(armRefusal({ ...view, mode: 'thaw' }, timing), /renewal/);
  t.match(armRefusal({ ...view, slowAgoMs: 2_249 }, timing), /longer than 1 s/);
  t.match(armRefusal(view, { ...timing, fenceWaitMs: 1 }), /fence wait/);
  t.match(armRefusal({ ...view, watchdog: { ...w, timeoutMs: null } }, timing), /does not tell/);
  t.match(armRefusal({ ...view, watchdog: { ...w, fault: 'busy' } }, timing), /busy/);
  const none = { ...view, watchdog: { kind: 'none', timeoutMs: null, fault: null } } as const;
  t.match(armRefusal(none, timing), /no watchdog/);
  t.equal(armRefusal({ ...none, unsafeAllowed: true }, timing), null);
});

void t.test('the policy is unsafe only where it plainly says so', async (t) => {
  t.ok(unsafeAllowed('{"ha":{"unsafeWithoutWatchdog":true}}'));
  for (const text of [null, '', '{', '{}', '{"ha":null}', '{"ha":{"unsafeWithoutWatchdog":1}}']) {
    t.notOk(unsafeAllowed(text));
  }
});

void t.test('a zombie: silent for long, and what it should tend is gone', async (t) => {
  const machines = new Set(['a']);
  t.notOk(isZombie({ beatAgeMs: zombieMs - 1, armed: ['a', 'b'], machines }));
  t.ok(isZombie({ beatAgeMs: zombieMs, armed: ['a', 'b'], machines }));
  t.notOk(isZombie({ beatAgeMs: zombieMs, armed: ['a'], machines }));
});
