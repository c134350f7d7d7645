import { createSocket, type Socket } from 'node:dgram';
import { request as httpsRequest } from 'node:https';
import { networkInterfaces } from 'node:os';
import { connect, type TLSSocket } from 'node:tls';
import type { Clock, Log } from '../agent/env.js';
import { fingerprintOfKey } from '../agent/pki/keys.js';
import { errorFromRecord, FlotillaError } from '../core/domain/error.js';
import { errorRecordSchema } from '../core/domain/op.js';
import { adoptAnswerSchema, pendingLineSchema, type Newcomer, type PendingView } from '../core/wire/adopt.js';
import { beaconTtlS, decodeBeacon, mdnsAddress, mdnsPort } from '../core/wire/mdns.js';

/** Nodes that wait to be admitted: who is heard, what one says, and the handing over of a token. */
export interface PendingNodes {
  /** Those heard of late. What they say is not proven. */
  heard(): readonly PendingView[];
  /**
   * Asks one. Its fingerprint is proven by the connection; what it says of its machine, where it says it, is not.
   *
   * @throws FlotillaError `node-unreachable`, `not-found`
   */
  look(address: string): Promise<PendingView & { readonly machine?: Newcomer | undefined }>;
  /**
   * Gives one a token, over a connection that proved the fingerprint, and waits until it joined.
   *
   * @throws FlotillaError `wrong-certificate`: another key answers there; `node-unreachable`; and what the node refuses with
   */
  adopt(address: string, fingerprint: string, token: string): Promise<string>;
}

/** Most that are remembered: whoever floods the network fills no more memory. */
const heardMax = 256;
/** New interfaces of this machine are noticed so often, ms. */
const interfacesMs = 60_000;
/** One that has only just started may be busy with that. */
const connectMs = 20_000;
/** A node makes its certificates and its files in that time, ms. */
const adoptMs = 60_000;
const answerBytesMax = 64 * 1024;

