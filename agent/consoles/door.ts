import type { IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { FlotillaError } from '../../core/domain/error.js';
import { idSchema } from '../../core/domain/schema.js';
import { consoleHistoryMax, consoleKindSchema, consoleUpgrade } from '../../core/wire/consoles.js';
import type { Sockets } from '../env.js';
import { problemBody } from '../http/problem.js';
import { peerNode, type PeerNode } from '../pki/identity.js';
import { SerialConsoles } from './serial.js';

/** Consoles open at a time on one node. */
const consolesMax = 128;
/** A controller that vanished is noticed by the kernel after some of these, ms. */
const keepAliveMs = 15_000;

export interface ConsoleDoorOptions {
  readonly paths: Sockets['paths'];
  isMember(peer: PeerNode): boolean;
  onRefused(kind: 'certificate'): void;
}

/**
 * The consoles of this node's machines, for controllers: `GET /v1/consoles/VM/serial|vnc` with `Upgrade:
 * flotilla-console` and a node's certificate becomes the bytes of QEMU's unix socket. Nobody else gets near them: QEMU
 * listens on no port.
 */
export class ConsoleDoor {
  private readonly o: ConsoleDoorOptions;
  private readonly serial = new SerialConsoles();
  private readonly open = new Set<Duplex>();

  constructor(o: ConsoleDoorOptions) {
    this.o = o;
  }

  /** As a listener of the server's `upgrade`. */
  upgrade(req: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    this.answer(req, socket, head).catch((error: unknown) => refuse(socket, error));
  }

  /** Ends all. */
  stop(): void {
    for (const s of this.open) s.destroy();
  }

  private async answer(req: IncomingMessage, socket: Socket, head: Buffer): Promise<void> {
    const peer = peerNode(socket);
    if (peer === null || peer === 'wrong' || !this.o.isMember(peer)) {
      this.o.onRefused('certificate');
      throw new FlotillaError('forbidden', 'Consoles are for the nodes of this cluster only', {
        hint: 'Open them at a controller.',
      });
    }
    const url = new URL(req.url ?? '/', 'https://node');
    const [, id, kindText] = /^\/v1\/consoles\/([^/]+)\/([^/]+)$/.exec(url.pathname) ?? [];
    const vm = idSchema.safeParse(id);
    const kind = consoleKindSchema.safeParse(kindText);
    if (!vm.success || !kind.success || req.headers.upgrade?.toLowerCase() !== consoleUpgrade) {
      throw new FlotillaError('not-found', 'There is no such console', {
        hint: 'Name a VM, and serial or vnc.',
      });
    }
    if (this.open.size >= consolesMax) {
      throw new FlotillaError(
        'rate-limited',
        `This node has ${consolesMax} consoles open, the most it gives`,
        {
          hint: 'Close some.',
        },
      );
    }
    const paths = this.o.paths(vm.data);
    const history = Math.min(consoleHistoryMax, Number(url.searchParams.get('history')) || 0);
    const noMachine = (cause: unknown): never => {
      const error =
        cause instanceof RangeError ? 'Too many look at this console' : 'No machine of this VM runs here';
      throw new FlotillaError('wrong-state', error, { hint: 'Look again when it runs.', cause });
    };
    const join =
      kind.data === 'serial'
        ? await this.serial.open(paths, history).catch(noMachine)
        : await screen(paths.vnc).catch(noMachine);
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${consoleUpgrade}\r\n\r\n`,
    );
    if (head.length > 0) socket.unshift(head);
    this.open.add(socket);
    socket.on('close', () => this.open.delete(socket));
    join(socket);
  }
}

/** The machine's screen: QEMU serves many viewers itself, each by a connection of its own. */
function screen(path: string): Promise<(viewer: Duplex) => void> {
  return new Promise((resolve, reject) => {
    const qemu = connect(path);
    qemu.once('error', reject);
    qemu.once('connect', () => {
      qemu.off('error', reject);
      resolve((viewer) => {
        viewer.pipe(qemu).pipe(viewer);
        qemu.on('error', () => qemu.destroy());
        qemu.on('close', () => viewer.end());
        viewer.on('close', () => qemu.destroy());
      });
    });
  });
}

function refuse(socket: Socket, error: unknown): void {
  const problem = problemBody(error);
  const body = JSON.stringify(problem);
  socket.end(
    `HTTP/1.1 ${problem.status} Refused\r\nConnection: close\r\ncontent-type: application/problem+json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
