import {
  againMs,
  decideLockstep,
  ownAlone,
  ownPairing,
  ownProtected,
  ownTaken,
  panickedText,
  twinComesMs,
  wantsTwin,
  type LockstepDecision,
  type LockstepStep,
  type LockstepView,
  type PeerHeard,
} from '../../core/decide/lockstep.js';
import type { VmStep } from '../../core/decide/vm-view.js';
import { lockstepText, type LockstepCheck } from '../../core/decide/lockstep-check.js';
import { liesApart } from '../../core/domain/disk.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { protectionLevel } from '../../core/domain/ha.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { VmOwn, VmProtection, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { LockstepAnswers, LockstepAsk } from '../../core/wire/lockstep.js';
import { announce } from '../announce.js';
import type { AgentEnv, Lockstep, LockstepSeen } from '../env.js';
import { failoverOp } from '../ha/failover-op.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';
import type { Observed } from '../vm/domains.js';
import { staleView, type Ownership, type Subject } from '../vm/ownership.js';
import type { Turns } from '../vm/turns.js';
import { Beats, type Word } from './beats.js';
import { Cradle } from './cradle.js';
import { cancelled, within } from './within.js';

/** Machines are looked at so often while there is a pair, ms. */
const lookMs = 100;
/** A look that comes later than this was held up by this node itself: the silence until then is not the others', ms. */
const lagMsMax = 150;
/** So long after such a stall, and after a pair is first seen, nobody counts as lost, ms. */
const deafMs = 600;
/** What was seen of machines longer ago than this is nothing to go by, or to tell others, ms. */
const seenMsMax = 1_500;
/** A step that failed is not tried again before, ms. */
const failedMs = 500;
/** A twin that owns the VM and does not go on ends after so many tries: the VM is then started from its disk. */
const takeOverTriesMax = 20;
/** Making a twin: the files there, and QEMU, ms. All of the disks are copied after that, for as long as it takes. */
const bearMs = 45_000;
/** A node that was lost counts as alive in the ledger for a while: it is not chosen at once, ms. */
const lostNodeMs = 4_000;
/** The twin's node is silent for so long while it is given all: it is given up, ms. */
const joinSilentMs = 10_000;
/** Somebody wants to do what a pair cannot: for so long it is held apart, ms. */
const apartMs = 10_000;
/** Nodes are asked to wipe what is left on them so often, ms. */
const wipeEveryMs = 10_000;
/** The deletion of a VM waits so long for nodes that are to wipe what is left on them, ms. */
const deleteMs = 60_000;

/** What ends a machine, or changes it: not with a twin, which would go on, or would not be changed with it. */
const notInPair: ReadonlySet<VmStep['do']> = new Set<VmStep['do']>([
  'destroy',
  'ask-stop',
  'pause',
  'reset',
  'reset-hung',
  'reboot',
  'apply',
  'grow-disk',
  'remove-disk',
  'delete',
]);

export interface LockstepParts {
  readonly ownership: Ownership;
  readonly turns: Turns;
  /** A node for its twin. */
  choose(spec: VmSpec, own: VmOwn, s: Snapshot): LockstepCheck;
  /** A VM that was failed over runs here from now on. */
  ran(vmId: string): void;
  wake(): void;
}

/** What goes on with one pair, kept between looks. Losing it costs time, never correctness. */
interface Memory {
  /** Twins that were tried in vain since it was protected last. */
  tries: number;
  restUntilMs: number;
  failedMs: number;
  /** Since when this node listens for its other side. */
  sinceMs: number;
  /** Which pair that is. */
  pair: number | null;
  apartUntilMs: number;
  goneSinceMs: number | null;
  deleteSinceMs: number | null;
  /** Monotonic, and the same moment by the wall clock, for people. */
  protectedSinceMs: number | null;
  protectedAtMs: number;
  /** Why there is no twin now. */
  why: string;
  /** What failed last, said once; and how often in a row a twin that owns the VM did not go on. */
  failedText: string;
  takeOverFails: number;
}

const fresh = (nowMs: number): Memory => ({
  tries: 0,
  restUntilMs: -Infinity,
  failedMs: -Infinity,
  sinceMs: nowMs,
  pair: null,
  apartUntilMs: -Infinity,
  goneSinceMs: null,
  deleteSinceMs: null,
  protectedSinceMs: null,
  protectedAtMs: 0,
  why: '',
  failedText: '',
  takeOverFails: 0,
});

interface Joining {
  readonly pair: number;
  readonly abort: AbortController;
  share: number;
  /** It has come to its end, one way or the other: what was seen before says nothing of it. */
  endedMs: number | null;
}

/**
 * Machines in lockstep: those of this node get twins elsewhere, and twins here go on when their owners are lost. It looks ten times
 * a second at what the loop has read of the ledger; what it does begins with a swap of `own`, or ends with it. @see docs/lockstep.md
 */
export class LockstepDesk {
  private readonly env: AgentEnv;
  private readonly lockstep: Lockstep;
  private readonly p: LockstepParts;
  private readonly beats: Beats;
  private readonly cradle: Cradle;
  private readonly memory = new Map<string, Memory>();
  private readonly joining = new Map<string, Joining>();
  private readonly decisions = new Map<string, LockstepDecision>();
  private readonly wipedMs = new Map<string, number>();
  private s: Snapshot | null = null;
  private domains: ReadonlyMap<string, Observed> = new Map();
  private seen = new Map<string, LockstepSeen>();
  private seenMs = -Infinity;
  private deafUntilMs: number;
  private readonly stopping = new AbortController();
  private running = false;
  private nap: AbortController | null = null;
  private unhook: (() => void) | null = null;

  constructor(env: AgentEnv, lockstep: Lockstep, p: LockstepParts) {
    this.env = env;
    this.lockstep = lockstep;
    this.p = p;
    this.beats = new Beats(
      env,
      (peer) => this.words(peer),
      () => this.ring(),
    );
    this.cradle = new Cradle(env, lockstep);
    this.deafUntilMs = env.clock.nowMs() + deafMs;
  }

  /** Takes a reading of the ledger in. Never waits. */
  look(s: Snapshot, domains: ReadonlyMap<string, Observed>): void {
    this.s = s;
    this.domains = domains;
    for (const id of this.memory.keys()) if (!s.owns.has(id)) this.memory.delete(id);
    if (!this.running) {
      this.running = true;
      this.unhook = this.lockstep.on(() => this.ring());
      void this.run();
    } else this.ring();
  }

  stop(): void {
    this.stopping.abort(new Error('stopped'));
    for (const j of this.joining.values()) j.abort.abort(new Error('stopped'));
    this.beats.stop();
    this.unhook?.();
    this.ring();
  }

  /** A question of another node's agent. @throws FlotillaError */
  async asked(from: string, ask: LockstepAsk): Promise<LockstepAnswers[LockstepAsk['do']]> {
    switch (ask.do) {
      case 'beat':
        return this.beats.heard(from, ask.via, ask.words);
      case 'bear': {
        const door = await this.cradle.bear(from, ask);
        this.p.wake();
        return door;
      }
      case 'wipe':
        return this.cradle.wipe(from, ask);
    }
  }

  /** Why no machine of a VM that this node owns may be started now; null: one may. */
  waits(id: string, s: Snapshot): string | null {
    const own = s.owns.get(id)?.value;
    const pair = own?.lockstep ?? null;
    if (own?.owner !== this.env.node || pair === null) return null;
    const now = this.env.clock.nowMs();
    if (now - this.seenMs > seenMsMax) return 'its machines in lockstep have not been looked at yet';
    if (this.seen.get(id)?.role === 'twin') return 'its twin here goes on';
    if (pair.state !== 'protected' || pair.twin === null) return null;
    const m = this.memoryOf(id, now);
    m.goneSinceMs ??= now;
    const leftMs = m.goneSinceMs + twinComesMs - now;
    return leftMs <= 0 ? null : `its twin on ${pair.twin} goes on; ${Math.ceil(leftMs / 1000)} s more`;
  }

  /** Whether a step has to wait until the machine has no twin any more, which is seen to. */
  holdsBack(id: string, step: VmStep, s: Snapshot): boolean {
    const own = s.owns.get(id)?.value;
    if (own?.owner !== this.env.node) return false;
    if (step.do === 'delete' && this.wipesFirst(id, own, s)) return true;
    if ((own.lockstep?.twin ?? null) === null) return false;
    // It stands still to be copied, and goes on by itself.
    if (step.do === 'resume') return true;
    if (!notInPair.has(step.do) || this.domains.get(id)?.active !== true) return false;
    const now = this.env.clock.nowMs();
    this.memoryOf(id, now).apartUntilMs = now + apartMs;
    this.ring();
    return true;
  }

  /** A VM that is to be deleted: what lies elsewhere goes before its record does. Not for ever: a node may not be able to. */
  private wipesFirst(id: string, own: VmOwn, s: Snapshot): boolean {
    const left = (own.left ?? []).filter((n) => s.lives.has(n));
    if (left.length === 0) return false;
    const now = this.env.clock.nowMs();
    const m = this.memoryOf(id, now);
    if (m.deleteSinceMs === null) {
      m.deleteSinceMs = now;
      this.wipedMs.delete(id);
      this.ring();
    }
    if (now - m.deleteSinceMs < deleteMs) return true;
    this.env.log.warn(`VM ${id} is deleted, and ${left.join(', ')} may have files of its disks still`);
    return false;
  }

  /** How a VM of this node stands; null: it is none in lockstep. */
  protection(spec: VmSpec, own: VmOwn): VmProtection | null {
    const pair = own.lockstep ?? null;
    if (pair === null || !spec.ha.enabled) return null;
    const m = this.memory.get(spec.id);
    const say = (state: VmProtection['state'], text: string): VmProtection => ({
      state,
      text: text.slice(0, 500),
      standby: pair.twin,
    });
    if (pair.state === 'protected') {
      const since = m === undefined || m.protectedSinceMs === null ? {} : { sinceMs: m.protectedAtMs };
      return { ...say('protected', `in lockstep with its twin on ${pair.twin ?? ''}`), ...since };
    }
    const j = this.joining.get(spec.id);
    if (pair.state === 'preparing') {
      const share = j === undefined ? '' : `: ${Math.floor(j.share * 100)} %`;
      return say('unprotected', `not protected: its twin on ${pair.twin ?? ''} is being made${share}`);
    }
    if (protectionLevel(spec.ha) !== 'lockstep') return say('unprotected', 'not protected: it gets no twin');
    if (this.seen.get(spec.id)?.settled === false)
      return say('unprotected', 'not protected: emulated, it gets its twin half a minute after its start');
    return say('unprotected', `not protected: it has no twin${m?.why ? `: ${m.why}` : ' yet'}`);
  }

  /* ---- looking ------------------------------------------------------------------------------------------ */

  private ring(): void {
    this.nap?.abort(new Error('rung'));
  }

  private async run(): Promise<void> {
    const { clock } = this.env;
    let dueMs = clock.nowMs();
    while (!this.stopping.signal.aborted) {
      const now = clock.nowMs();
      // Not what others did not say, but what was not heard.
      if (now - dueMs > lagMsMax) this.deafUntilMs = now + deafMs;
      await this.observe();
      let busy = true;
      try {
        busy = this.judgeAll();
      } catch (e) {
        this.env.log.error(`a look at the machines in lockstep failed: ${errorRecord(e).message}`);
      }
      const nap = new AbortController();
      this.nap = nap;
      const restMs = busy ? lookMs : seenMsMax / 2;
      dueMs = clock.nowMs() + restMs;
      await clock.sleep(restMs, nap.signal).catch(() => undefined);
      this.nap = null;
      // A storm of bells is one look.
      if (nap.signal.aborted) await clock.sleep(lookMs / 10);
    }
  }

  private async observe(): Promise<void> {
    const askedMs = this.env.clock.nowMs();
    try {
      const seen = await this.lockstep.observe();
      this.seen = new Map(seen.map((x) => [x.vm, x]));
      this.seenMs = askedMs;
    } catch (e) {
      this.env.log.warn(`machines in lockstep cannot be seen: ${errorRecord(e).message}`);
    }
  }

  /** @returns whether there is anything to watch closely */
  private judgeAll(): boolean {
    const { s, env } = this;
    this.decisions.clear();
    if (s === null || s.recovering !== null) return false;
    const now = env.clock.nowMs();
    if (now - this.seenMs > seenMsMax) return true;
    const ids = new Set(this.seen.keys());
    const peers = new Map<string, readonly string[]>();
    const doors = new Map<string, readonly string[]>();
    for (const [id, { value: own }] of s.owns) {
      const pair = own.lockstep ?? null;
      if (pair !== null && (own.owner === env.node || pair.twin === env.node)) ids.add(id);
    }
    for (const id of [...ids].sort()) {
      const own = s.owns.get(id)?.value;
      if (own === undefined || !s.specs.has(id)) continue; // an absence is no proof
      const asks = own.owner !== env.node && (own.lockstep?.twin === env.node || this.seen.has(id));
      const other = this.otherSide(own);
      const addresses = s.nodes.get(other ?? '')?.value.addresses ?? [];
      if (asks) peers.set(own.owner, addresses);
      if (other !== null) doors.set(other, addresses);
      this.judge(id, s, now);
    }
    this.beats.ask(peers);
    this.beats.knock(doors);
    this.wipe(s, now);
    return ids.size > 0;
  }

  private memoryOf(id: string, now: number): Memory {
    const m = this.memory.get(id) ?? fresh(now);
    this.memory.set(id, m);
    return m;
  }

  private judge(id: string, s: Snapshot, now: number): void {
    const j = this.joining.get(id);
    if (j !== undefined && j.endedMs !== null && this.seenMs > j.endedMs) this.joining.delete(id);
    const view = this.view(id, s, now);
    const d = decideLockstep(view, now);
    this.decisions.set(id, d);
    const m = this.memoryOf(id, now);
    if (view.here !== null) m.goneSinceMs = null;
    const isProtected = view.own.owner === this.env.node && view.own.lockstep?.state === 'protected';
    if (isProtected && m.protectedSinceMs === null) m.protectedAtMs = this.env.clock.wallMs();
    m.protectedSinceMs = isProtected ? (m.protectedSinceMs ?? now) : null;
    if (isProtected && now - (m.protectedSinceMs ?? now) > 60_000) m.tries = 0;
    if (j !== undefined && this.joining.has(id)) {
      const { silentMs, word } = view.peer;
      const dead =
        silentMs > joinSilentMs ? 'its node is silent' : word === 'broken' ? 'it lost its owner' : null;
      const over = view.own.lockstep?.pair === j.pair ? null : 'the ledger says otherwise';
      const why = d.step.do === 'part' ? d.step.why : (over ?? dead);
      // It parts when that has ended.
      if (why !== null && !j.abort.signal.aborted) j.abort.abort(cancelled(why));
      return;
    }
    if (d.step.do === 'none' || now - m.failedMs < failedMs) return;
    this.perform(id, d.step, s, m);
  }

  private otherSide(own: VmOwn): string | null {
    return own.owner === this.env.node ? (own.lockstep?.twin ?? null) : own.owner;
  }

  private view(id: string, s: Snapshot, now: number): LockstepView {
    const { env } = this;
    const own = (s.owns.get(id) as { readonly value: VmOwn }).value;
    const spec = (s.specs.get(id) as { readonly value: VmSpec }).value;
    const pair = own.lockstep ?? null;
    const m = this.memoryOf(id, now);
    const key = pair?.pair ?? null;
    if (m.pair !== key) {
      // Another pair: what was heard of the one before says nothing of it.
      this.beats.forget(id);
      Object.assign(m, { pair: key, sinceMs: now });
    }
    const other = this.otherSide(own);
    const none: PeerHeard = { silentMs: 0, channelSilentMs: 0, goneMs: 0, word: null };
    const keeper = env.keeper.state();
    const runsVms = (node: string): boolean => s.nodes.get(node)?.value.desired === 'active';
    const domain = this.domains.get(id);
    const ended = domain !== undefined && !domain.active && domain.reason === 'shutdown';
    return {
      me: env.node,
      spec,
      own,
      live: env.live.compare() !== null && s.meta !== null,
      ends:
        own.state !== 'running' ||
        now < m.apartUntilMs ||
        s.policy.ha.paused ||
        env.holds?.all().has(id) === true ||
        [...s.ops.values()].some(
          ({ value: o }) => o.subject.id === id && o.kind === 'vm.delete' && !opFinished(o),
        ),
      frozen: keeper !== null && keeper.mode !== 'run' && keeper.armed.includes(id),
      leaves: !runsVms(env.node),
      twinLeaves: (pair?.twin ?? null) !== null && !runsVms(pair?.twin ?? ''),
      here: this.seen.get(id) ?? null,
      ended: ended ? 'in-order' : 'lost',
      joining: this.joining.has(id),
      peer: other === null ? none : this.beats.of(other, id, now),
      deafUntilMs: Math.max(this.deafUntilMs, m.sinceMs + deafMs),
      restUntilMs: m.restUntilMs,
    };
  }

  /** What beats say to that node: of its twins here, and of machines here whose twin it has. */
  private words(peer: string): Word[] {
    const { s, env } = this;
    const now = env.clock.nowMs();
    if (s === null || now - this.seenMs > seenMsMax) return [];
    const out: Word[] = [];
    for (const [id, d] of this.decisions) {
      const own = s.owns.get(id)?.value;
      const pair = own?.lockstep ?? null;
      if (own === undefined || pair === null) continue;
      const shared = own.owner === env.node ? pair.twin === peer : own.owner === peer;
      if (shared) out.push({ vm: id, word: this.shutHere.has(id) ? 'lost' : d.word });
    }
    return out;
  }

  /* ---- doing ------------------------------------------------------------------------------------------- */

  /** Twins whose channels were shut here: whatever the ledger says then, that pair is no more. */
  private readonly shutHere = new Set<string>();

  private perform(id: string, step: LockstepStep, snapshot: Snapshot, m: Memory): void {
    const spec = snapshot.specs.get(id);
    const own = snapshot.owns.get(id);
    const { env } = this;
    if (spec === undefined || own === undefined || !this.p.turns.begin(id)) return;
    const s: Subject = { id, spec, own, domain: this.domains.get(id) ?? null, snapshot };
    void (async () => {
      try {
        await this.act(step, s, m);
        m.failedText = '';
      } catch (e) {
        m.failedMs = env.clock.nowMs();
        const quiet = e instanceof FlotillaError && ['stale-view', 'ledger-unavailable'].includes(e.code);
        const text = `lockstep (${step.do}): ${errorRecord(e).message}`;
        if (quiet) m.failedMs -= failedMs - lookMs / 2;
        else if (m.failedText !== text) announce(env, 'error', spec.value.name, text);
        if (!quiet) m.failedText = text;
      } finally {
        this.p.turns.end(id);
        this.p.wake();
      }
    })();
  }

  private async act(step: LockstepStep, s: Subject, m: Memory): Promise<void> {
    const { env, lockstep, p } = this;
    const { name } = s.spec.value;
    const own = s.own.value;
    switch (step.do) {
      case 'none':
        return;
      case 'pair':
        return this.pair(s, m);
      case 'protect': {
        const next = ownProtected(own);
        await p.ownership.swap(s, next);
        announce(env, 'info', name, `in lockstep with its twin on ${own.lockstep?.twin ?? ''}`);
        return p.ownership.mark(s, next.gen);
      }
      case 'part': {
        // The ledger first: from here on the twin cannot become the owner, whatever it does.
        const { quietMs, spent } = this.stopwatch(s.id);
        const next = ownAlone(own);
        await p.ownership.swap(s, next);
        const swapMs = spent();
        const lost = wantsTwin({ spec: s.spec.value, ends: env.clock.nowMs() < m.apartUntilMs });
        if (lost) this.rest(m, step.why);
        await lockstep.goAlone(s.id, next.gen);
        env.log.info(
          `VM "${name}": last checkpoint ${quietMs} ms before; ledger after ${swapMs} ms, alone after ${spent()} ms`,
          { vm: s.id },
        );
        announce(env, lost ? 'warning' : 'info', name, `goes on without its twin: ${step.why}`);
        return p.ownership.mark(s, next.gen);
      }
      case 'go-alone':
        await p.ownership.confirm(s);
        return lockstep.goAlone(s.id, own.gen);
      case 'take':
        await this.take(s, step);
        m.restUntilMs = env.clock.nowMs() + lostNodeMs;
        return;
      case 'take-over':
        await p.ownership.confirm(s);
        await p.ownership.record(s, own);
        if (m.takeOverFails++ >= takeOverTriesMax) {
          m.takeOverFails = 0;
          announce(
            env,
            'error',
            name,
            'its twin does not go on: it ends, and the VM is started from its disk',
          );
          return lockstep.end(s.id);
        }
        await lockstep.takeOver(s.id, own.gen);
        p.ran(s.id);
        m.takeOverFails = 0;
        return void announce(env, 'warning', name, `its twin goes on on ${env.node}`);
      case 'end':
        await lockstep.end(s.id);
        this.shutHere.delete(s.id);
        return void env.log.info(`the twin of VM "${name}" ends: ${step.why}`, { vm: s.id });
    }
  }

  /** What clients waited for, for those who look: since when there was no checkpoint, and how long things take from now on, ms. */
  private stopwatch(id: string): { readonly quietMs: number; readonly spent: () => number } {
    const { clock } = this.env;
    const beganMs = clock.nowMs();
    return {
      quietMs: Math.round(beganMs - (this.seen.get(id)?.lastCheckpointMs ?? beganMs)),
      spent: () => Math.round(clock.nowMs() - beganMs),
    };
  }

  private rest(m: Memory, why: string): void {
    m.why = why;
    m.restUntilMs = this.env.clock.nowMs() + againMs(m.tries);
    m.tries++;
  }

  /** Names its node in the ledger, and begins the rest beside the VM's other life. */
  private async pair(s: Subject, m: Memory): Promise<void> {
    const { env, p } = this;
    const choice = p.choose(s.spec.value, s.own.value, s.snapshot);
    const { to } = choice;
    if (to === null) {
      m.why = lockstepText(choice);
      m.restUntilMs = env.clock.nowMs() + againMs(1);
      return;
    }
    const live = s.snapshot.lives.get(to);
    if (live === undefined) throw staleView(s);
    const next = ownPairing(s.own.value, to);
    await p.ownership.swap(s, next, {
      compare: [{ key: kinds.live.key(to), createRevision: live.createRevision }],
    });
    const j: Joining = { pair: next.gen, abort: new AbortController(), share: 0, endedMs: null };
    this.joining.set(s.id, j);
    void this.join(s, to, j, m);
    await p.ownership.mark(s, next.gen);
  }

  private async join(s: Subject, node: string, j: Joining, m: Memory): Promise<void> {
    const { env, lockstep } = this;
    const { name } = s.spec.value;
    try {
      const address = s.snapshot.nodes.get(node)?.value.addresses[0] ?? '';
      const xml = await env.hypervisor.xml(s.id);
      const door = await within(
        env.clock,
        bearMs,
        (signal) =>
          env.peers.lockstep({ node, address }, { do: 'bear', vm: s.id, pair: j.pair, xml }, signal),
        j.abort.signal,
      );
      j.abort.signal.throwIfAborted();
      // It listens only now: nothing that it says before counts, nor its silence.
      this.beats.forget(s.id);
      m.sinceMs = env.clock.nowMs();
      const { pausedMs } = await lockstep.join(s.id, door, {
        signal: j.abort.signal,
        progress: (share) => (j.share = share),
      });
      env.log.info(`VM "${name}" stood still for ${Math.round(pausedMs)} ms to get its twin on ${node}`);
    } catch (e) {
      const { message } = errorRecord(e);
      this.rest(m, message);
      if (!this.stopping.signal.aborted)
        announce(env, 'warning', name, `gets no twin on ${node}: ${message}`);
    } finally {
      j.endedMs = env.clock.nowMs();
      this.ring();
    }
  }

  /** The order is what safety rests on: nothing of the owner's leaves any more, the ledger, then this machine. */
  private async take(
    s: Subject,
    { why, handed }: Extract<LockstepStep, { readonly do: 'take' }>,
  ): Promise<void> {
    const { env, lockstep, p } = this;
    const own = s.own.value;
    const next: VmOwn = { ...ownTaken(own, env.node), fence: { armed: false, waitMs: 0 } };
    const compare: Compare[] = [];
    const writes: Write[] = [];
    for (const k of s.snapshot.disks.values()) {
      const { value: disk } = k;
      const pool = s.snapshot.pools.get(disk.pool)?.value;
      if (disk.vm !== s.id || pool === undefined || !liesApart(disk, pool)) continue;
      const key = kinds.disk.key(disk.id);
      compare.push({ key, modRevision: k.modRevision });
      writes.push({ put: key, value: writeRecord(kinds.disk, { ...disk, node: env.node }) });
    }
    const { quietMs, spent } = this.stopwatch(s.id);
    await lockstep.shut(s.id);
    this.shutHere.add(s.id);
    const shutMs = spent();
    const op = handed ? null : this.failover(s, why, quietMs + shutMs);
    if (op !== null) writes.push({ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) });
    await p.ownership.swap(s, next, { compare, writes });
    if (op !== null) env.radio.say('op', op, op.id);
    const swapMs = spent();
    // It ends with the next look, as it would where this agent dies here.
    if (this.seen.get(s.id)?.panicked === true)
      return announce(env, 'error', s.spec.value.name, `its twin ends: ${panickedText}`);
    await lockstep.takeOver(s.id, next.gen);
    p.ran(s.id);
    this.shutHere.delete(s.id);
    env.log.info(
      `VM "${s.spec.value.name}": last checkpoint ${quietMs} ms before; channels shut after ${shutMs} ms, owner after ${swapMs} ms, runs after ${spent()} ms`,
      { vm: s.id },
    );
    announce(env, 'warning', s.spec.value.name, `goes on on ${env.node}, where its twin was: ${why}`);
  }

  /** For people, who find it beside other failovers. It ends when the machine runs here, however it comes to that. */
  private failover(s: Subject, why: string, ownedMs: number): Op {
    const { clock, node } = this.env;
    return failoverOp(this.env, s, {
      askedBy: `twin on ${node}`,
      step: `its twin goes on: ${why}`.slice(0, 200),
      args: {
        from: s.own.value.owner,
        to: node,
        fence: 'twin',
        atMs: Math.max(0, clock.wallMs() - ownedMs),
        phasesMs: { owned: ownedMs },
      },
    });
  }

  /** Asks nodes to wipe what is left on them. Never waits. */
  private wipe(s: Snapshot, now: number): void {
    const { env } = this;
    for (const [id, own] of s.owns) {
      const left = own.value.left ?? [];
      const spec = s.specs.get(id);
      if (own.value.owner !== env.node || left.length === 0 || spec === undefined) continue;
      // What a new owner's twin has not gone on with yet may be wanted still.
      if (
        this.seen.get(id)?.role === 'twin' ||
        own.value.lockstep?.state === 'preparing' ||
        now - (this.wipedMs.get(id) ?? -Infinity) < wipeEveryMs
      )
        continue;
      this.wipedMs.set(id, now);
      for (const node of left) {
        const address = s.nodes.get(node)?.value.addresses[0];
        if (s.lives.has(node) && address !== undefined)
          void this.wipeAt(
            { node, address },
            { id, spec, own, domain: this.domains.get(id) ?? null, snapshot: s },
          );
      }
    }
  }

  private async wipeAt(to: { readonly node: string; readonly address: string }, s: Subject): Promise<void> {
    const { env, p } = this;
    try {
      await within(
        env.clock,
        bearMs,
        (signal) => env.peers.lockstep(to, { do: 'wipe', vm: s.id }, signal),
        this.stopping.signal,
      );
      if (!p.turns.begin(s.id)) return;
      try {
        const own = s.own.value;
        const left = (own.left ?? []).filter((n) => n !== to.node);
        const next: VmOwn = { ...own, gen: own.gen + 1, left };
        await p.ownership.swap(s, next);
        if (s.domain?.active === true) await p.ownership.mark(s, next.gen);
      } finally {
        p.turns.end(s.id);
        p.wake();
      }
    } catch (e) {
      env.log.info(
        `what VM "${s.spec.value.name}" left on ${to.node} is not wiped yet: ${errorRecord(e).message}`,
      );
    }
  }
}
