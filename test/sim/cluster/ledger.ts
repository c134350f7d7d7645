import type { KeeperLedger } from '../../../agent/keeper/env.js';
import {
  checkTxn,
  type Compare,
  type Ledger,
  type LedgerEntry,
  type Listing,
  type TxnResult,
  type Write,
} from '../../../agent/ledger/ledger.js';
import { FlotillaError } from '../../../core/domain/error.js';
import { liveKey } from '../../../core/wire/key-names.js';
import { MemoryLedger } from '../memory-ledger.js';
import { Wanted, type SimNetwork } from './net.js';
import type { Rng } from './rng.js';
import type { Process, SimTime } from './time.js';

/** A new leader is elected so long after the old one went, ms: measured 1.3 s, spread by the timers of etcd. */
const electionMs = [1_000, 1_700] as const;
/** A leader that was cut off answers keepalives for up to two election timeouts, ms (measured). */
const deposedMs = 2_000;
/** A watch is back so long after the network is, ms. */
const watchBackMs = 1_000;

/** What the network and the voters do to calls now. */
export interface Weather {
  /** Share of calls whose answer is lost: done, and unknown. */
  lostAnswers: number;
  /** Share of calls that never arrive. */
  lostCalls: number;
  /** Share of calls that arrive long after their caller gave up, and are done then. */
  late: number;
  /** Added to each way, ms. */
  longMs: number;
  /** Added to each way, ms, at most. */
  slowMs: number;
  /** Watches say nothing. */
  silent: boolean;
}

const fair: Weather = { lostAnswers: 0, lostCalls: 0, late: 0, longMs: 0, slowMs: 0, silent: false };

/** etcd as its clients meet it: voters on some of the nodes, a leader while a majority is connected. */
export class SimVoters {
  readonly store: MemoryLedger;
  weather: Weather = fair;
  readonly #weathers = new Set<Partial<Weather>>();
  leader: string | null;
  readonly voters: readonly string[];
  readonly #down = new Wanted();
  readonly #time: SimTime;
  readonly #net: SimNetwork;
  readonly #rng: Rng;
  #deposed: { readonly node: string; readonly untilMs: number } | null = null;
  #electing = false;
  /** Called by {@link changed} for watches that were cut off. */
  readonly #bells = new Set<() => void>();

