import { createHash } from 'node:crypto';
import type { z } from 'zod';
import type { Clock, Log } from '../agent/env.js';
import type { Ledger, LedgerEntry, Listing, Write } from '../agent/ledger/ledger.js';
import { errorRecord } from '../core/domain/error.js';
import { policyDefault, type Policy } from '../core/domain/ha.js';
import {
  epochKey,
  ledger as kinds,
  metaKey,
  metaSchema,
  policyKey,
  policySchema,
  readRecord,
} from '../core/wire/ledger-keys.js';
import type { RecordKind } from '../core/wire/ledger-keys.js';

/** A record as it was read: the text and the revision are what a transaction compares. */
export interface Kept<T> {
  readonly value: T;
  readonly raw: string;
  readonly modRevision: bigint;
}

/**
 * Stands for what a record says, in views and ETags. Not its revision: that one also rises where a transaction writes
 * a record again unchanged, and an author who saw the same content saw the same.
 */
export const contentMark = ({ raw }: { readonly raw: string }): string =>
  createHash('sha256').update(raw).digest('hex').slice(0, 16);

export type TableName = keyof typeof kinds;
export type RecordOf<K extends TableName> = z.output<(typeof kinds)[K]['schema']>;
type Tables = { [K in TableName]: Map<string, Kept<RecordOf<K>>> };

/** Re-read at least so often, ms: a watch is a bell, and bells get lost. */
export const refreshMs = 5_000;
/** Bells within this time ring once, ms: a busy ledger must not be read all the time. */
const gatherMs = 60;
/** Older than this, the tables are called stale, ms: two refreshes failed. */
export const staleMs = 11_000;

/** Tables that share a prefix are read together. */
const groupsOf: readonly (readonly TableName[])[] = [
  ['node'],
  ['live'],
  ['vmSpec', 'vmOwn'],
  ['disk'],
  ['vmSnapshot'],
  ['pool'],
  ['image'],
  ['network'],
  ['op'],
  ['token'],
  ['bmcTest'],
  ['balance'],
  ['rule'],
  ['class'],
  ['template'],
  ['user'],
  ['vapp'],
  ['cert'],
  ['trust'],
];

interface Group {
  readonly names: readonly TableName[];
  readonly prefix: string;
  /** The ledger's revision at the last listing; 0 before. */
  asOf: bigint;
  /** Known since this revision by our own writes: an older listing is not taken. */
  atLeast: bigint;
  readMs: number | null;
  readWallMs: number;
  error: unknown;
  running: boolean;
  again: boolean;
  timer: NodeJS.Timeout | null;
  waiting: { resolve(): void; reject(e: unknown): void }[];
  next: { resolve(): void; reject(e: unknown): void }[];
}

/**
 * The ledger's records, kept up to date by re-reading what rang. Only records whose revision changed are parsed
 * again. What cannot be read is kept apart and counted, never taken for absent.
 */
export class LedgerTables {
  readonly tables: Tables = {
    node: new Map(),
    live: new Map(),
    vmSpec: new Map(),
    vmOwn: new Map(),
    disk: new Map(),
    vmSnapshot: new Map(),
    pool: new Map(),
    image: new Map(),
    network: new Map(),
    op: new Map(),
    token: new Map(),
    user: new Map(),
    seen: new Map(),
    fenced: new Map(),
    // Never read here: they have secrets.
    bmc: new Map(),
    replica: new Map(),
    bmcTest: new Map(),
    vapp: new Map(),
    // Never read here: it has secrets.
    vappSecret: new Map(),
    balance: new Map(),
    power: new Map(),
    rule: new Map(),
    template: new Map(),
    class: new Map(),
    cert: new Map(),
    trust: new Map(),
  };
  /** Key to what is wrong with its record. */
  readonly unreadable = new Map<string, string>();
  meta: z.output<typeof metaSchema> | null = null;
  /** As last read. Unreadable: failovers are held, as the agents do then. */
  policy: Policy = policyDefault;
  /** With its text; null: nobody has set one, or it cannot be read. */
  policyKept: Omit<Kept<Policy>, 'modRevision'> | null = null;
  /** The value of the epoch key, compared in each transaction; null: the cluster has none yet. */
  epoch: string | null = null;
  private readonly ledger: Ledger;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly onChange: (table: TableName | 'meta' | 'policy', id: string) => void;
  private readonly groups: Group[];
  private policyRevision = 0n;
  private readonly unwatch: (() => void)[] = [];
  private timer: NodeJS.Timeout | null = null;
  private stopped = false;

