import { createHash, X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { CertificateRecord } from '../../core/domain/certificate.js';
import { FlotillaError } from '../../core/domain/error.js';
import { asn1Time, type Ca } from './certificates.js';
import { inPrivateDir, openssl } from './openssl.js';

/** A list of revoked certificates, read and verified. */
export interface Crl {
  readonly number: number;
  readonly serials: readonly string[];
}

const pemPattern = /^-----BEGIN X509 CRL-----\n[A-Za-z0-9+/=\n]{100,63900}-----END X509 CRL-----\n$/;

/** Stands for what a list says, whatever its number. */
export const crlMark = (serials: readonly string[]): string =>
  createHash('sha256')
    .update([...serials].sort().join('\n'))
    .digest('hex');

/** The number of a list made now: higher than the one before, and than any of a ledger that was restored since. */
export const nextCrlNumber = (before: number, wallMs: number): number =>
  Math.max(before + 1, Math.floor(wallMs / 1000));

/**
 * Makes the list of these certificates. It is valid as long as the CA is, from the same day on: every TLS library
 * refuses everybody on a list that is over or not valid yet, and no cluster may go down by a clock.
 */
export async function makeCrl(
  ca: Ca,
  number: number,
  revoked: readonly Pick<CertificateRecord, 'serial' | 'notAfterMs' | 'revoked'>[],
): Promise<string> {
  const { validFrom, validTo } = new X509Certificate(ca.cert);
  return inPrivateDir(async (dir) => {
    const file = (name: string) => path.join(dir, name);
    const hex = number.toString(16).toUpperCase();
    // The year with two digits: openssl takes no other, and nobody looks at it.
    const time = (ms: number) => asn1Time(ms).slice(2);
    const rows = revoked.map((c) =>
      ['R', time(c.notAfterMs), time(c.revoked?.atMs ?? 0), c.serial, 'unknown', '/CN=node'].join('\t'),
    );
    await writeFile(file('index.txt'), rows.map((r) => `${r}\n`).join(''));
    await writeFile(file('crlnumber'), `${hex.length % 2 === 0 ? '' : '0'}${hex}\n`);
    await writeFile(file('ca.crt'), ca.cert);
    await writeFile(
      file('conf'),
      `[ca]
default_ca = flotilla
[flotilla]
database = ${dir}/index.txt
crlnumber = ${dir}/crlnumber
default_md = sha256
unique_subject = no
crl_extensions = ext
[ext]
authorityKeyIdentifier = keyid
`,
    );
    await openssl(
      [
        ...[
          'ca',
          '-gencrl',
          '-batch',
          '-config',
          file('conf'),
          '-keyfile',
          ca.keyFile,
          '-cert',
          file('ca.crt'),
        ],
        ...[
          '-crl_lastupdate',
          asn1Time(Date.parse(validFrom)),
          '-crl_nextupdate',
          asn1Time(Date.parse(validTo)),
        ],
        ...['-out', file('crl')],
      ],
      { cwd: dir },
    );
    const { stdout } = await openssl(['crl', '-in', file('crl')], { cwd: dir });
    return `${stdout.trim()}\n`;
  });
}

/**
 * Reads a list, from wherever it came.
 *
 * @throws FlotillaError `bad-input`: it is none, or not signed by this CA
 */
export async function readCrl(pem: string, caCert: string): Promise<Crl> {
  const refuse = (fault: string, cause?: unknown) =>
    new FlotillaError('bad-input', `The list of revoked certificates is refused: ${fault}`, {
      hint: 'The list of before stays in use. A voter makes a new one when the next certificate is revoked.',
      cause,
    });
  if (!pemPattern.test(pem)) throw refuse('it is not one PEM block');
  return inPrivateDir(async (dir) => {
    const file = (name: string) => path.join(dir, name);
    await writeFile(file('crl'), pem);
    await writeFile(file('ca.crt'), caCert);
    const args = ['crl', '-in', file('crl'), '-CAfile', file('ca.crt'), '-noout', '-text'];
    const { stdout, stderr } = await openssl(args, { cwd: dir }).catch((cause: unknown) => {
      throw refuse('openssl cannot read it', cause);
    });
    const said = `${stderr}\n${stdout}`;
    if (!/^verify OK$/m.test(said) || /verify fail/i.test(said)) throw refuse('it is not signed by this CA');
    const number = Number(/X509v3 CRL Number: *\n *(\d{1,15})$/m.exec(stdout)?.[1] ?? NaN);
    if (!Number.isSafeInteger(number)) throw refuse('it has no number');
    return {
      number,
      serials: [...stdout.matchAll(/^ *Serial Number: ([0-9A-F]+)$/gm)].map((m) => m[1] ?? ''),
    };
  });
}
