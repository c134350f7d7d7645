import { X509Certificate, createHash } from 'node:crypto';
import { chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { connect } from 'node:tls';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import type { Target } from './client.js';

/** How long a look at a server's certificate may take, ms. */
const lookMs = 10_000;

const fileSchema = z.strictObject({
  server: z.url(),
  token: z.string().max(512),
  ca: z
    .string()
    .max(64 * 1024)
    .nullable(),
});

/** `login.json` in the XDG configuration directory; it holds a secret, so 0600. */
export function sessionFile(env: NodeJS.ProcessEnv): string {
  const base = env['XDG_CONFIG_HOME'] ?? path.join(env['HOME'] ?? homedir(), '.config');
  return path.join(base, 'flotilla', 'login.json');
}

export async function saveSession(env: NodeJS.ProcessEnv, target: Target): Promise<string> {
  const file = sessionFile(env);
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, `${JSON.stringify(target)}\n`, { mode: 0o600 });
  await chmod(`${file}.new`, 0o600);
  await rename(`${file}.new`, file);
  return file;
}

/** Forgets what `flotilla login` kept. */
export async function forgetSession(env: NodeJS.ProcessEnv): Promise<void> {
  await rm(sessionFile(env), { force: true });
}

/**
 * Whom to talk to: the environment first, else what `flotilla login` kept.
 *
 * @throws FlotillaError `unauthenticated`: neither is there
 */
export async function readTarget(env: NodeJS.ProcessEnv): Promise<Target> {
  const saved = await readSaved(env);
  const server = env['FLOTILLA_SERVER'] ?? saved?.server;
  const tokenFile = env['FLOTILLA_TOKEN_FILE'];
  const token = tokenFile === undefined ? saved?.token : await readToken(tokenFile);
  const caFile = env['FLOTILLA_CA'];
  const ca = caFile === undefined ? (saved?.ca ?? null) : await readText(caFile, 'The CA');
  if (server !== undefined && token !== undefined) return { server: checkServer(server), token, ca };
  throw new FlotillaError('unauthenticated', 'You are not logged in', {
    hint: 'flotilla login --server https://NODE:8443 --user NAME; or set FLOTILLA_SERVER and FLOTILLA_TOKEN_FILE.',
  });
}

async function readSaved(env: NodeJS.ProcessEnv): Promise<Target | null> {
  const file = sessionFile(env);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // Told by the schema.
  }
  return parse(fileSchema, value, file);
}

/** @throws FlotillaError `bad-input`; never repeats what may be a secret */
export function checkServer(text: string): string {
  let url: URL | null = null;
  try {
    url = new URL(text.includes('://') ? text : `https://${text}`);
  } catch {
    // Told below.
  }
  if (url?.protocol === 'https:' && url.username === '') {
    if (url.port === '' && !/:443(\/|$)/.test(text)) url.port = '8443';
    return url.origin;
  }
  throw new FlotillaError('bad-input', 'The server is not an https address', {
    hint: 'e.g. https://n1:8443',
  });
}

export async function readText(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new FlotillaError('bad-input', `${what} cannot be read from ${file}`, {
      hint: 'Check the path and its permissions.',
      cause,
    });
  }
}

export async function readToken(file: string): Promise<string> {
  const token = (await readText(file, 'The token')).trim();
  if (/^flt-api\.[a-z0-9]{8}\.[A-Za-z0-9_-]{16,256}$/.test(token)) return token;
  throw new FlotillaError('bad-input', `${file} does not hold an API token`, {
    hint: 'It is one line that begins with "flt-api.".',
  });
}

/** The CA a server sends in its chain, and its fingerprint, for a person to compare. */
export async function lookAtCa(server: string): Promise<{ pem: string; sha256: string }> {
  const url = new URL(server);
  const root = await new Promise<X509Certificate>((resolve, reject) => {
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    // Nothing is sent on this connection; whom it shows is compared before anything is trusted.
    const socket = connect(
      { host, port: Number(url.port), rejectUnauthorized: false, timeout: lookMs },
      () => {
        let cert = socket.getPeerX509Certificate();
        while (
          cert?.issuerCertificate !== undefined &&
          cert.issuerCertificate.fingerprint256 !== cert.fingerprint256
        )
          cert = cert.issuerCertificate;
        socket.destroy();
        if (cert === undefined) reject(new Error('it shows no certificate'));
        else resolve(cert);
      },
    );
    socket.on('error', reject);
    socket.on('timeout', () => socket.destroy(new Error('no answer')));
  }).catch((cause: unknown) => {
    throw new FlotillaError('node-unreachable', `No controller answers at ${server}`, {
      hint: 'Is the address right?',
      cause,
    });
  });
  return { pem: root.toString(), sha256: createHash('sha256').update(root.raw).digest('hex') };
}
