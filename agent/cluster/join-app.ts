import { readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { Hono, type Context } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { revokedKey } from '../../core/decide/revocation.js';
import { errorRecord, FlotillaError, type ErrorCode } from '../../core/domain/error.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { nodeIdSchema, parse } from '../../core/domain/schema.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Clock, Log } from '../env.js';
import type { LedgerMembers } from '../ledger/members.js';
import type { RecordStore, Stored } from '../ledger/records.js';
import { certificateSha256, pemsIn } from '../pki/bundle.js';
import { certificateInfo, checkCsr, type Ca } from '../pki/certificates.js';
import { fingerprintOfKey } from '../pki/keys.js';
import { peerNode } from '../pki/identity.js';
import { caKeyFile, pkiPaths, readIfThere } from '../pki/store.js';
import { admit, crlNow, issue } from './admission.js';
import type { AgentConfig } from './config.js';
import { peerUrl } from './etcd-settings.js';
import { joinBodyBytesMax, joinRequestSchema, renewRequestSchema } from './join-wire.js';
import { RateLimit } from './rate-limit.js';

/** Admissions at work at once: each runs openssl four times. Others wait. */
const atWorkMax = 2;
/** Admissions waiting; beyond it the answer is "later". */
const waitingMax = 32;

export interface JoinAppDeps {
  readonly config: AgentConfig;
  /** Null while the agent has not reached the ledger yet. */
  readonly cluster: () => { readonly store: RecordStore; readonly meta: ClusterMeta } | null;
  readonly members: Pick<LedgerMembers, 'list'>;
  readonly clock: Clock;
  readonly log: Log;
}

export interface JoinApp {
  readonly app: Hono;
  /** Refused since start, by code; for the node's state and page. */
  readonly refused: () => Readonly<Record<string, number>>;
}

/** What @hono/node-server gives its handlers. */
interface NodeBindings {
  incoming: IncomingMessage;
}

const socketOf = (c: Context) => (c.env as Partial<NodeBindings>).incoming?.socket;

/**
 * The part of the agent's HTTPS server that admits nodes: `POST /join` with a token; with a certificate of the
 * cluster `POST /renew` and, for a node the leader has made a voter, `GET /voter/ca-key`.
 */
