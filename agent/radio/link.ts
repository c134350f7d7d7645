import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type PeerCertificate, type TLSSocket } from 'node:tls';
import { MqttClient } from 'mqtt';
import { radioPayloadBytesMax } from '../../core/wire/radio.js';
import type { Random } from '../env.js';
import type { Slots } from './slots.js';

/** A connection with TLS and CONNACK takes milliseconds; a node that is off answers nothing at all. */
const connectTimeoutMs = 5_000;
/**
 * A broker that answers, but is not through in time, gets twice as long in the next attempt, up to this. On a node that has
 * just booted handshakes may take longer than any fixed time, and one given up half-way is work done for nothing, again and again.
 */
const connectTimeoutMaxMs = 40_000;
/** First wait before dialling again; each is jittered from half to one and a half. */
const retryMinMs = 500;
/** Longest wait: a node that comes back is heard soon, and 63 silent peers cost six attempts a second. */
const retryMaxMs = 10_000;
/** @see gossip-consensus 1.6: a dead link is seen by the broker after 5.5 to 8 s */
const keepaliveS = 5;
/**
 * A link that did not live long had perhaps only a slow end, and so had many: it is asked half as often the next time, down to this.
 * An answer must be there within half of it, and what a stalled process has not read yet is none.
 */
const keepaliveMaxS = 40;
/** A link that lived so long lived long, ms. */
const steadyMs = 60_000;
/** And one that lived so long says that all is quick again, ms. */
const quickAgainMs = 600_000;
/** Topic and header beside the payload. */
const packetOverheadBytes = 1_024;

/** PEM texts. */
export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly crl?: string[];
}

export interface LinkOptions {
  readonly host: string;
  readonly port: number;
  /** Node id the broker's certificate must bear as its common name. */
  readonly expect: string;
  readonly clientId: string;
  /** Read at each attempt, so a renewed certificate is used without a restart. */
  tls(): TlsFiles;
  readonly will: { readonly topic: string; readonly text: string } | null;
  readonly subscribe: readonly string[];
  readonly slots: Slots;
  readonly random: Random;
  /** A connection may take so long at first, ms; 5 s unless told. */
  readonly timeoutMs?: number;
  /** How often a quiet link is asked at first, s; 5 unless told. */
  readonly keepaliveS?: number;
  onUp(): void;
  onDown(): void;
  onMessage(topic: string, payload: Uint8Array, retained: boolean): void;
  /** A certificate was refused, theirs by us or ours by them; or a publish was (error 135). */
  onRefused(kind: 'certificate' | 'not-authorized', why: string): void;
}

/**
 * One connection to one broker, dialled again for ever. Each attempt is a fresh MQTT 5 client with a clean start:
 * no session, no queue, nothing to resume, since all that is worth knowing is retained or said again.
 */
export class Link {
  readonly #o: LinkOptions;
  readonly #stop = new AbortController();
  #client: MqttClient | null = null;
  #up = false;
  #running: Promise<void> = Promise.resolve();

  constructor(o: LinkOptions) {
    this.#o = o;
  }

  start(): void {
    this.#running = this.#run();
  }

