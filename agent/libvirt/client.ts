import { connect as connectSocket, type Socket } from 'node:net';
import { count, Counters } from './counters.js';
import { codeOfNumber, LibvirtError, type LibvirtErrorCode } from './error.js';
import { encodeFrame, encodeHead, FrameSplitter, type Frame, type Header } from './frame.js';
import { Keys } from './keys.js';
import {
  EVENTS,
  KEEPALIVE,
  MESSAGE,
  PROCEDURES,
  PROGRAM,
  PROGRAM_VERSION,
  STATUS,
  wireError,
  type ArgsOf,
  type EventName,
  type EventRow,
  type Procedure,
  type ProcedureName,
  type ReplyOf,
  type WireEvent,
} from './protocol.js';
import { RpcStream } from './stream.js';
import { decode, nothing, XdrError } from './xdr.js';

/**
 * Calls in flight per connection. The daemon stops reading a connection at `max_client_requests`, 5 by default,
 * so with 4 a fifth one (cancel, keepalive) still passes.
 */
export const IN_FLIGHT_MAX = 4;

/** Calls waiting for a place in flight. At 1 ms each a full queue is a quarter second; more is a jam, say so. */
export const QUEUE_MAX = 256;

/** Answering takes the daemon well under a second; it checks who we are and opens its drivers. */
export const HANDSHAKE_MS = 5000;

/** Node's timers fire at once beyond this (25 days), so "no deadline" means this. */
export const TIMER_MS_MAX = 2 ** 31 - 1;

/** A daemon that does not answer a good-bye in this time is left without one. */
export const GOODBYE_MS = 500;

/** libvirt's number for the feature "the daemon may ask whether we live". */
const FEATURE_KEEPALIVE = 10;

const AUTH_NONE = 0;

export interface ConnectionOptions {
  readonly socketPath: string;
  /** in place of the unix socket: a connection that is open and, where it is encrypted, through with that */
  readonly connectTo?: PeerConnector;
  /** what to open behind the socket */
  readonly uri?: string;
  readonly counters?: Counters;
  /** calls with a key run one at a time, over all connections that share this */
  readonly keys?: Keys;
  readonly inFlightMax?: number;
  readonly queueMax?: number;
  readonly onEvent?: (event: WireEvent) => void;
  /** an event came that cannot be read: something happened, and we do not know what */
  readonly onUnreadableEvent?: () => void;
  /** called once, however it ended */
  readonly onClose?: (error: LibvirtError) => void;
  /** called when a call passed its deadline without an answer, with how many there are now */
  readonly onLate?: (late: number) => void;
  /** called when nothing is in flight or waiting any more */
  readonly onIdle?: () => void;
}

export interface RpcCallOptions {
  readonly deadlineMs: number;
  /** at most one call per key is in flight; used with a domain's uuid so that one stuck QEMU costs one place */
  readonly key?: string;
}

/** Opens a connection to a daemon elsewhere. Rejects when that is not done within the time. */
export type PeerConnector = (deadlineMs: number) => Promise<Socket>;

interface Pending {
  readonly name: ProcedureName;
  readonly args: unknown;
  readonly key: string | undefined;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (value: Answer) => void;
  readonly reject: (error: LibvirtError) => void;
  /** the caller was told that the deadline passed; the place stays taken until the daemon answers */
  late: boolean;
  /** there from the beginning, because the daemon may send its data before the reply */
  stream: RpcStream | null;
}

interface Answer {
  readonly value: unknown;
  readonly stream: RpcStream | null;
}

type State = 'new' | 'opening' | 'open' | 'closed';

const EVENT_BY_NUMBER: ReadonlyMap<number, { kind: EventName; row: EventRow<unknown> }> = new Map(
  Object.entries(EVENTS).map(([kind, row]) => [row.number, { kind: kind as EventName, row }]),
);

/**
 * One connection to a libvirt daemon. It dies once: a socket error, a frame that cannot be read or an answer
 * to a question never asked closes it, and every call that waits is rejected. Reconnecting is DaemonLink's part.
 */
