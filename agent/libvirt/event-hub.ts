import type { HostEvent } from './hypervisor.js';

/** Events a reader may lag behind. Past it reading everything again is cheaper than the backlog. */
export const BACKLOG_MAX = 1024;

interface Reader {
  backlog: HostEvent[];
  wake: (() => void) | null;
  ended: boolean;
}

/** Hands every event to every reader. A reader that falls behind loses its backlog and is told to resync. */
export class EventHub {
  readonly #readers = new Set<Reader>();
  readonly #listeners = new Set<(event: HostEvent) => void>();
  #ended = false;

  emit(event: HostEvent): void {
    for (const reader of this.#readers) {
      if (reader.backlog.length >= BACKLOG_MAX) reader.backlog = [{ type: 'resync', why: 'overflow' }];
      else reader.backlog.push(event);
      reader.wake?.();
    }
    for (const listener of this.#listeners) listener(event);
  }

  /** inside the module: called at once, must not throw; returns how to stop */
  listen(listener: (event: HostEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** ends all readers after what they have not read yet */
  end(): void {
    this.#ended = true;
    for (const reader of this.#readers) {
      reader.ended = true;
      reader.wake?.();
    }
  }

  /**
   * Subscribes at once, not at the first read, so that nothing between the two is lost.
   *
   * @param first - what the reader shall see before anything else
   */
  read(signal: AbortSignal | undefined, first: readonly HostEvent[]): AsyncIterable<HostEvent> {
    const reader: Reader = { backlog: [...first], wake: null, ended: this.#ended };
    this.#readers.add(reader);
    const stop = (): void => {
      reader.ended = true;
      reader.backlog = [];
      this.#readers.delete(reader);
      reader.wake?.();
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
    const leave = (): void => {
      signal?.removeEventListener('abort', stop);
      this.#readers.delete(reader);
    };
    return (async function* () {
      try {
        for (;;) {
          const event = reader.backlog.shift();
          if (event !== undefined) yield event;
          else if (reader.ended) return;
          else await new Promise<void>((resolve) => (reader.wake = resolve));
        }
      } finally {
        leave();
      }
    })();
  }
}
