import https from 'node:https';
import { connect } from 'node:net';
import { FlotillaError, type ErrorCode, errorStatus } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import { lockstepAnswerSchemas, type LockstepAsk } from '../../core/wire/lockstep.js';
import type { Peers } from '../env.js';
import { answerText } from '../http/answer-text.js';
import type { TlsMaterial } from '../pki/tls.js';

/** An answer is a few words; what is longer is none of ours, bytes. */
const answerMax = 64_000;
/** A connection that waits for the next beat is kept so long, ms. */
const keptMs = 5_000;

/** Asks other nodes' agents about machines in lockstep, over connections that stay open. */
export class LockstepPeers {
  private readonly port: number;
  private readonly tls: () => TlsMaterial;
  private agent: { readonly of: TlsMaterial; readonly agent: https.Agent } | null = null;

  /** @param tls - this node's certificate, and the only authority it believes; asked each time: they are renewed */
  constructor(o: { readonly port: number; readonly tls: () => TlsMaterial }) {
    this.port = o.port;
    this.tls = o.tls;
  }

  readonly ask: Peers['lockstep'] = async (to, ask, signal) => {
    const body = Buffer.from(JSON.stringify(ask satisfies LockstepAsk));
    const { status, text } = await this.post(to, body, signal).catch((cause: unknown) => {
      throw away(to.node, 'it cannot be reached', cause);
    });
    if (status !== 200) throw refused(to.node, status, text);
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch (cause) {
      throw away(to.node, 'its answer is not JSON', cause);
    }
    return parse(lockstepAnswerSchemas[ask.do], answer, `the answer of ${to.node}`) as never;
  };

  readonly knock: Peers['knock'] = (to, signal) =>
    new Promise((resolve) => {
      const socket = connect({ host: to.address, port: this.port });
      const done = (answers: boolean): void => {
        signal.removeEventListener('abort', away);
        socket.destroy();
        resolve(answers);
      };
      const away = (): void => done(false);
      socket.once('connect', () => done(true));
      socket.once('error', (e: NodeJS.ErrnoException) =>
        done(['ECONNREFUSED', 'ECONNRESET'].includes(e.code ?? '')),
      );
      if (signal.aborted) away();
      else signal.addEventListener('abort', away, { once: true });
    });

  stop(): void {
    this.agent?.agent.destroy();
    this.agent = null;
  }

  private agentOf(tls: TlsMaterial): https.Agent {
    if (this.agent?.of === tls) return this.agent.agent;
    // What waits for beats with the old certificate ends by itself.
    const agent = new https.Agent({
      keepAlive: true,
      keepAliveMsecs: keptMs,
      maxFreeSockets: 4,
      timeout: keptMs,
    });
    this.agent = { of: tls, agent };
    return agent;
  }

  private post(
    to: { readonly node: string; readonly address: string },
    body: Buffer,
    signal: AbortSignal,
  ): Promise<{ readonly status: number; readonly text: string }> {
    const tls = this.tls();
    return new Promise((resolve, reject) => {
      const req = https.request(
        {
          host: to.address,
          port: this.port,
          path: '/v1/lockstep',
          method: 'POST',
          agent: this.agentOf(tls),
          signal,
          ca: tls.ca,
          cert: tls.cert,
          key: tls.key,
          // The certificate must be that node's, whatever answers at its address.
          servername: to.node,
          headers: { 'content-type': 'application/json', 'content-length': body.length },
        },
        (res) =>
          void answerText(res, answerMax).then(
            (text) => resolve({ status: res.statusCode ?? 0, text }),
            reject,
          ),
      );
      req.on('error', reject);
      req.end(body);
    });
  }
}

const away = (node: string, why: string, cause?: unknown): FlotillaError =>
  new FlotillaError('node-unreachable', `Node ${node} does not answer about lockstep: ${why}`, {
    hint: `See whether ${node} is well and of the same version.`,
    cause,
  });

/** What the other one said, in its own words where it said any. */
function refused(node: string, status: number, text: string): FlotillaError {
  let said: { code?: unknown; message?: unknown; hint?: unknown } = {};
  try {
    said = JSON.parse(text) as typeof said;
  } catch {
    // not one of ours
  }
  const { code, message, hint } = said;
  if (typeof code !== 'string' || !(code in errorStatus) || typeof message !== 'string')
    return away(node, `it answered ${status}`);
  return new FlotillaError(code as ErrorCode, `Node ${node}: ${message.slice(0, 500)}`, {
    hint: typeof hint === 'string' ? hint.slice(0, 500) : '',
  });
}
