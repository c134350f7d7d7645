import { randomUUID } from 'node:crypto';
import { Agent, request, type RequestOptions } from 'node:https';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { FlotillaError, errorFromRecord } from '../../core/domain/error.js';
import { EventReader, pathOf, requestOf, type CallOf, type SentEvent } from '../../core/wire/rest-call.js';
import {
  problemSchema,
  rest,
  restStreams,
  uploadOffsetHeader,
  type RestAnswer,
  type RestCall,
  type RestName,
} from '../../core/wire/rest.js';

/** A controller that does not answer a plain request in this time is called away, ms. */
const answerMs = 60_000;
/** Tries of a request whose connection failed; creates carry a key that makes this safe. */
const triesMax = 3;
const againMs = 300;

export interface Target {
  /** `https://host:port`. */
  readonly server: string;
  /** Null: only to log in. */
  readonly token: string | null;
  /** The cluster's CA, PEM; null: the system's. */
  readonly ca: string | null;
}

interface Extra {
  readonly ifMatch?: string;
}

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Readable;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** The API as typed calls, from the same table as the server. */
export class ApiClient {
  private target: Target;
  private agent: Agent;
  private readonly newCa: (target: Target) => Promise<string | null>;

  /** @param newCa - asked once where the server's certificate is not of the CA: the one it is of, if that may be trusted */
  constructor(target: Target, newCa: (target: Target) => Promise<string | null> = async () => null) {
    this.target = target;
    this.agent = agentOf(target);
    this.newCa = newCa;
  }

  /** The CA that counts, PEM; null: the system's. */
  get ca(): string | null {
    return this.target.ca;
  }

  close(): void {
    this.agent.destroy();
  }

  /** @throws FlotillaError as the server said it, or `node-unreachable` */
  async call<N extends RestName>(name: N, call: CallOf<N>, extra: Extra = {}): Promise<RestAnswer<N>> {
    return (await this.callTagged(name, call, extra)).body;
  }

  /** With the ETag of the answer. */
  async callTagged<N extends RestName>(
    name: N,
    call: CallOf<N>,
    extra: Extra = {},
  ): Promise<{ body: RestAnswer<N>; etag: string | null }> {
    const { body, repeatable, ...sent } = requestOf(name, call, { key: randomUUID(), ...extra });
    const res = await this.send(
      { ...sent, ...(body === undefined ? {} : { body }) },
      repeatable ? triesMax : 1,
    );
    const text = await textOf(res);
    if (rest[name].status === 204) return { body: null as RestAnswer<N>, etag: null };
    // What the server sends was checked by the same schemas there; here it is only shown.
    return { body: JSON.parse(text) as RestAnswer<N>, etag: res.headers.etag ?? null };
  }

  /** All pages of a list. */
  async *all<
    N extends
      | 'vmList'
      | 'opList'
      | 'nodeList'
      | 'imageList'
      | 'poolList'
      | 'networkList'
      | 'tokenList'
      | 'userList'
      | 'vappList'
      | 'certificateList',
  >(name: N, query: RestCall<N>['query']): AsyncGenerator<RestAnswer<N>> {
    let after: string | null = null;
    do {
      const q = { ...(query as object), ...(after === null ? {} : { after }) };
      const page = (await this.call(name, { query: q } as unknown as CallOf<N>)) as RestAnswer<N> & {
        next: string | null;
      };
      yield page;
      after = page.next;
    } while (after !== null);
  }

  /** Sends a piece of an image. @returns where the upload then is */
  async upload(
    image: string,
    offset: number,
    bytes: number,
    data: Readable,
    signal: AbortSignal,
  ): Promise<number> {
    const res = await this.send(
      {
        method: 'PUT',
        path: pathOf(restStreams.imageContent, { image }, {}),
        headers: {
          'content-type': 'application/octet-stream',
          'content-length': String(bytes),
          [uploadOffsetHeader]: String(offset),
        },
        body: data,
        signal,
      },
      1,
    );
    return (JSON.parse(await textOf(res)) as { offset: number }).offset;
  }

  /**
   * What was packed, from a byte on: of one operation, or a vApp's of those of all its VMs.
   *
   * @returns its bytes, and how many it has in all
   */
  async export(
    of: { readonly op: string } | { readonly vapp: string; readonly ops: readonly string[] },
    from: number,
    signal: AbortSignal,
  ): Promise<{ data: AsyncIterable<Buffer>; sizeBytes: number }> {
    const res = await this.send(
      {
        method: 'GET',
        path:
          'op' in of
            ? pathOf(restStreams.exportContent, of, {})
            : pathOf(restStreams.vappPackage, { vapp: of.vapp }, { exports: of.ops.join(',') }),
        headers: from > 0 ? { range: `bytes=${from}-` } : {},
        signal,
      },
      3,
    );
    // Whoever does not know ranges begins anew.
    if (from > 0 && res.statusCode !== 206) {
      res.destroy();
      return this.export(of, 0, signal);
    }
    return { data: res, sizeBytes: from + Number(res.headers['content-length'] ?? 0) };
  }

