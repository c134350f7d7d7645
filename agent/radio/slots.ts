/**
 * So many at a time, the others in the order they came. A handshake with certificates costs about 60 ms of CPU,
 * so a node that comes back would else starve its own beats while it dials everyone.
 */
export class Slots {
  readonly #max: number;
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(max: number) {
    this.#max = max;
  }

  get taken(): number {
    return this.#taken;
  }

  /** @returns a function that gives the slot back; further calls do nothing */
  async take(): Promise<() => void> {
    if (this.#taken < this.#max) this.#taken += 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let given = false;
    return () => {
      if (given) return;
      given = true;
      const next = this.#waiting.shift();
      if (next === undefined) this.#taken -= 1;
      else next();
    };
  }
}
