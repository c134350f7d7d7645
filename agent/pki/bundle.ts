import { createHash, X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate, TLSSocket } from 'node:tls';
import type { TlsMaterial } from './tls.js';

const block = /-----BEGIN ([A-Z0-9 ]+)-----\r?\n[A-Za-z0-9+/=\r\n]+-----END \1-----\r?\n?/g;

/** Longest chain that is looked at: ours has four. */
const chainMax = 6;

/** The PEM blocks of a text, each with a line's end. */
export const pemsIn = (text: string): string[] =>
  [...text.matchAll(block)].map(([pem]) => `${pem.trimEnd()}\n`);

/** SHA-256 of a certificate (DER), hex: how a join token names the CA. */
export const certificateSha256 = (pem: string): string =>
  createHash('sha256').update(new X509Certificate(pem).raw).digest('hex');

/** Stands for the CAs in a text, whatever their order. */
export const bundleMark = (ca: string): string => pemsIn(ca).map(certificateSha256).sort().join(' ');

/** Stands for the CAs that somebody uses, and for how many of them he has lists of revoked certificates. */
export const trustMark = (m: Pick<TlsMaterial, 'ca' | 'crl'>): string =>
  `${bundleMark(m.ca)} ${m.crl?.length ?? 'none'}`;

/** The CA that signed the certificate, of those in the text; null: none of them. */
export function issuerIn(cert: string, ca: string): string | null {
  const x = new X509Certificate(cert);
  return pemsIn(ca).find((pem) => isSignedBy(x, new X509Certificate(pem))) ?? null;
}

const isSignedBy = (x: X509Certificate, ca: X509Certificate): boolean =>
  x.checkIssued(ca) && x.verify(ca.publicKey);

const isSelfSigned = (x: X509Certificate): boolean => x.ca && isSignedBy(x, x);

const sameKey = (a: X509Certificate, b: X509Certificate): boolean => a.publicKey.equals(b.publicKey);

/**
 * Whether one of the trusted CAs says that this one comes after it: by a certificate for its name and its key. So nobody
 * makes a node trust a CA by writing the ledger.
 *
 * @param said - certificates that may say so
 */
export function isVouched(
  next: X509Certificate,
  said: readonly X509Certificate[],
  trusted: readonly X509Certificate[],
): boolean {
  if (!isSelfSigned(next)) return false;
  return said.some(
    (x) =>
      x.ca &&
      x.subject === next.subject &&
      sameKey(x, next) &&
      trusted.some((t) => !sameKey(t, next) && isSignedBy(x, t)),
  );
}

/**
 * The CA by which the first certificate of a chain is to be checked: the one that is trusted, or the one that it vouches
 * for in that same chain.
 *
 * @returns its certificate, PEM; null: neither
 */
export function successorIn(chain: readonly X509Certificate[], trusted: string): string | null {
  const [leaf] = chain;
  const pinned = pemsIn(trusted).map((pem) => new X509Certificate(pem));
  if (leaf === undefined) return null;
  const by =
    pinned.find((ca) => isSignedBy(leaf, ca)) ??
    chain.find((ca) => isSelfSigned(ca) && isSignedBy(leaf, ca) && isVouched(ca, chain, pinned));
  return by?.toString() ?? null;
}

/** The CA that signed the first certificate of a chain, where the chain has it; null: it has not. */
export function rootIn(chain: readonly X509Certificate[]): X509Certificate | null {
  const [leaf] = chain;
  if (leaf === undefined) return null;
  return chain.find((x) => isSelfSigned(x) && isSignedBy(leaf, x)) ?? null;
}

/** What the other side of a connection sent, its own certificate first. Nothing of it is checked. */
export function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let c: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  // A root is its own issuer: the walk ends there, and at a length no honest chain has.
  for (let i = 0; i < chainMax && c?.raw !== undefined; i++) {
    chain.push(new X509Certificate(c.raw));
    if (c.issuerCertificate === c) break;
    c = c.issuerCertificate;
  }
  return chain;
}

/** A server's certificate with what those who know the CA, or only the one before, need to check it. */
export function chainText(m: Pick<TlsMaterial, 'cert' | 'ca' | 'handover'>): string {
  const issuer = issuerIn(m.cert, m.ca);
  const others = pemsIn(m.ca).filter((pem) => pem !== issuer);
  const handover = pemsIn(m.handover ?? '');
  const [said] = handover;
  const ours =
    said !== undefined && issuer !== null && sameKey(new X509Certificate(said), new X509Certificate(issuer));
  // The order counts: who walks from one certificate to its issuer takes the first that fits.
  const chain = [m.cert, ...(issuer === null ? [] : [issuer]), ...(ours ? handover : []), ...others];
  return [...new Set(chain.map((pem) => `${pem.trimEnd()}\n`))].join('');
}
