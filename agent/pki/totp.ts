import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

/** @see RFC 6238: SHA-1, six digits, steps of 30 s, as every authenticator has it */
const stepMs = 30_000;
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

export function newTotpSecret(): string {
  return Array.from(randomBytes(32), (b) => letters[b & 31]).join('');
}

export const totpUri = (secret: string, o: { user: string; cluster: string }): string =>
  `otpauth://totp/${encodeURIComponent(`Flotilla ${o.cluster}`)}:${encodeURIComponent(o.user)}?secret=${secret}&issuer=${encodeURIComponent(`Flotilla ${o.cluster}`)}`;

export function totpAt(secret: string, step: number): string {
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(step));
  const mac = createHmac('sha1', bytesOf(secret)).update(counter).digest();
  const at = (mac.at(-1) ?? 0) & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

/**
 * The step a code is of, now or one beside it, since clocks differ; null: of none.
 *
 * @param after - a code is good once: only steps after this one count
 */
export function totpStep(secret: string, code: string, wallMs: number, after: number): number | null {
  const now = Math.floor(wallMs / stepMs);
  for (const step of [now - 1, now, now + 1]) {
    const same = timingSafeEqual(Buffer.from(totpAt(secret, step)), Buffer.from(code.padEnd(6).slice(0, 6)));
    if (same && step > after) return step;
  }
  return null;
}

function bytesOf(secret: string): Buffer {
  let bits = '';
  for (const c of secret) bits += letters.indexOf(c).toString(2).padStart(5, '0');
  return Buffer.from((bits.match(/.{8}/g) ?? []).map((b) => parseInt(b, 2)));
}
