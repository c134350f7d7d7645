import https from 'node:https';
import { isIP } from 'node:net';
import { X509Certificate } from 'node:crypto';
import tls from 'node:tls';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import type { Clock, Log } from '../env.js';
import { certificateSha256, chainOf, issuerIn, pemsIn, successorIn } from '../pki/bundle.js';
import { certificateInfo, dueForRenewal, isFor, makeCsr } from '../pki/certificates.js';
import { readCrl } from '../pki/crl.js';
import { ensurePrivateKey, fingerprintOfPrivateKey } from '../pki/keys.js';
import { pkiPaths, readTls, writePublic } from '../pki/store.js';
import { parseJoinToken, type JoinToken } from '../pki/tokens.js';
import { readClusterCache, writeClusterCache } from './cache.js';
import type { AgentConfig } from './config.js';
import { alreadyIn } from './found.js';
import {
  caKeyAnswerSchema,
  joinAnswerBytesMax,
  joinAnswerSchema,
  refusalSchema,
  renewAnswerSchema,
  type JoinAnswer,
} from './join-wire.js';
import { installMosquitto } from './mosquitto.js';
import type { Services } from './services.js';

/** Longest time one request of joining may take, ms: signing waits its turn when a rack joins at once. */
const requestMs = 20_000;
/** How long joining goes on trying while the cluster cannot be reached, ms. */
const joinLimitMs = 120_000;
const retryPauseMs = 1_000;

/** Worth trying again: the other side, or the way to it, may recover. The same key gets the same answer. */
const transient: ReadonlySet<string> = new Set([
  'node-unreachable',
  'ledger-unavailable',
  'rate-limited',
  'edit-conflict',
  'timeout',
]);

export interface JoinDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly clock: Clock;
  readonly log: Log;
  readonly limitMs?: number;
}

export interface Joined {
  readonly clusterId: string;
  readonly name: string;
  readonly node: string;
  readonly fingerprint: string;
}

/**
 * Joins the cluster a token speaks of. The server must show the CA whose hash is in the token *before* it gets the
 * secret. `cluster.json` is written last: until it is there, calling this again goes on, with the same key, and the
 * cluster answers as the first time.
 *
 * @throws FlotillaError `already-founded`, `wrong-certificate`, `node-unreachable`, and what the cluster refuses with
 */
export async function join(d: JoinDeps, tokenText: string): Promise<Joined> {
  const { config, clock, log } = d;
  const { stateDir } = config;
  const token = parseJoinToken(tokenText);
  const cache = await readClusterCache(stateDir);
  if (cache !== null) throw alreadyIn(cache.name, cache.node);
  const p = pkiPaths(stateDir);
  const key = await ensurePrivateKey(p.nodeKey);
  const csr = await makeCsr({ keyFile: p.nodeKey, commonName: config.name });

  const endMs = clock.nowMs() + (d.limitMs ?? joinLimitMs);
  let answer: JoinAnswer & { by: string };
  for (;;) {
    try {
      answer = await ask(config, token, csr);
      break;
    } catch (error) {
      const again = error instanceof FlotillaError && transient.has(error.code);
      if (!again || clock.nowMs() + retryPauseMs > endMs) throw error;
      log.warn('joining is tried again', { code: error.code, message: error.message });
      await clock.sleep(retryPauseMs);
    }
  }
  const fingerprint = fingerprintOfPrivateKey(key);
  checkAnswer(config, token, answer, fingerprint);

  await writePublic(p.caCert, answer.ca);
  // Before the daemons that are to use it.
  if (answer.crl !== null) await writePublic(p.crl, (await readCrl(answer.crl, answer.ca)).pem);
  await writePublic(p.nodeCert, answer.cert);
  await installMosquitto(config);
  await d.services.enable('flotilla-mosquitto');
  await writeClusterCache(stateDir, {
    clusterId: answer.cluster.id,
    name: answer.cluster.name,
    node: config.name,
    address: config.address,
    witness: config.witness,
    ledgerEndpoints: answer.ledgerEndpoints,
    peers: answer.peers,
  });
  log.info('joined a cluster', { cluster: answer.cluster.name, node: config.name });
  return { clusterId: answer.cluster.id, name: answer.cluster.name, node: config.name, fingerprint };
}

