import { Agent, request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { answerText } from '../agent/http/answer-text.js';
import { clientTlsOptions, type TlsMaterial } from '../agent/pki/tls.js';
import { errorFromRecord, FlotillaError } from '../core/domain/error.js';
import { problemSchema } from '../core/wire/rest.js';
import type { AgentAddress } from './api/uploads.js';

/** A node that does not answer in this time is taken for gone, ms. */
const answerMs = 5_000;
const answerBytesMax = 4 * 2 ** 20;

/** Questions to a node's agent that need a short answer. */
export interface AgentAsk {
  /**
   * The JSON at a path of the node's agent, unchecked.
   *
   * @throws FlotillaError of the node, `node-unreachable`
   */
  get(node: AgentAddress, path: string, signal: AbortSignal): Promise<unknown>;
}

/** Asks over mutual TLS. */
export class HttpsAsk implements AgentAsk {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 4 });
  private readonly o: { tls: () => TlsMaterial; port: number };

  constructor(o: { tls: () => TlsMaterial; port: number }) {
    this.o = o;
  }

  close(): void {
    this.agent.destroy();
  }

  get(node: AgentAddress, path: string, signal: AbortSignal): Promise<unknown> {
    return this.ask(node, path, null, signal);
  }

  /** Sends it that JSON. @returns as {@link get} does @throws FlotillaError of the node, `node-unreachable` */
  post(node: AgentAddress, path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    return this.ask(node, path, JSON.stringify(body), signal);
  }

  private async ask(
    node: AgentAddress,
    path: string,
    body: string | null,
    signal: AbortSignal,
  ): Promise<unknown> {
    try {
      const res = await new Promise<IncomingMessage>((resolve, reject) => {
        const req = request(
          {
            method: body === null ? 'GET' : 'POST',
            ...(body === null ? {} : { headers: { 'content-type': 'application/json' } }),
            host: node.address,
            port: this.o.port,
            // The certificate must be that node's, whatever answers at its address.
            servername: node.id,
            path,
            agent: this.agent,
            signal: AbortSignal.any([signal, AbortSignal.timeout(answerMs)]),
            ...clientTlsOptions(this.o.tls()),
          },
          resolve,
        );
        req.on('error', reject);
        req.end(body ?? undefined);
      });
      const answer: unknown = JSON.parse(await answerText(res, answerBytesMax));
      if (res.statusCode === 200) return answer;
      const p = problemSchema.safeParse(answer);
      if (p.success) throw errorFromRecord({ ...p.data, details: p.data.details });
      throw new Error(`it answered with status ${res.statusCode}`);
    } catch (cause) {
      if (cause instanceof FlotillaError) throw cause;
      throw new FlotillaError('node-unreachable', `Node ${node.id} does not answer`, {
        hint: 'Look whether its agent runs.',
        cause,
      });
    }
  }
}
