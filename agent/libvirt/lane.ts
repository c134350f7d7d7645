import { RpcConnection, type ConnectionOptions, type RpcCallOptions } from './client.js';
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

  async #open(deadlineMs: number, name: ProcedureName): Promise<RpcConnection> {
    this.#opening ??= this.#connect(deadlineMs).finally(() => (this.#opening = null));
    try {
      return await this.#opening;
    } catch (cause) {
      const fields = { code: 'disconnected', outcome: 'not-sent', procedure: name, cause } as const;
      throw new LibvirtError(`${name}: no connection to the libvirt daemon`, fields);
    }
  }

  async #connect(deadlineMs: number): Promise<RpcConnection> {
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
    await connection.connect(deadlineMs);
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
