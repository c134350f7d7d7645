import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { nodeIdSchema } from '../../core/domain/schema.js';
import { certificateInfo } from './certificates.js';

/** Who is at the other end of a TLS connection, by its certificate. */
export interface PeerNode {
  readonly node: string;
  /** Compare with the node's record in the ledger: a removed node's certificate is still well signed. */
  readonly fingerprint: string;
  readonly serial: string;
}

/**
 * The node whose certificate of our CA the client showed; null without one. `wrong`: it showed one that our CA did
 * not sign, or that is not valid now.
 */
export function peerNode(socket: Socket): PeerNode | 'wrong' | null {
  if (!(socket instanceof TLSSocket)) return null;
  const der = socket.getPeerX509Certificate();
  if (der === undefined) return null;
  if (!socket.authorized) return 'wrong';
  const info = certificateInfo(der.toString());
  const node = nodeIdSchema.safeParse(info.commonName);
  return node.success ? { node: node.data, fingerprint: info.fingerprint, serial: info.serial } : 'wrong';
}
