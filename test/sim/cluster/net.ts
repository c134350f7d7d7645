/** Two networks between nodes, with cables that can be cut, also in one direction. */
export type Net = 'management' | 'storage';

/** What holds as long as anybody wants it: faults that overlap end each for itself. */
export class Wanted {
  readonly #by = new Map<string, number>();

  has(what: string): boolean {
    return this.#by.has(what);
  }

  /** @returns a function that takes it back, once */
  add(what: string): () => void {
    this.#by.set(what, (this.#by.get(what) ?? 0) + 1);
    let over = false;
    return () => {
      const n = this.#by.get(what) ?? 0;
      if (over || n === 0) return;
      over = true;
      if (n === 1) this.#by.delete(what);
      else this.#by.set(what, n - 1);
    };
  }

  clear(): void {
    this.#by.clear();
  }
}

export class SimNetwork {
  readonly nodes: readonly string[];
  /** Called after each change. */
  onChange: () => void = () => undefined;
  readonly #cuts = new Wanted();
  readonly #down = new Set<string>();

  constructor(nodes: readonly string[]) {
    this.nodes = nodes;
  }

  /** A message from one reaches the other. */
  reaches(from: string, to: string, net: Net = 'management'): boolean {
    if (this.#down.has(from) || this.#down.has(to)) return false;
    return from === to || !this.#cuts.has(`${net} ${from}>${to}`);
  }

  both(a: string, b: string, net: Net = 'management'): boolean {
    return this.reaches(a, b, net) && this.reaches(b, a, net);
  }

  /** Messages from `a` no longer arrive at `b`; the other way stays. @returns a function that mends it */
  cut(a: string, b: string, net: Net = 'management'): () => void {
    return this.#all([[a, b]], net);
  }

  /** All cables between two groups. @returns a function that mends them */
  part(some: readonly string[], others: readonly string[], net: Net = 'management'): () => void {
    return this.#all(
      some.flatMap((a) => others.flatMap((b) => [[a, b] as const, [b, a] as const])),
      net,
    );
  }

  /**
   * One node from all others: `in`: it hears nobody, `out`: nobody hears it.
   *
   * @returns a function that mends it
   */
  isolate(node: string, how: 'both' | 'in' | 'out' = 'both', net: Net = 'management'): () => void {
    const others = this.nodes.filter((n) => n !== node);
    return this.#all(
      others.flatMap((o) => [
        ...(how === 'in' ? [] : [[node, o] as const]),
        ...(how === 'out' ? [] : [[o, node] as const]),
      ]),
      net,
    );
  }

  heal(): void {
    this.#cuts.clear();
    this.onChange();
  }

  power(node: string, on: boolean): void {
    if (on) this.#down.delete(node);
    else this.#down.add(node);
    this.onChange();
  }

  #all(pairs: readonly (readonly [string, string])[], net: Net): () => void {
    const undo = pairs.map(([a, b]) => this.#cuts.add(`${net} ${a}>${b}`));
    this.onChange();
    return () => {
      for (const u of undo) u();
      this.onChange();
    };
  }
}
