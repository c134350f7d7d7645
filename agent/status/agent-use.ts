import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import type { AgentUse } from './view.js';

/** The loop's lateness is sampled so often. */
const sampleEveryMs = 100;
/** Samples older than two of these are forgotten. */
const windowMs = 30_000;

/** Watches what this process costs. */
export class AgentMeter {
  readonly #startedMs = Date.now() - process.uptime() * 1000;
  #delay: IntervalHistogram | null = null;
  #timer: NodeJS.Timeout | null = null;
  #lastP99 = 0;

  start(): void {
    const delay = monitorEventLoopDelay({ resolution: sampleEveryMs });
    delay.enable();
    this.#delay = delay;
    this.#timer = setInterval(() => {
      this.#lastP99 = delay.percentile(99);
      delay.reset();
    }, windowMs).unref();
  }

  stop(): void {
    this.#delay?.disable();
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  use(): AgentUse {
    const { user, system } = process.cpuUsage();
    // The histogram has the whole wait, of which the interval is not lateness.
    const p99Ns = Math.max(this.#lastP99, this.#delay?.percentile(99) ?? 0);
    return {
      startedMs: this.#startedMs,
      rssBytes: process.memoryUsage.rss(),
      cpuSeconds: (user + system) / 1e6,
      lagSeconds: Math.max(0, p99Ns / 1e9 - sampleEveryMs / 1000),
    };
  }
}
