import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { JournalEntry } from '../../core/domain/ha.js';

// No npm packages here: the keeper reads the journal with this, and has none.

/** The node's ownership journal: lines of JSON, the newest last. */
export const journalFile = (stateDir: string): string => path.join(stateDir, 'journal');

/** A journal as read. */
export interface JournalRead {
  /** By VM: the entry of the highest epoch and generation; of equal ones the later line. */
  readonly last: ReadonlyMap<string, JournalEntry>;
  /** Whole lines that are no entry, as they stand there. Shown, and never taken for nothing. */
  readonly unreadable: readonly string[];
  /** Whole lines. */
  readonly lines: number;
  /** Bytes up to the end of the last whole entry; what follows was being written when the machine went down. */
  readonly soundBytes: number;
}

/** Whether `a` was written about a later time than `b`, or the same. */
export const notOlder = (
  a: Pick<JournalEntry, 'epoch' | 'gen'>,
  b: Pick<JournalEntry, 'epoch' | 'gen'>,
): boolean => a.epoch > b.epoch || (a.epoch === b.epoch && a.gen >= b.gen);

/** @returns an empty journal where there is none yet @throws Error where there is one that cannot be read */
export async function readJournal(file: string): Promise<JournalRead> {
  try {
    return parseJournal(await readFile(file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return parseJournal(Buffer.alloc(0));
  }
}

/** A last line without an end was never acknowledged: it counts where it is whole, and is dropped where it is not. */
export function parseJournal(bytes: Buffer): JournalRead {
  const text = bytes.toString('utf8');
  const end = text.lastIndexOf('\n') + 1;
  const last = new Map<string, JournalEntry>();
  const unreadable: string[] = [];
  let lines = 0;
  const take = (line: string): boolean => {
    const entry = journalEntry(line);
    if (entry === null) return false;
    const before = last.get(entry.vm);
    if (before === undefined || notOlder(entry, before)) last.set(entry.vm, entry);
    return true;
  };
  for (const line of text.slice(0, end).split('\n')) {
    if (line === '') continue;
    lines++;
    if (!take(line)) unreadable.push(line);
  }
  const whole = end < text.length && take(text.slice(end));
  if (whole) lines++;
  const soundBytes = whole ? bytes.length : bytes.lastIndexOf('\n') + 1;
  return { last, unreadable, lines, soundBytes };
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const nodeId = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/;
const counts = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) > 0;

/** One line, or null where it is no entry. Fields of later programs are kept. */
export function journalEntry(line: string): JournalEntry | null {
  let e: Partial<JournalEntry> | null;
  try {
    e = JSON.parse(line) as Partial<JournalEntry> | null;
  } catch {
    return null;
  }
  if (typeof e !== 'object' || e === null) return null;
  const good =
    typeof e.vm === 'string' &&
    uuid.test(e.vm) &&
    counts(e.gen) &&
    counts(e.epoch) &&
    typeof e.owner === 'string' &&
    nodeId.test(e.owner) &&
    (e.role === 'owner' || e.role === 'standby' || e.role === 'none');
  return good ? (e as JournalEntry) : null;
}
