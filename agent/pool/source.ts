import { lookup as dnsLookup } from 'node:dns';
import http from 'node:http';
import https from 'node:https';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { FlotillaError } from '../../core/domain/error.js';

/** Redirects followed: mirrors of distributions need two or three. */
const redirectsMax = 5;
/** A server that sends nothing for so long is given up, ms. The whole may take days. */
const stallMs = 30_000;

/**
 * Addresses a node never fetches from: itself, its link (there cloud providers hand out credentials at
 * 169.254.169.254), and what is no single machine. Private networks are allowed: mirrors live there.
 */
function neverFetched(): BlockList {
  const list = new BlockList();
  for (const [net, bits] of [
    ['0.0.0.0', 8],
    ['127.0.0.0', 8],
    ['169.254.0.0', 16],
    ['224.0.0.0', 4],
    ['240.0.0.0', 4],
  ] as const)
    list.addSubnet(net, bits, 'ipv4');
  for (const [net, bits] of [
    ['::', 127],
    ['fe80::', 10],
    ['fec0::', 10],
    ['ff00::', 8],
    ['64:ff9b::', 96],
    ['fd00:ec2::', 32],
  ] as const)
    list.addSubnet(net, bits, 'ipv6');
  return list;
}

export interface SourceOptions {
  /** Whether an address may be asked; the default refuses {@link neverFetched}. */
  readonly allowAddress?: (address: string) => boolean;
  readonly stallMs?: number;
}

export interface Received {
  /** Where in the file the data begins: what was asked for, or 0 when the server begins anew. */
  readonly offset: number;
  readonly totalBytes: number | null;
  /** The server's mark of this version of the file; null: it cannot be resumed safely. */
  readonly version: string | null;
  readonly data: AsyncIterable<Uint8Array>;
}

/**
 * Parses an image's source.
 *
 * @throws FlotillaError `bad-input`: anything but http and https, or with a password in it (it would stand in the
 *   ledger for all to read)
 */
export function parseSource(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new FlotillaError('bad-input', 'The image’s source is no http or https address', {
      hint: 'Give an address like https://example.org/disk.qcow2, or upload the file.',
    });
  }
  if (url.username !== '' || url.password !== '') {
    throw new FlotillaError('bad-input', 'The image’s source has a user or password in it', {
      hint: 'Fetch the file yourself and upload it.',
    });
  }
  return url;
}

/** Gets files from addresses that users give, without letting these point a node at itself. */
export class Source {
  readonly #allow: (address: string) => boolean;
  readonly #stallMs: number;

  constructor(o: SourceOptions = {}) {
    const never = neverFetched();
    this.#allow = o.allowAddress ?? ((a) => !never.check(a, isIP(a) === 6 ? 'ipv6' : 'ipv4'));
    this.#stallMs = o.stallMs ?? stallMs;
  }

  /**
   * Asks for a file from `offset` on, if it is still the version of which that much is here.
   *
   * @throws FlotillaError `forbidden`: such an address is not asked; `not-found`, `bad-input`: it will not give it; `tool-failed`: it failed;
   *   `timeout`; `cancelled`
   */
  async open(source: string, offset: number, version: string | null, signal: AbortSignal): Promise<Received> {
    let url = parseSource(source);
    for (let hop = 0; hop <= redirectsMax; hop++) {
      const res = await this.#ask(url, version === null ? 0 : offset, version, signal);
      const status = res.statusCode ?? 0;
      const location = res.headers.location;
      if (status >= 300 && status < 400 && status !== 304 && location !== undefined) {
        res.destroy();
        const next = parseSource(URL.canParse(location, url.href) ? new URL(location, url).href : location);
        if (url.protocol === 'https:' && next.protocol === 'http:')
          throw refused(
            url,
            'it redirects from https to http',
            'Give the address it redirects to, if you trust it.',
          );
        url = next;
        continue;
      }
      return this.#answer(url, res, status, offset, signal);
    }
    throw refused(
      url,
      `it redirects more than ${redirectsMax} times`,
      'Give the address of the file itself.',
    );
  }

