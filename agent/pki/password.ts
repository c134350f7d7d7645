import { randomBytes, randomInt, scrypt, timingSafeEqual } from 'node:crypto';
import { FlotillaError } from '../../core/domain/error.js';
import type { PasswordHash } from '../../core/domain/user.js';

/** 32 MiB and about a tenth of a second each. @see RFC 7914; OWASP's password storage cheat sheet asks for this or more */
const costs = { n: 2 ** 15, r: 8, p: 1 } as const;
const hashBytes = 32;
/** At once: memory is 32 MiB each. */
const runningMax = 2;
/** Those who wait: a few seconds of work. */
const waitingMax = 24;

let running = 0;
const waiting: (() => void)[] = [];

export async function hashPassword(password: string): Promise<PasswordHash> {
  const salt = randomBytes(16).toString('hex');
  return { ...costs, salt, hash: await derive(password, { ...costs, salt }) };
}

/**
 * @param kept - null: of nobody; the same work is done, so that the time does not tell
 * @throws FlotillaError `rate-limited`: too many are being checked
 */
export async function passwordMatches(kept: PasswordHash | null, password: string): Promise<boolean> {
  const of = kept ?? { ...costs, salt: '0'.repeat(32), hash: '0'.repeat(64) };
  const given = await derive(password, of);
  return timingSafeEqual(Buffer.from(given, 'hex'), Buffer.from(of.hash, 'hex')) && kept !== null;
}

/** One that a person can copy from a screen: 100 random bits. */
export function madeUpPassword(): string {
  const letters = 'abcdefghjkmnpqrstuvwxyz23456789';
  const group = (): string => Array.from({ length: 5 }, () => letters[randomInt(letters.length)]).join('');
  return [group(), group(), group(), group()].join('-');
}

async function derive(password: string, o: Omit<PasswordHash, 'hash'>): Promise<string> {
  if (running >= runningMax) {
    if (waiting.length >= waitingMax) {
      throw new FlotillaError('rate-limited', 'Too many passwords are being checked', {
        hint: 'Try again in a moment.',
      });
    }
    await new Promise<void>((go) => waiting.push(go));
  }
  running += 1;
  try {
    return await new Promise((resolve, reject) => {
      const options = { N: o.n, r: o.r, p: o.p, maxmem: 256 * o.n * o.r };
      const salt = Buffer.from(o.salt, 'hex');
      scrypt(password.normalize('NFC'), salt, hashBytes, options, (e, key) =>
        e === null ? resolve(key.toString('hex')) : reject(e),
      );
    });
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}
