import { apiRoot, idempotencyHeader, rest, type RestCall, type RestName, type RestRoute } from './rest.js';

/** Parts of a call that its route has. */
export type CallOf<N extends RestName> = {
  [K in keyof RestCall<N> as RestCall<N>[K] extends undefined ? never : K]: RestCall<N>[K];
};

/** A call of the table as any HTTP client sends it. */
export interface RestRequest {
  /** In capitals. */
  readonly method: string;
  /** From the server's root on, with the query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** JSON. */
  readonly body: string | undefined;
  /** Sent twice, it does what it does once. */
  readonly repeatable: boolean;
}

/** @param key - a random Idempotency-Key, sent where the route takes one */
export function requestOf<N extends RestName>(
  name: N,
  call: CallOf<N>,
  o: { readonly key: string; readonly ifMatch?: string },
): RestRequest {
  const r: RestRoute = rest[name];
  const { params, query, body } = call as {
    params?: Record<string, string>;
    query?: Record<string, unknown>;
    body?: unknown;
  };
  const headers: Record<string, string> = { accept: 'application/json' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (o.ifMatch !== undefined) headers['if-match'] = o.ifMatch;
  if (r.idempotent === true) headers[idempotencyHeader] = o.key;
  return {
    method: r.method.toUpperCase(),
    path: pathOf(r.path, params ?? {}, query ?? {}),
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    repeatable: r.method === 'get' || r.idempotent === true,
  };
}

/** A path of the table, below the API's root, with parameters and query filled in. */
export function pathOf(
  path: string,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, unknown>>,
): string {
  const filled = path.replaceAll(/\{(.+?)\}/g, (_, k: string) => encodeURIComponent(params[k] ?? ''));
  const q = Object.entries(query)
    .filter(([, v]) => v !== undefined)
    .map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(`${v as string | number}`)}`)
    .join('&');
  return `${apiRoot}${filled}${q === '' ? '' : `?${q}`}`;
}

/** One event of a stream. */
export interface SentEvent {
  readonly id: string;
  readonly kind: string;
  readonly data: string;
}

/** Reads server-sent events from the text as it comes, in pieces of any size. */
export class EventReader {
  private rest = '';

  push(part: string): SentEvent[] {
    const blocks = (this.rest + part).split('\n\n');
    this.rest = blocks.pop() ?? '';
    const out: SentEvent[] = [];
    for (const block of blocks) {
      const fields = new Map(
        block.split('\n').map((l): [string, string] => {
          const i = l.indexOf(': ');
          return [l.slice(0, i), l.slice(i + 2)];
        }),
      );
      const kind = fields.get('event');
      if (kind !== undefined) out.push({ id: fields.get('id') ?? '', kind, data: fields.get('data') ?? '' });
    }
    return out;
  }
}
