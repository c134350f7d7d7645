import { nodeTopics, retained, topic, type RadioKind, type RadioPayload } from '../../core/wire/radio.js';
import type { Clock, HeardNode, Radio } from '../../agent/env.js';
import type { RadioMessage } from '../../agent/radio/door.js';
import { Heard } from '../../agent/radio/heard.js';

/** Pace of the simulated radios' own loops; they need no finer one, nothing in a simulation is late by accident. */
const tickMs = 250;
const beatEveryMs = 1_000;

/**
 * The air between simulated nodes: a broker per node that keeps retained lines, links that can be cut in one
 * direction, agents that can die. Messages travel as bytes through the shipped {@link Heard}, so what the
 * simulator hears went through the same door as in production. Delivery is at once and in order.
 */
export class RadioHub {
  readonly clock: Pick<Clock, 'nowMs' | 'wallMs'>;
  readonly cluster: string;
  readonly #brokers = new Map<string, Map<string, Uint8Array>>();
  readonly #down = new Set<string>();
  readonly #cuts = new Set<string>();
  readonly #radios = new Set<MemoryRadio>();

  constructor(o: { cluster: string; clock: Pick<Clock, 'nowMs' | 'wallMs'> }) {
    this.cluster = o.cluster;
    this.clock = o.clock;
  }

