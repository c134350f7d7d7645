import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
} from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { FlotillaError } from '../../core/domain/error.js';
import { writeFileDurably } from './files.js';

/** The one curve we use: every TLS library of Debian 13 speaks it, and keys are small. */
const namedCurve = 'prime256v1';

/** A new P-256 private key, PKCS #8 PEM. */
export function newPrivateKey(): string {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve });
  return privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
}

/** Reads the key file, or makes it: a start that was cut off between key and certificate goes on with its key. */
export async function ensurePrivateKey(file: string): Promise<string> {
  try {
    const pem = await readFile(file, 'utf8');
    createPrivateKey(pem);
    return pem;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw new FlotillaError('bad-input', `The key ${file} cannot be read`, {
        hint: 'Restore it, or move it away to make a new one (the node then has to join anew).',
        cause,
      });
    }
  }
  const pem = newPrivateKey();
  await writeFileDurably(file, pem, { mode: 0o600 });
  return pem;
}

/** SHA-256 of the public key (SubjectPublicKeyInfo), hex: what a person compares and the ledger keeps of a node. */
export function fingerprintOfKey(key: KeyObject): string {
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

/** The fingerprint of a private key's public half. */
export const fingerprintOfPrivateKey = (pem: string): string => fingerprintOfKey(createPublicKey(pem));

/** True for P-256; anything else in a CSR is refused. */
export const isOurCurve = (key: KeyObject): boolean =>
  key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === namedCurve;