  #answer(
    url: URL,
    res: http.IncomingMessage,
    status: number,
    offset: number,
    signal: AbortSignal,
  ): Received {
    const length = res.headers['content-length'] === undefined ? null : Number(res.headers['content-length']);
    const etag = res.headers.etag;
    const version =
      etag !== undefined && !etag.startsWith('W/') ? etag : (res.headers['last-modified'] ?? null);
    const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(res.headers['content-range'] ?? '');
    const data = read(url, res, signal);
    if (status === 206 && range && Number(range[1]) === offset)
      return { offset, totalBytes: Number(range[2]), version, data };
    if (status === 416 && /^bytes \*\/\d+$/.test(res.headers['content-range'] ?? '')) {
      res.destroy();
      const total = Number(res.headers['content-range']?.split('/')[1]);
      if (total === offset) return { offset, totalBytes: total, version, data: nothing() };
    }
    if (status === 200) return { offset: 0, totalBytes: length, version, data };
    res.destroy();
    throw refused(url, `it answered ${status}`, 'Open the address yourself and see what it gives.', status);
  }

  #ask(url: URL, offset: number, version: string | null, signal: AbortSignal): Promise<http.IncomingMessage> {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    if (isIP(host) !== 0 && !this.#allow(host)) throw forbidden(url, host);
    const lookup: LookupFunction = (name, o, done) => {
      dnsLookup(name, { ...o, all: true }, (error, found) => {
        if (error) return done(error, '', 0);
        const bad = found.find((a) => !this.#allow(a.address));
        if (bad || found.length === 0) return done(forbidden(url, bad?.address ?? 'nothing'), '', 0);
        if (o.all) return done(null, found);
        done(null, found[0]?.address ?? '', found[0]?.family ?? 4);
      });
    };
    return new Promise((resolve, reject) => {
      const get = url.protocol === 'https:' ? https.get : http.get;
      let answer: http.IncomingMessage | null = null;
      const req = get(
        url,
        {
          agent: false,
          lookup,
          signal,
          maxHeaderSize: 16_384,
          headers: {
            'accept-encoding': 'identity',
            'user-agent': 'flotilla',
            ...(offset > 0 && version !== null && { range: `bytes=${offset}-`, 'if-range': version }),
          },
        },
        (res) => {
          answer = res;
          resolve(res);
        },
      );
      req.setTimeout(this.#stallMs, () => {
        (answer ?? req).destroy(
          new FlotillaError('timeout', `${url.host} sent nothing for ${this.#stallMs / 1000} s`, {
            hint: 'See whether the server answers from the node, then try again.',
          }),
        );
      });
      req.on('error', (e) => reject(asFault(url, e, signal)));
    });
  }
}

async function* read(url: URL, res: http.IncomingMessage, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of res) yield chunk as Uint8Array;
  } catch (e) {
    throw asFault(url, e, signal);
  }
}

async function* nothing(): AsyncGenerator<Uint8Array> {
  /* the file is here whole */
}

function asFault(url: URL, e: unknown, signal: AbortSignal): FlotillaError {
  if (e instanceof FlotillaError) return e;
  if (signal.aborted)
    return new FlotillaError('cancelled', `Fetching from ${url.host} was cancelled`, {
      hint: 'Ask again when it is wanted.',
    });
  return new FlotillaError('tool-failed', `Fetching from ${url.host} broke off`, {
    hint: 'See whether the node reaches that server; the part received is kept.',
    cause: e,
  });
}

/** An answer that will be the same next time, unless it was the server that failed. */
function refused(url: URL, why: string, hint: string, status = 400): FlotillaError {
  const code = status >= 500 ? 'tool-failed' : status === 404 || status === 410 ? 'not-found' : 'bad-input';
  return new FlotillaError(code, `${url.host} did not give the image: ${why}`, { hint });
}

function forbidden(url: URL, address: string): FlotillaError {
  return new FlotillaError(
    'forbidden',
    `The image’s source ${url.host} leads to ${address}, which a node does not ask`,
    {
      hint: 'Addresses of the node itself and of its link are refused. Upload the file instead.',
    },
  );
}
