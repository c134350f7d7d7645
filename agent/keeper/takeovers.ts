import { readFileSync } from 'node:fs';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';
import type { Takeovers } from './env.js';

/** Larger is no record. */
const textMax = 4_096;

/** An idle thread is ended after this long, ms: it is needed only while the ledger is away. */
const idleMs = 30_000;

interface Question {
  readonly id: number;
  readonly files: readonly string[];
}

/**
 * Reads takeover records in a thread of its own, started when first needed: a shared pool that hangs takes that
 * thread with it and nothing else.
 */
export class PoolTakeovers implements Takeovers {
  readonly #program: URL | string;
  #worker: Worker | null = null;
  #next = 0;
  #waiting = new Map<number, (texts: readonly string[]) => void>();
  #idle: NodeJS.Timeout | null = null;

  /** @param program - what the thread runs: the bundle itself, which then calls {@link serveTakeovers} */
  constructor(program: URL | string) {
    this.#program = program;
  }

  read(files: readonly string[]): Promise<readonly string[]> {
    const worker = (this.#worker ??= this.#start());
    const q: Question = { id: this.#next++, files };
    return new Promise((resolve) => {
      this.#waiting.set(q.id, resolve);
      worker.postMessage(q);
    });
  }

  close(): void {
    if (this.#idle !== null) clearTimeout(this.#idle);
    void this.#worker?.terminate();
    this.#worker = null;
  }

  #start(): Worker {
    const worker = new Worker(this.#program, { resourceLimits: { maxOldGenerationSizeMb: 8 }, execArgv: [] });
    worker.unref();
    worker.on('message', (a: { id: number; texts: readonly string[] }) => {
      this.#waiting.get(a.id)?.(a.texts);
      this.#waiting.delete(a.id);
      if (this.#idle !== null) clearTimeout(this.#idle);
      this.#idle = setTimeout(() => {
        if (this.#waiting.size === 0) this.close();
      }, idleMs);
      this.#idle.unref();
    });
    const over = (): void => {
      if (this.#worker === worker) this.#worker = null;
      // Unread is unproven.
      for (const resolve of this.#waiting.values()) resolve([]);
      this.#waiting.clear();
    };
    worker.on('error', over);
    worker.on('exit', over);
    return worker;
  }
}

/** The thread's side. @returns false: this is not the thread */
export function serveTakeovers(): boolean {
  const port = parentPort;
  if (isMainThread || port === null) return false;
  port.on('message', (q: Question) => {
    const texts = q.files.flatMap((file) => {
      try {
        const text = readFileSync(file, 'utf8');
        return text.length > textMax ? [] : [text];
      } catch {
        return [];
      }
    });
    port.postMessage({ id: q.id, texts });
  });
  return true;
}