  constructor(o: {
    ledger: Ledger;
    clock: Clock;
    log: Log;
    onChange: (table: TableName | 'meta' | 'policy', id: string) => void;
  }) {
    this.ledger = o.ledger;
    this.clock = o.clock;
    this.log = o.log;
    this.onChange = o.onChange;
    this.groups = groupsOf.map((names) => ({
      names,
      prefix: kinds[names[0] as TableName].prefix,
      asOf: 0n,
      atLeast: 0n,
      readMs: null,
      readWallMs: 0,
      error: null,
      running: false,
      again: false,
      timer: null,
      waiting: [],
      next: [],
    }));
  }

  /** Begins to watch and to read. Does not wait: {@link refresh} does. */
  start(): void {
    for (const g of this.groups) {
      this.unwatch.push(this.ledger.watch(g.prefix, () => this.ring(g)));
      this.ring(g, 0);
    }
    this.unwatch.push(this.ledger.watch(policyKey, () => void this.readPolicy()));
    void this.readMeta();
    void this.readPolicy();
    this.timer = setInterval(() => {
      for (const g of this.groups) this.ring(g, 0);
      void this.readMeta();
      void this.readPolicy();
    }, refreshMs);
  }

  stop(): void {
    this.stopped = true;
    if (this.timer !== null) clearInterval(this.timer);
    for (const end of this.unwatch) end();
    for (const g of this.groups) {
      if (g.timer !== null) clearTimeout(g.timer);
      for (const w of [...g.waiting, ...g.next]) w.resolve();
      g.waiting = [];
      g.next = [];
    }
  }

  /**
   * Reads these tables, all by default, in a reading begun after this call.
   *
   * @throws FlotillaError `ledger-unavailable`
   */
  async refresh(...names: readonly TableName[]): Promise<void> {
    const wanted = this.groups.filter((g) => names.length === 0 || g.names.some((n) => names.includes(n)));
    const readings = wanted.map(
      (g) =>
        new Promise<void>((resolve, reject) => {
          g.next.push({ resolve, reject });
          this.ring(g, 0);
        }),
    );
    if (names.length === 0) readings.push(this.readMeta(), this.readPolicy());
    await Promise.all(readings);
  }

  /** Every table was read at least once. */
  get ready(): boolean {
    return this.groups.every((g) => g.readMs !== null);
  }

  /** Age of the oldest table and the wall clock of its reading. */
  freshness(): { asOfMs: number; ageMs: number; ledger: 'ok' | 'stale' } {
    let oldest: Group | null = null;
    for (const g of this.groups) {
      if (g.readMs === null) return { asOfMs: 0, ageMs: this.clock.wallMs(), ledger: 'stale' };
      if (oldest === null || g.readMs < (oldest.readMs ?? 0)) oldest = g;
    }
    const ageMs = Math.max(0, this.clock.nowMs() - (oldest?.readMs ?? 0));
    const failing = this.groups.some((g) => g.error !== null);
    return {
      asOfMs: oldest?.readWallMs ?? 0,
      ageMs,
      ledger: failing || ageMs > staleMs ? 'stale' : 'ok',
    };
  }

  /** Everything written up to this revision of the ledger is in the table. */
  asOf(name: TableName): bigint {
    return this.groups.find((g) => g.names.includes(name))?.asOf ?? 0n;
  }

  /** The last failure to read; null: none. */
  lastError(): unknown {
    return this.groups.find((g) => g.error !== null)?.error ?? null;
  }

  /**
   * Takes over what a transaction of ours wrote at that revision, so that the answer to a change shows it.
   */
  apply(revision: bigint, writes: readonly Write[]): void {
    for (const w of writes) {
      const key = 'put' in w ? w.put : 'del' in w ? w.del : null;
      if (key === null) continue;
      if (key === policyKey && 'put' in w) this.takePolicy(w.value, revision);
      const g = this.groups.find((x) => key.startsWith(x.prefix));
      if (g === undefined) continue;
      if (revision > g.atLeast) g.atLeast = revision;
      for (const name of g.names) {
        const id = kinds[name].idOf(key);
        if (id === null) continue;
        if ('put' in w) {
          this.take(name, id, key, w.value, revision);
        } else {
          const had = this.tables[name].get(id);
          if (had !== undefined && had.modRevision <= revision) this.drop(name, id);
        }
      }
    }
  }

  private ring(g: Group, afterMs = gatherMs): void {
    if (this.stopped) return;
    if (g.running) {
      g.again = true;
      return;
    }
    if (g.timer !== null) {
      if (afterMs > 0) return;
      clearTimeout(g.timer);
    }
    g.timer = setTimeout(() => {
      g.timer = null;
      void this.read(g);
    }, afterMs);
  }