  /** A radio for an agent's start; it is on the air until {@link MemoryRadio.die} or {@link MemoryRadio.stop}. */
  join(node: string, boot: string): MemoryRadio {
    if (!this.#brokers.has(node)) this.#brokers.set(node, new Map());
    const radio = new MemoryRadio(this, node, boot);
    this.#radios.add(radio);
    this.settle();
    return radio;
  }

  /** `listener` no longer reaches the broker of `speaker`; the other direction stays. */
  cut(listener: string, speaker: string): void {
    this.#cuts.add(`${listener}>${speaker}`);
    this.settle();
  }

  /** All links between the two groups, both ways. */
  partition(a: readonly string[], b: readonly string[]): void {
    for (const x of a)
      for (const y of b)
        for (const [l, s] of [
          [x, y],
          [y, x],
        ] as const)
          this.#cuts.add(`${l}>${s}`);
    this.settle();
  }

  /** All links whole again. */
  heal(): void {
    this.#cuts.clear();
    this.settle();
  }

  /** The broker of a node stops; what it kept is lost. */
  stopBroker(node: string): void {
    this.#down.add(node);
    this.#brokers.set(node, new Map());
    this.settle();
  }

  startBroker(node: string): void {
    this.#down.delete(node);
    this.settle();
  }

  /**
   * The simulator's clock has moved: every living radio does what is due, in the order of node ids.
   * Call it at least every 250 ms of simulated time.
   */
  tick(): void {
    for (const r of this.#ordered()) r.tick();
  }

  /** @internal */
  reaches(listener: string, speaker: string): boolean {
    return (
      this.#brokers.has(speaker) && !this.#down.has(speaker) && !this.#cuts.has(`${listener}>${speaker}`)
    );
  }

  /** @internal Publishes on the broker of `node`, as its agent. */
  publish(node: string, at: string, payload: Uint8Array, keep: boolean): void {
    if (this.#down.has(node)) return;
    const kept = this.#brokers.get(node);
    if (keep && payload.length > 0) kept?.set(at, payload);
    else if (keep) kept?.delete(at);
    for (const r of this.#ordered()) if (r.node !== node) r.hear(node, at, payload, false);
  }

  /** @internal */
  kept(node: string): ReadonlyMap<string, Uint8Array> {
    return this.#brokers.get(node) ?? new Map<string, Uint8Array>();
  }

  /** @internal An agent ended; where it died, each broker it was connected to says its will. */
  leave(radio: MemoryRadio, will: { at: string; payload: Uint8Array } | null): void {
    this.#radios.delete(radio);
    if (will === null) return;
    for (const broker of [...this.#brokers.keys()].sort()) {
      if (!this.reaches(radio.node, broker)) continue;
      for (const r of this.#ordered()) {
        // A will is heard on one's own broker, and on that of the dead.
        if (r.node === broker || broker === radio.node) r.hear(broker, will.at, will.payload, false);
      }
    }
  }

  /** @internal */
  settle(): void {
    for (const r of this.#ordered()) r.connect();
  }

  #ordered(): MemoryRadio[] {
    return [...this.#radios].sort((a, b) => (a.node < b.node ? -1 : 1));
  }
}

export class MemoryRadio implements Radio {
  readonly node: string;
  readonly #hub: RadioHub;
  readonly #boot: string;
  readonly #heard: Heard;
  readonly #said = new Map<string, { payload: Uint8Array; keep: boolean }>();
  readonly #connected = new Set<string>();
  readonly #wakes = new Set<() => void>();
  #peers: readonly string[] = [];
  #seq = 0;
  #nextBeatMs: number;
  #alive = true;
  /** Its agent is stalled: it says nothing. */
  paused = false;

  constructor(hub: RadioHub, node: string, boot: string) {
    this.#hub = hub;
    this.node = node;
    this.#boot = boot;
    this.#heard = new Heard({ cluster: hub.cluster, clock: hub.clock, tickMs });
    this.#heard.setNodes([node]);
    this.#nextBeatMs = hub.clock.nowMs();
  }

  say<K extends RadioKind>(kind: K, payload: RadioPayload<K>, id?: string): void {
    if (!this.#alive || kind === 'beat' || kind === 'gone') return;
    const stamped =
      kind === 'state' || kind === 'vm' ? { ...payload, boot: this.#boot, seq: ++this.#seq } : payload;
    this.#say(kind, stamped, id);
  }

  unsay(kind: 'vm' | 'op', id: string): void {
    if (!this.#alive) return;
    const at = topic(this.#hub.cluster, this.node, kind, id);
    this.#said.delete(at);
    this.#heard.fold({ kind, node: this.node, id, body: null }, false);
    this.#hub.publish(this.node, at, new Uint8Array(), true);
  }

  heard(): readonly HeardNode[] {
    return this.#heard.view();
  }

  refused(): Readonly<Record<string, number>> {
    return this.#heard.refused();
  }

  onChange(wake: () => void): () => void {
    this.#wakes.add(wake);
    return () => this.#wakes.delete(wake);
  }

  setPeers(peers: readonly { readonly node: string; readonly address: string }[]): void {
    this.#peers = peers.map((p) => p.node).filter((n) => n !== this.node);
    this.#heard.setNodes([this.node, ...this.#peers]);
    for (const n of this.#connected)
      if (n !== this.node && !this.#peers.includes(n)) this.#connected.delete(n);
    this.connect();
  }

  /** The agent ends with goodbye. */
  stop(): void {
    this.#alive = false;
    this.#hub.leave(this, null);
  }

  /** The agent dies: its will is said where it was connected. */
  die(): void {
    this.#alive = false;
    const payload = encode({ boot: this.#boot });
    this.#hub.leave(this, { at: topic(this.#hub.cluster, this.node, 'gone'), payload });
  }

  /** @internal */
  tick(): void {
    if (this.paused) return;
    if (this.#heard.tick()) this.#wake();
    const now = this.#hub.clock.nowMs();
    if (now < this.#nextBeatMs) return;
    this.#nextBeatMs = Math.max(this.#nextBeatMs + beatEveryMs, now);
    this.#say('beat', { boot: this.#boot, seq: ++this.#seq, atMs: this.#hub.clock.wallMs() });
  }

  /** @internal Something arrives from the broker of `from`. */
  hear(from: string, at: string, payload: Uint8Array, kept: boolean): void {
    if (!this.#alive || !this.#hub.reaches(this.node, from)) return;
    if (from !== this.node && !this.#peers.includes(from)) return;
    if (this.#heard.receive(from, at, payload, kept)) this.#wake();
  }

  /** @internal Links came or went. */
  connect(): void {
    if (!this.#alive) return;
    for (const n of [this.node, ...this.#peers]) {
      const reach = this.#hub.reaches(this.node, n);
      if (reach === this.#connected.has(n)) continue;
      this.#heard.setConnected(n, reach);
      this.#wake();
      if (!reach) {
        this.#connected.delete(n);
        continue;
      }
      this.#connected.add(n);
      if (n === this.node) for (const [at, l] of this.#said) this.#hub.publish(n, at, l.payload, l.keep);
      else for (const [at, payload] of this.#hub.kept(n)) this.hear(n, at, payload, true);
    }
  }

  #say<K extends RadioKind>(kind: K, payload: RadioPayload<K>, id?: string): void {
    const at = topic(this.#hub.cluster, this.node, kind, id);
    if (!at.startsWith(nodeTopics(this.#hub.cluster, this.node).slice(0, -1)))
      throw new Error(`strange topic ${at}`);
    const keep = retained.has(kind);
    const bytes = encode(payload);
    if (keep) this.#said.set(at, { payload: bytes, keep });
    this.#heard.fold({ kind, node: this.node, id: id ?? null, body: payload } as RadioMessage, false);
    this.#hub.publish(this.node, at, bytes, keep);
  }

  #wake(): void {
    for (const wake of this.#wakes) wake();
  }
}

const encode = (v: unknown): Uint8Array => Buffer.from(JSON.stringify(v));
