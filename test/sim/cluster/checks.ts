import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Op } from '../../../core/domain/op.js';
import { opFinished } from '../../../core/domain/op.js';
import { standbyArgs } from '../../../core/domain/replica.js';
import type { VmOwn } from '../../../core/domain/vm.js';
import { RuleChecks } from './rule-checks.js';
import { meaningOf, type Trouble } from './faults.js';
import type { ClusterNode } from './node.js';
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
  'yield',
  'migrate',
  'break-off',
  'hand-over',
] as const;
/** That of drains: in test/sim/drain.test.ts. */
export type Transition = (typeof transitions)[number] | 'relocate' | 'twin' | 'twin-takes';

/** A node that keeps up and reaches the ledger for this long must not freeze, and one that can freeze not be reset, ms. */
const healthyMs = 5_000;
/**
 * After a single failure a protected VM runs again within this, ms; the second where the ledger had to find a new
 * leader too. @see DESIGN P5
 */
export const recoveryMsMax = { usual: 13_500, leaderLost: 16_000 } as const;
/** A failure is single where nothing else that concerns the VM went wrong for so long before, ms. */
const aloneMs = 8_000;
const hourMs = 3_600_000;
/** A VM of a lost node that is not taken has its reason said within this, ms. */
const reasonMs = 20_000;

/** A VM that must run again in time. */
interface Expectation {
  sinceMs: number;
  readonly node: string;
  readonly standby: string;
  readonly limitMs: number;
  /** The node's boots so far, and whether it went off with the VM. */
  readonly boots: number;
  readonly off: boolean;
}

/** The record was last written by the hand-over of a migration. */
const handedOver = ({ owner, gen, migration: m }: VmOwn): boolean =>
  m?.handedOver === true && m.to === owner && m.gen + 1 === gen;

// A field of a later release may come with any write: it is looked after by a check of its own.
const copiesOf = ({ sync, synced, syncEpoch, copies, later: _, ...rest }: VmOwn): [string, string] => [
  JSON.stringify(rest),
  JSON.stringify({ sync, synced, syncEpoch, copies }),
];

/** Nothing but what is said of copies differs: that leaves the generation as it is. */
const onlyCopies = (a: VmOwn, b: VmOwn): boolean => {
  const [[restA, saidA], [restB, saidB]] = [copiesOf(a), copiesOf(b)];
  return restA === restB && saidA !== saidB;
};

/** Looks after every step whether the promises hold. */
export class Checks {
  dirty = false;
  readonly violations: Violation[] = [];
  /** Ownership transitions seen, in order. */
  readonly seen: { readonly atMs: number; readonly what: Transition; readonly vm: string }[] = [];
  /** Protected VMs that fell by a single failure, and were judged by when they ran again. */
  judged = 0;
  /** Time from such a fall to running on another node, ms. */
  readonly recoveries: number[] = [];
  /** Told of each transition. */
  onTransition: (what: Transition, vm: string) => void = () => undefined;
  readonly rules: RuleChecks;
  readonly #world: World;
  readonly #owned = new Map<string, VmOwn>();
  readonly #runs = new Map<string, string>();
  readonly #words = new Map<string, string>();
  readonly #expected = new Map<string, Expectation>();
  readonly #lostSinceMs = new Map<string, number>();
  readonly #heard = new Map<string, { readonly text: string; readonly fields: Record<string, unknown> }[]>();
  /** Machines, by the order of their starts: `node vm`. */
  readonly #instances = new Map<string, number>();
  /** The newest machine of a VM that ever ran guest code. */
  readonly #newest = new Map<string, number>();
  readonly #later = new Set<string>();
  #instance = 0;
  #history = 0;

