import type { VmHa } from '../../../core/domain/ha.js';
import { transitions, type Transition, type Violation } from './checks.js';
import { faultKinds, makeFault, mendAll, type FaultKind } from './faults.js';
import { Rng } from './rng.js';
import { World, type WorldOptions } from './world.js';

/** Until then the cluster is left alone: its VMs start and get their standbys, ms. */
const settleMs = 12_000;
/** Faults are made until about then, ms. */
const faultsEndMs = 95_000;
/** A schedule lasts at least so long, ms. */
const lengthMsMin = 120_000;
/** After everything is mended the cluster comes to rest within this, ms: retries of a start are up to a minute apart. */
const restMsMax = 180_000;
/** Rest that lasts so long is rest, ms. */
const restMs = 8_000;
export const faultsMin = 5;
/** A transition counts as made under a fault that lasts, or ended so short a time ago, ms. */
const underMs = 10_000;

const lastFailures = [
  'power-loss',
  'reboot',
  'partition',
  'one-way-cut',
  'node-stalls',
  'keeper-down',
] as const;

/** From its cause to a transition, ms, where that is long. */
const causeMs: Partial<Record<(typeof transitions)[number], number>> = {
  'fail-over': 10_500,
  'fail-over-any': 10_500,
  'move-stopped': 10_500,
  yield: 8_000,
  'break-off': 1_500,
  'hand-over': 3_600,
};

/** Made by an owner that lives, however long they take. */
const lively: ReadonlySet<string> = new Set(['yield', 'break-off', 'hand-over']);

/** In an order by chance. */
function shuffled<T>(list: readonly T[], rng: Rng): T[] {
  const left = [...list];
  return list.map(() => left.splice(rng.below(left.length), 1)[0] as T);
}

/** What a schedule is to bring together. */
export interface Aim {
  readonly transition: (typeof transitions)[number];
  readonly fault: FaultKind;
}

/** Every pair of them: schedule `n` aims at pair `n` of this list, and so on again. */
export const aims: readonly Aim[] = transitions.flatMap((transition) =>
  faultKinds.map((fault) => ({ transition, fault })),
);

export interface Outcome {
  readonly seed: number;
  readonly nodes: number;
  readonly simMs: number;
  readonly steps: number;
  readonly faults: readonly FaultKind[];
  readonly violations: readonly Violation[];
  readonly recoveries: readonly number[];
  /** Protected VMs that fell by a single failure. */
  readonly judged: number;
  /** `transition fault` pairs that came together. */
  readonly covered: readonly string[];
  readonly transitions: readonly Transition[];
  readonly log: readonly string[];
}

export interface ScheduleOptions extends Partial<WorldOptions> {
  readonly seed: number;
}

/** One schedule: a cluster, its users, and what goes wrong, all by chance from the seed. */
export async function runSchedule(o: ScheduleOptions): Promise<Outcome> {
  const rng = new Rng(o.seed * 2 + 1);
  const aim = aims[o.seed % aims.length] as Aim;
  const any = aim.transition === 'fail-over-any';
  // Drawn in any case: a schedule that is run again with its own number of nodes is the same.
  const drawn = any ? rng.pick([5, 7]) : rng.pick([3, 3, 3, 3, 4, 5, 7]);
  const nodes = o.nodes ?? drawn;
  const w = new World({
    bmc: rng.chance(0.2),
    locks: rng.pick([null, null, 0, 20_000]),
    copies: o.seed % 2 === 0,
    ...o,
    nodes,
    voters: nodes >= 7 ? 5 : 3,
    slowStarts: true,
  });
  const s = new Schedule(w, rng, aim);
  await s.run();
  return {
    seed: o.seed,
    nodes,
    simMs: w.time.nowMs,
    steps: w.time.steps,
    faults: w.faults.map((f) => f.kind),
    violations: w.checks.violations,
    recoveries: w.checks.recoveries,
    judged: w.checks.judged,
    covered: [...s.covered].sort(),
    transitions: w.checks.seen.map((x) => x.what),
    log: w.lines,
  };
}

class Schedule {
  readonly covered = new Set<string>();
  readonly #w: World;
  readonly #rng: Rng;
  readonly #aim: Aim;
  /** Chance of its own for what a fault does: a fault more changes nothing else. */
  readonly #faultRng: Rng;
  /** The same of what becomes of copies. */
  readonly #copiesRng: Rng;

  constructor(w: World, rng: Rng, aim: Aim) {
    this.#w = w;
    this.#rng = rng;
    this.#aim = aim;
    this.#faultRng = new Rng(rng.below(2 ** 31));
    this.#copiesRng = new Rng(w.rng.below(2 ** 31));
    w.checks.onTransition = (what) => {
      for (const f of w.troubles(underMs))
        if (f.fromMs <= w.time.nowMs) this.covered.add(`${what} ${f.kind}`);
    };
  }

