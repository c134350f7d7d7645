import net from 'node:net';
import { errorFromRecord, FlotillaError } from '../core/domain/error.js';
import type { Health } from '../core/domain/node.js';
import type { TimingProfile } from '../core/domain/timing.js';
import { liveKey } from '../core/wire/key-names.js';
import type { Arming, Clock, Keeper, KeeperState, Liveness, Log } from './env.js';
import {
  lines,
  monotonicMs,
  readFromKeeper,
  stateOf,
  type FromKeeper,
  type ToKeeper,
} from './keeper/protocol.js';
import type { Compare } from './ledger/ledger.js';

/** The keeper is back 0.2 s after its death: so often it is looked for, ms. */
const reconnectMs = 100;

export interface KeeperLinkDeps {
  readonly path: string;
  readonly node: string;
  readonly timing: TimingProfile;
  readonly clock: Clock;
  readonly log: Log;
}

type Answer = Extract<FromKeeper, { waitMs: number } | { holds: boolean }>;

interface Question {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

/** The agent's side of the keeper: its state as it pushes it, and what is asked of it. */
export class KeeperLink implements Keeper, Liveness {
  readonly #d: KeeperLinkDeps;
  readonly #stop = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #questions = new Map<number, Question>();
  #socket: net.Socket | null = null;
  #state: KeeperState | null = null;
  /** {@link KeeperState} as last told to listeners, without what changes all the time. */
  #told = '';
  #next = 0;
  #running: Promise<void> | null = null;

  constructor(d: KeeperLinkDeps) {
    this.#d = d;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopped'));
    this.#socket?.destroy();
    await this.#running;
  }

  state(): KeeperState | null {
    const s = this.#state;
    if (s === null || s.goodMs === null) return s;
    // From the machine's monotonic clock to this process's.
    return { ...s, goodMs: this.#d.clock.nowMs() - (monotonicMs() - s.goodMs) };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The live key of this boot, while the last good renewal is young enough to count on. */
  compare(): Compare | null {
    const mine = this.mine();
    return mine === null ? null : { key: liveKey(this.#d.node), createRevision: mine.createRevision };
  }

  mine(): { readonly createRevision: bigint } | null {
    const s = this.#state;
    if (s?.mode !== 'run' || s.goodMs === null || s.createRevision === null) return null;
    if (monotonicMs() - s.goodMs >= this.#d.timing.renewalGoodMs) return null;
    return { createRevision: s.createRevision };
  }

  /** The lease to bind what must end with this node to; null while it has none. */
  lease(): string | null {
    return this.mine() === null ? null : (this.#state?.lease ?? null);
  }

  health(): Health {
    const s = this.#state;
    if (s === null) return { part: 'keeper', ok: false, text: 'it does not answer' };
    const mode = s.mode === 'run' ? '' : 'no good renewal of the lease';
    const text = [mode, s.text].filter((x) => x !== '').join(': ');
    return { part: 'keeper', ok: text === '', text };
  }

  /** The agent's loop finished a pass. */
  beat(): void {
    this.#send({ beat: true });
  }

  async arm(vmId: string, o: Arming): Promise<{ readonly waitMs: number }> {
    const a = await this.#ask((id) => ({ id, arm: vmId, ...o }));
    return { waitMs: 'waitMs' in a ? a.waitMs : 0 };
  }

  async holds(vmId: string): Promise<boolean> {
    const a = await this.#ask((id) => ({ id, holds: vmId }));
    return 'holds' in a && a.holds;
  }

  async disarm(vmId: string): Promise<void> {
    await this.#ask((id) => ({ id, disarm: vmId }));
  }

  async #ask(question: (id: number) => ToKeeper): Promise<Answer> {
    const id = this.#next++;
    const { clock, timing } = this.#d;
    // Its answer follows the next renewal; a node that has none for this long is not in RUN any more.
    const limit = new AbortController();
    const limitMs = timing.renewalGoodMs * 2;
    try {
      return await new Promise<Answer>((resolve, reject) => {
        this.#questions.set(id, { resolve, reject });
        if (!this.#send(question(id))) reject(silent('it is not there'));
        clock.sleep(limitMs, limit.signal).then(
          () => reject(silent(`no answer within ${limitMs / 1000} s`)),
          () => undefined,
        );
      });
    } finally {
      limit.abort();
      this.#questions.delete(id);
    }
  }

  #send(m: ToKeeper): boolean {
    return this.#socket?.write(`${JSON.stringify(m)}\n`) !== undefined;
  }

  async #run(): Promise<void> {
    const signal = this.#stop.signal;
    let said = false;
    while (!signal.aborted) {
      const was = await this.#connection();
      this.#socket = null;
      this.#state = null;
      for (const q of [...this.#questions.values()]) q.reject(silent('it ended'));
      this.#tell();
      if (was || !said) this.#d.log.warn('the keeper is not there');
      said = true;
      await this.#d.clock.sleep(reconnectMs, signal).catch(() => undefined);
    }
  }

  /** One connection, until it ends. @returns whether there was one */
  #connection(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = net.connect(this.#d.path);
      let connected = false;
      if (this.#stop.signal.aborted) socket.destroy();
      const take = lines((line) => {
        const m = readFromKeeper(line);
        if (m !== null) this.#take(m);
      });
      this.#socket = socket;
      socket.setEncoding('utf8');
      socket.on('connect', () => (connected = true));
      socket.on('error', () => socket.destroy());
      socket.on('close', () => resolve(connected));
      socket.on('data', (piece: string) => {
        try {
          take(piece);
        } catch {
          socket.destroy();
        }
      });
    });
  }

  #take(m: FromKeeper): void {
    if ('state' in m) {
      this.#state = stateOf(m.state);
      this.#tell();
      return;
    }
    const q = this.#questions.get(m.re);
    if (q === undefined) return;
    if ('error' in m) q.reject(errorFromRecord(m.error));
    else q.resolve(m);
  }

  #tell(): void {
    const { goodMs: _, createRevision, ...rest } = this.#state ?? { goodMs: 0, createRevision: null };
    const now = JSON.stringify({
      ...rest,
      createRevision: createRevision?.toString(),
      there: this.#state !== null,
    });
    if (now === this.#told) return;
    this.#told = now;
    for (const l of [...this.#listeners]) l();
  }
}

function silent(cause: string): FlotillaError {
  return new FlotillaError('not-armable', "This node's keeper does not answer", {
    hint: 'Look at "journalctl -u flotilla-keeper".',
    cause: new Error(cause),
  });
}
