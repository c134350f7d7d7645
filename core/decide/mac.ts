/**
 * First two octets of every MAC address that Flotilla makes up: locally administered, so no maker's card has them,
 * and not the 52:54:00 that every other QEMU near by uses.
 */
export const macPrefix = '02:f1';

/** Draws before giving up: with 2^32 addresses even a million taken ones make a second draw rare. */
const drawsMax = 64;

/**
 * A new MAC address that is not among those taken. The ledger's unique key settles a race between two callers.
 *
 * @param random - `below(n)` gives a whole number from 0 to n - 1
 * @returns null when every draw was taken: the source of chance is broken
 */
export function newMac(random: { below(n: number): number }, taken: ReadonlySet<string>): string | null {
  for (let draw = 0; draw < drawsMax; draw++) {
    const octets = Array.from({ length: 4 }, () => random.below(256).toString(16).padStart(2, '0'));
    const mac = `${macPrefix}:${octets.join(':')}`;
    if (!taken.has(mac)) return mac;
  }
  return null;
}
