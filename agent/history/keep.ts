import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { errorRecord } from '../../core/domain/error.js';
import {
  historyFields,
  historyOf,
  historySpans,
  type History,
  type HistoryField,
  type HistorySpan,
} from '../../core/domain/history.js';
import { idSchema } from '../../core/domain/schema.js';
import type { Clock, HeardNode, Log } from '../env.js';
import { putPoint, readPoints, slotTime } from './ring.js';

/** Readings are taken so often, ms: as often as nodes and VMs tell new ones. */
const lookMs = 5_000;
/** Files are looked through so often, ms. */
const tidyMs = 3_600_000;
/** A file not written to for so long has nothing left to show, ms. */
const oldMs = historySpans.month.slots * historySpans.month.stepS * 1000;
/** Nodes and VMs kept: at a quarter of a MB each, 128 MB at most. */
const subjectsMax = 512;

export const historyDir = (stateDir: string): string => path.join(stateDir, 'history');

type Reading = Readonly<Record<HistoryField, number>>;

interface Gathered {
  readonly atS: number;
  /** Time of the last reading taken: the same one is not taken twice. */
  lastMs: number;
  count: number;
  readonly sum: number[];
  readonly max: number[];
}

/**
 * Keeps how this node and its VMs fared, a file each, on this node: neither controllers nor the ledger are asked. What
 * is gathered is written every half minute; a crash loses no more than that.
 */
export class HistoryKeeper {
  readonly #dir: string;
  readonly #own: () => HeardNode | undefined;
  readonly #isVm: (id: string) => boolean | null;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #stop = new AbortController();
  readonly #gathered = new Map<string, Gathered>();
  #tidiedMs = -Infinity;
  #fault: string | null = null;
  #running: Promise<void> | null = null;

  /**
   * @param o.own - what this node says of itself
   * @param o.isVm - whether the cluster has that VM; null: nobody knows now
   */
  constructor(o: {
    dir: string;
    own: () => HeardNode | undefined;
    isVm: (id: string) => boolean | null;
    clock: Clock;
    log: Log;
  }) {
    this.#dir = o.dir;
    this.#own = o.own;
    this.#isVm = o.isVm;
    this.#clock = o.clock;
    this.#log = o.log;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Writes what is gathered, and ends. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.#guard(() => this.#write(() => true));
  }

  /** What is kept of this node (`node`) or of a VM, by its id. @throws Error of the file system */
  async read(subject: string, span: HistorySpan): Promise<History> {
    const nowS = Math.floor(this.#clock.wallMs() / 1000);
    return historyOf(span, await readPoints(this.#file(subject), span, nowS));
  }

  /** Takes readings once, and writes what is whole. */
  async look(): Promise<void> {
    const nowS = slotTime(Math.floor(this.#clock.wallMs() / 1000), 'day');
    await this.#guard(() => this.#write((g) => g.atS !== nowS));
    this.#gather(nowS);
    if (this.#clock.nowMs() - this.#tidiedMs < tidyMs) return;
    this.#tidiedMs = this.#clock.nowMs();
    await this.#guard(() => this.#tidy());
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.look();
      await this.#clock.sleep(lookMs, signal).catch(() => undefined);
    }
  }

  /** A full or broken disk ends nothing; it is told once. */
  async #guard(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const { message } = errorRecord(error);
      if (message !== this.#fault) this.#log.warn(`the history cannot be written: ${message}`);
      this.#fault = message;
    }
  }

  #gather(atS: number): void {
    const own = this.#own();
    if (own === undefined) return;
    const traffic = { diskReadBps: 0, diskWriteBps: 0, netRxBps: 0, netTxBps: 0 };
    for (const [id, { state }] of own.vms) {
      const { stats } = state;
      if (stats === null) continue;
      for (const f of Object.keys(traffic) as (keyof typeof traffic)[]) traffic[f] += stats[f];
      this.#take(id, atS, stats.atMs, stats);
    }
    const s = own.state;
    if (s !== null)
      this.#take('node', atS, s.atMs, {
        cpuPct: s.cpuUsedPct,
        memoryUsedBytes: s.memoryUsedBytes,
        ...traffic,
      });
  }

  #take(subject: string, atS: number, readMs: number, r: Reading): void {
    const now = historyFields.map((f) => r[f]);
    const had = this.#gathered.get(subject);
    if (had?.lastMs === readMs) return;
    if (had === undefined) {
      if (this.#gathered.size >= subjectsMax) return;
      this.#gathered.set(subject, { atS, lastMs: readMs, count: 1, sum: [...now], max: [...now] });
      return;
    }
    had.lastMs = readMs;
    had.count += 1;
    now.forEach((n, i) => {
      had.sum[i] = (had.sum[i] ?? 0) + n;
      had.max[i] = Math.max(had.max[i] ?? 0, n);
    });
  }

  async #write(due: (g: Gathered) => boolean): Promise<void> {
    for (const [subject, g] of this.#gathered) {
      if (!due(g)) continue;
      // First: what cannot be written is not kept in memory until it can.
      this.#gathered.delete(subject);
      await mkdir(this.#dir, { recursive: true, mode: 0o700 });
      await putPoint(this.#file(subject), { atS: g.atS, avg: g.sum.map((n) => n / g.count), max: g.max });
      this.#fault = null;
    }
  }

  /** Drops what is of deleted VMs, has nothing left to show, or is too much, the oldest first. */
  async #tidy(): Promise<void> {
    const kept: { file: string; mtimeMs: number }[] = [];
    for (const name of await readdir(this.#dir).catch(() => [])) {
      const file = path.join(this.#dir, name);
      const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: 0 }));
      const id = name.replace(/\.ring$/, '');
      const old = Math.abs(this.#clock.wallMs() - mtimeMs) > oldMs;
      if (old || (id !== 'node' && this.#isVm(id) === false)) await rm(file, { force: true });
      else if (id !== 'node') kept.push({ file, mtimeMs });
    }
    kept.sort((a, b) => b.mtimeMs - a.mtimeMs);
    for (const { file } of kept.slice(subjectsMax - 1)) await rm(file, { force: true });
  }

  #file(subject: string): string {
    return path.join(this.#dir, `${subject === 'node' ? subject : idSchema.parse(subject)}.ring`);
  }
}
