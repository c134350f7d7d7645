/** Two networks between nodes, with cables that can be cut, also in one direction. */
export type Net = 'management' | 'storage';

export class SimNetwork {
  readonly nodes: readonly string[];
  /** Called after each change. */
  onChange: () => void = () => undefined;
  readonly #cuts = new Map<Net, Set<string>>([
    ['management', new Set()],
    ['storage', new Set()],
  ]);
  readonly #down = new Set<string>();

  constructor(nodes: readonly string[]) {
    this.nodes = nodes;
  }

  /** A message from one reaches the other. */
  reaches(from: string, to: string, net: Net = 'management'): boolean {
    if (this.#down.has(from) || this.#down.has(to)) return false;
    return from === to || this.#cuts.get(net)?.has(`${from}>${to}`) !== true;
  }

  both(a: string, b: string, net: Net = 'management'): boolean {
    return this.reaches(a, b, net) && this.reaches(b, a, net);
  }

  /** Messages from `a` no longer arrive at `b`; the other way stays. */
  cut(a: string, b: string, net: Net = 'management'): void {
    this.#cuts.get(net)?.add(`${a}>${b}`);
    this.onChange();
  }

  /** One node from all others: `in`: it hears nobody, `out`: nobody hears it. */
  isolate(node: string, how: 'both' | 'in' | 'out' = 'both', net: Net = 'management'): void {
    for (const other of this.nodes) {
      if (other === node) continue;
      if (how !== 'in') this.#cuts.get(net)?.add(`${node}>${other}`);
      if (how !== 'out') this.#cuts.get(net)?.add(`${other}>${node}`);
    }
    this.onChange();
  }

  heal(): void {
    for (const cuts of this.#cuts.values()) cuts.clear();
    this.onChange();
  }

  power(node: string, on: boolean): void {
    if (on) this.#down.delete(node);
    else this.#down.add(node);
    this.onChange();
  }
}
