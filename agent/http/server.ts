import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { FlotillaError } from '../../core/domain/error.js';
import type { Newcomer } from '../../core/wire/adopt.js';
import type { Clock, Log } from '../env.js';
import type { PeerNode } from '../pki/identity.js';
import { httpsServerOptions, type TlsMaterial } from '../pki/tls.js';
import { PeerSockets } from './peer-sockets.js';
import { authenticate, requireIdentity, type AuthEnv, type Identity, type TokenVerifier } from './auth.js';
import { securityHeaders } from './headers.js';
import { loginApp, type LoginOptions } from './login.js';
import { problemResponse } from './problem.js';
import { css, stylesheetPath } from './style.js';

/** Connections at a time: peers, people and Prometheus are a few dozen. */
const connectionsMax = 512;
/** A client that sends no whole header in this time is cut off. */
const headersTimeoutMs = 10_000;
/** Silence on a connection; an upload that moves may last as long as it needs. */
const idleTimeoutMs = 60_000;

/** A part of the server that somebody else wrote. It finds the caller in `c.get('identity')`. */
export interface Mount {
  /** e.g. `/join`, `/v1/images`; the app's own paths come behind it. */
  readonly path: string;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- apps of others have variables of their own
  readonly app: Hono<any>;
  readonly allow: 'anyone' | 'node' | 'token' | 'node-or-token';
  /** Largest body, bytes; null for streams that have their own bounds. */
  readonly bodyBytesMax: number | null;
}

/** What `/healthz` tells everyone. */
export interface HealthLine {
  readonly ok: boolean;
  readonly node: string;
  readonly version: string;
  /** SHA-256 of the certificate's public key, hex. */
  readonly fingerprint: string;
  /** Only of a node that is in no cluster. */
  readonly state?: 'pending';
  /** Of such a node: what a cluster compares before it admits it. */
  readonly machine?: Newcomer;
}

export interface AgentHttpOptions {
  /** Address to listen on, e.g. `0.0.0.0`. */
  readonly host: string;
  /** 0: any free one, see {@link AgentHttp.port}. */
  readonly port: number;
  readonly node: string;
  tls(): TlsMaterial;
  readonly verifyToken: TokenVerifier;
  /** Who may come with name and password; absent: nobody. */
  readonly users?: LoginOptions['users'];
  isMember?(peer: PeerNode): boolean;
  health(): HealthLine;
  /** The node's page; served at `/`, HTML. `still`: without refreshing itself. */
  page(o: { still: boolean; who: Identity | null }): Promise<string> | string;
  /** Prometheus text; served at `/metrics`. */
  metrics(): Promise<string> | string;
  readonly mounts: readonly Mount[];
  /** Takes connections that become something else than HTTP; without it they are answered as any request. */
  upgrade?(req: IncomingMessage, socket: Socket, head: Buffer): void;
  readonly clock: Pick<Clock, 'nowMs'>;
  readonly log: Log;
}

export interface AgentHttp {
  readonly app: Hono<AuthEnv>;
  /** Where it listens; 0 before {@link start}. */
  readonly port: number;
  /** @throws Error where the port is taken */
  start(): Promise<void>;
  /** Ends at once, also what is in flight. */
  stop(): Promise<void>;
  /** Reads the certificate again after it was renewed; connections that are open keep the old one. */
  reloadTls(): void;
  /** Cuts the connections of those whose certificate counts no longer. */
  cutStrangers(): void;
  /** Refused since start: `certificate`, `token`. */
  refused(): Readonly<Record<string, number>>;
}

/**
 * The agent's HTTPS server: the node's page, `/metrics`, `/healthz`, login, and what others mount (joining, image
 * streams). Commands are rows in the ledger; there is none among it but what an admin does at this node alone.
 */
