import type { Clock } from '../../../agent/env.js';

interface Timer {
  readonly atMs: number;
  readonly order: number;
  go: (() => void) | null;
}

/**
 * The time of a simulated cluster: a heap of what is due, done one after the other. Between two of them everything
 * that follows from the first (promises) has run; nothing else moves time.
 */
export class SimTime {
  nowMs = 0;
  /** Timers done since the start: the steps of a schedule. */
  steps = 0;
  /** Called after each step. */
  afterStep: () => void = () => undefined;
  readonly #heap: Timer[] = [];
  #order = 0;

  /** @returns a function that takes it back */
  after(ms: number, go: () => void): () => void {
    const timer: Timer = { atMs: this.nowMs + Math.max(0, ms), order: this.#order++, go };
    this.#push(timer);
    return () => (timer.go = null);
  }

  /** Lets time pass. */
  async run(untilMs: number): Promise<void> {
    await turn();
    for (;;) {
      const due = this.#heap[0];
      if (due === undefined || due.atMs > untilMs) break;
      this.#pop();
      if (due.go === null) continue;
      this.nowMs = due.atMs;
      due.go();
      await turn();
      this.steps++;
      this.afterStep();
    }
    this.nowMs = Math.max(this.nowMs, untilMs);
  }

  #before(a: Timer, b: Timer): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  }

  #push(t: Timer): void {
    const h = this.#heap;
    let i = h.push(t) - 1;
    while (i > 0) {
      const up = (i - 1) >> 1;
      const parent = h[up] as Timer;
      if (this.#before(parent, t)) break;
      h[i] = parent;
      i = up;
    }
    h[i] = t;
  }

  #pop(): void {
    const h = this.#heap;
    const last = h.pop() as Timer;
    if (h.length === 0) return;
    let i = 0;
    for (;;) {
      let down = 2 * i + 1;
      if (down >= h.length) break;
      const right = h[down + 1];
      if (right !== undefined && this.#before(right, h[down] as Timer)) down++;
      const child = h[down] as Timer;
      if (this.#before(last, child)) break;
      h[i] = child;
      i = down;
    }
    h[i] = last;
  }
}

/** All promises that are ready, and what follows from them, have run: one turn of the event loop. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** How a process dies in a test: at its n-th act, before or after the act has its effect. */
export interface Death {
  readonly at: number;
  readonly when: 'before' | 'after';
}

/**
 * A process of a simulated node. What it runs reaches the world only through {@link guard}ed things, so it can be
 * stalled (nothing comes back to it) and killed (nothing ever does) between any two of its steps.
 */
export class Process {
  readonly name: string;
  readonly clock: Clock;
  alive = true;
  stalled = false;
  /** Acts so far: calls with an answer. */
  acts = 0;
  death: Death | null = null;
  onDeath: () => void = () => undefined;
  readonly #time: SimTime;
  #held: (() => void)[] = [];

  /**
   * @param wallMs - the node's wall clock, which may jump
   * @param zeroMs - what the machine's monotonic clock is ahead of the simulation's: another at each boot
   */
  constructor(time: SimTime, name: string, wallMs: () => number, zeroMs = 0) {
    this.#time = time;
    this.name = name;
    this.clock = {
      nowMs: () => time.nowMs + zeroMs,
      wallMs,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          const fail = (): void => {
            cancel();
            reject(signal?.reason as Error);
          };
          const cancel = time.after(ms, () =>
            this.enter(() => {
              signal?.removeEventListener('abort', fail);
              resolve();
            }),
          );
          if (signal?.aborted === true) return fail();
          signal?.addEventListener('abort', fail, { once: true });
        }),
    };
  }

  /** Does it as this process: now, when it goes on, or never. */
  enter(go: () => void): void {
    if (!this.alive) return;
    if (this.stalled) this.#held.push(go);
    else go();
  }

  stall(): void {
    this.stalled = true;
  }

  resume(): void {
    if (!this.stalled) return;
    this.stalled = false;
    const held = this.#held;
    this.#held = [];
    // In a step of its own each, as a scheduler would.
    for (const go of held) this.#time.after(0, () => this.enter(go));
  }

  kill(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#held = [];
    this.onDeath();
  }

  /** The same thing, as this process reaches it. Functions given to it are called as this process, too. */
  guard<T extends object>(part: T): T {
    return new Proxy(part, {
      get: (target, key) => {
        const value = (target as Record<string | symbol, unknown>)[key];
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) => this.#call(target, value as (...a: unknown[]) => unknown, args);
      },
    });
  }

  #call(target: object, fn: (...a: unknown[]) => unknown, args: unknown[]): unknown {
    if (!this.alive) return never();
    const wrapped = args.map((a) =>
      typeof a === 'function'
        ? (...x: unknown[]) => this.enter(() => void (a as (...y: unknown[]) => unknown)(...x))
        : a,
    );
    const n = this.acts;
    const dies = this.death?.at === n ? this.death.when : null;
    if (dies === 'before') {
      this.kill();
      return never();
    }
    const result = fn.apply(target, wrapped);
    if (!(result instanceof Promise)) return result;
    this.acts++;
    return new Promise((resolve, reject) => {
      const back = (go: () => void): void => {
        if (dies === 'after') this.kill();
        this.enter(go);
      };
      result.then(
        (v) => back(() => resolve(v)),
        (e: Error) => back(() => reject(e)),
      );
    });
  }
}

/** A promise of its own each: what waits for one that lives on would live as long, and the whole world with it. */
const never = (): Promise<never> => new Promise<never>(() => undefined);
