import { connect, type Socket } from 'node:net';

/** Where the guest's server listens. @see images/tiny/serve.c */
export const servePort = 9;

/** One connection to the guest's server: a line asked, a line answered. */
export class Asker {
  readonly #socket: Socket;
  readonly #waiting: ((line: string) => void)[] = [];
  readonly #failed: ((e: Error) => void)[] = [];
  #text = '';
  /** Bytes that follow a `bulk`. */
  #skip = 0;
  #skipped: (() => void) | null = null;
  closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.setEncoding('latin1');
    socket.on('data', (d: unknown) => this.#take(String(d)));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      for (const f of this.#failed.splice(0)) f(new Error('the connection to the guest is gone'));
    });
  }

  static open(address: string): Promise<Asker> {
    return new Promise((resolve, reject) => {
      const socket = connect(servePort, address);
      socket.once('error', reject);
      socket.once('connect', () => resolve(new Asker(socket)));
    });
  }

  ask(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.closed) return reject(new Error('the connection to the guest is gone'));
      this.#waiting.push(resolve);
      this.#failed.push(reject);
      this.#socket.write(`${line}\n`);
    });
  }

  /** Asks for so many bytes and waits until they are there. */
  async bulk(bytes: number): Promise<void> {
    const all = new Promise<void>((resolve) => (this.#skipped = resolve));
    this.#skip = bytes;
    await this.ask(`bulk ${bytes}`);
    await all;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#text += text;
    for (;;) {
      if (this.#skip > 0 && this.#waiting.length === 0) {
        const n = Math.min(this.#skip, this.#text.length);
        this.#skip -= n;
        this.#text = this.#text.slice(n);
        if (this.#skip > 0) return;
        this.#skipped?.();
      }
      const end = this.#text.indexOf('\n');
      if (end < 0) return;
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      this.#failed.shift();
      this.#waiting.shift()?.(line);
    }
  }
}

/** What a {@link Load} has found wrong, and how it fared. */
export interface Account {
  readonly counts: number;
  readonly writes: number;
  /** Longest time without an answer on any connection, ms. */
  readonly gapMs: number;
  readonly wrong: readonly string[];
}

/**
 * Clients that show whether a guest lost anything: one that counts, one that writes and reads back, each on one connection
 * from the beginning to the end.
 */
export class Load {
  readonly #wrong: string[] = [];
  readonly #written = new Map<number, number>();
  #counts = 0;
  #writes = 0;
  #gapMs = 0;
  #stop = false;
  readonly #address: string;
  #all: Promise<unknown> = Promise.resolve();
  #boot = '';
  /** What the common counter has said: answers of two connections overtake each other, but none comes twice or is left out. */
  readonly #totals = new Set<number>();

  constructor(address: string) {
    this.#address = address;
  }

  async start(): Promise<void> {
    const open = (): Promise<Asker> => Asker.open(this.#address);
    const [counter, counter2, writer] = await Promise.all([open(), open(), open()]);
    this.#all = Promise.all([
      this.#run(counter, (n) => this.#count(counter, n)),
      this.#run(counter2, (n) => this.#count(counter2, n)),
      this.#run(writer, (n) => this.#write(writer, n)),
    ]);
  }

  /** Longest gap since this was last asked. */
  gap(): number {
    const gap = this.#gapMs;
    this.#gapMs = 0;
    return gap;
  }

  get counts(): number {
    return this.#counts;
  }
  get writes(): number {
    return this.#writes;
  }
  get wrong(): readonly string[] {
    return this.#wrong;
  }

  /** Ends the clients, and reads back all that the guest said it has on disk. */
  async stop(): Promise<Account> {
    this.#stop = true;
    await this.#all;
    let [least, most] = [Infinity, -Infinity];
    for (const n of this.#totals) [least, most] = [Math.min(least, n), Math.max(most, n)];
    const missing = this.#totals.size === 0 ? 0 : most - least + 1 - this.#totals.size;
    if (missing !== 0) this.#wrong.push(`the common counter left ${missing} out`);
    const reader = await Asker.open(this.#address);
    for (const [, n] of this.#written) {
      const said = await reader.ask(`read ${n}`);
      if (said !== `read ${n} ${n}`) this.#wrong.push(`a write that was acknowledged is not there: ${said}`);
    }
    const memory = await reader.ask('memory');
    if (memory !== 'memory ok') this.#wrong.push(memory);
    reader.close();
    return { counts: this.#counts, writes: this.#writes, gapMs: this.#gapMs, wrong: this.#wrong };
  }

  async #run(on: Asker, turn: (n: number) => Promise<void>): Promise<void> {
    for (let n = 1; !this.#stop; n++) {
      const began = performance.now();
      try {
        await turn(n);
      } catch (e) {
        this.#wrong.push(String(e));
        return;
      }
      this.#gapMs = Math.max(this.#gapMs, performance.now() - began);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    on.close();
  }

  async #count(on: Asker, n: number): Promise<void> {
    const said = await on.ask('count');
    const [, mine, all, boot = ''] = said.split(' ');
    if (this.#boot === '') this.#boot = boot;
    if (Number(mine) !== n || boot !== this.#boot) this.#wrong.push(`at ${n}: ${said}`);
    if (this.#totals.has(Number(all))) this.#wrong.push(`the common counter said it before: ${said}`);
    this.#totals.add(Number(all));
    this.#counts++;
  }

  async #write(on: Asker, n: number): Promise<void> {
    const said = await on.ask(`write ${n}`);
    if (said !== `written ${n}`) this.#wrong.push(`at write ${n}: ${said}`);
    // A place is used again after so many: what was there is overwritten.
    this.#written.set(n % places, n);
    this.#writes++;
  }
}

/** Places on the guest's disk. @see images/tiny/serve.c */
const places = 1024;