export function createAgentHttp(o: AgentHttpOptions): AgentHttp {
  const refused: Record<string, number> = {};
  const onRefused = (kind: string) => {
    refused[kind] = (refused[kind] ?? 0) + 1;
  };
  const app = routes(o, onRefused);
  let server: Server | null = null;
  let peers: PeerSockets | null = null;
  return {
    app,
    get port() {
      const at = server?.address() as AddressInfo | null | undefined;
      return at?.port ?? 0;
    },
    async start() {
      const s = createAdaptorServer({
        fetch: (request, env) => app.fetch(request, env),
        createServer,
        serverOptions: {
          ...httpsServerOptions(o.tls()),
          headersTimeout: headersTimeoutMs,
          requestTimeout: 0,
        },
      }) as Server;
      peers = new PeerSockets(s);
      s.maxConnections = connectionsMax;
      s.setTimeout(idleTimeoutMs);
      // Who goes again without a word only wanted to know whether this machine lives.
      s.on('tlsClientError', (e: NodeJS.ErrnoException) => {
        if (e.code !== 'ECONNRESET') onRefused('tls');
      });
      if (o.upgrade !== undefined)
        s.on('upgrade', (req: IncomingMessage, socket: Socket, head: Buffer) =>
          o.upgrade?.(req, socket, head),
        );
      s.listen(o.port, o.host);
      await once(s, 'listening');
      server = s;
    },
    async stop() {
      const s = server;
      server = null;
      if (s === null) return;
      s.closeAllConnections();
      s.close();
      await once(s, 'close');
    },
    reloadTls() {
      server?.setSecureContext(httpsServerOptions(o.tls()));
    },
    cutStrangers() {
      peers?.cut((peer) => o.isMember?.(peer) !== false);
    },
    refused: () => ({ ...refused }),
  };
}

function routes(o: AgentHttpOptions, onRefused: (kind: string) => void): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  app.use(securityHeaders());
  app.onError((error, c) => {
    if (!(error instanceof FlotillaError))
      o.log.error('request failed', { path: c.req.path, error: String(error) });
    return problemResponse(error);
  });
  app.notFound((c) => {
    const hint = 'There is /, /metrics, /healthz and /login.';
    return problemResponse(
      new FlotillaError('not-found', `Nothing is at ${c.req.path.slice(0, 200)}`, { hint }),
    );
  });

  app.get('/healthz', (c) => {
    const h = o.health();
    return c.json(h, h.ok ? 200 : 503);
  });
  app.get(stylesheetPath, (c) =>
    c.body(css, 200, {
      'content-type': 'text/css; charset=utf-8',
      'cache-control': 'public, max-age=31536000, immutable',
    }),
  );
  app.route(
    '/',
    loginApp({
      verifyToken: o.verifyToken,
      title: `Flotilla node ${o.node}`,
      home: '/',
      stylesheet: stylesheetPath,
      nowMs: () => o.clock.nowMs(),
      onRefused,
      ...(o.users === undefined ? {} : { users: o.users }),
    }),
  );

  const auth = authenticate({
    verifyToken: o.verifyToken,
    onRefused,
    ...(o.isMember === undefined ? {} : { isMember: (peer: PeerNode) => o.isMember?.(peer) !== false }),
  });
  for (const m of o.mounts) mount(app, m, auth);

  app.get('/', auth, async (c) => {
    if (c.get('identity') === null && c.req.header('accept')?.includes('text/html') === true) {
      return c.redirect('/login', 303);
    }
    const still = c.req.query('still') !== undefined;
    return requireIdentity('node-or-token')(c, async () => {
      // As a header and not in the page: the same effect, and one place that knows the pace.
      c.res = c.html(
        await o.page({ still, who: c.get('identity') }),
        200,
        still ? {} : { refresh: `${refreshS}` },
      );
    });
  });
  app.get('/metrics', auth, requireIdentity('node-or-token'), async (c) =>
    c.body(await o.metrics(), 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }),
  );
  return app;
}

/** The page is fetched again so often. */
const refreshS = 5;

function mount(app: Hono<AuthEnv>, m: Mount, auth: ReturnType<typeof authenticate>): void {
  for (const at of [m.path, `${m.path}/*`]) {
    if (m.allow !== 'anyone') app.use(at, auth, requireIdentity(m.allow));
    if (m.bodyBytesMax !== null) {
      const maxSize = m.bodyBytesMax;
      const hint = `Send at most ${maxSize} bytes.`;
      app.use(
        at,
        bodyLimit({
          maxSize,
          onError: () =>
            problemResponse(new FlotillaError('too-large', 'The body of the request is too large', { hint })),
        }),
      );
    }
  }
  app.route(m.path, m.app);
}
