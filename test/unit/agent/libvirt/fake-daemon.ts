import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeFrame, FrameSplitter, type Frame, type Header } from '../../../../agent/libvirt/frame.js';
import {
  MESSAGE,
  PROCEDURES,
  PROGRAM,
  STATUS,
  wireError,
  type Procedure,
  type ProcedureName,
} from '../../../../agent/libvirt/protocol.js';
import { decode, nothing, type Codec } from '../../../../agent/libvirt/xdr.js';

/** One call as it reached the fake; the test answers when it likes, or never. */
export interface Arrived {
  readonly name: ProcedureName;
  readonly args: unknown;
  readonly header: Header;
  readonly socket: Socket;
}

const NAMES = new Map(
  Object.entries(PROCEDURES).map(([name, row]) => [
    `${PROGRAM[row.program]} ${row.number}`,
    name as ProcedureName,
  ]),
);

/**
 * A daemon on a unix socket that does only what the test says. Opening a connection is answered by itself;
 * everything else waits in `arrived`. It throws on a procedure it does not know.
 */
export class FakeDaemon {
  readonly #folder = mkdtempSync(join(tmpdir(), 'fake-libvirt-'));
  readonly socketPath = join(this.#folder, 'sock');
  readonly arrived: Arrived[] = [];
  readonly streamFrames: Frame[] = [];
  readonly pongs: Frame[] = [];
  readonly sockets = new Set<Socket>();
  authTypes: number[] = [0];
  /** open connections but answer nothing at all */
  mute = false;
  /** let connections wait in their opening until {@link release} */
  hold = false;
  readonly #held: Arrived[] = [];
  #server: Server | null = null;
  readonly #waiting = new Set<() => void>();

  async listen(): Promise<void> {
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.socketPath, resolve));
  }

  #accept(socket: Socket): void {
    const splitter = new FrameSplitter();
    this.sockets.add(socket);
    socket.on('error', () => undefined);
    const wake = (): void => {
      for (const look of this.#waiting) look();
    };
    socket.on('close', () => {
      this.sockets.delete(socket);
      wake();
    });
    socket.on('data', (chunk) => {
      for (const frame of splitter.push(chunk)) this.#received(socket, frame);
      wake();
    });
  }

  #received(socket: Socket, frame: Frame): void {
    const { header, body } = frame;
    if (header.program === PROGRAM.keepalive) return void this.pongs.push(frame);
    if (header.type === MESSAGE.stream) return void this.streamFrames.push(frame);
    const name = NAMES.get(`${header.program} ${header.procedure}`);
    if (name === undefined) throw new Error(`the fake does not know procedure ${header.procedure}`);
    const row: Procedure<unknown, unknown> = PROCEDURES[name];
    const call: Arrived = { name, args: decode(row.args, body), header, socket };
    if (this.mute) return void this.arrived.push(call);
    if (this.hold && name === 'authList') return void this.#held.push(call);
    this.#answer(call);
  }

  release(): void {
    this.hold = false;
    for (const call of this.#held.splice(0)) this.#answer(call);
  }

  #answer(call: Arrived): void {
    switch (call.name) {
      case 'authList':
        return this.reply(call, { types: this.authTypes });
      case 'connectSupportsFeature':
        return this.reply(call, { supported: 1 });
      case 'connectOpen':
      case 'connectClose':
        return this.reply(call, undefined);
      case 'connectDomainEventCallbackRegisterAny':
        return this.reply(call, { callbackId: 1 });
      default:
        this.arrived.push(call);
    }
  }

  /** waits until the fake has seen what the test waits for */
  async until(what: string, done: () => boolean): Promise<void> {
    if (done()) return;
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        if (!done()) return;
        this.#waiting.delete(look);
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => reject(new Error(`the fake never saw: ${what}`)), 10_000);
      this.#waiting.add(look);
    });
  }

  /** the n-th call that waits for an answer */
  async call(n: number): Promise<Arrived> {
    await this.until(`call ${n}`, () => this.arrived.length > n);
    const call = this.arrived[n];
    if (call === undefined) throw new Error('unreachable');
    return call;
  }

  reply(call: Arrived, value: unknown): void {
    const row: Procedure<unknown, unknown> = PROCEDURES[call.name];
    this.send(call.socket, { ...call.header, type: MESSAGE.reply }, row.reply, value);
  }

  refuse(call: Arrived, code: number, message: string): void {
    this.#error(call, MESSAGE.reply, code, message);
  }

  streamError(call: Arrived, code: number, message: string): void {
    this.#error(call, MESSAGE.stream, code, message);
  }

  #error(call: Arrived, type: number, code: number, message: string): void {
    const header = { ...call.header, type, status: STATUS.error };
    const none = { dom: null, str1: null, str2: null, str3: null, int1: 0, int2: 0, net: null };
    this.send(call.socket, header, wireError, { code, domain: 10, message, level: 2, ...none });
  }

  send<T>(socket: Socket, header: Header, codec: Codec<T>, value: T): void {
    socket.write(encodeFrame(header, codec, value));
  }

  /** stream data, or the end of it */
  stream(call: Arrived, status: number, data: Buffer): void {
    const head = encodeFrame({ ...call.header, type: MESSAGE.stream, status }, nothing, undefined);
    head.writeUInt32BE(head.length + data.length, 0);
    call.socket.write(Buffer.concat([head, data]));
  }

  drop(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.drop();
    await new Promise<void>((resolve) =>
      this.#server === null ? resolve() : this.#server.close(() => resolve()),
    );
    this.#server = null;
  }

  async dispose(): Promise<void> {
    await this.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
