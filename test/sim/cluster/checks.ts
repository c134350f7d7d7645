import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Op } from '../../../core/domain/op.js';
import { opFinished } from '../../../core/domain/op.js';
import type { World } from './world.js';

/** What must not happen: which promise, and what was seen. */
export interface Violation {
  readonly promise: string;
  readonly atMs: number;
  readonly text: string;
}

/** Ownership transitions, as the checkers tell them apart by what changed in `own`. */
export const transitions = [
  'start',
  'stop',
  'arm',
  'disarm',
  'set-standby',
  'fail-over',
  'fail-over-any',
  'move-stopped',
] as const;
export type Transition = (typeof transitions)[number];

/** A node that keeps up and reaches the ledger for this long must not freeze or be reset, ms. */
const healthyMs = 5_000;
/** After a single failure in calm weather a protected VM runs again within this, ms: budget of DESIGN P5, leader's death among it. */
export const recoveryMsMax = 16_000;

interface Owned {
  readonly owner: string;
  readonly standby: string | null;
  readonly gen: number;
  readonly state: string;
  readonly armed: boolean;
}

/** Looks after every step whether the promises hold. */
export class Checks {
  dirty = false;
  readonly violations: Violation[] = [];
  /** Ownership transitions seen, in order. */
  readonly seen: { readonly atMs: number; readonly what: Transition; readonly vm: string }[] = [];
  /** Time from a protected VM's fall to its running again, ms. */
  readonly recoveries: number[] = [];
  /** Told of each transition. */
  onTransition: (what: Transition, vm: string) => void = () => undefined;
  /** Nothing was done to the cluster since then, ms; for P4 and P5. */
  calmSinceMs = 0;
  readonly #world: World;
  readonly #owned = new Map<string, Owned>();
  readonly #runs = new Map<string, string>();
  readonly #words = new Map<string, string>();
  readonly #downSinceMs = new Map<string, number>();
  readonly #protectedAtFall = new Map<string, boolean>();
  #history = 0;

  constructor(world: World) {
    this.#world = world;
    for (const n of world.nodes.values()) {
      n.host.onKill = (vm) => this.#killed(n.id, vm);
      n.host.refuseStart = (vm, paused) => this.#starts(n.id, vm, paused);
      const bite = n.host.onBite;
      n.host.onBite = () => {
        const calm = n.healthySinceMs !== null && world.time.nowMs - n.healthySinceMs >= healthyMs;
        if (calm) this.report('P4', `the watchdog reset ${n.id}, whose keeper and ledger were well`);
        bite();
      };
    }
  }

