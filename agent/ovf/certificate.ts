import { createVerify, X509Certificate } from 'node:crypto';
import { readDigestLine } from '../../core/ovf/manifest.js';
import { refusal } from '../../core/ovf/xml.js';

/** Who signed a package's manifest. */
export interface Signer {
  readonly subject: string;
  readonly issuer: string;
  readonly validFrom: string;
  readonly validTo: string;
  readonly fingerprint256: string;
  /** It vouches for itself: it says nothing that its maker did not say. */
  readonly selfSigned: boolean;
  readonly expired: boolean;
}

const certificatesMax = 16;
const pem = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/**
 * Checks the signature of a manifest: `SHA256(name.mf)= SIGNATURE` and below it the signer's certificate in PEM, with
 * those of its issuers.
 * That the signature is right means that whoever has this certificate's key signed this manifest. Whether to trust
 * that one is for the reader to say: no authority is asked.
 *
 * @param text - of the certificate file; @param file - its name
 * @param manifest - bytes and name of the file it signs
 * @throws FlotillaError `bad-input`: it is unreadable, or the signature is wrong
 */
export function verifyCertificate(
  text: string,
  file: string,
  manifest: { readonly name: string; readonly bytes: Uint8Array },
  nowMs: number,
): Signer {
  const head = text.split(/\r?\n/).findIndex((l) => l.trim() !== '');
  const line = text.split(/\r?\n/)[head] ?? '';
  const digest = readDigestLine(line, file, head + 1, 0);
  if (digest.file !== manifest.name)
    throw refusal(
      file,
      head + 1,
      `it signs "${digest.file}", not "${manifest.name}"`,
      'It is of another package.',
    );
  const found = text.match(pem) ?? [];
  if (found.length === 0)
    throw refusal(file, null, 'there is no certificate in it', 'It was damaged: get the package again.');
  if (found.length > certificatesMax)
    throw refusal(
      file,
      null,
      `it has more than ${certificatesMax} certificates`,
      'No package needs as many.',
    );
  // The signer's stands first, but for products that sort.
  const certificate = found
    .map((c) => readCertificate(c, file))
    .find((c) => signatureFits(c, digest.algorithm, manifest.bytes, digest.hex));
  if (certificate === undefined)
    throw refusal(
      file,
      head + 1,
      `the signature is not that of "${manifest.name}"`,
      'The manifest was changed after it was signed, or the certificate is of another package: do not use it.',
    );
  return {
    subject: oneLine(certificate.subject),
    issuer: oneLine(certificate.issuer),
    validFrom: certificate.validFrom,
    validTo: certificate.validTo,
    fingerprint256: certificate.fingerprint256,
    selfSigned: certificate.checkIssued(certificate),
    expired: Date.parse(certificate.validTo) < nowMs || Date.parse(certificate.validFrom) > nowMs,
  };
}

function readCertificate(text: string, file: string): X509Certificate {
  try {
    return new X509Certificate(text);
  } catch {
    throw refusal(file, null, 'its certificate cannot be read', 'It was damaged: get the package again.');
  }
}

function signatureFits(
  certificate: X509Certificate,
  algorithm: string,
  bytes: Uint8Array,
  hex: string,
): boolean {
  if (hex.length % 2 === 1) return false;
  try {
    return createVerify(algorithm).update(bytes).verify(certificate.publicKey, Buffer.from(hex, 'hex'));
  } catch {
    // A key of a kind that does not sign.
    return false;
  }
}

const oneLine = (name: string): string => name.split('\n').join(', ').slice(0, 500);
