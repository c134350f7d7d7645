import { createHash, X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { CertificateRecord } from '../../core/domain/certificate.js';
import { FlotillaError } from '../../core/domain/error.js';
import { asn1Time, type Ca } from './certificates.js';
import { bundleMark, pemsIn } from './bundle.js';
import { inPrivateDir, openssl } from './openssl.js';

/** Lists of revoked certificates, one of each CA that is trusted, read and verified. */
export interface Crl {
  readonly number: number;
  readonly serials: readonly string[];
  /** Those that are good. */
  readonly pem: string;
}

const pemPattern = /^(-----BEGIN X509 CRL-----\n[A-Za-z0-9+/=\n]{100,63900}-----END X509 CRL-----\n){1,4}$/;

/** Stands for what lists say, whatever their number. @param ca - the CAs that are to sign one each, PEM */
export function crlMark(serials: readonly string[], ca = ''): string {
  const cas = bundleMark(ca).split(' ');
  return createHash('sha256')
    .update([...[...serials].sort(), ...(cas.length > 1 ? cas : [])].join('\n'))
    .digest('hex');
}

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

/** One list of each CA, all with the same number and the same certificates: etcd reads only the first of a file. */
export async function makeCrls(
  cas: readonly Ca[],
  number: number,
  revoked: Parameters<typeof makeCrl>[2],
): Promise<string> {
  let pem = '';
  for (const ca of cas) pem += await makeCrl(ca, number, revoked);
  return pem;
}

/**
 * Reads lists, from wherever they came. Those of other CAs are left out.
 *
 * @param ca - the CAs that are trusted, PEM
 * @throws FlotillaError `bad-input`: it is none, or none is signed by one of these CAs
 */
export async function readCrl(pem: string, ca: string): Promise<Crl> {
  const refuse = (fault: string, cause?: unknown) =>
    new FlotillaError('bad-input', `The list of revoked certificates is refused: ${fault}`, {
      hint: 'The list of before stays in use. A voter makes a new one when the next certificate is revoked.',
      cause,
    });
  if (!pemPattern.test(pem)) throw refuse('it is not in PEM');
  let cause: unknown;
  const read = await inPrivateDir(async (dir) => {
    const good: Crl[] = [];
    for (const one of pemsIn(pem)) {
      // It fails as well where it knows no CA of that name.
      const list = await readOne(dir, one, ca).catch((e: unknown) => {
        cause = e;
        return null;
      });
      if (list !== null) good.push(list);
    }
    return good;
  });
  if (read.length === 0) throw refuse('it is not signed by this CA', cause);
  const number = Math.min(...read.map((l) => l.number));
  if (!Number.isSafeInteger(number)) throw refuse('it has no number');
  const serials = [...new Set(read.flatMap((l) => l.serials))];
  return { number, serials, pem: read.map((l) => l.pem).join('') };
}

/** Null: no CA of these signed it. */
async function readOne(dir: string, pem: string, ca: string): Promise<Crl | null> {
  const file = (name: string) => path.join(dir, name);
  await writeFile(file('crl'), pem);
  await writeFile(file('ca.crt'), ca);
  const args = ['crl', '-in', file('crl'), '-CAfile', file('ca.crt'), '-noout', '-text'];
  const { stdout, stderr } = await openssl(args, { cwd: dir });
  const said = `${stderr}\n${stdout}`;
  if (!/^verify OK$/m.test(said) || /verify fail/i.test(said)) return null;
  return {
    number: Number(/X509v3 CRL Number: *\n *(\d{1,15})$/m.exec(stdout)?.[1] ?? NaN),
    serials: [...stdout.matchAll(/^ *Serial Number: ([0-9A-F]+)$/gm)].map((m) => m[1] ?? ''),
    pem,
  };
}
