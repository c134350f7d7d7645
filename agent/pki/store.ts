import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { createSecureContext } from 'node:tls';
import { FlotillaError } from '../../core/domain/error.js';
import { writeFileDurably } from './files.js';
import type { TlsMaterial } from './tls.js';

/** Where a node's keys lie: `<stateDir>/pki`. */
export interface PkiPaths {
  readonly dir: string;
  readonly caCert: string;
  /** Only on the founder and on voters. */
  readonly caKey: string;
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
    return { ca: ca ?? '', cert: cert ?? '', key: key ?? '', ...(await crlIfGood(p.crl)) };
  } catch (cause) {
    throw new FlotillaError('not-found', `This node has no certificate in ${p.dir}`, {
      hint: 'Found a cluster or join one first.',
      cause,
    });
  }
}

/** A list that is damaged is as none: it would cut the node off from all others. */
async function crlIfGood(file: string): Promise<{ crl?: string }> {
  const crl = await readIfThere(file);
  if (crl === null) return {};
  try {
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