/** @returns with `by`: the CA that its certificate was checked by */
async function ask(config: AgentConfig, token: JoinToken, csr: string): Promise<JoinAnswer & { by: string }> {
  const port = token.port ?? config.ports.agent;
  const ca = await fetchCa({
    address: token.address,
    port,
    caSha256: token.caSha256,
    localAddress: config.address,
  });
  const body = {
    tokenId: token.id,
    secret: token.secret,
    csr,
    name: config.name,
    address: config.address,
    // Left out where there is none: clusters of before know no such word.
    ...(config.storageAddress === undefined ? {} : { storageAddress: config.storageAddress }),
    witness: config.witness,
  };
  const answer = await request({
    address: token.address,
    port,
    path: '/join',
    method: 'POST',
    body,
    tls: { ca },
    localAddress: config.address,
  });
  return { ...parse(joinAnswerSchema, answer, `the answer of ${token.address}`), by: ca };
}

/** The cluster is trusted by its CA; still, what does not fit is a defect to be told now and not at the next start. */
function checkAnswer(
  config: AgentConfig,
  token: JoinToken,
  a: JoinAnswer & { by: string },
  fingerprint: string,
): void {
  const wrong = (fault: string) =>
    new FlotillaError('wrong-certificate', `The answer of ${token.address} is refused: ${fault}`, {
      hint: 'Nothing was changed on this node. Make a new token on a node you trust.',
    });
  const by = certificateSha256(a.by);
  if (!pemsIn(a.ca).some((pem) => certificateSha256(pem) === by))
    throw wrong('its CA is not the one of the token');
  const info = certificateInfo(a.cert);
  if (info.fingerprint !== fingerprint) throw wrong('the certificate is for another key');
  if (info.commonName !== config.name)
    throw wrong(`the certificate is for "${info.commonName.slice(0, 64)}"`);
  if (issuerIn(a.cert, a.ca) === null) throw wrong('it is not signed by its CA');
}

interface ServerAt {
  readonly address: string;
  readonly port: number;
  readonly localAddress?: string;
}

/**
 * Looks at the certificates a server sends and takes the CA whose hash is known, or the one that it vouches for there.
 * Nothing is sent but the handshake.
 *
 * @returns the CA's certificate, PEM, for a connection that is then checked by it
 * @throws FlotillaError `node-unreachable`, `wrong-certificate`
 */
export async function fetchCa(o: ServerAt & { readonly caSha256: string }): Promise<string> {
  const chain = await fetchChain(o);
  const ca = chain.map((x) => x.toString()).find((pem) => certificateSha256(pem) === o.caSha256);
  if (ca !== undefined) return successorIn(chain, ca) ?? ca;
  throw new FlotillaError(
    'wrong-certificate',
    `The server at ${o.address}:${o.port} is not of the token's cluster`,
    {
      hint: 'The secret was not sent. Is the address right? Does somebody sit between you and it?',
    },
  );
}

/** What a server sends of certificates, unchecked. @throws FlotillaError `node-unreachable` */
async function fetchChain(o: ServerAt): Promise<X509Certificate[]> {
  return new Promise<X509Certificate[]>((resolve, reject) => {
    const socket = tls.connect({
      host: o.address,
      port: o.port,
      rejectUnauthorized: false,
      ...(o.localAddress === undefined ? {} : { localAddress: o.localAddress }),
    });
    socket.setTimeout(requestMs, () => socket.destroy(new Error(`no handshake within ${requestMs} ms`)));
    socket.on('error', (cause) => {
      socket.destroy();
      reject(unreachable(o.address, o.port, cause));
    });
    socket.on('close', () => reject(unreachable(o.address, o.port, new Error('closed without a handshake'))));
    socket.on('secureConnect', () => {
      resolve(chainOf(socket));
      socket.destroy();
    });
  });
}

