import type { RadioKind, RadioPayload } from '../../core/wire/radio.js';

/** A retained line is said at most so often. */
export const sayEveryMs = 1_000;
/** Where only gauges moved (load, free bytes, rates), at most so often: they are old news in any case. */
export const gaugesEveryMs = 5_000;
/** Said again though nothing changed, so that a listener that lost it has it back and all see its age. */
export const sayAgainMs = 30_000;

type Kept = 'state' | 'vm' | 'op';

/** What to publish: an empty text takes the line back. */
export interface Due {
  readonly kind: Kept;
  readonly id: string | null;
  readonly text: string;
}

interface Line {
  readonly kind: Kept;
  readonly id: string | null;
  text: string;
  /** What of it is news at once, and what is a gauge. */
  news: string;
  whole: string;
  saidNews: string | null;
  saidWhole: string | null;
  saidMs: number;
}

/**
 * This node's retained lines and when each is due: at once on a change but at most every {@link sayEveryMs}, all
 * again every {@link sayAgainMs}. Only the newest text of a line is kept, so a broker that is away costs nothing.
 * Time is given, never taken.
 */
export class Outbox {
  readonly #lines = new Map<string, Line>();
  readonly #takenBack = new Map<string, Due>();

  put<K extends Kept>(kind: K, id: string | null, payload: RadioPayload<K>): void {
    const key = `${kind}/${id ?? ''}`;
    const { news, whole } = weigh(kind, payload);
    const had = this.#lines.get(key);
    this.#takenBack.delete(key);
    this.#lines.set(key, {
      kind,
      id,
      text: JSON.stringify(payload),
      news,
      whole,
      saidNews: had?.saidNews ?? null,
      saidWhole: had?.saidWhole ?? null,
      saidMs: had?.saidMs ?? -Infinity,
    });
  }

  takeBack(kind: 'vm' | 'op', id: string): void {
    const key = `${kind}/${id}`;
    this.#lines.delete(key);
    this.#takenBack.set(key, { kind, id, text: '' });
  }

  has(kind: Kept, id: string | null): boolean {
    return this.#lines.has(`${kind}/${id ?? ''}`);
  }

  /** The broker forgot everything (it restarted, or we come anew): all is due. */
  sayAll(): void {
    for (const l of this.#lines.values()) l.saidMs = -Infinity;
  }

  /** What is due now; counts as said. */
  due(nowMs: number): Due[] {
    const out: Due[] = [...this.#takenBack.values()];
    this.#takenBack.clear();
    for (const l of this.#lines.values()) {
      const age = nowMs - l.saidMs;
      const wait = l.saidNews !== l.news ? sayEveryMs : l.saidWhole !== l.whole ? gaugesEveryMs : sayAgainMs;
      if (age < wait) continue;
      l.saidMs = nowMs;
      l.saidNews = l.news;
      l.saidWhole = l.whole;
      out.push({ kind: l.kind, id: l.id, text: l.text });
    }
    return out;
  }
}

/** Splits what people want to know at once from numbers that move all the time. */
function weigh<K extends RadioKind>(kind: K, payload: RadioPayload<K>): { news: string; whole: string } {
  if (kind === 'state') {
    const { seq: _, atMs: __, hears, ...rest } = payload as RadioPayload<'state'>;
    const { cpuUsedPct: _c, memoryUsedBytes: _m, loadAvg1: _l, facts, ...firm } = rest;
    const pools = rest.pools.map((p) => ({ ...p, freeBytes: 0 }));
    const still = facts === null ? null : { ...facts, temperatureC: null, cpuMHz: 0 };
    const heard = Object.keys(hears).sort();
    return {
      news: JSON.stringify({ ...firm, pools, facts: still, heard }),
      whole: JSON.stringify({ ...rest, heard }),
    };
  }
  if (kind === 'vm') {
    const { seq: _, atMs: __, stats, filesystems, ...firm } = payload as RadioPayload<'vm'>;
    return {
      news: JSON.stringify(firm),
      whole: JSON.stringify([firm, filesystems, stats === null ? null : { ...stats, atMs: 0 }]),
    };
  }
  const whole = JSON.stringify(payload);
  return { news: whole, whole };
}