/** Over the network: multicast DNS and HTTPS. */
export class NetworkPendingNodes implements PendingNodes {
  readonly #heard = new Map<string, { view: PendingView; atMs: number }>();
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #port: number;
  #socket: Socket | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(o: { clock: Clock; log: Log; port: number }) {
    this.#clock = o.clock;
    this.#log = o.log;
    this.#port = o.port;
  }

  /** Listens. A network without multicast, or a port that is taken, only means that nobody is heard. */
  start(): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    this.#socket = socket;
    socket.on('error', (error) => this.#log.warn(`nodes that wait are not heard: ${error.message}`));
    socket.on('message', (packet) => this.take(packet));
    socket.bind(mdnsPort, () => this.#everywhere(socket));
    this.#timer = setInterval(() => this.#everywhere(socket), interfacesMs);
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#socket?.close();
    this.#socket = null;
  }

  /** A packet from anybody. */
  take(packet: Uint8Array): void {
    const b = decodeBeacon(packet);
    if (b === null || b.port !== this.#port) return;
    const { name, address, fingerprint, version } = b;
    this.#heard.delete(fingerprint);
    this.#heard.set(fingerprint, {
      view: { name, address, fingerprint, version },
      atMs: this.#clock.nowMs(),
    });
    const oldest = this.#heard.keys().next().value;
    if (this.#heard.size > heardMax && oldest !== undefined) this.#heard.delete(oldest);
  }

  heard(): readonly PendingView[] {
    const since = this.#clock.nowMs() - beaconTtlS * 1_000;
    for (const [key, { atMs }] of this.#heard) if (atMs < since) this.#heard.delete(key);
    return [...this.#heard.values()].map((h) => h.view).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async look(address: string): ReturnType<PendingNodes['look']> {
    const { json, fingerprint } = await this.#ask({
      address,
      method: 'GET',
      path: '/healthz',
      limitMs: connectMs,
    });
    const line = pendingLineSchema.safeParse(json);
    if (!line.success || line.data.fingerprint !== fingerprint) {
      throw new FlotillaError('not-found', `No node that waits is at ${address}`, {
        hint: 'Its console says whether it is pending, and at which address.',
      });
    }
    const { node: name, version, machine } = line.data;
    return { name, address, fingerprint, version, machine };
  }

  async adopt(address: string, fingerprint: string, token: string): Promise<string> {
    const ask = { address, method: 'POST', path: '/adopt', fingerprint, body: { token }, limitMs: adoptMs };
    const { json } = await this.#ask(ask);
    return adoptAnswerSchema.parse(json).node;
  }

  #everywhere(socket: Socket): void {
    for (const list of Object.values(networkInterfaces()))
      for (const i of list ?? [])
        if (i.family === 'IPv4') {
          try {
            socket.addMembership(mdnsAddress, i.address);
          } catch {
            // Joined already, or an interface without multicast.
          }
        }
  }

  /** One request over a connection of its own, whose key is looked at before anything is sent. */
  async #ask(o: {
    address: string;
    method: string;
    path: string;
    fingerprint?: string;
    body?: unknown;
    limitMs: number;
  }): Promise<{ json: unknown; fingerprint: string }> {
    const unreachable = (cause: unknown): FlotillaError =>
      new FlotillaError(
        'node-unreachable',
        `Nothing that speaks Flotilla answers at ${o.address}:${this.#port}`,
        {
          hint: 'Is the address the one on its console? Does the network let port 7443 pass?',
          cause,
        },
      );
    const signal = AbortSignal.timeout(o.limitMs);
    const socket = await this.#connect(o.address).catch((cause: unknown) => {
      throw unreachable(cause);
    });
    const key = socket.getPeerX509Certificate()?.publicKey;
    const fingerprint = key === undefined ? '' : fingerprintOfKey(key);
    if (o.fingerprint !== undefined && o.fingerprint !== fingerprint) {
      socket.destroy();
      throw new FlotillaError('wrong-certificate', `The machine at ${o.address} has another key`, {
        hint: 'Compare the fingerprint with the one on its console. It was sent nothing.',
      });
    }
    const text = o.body === undefined ? '' : JSON.stringify(o.body);
    const { status, answer } = await new Promise<{ status: number; answer: string }>((resolve, reject) => {
      const req = httpsRequest(
        {
          createConnection: () => socket,
          host: o.address,
          method: o.method,
          path: o.path,
          headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
          signal,
        },
        (res) => {
          const chunks: Buffer[] = [];
          let size = 0;
          res.on('data', (chunk: Buffer) => {
            size += chunk.length;
            if (size > answerBytesMax) req.destroy(new Error('the answer is too large'));
            else chunks.push(chunk);
          });
          res.on('error', reject);
          res.on('end', () =>
            resolve({ status: res.statusCode ?? 0, answer: Buffer.concat(chunks).toString('utf8') }),
          );
        },
      );
      req.on('error', reject);
      req.end(text);
    })
      .catch((cause: unknown) => {
        throw unreachable(cause);
      })
      .finally(() => socket.destroy());
    let json: unknown;
    try {
      json = JSON.parse(answer);
    } catch (cause) {
      throw unreachable(cause);
    }
    if (status === 200 || o.body === undefined) return { json, fingerprint };
    const refusal = errorRecordSchema.partial({ causes: true }).safeParse(json);
    if (!refusal.success) throw unreachable(new Error(`HTTP status ${status}`));
    throw errorFromRecord({ ...refusal.data, causes: [] });
  }

  #connect(address: string): Promise<TLSSocket> {
    return new Promise((resolve, reject) => {
      // Its certificate is its own word; its key is what is compared.
      const socket = connect({
        host: address,
        port: this.#port,
        rejectUnauthorized: false,
        minVersion: 'TLSv1.2',
        timeout: connectMs,
      });
      socket.once('secureConnect', () => {
        socket.setTimeout(0);
        resolve(socket);
      });
      socket.once('timeout', () => socket.destroy(new Error('no answer in time')));
      socket.once('error', reject);
    });
  }
}