export interface RequestOptions {
  readonly address: string;
  readonly port: number;
  readonly path: string;
  readonly method: 'GET' | 'POST';
  readonly body?: unknown;
  readonly tls: { readonly ca: string; readonly cert?: string; readonly key?: string };
  readonly localAddress?: string;
  readonly timeoutMs?: number;
  readonly answerBytesMax?: number;
}

/**
 * One request to another node's agent, whose certificate must be of the given CA and for that address.
 *
 * @throws FlotillaError `node-unreachable`, `timeout`, and what the other side refuses with
 */
export async function request(o: RequestOptions): Promise<unknown> {
  const text = o.body === undefined ? '' : JSON.stringify(o.body);
  const { status, answer } = await new Promise<{ status: number; answer: string }>((resolve, reject) => {
    const req = https.request(
      {
        host: o.address,
        port: o.port,
        path: o.path,
        method: o.method,
        agent: false,
        ...o.tls,
        rejectUnauthorized: true,
        // An address is checked against the certificate's addresses; without this Node would look for a name.
        ...(isIP(o.address) ? { servername: '' } : {}),
        ...(o.localAddress === undefined ? {} : { localAddress: o.localAddress }),
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
        timeout: o.timeoutMs ?? requestMs,
        signal: AbortSignal.timeout(o.timeoutMs ?? requestMs),
      },
      (res) => {
        const chunks: Buffer[] = [];
        let size = 0;
        res.on('data', (chunk: Buffer) => {
          size += chunk.length;
          if (size > (o.answerBytesMax ?? joinAnswerBytesMax))
            req.destroy(new Error('the answer is too large'));
          else chunks.push(chunk);
        });
        res.on('error', (cause) => reject(unreachable(o.address, o.port, cause)));
        res.on('end', () =>
          resolve({ status: res.statusCode ?? 0, answer: Buffer.concat(chunks).toString('utf8') }),
        );
      },
    );
    req.on('error', (cause) => reject(unreachable(o.address, o.port, cause)));
    req.end(text);
  });
  let json: unknown;
  try {
    json = JSON.parse(answer);
  } catch (cause) {
    throw unreachable(o.address, o.port, cause);
  }
  if (status === 200) return json;
  const refusal = refusalSchema.safeParse(json);
  if (!refusal.success) throw unreachable(o.address, o.port, new Error(`HTTP status ${status}`));
  const { code, message, hint, details } = refusal.data;
  throw new FlotillaError(code, message, { hint, details });
}

/** Fetches the keys of the CAs from a voter, for a node that becomes one. They go into files of their own, 0600. */
export async function fetchCaKeys(
  o: Omit<RequestOptions, 'path' | 'method' | 'body'>,
): Promise<readonly string[]> {
  const answer = await request({ ...o, path: '/voter/ca-key', method: 'GET' });
  const { key, keys } = parse(caKeyAnswerSchema, answer, `the answer of ${o.address}`);
  return keys ?? [key];
}

/**
 * {@link fetchCaKeys} from all of several voters that answer, with this node's own certificate: while the CA is replaced one
 * may have less than another.
 *
 * @throws FlotillaError of the last one asked, where none answers
 */
export async function fetchCaKeysFromAll(
  config: AgentConfig,
  addresses: readonly string[],
): Promise<readonly string[]> {
  const tls = await readTls(config.stateDir);
  let last: unknown = unreachable('no voter', config.ports.agent, undefined);
  const keys = new Set<string>();
  for (const address of addresses) {
    try {
      for (const key of await fetchCaKeys({ address, port: config.ports.agent, tls })) keys.add(key);
    } catch (error) {
      last = error;
    }
  }
  if (keys.size === 0) throw last;
  return [...keys];
}

