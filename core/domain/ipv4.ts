import { z } from 'zod';

/** An IPv4 address as an unsigned 32-bit number. The text must have passed a schema. */
export function ipv4ToInt(text: string): number {
  return text.split('.').reduce((n, part) => n * 256 + Number(part), 0);
}

export function intToIpv4(n: number): string {
  return [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255].join('.');
}

export interface Cidr {
  readonly base: number;
  /** 1 to 32. */
  readonly bits: number;
  readonly first: number;
  readonly last: number;
}

/** Splits `10.0.0.0/24`. The text must have passed {@link cidrSchema}. */
export function parseCidr(text: string): Cidr {
  const [address = '', bitsText = '32'] = text.split('/');
  const bits = Number(bitsText);
  const size = 2 ** (32 - bits);
  const base = Math.floor(ipv4ToInt(address) / size) * size;
  return { base, bits, first: base, last: base + size - 1 };
}

/** The last address of a subnet that a host may have. In isolated networks it is kept for looking into them. */
export const lastHost = (cidr: string): string => intToIpv4(parseCidr(cidr).last - 1);

export function ipv4InCidr(address: string, cidr: string): boolean {
  const { first, last } = parseCidr(cidr);
  const n = ipv4ToInt(address);
  return n >= first && n <= last;
}

/** A subnet such as `10.0.0.0/24`: base address, 8 to 30 bits. */
export const cidrSchema = z.cidrv4().refine((s) => {
  const { base, bits } = parseCidr(s);
  return bits >= 8 && bits <= 30 && intToIpv4(base) === s.split('/')[0];
}, 'give the base address and 8 to 30 bits, e.g. 10.0.0.0/24');

/**
 * The next free address of a range, lowest first, so that every controller proposes the same one and the
 * ledger's compare-and-swap settles a race.
 *
 * @returns null when the range is used up
 */
export function nextAddress(range: readonly [string, string], taken: ReadonlySet<string>): string | null {
  const last = ipv4ToInt(range[1]);
  for (let n = ipv4ToInt(range[0]); n <= last; n++) {
    const address = intToIpv4(n);
    if (!taken.has(address)) return address;
  }
  return null;
}
