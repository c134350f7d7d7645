import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { clientTlsOptions, type TlsMaterial } from '../agent/pki/tls.js';
import { errorFromRecord, FlotillaError } from '../core/domain/error.js';
import { consoleUpgrade } from '../core/wire/consoles.js';
import { problemSchema } from '../core/wire/rest.js';
import type { AgentAddress } from './api/uploads.js';
import type { ConsoleDial } from './consoles.js';

/** A node that does not open a console in this time is taken for gone, ms. */
const openMs = 10_000;
const keepAliveMs = 15_000;
const problemBytesMax = 64 * 1024;

/** Consoles over mutual TLS from the agents' HTTPS servers. */
export class HttpsConsoles implements ConsoleDial {
  private readonly o: { tls: () => TlsMaterial; port: number };

  constructor(o: { tls: () => TlsMaterial; port: number }) {
    this.o = o;
  }

  async dial(node: AgentAddress, path: string, signal: AbortSignal): Promise<Duplex> {
    try {
      return await this.ask(node, path, signal);
    } catch (cause) {
      if (cause instanceof FlotillaError) throw cause;
      throw new FlotillaError('node-unreachable', `Node ${node.id} does not open the console`, {
        hint: 'Look whether its agent runs.',
        cause,
      });
    }
  }

  private ask(node: AgentAddress, path: string, signal: AbortSignal): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      const req = request({
        host: node.address,
        port: this.o.port,
        // The certificate must be that node's, whatever answers at its address.
        servername: node.id,
        path,
        agent: false,
        timeout: openMs,
        signal,
        headers: { connection: 'Upgrade', upgrade: consoleUpgrade },
        ...clientTlsOptions(this.o.tls()),
      });
      req.on('error', reject);
      req.on('timeout', () => req.destroy(new Error(`no word for ${openMs / 1000} s`)));
      req.on('response', (res) => void refusal(res).then(reject, reject));
      req.on('upgrade', (_, socket: Socket, head) => {
        socket.setTimeout(0);
        socket.setNoDelay(true);
        socket.setKeepAlive(true, keepAliveMs);
        if (head.length > 0) socket.unshift(head);
        resolve(socket);
      });
      req.end();
    });
  }
}

async function refusal(res: IncomingMessage): Promise<Error> {
  let text = '';
  for await (const part of res.setEncoding('utf8')) {
    text += part as string;
    if (text.length > problemBytesMax) break;
  }
  const p = problemSchema.safeParse(JSON.parse(text));
  return p.success
    ? errorFromRecord({ ...p.data, details: p.data.details })
    : new Error(`it answered with status ${res.statusCode}`);
}
