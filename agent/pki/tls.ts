import type { SecureContextOptions, TlsOptions } from 'node:tls';
import { chainText } from './bundle.js';

/** What a TLS connection of the cluster needs, PEM. */
export interface TlsMaterial {
  /** One CA, or while it is replaced two: first the one that signs. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** A list of each CA, of certificates that are refused, whichever end shows them. */
  readonly crl?: string[];
  /** How the CA was vouched for by the one before: {@link successorIn}. */
  readonly handover?: string;
}

const crlOf = (m: TlsMaterial): { crl?: string[] } => (m.crl === undefined ? {} : { crl: m.crl });

/** TLS 1.2 is the least that mosquitto, etcd and QEMU of Debian 13 all speak well; all of them prefer 1.3. */
const minVersion = 'TLSv1.2';

/**
 * Options of an HTTPS server of the cluster. It asks for a client certificate and lets a connection without one
 * in, since people come with a token; {@link peerNode} tells who it is. The CA stands in the chain that is sent,
 * so that a joining node can compare its hash with the one in its token; so does the one before, with its word for this one.
 */
export function httpsServerOptions(m: TlsMaterial): TlsOptions {
  return {
    key: m.key,
    cert: chainText(m),
    ca: m.ca,
    ...crlOf(m),
    requestCert: true,
    rejectUnauthorized: false,
    minVersion,
  };
}

/** Options of a client of the cluster's servers: HTTPS, etcd. The server must show a certificate of our CA with its address in it. */
export function clientTlsOptions(m: TlsMaterial): SecureContextOptions & { rejectUnauthorized: true } {
  return { key: m.key, cert: m.cert, ca: m.ca, ...crlOf(m), rejectUnauthorized: true, minVersion };
}

/** The same for mqtt.js: fields of its `connect` options. */
export function mqttTlsOptions(m: TlsMaterial): {
  key: string;
  cert: string;
  ca: string;
  rejectUnauthorized: true;
  protocol: 'mqtts';
} {
  return { key: m.key, cert: m.cert, ca: m.ca, rejectUnauthorized: true, protocol: 'mqtts' };
}
