import { RpcConnection, IN_FLIGHT_MAX, type RpcCallOptions } from './client.js';
import { Counters } from './counters.js';
import { LibvirtError } from './error.js';
import { Lane } from './lane.js';
import { EVENTS, type ArgsOf, type ProcedureName, type ReplyOf, type WireEvent } from './protocol.js';

/** First wait after a failed attempt. A restarted daemon is back within a second, so try soon. */
const BACKOFF_MIN_MS = 100;

/** Longest wait between attempts: a daemon that was away for hours is found again within this. */
const BACKOFF_MAX_MS = 3000;

/** Jobs and consoles at a time, each with a connection of its own; the daemon accepts far more. */
export const JOBS_MAX = 64;

const REGISTER_MS = 5000;

export interface LinkOptions {
  readonly socketPath: string;
  readonly uri?: string;
  readonly counters?: Counters;
  readonly onEvent: (event: WireEvent) => void;
  readonly onUnreadableEvent: () => void;
  readonly onUp: (again: boolean) => void;
  readonly onDown: (error: LibvirtError) => void;
}

/**
 * All connections to one daemon, kept up. State and events have one of their own that nothing slow ever uses;
 * short calls and guest agents have a lane each; every long job gets its own.
 */
export class DaemonLink {
  readonly counters: Counters;
  readonly short: Lane;
  readonly agent: Lane;
  readonly #options: LinkOptions;
  readonly #jobs = new Set<RpcConnection>();
  readonly #waiting = new Set<() => void>();
  readonly #closing = new AbortController();
  #state: RpcConnection | null = null;
  #running: Promise<void> | null = null;
  #lastError: LibvirtError | null = null;
  #ups = 0;
  #ending = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.counters = options.counters ?? new Counters();
    this.short = new Lane(this.#base());
    this.agent = new Lane(this.#base());
  }

  #base(): { socketPath: string; uri: string; counters: Counters } {
    const { socketPath, uri = 'qemu:///system' } = this.#options;
    return { socketPath, uri, counters: this.counters };
  }

  get connected(): boolean {
    return this.#state !== null;
  }

