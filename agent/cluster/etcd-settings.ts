import path from 'node:path';
import { pkiPaths } from '../pki/store.js';
import type { Ports } from './config.js';

/** etcd refuses writes above this, bytes: the ledger of 64 nodes and 5,000 VMs is below 100 MB. */
export const quotaBytes = 2 * 2 ** 30;

/** How often a quiet watch says that it lives, s; the watcher gives up after three of them. */
export const progressIntervalS = 5;

export interface VoterOptions {
  readonly node: string;
  readonly address: string;
  readonly stateDir: string;
  readonly ports: Pick<Ports, 'ledger' | 'ledgerPeer'>;
  readonly clusterId: string;
  /** `new` for the founder; `existing` for a voter that is added. */
  readonly state: 'new' | 'existing';
  /** All members, this one too. */
  readonly members: readonly { readonly name: string; readonly peerUrl: string }[];
  /** Whether the list of revoked certificates is there: etcd reads it at each handshake, and refuses all without it. */
  readonly crl: boolean;
}

export const etcdDir = (stateDir: string): string => path.join(stateDir, 'etcd');
export const etcdEnvFile = (stateDir: string): string => path.join(stateDir, 'etcd.env');

export const peerUrl = (address: string, ports: Pick<Ports, 'ledgerPeer'>): string =>
  `https://${address}:${ports.ledgerPeer}`;
export const clientUrl = (address: string, ports: Pick<Ports, 'ledger'>): string =>
  `https://${address}:${ports.ledger}`;

/**
 * Where a voter listens for its clients: everywhere, so that a storage network that is there later, or is missing, takes
 * nothing to start anew and keeps nothing from starting. Nodes that share a machine keep to their loopback address.
 */
export const clientListen = (address: string, ports: Pick<Ports, 'ledger'>): string =>
  clientUrl(address.startsWith('127.') ? address : '0.0.0.0', ports);

/**
 * Settings of a voter's etcd, as its environment. Clients and peers alike must show a certificate of the cluster's CA.
 *
 * @see etcd 3.5 configuration flags
 */
export function voterSettings(o: VoterOptions): Record<string, string> {
  const pki = pkiPaths(o.stateDir);
  const client = clientUrl(o.address, o.ports);
  const peer = peerUrl(o.address, o.ports);
  return {
    ETCD_NAME: o.node,
    ETCD_DATA_DIR: etcdDir(o.stateDir),
    ETCD_LISTEN_CLIENT_URLS: clientListen(o.address, o.ports),
    ETCD_ADVERTISE_CLIENT_URLS: client,
    ETCD_LISTEN_PEER_URLS: peer,
    ETCD_INITIAL_ADVERTISE_PEER_URLS: peer,
    ETCD_INITIAL_CLUSTER: o.members.map((m) => `${m.name}=${m.peerUrl}`).join(','),
    ETCD_INITIAL_CLUSTER_STATE: o.state,
    ETCD_INITIAL_CLUSTER_TOKEN: o.clusterId,
    ETCD_CERT_FILE: pki.nodeCert,
    ETCD_KEY_FILE: pki.nodeKey,
    ETCD_TRUSTED_CA_FILE: pki.caCert,
    ETCD_CLIENT_CERT_AUTH: 'true',
    ETCD_PEER_CERT_FILE: pki.nodeCert,
    ETCD_PEER_KEY_FILE: pki.nodeKey,
    ETCD_PEER_TRUSTED_CA_FILE: pki.caCert,
    ETCD_PEER_CLIENT_CERT_AUTH: 'true',
    ...(o.crl ? crlSettings(o.stateDir) : {}),
    ETCD_TLS_MIN_VERSION: 'TLS1.2',
    ETCD_QUOTA_BACKEND_BYTES: String(quotaBytes),
    ETCD_AUTO_COMPACTION_MODE: 'periodic',
    ETCD_AUTO_COMPACTION_RETENTION: '1h',
    ETCD_HEARTBEAT_INTERVAL: '100',
    ETCD_ELECTION_TIMEOUT: '1000',
    ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL: `${progressIntervalS}s`,
    ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK: 'true',
    ETCD_STRICT_RECONFIG_CHECK: 'true',
    ETCD_LOGGER: 'zap',
    ETCD_LOG_LEVEL: 'warn',
  };
}

/** @see etcd 3.5: it looks for serials alone, not for who signed the list or until when, and reads the first list of the file */
export function crlSettings(stateDir: string): Record<string, string> {
  const { crl } = pkiPaths(stateDir);
  return { ETCD_CLIENT_CRL_FILE: crl, ETCD_PEER_CRL_FILE: crl };
}

/** `etcd.env` as systemd reads it. None of the values needs quoting; one that would is a defect. */
export function settingsText(settings: Record<string, string>): string {
  const lines = Object.entries(settings).map(([name, value]) => {
    if (!/^[\w.:/,=-]*$/.test(value)) throw new Error(`${name} needs quoting in etcd.env`);
    return `${name}=${value}`;
  });
  return ['# Written by flotilla-agent; changes are lost.', ...lines, ''].join('\n');
}