  private async read(g: Group): Promise<void> {
    g.running = true;
    g.again = false;
    g.waiting = g.next;
    g.next = [];
    const startedMs = this.clock.nowMs();
    const startedWallMs = this.clock.wallMs();
    try {
      const listing = await this.ledger.list(g.prefix);
      if (listing.revision >= g.atLeast) this.fold(g, listing);
      else g.again = true;
      if (g.error !== null) this.log.info('the ledger is read again', { prefix: g.prefix });
      g.error = null;
      g.readMs = startedMs;
      g.readWallMs = startedWallMs;
      for (const w of g.waiting) w.resolve();
    } catch (error) {
      if (g.error === null)
        this.log.warn(`the ledger cannot be read: ${errorRecord(error).message}`, { prefix: g.prefix });
      g.error = error;
      for (const w of g.waiting) w.reject(error);
    } finally {
      g.waiting = [];
      g.running = false;
      if (g.again || g.next.length > 0) this.ring(g, g.next.length > 0 ? 0 : gatherMs);
    }
  }

  private fold(g: Group, listing: Listing): void {
    if (listing.revision > g.asOf) g.asOf = listing.revision;
    const seen = new Set<string>();
    for (const e of listing.entries) {
      for (const name of g.names) {
        const id = kinds[name].idOf(e.key);
        if (id === null) continue;
        seen.add(`${name} ${id}`);
        this.takeEntry(name, id, e);
      }
    }
    for (const name of g.names) {
      for (const id of this.tables[name].keys()) if (!seen.has(`${name} ${id}`)) this.drop(name, id);
    }
    for (const key of this.unreadable.keys()) {
      if (key.startsWith(g.prefix) && !listing.entries.some((e) => e.key === key))
        this.unreadable.delete(key);
    }
  }

  private takeEntry(name: TableName, id: string, e: LedgerEntry): void {
    const had = this.tables[name].get(id);
    if (had !== undefined && had.modRevision >= e.modRevision) return;
    this.take(name, id, e.key, e.value, e.modRevision);
  }

  private take(name: TableName, id: string, key: string, raw: string, modRevision: bigint): void {
    const table = this.tables[name] as Map<string, Kept<unknown>>;
    const had = table.get(id);
    try {
      const value = readRecord(kinds[name] as RecordKind<z.ZodType>, key, raw);
      table.set(id, { value, raw, modRevision });
      this.unreadable.delete(key);
      if (had?.raw !== raw) this.onChange(name, id);
    } catch (error) {
      const record = errorRecord(error);
      if (!this.unreadable.has(key)) this.log.warn(record.message, { causes: record.causes.join(': ') });
      this.unreadable.set(key, [record.message, ...record.causes].join(': ').slice(0, 500));
      if (table.delete(id)) this.onChange(name, id);
    }
  }

  private drop(name: TableName, id: string): void {
    if (this.tables[name].delete(id)) this.onChange(name, id);
  }

  private async readPolicy(): Promise<void> {
    try {
      const { entries, revision } = await this.ledger.list(policyKey);
      this.takePolicy(entries.find((e) => e.key === policyKey)?.value ?? null, revision);
    } catch {
      // That the ledger does not answer is told by the tables.
    }
  }

  /**
   * @param raw - null: nobody has set one
   * @param revision - of the ledger when it was so: an answer that was overtaken by our own write is not taken
   */
  private takePolicy(raw: string | null, revision: bigint): void {
    if (revision < this.policyRevision) return;
    const before = JSON.stringify(this.policy);
    this.policyRevision = revision;
    try {
      const value = raw === null ? policyDefault : readRecord({ schema: policySchema }, policyKey, raw);
      this.policy = value;
      this.policyKept = raw === null ? null : { value, raw };
      this.unreadable.delete(policyKey);
    } catch (error) {
      this.policy = { ...policyDefault, ha: { ...policyDefault.ha, hold: true } };
      this.policyKept = null;
      this.unreadable.set(policyKey, errorRecord(error).message);
    }
    if (JSON.stringify(this.policy) !== before) this.onChange('policy', 'policy');
  }

  private async readMeta(): Promise<void> {
    try {
      const [meta, epoch] = await Promise.all([this.ledger.get(metaKey), this.ledger.get(epochKey)]);
      this.epoch = epoch?.value ?? null;
      if (meta === null) return;
      this.meta = readRecord({ schema: metaSchema }, metaKey, meta.value);
      this.unreadable.delete(metaKey);
      this.onChange('meta', 'meta');
    } catch (error) {
      const record = errorRecord(error);
      if (record.code === 'unreadable-record') this.unreadable.set(metaKey, record.message);
    }
  }
}
