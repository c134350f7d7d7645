import type { Server } from 'node:https';
import type { TLSSocket } from 'node:tls';
import { peerNode, type PeerNode } from '../pki/identity.js';

/** The connections to a server that came with a node's certificate, so that those of a node that is removed can be cut. */
export class PeerSockets {
  readonly #open = new Map<TLSSocket, PeerNode>();

  constructor(server: Server) {
    server.on('secureConnection', (socket) => {
      const peer = peerNode(socket);
      if (peer === null || peer === 'wrong') return;
      this.#open.set(socket, peer);
      socket.once('close', () => this.#open.delete(socket));
    });
  }

  /** Cuts those that are not of a member, whatever is going on over them. */
  cut(isMember: (peer: PeerNode) => boolean): void {
    for (const [socket, peer] of this.#open) if (!isMember(peer)) socket.destroy();
  }
}
