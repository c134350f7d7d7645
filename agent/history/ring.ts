import { open, type FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import {
  coarser,
  historyFields,
  historySpans,
  type HistoryPoint,
  type HistorySpan,
} from '../../core/domain/history.js';

/** Says what the file is; another one (of another layout, or broken) is begun anew. */
const magic = Buffer.from('flotilla-history-1\n');
const headBytes = 64;
/** Time, means, highest readings, checksum: a slot that a crash tore has a wrong one, and counts as empty. */
const slotBytes = 4 + 2 * 4 * historyFields.length + 4;

const dayBytes = historySpans.day.slots * slotBytes;
/** Where the slots of a span begin. */
const beginOf = (span: HistorySpan): number => headBytes + (span === 'day' ? 0 : dayBytes);

/** Size of a file when all of it is written, bytes. It never grows beyond. */
export const historyFileBytes = headBytes + dayBytes + historySpans.month.slots * slotBytes;

/** The beginning of the time that a moment belongs to, s. */
export const slotTime = (atS: number, span: HistorySpan): number =>
  Math.floor(atS / historySpans[span].stepS) * historySpans[span].stepS;

const indexOf = (atS: number, span: HistorySpan): number =>
  (atS / historySpans[span].stepS) % historySpans[span].slots;

/**
 * Writes one point of a day into its slot, and the half hour that it belongs to, made of what the file has of that. Each
 * slot has one place, so the file is bounded, and a point written again changes nothing.
 *
 * @throws Error of the file system
 */
export async function putPoint(file: string, p: HistoryPoint): Promise<void> {
  const f = await openRing(file);
  try {
    await f.write(encode(p), 0, slotBytes, beginOf('day') + indexOf(p.atS, 'day') * slotBytes);
    const atS = slotTime(p.atS, 'month');
    const fine = historySpans.month.stepS / historySpans.day.stepS;
    // A half hour never reaches over the end of the ring: the day is a whole number of them.
    const from = beginOf('day') + indexOf(atS, 'day') * slotBytes;
    const coarse = coarser(
      atS,
      (await readSlots(f, from, fine)).filter((x) => slotTime(x.atS, 'month') === atS),
    );
    if (coarse !== null)
      await f.write(encode(coarse), 0, slotBytes, beginOf('month') + indexOf(atS, 'month') * slotBytes);
  } finally {
    await f.close();
  }
}

/** The points of a span up to now, oldest first; none where there is no such file. */
export async function readPoints(file: string, span: HistorySpan, nowS: number): Promise<HistoryPoint[]> {
  let f: FileHandle;
  try {
    f = await open(file, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  try {
    if (!(await isRing(f))) return [];
    const { stepS, slots } = historySpans[span];
    const points = await readSlots(f, beginOf(span), slots);
    // What lies ahead was written under a clock that was wrong.
    return points
      .filter((p) => p.atS <= nowS && p.atS > nowS - stepS * slots && slotTime(p.atS, span) === p.atS)
      .sort((a, b) => a.atS - b.atS);
  } finally {
    await f.close();
  }
}

async function openRing(file: string): Promise<FileHandle> {
  let f: FileHandle;
  try {
    f = await open(file, 'r+');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    f = await open(file, 'w+', 0o600);
  }
  try {
    if (await isRing(f)) return f;
    await f.truncate(0);
    await f.write(magic, 0, magic.length, 0);
    return f;
  } catch (error) {
    await f.close();
    throw error;
  }
}

async function isRing(f: FileHandle): Promise<boolean> {
  const head = Buffer.alloc(magic.length);
  await f.read(head, 0, head.length, 0);
  return head.equals(magic);
}

async function readSlots(f: FileHandle, from: number, count: number): Promise<HistoryPoint[]> {
  const bytes = Buffer.alloc(count * slotBytes);
  const { bytesRead } = await f.read(bytes, 0, bytes.length, from);
  const out: HistoryPoint[] = [];
  for (let at = 0; at + slotBytes <= bytesRead; at += slotBytes) {
    const p = decode(bytes.subarray(at, at + slotBytes));
    if (p !== null) out.push(p);
  }
  return out;
}

function encode(p: HistoryPoint): Buffer {
  const out = Buffer.alloc(slotBytes);
  out.writeUInt32LE(p.atS, 0);
  [...p.avg, ...p.max].forEach((n, i) => out.writeFloatLE(n, 4 + 4 * i));
  out.writeUInt32LE(crc32(out.subarray(0, slotBytes - 4)), slotBytes - 4);
  return out;
}

function decode(slot: Buffer): HistoryPoint | null {
  const atS = slot.readUInt32LE(0);
  if (atS === 0 || slot.readUInt32LE(slotBytes - 4) !== crc32(slot.subarray(0, slotBytes - 4))) return null;
  const numbers = Array.from({ length: 2 * historyFields.length }, (_, i) => slot.readFloatLE(4 + 4 * i));
  // Written by us, but the file may be anybody's.
  if (numbers.some((n) => !Number.isFinite(n) || n < 0)) return null;
  return { atS, avg: numbers.slice(0, historyFields.length), max: numbers.slice(historyFields.length) };
}
