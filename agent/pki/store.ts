import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { createSecureContext } from 'node:tls';
import { FlotillaError } from '../../core/domain/error.js';
import { bundleMark, pemsIn } from './bundle.js';
import { writeFileDurably } from './files.js';
import { fingerprintOfKey, fingerprintOfPrivateKey } from './keys.js';
import type { TlsMaterial } from './tls.js';

/** Where a node's keys lie: `<stateDir>/pki`. */
export interface PkiPaths {
  readonly dir: string;
  readonly caCert: string;
  /** Only on the founder and on voters. */
  readonly caKey: string;
  /** Of the CA that is to come: the same care. */
  readonly caNextKey: string;
  /** Of one that is being made, and which no ledger names yet. */
  readonly caMadeKey: string;
  /** How the CA was vouched for; there is none before it was replaced for the first time. */
  readonly handover: string;
  readonly nodeCert: string;
  readonly nodeKey: string;
  /** The list of revoked certificates; in clusters of before there were such lists, none. */
  readonly crl: string;
}

export function pkiPaths(stateDir: string): PkiPaths {
  const dir = path.join(stateDir, 'pki');
  const file = (name: string) => path.join(dir, name);
  return {
    dir,
    caCert: file('ca.crt'),
    caKey: file('ca.key'),
    caNextKey: file('ca-next.key'),
    caMadeKey: file('ca-made.key'),
    handover: file('ca-handover.crt'),
    nodeCert: file('node.crt'),
    nodeKey: file('node.key'),
    crl: file('ca.crl'),
  };
}

/**
 * The node's TLS material.
 *
 * @throws FlotillaError `not-found`: the node has neither founded nor joined
 */
export async function readTls(stateDir: string): Promise<TlsMaterial> {
  const p = pkiPaths(stateDir);
  try {
    const [ca, cert, key] = await Promise.all(
      [p.caCert, p.nodeCert, p.nodeKey].map((f) => readFile(f, 'utf8')),
    );
    const handover = (await readIfThere(p.handover)) ?? '';
    return { ca: ca ?? '', cert: cert ?? '', key: key ?? '', handover, ...(await crlIfGood(p.crl)) };
  } catch (cause) {
    throw new FlotillaError('not-found', `This node has no certificate in ${p.dir}`, {
      hint: 'Found a cluster or join one first.',
      cause,
    });
  }
}

/** A list that is damaged is as none: it would cut the node off from all others. */
async function crlIfGood(file: string): Promise<{ crl?: string[] }> {
  const text = await readIfThere(file);
  if (text === null) return {};
  try {
    // OpenSSL's reader takes the first list of a text only.
    const crl = pemsIn(text);
    if (crl.length === 0) return {};
    createSecureContext({ crl });
    return { crl };
  } catch {
    return {};
  }
}

/** A file's text, or null where it does not exist. Any other failure is thrown: an error is not an absence. */
export async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

export const writePublic = (file: string, text: string): Promise<void> =>
  writeFileDurably(file, text, { mode: 0o644 });
export const writeSecret = (file: string, text: string): Promise<void> =>
  writeFileDurably(file, text, { mode: 0o600 });

/** Where the key of that CA lies on this node; null: not here. Whose a key is, it says itself, not its name. */
export async function caKeyFile(stateDir: string, ca: string): Promise<string | null> {
  const p = pkiPaths(stateDir);
  const wanted = fingerprintOfKey(new X509Certificate(ca).publicKey);
  for (const file of [p.caKey, p.caNextKey, p.caMadeKey]) {
    const key = await readIfThere(file);
    if (key !== null && fingerprintOfPrivateKey(key) === wanted) return file;
  }
  return null;
}

/** CAs in the node's file whose keys are not here, PEM. */
export async function lackingCaKeys(stateDir: string): Promise<readonly string[]> {
  const cas = pemsIn((await readIfThere(pkiPaths(stateDir).caCert)) ?? '');
  const files = await Promise.all(cas.map((pem) => caKeyFile(stateDir, pem)));
  return cas.filter((_, i) => files[i] === null);
}

/** Keeps those of the keys that are of CAs in the node's file and not here yet. */
export async function takeCaKeys(stateDir: string, keys: readonly string[]): Promise<void> {
  const p = pkiPaths(stateDir);
  for (const ca of await lackingCaKeys(stateDir)) {
    const wanted = fingerprintOfKey(new X509Certificate(ca).publicKey);
    const key = keys.find((k) => fingerprintOfPrivateKey(k) === wanted);
    if (key === undefined) continue;
    const cas = pemsIn((await readIfThere(p.caCert)) ?? '');
    const there = await Promise.all(cas.map((pem) => caKeyFile(stateDir, pem)));
    await writeSecret(there.includes(p.caKey) ? p.caNextKey : p.caKey, key);
  }
}

/** Who reads the CAs as it starts, and then no more: `all` is broker, libvirt and the agent itself. */
export type TrustUser = 'all' | 'etcd';

const useFile = (stateDir: string, by: TrustUser): string =>
  path.join(pkiPaths(stateDir).dir, by === 'all' ? 'ca.crt.used' : 'ca.crt.used-by-etcd');

/** Whether the CAs in the node's file are those in use. */
export async function usesTrust(stateDir: string, by: TrustUser): Promise<boolean> {
  const mark = bundleMark((await readIfThere(pkiPaths(stateDir).caCert)) ?? '');
  const used = await readIfThere(useFile(stateDir, by));
  if (used !== null) return used === mark;
  // Nothing was ever noted, so the CA was never replaced: who started read the only one there is.
  if (mark.includes(' ')) return false;
  await noteUse(stateDir, by);
  return true;
}

/** Notes that the CAs in the node's file are in use. */
export async function noteUse(stateDir: string, by: TrustUser, mark: string | null = null): Promise<void> {
  const now = mark ?? bundleMark((await readIfThere(pkiPaths(stateDir).caCert)) ?? '');
  await writePublic(useFile(stateDir, by), now);
}
