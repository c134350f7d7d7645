import https from 'node:https';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { imageSchema, type Image } from '../../core/domain/image.js';
import { formatHeader, virtualSizeHeader } from './http.js';
import type { FetchedImage, FetchImage } from './catalogue.js';

/** A peer that sends nothing for so long is away, ms. */
const stallMs = 20_000;

export interface PeerImagesOptions {
  /** The node's management address; null: unknown. */
  readonly addressOf: (node: string) => string | null;
  readonly port: number;
  /** This node's certificate, and the only authority it believes. Asked at each call: certificates are renewed. */
  readonly tls: () => {
    readonly ca: string | Buffer;
    readonly cert: string | Buffer;
    readonly key: string | Buffer;
  };
}

const headersSchema = z.object({
  [formatHeader]: imageSchema.shape.format,
  [virtualSizeHeader]: z.coerce.number().int().nonnegative(),
  'repr-digest': z
    .string()
    .regex(/^sha-256=:[A-Za-z0-9+/]{43}=:$/)
    .optional(),
});

/** Fetches images from other nodes' agents over mutual TLS, from any byte on. */
export function peerImages(o: PeerImagesOptions): FetchImage {
  return async (image, offset, signal) => {
    const node = image.node;
    const address = node === null ? null : o.addressOf(node);
    if (node === null || address === null) {
      throw new FlotillaError('node-unreachable', `Nobody knows where the file of image "${image.name}" is`, {
        hint: `See whether node ${node ?? '(none)'} is still in the cluster.`,
      });
    }
    const res = await ask(o, { image, node, address, offset }, signal);
    if (res.statusCode !== 206 && !(res.statusCode === 200 && offset === 0)) {
      res.destroy();
      throw away(image, node, `it answered ${res.statusCode}`);
    }
    const head = headersSchema.safeParse(res.headers);
    const rest = Number(res.headers['content-length']);
    if (!head.success || !Number.isSafeInteger(rest)) {
      res.destroy();
      throw away(image, node, 'its answer lacks the image’s facts');
    }
    const digest = head.data['repr-digest'];
    return {
      format: head.data[formatHeader],
      sizeBytes: offset + rest,
      virtualSizeBytes: head.data[virtualSizeHeader],
      storedSha256: digest === undefined ? null : Buffer.from(digest.slice(9, -1), 'base64').toString('hex'),
      data: read(image, node, res),
    } satisfies FetchedImage;
  };
}

function ask(
  o: PeerImagesOptions,
  from: { image: Image; node: string; address: string; offset: number },
  signal: AbortSignal,
): Promise<import('node:http').IncomingMessage> {
  const { image, node, address, offset } = from;
  return new Promise((resolve, reject) => {
    const req = https.get(
      {
        host: address,
        port: o.port,
        path: `/v1/images/${image.id}/content`,
        agent: false,
        signal,
        ...o.tls(),
        // The certificate must be that node's, whatever answers at its address.
        servername: node,
        headers: offset > 0 ? { range: `bytes=${offset}-` } : {},
      },
      resolve,
    );
    req.setTimeout(stallMs, () => req.destroy(new Error(`nothing came for ${stallMs / 1000} s`)));
    req.on('error', (e) => reject(away(image, node, 'it cannot be reached', e)));
  });
}

async function* read(
  image: Image,
  node: string,
  res: import('node:http').IncomingMessage,
): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of res) yield chunk as Uint8Array;
  } catch (e) {
    throw away(image, node, 'it broke off', e);
  }
}

const away = (image: Image, node: string, why: string, cause?: unknown): FlotillaError =>
  new FlotillaError('node-unreachable', `Image "${image.name}" could not be fetched from ${node}: ${why}`, {
    hint: `See whether ${node} is well; the part received is used when it is tried again.`,
    cause,
  });
