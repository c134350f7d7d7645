import type { Socket } from 'node:net';
import { connect } from 'node:tls';
import { clientTlsOptions, type TlsMaterial } from '../pki/tls.js';
import type { PeerConnector } from './client.js';
import { LibvirtError } from './error.js';

/** libvirt's port for TLS. */
const port = 16514;
/** What the daemon says once it has looked at our certificate and found it good; on a bad one it hangs up. */
const welcome = 1;

/** A way to the daemon of another node: by TLS, both ends with their node's certificate. */
export function tlsPeer(host: string, tls: TlsMaterial): PeerConnector {
  return (deadlineMs) =>
    new Promise<Socket>((resolve, reject) => {
      const socket = connect({ host, port, ...clientTlsOptions(tls) });
      const fail = (why: string, cause?: unknown): void => {
        clearTimeout(timer);
        socket.destroy();
        const fields = { code: 'disconnected', outcome: 'not-sent' } as const;
        reject(
          new LibvirtError(`the libvirt daemon of ${host} cannot be reached: ${why}`, {
            ...fields,
            ...(cause === undefined ? {} : { cause }),
          }),
        );
      };
      const timer = setTimeout(() => fail(`no answer within ${deadlineMs} ms`), deadlineMs);
      const failed = (cause: Error): void => fail(cause.message, cause);
      const closed = (): void => fail('it hung up');
      socket.once('error', failed);
      socket.once('close', closed);
      socket.once('data', (first: Buffer) => {
        if (first.length !== 1 || first[0] !== welcome) return fail('it does not greet as a daemon does');
        clearTimeout(timer);
        socket.off('error', failed);
        socket.off('close', closed);
        socket.setNoDelay(true);
        resolve(socket);
      });
    });
}
