import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import { FlotillaError } from '../../core/domain/error.js';
import type { TlsMaterial } from '../pki/tls.js';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Deadline of one ledger call, ms. A member cut off from its peers holds a request for 7 s before it says so;
 * an election takes about 1.3 s. Two seconds outlive the second and not the first.
 * @see gossip-consensus 2.2, measured on etcd 3.4
 */
export const callDeadlineMs = 2_000;

/**
 * How much of a call's deadline one endpoint may use for a read, or for the connection of a write, before the next one is
 * tried: 650 ms of 2 s. Normal answers take 2 to 100 ms; all of three endpoints are tried within the deadline.
 */
const attemptShare = 0.325;

/** Largest answer taken, bytes: a page of {@link pageKeys} records of 64 kB in base64 is 43 MB. */
const answerBytesMax = 64 * 2 ** 20;

/** Sockets per endpoint: callers beyond wait, within their deadline. */
const socketsMax = 16;

/** Idle time after which the kernel probes a watch's connection, ms: a dead peer is noticed about 10 s later. */
const probeAfterMs = 5_000;

/**
 * What is known of a failed call. `not-sent`: no member saw it. `refused`: a member said no and did nothing.
 * `unknown`: it was sent and no answer came, so it may have been done. Only the first two may be repeated.
 */
export type CallOutcome = 'not-sent' | 'refused' | 'unknown';

/** A failed attempt at one endpoint; {@link Gateway} turns the last one into a FlotillaError. */
export class AttemptError extends Error {
  override readonly name = 'AttemptError';
  readonly outcome: CallOutcome;
  /** The gRPC status code of etcd's answer; null where there was no answer. */
  readonly grpcCode: number | null;
  /** A machine is there, and its handshake or answer took too long. */
  readonly late: boolean;

  constructor(message: string, o: Partial<AttemptError> & Pick<AttemptError, 'outcome'>) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause });
    this.outcome = o.outcome;
    this.grpcCode = o.grpcCode ?? null;
    this.late = o.late ?? false;
  }
}

export interface GatewayOptions {
  /** `https://address:port`, the preferred one first. */
  readonly endpoints: readonly string[];
  readonly tls: TlsMaterial | null;
  readonly deadlineMs?: number;
  /** Allows `http://` endpoints. For tests: without TLS anybody on the network writes the ledger. */
  readonly insecureForTests?: boolean;
}

export interface CallOptions {
  /** `read` (also: anything that may be done twice) is tried at each endpoint; `write` only until it was sent. */
  readonly kind: 'read' | 'write';
  readonly deadlineMs?: number;
  /** Time for the rest of a long answer once it has begun, besides the deadline, ms. */
  readonly bodyMs?: number;
  /** Only this endpoint: for questions about one member, which it answers without a leader too. */
  readonly endpoint?: string;
}

/** An open answer that goes on: a watch or a snapshot. */
export interface OpenStream {
  readonly body: http.IncomingMessage;
  readonly endpoint: string;
  close(): void;
}

/** A member without a leader refuses at once, and ends its watches, instead of hanging. */
const needsLeader = { 'Grpc-Metadata-hasleader': 'true' };

/**
 * Answers of etcd after which nothing was done, for certain: they are given before a proposal enters the log.
 * Everything else that fails leaves a write's outcome unknown.
 */
const refusedBeforehand = [
  'etcdserver: no leader',
  'etcdserver: not leader',
  'etcdserver: too many requests',
  'etcdserver: request is too large',
  'etcdserver: not capable',
  'rpc not supported for learner',
];

/** gRPC codes that mean the request itself was judged: InvalidArgument, NotFound, AlreadyExists, PermissionDenied, ResourceExhausted, FailedPrecondition, OutOfRange, Unimplemented, Unauthenticated. */
const judgedCodes: ReadonlySet<number> = new Set([3, 5, 6, 7, 8, 9, 11, 12, 16]);

/** An election makes the own member refuse for a moment, too. Whoever stays with another node's waits when that dies, ms. */
const homeMs = 2_000;
/** How long {@link Gateway.prefer} looks for a member that answers, and how far the first of the list is ahead, ms. */
const preferMs = 700;
const headStartMs = 100;

/**
 * etcd's JSON gateway over HTTP/1.1 with several endpoints: stays with the one that answers, goes to the next on
 * error, and gives every call a deadline. Knows nothing of keys.
 */
