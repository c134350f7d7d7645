import { open, stat, truncate } from 'node:fs/promises';

/** How often the log is looked at: refusals are counted for people. */
const lookEveryMs = 1_000;
/** Read at a look at most; a flood beyond that is counted as far as it was read. */
const readBytesMax = 65_536;
/** Emptied above this size. mosquitto appends, so it goes on at the new end; the journal has all lines in any case. */
const logBytesMax = 256 * 1024;

/** A line mosquitto writes where a client's certificate is missing, foreign or expired. */
const badCertificate = /OpenSSL Error.*(certificate|unknown ca)/gi;

/**
 * Reads the error log of this node's broker, since only the broker sees whose certificates it refuses.
 *
 * mosquitto can also publish its log (`log_dest topic`). With TLS that hangs the whole broker as soon as a
 * subscriber's connection breaks: writing the error to the broken connection is another error.
 * @see mosquitto 2.0.21, tried 2026-11-23: the second kill -9 of a client
 */
export class BrokerLog {
  readonly #path: string;
  readonly #onBadCertificate: (count: number) => void;
  #timer: NodeJS.Timeout | null = null;
  #offset: number | null = null;
  #looking = false;

  constructor(path: string, onBadCertificate: (count: number) => void) {
    this.#path = path;
    this.#onBadCertificate = onBadCertificate;
  }

  /** Resolves when lines are counted from here on. */
  async start(): Promise<void> {
    this.#timer = setInterval(() => void this.#look(), lookEveryMs);
    await this.#look();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  async #look(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      const { size } = await stat(this.#path);
      // What stood there before this agent started is not of this count.
      this.#offset ??= size;
      if (size < this.#offset) this.#offset = 0;
      if (size > this.#offset) await this.#read(this.#offset, size);
      if (size > logBytesMax) {
        await truncate(this.#path, 0);
        this.#offset = 0;
      }
    } catch {
      // Not there yet: the broker makes it at its start.
      this.#offset = 0;
    } finally {
      this.#looking = false;
    }
  }

  async #read(from: number, size: number): Promise<void> {
    await using file = await open(this.#path, 'r');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.min(size - from, readBytesMax)), {
      position: from,
    });
    const text = buffer.toString('latin1', 0, bytesRead);
    // A line half written is read again, unless it alone fills the buffer.
    const end = text.lastIndexOf('\n') + 1;
    const whole = bytesRead === readBytesMax && end === 0 ? text : text.slice(0, end);
    this.#offset = size - from > readBytesMax ? size : from + whole.length;
    const count = whole.match(badCertificate)?.length ?? 0;
    if (count > 0 && this.#timer !== null) this.#onBadCertificate(count);
  }
}
