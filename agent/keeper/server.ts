import { chmodSync, rmSync } from 'node:fs';
import net from 'node:net';
import type { KeeperState, Log } from '../env.js';
import type { Keeper } from './keeper.js';
import { lines, lineMax, readToKeeper, refusal, wireState, type FromKeeper } from './protocol.js';

/** The keeper's socket: pushes each state, takes what the agent asks. For root only. */
export class KeeperServer {
  readonly #path: string;
  readonly #log: Log;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  #keeper: Keeper | null = null;

  constructor(o: { path: string; log: Log }) {
    this.#path = o.path;
    this.#log = o.log;
    this.#server = net.createServer((s) => this.#serve(s));
  }

  async start(keeper: Keeper): Promise<void> {
    this.#keeper = keeper;
    rmSync(this.#path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.#path, resolve);
    });
    chmodSync(this.#path, 0o600);
    this.#server.on('error', (e) => this.#log.error(`the keeper's socket: ${e.message}`));
  }

  publish(s: KeeperState): void {
    for (const socket of this.#sockets) send(socket, { state: wireState(s) });
  }

  stop(): void {
    this.#server.close();
    for (const s of this.#sockets) s.destroy();
  }

  #serve(socket: net.Socket): void {
    const keeper = this.#keeper;
    if (keeper === null) return void socket.destroy();
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.setEncoding('utf8');
    const take = lines((line) => this.#take(keeper, socket, line));
    socket.on('data', (piece: string) => {
      try {
        take(piece);
      } catch {
        socket.destroy();
      }
    });
    send(socket, { state: wireState(keeper.state()) });
  }

  #take(keeper: Keeper, socket: net.Socket, line: string): void {
    const m = readToKeeper(line);
    if (m === null) {
      this.#log.warn('the keeper was told something it does not know');
      socket.destroy();
    } else if ('beat' in m) keeper.beat();
    else if ('disarm' in m) {
      keeper.disarm(m.disarm);
      send(socket, { re: m.id, waitMs: 0 });
    } else if ('holds' in m) send(socket, { re: m.id, holds: keeper.holds(m.holds) });
    else {
      keeper.arm(m.arm, { takeover: m.takeover, gen: m.gen }).then(
        ({ waitMs }) => send(socket, { re: m.id, waitMs }),
        (error: unknown) => send(socket, refusal(m.id, error)),
      );
    }
  }
}

/** A reader that does not read is let go: the keeper holds nothing back for it. */
function send(socket: net.Socket, m: FromKeeper): void {
  if (socket.destroyed) return;
  if (socket.writableLength > lineMax) socket.destroy();
  else socket.write(`${JSON.stringify(m)}\n`);
}
