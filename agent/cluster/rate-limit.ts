/** Tries one address may make at once, and how many it gets back per minute. */
export const perAddress = { burst: 10, perMinute: 10 } as const;
/** The same for all addresses together. A rack of 32 nodes that joins at once fits. */
export const overall = { burst: 64, perMinute: 60 } as const;
/** Addresses remembered; beyond it the one seen longest ago is forgotten. Memory stays bounded whoever asks. */
export const addressesMax = 1_000;

interface Bucket {
  tokens: number;
  atMs: number;
}

/** Slows down guessing: a bucket per address and one for all. */
export class RateLimit {
  readonly #all: Bucket;
  readonly #addresses = new Map<string, Bucket>();

  constructor(nowMs: number) {
    this.#all = { tokens: overall.burst, atMs: nowMs };
  }

  /** @returns true: go on */
  take(address: string, nowMs: number): boolean {
    const known = this.#addresses.get(address);
    const bucket = known ?? { tokens: perAddress.burst, atMs: nowMs };
    // Moved to the end: the map's order is the order of use.
    this.#addresses.delete(address);
    this.#addresses.set(address, bucket);
    if (this.#addresses.size > addressesMax) {
      const oldest = this.#addresses.keys().next().value;
      if (oldest !== undefined) this.#addresses.delete(oldest);
    }
    // The address first: one noisy address does not use up what all share.
    return fill(bucket, perAddress, nowMs) && fill(this.#all, overall, nowMs);
  }

  get size(): number {
    return this.#addresses.size;
  }
}

function fill(b: Bucket, rate: { burst: number; perMinute: number }, nowMs: number): boolean {
  b.tokens = Math.min(rate.burst, b.tokens + ((nowMs - b.atMs) / 60_000) * rate.perMinute);
  b.atMs = nowMs;
  if (b.tokens < 1) return false;
  b.tokens -= 1;
  return true;
}
