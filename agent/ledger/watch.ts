import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { gatewayError, type Gateway } from './gateway.js';
import { prefixEnd } from './ledger.js';

/**
 * A watch that said nothing for this long is opened again, ms. Our etcd announces its progress every 5 s
 * (`progressIntervalS` of etcd.env), so this is three lost announcements; a dead connection says nothing for ever.
 */
export const silenceMsMax = 16_000;

/** First and longest pause before a watch is opened again, ms. The jitter keeps 60 nodes from coming back at once. */
const backoffMs = { first: 100, max: 5_000 } as const;

/** Longest line taken, characters: one event of 64 kB is 90 kB, and etcd splits at 1.5 MB per answer. */
const lineMax = 8 * 2 ** 20;

/**
 * Watches prefixes through etcd's gateway: one stream per prefix, however many listen. A watch is only a bell: it
 * rings after a change, after each reconnection (something may have been missed) and after a compaction.
 */
export class Watcher {
  readonly #gateway: Gateway;
  readonly #silenceMs: number;
  readonly #bells = new Map<string, Bell>();

  constructor(gateway: Gateway, o: { silenceMs?: number } = {}) {
    this.#gateway = gateway;
    this.#silenceMs = o.silenceMs ?? silenceMsMax;
  }

  watch(prefix: string, wake: () => void): () => void {
    let bell = this.#bells.get(prefix);
    if (bell === undefined) {
      bell = new Bell(this.#gateway, prefix, this.#silenceMs);
      this.#bells.set(prefix, bell);
      bell.start();
    }
    // Wrapped, so that the same function given twice is two listeners.
    const listener = () => wake();
    bell.listeners.add(listener);
    const rung = bell;
    return () => {
      rung.listeners.delete(listener);
      if (rung.listeners.size > 0 || this.#bells.get(prefix) !== rung) return;
      this.#bells.delete(prefix);
      rung.stop();
    };
  }

  close(): void {
    for (const bell of this.#bells.values()) bell.stop();
    this.#bells.clear();
  }
}

class Bell {
  readonly listeners = new Set<() => void>();
  readonly #gateway: Gateway;
  readonly #prefix: string;
  readonly #silenceMs: number;
  readonly #stop = new AbortController();

  constructor(gateway: Gateway, prefix: string, silenceMs: number) {
    this.#gateway = gateway;
    this.#prefix = prefix;
    this.#silenceMs = silenceMs;
  }

  start(): void {
    void this.#run();
  }

  stop(): void {
    this.#stop.abort();
  }

  async #run(): Promise<void> {
    let pauseMs: number = backoffMs.first;
    while (!this.#stop.signal.aborted) {
      const opened = await this.#once();
      pauseMs = opened ? backoffMs.first : Math.min(pauseMs * 2, backoffMs.max);
      const jittered = pauseMs * (0.5 + Math.random());
      await sleep(jittered, undefined, { signal: this.#stop.signal, ref: false }).catch(() => undefined);
    }
  }

  /** Opens the stream and listens until it ends. @returns whether it had been opened */
  async #once(): Promise<boolean> {
    const key = (s: string) => Buffer.from(s, 'utf8').toString('base64');
    const create = { key: key(this.#prefix), range_end: key(prefixEnd(this.#prefix)), progress_notify: true };
    let stream;
    try {
      stream = await this.#gateway.stream('/v3/watch', { create_request: create });
    } catch {
      return false;
    }
    let opened = false;
    const { body, endpoint } = stream;
    const end = () => stream.close();
    this.#stop.signal.addEventListener('abort', end, { once: true });
    const silence = setTimeout(() => {
      this.#gateway.leave(endpoint);
      end();
    }, this.#silenceMs);
    silence.unref();
    try {
      if (this.#stop.signal.aborted) return true;
      const lines = createInterface({ input: body, crlfDelay: Infinity });
      body.on('error', () => lines.close());
      for await (const line of lines) {
        silence.refresh();
        const kind = lineKind(line);
        if (kind === 'end') {
          // No leader, compacted, cancelled: another endpoint may do better, and what was missed is read again.
          this.#gateway.leave(endpoint);
          break;
        }
        if (kind === 'ring') opened = true;
        if (kind === 'ring') this.#ring();
      }
    } catch {
      // The stream broke: the next one rings.
    } finally {
      clearTimeout(silence);
      this.#stop.signal.removeEventListener('abort', end);
      end();
    }
    return opened;
  }

  #ring(): void {
    if (this.#stop.signal.aborted) return;
    for (const listener of [...this.listeners]) listener();
  }
}

/** What a line of the watch stream means: the answer to the opening and events ring, progress does not. */
export function lineKind(line: string): 'ring' | 'quiet' | 'end' {
  if (line.length > lineMax) return 'end';
  let body: unknown;
  try {
    body = JSON.parse(line);
  } catch {
    return 'end';
  }
  if (typeof body !== 'object' || body === null || gatewayError(body) !== null) return 'end';
  const r = (body as { result?: { created?: unknown; canceled?: unknown; events?: unknown[] } }).result;
  if (r === undefined || r.canceled === true) return 'end';
  return r.created === true || (Array.isArray(r.events) && r.events.length > 0) ? 'ring' : 'quiet';
}
