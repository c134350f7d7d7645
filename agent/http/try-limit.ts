/**
 * Counts tries by address or caller: failed logins, requests. Tokens have 256 random bits, so nobody guesses one: this
 * keeps a fool's loop from costing CPU. Memory is bounded; when it is full the one that was quiet longest is forgotten.
 */
export class TryLimit {
  readonly #triesMax: number;
  readonly #windowMs: number;
  readonly #addressesMax: number;
  readonly #tries = new Map<string, { count: number; endsMs: number }>();

  /** @param o.triesMax - tries allowed within a window */
  constructor(o: { triesMax: number; windowMs: number; addressesMax: number }) {
    this.#triesMax = o.triesMax;
    this.#windowMs = o.windowMs;
    this.#addressesMax = o.addressesMax;
  }

  /** @returns 0 where a try is free, else milliseconds until one is */
  waitMs(address: string, nowMs: number): number {
    const t = this.#tries.get(address);
    return t === undefined || t.endsMs <= nowMs || t.count < this.#triesMax ? 0 : t.endsMs - nowMs;
  }

  count(address: string, nowMs: number): void {
    const had = this.#tries.get(address);
    this.#tries.delete(address);
    const fresh = had === undefined || had.endsMs <= nowMs;
    this.#tries.set(
      address,
      fresh ? { count: 1, endsMs: nowMs + this.#windowMs } : { ...had, count: had.count + 1 },
    );
    const oldest = this.#tries.keys().next().value;
    if (this.#tries.size > this.#addressesMax && oldest !== undefined) this.#tries.delete(oldest);
  }

  get size(): number {
    return this.#tries.size;
  }
}