  /** The event stream as it comes; ends when the connection does. */
  async *events(o: { kinds?: string; lastEventId?: string; signal: AbortSignal }): AsyncGenerator<SentEvent> {
    const res = await this.send(
      {
        method: 'GET',
        path: pathOf(restStreams.events, {}, o.kinds === undefined ? {} : { kinds: o.kinds }),
        headers: {
          accept: 'text/event-stream',
          ...(o.lastEventId === undefined ? {} : { 'last-event-id': o.lastEventId }),
        },
        signal: o.signal,
      },
      1,
    );
    res.setEncoding('utf8');
    const reader = new EventReader();
    for await (const part of res) yield* reader.push(part as string);
  }

  private async send(o: Sent, tries: number): Promise<IncomingMessage> {
    let looked = false;
    for (let i = 1; ; i++) {
      let res: IncomingMessage;
      try {
        res = await this.sendOnce(o);
      } catch (cause) {
        if (i < tries && o.signal?.aborted !== true && isTransient(cause)) {
          await new Promise((go) => setTimeout(go, againMs * i));
          continue;
        }
        // Nothing was sent on a connection that was refused; a stream may be half read all the same.
        if (!looked && isUntrusted(cause) && (o.body === undefined || typeof o.body === 'string')) {
          looked = true;
          const ca = await this.newCa(this.target).catch(() => null);
          if (ca !== null) {
            this.target = { ...this.target, ca };
            this.agent.destroy();
            this.agent = agentOf(this.target);
            continue;
          }
        }
        throw unreachable(this.target.server, cause);
      }
      const status = res.statusCode ?? 500;
      if (status < 300) return res;
      throw refusalOf(status, await textOf(res).catch(() => ''));
    }
  }

  private sendOnce(o: Sent): Promise<IncomingMessage> {
    const url = new URL(this.target.server);
    const options: RequestOptions = {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? 443 : url.port,
      agent: this.agent,
      method: o.method,
      path: o.path,
      timeout: o.timeoutMs ?? answerMs,
      headers: {
        ...o.headers,
        ...(this.target.token === null ? {} : { authorization: `Bearer ${this.target.token}` }),
      },
      ...(o.signal === undefined ? {} : { signal: o.signal }),
    };
    return new Promise((resolve, reject) => {
      const req = request(options, resolve);
      req.on('error', reject);
      req.on('timeout', () => req.destroy(new Error(`no answer within ${answerMs / 1000} s`)));
      if (o.body === undefined || typeof o.body === 'string') req.end(o.body);
      // The server may refuse before it has read all: then its answer counts, not the broken pipe.
      else void pipeline(o.body, req).catch((e: unknown) => setTimeout(() => reject(e as Error), 500));
    });
  }
}

async function textOf(res: IncomingMessage): Promise<string> {
  res.setEncoding('utf8');
  let text = '';
  for await (const part of res) text += part as string;
  return text;
}

function refusalOf(status: number, text: string): FlotillaError {
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // Not ours: a proxy's page, say.
  }
  const p = problemSchema.safeParse(value);
  if (p.success) return errorFromRecord({ ...p.data, details: p.data.details });
  return new FlotillaError(
    'node-unreachable',
    `The server answered with status ${status}, not as Flotilla does`,
    {
      hint: 'Is that the address of a Flotilla controller?',
    },
  );
}

const isTransient = (e: unknown): boolean =>
  ['ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'ETIMEDOUT', 'EHOSTUNREACH'].includes(
    (e as NodeJS.ErrnoException).code ?? '',
  );

const agentOf = (target: Target): Agent =>
  new Agent({ keepAlive: true, ...(target.ca === null ? {} : { ca: target.ca }) });

const isUntrusted = (e: unknown): boolean =>
  /CERT|SIGNATURE|SELF_SIGNED|ALTNAME/.test((e as NodeJS.ErrnoException).code ?? '');

function unreachable(server: string, cause: unknown): FlotillaError {
  const tls = isUntrusted(cause);
  return new FlotillaError(
    tls ? 'wrong-certificate' : 'node-unreachable',
    tls ? `The certificate of ${server} is not trusted` : `No controller answers at ${server}`,
    {
      hint: tls
        ? 'Give the cluster’s CA with --ca FILE, or log in again: flotilla login.'
        : 'Is the address right? Any node can run one: systemctl start flotilla-controller.',
      cause,
    },
  );
}
