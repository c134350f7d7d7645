import type { EventKind } from '../core/wire/rest.js';

/** One event of the stream, ready to be sent. */
export interface StreamEvent {
  readonly seq: number;
  readonly kind: EventKind | `${EventKind}-gone`;
  readonly data: string;
}

/** Events kept for those who come back: about half a minute of a cluster with 1,000 VMs. */
export const eventsKeptMax = 4_096;
/** Text kept, characters: keeps the buffer below some tens of MB whatever the events hold. */
const charsKeptMax = 16 * 1024 * 1024;

/**
 * The last events, numbered. A reader holds a cursor, not a queue: one that falls out of the buffer is told so
 * and takes a snapshot, so that a slow reader costs nothing.
 */
export class EventLog {
  /** This controller's life: a cursor of another's is not resumed. */
  readonly boot: string;
  private events: StreamEvent[] = [];
  private chars = 0;
  private last = 0;
  private ended = false;
  private readonly wakes = new Set<() => void>();

  constructor(boot: string) {
    this.boot = boot;
  }

  get lastSeq(): number {
    return this.last;
  }

  get readers(): number {
    return this.wakes.size;
  }

  push(kind: StreamEvent['kind'], data: string): void {
    this.last += 1;
    this.events.push({ seq: this.last, kind, data });
    this.chars += data.length;
    if (this.events.length > eventsKeptMax * 1.25 || this.chars > charsKeptMax) this.trim();
    for (const wake of this.wakes) wake();
  }

  /** Events after a cursor; null: some of them are gone. */
  after(seq: number): readonly StreamEvent[] | null {
    if (seq > this.last) return null;
    const first = this.events[0]?.seq ?? this.last + 1;
    if (seq < first - 1) return null;
    return this.events.slice(seq - first + 1);
  }

  idOf(seq: number): string {
    return `${this.boot}-${seq}`;
  }

  /** The cursor in a Last-Event-ID of this life; null: of another, or not one. */
  cursor(id: string | undefined): number | null {
    const m = /^([\w-]{1,64})-(\d{1,15})$/.exec(id ?? '');
    return m !== null && m[1] === this.boot ? Number(m[2]) : null;
  }

  /** Ends the streams of all readers. */
  close(): void {
    this.ended = true;
    for (const wake of [...this.wakes]) wake();
  }

  get closed(): boolean {
    return this.ended;
  }

  onPush(wake: () => void): () => void {
    this.wakes.add(wake);
    return () => this.wakes.delete(wake);
  }

  private trim(): void {
    const half = charsKeptMax / 2;
    let drop = Math.max(0, this.events.length - eventsKeptMax);
    let chars = this.chars;
    this.events.forEach((e, i) => {
      if (i < drop || (chars > half && i < this.events.length - 1)) {
        chars -= e.data.length;
        drop = Math.max(drop, i + 1);
      }
    });
    this.events = this.events.slice(drop);
    this.chars = chars;
  }
}
