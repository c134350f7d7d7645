import { RpcConnection, TIMER_MS_MAX, type ConnectionOptions, type RpcCallOptions } from './client.js';
import { LibvirtError } from './error.js';
import { Keys } from './keys.js';
import type { ArgsOf, ProcedureName, ReplyOf } from './protocol.js';

/** With two of four places taken by calls that hang, a connection is too slow to go on with. */
const RETIRE_AT_LATE = 2;

/** Each retired connection holds at least two of the daemon's workers (20 by default), so more would not help. */
const RETIRED_MAX = 8;

/**
 * Connections for short calls, one at a time. When calls on it hang (a QEMU that does not answer), it is
 * retired: kept open to hear the late answers, while a fresh one takes the new calls. Calls on a domain whose
 * earlier call hangs are refused with `busy`, so the damage stays with that domain.
 */
export class Lane {
  readonly #options: ConnectionOptions;
  readonly #keys = new Keys();
  readonly #retired = new Set<RpcConnection>();
  #current: RpcConnection | null = null;
  #opening: Promise<RpcConnection> | null = null;

  constructor(options: Omit<ConnectionOptions, 'keys' | 'onLate' | 'onIdle'>) {
    this.#options = options;
  }

  async call<P extends ProcedureName>(
    name: P,
    args: ArgsOf<P>,
    options: RpcCallOptions,
  ): Promise<ReplyOf<P>> {
    if (this.#current?.isOpen) return this.#current.call(name, args, options);
    const startedAt = performance.now();
    const connection = await this.#open(options.deadlineMs, name);
    const deadlineMs = Math.max(1, options.deadlineMs - (performance.now() - startedAt));
    return connection.call(name, args, { ...options, deadlineMs });
  }

  /** waits for the one attempt that all callers share, each as long as it likes */
  async #open(deadlineMs: number, name: ProcedureName): Promise<RpcConnection> {
    this.#opening ??= this.#connect().finally(() => (this.#opening = null));
    const fields = { outcome: 'not-sent', procedure: name } as const;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const message = `${name}: no connection to the libvirt daemon within ${Math.round(deadlineMs)} ms`;
      const expire = (): void => reject(new LibvirtError(message, { code: 'deadline', ...fields }));
      timer = setTimeout(expire, Math.min(deadlineMs, TIMER_MS_MAX));
    });
    const opened = this.#opening.catch((cause: unknown) => {
      const message = `${name}: no connection to the libvirt daemon`;
      throw new LibvirtError(message, { code: 'disconnected', ...fields, cause });
    });
    return Promise.race([opened, late]).finally(() => clearTimeout(timer));
  }

  async #connect(): Promise<RpcConnection> {
    const connection: RpcConnection = new RpcConnection({
      ...this.#options,
      keys: this.#keys,
      onLate: (late) => this.#late(connection, late),
      onIdle: () => {
        if (this.#retired.has(connection)) connection.close();
      },
      onClose: () => {
        this.#retired.delete(connection);
        if (this.#current === connection) this.#current = null;
      },
    });
    await connection.connect();
    this.#current = connection;
    return connection;
  }

  #late(connection: RpcConnection, late: number): void {
    if (this.#current !== connection || late < RETIRE_AT_LATE || this.#retired.size >= RETIRED_MAX) return;
    this.#retired.add(connection);
    this.#current = null;
  }

  /** closes all connections; the next call opens a new one */
  drop(error: LibvirtError): void {
    for (const connection of [...this.#retired, this.#current]) connection?.giveUp(error);
  }

  async end(): Promise<void> {
    for (const connection of this.#retired) connection.close();
    await this.#current?.end();
  }
}
