import { presence, suspectAfterMs, type NodePresence } from '../../core/domain/node.js';
import type { RadioPayload } from '../../core/wire/radio.js';
import type { Clock, HeardNode } from '../env.js';
import { readMessage, type RadioMessage } from './door.js';

/** VM lines kept of one node: far above what runs on any, far below what fills the memory. */
export const vmsPerNodeMax = 4_096;
/** Lines of operations kept of one node; the ledger keeps at most 200 finished ones of all. */
export const opsPerNodeMax = 256;
/** Events kept of one node: what a page shows. */
export const eventsPerNodeMax = 50;
/** Former incarnations remembered, so that a late message of one is known as late. */
const bootsMax = 8;
/** When our own loop was late by more than this, silence proves nothing: all clocks start again. */
export const lagMaxMs = 500;
/** After a new connection, lines that were not said again within this time are gone: above the 30 s of re-saying. */
export const unconfirmedMaxMs = 40_000;

interface Line<T> {
  state: T;
  heardMs: number;
  session: number;
}

interface Entry {
  readonly node: string;
  beat: RadioPayload<'beat'> | null;
  beatMs: number;
  state: Line<RadioPayload<'state'>> | null;
  readonly vms: Map<string, Line<RadioPayload<'vm'>>>;
  readonly ops: Map<string, Line<RadioPayload<'op'>>>;
  events: readonly RadioPayload<'event'>[];
  boot: string | null;
  pastBoots: readonly string[];
  gone: boolean;
  connected: boolean;
  session: number;
  sessionMs: number;
  shown: NodePresence;
}

/**
 * What was heard, folded to one entry per node. Knows no socket: it is given messages and asked for the view,
 * so the simulator runs the same code. Ages are by this listener's monotonic clock.
 */
export class Heard {
  readonly #cluster: string;
  readonly #clock: Pick<Clock, 'nowMs' | 'wallMs'>;
  readonly #tickMs: number;
  readonly #nodes = new Map<string, Entry>();
  readonly #refused = new Map<string, number>();
  #lastTickMs: number;

  /** @param o.tickMs - how often {@link tick} is called; lateness is judged by it */
  constructor(o: { cluster: string; clock: Pick<Clock, 'nowMs' | 'wallMs'>; tickMs: number }) {
    this.#cluster = o.cluster;
    this.#clock = o.clock;
    this.#tickMs = o.tickMs;
    this.#lastTickMs = o.clock.nowMs();
  }

