import { open, truncate } from 'node:fs/promises';
import path from 'node:path';
import { FlotillaError } from '../../core/domain/error.js';
import type { JournalEntry } from '../../core/domain/ha.js';
import type { Health } from '../../core/domain/node.js';
import type { Journal } from '../env.js';
import { syncDir, writeFileDurably } from '../pki/files.js';
import { notOlder, readJournal } from './read.js';

/** Lines beyond those needed after which the file is written anew: about 150 kB. */
const spareLinesMax = 1_000;
/** VMs this node has nothing to do with any more, deleted ones too: the newest so many stay, about 1 MB. */
export const formerMax = 5_000;
/** Lines that nobody can read: the newest so many stay for a person. */
const unreadableMax = 100;

/** What a page shows of it. */
export interface JournalState {
  readonly vms: number;
  readonly unreadable: number;
  /** Why the last entry could not be written; null: it could. */
  readonly failure: string | null;
}

interface Waiting {
  readonly entry: JournalEntry;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

/**
 * The ownership journal as a file. An entry is on the disk when {@link record} returns; entries that come while the
 * disk works are written together. After a crash the file ends with whole lines, or with one that nobody was told of.
 */
export class FileJournal implements Journal {
  readonly #file: string;
  readonly #last = new Map<string, JournalEntry>();
  #unreadable: readonly string[] = [];
  #lines = 0;
  #read = false;
  #failure: string | null = null;
  #waiting: Waiting[] = [];
  #writing = false;

  constructor(file: string) {
    this.#file = file;
  }

  /**
   * Reads it, for the one process that writes; a torn end is cut off. Where that fails, {@link record} tries again
   * each time: without the journal no VM starts, but the node's page is there to say so.
   *
   * @throws Error where it cannot be read
   */
  async start(): Promise<void> {
    try {
      const read = await readJournal(this.#file);
      await this.#mend(read.soundBytes);
      for (const [vm, e] of read.last) this.#last.set(vm, e);
      this.#unreadable = read.unreadable;
      this.#lines = read.lines;
      if (this.#isLong()) await this.#compact();
      this.#read = true;
      this.#failure = null;
    } catch (error) {
      this.#failure = error instanceof Error ? error.message : String(error);
      throw error;
    }
  }

  record(entry: JournalEntry): Promise<void> {
    return new Promise((done, failed) => {
      this.#waiting.push({ entry, done, failed });
      if (!this.#writing) void this.#work();
    });
  }

  /** Last entries, by VM. @throws FlotillaError `unreadable-record`: the file could not be read */
  entries(): readonly JournalEntry[] {
    if (!this.#read) {
      throw new FlotillaError('unreadable-record', `The ownership journal ${this.#file} cannot be read`, {
        hint: 'Is the disk failing? What this node knows is missing from a recovery.',
        cause: this.#failure,
      });
    }
    return [...this.#last.values()].sort((a, b) => (a.vm < b.vm ? -1 : 1));
  }

  get unreadable(): readonly string[] {
    return this.#unreadable;
  }

  state(): JournalState {
    return { vms: this.#last.size, unreadable: this.#unreadable.length, failure: this.#failure };
  }

  async #work(): Promise<void> {
    this.#writing = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        await this.#write(batch.map((w) => w.entry));
        this.#failure = null;
        for (const w of batch) w.done();
      } catch (cause) {
        const error = new FlotillaError('internal', `The ownership journal ${this.#file} cannot be written`, {
          hint: 'No VM is started here without it. Is the disk full or failing?',
          cause,
        });
        this.#failure = cause instanceof Error ? cause.message : String(cause);
        for (const w of batch) w.failed(error);
      }
    }
    this.#writing = false;
  }

  async #write(batch: readonly JournalEntry[]): Promise<void> {
    if (!this.#read) await this.start();
    // After a failure the kernel may have dropped what it had: the file is written whole again.
    const suspect = this.#failure !== null;
    const fresh: JournalEntry[] = [];
    const after = new Map(this.#last);
    for (const e of batch) {
      const before = after.get(e.vm);
      if (before !== undefined && same(before, e)) continue;
      fresh.push(e);
      if (before === undefined || notOlder(e, before)) after.set(e.vm, e);
    }
    if (fresh.length === 0 && !suspect) return;
    if (suspect) await this.#compact(after);
    else await this.#append(fresh);
    for (const [vm, e] of after) this.#last.set(vm, e);
    if (this.#isLong()) await this.#compact();
  }

  async #append(entries: readonly JournalEntry[]): Promise<void> {
    const handle = await open(this.#file, 'a', 0o600);
    let isNew: boolean;
    try {
      isNew = (await handle.stat()).size === 0;
      await handle.writeFile(entries.map((e) => `${JSON.stringify(e)}\n`).join(''));
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (isNew) await syncDir(path.dirname(this.#file));
    this.#lines += entries.length;
  }

  #isLong(): boolean {
    return this.#lines > this.#last.size + this.#unreadable.length + spareLinesMax;
  }

  /** Writes only what is needed: the last entry of each VM, former ones first so that the oldest go first. */
  async #compact(last: ReadonlyMap<string, JournalEntry> = this.#last): Promise<void> {
    const all = [...last.values()];
    const former = all.filter((e) => e.role === 'none').slice(-formerMax);
    const kept = [...former, ...all.filter((e) => e.role !== 'none')];
    const unreadable = this.#unreadable.slice(-unreadableMax);
    const lines = [...unreadable, ...kept.map((e) => JSON.stringify(e))];
    await writeFileDurably(this.#file, lines.map((l) => `${l}\n`).join(''));
    this.#last.clear();
    for (const e of kept) this.#last.set(e.vm, e);
    this.#unreadable = unreadable;
    this.#lines = lines.length;
  }

  /** Cuts a half line off, so that the next entry does not stand behind it; ends a whole one that lacks its end. */
  async #mend(soundBytes: number): Promise<void> {
    const handle = await open(this.#file, 'r').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    });
    if (handle === null) return;
    let size: number;
    const end = Buffer.alloc(1);
    try {
      size = (await handle.stat()).size;
      if (soundBytes > 0) await handle.read(end, 0, 1, soundBytes - 1);
    } finally {
      await handle.close();
    }
    if (size > soundBytes) await truncate(this.#file, soundBytes);
    if (soundBytes > 0 && end.toString() !== '\n') await this.#appendEnd();
  }

  async #appendEnd(): Promise<void> {
    const handle = await open(this.#file, 'a');
    try {
      await handle.writeFile('\n');
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

/** Its lines in the node's health: nothing while well. */
export function journalHealth(s: JournalState): Health[] {
  const text =
    s.failure !== null
      ? `the ownership journal fails (${s.failure}): no VM starts here`
      : s.unreadable > 0
        ? `${s.unreadable} lines of the ownership journal cannot be read`
        : '';
  return text === '' ? [] : [{ part: 'journal', ok: false, text: text.slice(0, 500) }];
}

const same = (a: JournalEntry, b: JournalEntry): boolean => sorted(a) === sorted(b);
const sorted = (e: JournalEntry): string =>
  JSON.stringify(Object.entries(e).sort(([a], [b]) => (a < b ? -1 : 1)));
