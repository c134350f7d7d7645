import { createHash, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { makeCa, makeCsr, signNode } from '../../../agent/pki/certificates.js';
import { newPrivateKey } from '../../../agent/pki/keys.js';

type Json = Record<string, unknown>;
type Alg = 'RS256' | 'ES256';

interface SigningKey {
  readonly kid: string;
  readonly alg: Alg;
  readonly secret: KeyObject;
  readonly jwk: Json;
}

const b64 = (v: unknown): string => Buffer.from(JSON.stringify(v)).toString('base64url');

function newKey(alg: Alg): SigningKey {
  const { privateKey, publicKey } =
    alg === 'RS256'
      ? generateKeyPairSync('rsa', { modulusLength: 2048 })
      : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const kid = randomBytes(6).toString('hex');
  return {
    kid,
    alg,
    secret: privateKey,
    jwk: { ...publicKey.export({ format: 'jwk' }), kid, alg, use: 'sig' },
  };
}

function jwt(header: Json, claims: Json, key: KeyObject, alg: Alg): string {
  const text = `${b64(header)}.${b64(claims)}`;
  const options = alg === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' as const } : key;
  return `${text}.${sign('sha256', Buffer.from(text), options).toString('base64url')}`;
}

/** Somebody's words at the provider, as a code that was given out. */
interface Given {
  readonly claims: Json;
  readonly nonce: string;
  readonly challenge: string;
  readonly redirectUri: string;
}

/**
 * A small provider of identities over real TLS, with real keys: it keeps the standard unless a test tells it not to.
 */
export class FakeProvider {
  readonly clientId = 'flotilla';
  readonly clientSecret = 'the-secret-of-the-client';
  issuer = '';
  /** PEM of the CA of its certificate. */
  ca = '';
  key = newKey('RS256');
  /** Who sits in front of the browser. */
  person: Json = { sub: 'u-1', preferred_username: 'vera', groups: ['staff'] };
  /** Changes to its description, and to tokens: header, claims, what the client sees. */
  about: Json = {};
  header: Json = {};
  claims: (claims: Json) => Json = (c) => c;
  token: (text: string) => string = (text) => text;
  /** What only the user information says; null: there is no such place. */
  userinfo: Json | null = null;
  /** Paths that take a request and never answer. */
  readonly hangs = new Set<string>();
  /** Requests so far, by path. */
  readonly asked: string[] = [];
  private readonly codes = new Map<string, Given>();
  private readonly dir: string;
  private stopServer: () => Promise<void> = async () => undefined;

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async start(): Promise<FakeProvider> {
    const p = new FakeProvider(await mkdtemp(path.join(tmpdir(), 'flotilla-provider-')));
    const file = (name: string): string => path.join(p.dir, name);
    await writeFile(file('ca.key'), newPrivateKey(), { mode: 0o600 });
    await writeFile(file('own.key'), newPrivateKey(), { mode: 0o600 });
    const wallMs = Date.now();
    p.ca = await makeCa({
      clusterId: '00000000-0000-4000-8000-0000000000c2',
      keyFile: file('ca.key'),
      wallMs,
    });
    const csr = await makeCsr({ keyFile: file('own.key'), commonName: 'idp' });
    const about = { node: 'idp', addresses: ['127.0.0.1'] };
    const cert = await signNode({ cert: p.ca, keyFile: file('ca.key') }, csr, about, wallMs);
    const server = createServer({ cert, key: await readFile(file('own.key'), 'utf8') }, (req, res) => {
      const url = new URL(req.url ?? '/', p.issuer);
      p.asked.push(url.pathname);
      if (p.hangs.has(url.pathname)) return;
      const parts: Buffer[] = [];
      req.on('data', (b: Buffer) => parts.push(b));
      req.on('end', () => {
        const form = new URLSearchParams(Buffer.concat(parts).toString());
        const answer = p.answer(url, form, req.headers.authorization);
        if (answer.to !== undefined) res.writeHead(303, { location: answer.to }).end();
        else {
          res.writeHead(answer.status ?? 200, { 'content-type': 'application/json' });
          res.end(JSON.stringify(answer.json));
        }
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    p.issuer = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    p.stopServer = async () => {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    };
    return p;
  }

  /** Keys that were good a moment ago are not any more. */
  rotate(alg: Alg): void {
    this.key = newKey(alg);
    this.about = { ...this.about, id_token_signing_alg_values_supported: [alg] };
  }

  /** Somebody logs in there. @returns the address that the browser is sent back to */
  authorize(url: URL): URL {
    const q = (name: string): string => url.searchParams.get(name) ?? '';
    if (
      q('client_id') !== this.clientId ||
      q('response_type') !== 'code' ||
      q('code_challenge_method') !== 'S256'
    )
      throw new Error(`not a request of this client: ${url.href}`);
    const code = randomBytes(16).toString('hex');
    const [nonce, challenge, redirectUri] = [q('nonce'), q('code_challenge'), q('redirect_uri')];
    this.codes.set(code, { claims: this.person, nonce, challenge, redirectUri });
    const back = new URL(redirectUri);
    back.searchParams.set('code', code);
    back.searchParams.set('state', q('state'));
    return back;
  }

  async stop(): Promise<void> {
    await this.stopServer();
    this.stopServer = async () => undefined;
    await rm(this.dir, { recursive: true, force: true });
  }

  private answer(
    url: URL,
    form: URLSearchParams,
    authorization: string | undefined,
  ): { json?: unknown; status?: number; to?: string } {
    switch (url.pathname) {
      case '/.well-known/openid-configuration':
        return {
          json: {
            issuer: this.issuer,
            authorization_endpoint: `${this.issuer}/authorize`,
            token_endpoint: `${this.issuer}/token`,
            jwks_uri: `${this.issuer}/keys`,
            end_session_endpoint: `${this.issuer}/end`,
            ...(this.userinfo === null ? {} : { userinfo_endpoint: `${this.issuer}/userinfo` }),
            ...this.about,
          },
        };
      case '/keys':
        return { json: { keys: [this.key.jwk] } };
      case '/authorize':
        return { to: this.authorize(url).href };
      case '/token':
        return this.exchange(form, authorization);
      case '/userinfo':
        return authorization === 'Bearer access' ? { json: this.userinfo } : { status: 401, json: {} };
      default:
        return { status: 404, json: {} };
    }
  }

  private exchange(
    form: URLSearchParams,
    authorization: string | undefined,
  ): { json: unknown; status?: number } {
    const basic = `Basic ${Buffer.from(`${this.clientId}:${encodeURIComponent(this.clientSecret)}`).toString('base64')}`;
    const byForm = form.get('client_id') === this.clientId && form.get('client_secret') === this.clientSecret;
    if (!byForm && !sameBasic(authorization, basic))
      return { status: 401, json: { error: 'invalid_client' } };
    const code = form.get('code') ?? '';
    const given = this.codes.get(code);
    // A code is good once.
    this.codes.delete(code);
    const challenge = createHash('sha256')
      .update(form.get('code_verifier') ?? '')
      .digest('base64url');
    if (given?.challenge !== challenge || given.redirectUri !== form.get('redirect_uri'))
      return { status: 400, json: { error: 'invalid_grant', error_description: 'the code is not good' } };
    const nowS = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.issuer,
      aud: this.clientId,
      iat: nowS,
      exp: nowS + 300,
      nonce: given.nonce,
      ...given.claims,
    };
    const { key } = this;
    const text = jwt(
      { alg: key.alg, kid: key.kid, ...this.header },
      this.claims(claims),
      key.secret,
      key.alg,
    );
    return { json: { access_token: 'access', token_type: 'Bearer', id_token: this.token(text) } };
  }
}

/** The library escapes more characters than must be. */
function sameBasic(given: string | undefined, wanted: string): boolean {
  const plain = (h: string): string =>
    decodeURIComponent(Buffer.from(h.replace(/^Basic /, ''), 'base64').toString());
  return given !== undefined && plain(given) === plain(wanted);
}
