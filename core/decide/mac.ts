/**
 * First two octets of every MAC address that Flotilla makes up: locally administered, so no maker's card has them,
 * and not the 52:54:00 that every other QEMU near by uses.
 */
export const macPrefix = '02:f1';

/** The MAC address of 32 random bits. Who takes it makes sure that it is free; the ledger's key settles a race. */
export function macFrom(hex8: string): string {
  if (!/^[0-9a-f]{8}$/.test(hex8)) throw new RangeError('8 hexadecimal digits are needed');
  return `${macPrefix}:${hex8.match(/../g)?.join(':')}`;
}
