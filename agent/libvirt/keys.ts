/**
 * One call per key at a time, over several connections. A call that passed its deadline keeps its key, marked
 * stuck, until the daemon answers it: further calls on that domain are refused at once instead of each taking
 * a worker of the daemon.
 */
export class Keys {
  readonly #held = new Map<string, 'held' | 'stuck'>();
  readonly #waiting = new Set<() => void>();

  isStuck(key: string): boolean {
    return this.#held.get(key) === 'stuck';
  }

  /** false when another call holds it */
  take(key: string): boolean {
    if (this.#held.has(key)) return false;
    this.#held.set(key, 'held');
    return true;
  }

  markStuck(key: string): void {
    if (this.#held.has(key)) this.#held.set(key, 'stuck');
  }

  release(key: string): void {
    this.#held.delete(key);
    for (const wake of this.#waiting) wake();
  }

  /** call back whenever a key comes free; returns how to stop that */
  onRelease(wake: () => void): () => void {
    this.#waiting.add(wake);
    return () => this.#waiting.delete(wake);
  }
}
