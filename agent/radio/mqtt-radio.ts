import {
  radioPayloadBytesMax,
  nodeTopics,
  retained,
  topic,
  type RadioKind,
  type RadioPayload,
} from '../../core/wire/radio.js';
import type { Clock, HeardNode, Log, Radio, Random } from '../env.js';
import { BrokerLog } from './broker-log.js';
import type { RadioMessage } from './door.js';
import { Heard } from './heard.js';
import { Link, type TlsFiles } from './link.js';
import { Outbox } from './outbox.js';
import { Slots } from './slots.js';

/** Beats go out at this pace; silence is judged by 3.5 of them. */
export const beatEveryMs = 1_000;
/** Pace of the radio's own loop: beats, lines that are due, lateness. */
const tickMs = 250;
/** Dialling at a time. */
export const dialsMax = 16;
/** Events said per second at most; a flapping part must not fill everyone's page. */
const eventsPerSecondMax = 10;
/** Retained lines of an earlier start that this one did not repeat are taken back after this time. */
const oldLinesAfterMs = 20_000;

export interface MqttRadioOptions {
  readonly cluster: string;
  /** This node's id, the CN of its certificate. */
  readonly node: string;
  /** This agent's incarnation: stamped on beats, states and VM lines. */
  readonly boot: string;
  /**
   * `agent`: speaks on the broker of this node at `127.0.0.1`. `listen`: says nothing and has no broker of its own
   * (a controller); it then hears this node as any other, if `setPeers` names it.
   */
  readonly mode: 'agent' | 'listen';
  /** Port of every broker. */
  readonly port: number;
  /** Where this node's own broker listens; `127.0.0.1` unless told. */
  readonly ownHost?: string;
  /** Lines of an earlier start that were not said again are taken back after this time, ms; 20 s unless told. */
  readonly oldLinesMs?: number;
  /** Error log of this node's own broker, see {@link BrokerLog}; without it only refusals at our end are counted. */
  readonly brokerLog?: string;
  /** The cluster's CA, this node's certificate and key; called at each connection. */
  tls(): TlsFiles;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

interface Peer {
  readonly node: string;
  readonly address: string;
  readonly port?: number;
}

/**
 * The radio over MQTT: one connection to this node's own broker to speak, one to each peer's to listen.
 * Nothing here waits for a broker: what cannot be said now is said when it is back.
 *
 * `boot` and `seq` of states and VM lines are stamped here, so that the order is right whoever speaks.
 * Beats are sent by the radio itself, one a second: they mean "this agent's event loop turns".
 */
export class MqttRadio implements Radio {
  readonly #o: MqttRadioOptions;
  readonly #heard: Heard;
  readonly #outbox = new Outbox();
  readonly #slots = new Slots(dialsMax);
  readonly #links = new Map<string, { readonly link: Link; readonly at: string }>();
  readonly #wakes = new Set<() => void>();
  readonly #leaving = new Set<Promise<void>>();
  readonly #brokerLog: BrokerLog | null;
  #own: Link | null = null;
  #timer: NodeJS.Timeout | null = null;
  #seq = 0;
  #nextBeatMs = 0;
  #eventsLeft = eventsPerSecondMax;
  #ownUpMs: number | null = null;

  constructor(o: MqttRadioOptions) {
    this.#o = o;
    this.#heard = new Heard({ cluster: o.cluster, clock: o.clock, tickMs });
    if (o.mode === 'agent') this.#heard.setNodes([o.node]);
    this.#brokerLog =
      o.brokerLog === undefined
        ? null
        : new BrokerLog(o.brokerLog, (count) => {
            this.#heard.refuse('certificate', count);
            this.#wake();
          });
  }

