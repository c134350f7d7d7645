import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';

/** What QEMU says unasked. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface AskOptions {
  /** Default {@link askDeadlineMs}. */
  readonly deadlineMs?: number;
}

export interface UntilOptions {
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

/** Commands answer at once; those that wait for a disk or the other machine may take seconds on a loaded node. */
export const askDeadlineMs = 15_000;
/** QEMU's longest answers list its block devices: some 100 kB. */
const lineBytesMax = 8 << 20;

const messageSchema = z.union([
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).default({}) }),
  z.object({ return: z.unknown(), id: z.number() }).refine((m) => 'return' in m),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.number().optional() }),
]);
const greetingSchema = z.object({ QMP: z.object({ capabilities: z.array(z.string()) }) });

interface Waiting {
  readonly what: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/**
 * One QEMU's monitor. Commands are answered in their order; {@link askNow} goes past one that hangs.
 *
 * @see QEMU 11.1: qmp-spec, "Out-of-band execution"
 */
export class Qmp {
  /** Settles when the connection has ended. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #onClosed = new Set<() => void>();
  #next = 1;
  #open = true;
  #text = '';
  #greet: ((line: unknown) => void) | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: unknown) => this.#take(String(text)));
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#open = false;
        for (const w of this.#waiting.values()) w.reject(gone(w.what));
        this.#waiting.clear();
        for (const f of this.#onClosed) f();
        resolve();
      });
    });
  }

  /**
   * Connects to a monitor's socket and agrees on commands out of band.
   *
   * @throws FlotillaError `hypervisor-unavailable`: nothing listens there, or no QEMU
   */
  static async open(path: string, deadlineMs = askDeadlineMs): Promise<Qmp> {
    const socket = connect(path);
    const qmp = new Qmp(socket);
    const timer = setTimeout(() => socket.destroy(), deadlineMs);
    try {
      const greeting = await new Promise<unknown>((resolve, reject) => {
        qmp.#greet = resolve;
        qmp.#onClosed.add(() => reject(gone('connecting')));
      });
      if (!greetingSchema.parse(greeting).QMP.capabilities.includes('oob'))
        throw new Error('it does not know commands out of band');
      await qmp.ask('qmp_capabilities', { enable: ['oob'] }, { deadlineMs });
      return qmp;
    } catch (cause) {
      socket.destroy();
      throw new FlotillaError('hypervisor-unavailable', 'QEMU does not answer at its monitor', {
        hint: 'Its machine has ended, or hangs; the agent tries again by itself.',
        cause,
      });
    } finally {
      clearTimeout(timer);
    }
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /**
   * One command.
   *
   * @returns what is in `return`
   * @throws FlotillaError `hypervisor-error`: QEMU refused it, in its words; `timeout`; `hypervisor-unavailable`: QEMU is gone
   */
  ask(command: string, args: object = {}, o: AskOptions = {}): Promise<unknown> {
    return this.#send('execute', command, args, o);
  }

  /** The same past whatever hangs. Only for the few commands that allow it: `yank`, `query-yank`. */
  askNow(command: string, args: object = {}, o: AskOptions = {}): Promise<unknown> {
    return this.#send('exec-oob', command, args, o);
  }

  /** Called with every event, at once. @returns a function that ends it */
  on(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Begins to wait for an event, now: nothing that comes after this call is missed.
   *
   * @throws FlotillaError `timeout`, `hypervisor-unavailable`, `cancelled`
   */
  until(what: string, wanted: (event: QmpEvent) => boolean, o: UntilOptions): Promise<QmpEvent> {
    const seen = new Promise<QmpEvent>((resolve, reject) => {
      const end = (then: () => void): void => {
        clearTimeout(timer);
        off();
        this.#onClosed.delete(onClosed);
        o.signal?.removeEventListener('abort', onAbort);
        then();
      };
      const timer = setTimeout(() => end(() => reject(late(what, o.deadlineMs))), o.deadlineMs);
      const onClosed = (): void => end(() => reject(gone(what)));
      const onAbort = (): void => end(() => reject(cancelled(what, o.signal)));
      const off = this.on((e) => {
        try {
          if (wanted(e)) end(() => resolve(e));
        } catch (error) {
          end(() => reject(error instanceof Error ? error : new Error(String(error))));
        }
      });
      this.#onClosed.add(onClosed);
      o.signal?.addEventListener('abort', onAbort, { once: true });
      if (!this.#open) onClosed();
      else if (o.signal?.aborted === true) onAbort();
    });
    // It may fail before somebody awaits it.
    seen.catch(() => undefined);
    return seen;
  }

  close(): void {
    this.#socket.destroy();
  }

  #send(kind: 'execute' | 'exec-oob', command: string, args: object, o: AskOptions): Promise<unknown> {
    if (!this.#open) return Promise.reject(gone(command));
    const { deadlineMs = askDeadlineMs } = o;
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(late(command, deadlineMs));
      }, deadlineMs);
      const end =
        <T>(then: (v: T) => void) =>
        (v: T): void => {
          clearTimeout(timer);
          then(v);
        };
      this.#waiting.set(id, { what: command, resolve: end(resolve), reject: end(reject) });
      this.#socket.write(`${JSON.stringify({ [kind]: command, arguments: args, id })}\n`);
    });
  }

  #take(text: string): void {
    this.#text += text;
    if (this.#text.length > lineBytesMax) {
      this.#socket.destroy();
      return;
    }
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).trim();
      this.#text = this.#text.slice(end + 1);
      if (line !== '') this.#line(line);
    }
  }

  #line(line: string): void {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      // Half understood is worse than not connected: whoever waits is told at once.
      this.#socket.destroy();
      return;
    }
    if (this.#greet !== null) {
      this.#greet(value);
      this.#greet = null;
      return;
    }
    const m = messageSchema.safeParse(value);
    if (!m.success) return;
    if ('event' in m.data) {
      for (const f of this.#listeners) f(m.data);
      return;
    }
    const { id } = m.data;
    const w = id === undefined ? undefined : this.#waiting.get(id);
    if (id === undefined || w === undefined) return;
    this.#waiting.delete(id);
    if ('error' in m.data) w.reject(refused(w.what, m.data.error.desc));
    else w.resolve(m.data.return);
  }
}

const refused = (what: string, desc: string): FlotillaError =>
  new FlotillaError('hypervisor-error', `QEMU refuses ${what}: ${desc}`.slice(0, 500), {
    hint: 'The journal of the node has what was done before.',
  });
const late = (what: string, ms: number): FlotillaError =>
  new FlotillaError('timeout', `QEMU does not answer ${what} within ${ms / 1000} s`, {
    hint: 'The node is overloaded, or what QEMU waits for is gone.',
  });
const gone = (what: string): FlotillaError =>
  new FlotillaError('hypervisor-unavailable', `QEMU has ended before it answered ${what}`, {
    hint: 'Its log is in the state directory of the node, below lockstep.',
  });
const cancelled = (what: string, signal: AbortSignal | undefined): FlotillaError =>
  new FlotillaError('cancelled', `${what}: no longer wanted`, {
    hint: 'Nothing to do.',
    cause: signal?.reason,
  });