  /** begins connecting and keeps on until {@link close} */
  open(): void {
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    let backoffMs = BACKOFF_MIN_MS;
    while (!this.#ending) {
      try {
        await this.#upAndDown();
        backoffMs = BACKOFF_MIN_MS;
      } catch (error) {
        this.#lastError = error as LibvirtError;
      }
      await pause(backoffMs, this.#closing.signal);
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
    }
  }

  /** connects, announces it, and returns when the connection is gone again; throws when it never came about */
  async #upAndDown(): Promise<void> {
    let lost: (error: LibvirtError) => void = () => undefined;
    const gone = new Promise<LibvirtError>((resolve) => (lost = resolve));
    const connection: RpcConnection = new RpcConnection({
      ...this.#base(),
      onEvent: this.#options.onEvent,
      onUnreadableEvent: this.#options.onUnreadableEvent,
      onClose: (error) => lost(error),
      onLate: (late) => {
        if (late >= IN_FLIGHT_MAX) connection.giveUp(hangs(late));
      },
    });
    const stop = (): void => connection.close();
    this.#closing.signal.addEventListener('abort', stop, { once: true });
    try {
      await connection.connect();
      await this.#register(connection);
      this.#state = connection;
      this.#lastError = null;
      this.#options.onUp(this.#ups++ > 0);
      for (const wake of this.#waiting) wake();
      const error = await gone;
      this.#state = null;
      this.#lastError = error;
      this.short.drop(error);
      this.agent.drop(error);
      if (!this.#ending) this.#options.onDown(error);
    } catch (error) {
      connection.close();
      throw error;
    } finally {
      this.#closing.signal.removeEventListener('abort', stop);
    }
  }

  /** subscribes to every event; an older daemon may lack some, but never the first, which is life cycle */
  async #register(connection: RpcConnection): Promise<void> {
    const deadlineMs = REGISTER_MS;
    for (const { eventId } of Object.values(EVENTS)) {
      try {
        await connection.call(
          'connectDomainEventCallbackRegisterAny',
          { eventId, domain: null },
          { deadlineMs },
        );
      } catch (error) {
        const refused = error instanceof LibvirtError && error.outcome === 'refused';
        if (!refused || eventId === EVENTS.lifecycle.eventId) throw error;
      }
    }
  }

  /** resolves once connected; @throws LibvirtError `deadline` or `closed` */
  async waitConnected(deadlineMs: number): Promise<void> {
    if (this.#state !== null) return;
    await new Promise<void>((resolve, reject) => {
      const end = (error: LibvirtError | null): void => {
        clearTimeout(timer);
        this.#waiting.delete(up);
        this.#closing.signal.removeEventListener('abort', closed);
        if (error === null) resolve();
        else reject(error);
      };
      const up = (): void => end(null);
      const closed = (): void => end(this.#down('closed', 'this client was closed'));
      const late = `no connection to the libvirt daemon within ${deadlineMs} ms`;
      const timer = setTimeout(() => end(this.#down('deadline', late)), deadlineMs);
      this.#waiting.add(up);
      this.#closing.signal.addEventListener('abort', closed, { once: true });
      if (this.#closing.signal.aborted) closed();
    });
  }

  #down(
    code: 'disconnected' | 'deadline' | 'closed',
    message: string,
    procedure?: ProcedureName,
  ): LibvirtError {
    return new LibvirtError(`${message} (${this.#options.socketPath})`, {
      code,
      outcome: 'not-sent',
      ...(procedure === undefined ? {} : { procedure }),
      ...(this.#lastError === null ? {} : { cause: this.#lastError }),
    });
  }

  #up(name: ProcedureName): RpcConnection {
    if (this.#ending) throw this.#down('closed', `${name}: this client was closed`, name);
    if (this.#state === null)
      throw this.#down('disconnected', `${name}: not connected to the libvirt daemon`, name);
    return this.#state;
  }

  /** for calls that the daemon answers without asking a QEMU */
  async stateCall<P extends ProcedureName>(name: P, args: ArgsOf<P>, o: RpcCallOptions): Promise<ReplyOf<P>> {
    return this.#up(name).call(name, args, o);
  }

  async shortCall<P extends ProcedureName>(name: P, args: ArgsOf<P>, o: RpcCallOptions): Promise<ReplyOf<P>> {
    this.#up(name);
    return this.short.call(name, args, o);
  }

  /** for calls that wait for a guest */
  async agentCall<P extends ProcedureName>(name: P, args: ArgsOf<P>, o: RpcCallOptions): Promise<ReplyOf<P>> {
    this.#up(name);
    return this.agent.call(name, args, o);
  }

  /** a connection for one job, console or picture; the caller closes it */
  async openJob(name: ProcedureName): Promise<RpcConnection> {
    this.#up(name);
    if (this.#jobs.size >= JOBS_MAX) {
      const fields = { code: 'overloaded', outcome: 'not-sent', procedure: name } as const;
      throw new LibvirtError(`${name}: ${JOBS_MAX} jobs run already`, fields);
    }
    const connection: RpcConnection = new RpcConnection({
      ...this.#base(),
      onClose: () => this.#jobs.delete(connection),
    });
    this.#jobs.add(connection);
    await connection.connect();
    return connection;
  }

  async close(): Promise<void> {
    if (this.#ending) return void (await this.#running);
    this.#ending = true;
    await Promise.all([this.#state?.end(), this.short.end(), this.agent.end()]);
    for (const job of this.#jobs) job.close();
    this.#closing.abort();
    await this.#running;
  }
}

function hangs(late: number): LibvirtError {
  return new LibvirtError(
    `the libvirt daemon answers nothing any more: ${late} calls passed their deadline`,
    {
      code: 'disconnected',
      outcome: 'unknown',
    },
  );
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done, { once: true });
  });
}