  report(promise: string, text: string): void {
    if (this.violations.length >= 20) return;
    let words = text;
    for (const [id, name] of this.#world.names) words = words.replaceAll(id, name);
    this.violations.push({ promise, atMs: this.#world.time.nowMs, text: words });
    this.#world.say(`VIOLATION ${promise}: ${words}`);
  }

  afterStep(): void {
    const { history } = this.#world.voters.store;
    if (history.length !== this.#history) this.#ledgerChanged();
    if (!this.dirty) return;
    this.dirty = false;
    this.#executing();
  }

  /** P1: a guest runs on its owner only, and on one node only. */
  #executing(): void {
    const w = this.#world;
    for (const vm of w.vms.values()) {
      const on = w.runsOn(vm);
      if (on.length > 1) this.report('P1', `VM ${vm} runs on ${on.join(' and ')} at once`);
      const own = w.own(vm);
      for (const node of on)
        if (own !== null && own.owner !== node)
          this.report('P1', `VM ${vm} runs on ${node}, but ${own.owner} owns it (generation ${own.gen})`);
      const now = on[0] ?? '';
      const before = this.#runs.get(vm) ?? '';
      this.#tell(vm, now);
      if (now === before) continue;
      this.#runs.set(vm, now);
      if (now === '') this.#fell(vm, before);
      else this.#rose(vm);
    }
  }

  /** For the log: running, frozen or off, and where. */
  #tell(vm: string, on: string): void {
    const w = this.#world;
    const still = [...w.nodes.values()].find((n) => n.host.exists(vm) && n.host.standsStill(vm))?.id;
    const before = this.#words.get(vm) ?? 'is off';
    let now = on !== '' ? `runs on ${on}` : still !== undefined ? `stands still on ${still}` : 'is off';
    if (before === `stands still on ${on}` || before === `goes on on ${on}`) now = `goes on on ${on}`;
    if (now === before || (before === `runs on ${on}` && now === `goes on on ${on}`)) return;
    this.#words.set(vm, now);
    w.say(`${vm} ${now}`);
  }

  #fell(vm: string, node: string): void {
    const w = this.#world;
    this.#downSinceMs.set(vm, w.time.nowMs);
    const own = w.own(vm);
    const standby = own?.standby ?? null;
    const able = standby === null ? undefined : w.nodes.get(standby);
    this.#protectedAtFall.set(
      vm,
      own?.fence.armed === true &&
        able?.agent !== null &&
        able?.keeperState?.armable.ok === true &&
        !w.pool.unreachable.has(standby ?? ''),
    );
    const n = w.nodes.get(node);
    if (n?.host.exists(vm) !== true || n.host.standsStill(vm) !== true) return;
    const well = n.healthySinceMs !== null && w.time.nowMs - n.healthySinceMs >= healthyMs;
    if (well) this.report('P4', `${node} froze ${vm} although its keeper and the ledger were well`);
  }

  #rose(vm: string): void {
    const since = this.#downSinceMs.get(vm);
    this.#downSinceMs.delete(vm);
    if (since === undefined) return;
    const ms = this.#world.time.nowMs - since;
    if (this.#world.spec(vm).ha.enabled && this.#protectedAtFall.get(vm) === true) this.recoveries.push(ms);
  }

  /** A VM that was protected when its node failed, while nothing else went wrong, is back in time. */
  #overdue(): void {
    const w = this.#world;
    const now = w.time.nowMs;
    for (const [vm, since] of this.#downSinceMs) {
      const spec = w.spec(vm);
      if (spec.power !== 'running' || !spec.ha.enabled || this.#protectedAtFall.get(vm) !== true) continue;
      const from = Math.max(since, this.calmSinceMs);
      if (now - from < recoveryMsMax + 1_000) continue;
      // Frozen where it is, or held by a person: no failover is due.
      if (w.checksExcused(vm)) continue;
      this.#protectedAtFall.set(vm, false);
      this.report(
        'P5',
        `VM ${vm} was protected, and is down for ${Math.round(now - since)} ms, ${Math.round(now - from)} of them in calm weather`,
      );
    }
  }

