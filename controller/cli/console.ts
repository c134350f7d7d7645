import type { ReadStream } from 'node:tty';
import type { Command } from 'commander';
import { WebSocket } from 'ws';
import { FlotillaError, errorRecord, type ErrorCode } from '../../core/domain/error.js';
import {
  apiRoot,
  consoleClosed,
  consoleHistoryMax,
  consoleProtocols,
  restStreams,
} from '../../core/wire/rest.js';
import type { Io } from './io.js';
import { readTarget } from './session.js';

/** Ctrl-], as telnet and virsh have it. */
const leave = 0x1d;
const againMs = [250, 500, 1_000, 2_000] as const;
/** Refusals that the next try will meet again. */
const final: readonly ErrorCode[] = [
  'not-found',
  'forbidden',
  'unauthenticated',
  'token-unknown',
  'token-expired',
  'bad-input',
];

export function consoleCommand(program: Command, io: Io): void {
  program
    .command('console')
    .description('a VM’s serial console; Ctrl-] leaves. It goes on by itself after a migration or failover')
    .argument('<vm>', 'name or id')
    .option('--no-history', 'without what the machine said before')
    .action(async (vm: string, o: { history: boolean }) => {
      const session = new Session(io, vm, o.history);
      await session.run();
    });
}

/** One look at a console, from the first connection to Ctrl-]. */
class Session {
  private readonly io: Io;
  private readonly vm: string;
  private history: boolean;
  private readonly ended = new AbortController();
  private ws: WebSocket | null = null;
  private node: string | null = null;

  constructor(io: Io, vm: string, history: boolean) {
    this.io = io;
    this.vm = vm;
    this.history = history;
  }

  async run(): Promise<void> {
    const { stdin, signal } = this.io.terminal;
    const raw = (stdin as Partial<ReadStream>).isTTY === true ? (stdin as ReadStream) : null;
    const stop = (): void => {
      this.ended.abort();
      this.ws?.close();
    };
    const typed = (bytes: Buffer | string): void => {
      const all = Buffer.from(bytes);
      const at = raw === null ? -1 : all.indexOf(leave);
      const some = at < 0 ? all : all.subarray(0, at);
      if (some.length > 0 && this.ws?.readyState === WebSocket.OPEN) this.ws.send(some);
      if (at >= 0) stop();
    };
    signal.addEventListener('abort', stop, { once: true });
    try {
      for (let tries = 0; !this.ended.signal.aborted;) {
        const opened = await this.once(() => {
          if (tries === 0 && this.node === null) {
            raw?.setRawMode(true);
            stdin.on('data', typed);
          }
        });
        tries = opened ? 0 : tries + 1;
        await pause(againMs[Math.min(tries, againMs.length - 1)] ?? 0, this.ended.signal);
      }
    } finally {
      stdin.off('data', typed);
      stdin.pause();
      raw?.setRawMode(false);
      this.io.say('\r\n');
    }
  }

  /** @returns whether it was open */
  private async once(onOpen: () => void): Promise<boolean> {
    const { terminal } = this.io;
    const client = await this.io.client();
    const { server } = await readTarget(terminal.env);
    let ticket: { ticket: string; node: string };
    try {
      const history = this.history ? consoleHistoryMax : 0;
      ticket = await client.call('vmConsole', { params: { vm: this.vm }, body: { kind: 'serial', history } });
    } catch (error) {
      // Whoever never saw it wants to know why; whoever did waits for it to come back.
      if (this.node === null || final.includes(errorRecord(error).code)) throw error;
      return false;
    }
    const url = `${server.replace(/^https/, 'wss')}${apiRoot}${restStreams.console}`;
    const ws = new WebSocket(
      url,
      consoleProtocols(ticket.ticket),
      client.ca === null ? {} : { ca: client.ca },
    );
    this.ws = ws;
    if (this.ended.signal.aborted) ws.close();
    return new Promise((resolve, reject) => {
      let opened = false;
      ws.on('open', () => {
        opened = true;
        onOpen();
        if (this.node !== ticket.node) this.io.say(`[${this.vm} on ${ticket.node}; Ctrl-] leaves]\r\n`);
        this.node = ticket.node;
        this.history = false;
      });
      ws.on('message', (bytes: Buffer) => terminal.write(bytes));
      ws.on('error', (cause) => {
        if (opened || this.node !== null) return;
        reject(
          new FlotillaError('node-unreachable', 'The controller does not open the console', {
            hint: 'Is a proxy in between that knows no websockets?',
            cause,
          }),
        );
      });
      ws.on('close', (code, reason) => {
        if (code === consoleClosed.forbidden)
          reject(
            new FlotillaError('forbidden', `The console was closed: ${reason.toString()}`, {
              hint: 'Log in again.',
            }),
          );
        else resolve(opened);
      });
    });
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