  async run(): Promise<void> {
    const w = this.#w;
    this.#population();
    w.boot();
    await w.pass(settleMs);
    await this.#aimed();
    // Sometimes one thing after the other, sometimes all at once.
    const gapMs = this.#rng.pick([500, 6_000, 16_000, 24_000]);
    while (w.faults.length < faultsMin || w.time.nowMs < faultsEndMs) {
      if (w.time.nowMs > faultsEndMs * 2) break;
      await w.pass(this.#rng.below(gapMs * 2));
      if (w.copies !== null && this.#copiesRng.chance(0.3)) this.#copiesActs();
      else if (this.#rng.chance(0.3)) this.#userActs();
      else this.#fault(this.#rng.pick(faultKinds));
    }
    await w.pass(Math.max(1_000, faultsEndMs - w.time.nowMs));
    await this.#mended();
  }

  #population(): void {
    const w = this.#w;
    const ids = w.net.nodes;
    const priority = (): number => this.#rng.pick([10, 50, 50, 90]);
    const onHang = 'nothing' as const;
    const ha: VmHa = { enabled: true, priority: priority(), after: [], onHang, restartsPerHourMax: 100 };
    w.createVm('web', ids[0] ?? '', { ha });
    w.createVm('db', ids[1] ?? '', { ha: { ...ha, priority: priority() } });
    w.createVm('idle', this.#rng.pick(ids), { ha, power: 'stopped' });
    w.createVm('plain', this.#rng.pick(ids), { ha: { ...ha, enabled: false } });
    this.#pairs(ha);
    const more = this.#rng.below(3);
    for (let i = 0; i < more; i++)
      w.createVm(`vm${i}`, this.#rng.pick(ids), { ha: { ...ha, priority: priority() } });
  }

  /** VMs with two copies, which lie on a network of their own or not. */
  #pairs(ha: VmHa): void {
    const w = this.#w;
    if (w.copies === null) return;
    const rng = this.#copiesRng;
    w.storage.own = rng.chance(0.5);
    if (rng.chance(0.5)) w.replaceAfter(1);
    const count = rng.between(1, 2);
    for (let i = 0; i < count; i++) {
      const [owner, second] = shuffled(w.net.nodes, rng) as [string, string];
      w.createVm(`pair${i}`, owner, { ha: { ...ha, enabled: rng.chance(0.8) } }, second);
    }
  }

  /** What goes wrong between copies, and what people want of them. */
  #copiesActs(): void {
    const w = this.#w;
    const rng = this.#copiesRng;
    const pairs = [...w.vms].flatMap(([name, vm]) => (name.startsWith('pair') ? [vm] : []));
    const vm = rng.pick(pairs);
    switch (rng.below(6)) {
      case 4:
      case 5: {
        const own = w.own(vm);
        const other = own?.copies.find((c) => c.node !== own.owner)?.node;
        if (other !== undefined && w.spec(vm).power === 'running') w.migrate(vm, other);
        return;
      }
      case 0:
      case 1:
        w.storage.cut = true;
        w.checks.troubled();
        w.say('* the copies lose sight of each other');
        return void w.time.after(rng.between(500, 15_000), () => (w.storage.cut = false));
      case 2:
        w.say('* another standby is wanted');
        return void w.standby(vm, rng.chance(0.5) ? rng.pick(w.net.nodes) : null, rng.chance(0.7));
      default:
        w.storageAddress(rng.pick(w.net.nodes));
    }
  }

  #fault(kind: FaultKind, node?: string): void {
    const w = this.#w;
    const busy = [...w.vms.values()].flatMap((vm) => {
      const own = w.own(vm);
      return own === null ? [] : [own.owner, ...(own.standby === null ? [] : [own.standby])];
    });
    const target = node ?? (this.#rng.chance(0.7) ? this.#rng.pick(busy) : this.#rng.pick(w.net.nodes));
    makeFault(w, kind, target, this.#faultRng);
  }

  /** The transition this schedule is for is set off, and its fault made about when it happens. */
  async #aimed(): Promise<void> {
    const w = this.#w;
    const { transition, fault } = this.#aim;
    const vm = this.#subject(transition);
    const own = w.own(vm);
    if (own === null) return;
    const cause = this.#cause(transition, vm);
    const longMs = causeMs[transition] ?? 300;
    const aroundMs = Math.max(0, longMs - 3_000 + this.#rng.below(3_500));
    const early = longMs < 1_000 && this.#rng.chance(0.5);
    // Who is to act, or anybody; never the one whose end set it off.
    const lost = [
      ...(lively.has(transition) ? [] : [own.owner]),
      ...(transition === 'fail-over-any' && own.standby !== null ? [own.standby] : []),
    ];
    const acts = longMs < 1_000 || lively.has(transition) ? own.owner : (own.standby ?? own.owner);
    const others = w.net.nodes.filter((n) => longMs < 1_000 || !lost.includes(n));
    const target = this.#rng.chance(0.6) && others.includes(acts) ? acts : this.#rng.pick(others);
    if (early) {
      this.#fault(fault, target);
      await w.pass(this.#rng.below(1_500));
      cause();
    } else {
      cause();
      await w.pass(aroundMs);
      this.#fault(fault, target);
    }
    await w.pass(this.#rng.between(4_000, 12_000));
  }

  #subject(transition: Aim['transition']): string {
    const name = { start: 'idle', 'move-stopped': 'idle', arm: 'plain', 'set-standby': 'plain' }[
      transition as string
    ];
    return this.#w.vms.get(name ?? this.#rng.pick(['web', 'db'])) ?? '';
  }

  #cause(transition: Aim['transition'], vm: string): () => void {
    const w = this.#w;
    const ha = (enabled: boolean) => () => w.edit(vm, { ha: { ...w.spec(vm).ha, enabled } });
    const own = w.own(vm);
    const lose = (nodes: readonly string[]) => () => {
      const lastsMs = this.#rng.between(20_000, 40_000);
      for (const n of nodes) makeFault(w, 'power-loss', n, this.#faultRng, lastsMs);
    };
    switch (transition) {
      case 'start':
        return () => w.action('start', vm);
      case 'stop':
        return () => w.action('stop', vm);
      case 'arm':
      case 'set-standby':
        return ha(true);
      case 'disarm':
        return ha(false);
      case 'fail-over':
      case 'move-stopped':
        return lose(own === null ? [] : [own.owner]);
      case 'fail-over-any':
        return lose(own === null ? [] : [own.owner, ...(own.standby === null ? [] : [own.standby])]);
      case 'migrate':
      case 'hand-over':
        return () => void this.#migrate(vm);
      case 'break-off':
        return () => {
          const op = this.#migrate(vm);
          if (op !== null) w.time.after(this.#faultRng.between(500, 2_500), () => w.cancel(op));
        };
      case 'yield':
        return () => {
          if (own === null) return;
          makeFault(w, 'cannot-start', own.owner, this.#faultRng, 40_000);
          const { host } = w.node(own.owner);
          if (host.exists(vm)) host.libvirt.die(vm, 'crashed');
        };
    }
  }

  /** Asks for a live migration, mostly to the standby. @returns the op; null: it does not run */
  #migrate(vm: string): string | null {
    const w = this.#w;
    const own = w.own(vm);
    if (own === null || w.spec(vm).power !== 'running') return null;
    const others = w.net.nodes.filter((n) => n !== own.owner);
    return w.migrate(
      vm,
      this.#rng.chance(0.7) ? (own.standby ?? this.#rng.pick(others)) : this.#rng.pick(others),
    );
  }

  /** Something that people do, as far as the API can write. */
  #userActs(): void {
    const w = this.#w;
    if (w.voters.leader === null) return;
    const vm = this.#rng.pick([...w.vms.values()]);
    const spec = w.spec(vm);
    const node = this.#rng.pick(w.net.nodes);
    switch (this.#rng.below(10)) {
      case 0:
      case 1:
        return w.action(spec.power === 'stopped' ? 'start' : 'stop', vm);
      case 2:
        return w.action('force-stop', vm);
      case 3:
      case 4:
        return w.edit(vm, { ha: { ...spec.ha, enabled: !spec.ha.enabled } });
      case 5:
        return w.policy({ paused: this.#rng.chance(0.5) });
      case 6:
        return w.desired(node, this.#rng.pick(['active', 'maintenance']));
      case 7:
        if (!w.node(node).host.powered) w.confirmOff(node);
        else w.policy({ hold: this.#rng.chance(0.3) });
        return;
      default:
        this.#migrate(vm);
    }
  }

  async #mended(): Promise<void> {
    const w = this.#w;
    mendAll(w);
    w.storage.cut = false;
    w.policy({ paused: false, hold: false });
    for (const n of w.net.nodes) w.desired(n, 'active');
    const endMs = w.time.nowMs + restMsMax;
    let sinceMs: number | null = null;
    while (w.time.nowMs < endMs) {
      await w.pass(1_000);
      if (!w.checks.resting()) sinceMs = null;
      else if (sinceMs === null) sinceMs = w.time.nowMs;
      else if (w.time.nowMs - sinceMs >= restMs && w.time.nowMs >= lengthMsMin) break;
    }
    w.checks.atRest();
    await this.#lastFailure();
    w.end();
  }

  /** After all is mended a single node fails, so that each schedule judges how soon its VMs are back. */
  async #lastFailure(): Promise<void> {
    const w = this.#w;
    const owners = [...w.vms.values()].flatMap((vm) => {
      const own = w.own(vm);
      return own?.fence.armed === true && own.standby !== null ? [own.owner] : [];
    });
    if (owners.length === 0) return;
    const kind = this.#faultRng.pick(lastFailures);
    makeFault(w, kind, this.#faultRng.pick(owners), this.#faultRng, 40_000);
    const endMs = w.time.nowMs + 60_000;
    await w.pass(6_000);
    while (w.checks.expecting > 0 && w.time.nowMs < endMs) await w.pass(1_000);
  }
}