/**
 * Renews the node's certificate at a voter, keeping its key: in time, when it lacks one of the node's addresses, or when
 * another CA signs now. The caller then gives the new one to its connections
 * ({@link readTls}, `setTls`) and installs the broker's copy; etcd reads it by itself at the next handshake.
 *
 * @returns false: it was not due
 */
export async function renewCertificate(
  config: AgentConfig,
  voters: readonly string[],
  wallMs: number,
  addresses: readonly string[] = [],
): Promise<boolean> {
  const tls = await readTls(config.stateDir);
  const [ca = ''] = pemsIn(tls.ca);
  const good = !dueForRenewal(tls.cert, wallMs) && issuerIn(tls.cert, ca) !== null;
  if (good && addresses.every((a) => isFor(tls.cert, a))) return false;
  const p = pkiPaths(config.stateDir);
  const csr = await makeCsr({ keyFile: p.nodeKey, commonName: config.name });
  let last: unknown = unreachable('no voter', config.ports.agent, undefined);
  for (const address of voters) {
    try {
      const o = { address, port: config.ports.agent, path: '/renew', method: 'POST', tls } as const;
      const { cert } = parse(
        renewAnswerSchema,
        await request({ ...o, body: { csr } }),
        `the answer of ${address}`,
      );
      const info = certificateInfo(cert);
      const ours = info.commonName === config.name && info.fingerprint === fingerprintOfPrivateKey(tls.key);
      if (!ours || issuerIn(cert, ca) === null) {
        throw new FlotillaError('wrong-certificate', `The certificate from ${address} does not fit`, {
          hint: 'The old one stays in use; it is tried again.',
        });
      }
      await writePublic(p.nodeCert, cert);
      return true;
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/**
 * Takes a node that was off while the CA was replaced into the cluster again. It believes who shows the word of its own CA for
 * the new one; and who answers knows it by its key.
 *
 * @param addresses - of nodes that may be voters
 * @returns false: none of them is further
 */
export async function catchUp(config: AgentConfig, addresses: readonly string[]): Promise<boolean> {
  const own = await readTls(config.stateDir);
  const p = pkiPaths(config.stateDir);
  for (const address of addresses) {
    try {
      const at = { address, port: config.ports.agent, localAddress: config.address };
      const ca = successorIn(await fetchChain(at), own.ca);
      if (ca === null || issuerIn(own.cert, ca) !== null) continue;
      const csr = await makeCsr({ keyFile: p.nodeKey, commonName: config.name });
      const answer = parse(
        renewAnswerSchema,
        await request({
          ...at,
          path: '/renew',
          method: 'POST',
          body: { csr },
          tls: { ca, cert: own.cert, key: own.key },
        }),
        `the answer of ${address}`,
      );
      const info = certificateInfo(answer.cert);
      const sha256 = certificateSha256(ca);
      const fits =
        info.commonName === config.name &&
        info.fingerprint === fingerprintOfPrivateKey(own.key) &&
        pemsIn(answer.ca).some((pem) => certificateSha256(pem) === sha256) &&
        issuerIn(answer.cert, answer.ca) !== null;
      if (!fits) continue;
      if (answer.crl !== null) await writePublic(p.crl, (await readCrl(answer.crl, answer.ca)).pem);
      await writePublic(p.caCert, answer.ca);
      await writePublic(p.nodeCert, answer.cert);
      return true;
    } catch {
      // Another one may know more.
    }
  }
  return false;
}

function unreachable(address: string, port: number, cause: unknown): FlotillaError {
  return new FlotillaError('node-unreachable', `The agent at ${address}:${port} cannot be reached`, {
    hint: 'Is the address right, does flotilla-agent run there, is the port open?',
    cause,
  });
}