  /** The nodes we listen to. Others are forgotten, and nothing is kept of nodes outside. */
  setNodes(nodes: readonly string[]): void {
    const wanted = new Set(nodes);
    for (const node of this.#nodes.keys()) if (!wanted.has(node)) this.#nodes.delete(node);
    for (const node of wanted) if (!this.#nodes.has(node)) this.#nodes.set(node, newEntry(node));
  }

  /** A connection to the node's broker came (its retained lines follow) or went. */
  setConnected(node: string, connected: boolean): void {
    const e = this.#nodes.get(node);
    if (e === undefined) return;
    e.connected = connected;
    if (connected) {
      e.session += 1;
      e.sessionMs = this.#clock.nowMs();
    }
  }

  /** Counts something refused elsewhere on the radio, e.g. a certificate. */
  refuse(kind: string, count = 1): void {
    this.#refused.set(kind, (this.#refused.get(kind) ?? 0) + count);
  }

  refused(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#refused);
  }

  /**
   * Folds one message in.
   *
   * @param from - node whose broker it came from
   * @param retained - true where the broker had kept it: then its age is unknown and is told by the writer's clock
   * @returns true where somebody who looks again would see something new; a mere further beat is not
   */
  receive(from: string, topic: string, payload: Uint8Array, retained: boolean): boolean {
    const m = readMessage(this.#cluster, from, topic, payload);
    if (typeof m === 'string') {
      this.refuse(m);
      return true;
    }
    return this.fold(m, retained);
  }

  /** Folds a message that was read before, or said by this node itself. */
  fold(m: RadioMessage, retained: boolean): boolean {
    const e = this.#nodes.get(m.node);
    if (e === undefined) return false;
    switch (m.kind) {
      case 'beat':
        // A kept beat is no sign of life.
        return m.body !== null && !retained && this.#beat(e, m.body);
      case 'state':
        return m.body !== null && this.#state(e, m.body, retained);
      case 'vm':
        return this.#vm(e, m.id as string, m.body, retained);
      case 'op':
        return this.#op(e, m.id as string, m.body, retained);
      case 'event':
        if (m.body === null || retained) return false;
        e.events = [m.body, ...e.events].slice(0, eventsPerNodeMax);
        return true;
      case 'gone':
        if (m.body === null || retained || e.gone || m.body.boot !== e.boot) return false;
        e.gone = true;
        return true;
    }
  }

  /**
   * To be called every `tickMs`: notices our own stalls, and silence.
   *
   * @returns true where a node's presence changed
   */
  tick(): boolean {
    const now = this.#guard();
    let changed = false;
    for (const e of this.#nodes.values()) {
      const p = presence(e.beat === null ? null : now - e.beatMs);
      if (p !== e.shown) {
        e.shown = p;
        changed = true;
      }
      if (p === 'here' && e.connected && now - e.sessionMs > unconfirmedMaxMs) changed = forget(e) || changed;
    }
    return changed;
  }

  view(): readonly HeardNode[] {
    const now = this.#guard();
    return [...this.#nodes.values()]
      .sort((a, b) => (a.node < b.node ? -1 : 1))
      .map((e) => ({
        node: e.node,
        beatAgeMs: e.beat === null ? null : now - e.beatMs,
        stateAgeMs: e.state === null ? null : now - e.state.heardMs,
        state: e.state?.state ?? null,
        vms: aged(e.vms, now),
        ops: aged(e.ops, now),
        agentGone: e.gone,
        connected: e.connected,
        events: e.events,
      }));
  }

  /** Ids of the retained lines a node has, e.g. our own of an earlier start. */
  lineIds(node: string, kind: 'vm' | 'op'): readonly string[] {
    const e = this.#nodes.get(node);
    return e === undefined ? [] : [...(kind === 'vm' ? e.vms : e.ops).keys()];
  }

  /**
   * If this process was stopped or starved, the peers' beats wait in its sockets unread: nobody may be suspected
   * for that. Who was suspected before the stall stays so.
   */
  #guard(): number {
    const now = this.#clock.nowMs();
    if (now - this.#lastTickMs > this.#tickMs + lagMaxMs) {
      for (const e of this.#nodes.values()) {
        if (e.beat !== null && this.#lastTickMs - e.beatMs < suspectAfterMs)
          e.beatMs = Math.max(e.beatMs, now);
      }
    }
    this.#lastTickMs = now;
    return now;
  }

  #beat(e: Entry, b: RadioPayload<'beat'>): boolean {
    if (!this.#isCurrent(e, b.boot)) return false;
    if (e.beat !== null && e.beat.boot === b.boot && b.seq <= e.beat.seq) return false;
    const news = e.beat === null || e.gone || e.shown !== 'here';
    e.beat = b;
    e.beatMs = this.#clock.nowMs();
    e.gone = false;
    e.shown = 'here';
    return news;
  }

  #state(e: Entry, s: RadioPayload<'state'>, retained: boolean): boolean {
    // A kept line of an unknown incarnation is an older one while another is alive.
    if (retained && s.boot !== e.boot && e.shown === 'here') return false;
    if (!this.#isCurrent(e, s.boot)) return false;
    const had = e.state?.state;
    if (had !== undefined && had.boot === s.boot && s.seq < had.seq) return false;
    e.state = { state: s, heardMs: this.#heardMs(s.atMs, retained), session: e.session };
    return true;
  }

  #vm(e: Entry, id: string, s: RadioPayload<'vm'> | null, retained: boolean): boolean {
    if (s === null) return e.vms.delete(id);
    const had = e.vms.get(id)?.state;
    if (had === undefined && e.vms.size >= vmsPerNodeMax) {
      this.refuse('too-many-lines');
      return false;
    }
    // A line of the incarnation before may stand until the new one has looked, but never over a newer one.
    if (had !== undefined && (had.boot === s.boot ? s.seq < had.seq : e.pastBoots.includes(s.boot)))
      return false;
    e.vms.set(id, { state: s, heardMs: this.#heardMs(s.atMs, retained), session: e.session });
    return true;
  }

  #op(e: Entry, id: string, s: RadioPayload<'op'> | null, retained: boolean): boolean {
    if (s === null) return e.ops.delete(id);
    if (!e.ops.has(id) && e.ops.size >= opsPerNodeMax) {
      this.refuse('too-many-lines');
      return false;
    }
    e.ops.set(id, { state: s, heardMs: this.#heardMs(s.updatedMs, retained), session: e.session });
    return true;
  }

  /** Takes note of a new incarnation. @returns false for one that was followed by another */
  #isCurrent(e: Entry, boot: string): boolean {
    if (boot === e.boot) return true;
    if (e.pastBoots.includes(boot)) return false;
    if (e.boot !== null) e.pastBoots = [e.boot, ...e.pastBoots].slice(0, bootsMax);
    e.boot = boot;
    e.gone = false;
    return true;
  }

  #heardMs(atMs: number, retained: boolean): number {
    const now = this.#clock.nowMs();
    return retained ? now - Math.max(0, this.#clock.wallMs() - atMs) : now;
  }
}

function newEntry(node: string): Entry {
  return {
    node,
    beat: null,
    beatMs: 0,
    state: null,
    vms: new Map(),
    ops: new Map(),
    events: [],
    boot: null,
    pastBoots: [],
    gone: false,
    connected: false,
    session: 0,
    sessionMs: 0,
    shown: 'never-heard',
  };
}

/** Drops lines that the node, alive and connected, has not said since its broker came back. */
function forget(e: Entry): boolean {
  let dropped = false;
  for (const lines of [e.vms, e.ops]) {
    for (const [id, line] of lines) if (line.session < e.session) dropped = lines.delete(id) || dropped;
  }
  return dropped;
}

function aged<T>(lines: ReadonlyMap<string, Line<T>>, now: number): Map<string, { ageMs: number; state: T }> {
  const out = new Map<string, { ageMs: number; state: T }>();
  for (const [id, l] of lines) out.set(id, { ageMs: now - l.heardMs, state: l.state });
  return out;
}