export class RpcConnection {
  readonly #options: ConnectionOptions;
  readonly #counters: Counters;
  readonly #keys: Keys;
  readonly #unsubscribe: () => void;
  readonly #splitter = new FrameSplitter();
  readonly #queue: Pending[] = [];
  readonly #inFlight = new Map<number, Pending>();
  readonly #streams = new Map<number, RpcStream>();
  #socket: Socket | null = null;
  #serial = 0;
  #late = 0;
  #state: State = 'new';
  #closeError: LibvirtError | null = null;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#counters = options.counters ?? new Counters();
    this.#keys = options.keys ?? new Keys();
    this.#unsubscribe = this.#keys.onRelease(() => this.#pump());
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /** calls whose deadline passed and that the daemon still has not answered */
  get late(): number {
    return this.#late;
  }

  get idle(): boolean {
    return this.#inFlight.size === 0 && this.#queue.length === 0 && this.#streams.size === 0;
  }

  /**
   * Connects, says who we are, opens the hypervisor.
   *
   * @throws LibvirtError `disconnected`, `denied`, `deadline`; then the connection is closed for good
   */
  async connect(deadlineMs = HANDSHAKE_MS): Promise<void> {
    this.#state = 'opening';
    const endsAt = performance.now() + deadlineMs;
    const left = (): { deadlineMs: number } => ({ deadlineMs: Math.max(1, endsAt - performance.now()) });
    try {
      await this.#connectSocket(deadlineMs);
      const { types } = await this.call('authList', undefined, left());
      if (!types.includes(AUTH_NONE)) {
        throw new LibvirtError(
          `the daemon at ${this.#options.socketPath} asks for authentication (types ${types.join(', ')}), only none is supported: set auth_unix_rw = "none" or connect as root`,
          { code: 'denied', outcome: 'refused', procedure: 'authList' },
        );
      }
      await this.call('connectSupportsFeature', { feature: FEATURE_KEEPALIVE }, left());
      await this.call('connectOpen', { name: this.#options.uri ?? 'qemu:///system', flags: 0 }, left());
      this.#state = 'open';
      this.#counters.connects++;
    } catch (e) {
      // The step that was late had only what the others left of the time.
      const late = e instanceof LibvirtError && e.code === 'deadline';
      const message = `the libvirt daemon did not open a connection within ${deadlineMs} ms`;
      const error = late ? new LibvirtError(message, { code: 'deadline', outcome: 'not-sent' }) : e;
      this.#shut(asLibvirtError(error, 'disconnected', 'not-sent'));
      throw error;
    }
  }

  async #connectSocket(deadlineMs: number): Promise<void> {
    const { connectTo, socketPath } = this.#options;
    const socket = connectTo === undefined ? connectSocket(socketPath) : await connectTo(deadlineMs);
    if (this.#closeError !== null) {
      socket.destroy();
      throw this.#closeError;
    }
    this.#socket = socket;
    return new Promise((resolve, reject) => {
      const lost = (what: string, code: LibvirtErrorCode, cause?: unknown): void => {
        const path = this.#options.socketPath;
        const outcome = 'not-sent';
        const error = new LibvirtError(`${what} (${path})`, {
          code,
          outcome,
          ...(cause === undefined ? {} : { cause }),
        });
        reject(error);
        this.#shut(error);
      };
      const timer = setTimeout(
        () => lost('no connection to the libvirt daemon in time', 'deadline'),
        deadlineMs,
      );
      const up = (): void => {
        clearTimeout(timer);
        resolve();
      };
      if (connectTo === undefined) socket.once('connect', up);
      else up();
      socket.on('data', (chunk) => this.#received(chunk));
      socket.on('error', (cause) => {
        clearTimeout(timer);
        lost('the connection to the libvirt daemon failed', 'disconnected', cause);
      });
      socket.on('close', () => {
        clearTimeout(timer);
        lost('the libvirt daemon closed the connection', 'disconnected');
      });
    });
  }

  /**
   * One call and its answer.
   *
   * @throws LibvirtError always; `outcome` says whether the daemon may have done it
   */
  async call<P extends ProcedureName>(
    name: P,
    args: ArgsOf<P>,
    options: RpcCallOptions,
  ): Promise<ReplyOf<P>> {
    return (await this.#enqueue(name, args, options)).value as ReplyOf<P>;
  }

  /** A call whose answer is followed by a stream. Give it a connection of its own: a slow reader pauses it. */
  async callStream<P extends ProcedureName>(
    name: P,
    args: ArgsOf<P>,
    options: RpcCallOptions,
  ): Promise<{ reply: ReplyOf<P>; stream: RpcStream }> {
    const { value, stream } = await this.#enqueue(name, args, options);
    if (stream === null) throw new TypeError(`${name} has no stream`);
    if (stream.errored) throw stream.errored;
    stream.off('error', ignore);
    return { reply: value as ReplyOf<P>, stream };
  }

  #enqueue(name: ProcedureName, args: unknown, { deadlineMs, key }: RpcCallOptions): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const refuse = (code: LibvirtErrorCode, why: string): void =>
        reject(
          new LibvirtError(`${name}: ${why}`, { code, outcome: 'not-sent', procedure: name, ...ofKey(key) }),
        );
      if (this.#state === 'closed') return refuse('disconnected', 'the connection is closed');
      if (this.#state === 'new') return refuse('disconnected', 'not connected yet');
      if (this.#queue.length >= (this.#options.queueMax ?? QUEUE_MAX)) {
        return refuse('overloaded', `${this.#queue.length} calls wait already`);
      }
      if (key !== undefined && this.#keys.isStuck(key)) {
        return refuse(
          'busy',
          `an earlier call on ${key} passed its deadline and the daemon has not answered it yet`,
        );
      }
      const pending: Pending = {
        name,
        args,
        key,
        resolve,
        reject,
        late: false,
        stream: null,
        timer: setTimeout(() => this.#expire(pending, deadlineMs), Math.min(deadlineMs, TIMER_MS_MAX)),
      };
      this.#queue.push(pending);
      this.#pump();
    });
  }

  /** sends what may go: places free, and no other call with the same key */
  #pump(): void {
    const max = this.#options.inFlightMax ?? IN_FLIGHT_MAX;
    if (this.#state === 'closed') return;
    for (let i = 0; i < this.#queue.length && this.#inFlight.size < max;) {
      const next = this.#queue[i];
      if (next === undefined) break;
      if (next.key !== undefined && !this.#keys.take(next.key)) {
        i++;
        continue;
      }
      this.#queue.splice(i, 1);
      this.#send(next);
    }
  }

  #send(pending: Pending): void {
    const row: Procedure<unknown, unknown> = PROCEDURES[pending.name];
    do this.#serial = (this.#serial + 1) % 0x100000000;
    while (this.#serial === 0 || this.#inFlight.has(this.#serial) || this.#streams.has(this.#serial));
    const serial = this.#serial;
    let bytes: Buffer;
    try {
      bytes = encodeFrame(headerOf(row, MESSAGE.call, serial, STATUS.ok), row.args, pending.args);
    } catch (error) {
      this.#release(pending);
      const fields = { code: 'invalid-argument', outcome: 'not-sent', procedure: pending.name } as const;
      return pending.reject(
        new LibvirtError(`${pending.name}: ${(error as Error).message}`, {
          ...fields,
          cause: error,
          ...ofKey(pending.key),
        }),
      );
    }
    this.#inFlight.set(serial, pending);
    if (row.stream) pending.stream = this.#openStream(row, serial);
    this.#socket?.write(bytes);
  }

  #expire(pending: Pending, deadlineMs: number): void {
    const waiting = this.#queue.indexOf(pending);
    if (waiting >= 0) this.#queue.splice(waiting, 1);
    const sent = waiting < 0;
    pending.reject(
      new LibvirtError(
        sent
          ? `${pending.name}: no answer of the libvirt daemon within ${Math.round(deadlineMs)} ms`
          : `${pending.name}: could not be sent within ${Math.round(deadlineMs)} ms, earlier calls are not answered`,
        {
          code: 'deadline',
          outcome: sent ? 'unknown' : 'not-sent',
          procedure: pending.name,
          ...ofKey(pending.key),
        },
      ),
    );
    count(this.#counters.failed, pending.name);
    if (!sent) return;
    pending.late = true;
    this.#late++;
    if (pending.key !== undefined) this.#keys.markStuck(pending.key);
    this.#options.onLate?.(this.#late);
  }

  #release(pending: Pending): void {
    clearTimeout(pending.timer);
    if (pending.late) this.#late--;
    if (pending.key !== undefined) this.#keys.release(pending.key);
  }

  #received(chunk: Buffer): void {
    try {
      for (const frame of this.#splitter.push(chunk)) {
        if (this.#state === 'closed') return;
        this.#dispatch(frame);
      }
    } catch (error) {
      this.#counters.unreadable++;
      this.#shut(
        new LibvirtError(`cannot read what the libvirt daemon sent: ${(error as Error).message}`, {
          code: 'protocol',
          outcome: 'unknown',
          cause: error,
        }),
      );
    }
  }

  #dispatch({ header, body }: Frame): void {
    if (header.version !== PROGRAM_VERSION) throw new XdrError(`program version ${header.version}`);
    if (header.program === PROGRAM.keepalive) return this.#keepalive(header);
    if (header.program !== PROGRAM.remote && header.program !== PROGRAM.qemu) {
      throw new XdrError(`unknown program 0x${header.program.toString(16)}`);
    }
    switch (header.type) {
      case MESSAGE.reply:
        return this.#reply(header, body);
      case MESSAGE.event:
        return this.#event(header, body);
      case MESSAGE.stream:
        return this.#streamData(header, body);
      default:
        throw new XdrError(`unexpected message type ${header.type}`);
    }
  }