  /** The image's lock refuses a second machine: a lock is there to turn a defect into a failed start, not to be needed. */
  #starts(node: string, vm: string, paused: boolean): void {
    const w = this.#world;
    if (paused || w.node(node).host.standsStill(vm)) return;
    const other = w.runsOn(vm).find((n) => n !== node);
    if (other !== undefined)
      this.report(
        'P1',
        `only the lock of its disk kept VM ${vm} from running on ${node}: it runs on ${other}`,
      );
  }

  #killed(node: string, vm: string): void {
    const own = this.#world.own(vm);
    if (own === null || own.owner === node)
      this.report('safety 10', `${node} killed VM ${vm} without proof that another node owns it`);
  }

  #ledgerChanged(): void {
    const { history } = this.#world.voters.store;
    for (; this.#history < history.length; this.#history++) {
      const c = history[this.#history];
      const vm = c === undefined ? null : kinds.vmOwn.idOf(c.key);
      if (c === undefined || vm === null || c.value === null) continue;
      let next: Owned;
      try {
        const o = JSON.parse(c.value) as {
          owner: string;
          standby: string | null;
          gen: number;
          state: string;
          fence: { armed: boolean };
        };
        next = { owner: o.owner, standby: o.standby, gen: o.gen, state: o.state, armed: o.fence.armed };
      } catch {
        continue;
      }
      const before = this.#owned.get(vm);
      this.#owned.set(vm, next);
      if (before !== undefined && c.by !== 'poke') this.#transition(vm, before, next);
      this.dirty = true;
    }
  }

  #transition(vm: string, a: Owned, b: Owned): void {
    if (b.gen !== a.gen + 1)
      this.report('P1', `generation of VM ${vm} went from ${a.gen} to ${b.gen}: not one step`);
    let what: Transition | null = null;
    if (a.owner !== b.owner) {
      if (b.state === 'running') {
        what = a.standby === b.owner ? 'fail-over' : 'fail-over-any';
        this.#mayTake(vm, a, b);
      } else what = 'move-stopped';
    } else if (a.state !== b.state) what = b.state === 'running' ? 'start' : 'stop';
    else if (a.armed !== b.armed) what = b.armed ? 'arm' : 'disarm';
    else if (a.standby !== b.standby) what = 'set-standby';
    else if (b.state === 'running') what = 'start';
    if (what === null) return;
    this.seen.push({ atMs: this.#world.time.nowMs, what, vm });
    this.onTransition(what, vm);
    this.#world.say(
      `${vm}: ${what} → ${b.owner}${b.standby === null ? '' : `, standby ${b.standby}`}, generation ${b.gen}${b.armed ? ', armed' : ''}`,
    );
  }

  /** The old owner's machine must not be able to run when its VM is taken. */
  #mayTake(vm: string, a: Owned, b: Owned): void {
    const w = this.#world;
    const old = w.nodes.get(a.owner);
    if (old?.host.executes(vm) === true)
      this.report('P1', `${b.owner} took VM ${vm} while it ran on ${a.owner}`);
    if (!a.armed && !w.proven.has(a.owner))
      this.report('safety 1', `${b.owner} took VM ${vm} though ${a.owner} was not armed`);
  }

  tick(): void {
    const w = this.#world;
    for (const n of w.nodes.values()) {
      const k = n.keeper;
      const ok =
        n.host.powered &&
        k?.alive === true &&
        !k.stalled &&
        n.host.freezeFault === null &&
        w.voters.answers(n.id) &&
        w.voters.weather.lostCalls + w.voters.weather.lostAnswers === 0 &&
        w.voters.weather.slowMs < 200 &&
        w.earlyExpiryMs + 10_000 < w.time.nowMs;
      if (!ok) n.healthySinceMs = null;
      else n.healthySinceMs ??= w.time.nowMs;
    }
    this.#overdue();
  }

  /** At the end, all mended for long enough: everything runs where it should, and no operation hangs. */
  atRest(): void {
    const w = this.#world;
    for (const [name, vm] of w.vms) {
      const on = w.runsOn(vm);
      const own = w.own(vm);
      const wanted = w.spec(vm).power === 'running';
      if (wanted && (on.length !== 1 || on[0] !== own?.owner))
        this.report(
          'P5',
          `all is mended, but VM ${name} runs on ${on.join(', ') || 'no node'} (owner ${own?.owner ?? 'none'}, ${own?.state ?? ''})`,
        );
      if (!wanted && on.length > 0) this.report('P6', `VM ${name} was stopped and runs on ${on.join(', ')}`);
    }
    for (const e of w.voters.store.peekAll(kinds.op.prefix)) {
      const op = JSON.parse(e.value) as Op;
      // A failover is over when its machine runs; that its guest answers may take minutes, and these never do.
      const runs = (op.args['phasesMs'] as { running?: number } | undefined)?.running !== undefined;
      if (op.kind === 'vm.failover' && runs) continue;
      if (!opFinished(op))
        this.report('P6', `operation ${op.kind} of ${op.subject.id} hangs in "${op.state}": ${op.step}`);
      else if (op.state !== 'done' && op.error === null && op.step === '')
        this.report('P7', `operation ${op.kind} ended as ${op.state} without a word why`);
    }
  }
}
