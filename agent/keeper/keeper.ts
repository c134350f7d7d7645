import {
  armRefusal,
  fenceWaitMs,
  isZombie,
  mayPet,
  nextMode,
  renewalYoungMs,
  startMode,
  trialsAfter,
  zombieMs,
  type KeeperMode,
  type Pulse,
} from '../../core/decide/keeper.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Arming, KeeperState } from '../env.js';
import type { KeeperEnv, RunRecord } from './env.js';
import { Lease } from './lease.js';
import { Owners } from './owners.js';

/** Between two renewals that took their whole time, ms: never a tight loop. */
const renewGapMs = 20;
/** Whether the device stays open is known some ms after it was opened; somebody waits for that and the pet after it, ms. */
const deviceLookMs = 100;

interface Armed extends Arming {
  /** A pet was made that counted it. */
  confirmed: boolean;
}

interface Waiter {
  readonly vm: string;
  readonly resolve: () => void;
  readonly reject: (why: string) => void;
}

/**
 * The keeper of one node: renews its lease, freezes armed VMs when it cannot, and pets the watchdog only where no
 * VM can run without proof. Two loops: one renews, the other watches the time, so that a ledger that hangs delays
 * nothing. All else that may wait (freezing, owners, pools) runs beside them.
 */
export class Keeper {
  readonly #env: KeeperEnv;
  readonly #boot: string;
  readonly #lease: Lease;
  readonly #owners: Owners;
  readonly #armed = new Map<string, Armed>();
  #waiters: Waiter[] = [];

  #mode: KeeperMode;
  #enteredMs: number;
  #mine: boolean;
  #goodMs: number | null;
  /** Renewals in a row too old to pet at their answers. */
  #slow = 0;
  /** When there were two last: one is a hiccup. */
  #slowMs = -Infinity;
  #ownersMs: number | null = null;
  #frozen = false;
  /** When armed VMs went on last; null: they never froze. */
  #thawedMs: number | null = null;

  /** What does not work now, by what; for pages. */
  readonly #faults = new Map<string, string>();
  /** Jobs under way, by name: each at most once. */
  readonly #jobs = new Map<string, Promise<void>>();
  /** Freezing and thawing never overlap. */
  #frost: Promise<void> = Promise.resolve();
  #thawDue: boolean;
  #beatMs: number;
  #surrendered = false;
  #opened = false;
  /** No record of this boot was there, and what runs here has not been looked at yet. */
  #blank: boolean;

  readonly #stopping = new AbortController();
  readonly #naps = new Map<'renew' | 'watch', AbortController>();
  readonly #rung = new Set<'renew' | 'watch'>();
  #loops: Promise<unknown> | null = null;

  constructor(env: KeeperEnv) {
    this.#env = env;
    const nowMs = env.clock.nowMs();
    const had = env.store.loadRun();
    this.#boot = had?.boot ?? env.random.uuid();
    this.#mode = startMode(had, nowMs, env.timing);
    this.#enteredMs = nowMs;
    this.#mine = this.#mode === 'run';
    this.#goodMs = this.#mode === 'run' ? (had?.goodMs ?? null) : null;
    this.#lease = new Lease(env, this.#boot, had ?? { lease: null, createRevision: null });
    this.#owners = new Owners(env, had?.held ?? []);
    for (const { vm, ...a } of had?.armed ?? []) this.#armed.set(vm, a);
    this.#thawDue = this.#mode === 'run';
    this.#blank = had === null;
    this.#beatMs = nowMs;
  }