export class Gateway {
  #endpoints: readonly string[];
  #current = 0;
  #agent: http.Agent;
  #streamAgent: http.Agent;
  #tls: TlsMaterial | null;
  /** Of a call that names none, ms. */
  readonly deadlineMs: number;
  #homeDueMs = 0;
  readonly #insecure: boolean;
  #closed = false;
  /** Sockets whose handshake is over: only what went to one of these can have been seen by a member. */
  readonly #ready = new WeakSet<Socket>();

  constructor(o: GatewayOptions) {
    this.#insecure = o.insecureForTests === true;
    this.#tls = o.tls;
    this.deadlineMs = o.deadlineMs ?? callDeadlineMs;
    this.#endpoints = this.#check(o.endpoints);
    [this.#agent, this.#streamAgent] = this.#agents();
  }

  get endpoints(): readonly string[] {
    return this.#endpoints;
  }

  /** The endpoint that calls go to first now. */
  get current(): string {
    return this.#endpoints[this.#current % this.#endpoints.length] ?? '';
  }

  /** Replaces the list; stays with the current endpoint where it is still in it. */
  setEndpoints(endpoints: readonly string[]): void {
    const was = this.current;
    this.#endpoints = this.#check(endpoints);
    this.#current = Math.max(0, this.#endpoints.indexOf(was));
  }

  /** New certificate for new connections. Old connections end with their request. */
  setTls(tls: TlsMaterial): void {
    this.#tls = tls;
    const old = [this.#agent, this.#streamAgent];
    [this.#agent, this.#streamAgent] = this.#agents();
    for (const a of old) for (const s of Object.values(a.freeSockets).flat()) s?.destroy();
  }

  close(): void {
    this.#closed = true;
    this.#agent.destroy();
    this.#streamAgent.destroy();
  }

  /** Moves on from an endpoint that misbehaves, unless somebody already did. */
  leave(endpoint: string): void {
    if (this.current !== endpoint) return;
    this.#current = (this.#current + 1) % this.#endpoints.length;
    this.#homeDueMs = performance.now() + homeMs;
  }

  /**
   * Has calls go first to one that answers now, the first of the list where it does: the very first call of a program
   * should not wait for a member that is gone. Where none answers all stays as it is.
   */
  async prefer(): Promise<void> {
    const { current: first } = this;
    const asked = this.#endpoints.map(async (endpoint) => {
      await sleep(endpoint === first ? 0 : headStartMs);
      return this.#asks(endpoint).then(() => endpoint);
    });
    const found = await Promise.any(asked).catch(() => null);
    if (found !== null && this.current === first) this.#current = this.#endpoints.indexOf(found);
  }

  /** A small read of one member: whether it answers, and has a leader. */
  #asks(endpoint: string): Promise<unknown> {
    return this.call('/v3/kv/range', { key: 'AA==' }, { kind: 'read', endpoint, deadlineMs: preferMs });
  }

  /** Goes back to the first of the list when it answers again. Never waits. */
  #goHome(): void {
    const [first] = this.#endpoints;
    if (first === undefined || this.current === first || performance.now() < this.#homeDueMs) return;
    this.#homeDueMs = performance.now() + homeMs;
    void this.#asks(first).then(
      () => (this.#current = Math.max(0, this.#endpoints.indexOf(first))),
      () => undefined,
    );
  }

