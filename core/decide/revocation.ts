import type { CertificateRecord } from '../domain/certificate.js';

/** Most certificates a list of revoked ones names: the list of 1,000 is 55 kB, and a ledger value at most 64 kB. */
export const revokedMax = 1_000;
/** Most certificates the ledger keeps: each node has one, two while it renews, and the revoked ones. */
export const certificatesMax = 2_048;
/** Most good ones of one key: it has one, two while it renews. */
export const perKeyMax = 8;
/** Clocks may differ so much; a certificate is forgotten so long after its end, ms. */
const graceMs = 24 * 3_600_000;

/** Is of no use to anybody any more. */
export const isOver = (c: CertificateRecord, wallMs: number): boolean => c.notAfterMs + graceMs < wallMs;

/**
 * The certificates that a list must name now, by serial. Of too many the ones revoked last: what was stolen long ago was
 * either used already, or not at all.
 *
 * @param max - while the CA is replaced there are two lists, which together must fit the ledger
 */
export function revokedNow(
  all: Iterable<CertificateRecord>,
  wallMs: number,
  max = revokedMax,
): CertificateRecord[] {
  const atMs = (c: CertificateRecord): number => c.revoked?.atMs ?? 0;
  return [...all]
    .filter((c) => c.revoked !== null && !isOver(c, wallMs))
    .sort((a, b) => atMs(b) - atMs(a) || (a.serial < b.serial ? -1 : 1))
    .slice(0, max)
    .sort((a, b) => (a.serial < b.serial ? -1 : 1));
}

/** The revoked certificate of that key, the last one; null: the key is not one of a node that was removed. */
export function revokedKey(all: Iterable<CertificateRecord>, fingerprint: string): CertificateRecord | null {
  let found: CertificateRecord | null = null;
  for (const c of all) {
    if (c.fingerprint !== fingerprint || c.revoked === null) continue;
    if (found === null || c.revoked.atMs > (found.revoked?.atMs ?? 0)) found = c;
  }
  return found;
}