  start(): void {
    this.#timer = setInterval(() => this.#tick(), tickMs);
    this.#nextBeatMs = this.#o.clock.nowMs();
    if (this.#o.mode === 'agent') {
      this.#own = this.#ownLink();
      this.#own.start();
    }
    void this.#brokerLog?.start();
    for (const { link } of this.#links.values()) link.start();
  }

  /** Ends all connections with goodbye; retained lines stay for those who look. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#brokerLog?.stop();
    const links = [...this.#links.values()].map((l) => l.link.stop());
    this.#links.clear();
    await Promise.all([...links, this.#own?.stop(), ...this.#leaving]);
    this.#own = null;
  }

  say<K extends RadioKind>(kind: K, payload: RadioPayload<K>, id?: string): void {
    if (this.#o.mode === 'listen') throw new Error('this radio only listens');
    if (kind === 'beat' || kind === 'gone') return;
    const stamped = kind === 'state' || kind === 'vm' ? this.#stamp(payload) : payload;
    const m = { kind, node: this.#o.node, id: id ?? null, body: stamped } as RadioMessage;
    // What we say ourselves wakes nobody: the loop that said it would run for ever.
    this.#heard.fold(m, false);
    if (m.kind === 'event') this.#sayEvent(m.body as RadioPayload<'event'>);
    else if (m.kind === 'state' || m.kind === 'vm' || m.kind === 'op') {
      this.#outbox.put(m.kind, m.id, m.body as RadioPayload<typeof m.kind>);
      this.#flush();
    }
  }

  unsay(kind: 'vm' | 'op', id: string): void {
    const m: RadioMessage = { kind, node: this.#o.node, id, body: null };
    this.#heard.fold(m, false);
    this.#outbox.takeBack(kind, id);
    this.#flush();
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

  /** `port` of a peer is for tests with several brokers on one address. */
  setPeers(peers: readonly Peer[]): void {
    const agent = this.#o.mode === 'agent';
    const wanted = new Map(peers.filter((p) => !agent || p.node !== this.#o.node).map((p) => [p.node, p]));
    this.#heard.setNodes([...(agent ? [this.#o.node] : []), ...wanted.keys()]);
    for (const [node, had] of this.#links) {
      const p = wanted.get(node);
      if (p !== undefined && had.at === this.#at(p)) continue;
      this.#links.delete(node);
      const leaving = had.link.stop().finally(() => this.#leaving.delete(leaving));
      this.#leaving.add(leaving);
    }
    for (const p of wanted.values()) {
      if (this.#links.has(p.node)) continue;
      const link = this.#peerLink(p);
      this.#links.set(p.node, { link, at: this.#at(p) });
      if (this.#timer !== null) link.start();
    }
  }

  #at(p: Peer): string {
    return `${p.address}:${p.port ?? this.#o.port}`;
  }

  #ownLink(): Link {
    const { cluster, node, ownHost, port } = this.#o;
    return this.#link(node, ownHost ?? '127.0.0.1', port, {
      // Our own lines of an earlier start, and the wills that our peers left here.
      subscribe: [nodeTopics(cluster, node), `v1/${cluster}/n/+/gone`],
      onUp: () => {
        this.#ownUpMs = this.#o.clock.nowMs();
        this.#outbox.sayAll();
        this.#beat();
        this.#flush();
      },
      onMessage: (t, payload, kept) => this.#ownMessage(t, payload, kept),
    });
  }

  #peerLink(p: Peer): Link {
    return this.#link(p.node, p.address, p.port ?? this.#o.port, {
      subscribe: [nodeTopics(this.#o.cluster, p.node)],
      onUp: () => undefined,
      onMessage: (t, payload, kept) => {
        if (this.#heard.receive(p.node, t, payload, kept)) this.#wake();
      },
    });
  }

  #link(
    broker: string,
    host: string,
    port: number,
    o: {
      subscribe: readonly string[];
      onUp(): void;
      onMessage(topic: string, payload: Uint8Array, kept: boolean): void;
    },
  ): Link {
    const { cluster, node, boot, mode, random, log } = this.#o;
    const turn = (up: boolean) => {
      this.#heard.setConnected(broker, up);
      log.info(up ? 'radio connected' : 'radio connection lost', { broker });
      if (up) o.onUp();
      this.#wake();
    };
    return new Link({
      host,
      port,
      expect: broker,
      clientId: mode === 'agent' ? `agent-${node}` : `listen-${node}-${boot}`,
      tls: () => this.#o.tls(),
      will: mode === 'agent' ? { topic: topic(cluster, node, 'gone'), text: JSON.stringify({ boot }) } : null,
      subscribe: o.subscribe,
      slots: this.#slots,
      random,
      onUp: () => turn(true),
      onDown: () => turn(false),
      onMessage: (t, payload, kept) => o.onMessage(t, payload, kept),
      onRefused: (kind, why) => {
        this.#heard.refuse(kind);
        log.warn('radio refused', { broker, kind, why });
        this.#wake();
      },
    });
  }

  #ownMessage(t: string, payload: Uint8Array, kept: boolean): void {
    // What we say now we know already; kept lines are of an earlier start.
    const ours = t.startsWith(`v1/${this.#o.cluster}/n/${this.#o.node}/`);
    if (ours && !kept) return;
    if (this.#heard.receive(this.#o.node, t, payload, kept)) this.#wake();
  }

  #tick(): void {
    const now = this.#o.clock.nowMs();
    if (this.#heard.tick()) this.#wake();
    if (this.#o.mode === 'listen') return;
    if (now >= this.#nextBeatMs) {
      // After a stall one beat, not all that were missed.
      this.#nextBeatMs = Math.max(this.#nextBeatMs + beatEveryMs, now);
      this.#eventsLeft = eventsPerSecondMax;
      this.#beat();
    }
    if (this.#ownUpMs !== null && now - this.#ownUpMs > (this.#o.oldLinesMs ?? oldLinesAfterMs))
      this.#dropOldLines();
    this.#flush();
  }

  #beat(): void {
    const { cluster, node, boot, clock } = this.#o;
    const beat: RadioPayload<'beat'> = { boot, seq: ++this.#seq, atMs: clock.wallMs() };
    this.#heard.fold({ kind: 'beat', node, id: null, body: beat }, false);
    this.#own?.publish(topic(cluster, node, 'beat'), JSON.stringify(beat), { qos: 0, retain: false });
  }

  #stamp<T>(payload: T): T {
    return { ...payload, boot: this.#o.boot, seq: ++this.#seq };
  }

  #sayEvent(event: RadioPayload<'event'>): void {
    if (this.#eventsLeft <= 0) return this.#heard.refuse('events-dropped');
    this.#eventsLeft -= 1;
    this.#own?.publish(topic(this.#o.cluster, this.#o.node, 'event'), JSON.stringify(event), {
      qos: 1,
      retain: false,
    });
  }

  #flush(): void {
    if (this.#own === null || !this.#own.up) return;
    for (const { kind, id, text } of this.#outbox.due(this.#o.clock.nowMs())) {
      if (Buffer.byteLength(text) > radioPayloadBytesMax) {
        this.#heard.refuse('too-large-to-say');
        this.#o.log.error('radio line too large', { kind, id, bytes: Buffer.byteLength(text) });
        continue;
      }
      const t = topic(this.#o.cluster, this.#o.node, kind, id ?? undefined);
      this.#own.publish(t, text, { qos: 1, retain: retained.has(kind) });
    }
  }

  #dropOldLines(): void {
    this.#ownUpMs = null;
    for (const kind of ['vm', 'op'] as const) {
      for (const id of this.#heard.lineIds(this.#o.node, kind)) {
        if (!this.#outbox.has(kind, id)) this.unsay(kind, id);
      }
    }
  }

  #wake(): void {
    for (const wake of this.#wakes) wake();
  }
}