  #keepalive(header: Header): void {
    if (header.procedure !== KEEPALIVE.ping) return;
    this.#counters.pongs++;
    this.#socket?.write(encodeFrame({ ...header, procedure: KEEPALIVE.pong }, nothing, undefined));
  }

  #reply(header: Header, body: Buffer): void {
    const pending = this.#inFlight.get(header.serial);
    if (pending === undefined) throw new XdrError(`reply with serial ${header.serial}, which no call has`);
    const row: Procedure<unknown, unknown> = PROCEDURES[pending.name];
    if (header.procedure !== row.number || header.program !== PROGRAM[row.program]) {
      throw new XdrError(
        `reply for procedure ${header.procedure}, but call ${header.serial} was ${pending.name}`,
      );
    }
    if (header.status !== STATUS.ok && header.status !== STATUS.error) {
      throw new XdrError(`reply with status ${header.status}`);
    }
    const failed = header.status === STATUS.error;
    // decode first: when it throws, the call is still in the table and is rejected with the rest
    const value = failed ? errorOf(body, pending.name, pending.key) : decode(row.reply, body);
    this.#inFlight.delete(header.serial);
    this.#release(pending);
    const { stream } = pending;
    if (value instanceof LibvirtError) {
      this.#streams.delete(header.serial);
      stream?.destroy();
      if (!pending.late) count(this.#counters.failed, pending.name);
      pending.reject(value);
    } else {
      count(this.#counters.answered, pending.name);
      stream?.begin();
      if (pending.late) stream?.destroy();
      pending.resolve({ value, stream });
    }
    this.#pump();
    if (this.idle) this.#options.onIdle?.();
  }

  #event(header: Header, body: Buffer): void {
    const known = header.program === PROGRAM.remote ? EVENT_BY_NUMBER.get(header.procedure) : undefined;
    try {
      if (known === undefined) throw new XdrError(`unknown event ${header.procedure}`);
      const event = { kind: known.kind, body: decode(known.row.body, body) } as WireEvent;
      count(this.#counters.events, known.kind);
      this.#options.onEvent?.(event);
    } catch (error) {
      if (!(error instanceof XdrError)) throw error;
      this.#counters.unreadable++;
      this.#options.onUnreadableEvent?.();
    }
  }

  #openStream(row: Procedure<unknown, unknown>, serial: number): RpcStream {
    const send = (status: number, data: Buffer | null, done?: (error?: Error | null) => void): void => {
      const socket = this.#socket;
      if (socket === null || this.#state === 'closed' || !this.#streams.has(serial)) return done?.();
      const head = encodeHead(headerOf(row, MESSAGE.stream, serial, status), data?.length ?? 0);
      if (data === null) return void socket.write(head, done);
      socket.cork();
      socket.write(head);
      socket.write(data, done);
      socket.uncork();
    };
    const stream = new RpcStream({
      send: (data, done) => send(STATUS.continue, data, done),
      finish: () => send(STATUS.ok, null),
      abort: () => {
        this.#socket?.resume();
        send(STATUS.error, null);
      },
      pause: () => void this.#socket?.pause(),
      resume: () => void this.#socket?.resume(),
    });
    // nobody holds it before the reply
    stream.on('error', ignore);
    this.#streams.set(serial, stream);
    return stream;
  }

  #streamData(header: Header, body: Buffer): void {
    const stream = this.#streams.get(header.serial);
    if (stream === undefined)
      throw new XdrError(`stream data with serial ${header.serial}, which no stream has`);
    switch (header.status) {
      case STATUS.continue:
        return stream.arrived(body);
      case STATUS.ok:
        this.#streams.delete(header.serial);
        stream.finished();
        break;
      case STATUS.error:
        this.#streams.delete(header.serial);
        stream.failed(errorOf(body, 'stream', undefined));
        break;
      default:
        throw new XdrError(`stream data with status ${header.status}`);
    }
    if (this.idle) this.#options.onIdle?.();
  }

  /** says good-bye to the daemon, then closes */
  async end(): Promise<void> {
    if (this.#state === 'open')
      await this.call('connectClose', undefined, { deadlineMs: GOODBYE_MS }).catch(() => undefined);
    this.close();
  }

  /** ends the connection; what waits is rejected with `closed` */
  close(why = 'the connection was closed by this process'): void {
    this.#shut(new LibvirtError(why, { code: 'closed', outcome: 'unknown' }));
  }

  /** ends the connection for the given reason */
  giveUp(error: LibvirtError): void {
    this.#shut(error);
  }

  #shut(error: LibvirtError): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#closeError = error;
    this.#unsubscribe();
    const sent = [...this.#inFlight.values()];
    const waiting = this.#queue.splice(0);
    this.#inFlight.clear();
    for (const pending of sent) this.#drop(pending, error, 'unknown');
    for (const pending of waiting) this.#drop(pending, error, 'not-sent');
    for (const stream of this.#streams.values()) {
      // closed by ourselves is no error that a reader without a handler should die of
      if (error.code === 'closed') stream.destroy();
      else stream.failed(error);
    }
    this.#streams.clear();
    this.#socket?.destroy();
    this.#options.onClose?.(error);
  }

  #drop(pending: Pending, cause: LibvirtError, outcome: 'unknown' | 'not-sent'): void {
    if (outcome === 'unknown') this.#release(pending);
    else clearTimeout(pending.timer);
    if (pending.late) return;
    count(this.#counters.failed, pending.name);
    const fields = { code: cause.code, outcome, procedure: pending.name, cause, ...ofKey(pending.key) };
    pending.reject(new LibvirtError(`${pending.name}: ${cause.message}`, fields));
  }

  /** why it is closed, or null */
  get closeError(): LibvirtError | null {
    return this.#closeError;
  }
}

function headerOf(row: Procedure<unknown, unknown>, type: number, serial: number, status: number): Header {
  return {
    program: PROGRAM[row.program],
    version: PROGRAM_VERSION,
    procedure: row.number,
    type,
    serial,
    status,
  };
}

function ignore(): void {
  // an error that comes before anybody holds the stream is thrown by callStream
}

function ofKey(key: string | undefined): { domainId?: string } {
  return key === undefined ? {} : { domainId: key };
}

function errorOf(body: Buffer, procedure: string, key: string | undefined): LibvirtError {
  const wire = decode(wireError, body);
  return new LibvirtError(wire.message ?? `libvirt error ${wire.code}`, {
    code: codeOfNumber(wire.code),
    outcome: 'refused',
    libvirtCode: wire.code,
    libvirtDomain: wire.domain,
    level: wire.level,
    procedure,
    ...ofKey(key),
  });
}

function asLibvirtError(
  error: unknown,
  code: LibvirtErrorCode,
  outcome: 'not-sent' | 'unknown',
): LibvirtError {
  if (error instanceof LibvirtError) return error;
  return new LibvirtError('the libvirt connection failed', { code, outcome, cause: error });
}