  /**
   * One unary call.
   *
   * @throws FlotillaError `ledger-unavailable` with details `{outcome}`: see {@link CallOutcome}
   * @throws FlotillaError `ledger-full`: etcd's quota is used up; nothing was done
   * @throws AttemptError with a gRPC code: etcd understood and said no (lease not found, compacted, ...)
   */
  async call(path: string, body: unknown, o: CallOptions): Promise<unknown> {
    const text = JSON.stringify(body);
    const deadlineMs = o.deadlineMs ?? this.deadlineMs;
    const endMs = performance.now() + deadlineMs;
    const tries = o.endpoint === undefined ? this.#endpoints.length : 1;
    if (o.endpoint === undefined) this.#goHome();
    let last = new AttemptError('no endpoint is known', { outcome: 'not-sent' });
    for (let i = 0; i < tries; i++) {
      const endpoint = o.endpoint ?? this.current;
      const leftMs = endMs - performance.now();
      if (this.#closed || leftMs <= 0) break;
      // The last endpoint may use all the time that is left.
      const slice = i === tries - 1 ? leftMs : Math.min(leftMs, deadlineMs * attemptShare);
      try {
        return await this.#attempt(endpoint, path, text, {
          connectMs: slice,
          // A write that was sent is waited for: nobody else may be asked then.
          answerMs: o.kind === 'read' ? slice : leftMs,
          totalMs: leftMs + (o.bodyMs ?? 0),
          leader: o.endpoint === undefined,
        });
      } catch (error) {
        if (!(error instanceof AttemptError)) throw error;
        last = error;
        if (error.grpcCode === 8 && error.message.includes('space exceeded')) throw full(error);
        if (error.grpcCode !== null && judgedCodes.has(error.grpcCode) && !isElsewhere(error)) throw error;
        if (o.endpoint === undefined) this.leave(endpoint);
        if (o.kind === 'write' && error.outcome === 'unknown') break;
      }
    }
    throw unavailable(last, this.#endpoints);
  }

  /** Opens an answer that goes on. The request's body is ended: with it open the gateway sends nothing. */
  async stream(path: string, body: unknown, o: { openMs?: number } = {}): Promise<OpenStream> {
    const endpoint = this.current;
    const req = this.#request(endpoint, path, this.#streamAgent, needsLeader);
    const openMs = o.openMs ?? this.deadlineMs;
    return await new Promise<OpenStream>((resolve, reject) => {
      const fail = (message: string, cause?: unknown) => {
        req.destroy();
        this.leave(endpoint);
        reject(
          unavailable(new AttemptError(`${endpoint}: ${message}`, { outcome: 'unknown', cause }), [endpoint]),
        );
      };
      const timer = setTimeout(() => fail(`did not answer within ${openMs} ms`), openMs);
      req.on('socket', (s) => s.setKeepAlive(true, probeAfterMs));
      req.on('error', (cause) => {
        clearTimeout(timer);
        fail('connection failed', cause);
      });
      req.on('response', (res) => {
        clearTimeout(timer);
        if (res.statusCode !== 200) {
          res.resume();
          fail(`HTTP status ${res.statusCode}`);
          return;
        }
        resolve({ body: res, endpoint, close: () => req.destroy() });
      });
      req.end(JSON.stringify(body));
    });
  }

  #check(endpoints: readonly string[]): readonly string[] {
    if (endpoints.length === 0) throw new Error('the ledger needs at least one endpoint');
    for (const e of endpoints) {
      const url = new URL(e);
      if (url.protocol === 'https:' || (url.protocol === 'http:' && this.#insecure)) continue;
      throw new FlotillaError('bad-input', `The ledger endpoint ${url.protocol}//${url.host} is not https`, {
        hint: 'Write https://address:2379 into cluster.json.',
      });
    }
    return endpoints.map((e) => e.replace(/\/+$/, ''));
  }

  #agents(): [http.Agent, http.Agent] {
    const common = {
      keepAlive: true,
      ...(this.#insecure ? {} : { ...this.#tls, minVersion: 'TLSv1.2' as const }),
    };
    const make = (maxSockets: number) =>
      this.#insecure ? new http.Agent({ ...common, maxSockets }) : new https.Agent({ ...common, maxSockets });
    return [make(socketsMax), make(Infinity)];
  }

  #request(endpoint: string, path: string, agent: http.Agent, headers: http.OutgoingHttpHeaders) {
    const o = { method: 'POST', agent, headers: { 'Content-Type': 'application/json', ...headers } };
    return this.#insecure ? http.request(endpoint + path, o) : https.request(endpoint + path, o);
  }