  /** Says goodbye, so that the broker publishes no will. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  get up(): boolean {
    return this.#up;
  }

  /** @returns false where it was dropped because the broker is away */
  publish(topic: string, text: string, o: { qos: 0 | 1; retain: boolean }): boolean {
    const c = this.#client;
    if (!this.#up || c === null) return false;
    c.publish(topic, text, o, (error) => {
      if (error && 'code' in error && error.code === 135) this.#o.onRefused('not-authorized', topic);
    });
    return true;
  }

  async #run(): Promise<void> {
    let wait = retryMinMs;
    const firstMs = this.#o.timeoutMs ?? connectTimeoutMs;
    let limitMs = firstMs;
    let askS = this.#o.keepaliveS ?? keepaliveS;
    while (!this.#stop.signal.aborted) {
      const free = await this.#o.slots.take();
      try {
        if (this.#stop.signal.aborted) return;
        const came = await this.#attempt(free, firstMs, limitMs, askS);
        if (came === 'late') limitMs = Math.min(limitMs * 2, connectTimeoutMaxMs);
        if (typeof came === 'number') {
          wait = retryMinMs;
          if (came < steadyMs) askS = Math.min(askS * 2, keepaliveMaxS);
          else limitMs = firstMs;
          if (came > quickAgainMs) askS = this.#o.keepaliveS ?? keepaliveS;
        }
      } finally {
        free();
      }
      const jittered = wait / 2 + this.#o.random.below(wait);
      wait = Math.min(wait * 2, retryMaxMs);
      await sleep(jittered, undefined, { signal: this.#stop.signal, ref: false }).catch(() => undefined);
    }
  }

  /**
   * One connection from dialling to its end.
   *
   * @param dialled - others may dial
   * @param reachMs - until the node answers at all @param limitMs - until its broker has let us in
   * @returns how long it was up, ms; `late`: the node answered, its broker not in time; `away`: anything else
   */
  #attempt(
    dialled: () => void,
    reachMs: number,
    limitMs: number,
    askS: number,
  ): Promise<number | 'late' | 'away'> {
    return new Promise((resolve) => {
      let came: 'late' | 'away' = 'away';
      let upMs = 0;
      let refused = false;
      const giveUp = () => client.end(true);
      let timer = setTimeout(giveUp, reachMs);
      const reached = () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          // Others need not wait for this one.
          dialled();
          timer = setTimeout(() => {
            came = 'late';
            giveUp();
          }, limitMs - reachMs);
        }, reachMs);
      };
      const client = new MqttClient(() => this.#dial().once('connect', reached), this.#mqttOptions(askS));
      this.#client = client;
      const refuse = (error: Error) => {
        if (refused || !isCertificateError(error)) return;
        refused = true;
        this.#o.onRefused('certificate', error.message);
      };
      const leave = () => client.end(false);
      this.#stop.signal.addEventListener('abort', leave, { once: true });
      client.on('error', refuse);
      client.on('connect', () => {
        clearTimeout(timer);
        dialled();
        // QoS 1, so that the broker does not shed retained lines when there are many.
        client.subscribe([...this.#o.subscribe], { qos: 1 }, (error) => {
          if (error) return client.end(true);
          if (client.disconnecting) return;
          upMs = performance.now();
          this.#up = true;
          this.#o.onUp();
        });
      });
      client.on('message', (topic, payload, packet) => this.#o.onMessage(topic, payload, packet.retain));
      client.on('close', () => {
        clearTimeout(timer);
        this.#stop.signal.removeEventListener('abort', leave);
        const up = this.#up;
        this.#up = false;
        this.#client = null;
        client.end(true);
        if (up) this.#o.onDown();
        resolve(up ? performance.now() - upMs : came);
      });
    });
  }

  #mqttOptions(askS: number): ConstructorParameters<typeof MqttClient>[1] {
    const { will, clientId } = this.#o;
    return {
      protocolVersion: 5,
      clean: true,
      clientId,
      keepalive: askS,
      reconnectPeriod: 0,
      // Our own limits are tighter.
      connectTimeout: 2 * connectTimeoutMaxMs,
      queueQoSZero: false,
      // A table of the 65,536 numbers as buffers: 8 MB resident, and marked anew at each collection.
      writeCache: false,
      resubscribe: false,
      properties: { sessionExpiryInterval: 0, maximumPacketSize: radioPayloadBytesMax + packetOverheadBytes },
      ...(will === null
        ? {}
        : { will: { topic: will.topic, payload: Buffer.from(will.text), qos: 1 as const, retain: false } }),
    };
  }

  #dial(): TLSSocket {
    const { host, port, expect } = this.#o;
    const socket = connect({
      host,
      port,
      ...this.#o.tls(),
      minVersion: 'TLSv1.3',
      // Nodes are known by their ids; addresses change and say nothing.
      checkServerIdentity: (_host, cert) => wrongNode(expect, cert),
    });
    socket.setNoDelay(true);
    return socket;
  }
}

function wrongNode(expect: string, cert: PeerCertificate): Error | undefined {
  const cn: unknown = cert.subject.CN;
  if (cn === expect) return undefined;
  return Object.assign(new Error(`the certificate is of ${String(cn)}, not of ${expect}`), {
    code: 'ERR_TLS_CERT_ALTNAME_INVALID',
  });
}

/** OpenSSL's verification results, Node's own, and the alerts by which the other side refuses ours. */
const certificateErrors =
  /^(CERT_|CRL_|ERR_TLS_CERT|ERR_SSL_.*(CERTIFICATE|UNKNOWN_CA)|DEPTH_ZERO_|SELF_SIGNED|UNABLE_TO_(GET|VERIFY)|INVALID_(CA|PURPOSE)|ERROR_IN_CERT)/;

function isCertificateError(error: Error): boolean {
  return 'code' in error && typeof error.code === 'string' && certificateErrors.test(error.code);
}