export function joinApp(d: JoinAppDeps): JoinApp {
  const app = new Hono();
  const limit = new RateLimit(d.clock.nowMs());
  const refused = new Map<ErrorCode, number>();
  const gate = new Gate(atWorkMax, waitingMax);

  const cluster = () => {
    const c = d.cluster();
    if (c !== null) return c;
    throw new FlotillaError(
      'ledger-unavailable',
      `The node ${d.config.name} has not reached the ledger yet`,
      {
        hint: 'Try again in a moment.',
        details: { outcome: 'not-sent' },
      },
    );
  };
  const trusted = async (): Promise<readonly string[]> =>
    pemsIn((await readIfThere(pkiPaths(d.config.stateDir).caCert)) ?? '');
  /** All CAs, first the one that signs. */
  const bundle = async (ca: Ca): Promise<string> =>
    [ca.cert, ...(await trusted()).filter((pem) => pem !== ca.cert)].join('');
  const signer = async (nodes?: readonly NodeRecord[]): Promise<Ca> => {
    const { stateDir } = d.config;
    // Which CA signs the ledger says; that it is one, this node's own file.
    const wanted = certificateSha256(cluster().meta.ca);
    const cert = (await trusted()).find((pem) => certificateSha256(pem) === wanted);
    const keyFile = cert === undefined ? null : await caKeyFile(stateDir, cert);
    if (cert !== undefined && keyFile !== null) return { cert, keyFile };
    const list = nodes ?? (await cluster().store.list(kinds.node)).items.map((n) => n.value);
    throw new FlotillaError('wrong-state', `The node ${d.config.name} cannot sign: it is no voter`, {
      hint: 'Ask a voter; "details" lists their addresses.',
      details: { signers: list.filter((n) => n.voter).map((n) => n.addresses[0]) },
    });
  };
  const body = async (c: Context): Promise<unknown> => {
    try {
      return await c.req.json();
    } catch (cause) {
      throw new FlotillaError('bad-input', 'The request is not JSON', {
        hint: 'Send one JSON object.',
        cause,
      });
    }
  };
  /** The node at the other end, by certificate *and* by the ledger: one that was removed is nobody. */
  const peer = async (c: Context): Promise<Stored<NodeRecord>> => {
    const socket = socketOf(c);
    const who = socket === undefined ? null : peerNode(socket);
    if (who === null || who === 'wrong') {
      throw new FlotillaError(
        who === null ? 'unauthenticated' : 'wrong-certificate',
        'No certificate of a node',
        {
          hint: 'Only nodes of the cluster ask this, with their certificate.',
        },
      );
    }
    const record = await cluster().store.read(kinds.node, who.node);
    if (record?.value.fingerprint === who.fingerprint) return record;
    throw new FlotillaError(
      'wrong-certificate',
      `The certificate of "${who.node}" is not that of a node of ours now`,
      {
        hint: 'The node was removed, or joined anew with another key.',
      },
    );
  };

  /**
   * The node whose key was proved to be held, whichever CA signed the certificate that was shown: one that was off while the
   * CA was replaced. Its key stands in the ledger; one that was revoked gets nothing from {@link issue}.
   */
  const keyHolder = async (c: Context): Promise<Stored<NodeRecord>> => {
    const socket = socketOf(c);
    const shown = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
    if (socket === undefined || shown === undefined || peerNode(socket) !== 'wrong') return peer(c);
    if (!limit.take(socket.remoteAddress ?? '', d.clock.nowMs())) throw tooMany();
    const { commonName, fingerprint } = certificateInfo(shown.toString());
    const id = nodeIdSchema.safeParse(commonName);
    const record = id.success ? await cluster().store.read(kinds.node, id.data) : null;
    return record?.value.fingerprint === fingerprint ? record : peer(c);
  };

  // On these routes only: the server this is mounted in takes whole images on others.
  const small = bodyLimit({
    maxSize: joinBodyBytesMax,
    onError: () => {
      throw tooLarge();
    },
  });

  app.post('/join', small, async (c) => {
    const from = socketOf(c)?.remoteAddress ?? '';
    if (!limit.take(from, d.clock.nowMs())) throw tooMany();
    const request = parse(joinRequestSchema, await body(c), 'the join request');
    const { store, meta } = cluster();
    const ca = await signer();
    const deps = { store, meta, ca, trusted: await bundle(ca), ports: d.config.ports, clock: d.clock };
    const answer = await gate.run(() => admit(deps, request, from));
    d.log.info('admitted a node', { node: request.name, address: request.address, token: request.tokenId });
    return c.json(answer);
  });

  app.post('/renew', small, async (c) => {
    const stored = await keyHolder(c);
    const node = stored.value;
    const { csr } = parse(renewRequestSchema, await body(c), 'the renewal');
    const ca = await signer();
    const fingerprint = await checkCsr(csr);
    if (fingerprint !== node.fingerprint) {
      throw new FlotillaError('bad-input', `The renewal of "${node.id}" is for another key`, {
        hint: 'A node keeps its key. For a new key, remove the node and join it again.',
      });
    }
    const subject = { node: node.id, addresses: node.addresses };
    const deps = { store: cluster().store, ca, clock: d.clock };
    const cert = await gate.run(() => issue(deps, stored, csr, subject));
    d.log.info('renewed a certificate', { node: node.id });
    return c.json({ cert, ca: await bundle(ca), crl: await crlNow(deps.store) });
  });

  // For a node that wonders why nobody lets it in. Holding the key is all it takes: the answer is about that key alone.
  app.get('/membership', async (c) => {
    const socket = socketOf(c);
    const shown = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
    if (shown === undefined) {
      throw new FlotillaError('unauthenticated', 'No certificate was shown', {
        hint: 'Nodes ask this, with theirs.',
      });
    }
    const from = socket?.remoteAddress ?? '';
    if (!limit.take(from, d.clock.nowMs())) throw tooMany();
    const fingerprint = fingerprintOfKey(shown.publicKey);
    const { store } = cluster();
    const nodes = await store.list(kinds.node);
    if (nodes.items.some((n) => n.value.fingerprint === fingerprint))
      return c.json({ state: 'member', sinceMs: null });
    const certs = await store.list(kinds.cert);
    const was = revokedKey(
      certs.items.map((i) => i.value),
      fingerprint,
    );
    const sinceMs = was?.revoked?.atMs ?? null;
    return c.json({ state: was === null ? 'unknown' : 'removed', sinceMs });
  });

  app.get('/voter/ca-key', async (c) => {
    const node = (await peer(c)).value;
    const wanted = peerUrl(node.addresses[0] ?? '', d.config.ports);
    const members = await d.members.list();
    if (!members.some((m) => m.peerUrls.includes(wanted))) {
      throw new FlotillaError('forbidden', `The node "${node.id}" is no voter`, {
        hint: 'Only voters hold the key of the CA.',
      });
    }
    const ca = await signer();
    const files = await Promise.all((await trusted()).map((pem) => caKeyFile(d.config.stateDir, pem)));
    const keys = await Promise.all(files.flatMap((f) => (f === null ? [] : readFile(f, 'utf8'))));
    d.log.info('gave the key of the CA to a voter', { node: node.id });
    return c.json({ key: await readFile(ca.keyFile, 'utf8'), keys });
  });

  app.onError((error, c) => {
    const r = errorRecord(error);
    refused.set(r.code, (refused.get(r.code) ?? 0) + 1);
    const from = socketOf(c)?.remoteAddress ?? '';
    const level = r.code === 'internal' ? 'error' : 'warn';
    d.log[level]('refused a request', {
      path: c.req.path,
      from,
      code: r.code,
      message: r.message,
      causes: r.causes,
    });
    // Causes stay in the journal: the asker may be anybody.
    const message = r.code === 'internal' ? 'The agent failed at this request' : r.message;
    const status = error instanceof FlotillaError ? error.status : 500;
    const details = r.code === 'internal' || r.details === undefined ? {} : { details: r.details };
    return c.json({ code: r.code, message, hint: r.hint, ...details }, status);
  });

  return { app, refused: () => Object.fromEntries(refused) };
}

function tooMany(): FlotillaError {
  return new FlotillaError('rate-limited', 'Too many join requests', {
    hint: 'Wait a minute and try again.',
  });
}

function tooLarge(): FlotillaError {
  return new FlotillaError('too-large', `The request has more than ${joinBodyBytesMax} bytes`, {
    hint: 'A join request has about 800.',
  });
}

/** Lets a few work at a time, a bounded number wait, and refuses the rest. */
class Gate {
  readonly #max: number;
  readonly #waitingMax: number;
  readonly #waiting: (() => void)[] = [];
  #atWork = 0;

  constructor(max: number, waiting: number) {
    this.#max = max;
    this.#waitingMax = waiting;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#atWork >= this.#max) {
      if (this.#waiting.length >= this.#waitingMax) throw tooMany();
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#atWork++;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#atWork--;
    }
  }
}
