import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type WebSocket } from 'ws';
import type { Clock } from '../agent/env.js';
import { errorRecord, FlotillaError } from '../core/domain/error.js';
import { vmActions } from '../core/domain/vm.js';
import {
  agentConsolePath,
  consoleClosed,
  consoleProtocol,
  ticketOf,
  type ConsoleKind,
  type ConsoleTicket,
} from '../core/wire/consoles.js';
import { apiRoot, restStreams } from '../core/wire/rest.js';
import type { Chance } from './api/context.js';
import type { AgentAddress } from './api/uploads.js';
import type { View } from './view.js';

/** A ticket is used by the program that asked for it, at once, ms. */
const ticketMs = 30_000;
const ticketsMax = 1_024;
const consolesMax = 256;
/** One message of a viewer: a paste is the largest. */
const messageBytesMax = 1 << 20;
/** What a viewer has not taken yet, bytes; beyond it the node is not read. */
const behindBytesMax = 1 << 20;
/** A viewer that did not answer the last question is gone, s. */
const pingS = 20;
/** Most of a reason that a websocket can carry, bytes. */
const reasonBytesMax = 120;

/** Opens a console at a node's agent. */
export interface ConsoleDial {
  /** @throws FlotillaError of the node, `node-unreachable` */
  dial(node: AgentAddress, path: string, signal: AbortSignal): Promise<Duplex>;
}

interface Ticket {
  readonly vm: string;
  readonly kind: ConsoleKind;
  readonly history: number;
  readonly who: string;
  readonly endMs: number;
  /** Whether whoever asked may still. */
  readonly may: () => boolean;
}

interface Open {
  readonly ticket: Ticket;
  node: string;
  answered: boolean;
}

/**
 * Consoles for browsers and the command line: a ticket by the API, then a websocket that carries QEMU's bytes from the
 * owner's agent. When the owner changes the console is closed, and the viewer asks for a new ticket: so a tab lives on
 * through migrations and failovers. Tickets are kept here only, for half a minute.
 */
export class Consoles {
  private readonly view: View;
  private readonly clock: Clock;
  private readonly chance: Chance;
  private readonly agents: ConsoleDial;
  private readonly tickets = new Map<string, Ticket>();
  private readonly open = new Map<WebSocket, Open>();
  private readonly server: WebSocketServer;
  private ticks = 0;

  constructor(o: { view: View; clock: Clock; chance: Chance; agents: ConsoleDial }) {
    this.view = o.view;
    this.clock = o.clock;
    this.chance = o.chance;
    this.agents = o.agents;
    this.server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      maxPayload: messageBytesMax,
      perMessageDeflate: false,
      handleProtocols: () => consoleProtocol,
    });
    o.view.onTick(() => this.look());
  }

  /** @throws FlotillaError `wrong-state`: it has no machine now; `rate-limited` */
  ticket(o: Omit<Ticket, 'endMs'>): ConsoleTicket {
    const vm = this.view.vm(o.vm);
    const node = this.owner(o.vm);
    if (vm === null || node === null || !vmActions[vm.phase].includes('console')) {
      throw new FlotillaError(
        'wrong-state',
        `VM "${vm?.name ?? o.vm}" has no console: it is ${vm?.phase ?? 'gone'}`,
        {
          hint: 'Start it first.',
        },
      );
    }
    const nowMs = this.clock.nowMs();
    for (const [id, t] of this.tickets) if (t.endMs <= nowMs) this.tickets.delete(id);
    if (this.tickets.size >= ticketsMax || this.open.size >= consolesMax) {
      throw new FlotillaError('rate-limited', 'This controller has too many consoles open', {
        hint: 'Close some, or open it at another controller.',
      });
    }
    const ticket = this.chance.hex(32);
    this.tickets.set(ticket, { ...o, endMs: nowMs + ticketMs });
    return { ticket, kind: o.kind, node, expiresMs: this.clock.wallMs() + ticketMs };
  }

  /** As a listener of the server's `upgrade`. */
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const id = ticketOf(req.headers['sec-websocket-protocol']);
    const ticket = id === null ? undefined : this.tickets.get(id);
    if (id !== null) this.tickets.delete(id);
    const good =
      req.url === apiRoot + restStreams.console &&
      sameOrigin(req) &&
      ticket !== undefined &&
      ticket.endMs > this.clock.nowMs() &&
      ticket.may();
    if (!good) {
      socket.end('HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    this.server.handleUpgrade(req, socket, head, (ws) => void this.serve(ws, ticket));
  }

  /** Ends all; viewers go on at another controller. */
  stop(): void {
    for (const ws of this.open.keys()) ws.close(1001, 'this controller stops');
    this.server.close();
  }

  private async serve(ws: WebSocket, ticket: Ticket): Promise<void> {
    const node = this.owner(ticket.vm);
    const address = node === null ? undefined : this.view.ledger.tables.node.get(node)?.value.addresses[0];
    if (node === null || address === undefined)
      return end(ws, consoleClosed.unreachable, 'its owner is not known');
    const mine: Open = { ticket, node, answered: true };
    const gone = new AbortController();
    this.open.set(ws, mine);
    ws.on('error', () => ws.terminate());
    ws.on('pong', () => (mine.answered = true));
    ws.on('close', () => {
      this.open.delete(ws);
      gone.abort();
    });
    // What the viewer says first waits until somebody listens.
    ws.pause();
    try {
      const path = agentConsolePath(ticket.vm, ticket.kind, ticket.history);
      join(ws, await this.agents.dial({ id: node, address }, path, gone.signal));
    } catch (error) {
      end(ws, consoleClosed.unreachable, errorRecord(error).message);
    }
  }

  private look(): void {
    this.ticks += 1;
    for (const [ws, o] of this.open) {
      if (!o.ticket.may()) end(ws, consoleClosed.forbidden, 'you may not look any more');
      else if (this.owner(o.ticket.vm) !== o.node) end(ws, consoleClosed.moved, 'it has another owner now');
      if (this.ticks % pingS !== 0) continue;
      if (!o.answered) ws.terminate();
      o.answered = false;
      ws.ping();
    }
  }

  private owner(vm: string): string | null {
    return this.view.ledger.tables.vmOwn.get(vm)?.value.owner ?? null;
  }
}

/** Bytes both ways, each side as fast as the other takes them. */
function join(ws: WebSocket, machine: Duplex): void {
  machine.on('data', (bytes: Buffer) => {
    ws.send(bytes, () => {
      if (ws.bufferedAmount < behindBytesMax) machine.resume();
    });
    if (ws.bufferedAmount >= behindBytesMax) machine.pause();
  });
  machine.on('drain', () => ws.resume());
  machine.on('error', () => machine.destroy());
  machine.on('close', () => end(ws, consoleClosed.ended, 'the machine went off or moved'));
  machine.on('end', () => machine.end());
  ws.on('message', (bytes: Buffer) => {
    if (!machine.write(bytes)) ws.pause();
  });
  ws.on('close', () => machine.destroy());
  if (ws.readyState !== ws.OPEN) machine.destroy();
  ws.resume();
}

/** @param why - cut to what a close frame carries */
function end(ws: WebSocket, code: number, why: string): void {
  if (ws.readyState !== ws.OPEN) return;
  ws.resume();
  ws.close(
    code,
    new TextDecoder().decode(Buffer.from(why).subarray(0, reasonBytesMax)).replace(/\uFFFD+$/, ''),
  );
}

/** A browser says whose page asks; other programs say nothing. */
function sameOrigin(req: IncomingMessage): boolean {
  const { origin, host } = req.headers;
  return origin === undefined || origin === `https://${host}`;
}