  constructor(world: World) {
    this.#world = world;
    this.rules = new RuleChecks(world, (rule, text) => this.report(rule, text));
    for (const n of world.nodes.values()) {
      n.host.onKill = (vm) => this.#killed(n.id, vm);
      n.host.refuseStart = (vm, paused) => this.#starts(n.id, vm, paused);
      n.host.onStart = (vm) => this.started(n.id, vm);
      n.host.onDestroy = (vm) => this.destroyed(n.id, vm);
      const bite = n.host.onBite;
      n.host.onBite = () => {
        this.#judge(n);
        if (this.#lasts(n.ableSinceMs))
          this.report('P4', `the watchdog reset ${n.id}, whose keeper ran and could freeze its VMs`);
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
      if (on.length > 0 && own?.state === 'stopped')
        this.report('R1', `VM ${vm} runs on ${on.join(' and ')} while the ledger says that it is off`);
      for (const node of on)
        if (own !== null && own.owner !== node)
          this.report('P1', `VM ${vm} runs on ${node}, but ${own.owner} owns it (generation ${own.gen})`);
      for (const node of on) {
        if (w.node(node).host.libvirt.domains.get(vm)?.older === true)
          this.report(
            'P3',
            `the copy of VM ${vm} on ${node} runs, but its original had gone on after it was taken`,
          );
        const instance = this.#instances.get(`${node} ${vm}`) ?? 0;
        if (instance < (this.#newest.get(vm) ?? 0))
          this.report('P3', `an older machine of VM ${vm} goes on writing on ${node} after a newer one ran`);
        this.#newest.set(vm, Math.max(instance, this.#newest.get(vm) ?? 0));
        if (own?.fence.armed === true && own.owner === node && w.node(node).host.pettedMs === null)
          this.report(
            'safety 1',
            `VM ${vm} is armed for the ledger, and runs on ${node} without its watchdog`,
          );
      }
      const now = on[0] ?? '';
      const before = this.#runs.get(vm) ?? '';
      this.#tell(vm, now);
      if (now === before) continue;
      this.#runs.set(vm, now);
      if (now === '') this.#fell(vm, before);
      else this.#rose(vm, now);
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
    this.#expect(vm, node);
    const n = w.nodes.get(node);
    if (n?.host.exists(vm) !== true || n.host.standsStill(vm) !== true) return;
    this.#judge(n);
    if (this.#lasts(n.healthySinceMs))
      this.report('P4', `${node} froze ${vm} although its keeper and the ledger were well`);
    const why =
      this.#heard.get(`${node} keeper`)?.some((h) => /→ ice: .|in mode ice: ./.test(h.text)) === true;
    if (!why) this.report('P7', `${node} froze ${vm} without a word why`);
  }

  /** Whether the VM must be back in time: it was protected, and this is the only failure that concerns it. */
  #expect(vm: string, node: string): void {
    const w = this.#world;
    const own = w.own(vm);
    const spec = w.spec(vm);
    if (own === null || own.owner !== node || own.standby === null) return;
    const recent = w.troubles(aloneMs).map((f) => ({ f, is: meaningOf(f, own, w.voters.voters) }));
    const [failure, ...others] = recent.filter(({ is }) => is !== 'nothing');
    if (failure?.is !== 'failure' || others.length > 0) return;
    const policy = w.currentPolicy();
    const able =
      own.fence.armed &&
      (own.copies.length === 0 || (own.sync === 'ok' && w.copies?.half(vm, own.standby) !== true)) &&
      spec.power === 'running' &&
      !policy.hold &&
      !policy.paused &&
      own.failoversMs.filter((ms) => w.wallMs - ms < hourMs).length < spec.ha.restartsPerHourMax &&
      failure.f.well.has(own.standby) &&
      w.voters.canServe(own.standby);
    if (!able) return;
    const { leader } = w.voters;
    const budget = leader === null || leader === node ? recoveryMsMax.leaderLost : recoveryMsMax.usual;
    const { host } = w.node(node);
    this.#expected.set(vm, {
      sinceMs: w.time.nowMs,
      node,
      standby: own.standby,
      limitMs: budget + host.lockLeaseMs,
      boots: host.boots,
      off: !host.powered,
    });
  }

  /** Nodes that have been well for a while, and could take a VM over. */
  well(): Set<string> {
    const w = this.#world;
    const ids = [...w.nodes.values()].flatMap((n) => {
      const wellMs = n.healthySinceMs === null ? 0 : w.time.nowMs - n.healthySinceMs;
      return wellMs > aloneMs && n.agent?.stalled === false && n.keeperState?.armable.ok === true
        ? [n.id]
        : [];
    });
    return new Set(ids);
  }

  /** VMs that are to be back soon. */
  get expecting(): number {
    return this.#expected.size;
  }

  /** Something else goes wrong: nobody is promised when, where it concerns the VM. */
  troubled(f: Trouble | null = null): void {
    for (const [vm, e] of this.#expected)
      if (
        f === null ||
        meaningOf(f, { owner: e.node, standby: e.standby }, this.#world.voters.voters) !== 'nothing'
      )
        this.#expected.delete(vm);
  }

  /** A BMC powers that node off. Where it was back already, by then, this is a failure of its own. */
  struck(node: string): void {
    const { host } = this.#world.node(node);
    for (const [vm, e] of this.#expected) {
      if (e.node !== node || !host.powered || (!e.off && e.boots === host.boots)) continue;
      // It was back, and what its crash had left different was being copied: that is its second failure in one.
      if (this.#world.copies?.half(vm, e.standby) === true) this.#expected.delete(vm);
      else e.sinceMs = this.#world.time.nowMs;
    }
  }

  #rose(vm: string, node: string): void {
    const e = this.#expected.get(vm);
    this.#expected.delete(vm);
    if (e === undefined) return;
    this.judged++;
    if (e.node !== node) this.recoveries.push(this.#world.time.nowMs - e.sinceMs);
  }

  #overdue(): void {
    const w = this.#world;
    const now = w.time.nowMs;
    for (const [vm, e] of this.#expected) {
      // A node that was switched off before its owner fell, and is no failure of now: both together were the majority.
      if (!w.voters.canServe(e.standby)) this.#expected.delete(vm);
      if (now - e.sinceMs <= e.limitMs || !this.#expected.delete(vm)) continue;
      // A node that a BMC has switched off before took the ledger's majority with it.
      if (w.voters.leader === null) continue;
      // With many nodes gone one VM after the other is what was promised.
      if (this.rules.braked(vm)) continue;
      // The user may have stopped it, or paused HA, meanwhile.
      const policy = w.currentPolicy();
      if (w.spec(vm).power !== 'running' || !w.spec(vm).ha.enabled || policy.hold || policy.paused) continue;
      this.judged++;
      this.report(
        'P5',
        `VM ${vm} was protected, ${e.node} failed alone, and after ${e.limitMs} ms it is still down`,
      );
    }
  }

  /** P7: a VM of a lost node that is not taken has its reason said by somebody. */
  #unexplained(): void {
    const w = this.#world;
    const now = w.time.nowMs;
    for (const [name, vm] of w.vms) {
      const own = w.own(vm);
      const spec = w.spec(vm);
      const lost = own !== null && w.voters.store.peek(kinds.live.key(own.owner)) === null;
      const live = [...w.nodes.values()].filter(
        (n) =>
          n.id !== own?.owner &&
          n.agent !== null &&
          !n.agent.stalled &&
          n.keeperState?.mode === 'run' &&
          n.healthySinceMs !== null,
      );
      const watched =
        lost &&
        w.voters.leader !== null &&
        own.state === 'running' &&
        spec.ha.enabled &&
        (own.standby === null ? live.length > 0 : live.some((n) => n.id === own.standby));
      if (!watched) {
        this.#lostSinceMs.delete(vm);
        continue;
      }
      const since = this.#lostSinceMs.get(vm) ?? now;
      this.#lostSinceMs.set(vm, since);
      if (now - since < reasonMs) continue;
      const said = live.some((n) =>
        this.#heard
          .get(`${n.id} agent`)
          ?.some((h) => h.text.startsWith(`${name}: failover`) && h.text.length > name.length + 15),
      );
      if (!said) this.report('P7', `VM ${vm} of the lost ${own.owner} is not taken, and nobody says why`);
      this.#lostSinceMs.set(vm, now);
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

  /** A line in the log of one of our programs. */
  heard(node: string, who: 'agent' | 'keeper', text: string, fields: Record<string, unknown>): void {
    const key = `${node} ${who}`;
    const lines = this.#heard.get(key) ?? [];
    lines.push({ text, fields });
    if (lines.length > 60) lines.splice(0, 20);
    const [, doomed] = /^VM (\S+) is killed here: /.exec(text) ?? [];
    if (doomed !== undefined && who === 'keeper') this.rules.dooms(node, doomed);
    const [, name = '', why = ''] = /^(\S+): failover: (.*)/.exec(text) ?? [];
    const vm = this.#world.vms.get(name);
    if (vm !== undefined && who === 'agent') this.rules.waits(vm, why);
    this.#heard.set(key, lines);
  }

  started(node: string, vm: string): void {
    const w = this.#world;
    this.#instances.set(`${node} ${vm}`, ++this.#instance);
    this.rules.started(vm);
    const own = w.own(vm);
    if (w.node(node).host.executes(vm) && own !== null && own.state === 'stopped')
      this.report('P1', `VM ${vm} was started on ${node} while the ledger says that it is off`);
  }

  destroyed(node: string, vm: string): void {
    const name = this.#world.names.get(vm) ?? vm;
    const why = this.#heard
      .get(`${node} agent`)
      ?.some((h) => h.text.startsWith(`forces VM "${name}" off: `) || h.text.startsWith(`removes VM ${vm}`));
    if (why !== true) this.report('P7', `${node} forced VM ${vm} off without a word why`);
  }

  #killed(node: string, vm: string): void {
    this.rules.killed(node, vm);
    const why = this.#heard
      .get(`${node} keeper`)
      ?.some((h) => h.text.startsWith(`VM ${vm} is killed here: `));
    if (why !== true) this.report('P7', `${node} killed VM ${vm} without a word why`);
  }

  #ledgerChanged(): void {
    const { history } = this.#world.voters.store;
    for (; this.#history < history.length; this.#history++) {
      const c = history[this.#history];
      const node = c === undefined ? null : kinds.live.idOf(c.key);
      if (node !== null) {
        if (c?.value !== null) this.#world.proven.delete(node);
        this.rules.liveChanged(node, c?.value !== null);
      }
      const vm = c === undefined ? null : kinds.vmOwn.idOf(c.key);
      if (c === undefined || vm === null || c.value === null) continue;
      const next = this.#world.own(vm, c.value);
      if (next === null) continue;
      if ('later' in next) this.#later.add(vm);
      else if (this.#later.has(vm) && c.by !== 'poke')
        this.report('safety 10', `${c.by} lost a field of a later release from the ownership of VM ${vm}`);
      const before = this.#owned.get(vm);
      this.#owned.set(vm, next);
      if (before === undefined || c.by === 'poke') continue;
      const what = this.#transition(vm, before, next, c.by.split(' ')[1] ?? '');
      if (what === 'fail-over' || what === 'fail-over-any' || what === 'yield') this.#hasOp(vm, c.revision);
      this.dirty = true;
    }
  }

  /** Safety 2: what is said of copies is the owner's to say, and "in sync" is true in the moment it is written. */
  #copiesSaid(vm: string, a: VmOwn, b: VmOwn, by: string): void {
    if (by !== a.owner)
      this.report('safety 2', `${by} speaks of the copies of VM ${vm}, which ${a.owner} owns`);
    if (b.sync === 'stale' && b.syncEpoch <= a.syncEpoch)
      this.report('safety 2', `a copy of VM ${vm} is called stale in no new epoch`);
    const behind = this.#world.copies?.lacks(vm) ?? [];
    if (a.standby !== b.standby && behind.includes(b.owner))
      this.report('safety 3', `${b.owner} gave the other copy of VM ${vm} up, and lacks writes itself`);
    const asked = this.#world
      .ops()
      .some((o) => o.kind === 'vm.standby' && o.subject.id === vm && standbyArgs(o)?.unprotected === true);
    if (a.standby !== b.standby && a.sync === 'ok' && !asked)
      this.report('safety 13', `${b.owner} gave a good copy of VM ${vm} up that nobody said it may`);
    const lacks = b.sync === 'ok' ? behind.filter((n) => b.copies.some((c) => c.node === n)) : [];
    if (lacks.length > 0)
      this.report('P2', `VM ${vm} is called in sync, but ${lacks.join(' and ')} lacks writes`);
  }

  #transition(vm: string, a: VmOwn, b: VmOwn, by: string): Transition | null {
    // Another second node: said in one with the copies.
    const as = b.copies.some((c) => c.node === b.standby) ? { ...a, standby: b.standby } : a;
    if (b.gen === a.gen && onlyCopies(as, b)) {
      this.#copiesSaid(vm, a, b, by);
      return null;
    }
    if (b.gen !== a.gen + 1)
      this.report('P1', `generation of VM ${vm} went from ${a.gen} to ${b.gen}: not one step`);
    let what: Transition | null = null;
    const pairs = [a, b].map((x) => JSON.stringify([x.lockstep ?? null, x.left ?? []]));
    if (a.owner !== b.owner && (a.lockstep ?? null) !== null && by === b.owner && b.state === 'running') {
      what = 'twin-takes';
      this.#world.lockstep?.ownerChanged(vm, a, b);
    } else if (a.owner === b.owner && a.state === b.state && pairs[0] !== pairs[1]) what = 'twin';
    else if (a.state === 'migrating' && handedOver(b)) {
      what = 'hand-over';
      if (this.#world.nodes.get(a.owner)?.host.executes(vm) === true)
        this.report('P1', `VM ${vm} was handed over to ${b.owner} while it ran on ${a.owner}`);
    } else if (b.state === 'migrating') what = 'migrate';
    else if (a.state === 'migrating' && a.owner === b.owner) what = 'break-off';
    else if (a.owner !== b.owner) {
      if (b.state === 'running') {
        what = a.standby === b.owner ? 'fail-over' : 'fail-over-any';
        this.#mayTake(vm, a, b);
      } else if (by === a.owner) {
        // A person wants it off: it only changes its owner. Else it is given over by who cannot start it.
        what = this.#world.spec(vm).power === 'stopped' ? 'relocate' : 'yield';
        this.rules.yielded(vm, a, b);
      } else what = 'move-stopped';
    } else if (a.state !== b.state) what = b.state === 'running' ? 'start' : 'stop';
    else if (a.fence.armed !== b.fence.armed) what = b.fence.armed ? 'arm' : 'disarm';
    else if (a.standby !== b.standby) what = 'set-standby';
    else if (b.state === 'running') what = 'start';
    if (what === null) return null;
    if (what === 'start') this.rules.starts(vm);
    this.seen.push({ atMs: this.#world.time.nowMs, what, vm });
    this.onTransition(what, vm);
    this.#world.say(
      `${vm}: ${what} → ${b.owner}${b.standby === null ? '' : `, standby ${b.standby}`}, generation ${b.gen}${b.fence.armed ? ', armed' : ''}`,
    );
    return what;
  }

  /** P7: a failover comes with its operation, in the same transaction. */
  #hasOp(vm: string, revision: bigint): void {
    const { history } = this.#world.voters.store;
    for (let i = history.length - 1; i >= 0 && (history[i]?.revision ?? 0n) >= revision; i--) {
      const c = history[i];
      if (c === undefined || c.revision !== revision || c.value === null || kinds.op.idOf(c.key) === null)
        continue;
      const op = JSON.parse(c.value) as Op;
      if (op.kind === 'vm.failover' && op.subject.id === vm && op.step !== '') return;
    }
    this.report('P7', `VM ${vm} was taken over without an operation that says so`);
  }

  /** The old owner's machine must not be able to run when its VM is taken. */
  #mayTake(vm: string, a: VmOwn, b: VmOwn): void {
    const w = this.#world;
    this.rules.took(vm, a, b);
    const old = w.nodes.get(a.owner);
    if (old?.host.executes(vm) === true)
      this.report('P1', `${b.owner} took VM ${vm} while it ran on ${a.owner}`);
    if (!a.fence.armed && !w.proven.has(a.owner))
      this.report('safety 1', `${b.owner} took VM ${vm} though ${a.owner} was not armed`);
  }

  /** Whether its keeper and its way to the ledger are well now. */
  #judge(n: ClusterNode): void {
    const w = this.#world;
    const k = n.keeper;
    const able =
      n.host.powered &&
      k?.alive === true &&
      !k.stalled &&
      n.host.freezeFault === null &&
      !n.host.killFault &&
      !n.host.stalled;
    if (!able) n.ableSinceMs = null;
    else n.ableSinceMs ??= w.time.nowMs;
    const ok =
      able &&
      !n.host.diskFault &&
      n.host.epoch === w.epoch &&
      w.voters.answers(n.id) &&
      w.voters.weather.lostCalls + w.voters.weather.lostAnswers + w.voters.weather.late === 0 &&
      w.voters.weather.longMs + w.voters.weather.slowMs < 200 &&
      w.earlyExpiryMs + 10_000 < w.time.nowMs;
    if (!ok) n.healthySinceMs = null;
    else n.healthySinceMs ??= w.time.nowMs;
  }

  #lasts(sinceMs: number | null): boolean {
    return sinceMs !== null && this.#world.time.nowMs - sinceMs >= healthyMs;
  }

  tick(): void {
    const w = this.#world;
    for (const n of w.nodes.values()) this.#judge(n);
    this.#overdue();
    this.#unexplained();
    this.rules.tick();
  }

  /** All is mended, and has come to rest: every VM that is wanted runs, and no operation is under way. */
  resting(): boolean {
    const w = this.#world;
    for (const vm of w.vms.values()) {
      const on = w.runsOn(vm);
      const wanted = w.spec(vm).power === 'running';
      if (
        wanted
          ? on.length !== 1 || on[0] !== w.own(vm)?.owner
          : on.length > 0 || w.own(vm)?.state !== 'stopped'
      )
        return false;
    }
    return !this.#openOps().length;
  }

  #openOps(): Op[] {
    return this.#world.voters.store.peekAll(kinds.op.prefix).flatMap((e) => {
      const op = JSON.parse(e.value) as Op;
      // A failover is over when its machine runs; that its guest answers may take minutes, and these never do.
      const runs = (op.args['phasesMs'] as { running?: number } | undefined)?.running !== undefined;
      return opFinished(op) || (op.kind === 'vm.failover' && runs) ? [] : [op];
    });
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
    for (const vm of w.copies?.shared() ?? [])
      this.report('P1', `both copies of VM ${vm} may still be written to, and nothing migrates`);
    for (const op of this.#openOps())
      this.report('P6', `operation ${op.kind} of ${op.subject.id} hangs in "${op.state}": ${op.step}`);
    for (const e of w.voters.store.peekAll(kinds.op.prefix)) {
      const op = JSON.parse(e.value) as Op;
      if (opFinished(op) && op.state !== 'done' && op.error === null && op.step === '')
        this.report('P7', `operation ${op.kind} ended as ${op.state} without a word why`);
    }
  }
}