  start(): void {
    this.#beatMs = this.#env.clock.nowMs();
    this.#save();
    const why = this.#mode === 'ice' ? ': it has no good renewal of this boot that is young enough' : '';
    this.#env.log.info(`keeper ${this.#env.version}: starts in mode ${this.#mode}${why}`, {
      boot: this.#boot,
      armed: this.#armed.size,
    });
    this.#publish();
    if (this.#thawDue) this.#job('thaw', () => this.#thaw());
    if (this.#blank) this.#job('adopt', () => this.#adopt());
    else this.#stopLeft();
    this.#loops ??= Promise.all([this.#renewLoop(), this.#watchLoop()]);
  }

  /**
   * Ends. With VMs armed the lease stays and the watchdog runs on, for the next start; with none the lease is given
   * back, so that nobody waits for it.
   *
   * @param o - `off`: the machine shuts down. Where it has ended its VMs, none is armed any more
   */
  async stop(o: { readonly off?: boolean } = {}): Promise<void> {
    this.#stopping.abort(new Error('stopped'));
    for (const n of this.#naps.values()) n.abort();
    for (const w of this.#waiters.splice(0)) w.reject('the keeper stops');
    await this.#loops;
    if (o.off === true && (await this.#nothingLeft())) this.#armed.clear();
    if (this.#armed.size === 0) {
      await this.#disarm();
      await this.#lease.release();
      this.#goodMs = null;
      this.#mine = false;
    } else this.#env.watchdog.release();
    this.#save();
  }

  state(): KeeperState {
    const { watchdog } = this.#env;
    const info = watchdog.info();
    const why = this.#armRefusal();
    return {
      boot: this.#boot,
      mode: this.#mode,
      lease: this.#lease.lease,
      createRevision: this.#lease.createRevision,
      goodMs: this.#goodMs,
      armed: [...this.#armed].filter(([, a]) => a.confirmed).map(([vm]) => vm),
      watchdog: { kind: info.kind, timeoutMs: info.timeoutMs ?? 0 },
      armable: why === null ? { ok: true, waitMs: this.#waitMs() } : { ok: false, why },
      held: this.#owners.words,
      ...(this.#env.trusts === undefined ? {} : { trusts: this.#env.trusts() }),
      text: [...this.#faults.values()].join('; '),
    };
  }

  /** The agent finished a pass of its loop. */
  beat(): void {
    this.#beatMs = this.#env.clock.nowMs();
    if (!this.#surrendered) return;
    this.#surrendered = false;
    this.#fault('agent', null);
    this.#wake('renew');
  }

  /** Counts the VM among those that freeze here; resolves after a pet that did. @throws FlotillaError `not-armable` */
  async arm(vm: string, o: Arming): Promise<{ readonly waitMs: number }> {
    const refusal = this.#armRefusal();
    if (refusal !== null) throw notArmable(vm, refusal);
    // Its machine of before is here and may not be thawed: armed anew it would pass for the one to come.
    if (this.#owners.frozen.includes(vm)) throw notArmable(vm, 'a machine of it is held here');
    const old = this.#armed.get(vm);
    this.#owners.forget(vm);
    this.#armed.set(vm, { ...o, confirmed: old?.confirmed ?? false });
    if (!this.#save() && old === undefined) {
      // A keeper that starts anew would not know of it, and not freeze it.
      this.#armed.delete(vm);
      throw notArmable(vm, this.#faults.get('record') ?? '');
    }
    if (old?.confirmed === true) return { waitMs: this.#waitMs() };
    await new Promise<void>((resolve, reject) => {
      this.#waiters.push({ vm, resolve, reject: (why) => reject(notArmable(vm, why)) });
      this.#wake('renew');
    });
    return { waitMs: this.#waitMs() };
  }

  /** It was armed and nothing has been read since that takes it away. */
  holds(vm: string): boolean {
    return this.#armed.get(vm)?.confirmed === true;
  }

  /** No longer. Idempotent. */
  disarm(vm: string): void {
    this.#owners.forget(vm);
    this.#drop([vm]);
    this.#publish();
  }

  // --- renewing

  async #renewLoop(): Promise<void> {
    const { clock, timing } = this.#env;
    while (!this.#stopping.signal.aborted) {
      const beganMs = clock.nowMs();
      const mode = this.#mode;
      if (!this.#surrendered) await this.#renew();
      const soon = this.#waiters.length > 0 && this.#env.watchdog.info().kept === 'soon';
      // A change of mode wants its next renewal at once.
      const everyMs = mode !== this.#mode ? 0 : soon ? deviceLookMs : timing.renewEveryMs;
      const restMs = beganMs + everyMs - clock.nowMs();
      await this.#nap('renew', Math.max(restMs, renewGapMs));
    }
  }

  async #renew(): Promise<void> {
    const entered = this.#enteredMs;
    const r = await this.#lease.renew(renewalYoungMs(this.#armed.size, this.#env.timing));
    if (this.#stopping.signal.aborted) return;
    if (r.is === 'good' && !this.#surrendered) {
      this.#mine = true;
      this.#goodMs = Math.max(this.#goodMs ?? -Infinity, r.sentMs);
      const nowMs = this.#env.clock.nowMs();
      this.#slow = nowMs - r.sentMs < this.#env.timing.petAgeMs ? 0 : this.#slow + 1;
      if (this.#slow > 1) this.#slowMs = nowMs;
      this.#fault('lease', null);
    } else if (r.is === 'lost') this.#mine = false;
    if (r.is !== 'good') this.#fault('lease', `the lease is not renewed: ${r.why}`);
    this.#settle();
    if (r.is !== 'good') return;
    if (this.#mode !== 'ice') this.#petAfterRenewal();
    if (this.#mode === 'thaw' && entered === this.#enteredMs && r.sentMs >= this.#enteredMs) {
      this.#job('owners', () => this.#readOwners());
    }
    if (this.#mode === 'run') {
      if (this.#thawDue) this.#job('thaw', () => this.#thaw());
      else if (this.#owners.frozen.length > 0) this.#job('owners', () => this.#reviewFrozen());
    }
    this.#save();
    this.#publish();
  }

  #petAfterRenewal(): void {
    if (this.#armed.size === 0) {
      this.#petIdle();
      return;
    }
    if (!mayPet(this.#pulse(), this.#env.clock.nowMs(), this.#env.timing, 'renewal')) return;
    if (!this.#pet() || this.#mode !== 'run') return;
    // How long others must wait is not known before.
    if (this.#env.watchdog.info().kept === 'soon') return;
    for (const a of this.#armed.values()) a.confirmed = true;
    for (const w of this.#waiters.splice(0)) w.resolve();
  }

  // --- modes

  #pulse(): Pulse {
    return {
      mode: this.#mode,
      enteredMs: this.#enteredMs,
      mine: this.#mine,
      goodMs: this.#goodMs,
      ownersMs: this.#ownersMs,
      frozen: this.#frozen,
      armed: this.#armed.size,
    };
  }

  #settle(): void {
    for (;;) {
      const next = nextMode(this.#pulse(), this.#env.clock.nowMs(), this.#env.timing);
      if (next === null) return;
      this.#enter(next.mode, next.why);
    }
  }

  #enter(mode: KeeperMode, why: string): void {
    const { log, clock, timing } = this.#env;
    const line = `${this.#mode} → ${mode}: ${why}`;
    if (mode === 'ice' && this.#armed.size > 0) log.warn(line, { armed: this.#armed.size });
    else log.info(line);
    const nowMs = clock.nowMs();
    if (mode === 'ice' && this.#mode === 'run' && this.#armed.size > 0) {
      this.#lease.doubt(trialsAfter(nowMs - (this.#thawedMs ?? -Infinity), timing));
      this.#thawedMs = nowMs;
    }
    if (mode === 'run') {
      this.#lease.doubt(0);
      if (this.#thawedMs !== null) this.#thawedMs = nowMs;
    }
    this.#mode = mode;
    this.#enteredMs = nowMs;
    this.#ownersMs = null;
    this.#frozen = false;
    this.#thawDue = mode === 'run';
    // Written before anything thaws or freezes: a start in between does the safe thing.
    this.#save();
    if (mode === 'ice') {
      for (const w of this.#waiters.splice(0)) w.reject('the node lost its lease');
      this.#drop([...this.#armed].filter(([, a]) => !a.confirmed).map(([vm]) => vm));
    }
    if (mode === 'run') this.#job('thaw', () => this.#thaw());
    this.#wake('watch');
    this.#publish();
  }

  async #watchLoop(): Promise<void> {
    const { clock, timing } = this.#env;
    const everyMs = timing.watchdogMs / 5;
    while (!this.#stopping.signal.aborted) {
      this.#settle();
      if (this.#blank) this.#job('adopt', () => this.#adopt());
      if (this.#mode === 'ice') {
        this.#job('twins', () => this.#killTwins(), false);
        if (this.#armed.size > 0) {
          this.#job('freeze', () => this.#freeze());
          this.#job('insist', () => this.#insist());
          this.#job('pools', () => this.#readPools());
        } else this.#petIdle();
      } else if (this.#mode === 'run') this.#watchAgent();
      const deadMs = (this.#goodMs ?? -Infinity) + timing.renewalGoodMs - clock.nowMs();
      await this.#nap('watch', this.#mode === 'ice' ? everyMs : Math.max(1, deadMs));
    }
  }

  /** Freezes what is armed, sees to it, and pets: nothing can run, so nobody is deceived by it. */
  async #freeze(): Promise<void> {
    await this.#frosty('ice', async () => {
      const faults = await this.#env.freezer.freeze([...this.#armed.keys()]);
      if (this.#mode !== 'ice') return;
      const overdue = this.#owners.overdue();
      this.#frozen = faults.length === 0 && !overdue;
      this.#fault('freeze', faults.length === 0 ? null : `not frozen: ${faults.join(', ')}`);
      this.#fault('overdue', overdue ? 'a VM of another owner does not die here' : null);
      if (this.#armed.size > 0 && mayPet(this.#pulse(), this.#env.clock.nowMs(), this.#env.timing, 'free')) {
        this.#pet();
      }
    });
  }

  async #thaw(): Promise<void> {
    await this.#frosty('run', async () => {
      await this.#env.freezer.thaw(this.#owners.frozen);
      if (this.#mode === 'run') this.#thawDue = false;
      this.#fault('thaw', null);
      this.#fault('freeze', null);
      this.#fault('overdue', null);
    });
  }

  /** One after the other, and only while the mode is still the one it is meant for. */
  #frosty(mode: KeeperMode, act: () => Promise<void>): Promise<void> {
    const done = this.#frost.then(async () => {
      if (this.#mode === mode && !this.#stopping.signal.aborted) await act();
    });
    this.#frost = done.catch(() => undefined);
    return done;
  }

  // --- owners

  async #readOwners(): Promise<void> {
    const enteredMs = this.#enteredMs;
    const sentMs = this.#env.clock.nowMs();
    const here = await this.#env.freezer.machines();
    const vms = new Set(this.#armed.keys());
    for (const m of here) if (m.inSlice) vms.add(m.vm);
    await this.#owners.review([...vms], this.#armed);
    this.#drop(this.#owners.dead);
    if (this.#mode !== 'thaw' || this.#enteredMs !== enteredMs) return;
    this.#ownersMs = sentMs;
    this.#settle();
  }

  /**
   * After a boot nothing is in the slice. Where something is, the record was lost, and it counts as armed: it freezes,
   * and goes on when its owner is known.
   */
  async #adopt(): Promise<void> {
    for (const m of await this.#env.freezer.machines()) {
      if (m.inSlice && !this.#armed.has(m.vm))
        this.#armed.set(m.vm, { takeover: [], gen: 0, confirmed: true });
    }
    this.#blank = false;
    this.#fault('adopt', null);
    this.#save();
    this.#stopLeft();
    this.#wake('watch');
  }

  /** In RUN: those that had no clear owner are asked for again, those that do not die killed again. */
  async #reviewFrozen(): Promise<void> {
    const enteredMs = this.#enteredMs;
    const before = this.#owners.frozen.length;
    await this.#insist();
    await this.#owners.review(this.#owners.frozen, this.#armed);
    this.#drop(this.#owners.dead);
    if (this.#owners.frozen.length === before || this.#enteredMs !== enteredMs) return;
    this.#thawDue = true;
    this.#job('thaw', () => this.#thaw());
  }

  /**
   * A twin that stands still would hold its owner's output back, and one that wakes would believe in a pair that is no more:
   * it ends, and another one is made. One that became an owner's machine is armed. @see safety 11
   */
  async #killTwins(): Promise<void> {
    const { freezer, log } = this.#env;
    for (const { vm, twin } of await freezer.machines()) {
      if (!twin || this.#armed.has(vm) || this.#mode !== 'ice') continue;
      log.warn(`the twin of VM ${vm} is killed here: the node lost its lease`);
      await freezer.kill(vm);
    }
    this.#fault('twins', null);
  }

  async #readPools(): Promise<void> {
    const armed = [...this.#armed].map(([vm, a]) => ({ vm, ...a }));
    await this.#owners.reviewPools(armed, this.#lease.epoch);
    this.#drop(this.#owners.dead);
  }

  async #insist(): Promise<void> {
    await this.#owners.insist();
    this.#drop(this.#owners.dead);
  }

  /** Nothing of an armed VM is here, nor can anything come to life. In doubt: something is. */
  async #nothingLeft(): Promise<boolean> {
    const { freezer } = this.#env;
    try {
      if ((await freezer.freeze([])).length > 0) return false;
      return !(await freezer.machines()).some((m) => m.inSlice || this.#armed.has(m.vm));
    } catch {
      return false;
    }
  }

  // --- the agent

  #watchAgent(): void {
    const beatAgeMs = this.#env.clock.nowMs() - this.#beatMs;
    if (this.#armed.size === 0 || beatAgeMs < zombieMs) return;
    this.#job('agent', async () => {
      const machines = new Set((await this.#env.freezer.machines()).map((m) => m.vm));
      const armed = [...this.#armed].filter(([, a]) => a.confirmed).map(([vm]) => vm);
      const ageMs = this.#env.clock.nowMs() - this.#beatMs;
      if (this.#mode !== 'run' || !isZombie({ beatAgeMs: ageMs, armed, machines })) return;
      this.#surrendered = true;
      this.#mine = false;
      const why = 'the agent is silent and a VM it should tend is gone, so the lease was given up';
      this.#env.log.error(why);
      this.#fault('agent', why);
      this.#settle();
      await this.#lease.release();
    });
  }

  // --- the watchdog

  /** @returns whether the pet was made; where the policy lets it do without a device, that counts */
  #pet(): boolean {
    const { watchdog } = this.#env;
    try {
      if (watchdog.info().kind !== 'none') watchdog.pet();
      this.#opened = true;
      this.#fault('watchdog', null);
      return true;
    } catch (error) {
      const { message } = errorRecord(error);
      this.#fault('watchdog', `the watchdog cannot be petted: ${message}`);
      for (const w of this.#waiters.splice(0)) {
        this.#armed.delete(w.vm);
        w.reject(`the watchdog cannot be petted: ${message}`);
      }
      this.#save();
      return false;
    }
  }

  /** A device that was opened and cannot be stopped is petted as long as nothing is armed. */
  #petIdle(): void {
    if (this.#blank) return;
    const { nowayout, running } = this.#env.watchdog.info();
    if (nowayout && (this.#opened || running)) this.#pet();
  }

  /** A keeper that died while it stopped the watchdog left it running. */
  #stopLeft(): void {
    if (this.#armed.size === 0 && this.#env.watchdog.info().kept === 'yes') void this.#disarm();
  }

  #waitMs(): number {
    const { watchdog, timing } = this.#env;
    return fenceWaitMs(timing, watchdog.info());
  }

  #armRefusal(): string | null {
    const { watchdog, timing, clock } = this.#env;
    return armRefusal(
      {
        mode: this.#mode,
        slowAgoMs: clock.nowMs() - this.#slowMs,
        watchdog: watchdog.info(),
        unsafeAllowed: this.#lease.unsafeAllowed,
      },
      timing,
    );
  }

  #drop(vms: readonly string[]): void {
    const was = this.#armed.size;
    for (const vm of vms) {
      this.#armed.delete(vm);
      for (const w of this.#waiters.filter((x) => x.vm === vm)) w.reject('it was disarmed');
      this.#waiters = this.#waiters.filter((x) => x.vm !== vm);
    }
    if (was === this.#armed.size) return;
    this.#save();
    if (this.#armed.size === 0) void this.#disarm();
  }

  async #disarm(): Promise<void> {
    try {
      await this.#env.watchdog.disarm(() => this.#armed.size === 0);
    } catch (error) {
      this.#fault('watchdog', `the watchdog cannot be stopped: ${errorRecord(error).message}`);
    }
  }

  // --- plumbing

  /**
   * A record that cannot be written is no reason to die, which would end with a reset: the old one then is read by the
   * next start as one of long ago, so that it freezes first. Only what is armed may not be missing in it.
   *
   * @returns whether it was written
   */
  #save(): boolean {
    const r: RunRecord = {
      boot: this.#boot,
      mode: this.#mode,
      lease: this.#lease.lease,
      createRevision: this.#lease.createRevision,
      goodMs: this.#goodMs,
      armed: [...this.#armed].map(([vm, a]) => ({ vm, ...a })),
      held: this.#owners.frozen,
    };
    try {
      this.#env.store.saveRun(r);
      this.#fault('record', null);
      return true;
    } catch (error) {
      this.#fault('record', `the record of this boot cannot be written: ${errorRecord(error).message}`);
      return false;
    }
  }

  #publish(): void {
    this.#env.publish(this.state());
  }

  #fault(of: string, text: string | null): void {
    if ((this.#faults.get(of) ?? null) === text) return;
    if (text === null) this.#faults.delete(of);
    else {
      if (!this.#faults.has(of)) this.#env.log.warn(text);
      this.#faults.set(of, text);
    }
  }

  /**
   * Starts a job unless it is still under way. Whatever it waits for, the loops go on.
   *
   * @param says - the state is published when it ends
   */
  #job(name: string, act: () => Promise<void>, says = true): void {
    if (this.#jobs.has(name) || this.#stopping.signal.aborted) return;
    const job = act()
      .catch((error: unknown) => this.#fault(name, `${name}: ${errorRecord(error).message}`))
      .finally(() => {
        this.#jobs.delete(name);
        if (says && !this.#stopping.signal.aborted) this.#publish();
      });
    this.#jobs.set(name, job);
  }

  /** Sleeps, unless it was or is woken. */
  async #nap(who: 'renew' | 'watch', ms: number): Promise<void> {
    if (this.#rung.delete(who) || this.#stopping.signal.aborted) return;
    const nap = new AbortController();
    this.#naps.set(who, nap);
    await this.#env.clock.sleep(ms, nap.signal).catch(() => undefined);
    this.#naps.delete(who);
  }

  #wake(who: 'renew' | 'watch'): void {
    const nap = this.#naps.get(who);
    if (nap === undefined) this.#rung.add(who);
    else nap.abort(new Error('woken'));
  }
}

function notArmable(vm: string, why: string): FlotillaError {
  return new FlotillaError('not-armable', `VM ${vm} cannot be armed: ${why}`, {
    hint: "Until then it has no high availability; the node's page shows the keeper.",
  });
}
