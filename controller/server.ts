import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import { PeerSockets } from '../agent/http/peer-sockets.js';
import type { PeerNode } from '../agent/pki/identity.js';
import { httpsServerOptions, type TlsMaterial } from '../agent/pki/tls.js';
import type { controllerApp } from './api/app.js';
import type { Consoles } from './consoles.js';

/** Connections at a time: people, scripts, event streams. */
const connectionsMax = 1_024;
/** A client that sends no whole header in this time is cut off. */
const headersTimeoutMs = 10_000;
/** Silence on a connection; an upload or event stream that moves lasts as long as it needs. */
const idleTimeoutMs = 60_000;
/** On stopping, requests in flight have this long to end, ms; then they are cut. */
const graceMs = 3_000;

/** The controller's HTTPS server. */
export class ControllerServer {
  private readonly app: ReturnType<typeof controllerApp>;
  private readonly host: string;
  private readonly wantedPort: number;
  private readonly tls: TlsMaterial;
  private readonly consoles: Pick<Consoles, 'upgrade'>;
  private server: Server | null = null;
  private peers: PeerSockets | null = null;

  constructor(o: {
    app: ReturnType<typeof controllerApp>;
    consoles: Pick<Consoles, 'upgrade'>;
    host: string;
    port: number;
    tls: TlsMaterial;
  }) {
    this.app = o.app;
    this.consoles = o.consoles;
    this.host = o.host;
    this.wantedPort = o.port;
    this.tls = o.tls;
  }

  /** Where it listens; 0 before {@link start}. */
  get port(): number {
    return (this.server?.address() as AddressInfo | null | undefined)?.port ?? 0;
  }

  /** @throws Error where the port is taken */
  async start(): Promise<void> {
    const server = createAdaptorServer({
      fetch: (request, env) => this.app.fetch(request, env),
      createServer,
      serverOptions: {
        ...httpsServerOptions(this.tls),
        headersTimeout: headersTimeoutMs,
        requestTimeout: 0,
      },
    }) as Server;
    this.peers = new PeerSockets(server);
    server.maxConnections = connectionsMax;
    server.setTimeout(idleTimeoutMs);
    server.on('tlsClientError', () => undefined);
    server.on('upgrade', (req: IncomingMessage, socket: Socket, head: Buffer) => {
      socket.setTimeout(0);
      this.consoles.upgrade(req, socket, head);
    });
    server.listen(this.wantedPort, this.host);
    await once(server, 'listening');
    this.server = server;
  }

  /** Serves with another certificate from the next connection on. */
  setTls(tls: TlsMaterial): void {
    this.server?.setSecureContext(httpsServerOptions(tls));
  }

  /** Cuts the connections of nodes whose certificate counts no longer. */
  cutStrangers(isMember: (peer: PeerNode) => boolean): void {
    this.peers?.cut(isMember);
  }

  /** Takes nothing new, lets what runs end for a moment, then cuts it. */
  async stop(): Promise<void> {
    const server = this.server;
    this.server = null;
    if (server === null) return;
    server.close();
    server.closeIdleConnections();
    const cut = setTimeout(() => server.closeAllConnections(), graceMs);
    await once(server, 'close');
    clearTimeout(cut);
  }
}
