import { createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { CertificateRecord } from '../../core/domain/certificate.js';
import { FlotillaError } from '../../core/domain/error.js';
import { idSchema, ipv4Schema, nodeIdSchema } from '../../core/domain/schema.js';
import { fingerprintOfKey, isOurCurve } from './keys.js';
import { inPrivateDir, openssl } from './openssl.js';

/** How long a node's certificate is valid, days: the most that common TLS clients still accept. */
export const nodeDaysMax = 825;
/** The CA's certificate, days: renewing it means touching every node, so it outlives the hardware. */
export const caDays = 7_300;
/** A node renews its certificate when less than this is left, days. */
export const renewBeforeDays = 90;
/** Certificates begin this long before they are made: the clock of a fresh machine may be behind. */
const backdateMs = 24 * 3_600_000;
const dayMs = 24 * 3_600_000;

/** Longest CSR taken, bytes. One of a P-256 key is below 500. */
export const csrBytesMax = 4_096;

/** What a CSR may look like: one PEM block and nothing else. */
const csrPattern =
  /^-----BEGIN CERTIFICATE REQUEST-----\r?\n[A-Za-z0-9+/=\r\n]{100,4000}-----END CERTIFICATE REQUEST-----\r?\n?$/;

/** The CA as a signer has it: its certificate, and where its key lies. */
export interface Ca {
  readonly cert: string;
  readonly keyFile: string;
}

/** What is signed about a node. All of it is decided by the signer; of the CSR only the public key counts. */
export interface NodeSubject {
  readonly node: string;
  readonly addresses: readonly string[];
}

/** `-startdate`'s form. */
export const asn1Time = (ms: number): string =>
  new Date(ms).toISOString().replace(/[-:T]/g, '').slice(0, 14) + 'Z';

/** openssl's own bookkeeping (`index.txt`) lives and dies with the call: who is a node, the ledger says. */
function caConfig(dir: string, extensions: string): string {
  return `[ca]
default_ca = flotilla
[flotilla]
database = ${dir}/index.txt
new_certs_dir = ${dir}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
email_in_dn = no
copy_extensions = none
string_mask = utf8only
[any]
commonName = supplied
[ext]
${extensions}
[req]
distinguished_name = dn
prompt = no
[dn]
CN = request
`;
}

async function sign(o: {
  csr: string;
  commonName: string;
  keyFile: string;
  caCert: string | null;
  days: number;
  extensions: string;
  wallMs: number;
}): Promise<string> {
  return inPrivateDir(async (dir) => {
    const file = (name: string) => path.join(dir, name);
    await writeFile(file('csr'), o.csr);
    await writeFile(file('index.txt'), '');
    await writeFile(file('conf'), caConfig(dir, o.extensions));
    if (o.caCert !== null) await writeFile(file('ca.crt'), o.caCert);
    const issuer = o.caCert === null ? ['-selfsign'] : ['-cert', file('ca.crt')];
    await openssl(
      [
        ...['ca', '-batch', '-notext', '-config', file('conf'), '-in', file('csr'), '-out', file('crt')],
        ...['-keyfile', o.keyFile, ...issuer, '-extensions', 'ext', '-subj', `/CN=${o.commonName}`],
        ...['-startdate', asn1Time(o.wallMs - backdateMs), '-enddate', asn1Time(o.wallMs + o.days * dayMs)],
      ],
      { cwd: dir },
    );
    const { stdout } = await openssl(['x509', '-in', file('crt')], { cwd: dir });
    return `${stdout.trim()}\n`;
  });
}

const caExtensions = `basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash`;

/**
 * Makes the CA's self-signed certificate for the key in `keyFile`.
 *
 * @param o.mark - of one that comes after another: no two may have one name, since lists and issuers are found by it
 */
export async function makeCa(o: {
  clusterId: string;
  keyFile: string;
  wallMs: number;
  mark?: string;
}): Promise<string> {
  const commonName = `flotilla-${idSchema.parse(o.clusterId)}${o.mark === undefined ? '' : `-${o.mark}`}`;
  return sign({
    csr: await makeCsr({ keyFile: o.keyFile, commonName }),
    commonName,
    keyFile: o.keyFile,
    caCert: null,
    days: caDays,
    wallMs: o.wallMs,
    extensions: caExtensions,
  });
}

/** The CA's word for the one that is to come after it: a certificate for its name and key. */
export async function vouch(ca: Ca, next: Ca, wallMs: number): Promise<string> {
  const { commonName } = certificateInfo(next.cert);
  return sign({
    csr: await makeCsr({ keyFile: next.keyFile, commonName }),
    commonName,
    keyFile: ca.keyFile,
    caCert: ca.cert,
    days: caDays,
    wallMs,
    extensions: `${caExtensions}\nauthorityKeyIdentifier = keyid`,
  });
}

/** A CSR for the key in `keyFile`. */
export async function makeCsr(o: { keyFile: string; commonName: string }): Promise<string> {
  return inPrivateDir(async (dir) => {
    const conf = path.join(dir, 'conf');
    await writeFile(conf, caConfig(dir, ''));
    const args = [
      'req',
      '-new',
      '-batch',
      '-config',
      conf,
      '-key',
      o.keyFile,
      '-subj',
      `/CN=${o.commonName}`,
    ];
    const { stdout } = await openssl(args, { cwd: dir });
    return `${stdout.trim()}\n`;
  });
}

/**
 * Checks a CSR from outside: one PEM block of a sane size, signed by its own key (so the sender holds it), P-256.
 *
 * @returns the fingerprint of its public key
 * @throws FlotillaError `bad-input`, `too-large`
 */
export async function checkCsr(csr: string): Promise<string> {
  const refuse = (fault: string, cause?: unknown) =>
    new FlotillaError('bad-input', `The certificate request is refused: ${fault}`, {
      hint: 'flotilla-agent join makes the right kind: P-256, one PEM block.',
      cause,
    });
  if (csr.length > csrBytesMax) {
    throw new FlotillaError('too-large', `The certificate request has more than ${csrBytesMax} bytes`, {
      hint: 'One of a P-256 key has below 500.',
    });
  }
  if (!csrPattern.test(csr)) throw refuse('it is not one PEM block');
  const publicPem = await inPrivateDir(async (dir) => {
    const file = path.join(dir, 'csr');
    await writeFile(file, csr);
    try {
      const { stdout, stderr } = await openssl(['req', '-in', file, '-verify', '-noout', '-pubkey'], {
        cwd: dir,
      });
      // openssl 3.0 ends with 0 also where the signature is bad: only its words tell. 3.0 says them on stderr, 3.5 on
      // stdout, before the key.
      const key = stdout.indexOf('-----BEGIN');
      const said = stderr + stdout.slice(0, Math.max(key, 0));
      if (!/verify OK/i.test(said) || /fail/i.test(said)) throw new Error(said.slice(0, 200));
      return stdout.slice(key);
    } catch (cause) {
      throw refuse('its signature is not by its own key', cause);
    }
  });
  const key = createPublicKey(publicPem);
  if (!isOurCurve(key)) throw refuse('its key is not P-256');
  return fingerprintOfKey(key);
}

/** Signs a node's certificate. The CSR must have passed {@link checkCsr}. */
export async function signNode(ca: Ca, csr: string, subject: NodeSubject, wallMs: number): Promise<string> {
  const node = nodeIdSchema.parse(subject.node);
  const addresses = [...new Set(subject.addresses.map((a) => ipv4Schema.parse(a)))];
  const names = [
    `DNS:${node}`,
    'DNS:localhost',
    ...addresses.map((a) => `IP:${a}`),
    ...(addresses.includes('127.0.0.1') ? [] : ['IP:127.0.0.1']),
  ];
  return sign({
    csr,
    commonName: node,
    keyFile: ca.keyFile,
    caCert: ca.cert,
    days: nodeDaysMax,
    wallMs,
    extensions: `basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = ${names.join(',')}
authorityKeyIdentifier = keyid`,
  });
}

/** A certificate of a node that is in no cluster yet, signed by its own key: it proves the key and nothing else. */
export async function selfSigned(o: {
  keyFile: string;
  node: string;
  address: string;
  wallMs: number;
}): Promise<string> {
  const commonName = nodeIdSchema.parse(o.node);
  return sign({
    csr: await makeCsr({ keyFile: o.keyFile, commonName }),
    commonName,
    keyFile: o.keyFile,
    caCert: null,
    days: nodeDaysMax,
    wallMs: o.wallMs,
    extensions: `basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:${commonName},DNS:${commonName}.local,IP:${ipv4Schema.parse(o.address)}`,
  });
}

/** What health pages and metrics say of a certificate. */
export interface CertificateInfo {
  readonly commonName: string;
  readonly fingerprint: string;
  readonly serial: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** @throws FlotillaError `bad-input`: not a certificate */
export function certificateInfo(pem: string): CertificateInfo {
  let x: X509Certificate;
  try {
    x = new X509Certificate(pem);
  } catch (cause) {
    throw new FlotillaError('bad-input', 'This is not a certificate', { hint: 'PEM is expected.', cause });
  }
  return {
    commonName: /^CN=(.*)$/m.exec(x.subject)?.[1] ?? '',
    fingerprint: fingerprintOfKey(x.publicKey),
    serial: x.serialNumber,
    notBeforeMs: Date.parse(x.validFrom),
    notAfterMs: Date.parse(x.validTo),
  };
}

/** What the ledger keeps of a certificate that was signed for a node. */
export function certificateRecord(pem: string, issuedMs: number): CertificateRecord {
  const { serial, commonName, fingerprint, notAfterMs } = certificateInfo(pem);
  return { serial, node: commonName, fingerprint, issuedMs, notAfterMs, pem, revoked: null };
}

/** State of a certificate at a time, in words for a health page; null: nothing to say. */
export function certificateFault(pem: string, wallMs: number): string | null {
  const { notBeforeMs, notAfterMs } = certificateInfo(pem);
  const days = Math.floor((notAfterMs - wallMs) / dayMs);
  if (wallMs < notBeforeMs) return 'the certificate is not valid yet: is the clock of this node right?';
  if (wallMs >= notAfterMs) return 'the certificate has expired: the node cannot speak to the others';
  return days < renewBeforeDays / 3 ? `the certificate expires in ${days} days and was not renewed` : null;
}

/** True when it is time to ask for a new certificate. */
export function dueForRenewal(pem: string, wallMs: number): boolean {
  return certificateInfo(pem).notAfterMs - wallMs < renewBeforeDays * dayMs;
}

/** Whether it is one for that IPv4 address. */
export const isFor = (pem: string, address: string): boolean =>
  new X509Certificate(pem).checkIP(address) !== undefined;

/** A new id for things that need 128 random bits in hex. */
export const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');
