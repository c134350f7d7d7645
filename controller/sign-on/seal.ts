import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';

const ivBytes = 12;
const tagBytes = 16;
/** What is sealed belongs to this and nothing else. */
const purpose = Buffer.from('flotilla sign-on 1');

/**
 * Seals a text so that only who has the key reads or makes one: AES-256-GCM.
 *
 * @param key - 32 bytes, hex
 * @returns base64url
 */
export function seal(key: string, text: string): string {
  const iv = randomBytes(ivBytes);
  const c = createCipheriv('aes-256-gcm', Buffer.from(key, 'hex'), iv).setAAD(purpose);
  const body = Buffer.concat([c.update(text, 'utf8'), c.final()]);
  return Buffer.concat([iv, c.getAuthTag(), body]).toString('base64url');
}

/** @returns null: it was not sealed with that key */
export function unseal(key: string, sealed: string): string | null {
  const all = Buffer.from(sealed, 'base64url');
  if (all.length < ivBytes + tagBytes) return null;
  const tag = all.subarray(ivBytes, ivBytes + tagBytes);
  const d = createDecipheriv('aes-256-gcm', Buffer.from(key, 'hex'), all.subarray(0, ivBytes), {
    authTagLength: tagBytes,
  })
    .setAAD(purpose)
    .setAuthTag(tag);
  try {
    return Buffer.concat([d.update(all.subarray(ivBytes + tagBytes)), d.final()]).toString('utf8');
  } catch {
    return null;
  }
}