  constructor(o: { voters: readonly string[]; time: SimTime; net: SimNetwork; rng: Rng }) {
    this.voters = o.voters;
    this.#time = o.time;
    this.#net = o.net;
    this.#rng = o.rng;
    this.leader = o.voters[0] ?? null;
    const { time } = o;
    this.store = new MemoryLedger({
      nowMs: () => time.nowMs,
      wallMs: () => time.nowMs,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          const fail = (): void => {
            cancel();
            reject(signal?.reason as Error);
          };
          const cancel = time.after(ms, () => {
            signal?.removeEventListener('abort', fail);
            resolve();
          });
          signal?.addEventListener('abort', fail, { once: true });
        }),
    });
  }

  up(voter: string): boolean {
    return !this.#down.has(voter) && this.#net.reaches(voter, voter);
  }

  /** etcd on that node dies. @returns a function that brings it back */
  stop(voter: string): () => void {
    const back = this.#down.add(voter);
    this.changed();
    return () => {
      back();
      this.changed();
    };
  }

  /** Of weathers at the same time the worst of each counts. @returns a function that ends it */
  addWeather(w: Partial<Weather>): () => void {
    this.#weathers.add(w);
    const sum = (): void => {
      const next = { ...fair };
      for (const x of this.#weathers) {
        next.lostAnswers = Math.max(next.lostAnswers, x.lostAnswers ?? 0);
        next.lostCalls = Math.max(next.lostCalls, x.lostCalls ?? 0);
        next.late = Math.max(next.late, x.late ?? 0);
        next.longMs = Math.max(next.longMs, x.longMs ?? 0);
        next.slowMs = Math.max(next.slowMs, x.slowMs ?? 0);
        next.silent ||= x.silent === true;
      }
      this.weather = next;
    };
    sum();
    return () => {
      this.#weathers.delete(w);
      sum();
    };
  }

  /** All voters run, and the weather is fair. */
  mend(): void {
    this.#down.clear();
    this.#weathers.clear();
    this.weather = fair;
    this.changed();
  }

  #leads(voter: string): boolean {
    if (!this.up(voter)) return false;
    const with_ = this.voters.filter((v) => this.up(v) && this.#net.both(voter, v)).length;
    return with_ > this.voters.length / 2;
  }

  /** The network or a voter changed. */
  changed(): void {
    if (this.leader !== null && !this.#leads(this.leader)) {
      if (this.up(this.leader)) this.#deposed = { node: this.leader, untilMs: this.#time.nowMs + deposedMs };
      this.leader = null;
      this.store.quorum = false;
    }
    if (this.leader === null && !this.#electing) {
      this.#electing = true;
      this.#time.after(this.#rng.between(...electionMs), () => {
        this.#electing = false;
        const able = this.voters.filter((v) => this.#leads(v));
        if (able.length === 0) return; // the next change tries again
        const next = this.#rng.pick(able);
        this.leader = next;
        this.store.quorum = true;
        this.store.prolong();
        this.#ringAll();
      });
    }
    this.#time.after(watchBackMs, () => this.#ringAll());
  }

  #ringAll(): void {
    for (const ring of [...this.#bells]) ring();
  }

  /** This node reaches a voter that leads, or can be elected. */
  canServe(node: string): boolean {
    return this.voters.some((v) => this.#leads(v) && this.#net.both(node, v));
  }

  /** A voter that this node can ask now, and that can answer it. */
  serves(node: string): boolean {
    const { leader } = this;
    if (leader === null) return false;
    return this.voters.some(
      (v) => this.up(v) && this.#net.reaches(node, v) && (v === leader || this.#net.both(v, leader)),
    );
  }

  /** One whose answer also finds the way back. */
  answers(node: string): boolean {
    const { leader } = this;
    if (leader === null) return false;
    return this.voters.some(
      (v) => this.up(v) && this.#net.both(node, v) && (v === leader || this.#net.both(v, leader)),
    );
  }

  /** A deposed leader still tells this node that its lease lives. */
  deceives(node: string): boolean {
    const d = this.#deposed;
    return d !== null && d.untilMs > this.#time.nowMs && this.up(d.node) && this.#net.both(node, d.node);
  }

  wayMs(): number {
    const { longMs, slowMs } = this.weather;
    return longMs + this.#rng.between(1, 6) + (slowMs > 0 ? this.#rng.below(slowMs) : 0);
  }

  /** @returns a function that ends it */
  bell(node: string, prefix: string, wake: () => void): () => void {
    const ring = (): void => {
      if (this.weather.silent || !this.answers(node)) return;
      this.#time.after(this.wayMs(), wake);
    };
    this.#bells.add(ring);
    const end = this.store.addWatch(prefix, ring);
    ring();
    return () => {
      this.#bells.delete(ring);
      end();
    };
  }

  get nowMs(): number {
    return this.#time.nowMs;
  }

  chance(p: number): boolean {
    return p > 0 && this.#rng.chance(p);
  }

  after(ms: number): Promise<void> {
    return new Promise((resolve) => this.#time.after(ms, resolve));
  }
}

/** One process's client of the ledger. */
export class SimLedger implements Ledger, KeeperLedger {
  readonly #voters: SimVoters;
  readonly #node: string;
  readonly #deadlineMs: number;
  readonly #by: string;
  /** When this process's node was last seen alive by a reading, or made so, in the ledger itself, ms. */
  aliveMs = -Infinity;

  constructor(voters: SimVoters, node: string, process: Process, deadlineMs: number) {
    this.#voters = voters;
    this.#node = node;
    this.#deadlineMs = deadlineMs;
    this.#by = process.name;
  }

  get(key: string): Promise<LedgerEntry | null> {
    return this.#call('read', () => this.#voters.store.peek(key));
  }

  list(prefix: string): Promise<Listing> {
    const { store } = this.#voters;
    return this.#call('read', () => ({ entries: store.peekAll(prefix), revision: store.revision }));
  }

  read(keys: readonly string[]): Promise<ReadonlyMap<string, LedgerEntry>> {
    return this.#call('read', () => {
      const found = keys.flatMap((k) => this.#voters.store.peek(k) ?? []);
      if (found.some((e) => e.key === liveKey(this.#node))) this.aliveMs = this.#voters.nowMs;
      return new Map(found.map((e) => [e.key, e]));
    });
  }

  async txn(compare: readonly Compare[], writes: readonly Write[]): Promise<TxnResult> {
    checkTxn(compare, writes);
    return this.#call('write', () => {
      const r = this.#voters.store.txn(compare, writes, this.#by);
      if (r.done && writes.some((w) => 'put' in w && w.put === liveKey(this.#node)))
        this.aliveMs = this.#voters.nowMs;
      return r;
    });
  }

  watch(prefix: string, wake: () => void): () => void {
    return this.#voters.bell(this.#node, prefix, wake);
  }

  grantLease(ttlS: number): Promise<string> {
    return this.#call('write', () => this.#voters.store.grant(ttlS));
  }

  keepAlive(lease: string): Promise<number> {
    if (!this.#voters.answers(this.#node) && this.#voters.deceives(this.#node))
      return this.#voters.after(this.#voters.wayMs()).then(() => 3);
    return this.#call('write', () => this.#voters.store.keepAlive(lease));
  }

  async revokeLease(lease: string): Promise<void> {
    await this.#call('write', () => this.#voters.store.revoke(lease));
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }

  async #call<T>(kind: 'read' | 'write', act: () => T): Promise<T> {
    const v = this.#voters;
    const { weather } = v;
    let leftMs = this.#deadlineMs;
    const spend = async (ms: number): Promise<void> => {
      leftMs -= ms;
      await v.after(ms);
    };
    const fail = async (outcome: 'unknown' | 'not-sent'): Promise<never> => {
      if (leftMs > 0) await v.after(leftMs);
      throw new FlotillaError('ledger-unavailable', 'The ledger did not answer', {
        hint: 'The simulator cut it off.',
        details: { outcome },
      });
    };
    await spend(v.wayMs());
    if (v.chance(weather.lostCalls)) return fail(kind === 'write' ? 'unknown' : 'not-sent');
    if (v.chance(weather.late)) {
      void v.after(leftMs + v.wayMs() * 300).then(() => {
        if (!v.serves(this.#node)) return;
        try {
          act();
        } catch {
          // nobody is left to be told
        }
      });
      return fail(kind === 'write' ? 'unknown' : 'not-sent');
    }
    // A member without a leader holds the call: it may be served when there is one again.
    while (!v.serves(this.#node)) {
      if (leftMs <= 250) return fail(kind === 'write' ? 'unknown' : 'not-sent');
      await spend(200);
    }
    if (leftMs <= 0) return fail('unknown');
    const result = act();
    if (v.chance(weather.lostAnswers) || !v.answers(this.#node)) return fail('unknown');
    await spend(v.wayMs());
    if (!v.answers(this.#node) || leftMs < 0) return fail('unknown');
    return result;
  }
}
