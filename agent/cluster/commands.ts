import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { FlotillaError } from '../../core/domain/error.js';
import type { Clock, Log } from '../env.js';
import { certificateSha256 } from '../pki/bundle.js';
import { readTls } from '../pki/store.js';
import { joinTtlMs } from '../pki/tokens.js';
import { journal, systemClock, systemRandom } from '../system.js';
import { agentConfigFile, readAgentConfig, type AgentConfig } from './config.js';
import { found } from './found.js';
import { fetchCa, join } from './join.js';
import { SystemdServices } from './services.js';
import { createTokenOnNode } from './token.js';
import { options, usage } from './usage.js';

/** Longest input taken as a token, bytes. */
const tokenBytesMax = 4_096;
/** Log lines go to stderr, since stdout is the result, for programs. */
const log: Log = journal((line) => process.stderr.write(line.replace(/^<\d>/, '')));

const configOption = { config: { type: 'string' } } as const;

/** `90s`, `15m`, `24h`, `7d`, or `never`. */
export function parseTtl(text: string): number | null {
  if (text === 'never') return null;
  const m = /^(\d{1,6})([smhd])$/.exec(text);
  const unitMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[m?.[2] ?? ''];
  const ms = Number(m?.[1]) * (unitMs ?? NaN);
  if (Number.isSafeInteger(ms) && ms > 0) return ms;
  throw new FlotillaError('bad-input', 'The time to live cannot be read', {
    hint: 'Write 90s, 15m, 24h, 7d or never.',
  });
}

/** The agent of a node that waited to be admitted takes its new place within seconds. */
const servedMs = 30_000;
const servedAgainMs = 200;

/**
 * Until the agent of this node serves as one of the cluster: with the token that is made next others come to it, and would be
 * told that it is of another. One that does not run is waited for in vain, and no fault.
 */
async function untilServed(config: AgentConfig, ca: string, clock: Clock): Promise<void> {
  const endMs = clock.nowMs() + servedMs;
  const caSha256 = certificateSha256(ca);
  for (;;) {
    const at = { address: config.address, port: config.ports.agent, caSha256 };
    const served = await fetchCa(at).then(
      () => true,
      () => false,
    );
    if (served) return;
    if (clock.nowMs() >= endMs) {
      log.warn(`the agent of ${config.name} does not serve yet: systemctl status flotilla-agent`);
      return;
    }
    await clock.sleep(servedAgainMs);
  }
}

const foundUsage = 'flotilla-agent found --cluster NAME [--admin-password-file FILE] [--config FILE]';

/** `found --cluster NAME`: founds a cluster of this node. @returns what is printed, as JSON */
export async function foundCommand(
  argv: readonly string[],
): Promise<{ clusterId: string; apiToken: string; adminUser: 'admin'; adminPassword: string }> {
  const { values } = options(foundUsage, () =>
    parseArgs({
      args: [...argv],
      options: { cluster: { type: 'string' }, 'admin-password-file': { type: 'string' }, ...configOption },
    }),
  );
  if (values.cluster === undefined) throw usage(foundUsage);
  const config = await readAgentConfig(values.config ?? agentConfigFile);
  const services = new SystemdServices();
  const file = values['admin-password-file'];
  const password = file === undefined ? null : (await readFile(file, 'utf8')).trim();
  const deps = { config, services, clock: systemClock, random: systemRandom, log };
  const r = await found(deps, values.cluster, password);
  await untilServed(config, (await readTls(config.stateDir)).ca, systemClock);
  return { clusterId: r.clusterId, apiToken: r.apiToken, adminUser: 'admin', adminPassword: r.adminPassword };
}

const joinUsage =
  'flotilla-agent join [--token-file FILE] [--witness] [--config FILE]   (without a file: from standard input)';

/** `join --token-file F`: joins a cluster. The token never stands in an argument, where everybody could read it. */
export async function joinCommand(
  argv: readonly string[],
): Promise<{ clusterId: string; cluster: string; node: string; fingerprint: string }> {
  const { values } = options(joinUsage, () =>
    parseArgs({
      args: [...argv],
      options: { 'token-file': { type: 'string' }, witness: { type: 'boolean' }, ...configOption },
    }),
  );
  const asked = await readAgentConfig(values.config ?? agentConfigFile);
  const config = { ...asked, witness: asked.witness || values.witness === true };
  const token = await readToken(values['token-file']);
  const services = new SystemdServices();
  const r = await join({ config, services, clock: systemClock, log }, token);
  return { clusterId: r.clusterId, cluster: r.name, node: r.node, fingerprint: r.fingerprint };
}

const tokenUsage =
  'flotilla-agent token create [--kind join|api] [--name NAME] [--ttl 24h|never] [--uses N|any] [--config FILE]';

/** `token create`: makes a token on this node. */
export async function tokenCommand(argv: readonly string[]): Promise<{
  id: string;
  name: string;
  kind: string;
  token: string;
  expires: string | null;
  uses: number | null;
}> {
  const text = { type: 'string' } as const;
  const { values, positionals } = options(tokenUsage, () =>
    parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: { kind: text, name: text, ttl: text, uses: text, ...configOption },
    }),
  );
  const kind = values.kind ?? 'join';
  if (positionals.join(' ') !== 'create' || (kind !== 'join' && kind !== 'api')) throw usage(tokenUsage);
  const usual = kind === 'join' ? { ttlMs: joinTtlMs, uses: 1 } : { ttlMs: null, uses: null };
  if (values.uses !== undefined && values.uses !== 'any' && !/^[1-9]\d{0,3}$/.test(values.uses))
    throw usage(tokenUsage);
  const uses = values.uses === undefined ? usual.uses : values.uses === 'any' ? null : Number(values.uses);
  const ttlMs = values.ttl === undefined ? usual.ttlMs : parseTtl(values.ttl);
  const config = await readAgentConfig(values.config ?? agentConfigFile);
  const made = await createTokenOnNode(
    { config, clock: systemClock },
    { kind, name: values.name ?? null, ttlMs, uses },
  );
  const expires = made.expiresMs === null ? null : new Date(made.expiresMs).toISOString();
  return { id: made.id, name: made.name, kind: made.kind, token: made.token, expires, uses: made.uses };
}

async function readToken(file: string | undefined): Promise<string> {
  if (file !== undefined) {
    try {
      return (await readFile(file, 'utf8')).slice(0, tokenBytesMax);
    } catch (cause) {
      throw new FlotillaError('not-found', `The token file ${file} cannot be read`, {
        hint: 'Give its path.',
        cause,
      });
    }
  }
  let text = '';
  for await (const chunk of process.stdin) {
    text += String(chunk);
    if (text.length > tokenBytesMax) throw usage(joinUsage);
  }
  return text;
}
