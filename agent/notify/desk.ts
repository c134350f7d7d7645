import type { z } from 'zod';
import { decideNotify, incidentsOf, notifyMemoryNone, type NotifyView } from '../../core/decide/notify.js';
import { errorRecord } from '../../core/domain/error.js';
import { silentAfterMs } from '../../core/domain/node.js';
import {
  notificationWords,
  notifySettingsSchema,
  notifyStateNone,
  notifyStateSchema,
  notifyTestSchema,
  type NotifySettings,
  type NotifyState,
  type Sent,
} from '../../core/domain/notify.js';
import {
  epochKey,
  leadKey,
  notifyKey,
  notifyStateKey,
  notifyTestKey,
  readRecord,
  writeRecord,
} from '../../core/wire/ledger-keys.js';
import type { Clock, Log } from '../env.js';
import type { Compare, Ledger } from '../ledger/ledger.js';
import { send as sendNow, type Message, type Way } from './send.js';

/** Incidents are looked for so often, ms. */
const lookMs = 5_000;
/** After a failure to send it is tried again, ms; so often, then it is given up and stands on the page. */
const againMs = 60_000;
const triesMax = 30;

export interface NotifyDeps {
  readonly node: string;
  /** Whether this node does what one does for all. */
  readonly leads: () => boolean;
  /** Null: the ledger cannot be read now. */
  readonly view: () => { readonly view: NotifyView; readonly cluster: string; readonly epoch: number } | null;
  readonly ledger: Pick<Ledger, 'get' | 'txn'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly send?: typeof sendNow;
}

interface Read<T> {
  readonly value: T;
  readonly at: Compare;
}

/** Tells people what they should know of: by the leader, once, gathered. */
export class NotifyDesk {
  readonly #d: NotifyDeps;
  readonly #stop = new AbortController();
  #memory = notifyMemoryNone;
  #tries = 0;
  /** Ways by which the one in the outbox was sent: it is not sent twice because another way fails. */
  #sent: readonly Way[] = [];
  #triedMs = -Infinity;
  #running: Promise<void> | null = null;

  constructor(d: NotifyDeps) {
    this.#d = d;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#d;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.look().catch((e: unknown) => log.warn(`notifications: ${errorRecord(e).message}`));
      await clock.sleep(lookMs, signal).catch(() => undefined);
    }
  }

  /** One look, and what follows from it. @throws FlotillaError `ledger-unavailable` */
  async look(): Promise<void> {
    const { clock, ledger, node } = this.#d;
    const seen = this.#d.leads() ? this.#d.view() : null;
    if (seen === null) {
      this.#memory = notifyMemoryNone;
      return;
    }
    const settings = await this.#read(notifyKey, notifySettingsSchema);
    const set = settings.value;
    if (set === null || (set.mail === null && set.webhook === null)) {
      this.#memory = notifyMemoryNone;
      return;
    }
    // Others may lead since this node last looked.
    if ((await ledger.get(leadKey('voters')))?.value !== node) return;
    await this.#test(seen, set);
    const { value, at } = await this.#read(notifyStateKey, notifyStateSchema);
    const state = value ?? notifyStateNone;
    if (state.outbox !== null) return this.#deliver(seen, set, state, at);
    const { view } = seen;
    const decided = decideNotify({
      state,
      memory: this.#memory,
      now: incidentsOf(view, clock.wallMs()),
      silent: new Set(
        view.nodes
          .map((n) => n.id)
          .filter((id) => {
            const h = view.heard.find((x) => x.node === id);
            return h === undefined || h.state === null || (h.beatAgeMs ?? Infinity) > silentAfterMs;
          }),
      ),
      nowMs: clock.nowMs(),
      wallMs: clock.wallMs(),
    });
    this.#memory = decided.memory;
    if (decided.state === null) return;
    this.#fresh();
    const raw = await this.#write(seen.epoch, at, decided.state);
    if (raw !== null && decided.state.outbox !== null)
      await this.#deliver(seen, set, decided.state, { key: notifyStateKey, value: raw });
  }

  async #deliver(
    seen: { readonly cluster: string; readonly epoch: number },
    set: NotifySettings,
    state: NotifyState,
    at: Compare,
  ): Promise<void> {
    const { clock, log } = this.#d;
    if (state.outbox === null || clock.nowMs() - this.#triedMs < againMs) return;
    this.#triedMs = clock.nowMs();
    this.#tries += 1;
    const { began, over, more, atMs } = state.outbox;
    const data = { cluster: seen.cluster, atMs, began, over, more };
    const left = Object.fromEntries(
      Object.entries(set).map(([way, to]) => [way, this.#sent.includes(way as Way) ? null : (to as unknown)]),
    ) as NotifySettings;
    const { last, sent } = await this.#send(left, {
      ...notificationWords(seen.cluster, state.outbox),
      data,
    });
    this.#sent = [...this.#sent, ...sent];
    if (!last.ok) log.warn(`a notification could not be sent: ${last.text}`);
    if (last.ok || this.#tries >= triesMax) {
      this.#fresh();
      await this.#write(seen.epoch, at, { ...state, outbox: null, last });
    } else await this.#write(seen.epoch, at, { ...state, last });
  }

  async #test(
    seen: { readonly cluster: string; readonly epoch: number },
    set: NotifySettings,
  ): Promise<void> {
    const test = await this.#read(notifyTestKey, notifyTestSchema);
    if (test.value === null || test.value.result !== null) return;
    const { cluster } = seen;
    const by = test.value.askedBy;
    const { last: result } = await this.#send(set, {
      subject: `[${cluster}] a test`,
      text: `${by} wanted to see whether notifications of cluster ${cluster} arrive. They do.`,
      data: { cluster, test: true },
    });
    const value = writeRecord({ schema: notifyTestSchema }, { ...test.value, result });
    await this.#d.ledger.txn(
      [test.at, { key: epochKey, value: String(seen.epoch) }],
      [{ put: notifyTestKey, value }],
    );
  }

  /** What comes next was not tried yet. */
  #fresh(): void {
    this.#tries = 0;
    this.#triedMs = -Infinity;
    this.#sent = [];
  }

  async #send(set: NotifySettings, m: Message): Promise<{ last: Sent; sent: Way[] }> {
    const faults = await (this.#d.send ?? sendNow)(set, m);
    const words = Object.values(faults);
    const text = words.length === 0 ? 'sent' : words.join('; ').slice(0, 300);
    const { node, clock } = this.#d;
    return {
      last: { by: node, atMs: clock.wallMs(), ok: words.length === 0, text },
      sent: (['mail', 'webhook'] as const).filter((w) => set[w] !== null && faults[w] === undefined),
    };
  }

  /** @throws FlotillaError `unreadable-record`: nothing is told rather than told twice */
  async #read<S extends z.ZodType>(key: string, schema: S): Promise<Read<z.output<S> | null>> {
    const e = await this.#d.ledger.get(key);
    if (e === null) return { value: null, at: { key, modRevision: 0n } };
    return { value: readRecord({ schema }, key, e.value), at: { key, modRevision: e.modRevision } };
  }

  /** @returns what was written; null: somebody else was faster */
  async #write(epoch: number, at: Compare, state: NotifyState): Promise<string | null> {
    const value = writeRecord({ schema: notifyStateSchema }, state);
    const r = await this.#d.ledger.txn(
      [at, { key: epochKey, value: String(epoch) }],
      [{ put: notifyStateKey, value }],
    );
    return r.done ? value : null;
  }
}
