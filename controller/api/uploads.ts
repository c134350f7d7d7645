import { Agent, request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { answerText } from '../../agent/http/answer-text.js';
import { clientTlsOptions, type TlsMaterial } from '../../agent/pki/tls.js';
import { errorFromRecord, FlotillaError } from '../../core/domain/error.js';
import { errorRecordSchema } from '../../core/domain/op.js';

/** Streams an image's bytes to the node that keeps it. */
export interface AgentUploads {
  /** Bytes the node has: where to go on. */
  offset(node: AgentAddress, imageId: string, signal: AbortSignal): Promise<number>;
  /**
   * Appends the body at `offset`.
   *
   * @returns the new offset
   * @throws FlotillaError of the node (`offset-mismatch`, `no-space`, `too-large`), `node-unreachable`
   */
  append(
    node: AgentAddress,
    imageId: string,
    o: {
      offset: number;
      body: ReadableStream<Uint8Array> | null;
      length: string | undefined;
      signal: AbortSignal;
    },
  ): Promise<number>;
}

/** Fetches what nodes keep to be fetched. */
export interface AgentExports {
  /** @param range - a `Range` header @throws FlotillaError of the node, `node-unreachable` */
  exported(
    node: AgentAddress,
    op: string,
    range: string | undefined,
    signal: AbortSignal,
  ): Promise<{ status: number; headers: Record<string, string>; body: ReadableStream<Uint8Array> }>;
}

export interface AgentAddress {
  readonly id: string;
  readonly address: string;
}

/** A node that says nothing for so long is given up, ms: its disk may be slow, its network gone. */
const idleMs = 60_000;
/** An answer of the agent is a line. */
const answerBytesMax = 64 * 1024;

const answerSchema = z.union([
  z.object({ offset: z.number().int().nonnegative() }),
  z.object({ error: errorRecordSchema }),
  errorRecordSchema.transform((error) => ({ error })),
]);

/** Uploads over mutual TLS to the agents' HTTPS servers. Nothing is held here: a slow side slows the other. */
export class HttpsUploads implements AgentUploads, AgentExports {
  private readonly agent: Agent;
  private readonly port: number;
  /** Asked at each call: certificates are renewed. */
  private readonly tls: () => TlsMaterial;

  constructor(o: { tls: () => TlsMaterial; port: number }) {
    this.port = o.port;
    this.tls = o.tls;
    this.agent = new Agent({ keepAlive: true, maxSockets: 16 });
  }

  async offset(node: AgentAddress, imageId: string, signal: AbortSignal): Promise<number> {
    return this.call(node, { method: 'GET', path: `/v1/images/${imageId}/offset`, signal }, null);
  }

  async append(
    node: AgentAddress,
    imageId: string,
    o: {
      offset: number;
      body: ReadableStream<Uint8Array> | null;
      length: string | undefined;
      signal: AbortSignal;
    },
  ): Promise<number> {
    const headers = {
      'content-type': 'application/octet-stream',
      ...(o.length === undefined ? {} : { 'content-length': o.length }),
    };
    const path = `/v1/images/${imageId}/content?offset=${o.offset}`;
    return this.call(node, { method: 'PUT', path, headers, signal: o.signal }, o.body);
  }

  async exported(
    node: AgentAddress,
    op: string,
    range: string | undefined,
    signal: AbortSignal,
  ): Promise<{ status: number; headers: Record<string, string>; body: ReadableStream<Uint8Array> }> {
    const headers = range === undefined ? {} : { range };
    const res = await this.open(
      node,
      { method: 'GET', path: `/v1/exports/${op}/content`, headers, signal },
      null,
    );
    const status = res.statusCode ?? 500;
    if (status >= 400 && status !== 416) throw refusalOf(node, res, await readJson(res).catch(() => null));
    const kept = ['accept-ranges', 'content-type', 'content-length', 'content-range', 'content-disposition'];
    return {
      status,
      headers: Object.fromEntries(
        kept.flatMap((k) => (typeof res.headers[k] === 'string' ? [[k, res.headers[k]]] : [])),
      ),
      body: Readable.toWeb(res) as ReadableStream<Uint8Array>,
    };
  }

  close(): void {
    this.agent.destroy();
  }

  private async call(
    node: AgentAddress,
    o: { method: string; path: string; headers?: Record<string, string>; signal: AbortSignal },
    body: ReadableStream<Uint8Array> | null,
  ): Promise<number> {
    const res = await this.open(node, o, body);
    const answer = answerSchema.safeParse(await readJson(res).catch(() => null));
    if (!answer.success || 'error' in answer.data) throw refusalOf(node, res, answer.data ?? null);
    return answer.data.offset;
  }

  private async open(
    node: AgentAddress,
    o: { method: string; path: string; headers?: Record<string, string>; signal: AbortSignal },
    body: ReadableStream<Uint8Array> | null,
  ): Promise<IncomingMessage> {
    const unreachable = (cause: unknown): FlotillaError => unreachableBy(node, cause);
    let resolve!: (res: IncomingMessage) => void;
    let reject!: (e: unknown) => void;
    const promise = new Promise<IncomingMessage>((yes, no) => {
      resolve = yes;
      reject = no;
    });
    const req = request(
      {
        host: node.address,
        port: this.port,
        // The certificate must be that node's, whatever answers at its address.
        servername: node.id,
        agent: this.agent,
        timeout: idleMs,
        ...clientTlsOptions(this.tls()),
        ...o,
      },
      resolve,
    );
    req.on('error', (cause) => reject(unreachable(cause)));
    req.on('timeout', () => req.destroy(new Error(`no word for ${idleMs / 1000} s`)));
    if (body === null) req.end();
    // The node may answer before it has read all (a refusal): then the rest is not sent.
    else
      void pipeline(Readable.fromWeb(body as never), req).catch((cause: unknown) =>
        reject(unreachable(cause)),
      );
    return promise;
  }
}

const unreachableBy = (node: AgentAddress, cause: unknown): FlotillaError =>
  new FlotillaError('node-unreachable', `Node ${node.id} does not take part in the transfer`, {
    hint: 'What came so far is kept. Look whether its agent runs, then go on.',
    cause,
  });

/** The node's own refusal, or that it gave none. */
function refusalOf(node: AgentAddress, res: IncomingMessage, answer: unknown): FlotillaError {
  const a = answerSchema.safeParse(answer);
  if (a.success && 'error' in a.data) return errorFromRecord(a.data.error);
  return unreachableBy(node, new Error(`it answered with status ${res.statusCode}`));
}

const readJson = async (res: IncomingMessage): Promise<unknown> =>
  JSON.parse(await answerText(res, answerBytesMax)) as unknown;
