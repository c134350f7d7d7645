import { createHash, type X509Certificate } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { connect } from 'node:tls';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { chainOf, rootIn, successorIn } from '../../agent/pki/bundle.js';
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

/** Where commands go unless somebody says another one. Its login is `login.json`, as before there were others. */
const usual = 'default';
const contextSchema = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,31}$/, 'lower-case letters, digits and . _ -, at most 32');

const configDir = (env: NodeJS.ProcessEnv): string =>
  path.join(env['XDG_CONFIG_HOME'] ?? path.join(env['HOME'] ?? homedir(), '.config'), 'flotilla');
const contextsDir = (env: NodeJS.ProcessEnv): string => path.join(configDir(env), 'contexts');
const currentFile = (env: NodeJS.ProcessEnv): string => path.join(configDir(env), 'context');
const fileOf = (env: NodeJS.ProcessEnv, name: string): string =>
  name === usual
    ? path.join(configDir(env), 'login.json')
    : path.join(contextsDir(env), `${parse(contextSchema, name, 'The context')}.json`);

/** The context that commands go to: of the environment or `--context`, else the one chosen last. */
export async function contextName(env: NodeJS.ProcessEnv): Promise<string> {
  const said = env['FLOTILLA_CONTEXT'] ?? (await textOf(currentFile(env)))?.trim() ?? usual;
  return parse(contextSchema, said, 'The context');
}

/** The file of the context that commands go to; it holds a secret, so 0600. */
export const sessionFile = async (env: NodeJS.ProcessEnv): Promise<string> =>
  fileOf(env, await contextName(env));

export async function saveSession(env: NodeJS.ProcessEnv, target: Target): Promise<string> {
  const file = await sessionFile(env);
  await write(file, `${JSON.stringify(target)}\n`);
  return file;
}

/** Forgets what `flotilla login` kept. */
export async function forgetSession(env: NodeJS.ProcessEnv): Promise<void> {
  await rm(await sessionFile(env), { force: true });
}

/** All contexts that somebody is logged in to, by name. */
export async function contextsOf(env: NodeJS.ProcessEnv): Promise<{ name: string; server: string }[]> {
  const names = (await readdir(contextsDir(env)).catch(() => []))
    .filter((n) => n.endsWith('.json'))
    .map((n) => n.slice(0, -5))
    .filter((n) => contextSchema.safeParse(n).success);
  const out: { name: string; server: string }[] = [];
  for (const name of [usual, ...names.sort()]) {
    const saved = await readSaved(fileOf(env, name));
    if (saved !== null) out.push({ name, server: saved.server });
  }
  return out;
}

/** Lets commands go to that context from now on. */
export async function useContext(env: NodeJS.ProcessEnv, name: string): Promise<void> {
  await write(currentFile(env), `${parse(contextSchema, name, 'The context')}\n`);
}

export async function deleteContext(env: NodeJS.ProcessEnv, name: string): Promise<void> {
  await rm(fileOf(env, name), { force: true });
  if ((await textOf(currentFile(env)))?.trim() === name) await rm(currentFile(env), { force: true });
}

/** By another name first: what is read is whole. */
async function write(file: string, text: string): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, text, { mode: 0o600 });
  await chmod(`${file}.new`, 0o600);
  await rename(`${file}.new`, file);
}

async function textOf(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/**
 * Whom to talk to: the environment first, else what `flotilla login` kept.
 *
 * @throws FlotillaError `unauthenticated`: neither is there
 */
export async function readTarget(env: NodeJS.ProcessEnv): Promise<Target> {
  const saved = await readSaved(await sessionFile(env));
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

async function readSaved(file: string): Promise<Target | null> {
  const text = await textOf(file);
  if (text === null) return null;
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
export async function lookAtCa(
  server: string,
): Promise<{ chain: readonly X509Certificate[]; pem: string; sha256: string }> {
  const url = new URL(server);
  const chain = await new Promise<X509Certificate[]>((resolve, reject) => {
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    // Nothing is sent on this connection; whom it shows is compared before anything is trusted.
    const socket = connect(
      { host, port: Number(url.port), rejectUnauthorized: false, timeout: lookMs },
      () => {
        const chain = chainOf(socket);
        socket.destroy();
        resolve(chain);
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
  const root = rootIn(chain) ?? chain.at(-1);
  if (root === undefined) {
    throw new FlotillaError('wrong-certificate', `${server} shows no certificate`, {
      hint: 'Is that the address of a Flotilla controller?',
    });
  }
  return { chain, pem: root.toString(), sha256: createHash('sha256').update(root.raw).digest('hex') };
}

/**
 * The CA that the server's certificate is of now, where the one we know vouches for it in the chain: the cluster's CA was
 * replaced. It is kept in place of the former one, unless that came from a file of the user.
 *
 * @returns null: it does not
 */
export async function newCa(env: NodeJS.ProcessEnv, target: Target): Promise<string | null> {
  if (target.ca === null) return null;
  const { chain } = await lookAtCa(target.server);
  const ca = successorIn(chain, target.ca);
  if (ca === null || ca.trim() === target.ca.trim()) return null;
  const file = await sessionFile(env);
  const saved = await readSaved(file);
  if (saved !== null && saved.ca === target.ca) await write(file, `${JSON.stringify({ ...saved, ca })}\n`);
  return ca;
}