  #attempt(
    endpoint: string,
    path: string,
    text: string,
    o: { connectMs: number; answerMs: number; totalMs: number; leader: boolean },
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      let [reached, connected, answered, over] = [false, false, false, false];
      const headers = { 'Content-Length': Buffer.byteLength(text), ...(o.leader ? needsLeader : {}) };
      const req = this.#request(endpoint, path, this.#agent, headers);
      const fail = (message: string, cause?: unknown) => {
        over = true;
        for (const timer of timers) clearTimeout(timer);
        req.destroy();
        const outcome: CallOutcome = connected ? 'unknown' : 'not-sent';
        const late = reached && !answered && cause === undefined;
        reject(new AttemptError(`${endpoint}: ${message}`, { outcome, late, cause }));
      };
      // What came while this program itself stood still is read before it is called late.
      const within = (ms: number, what: string, came: () => boolean) => {
        const judge = (): void => void (over || came() || fail(`no ${what} within ${Math.round(ms)} ms`));
        return setTimeout(() => setImmediate(judge), ms);
      };
      const timers = [
        within(o.connectMs, 'connection', () => connected),
        within(o.answerMs, 'answer', () => answered),
        within(o.totalMs, 'whole answer', () => over),
      ];
      req.on('socket', (socket) => {
        if (this.#ready.has(socket)) reached = connected = true;
        else {
          socket.once('connect', () => (reached = true));
          socket.once(this.#insecure ? 'connect' : 'secureConnect', () => {
            this.#ready.add(socket);
            connected = true;
          });
        }
      });
      req.on('error', (cause) => fail(cause.message, cause));
      req.on('response', (res) => {
        connected = true;
        answered = true;
        const chunks: Buffer[] = [];
        let size = 0;
        res.on('data', (chunk: Buffer) => {
          size += chunk.length;
          if (size > answerBytesMax) fail(`answer above ${answerBytesMax} bytes`);
          else chunks.push(chunk);
        });
        res.on('error', (cause) => fail(cause.message, cause));
        res.on('close', () => {
          if (!res.complete) fail('answer cut off');
        });
        res.on('end', () => {
          over = true;
          for (const timer of timers) clearTimeout(timer);
          try {
            resolve(readAnswer(endpoint, res.statusCode ?? 0, Buffer.concat(chunks).toString('utf8')));
          } catch (error) {
            reject(error instanceof Error ? error : new Error(String(error)));
          }
        });
      });
      req.end(text);
    });
  }
}

/** True where another member may well say yes: this one is a learner, or has lost its leader. */
function isElsewhere(error: AttemptError): boolean {
  return /rpc not supported for learner|no leader|not leader|too many requests|server stopped|timed out/.test(
    error.message,
  );
}

function readAnswer(endpoint: string, status: number, text: string): unknown {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw new AttemptError(`${endpoint}: HTTP status ${status}, not JSON`, { outcome: 'unknown', cause });
  }
  const problem = gatewayError(body);
  if (status === 200 && problem === null) return body;
  const message = problem?.message ?? `HTTP status ${status}`;
  const grpcCode = problem?.code ?? null;
  const refused =
    (grpcCode !== null && judgedCodes.has(grpcCode)) || refusedBeforehand.some((s) => message.includes(s));
  throw new AttemptError(`${endpoint}: ${message}`, { outcome: refused ? 'refused' : 'unknown', grpcCode });
}

/** The gateway's error: `{code, message}` (3.5), `{error, code}` (3.4), or in a stream `{error: {grpc_code, message}}`. */
export function gatewayError(body: unknown): { code: number; message: string } | null {
  if (typeof body !== 'object' || body === null) return null;
  const b = body as { error?: unknown; code?: unknown; grpc_code?: unknown; message?: unknown };
  if (typeof b.error === 'object' && b.error !== null) return gatewayError({ code: 2, ...b.error });
  const text = b.message ?? b.error;
  if (typeof text !== 'string') return null;
  const code = Number(b.grpc_code ?? b.code ?? 2);
  return { code: Number.isInteger(code) ? code : 2, message: text };
}

function full(cause: AttemptError): FlotillaError {
  return new FlotillaError('ledger-full', 'The ledger is full: etcd takes no more writes', {
    hint: 'The voters compact and defragment by themselves; remove what is not needed and see the health page.',
    details: { outcome: 'refused' },
    cause,
  });
}

function unavailable(last: AttemptError, endpoints: readonly string[]): FlotillaError {
  const unknown = last.outcome === 'unknown';
  return new FlotillaError('ledger-unavailable', `The ledger did not answer (${endpoints.join(', ')})`, {
    hint: unknown
      ? 'It may or may not have been done: look at the object before asking again. Check the voters on any node page.'
      : 'Nothing was changed. Check that a majority of the voters runs; any node page shows them.',
    details: { outcome: last.outcome },
    cause: last,
  });
}
