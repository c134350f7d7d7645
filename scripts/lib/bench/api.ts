import { Agent, request } from 'node:https';
import { apiRoot, type RestAnswer } from '../../../core/wire/rest.js';

/** Longest a request may take, ms; a wait for an operation is 30 s. */
const deadlineMs = 60_000;

/** A client of the controller on one connection that stays open, so that no figure holds a TLS handshake. */
export class Api {
  private readonly agent: Agent;
  private readonly host: string;
  private readonly port: number;
  private readonly token: string;

  constructor(o: { host: string; port: number; ca: string; token: string }) {
    this.agent = new Agent({ keepAlive: true, maxSockets: 1, ca: o.ca });
    this.host = o.host;
    this.port = o.port;
    this.token = o.token;
  }

  /** One request. @returns the body as it came; anything but success throws its text */
  async raw(
    method: string,
    path: string,
    body?: string | Buffer,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    return new Promise((resolve, reject) => {
      const req = request(
        {
          agent: this.agent,
          host: this.host,
          port: this.port,
          method,
          path: apiRoot + path,
          headers: {
            authorization: `Bearer ${this.token}`,
            ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }),
            ...(typeof body === 'string' ? { 'content-type': 'application/json' } : {}),
            ...headers,
          },
          timeout: deadlineMs,
        },
        (res) => {
          const parts: Buffer[] = [];
          res.on('data', (part: Buffer) => parts.push(part));
          res.on('error', reject);
          res.on('end', () => {
            const text = Buffer.concat(parts).toString('utf8');
            if ((res.statusCode ?? 500) < 300) resolve(text);
            else reject(new Error(`${method} ${path}: ${res.statusCode} ${text.slice(0, 500)}`));
          });
        },
      );
      req.on('timeout', () => req.destroy(new Error(`${method} ${path}: no answer`)));
      req.on('error', reject);
      req.end(body);
    });
  }

  async get<T>(path: string): Promise<T> {
    return JSON.parse(await this.raw('GET', path)) as T;
  }

  async post<T>(path: string, body?: unknown): Promise<T> {
    return JSON.parse(await this.raw('POST', path, JSON.stringify(body ?? {}))) as T;
  }

  async delete<T>(path: string): Promise<T> {
    return JSON.parse(await this.raw('DELETE', path)) as T;
  }

  /** Waits until the operation has ended. @throws Error when it failed */
  async ended(op: { readonly id: string }): Promise<RestAnswer<'opGet'>> {
    const end = performance.now() + 180_000;
    for (;;) {
      const now = await this.get<RestAnswer<'opGet'>>(`/ops/${op.id}?waitS=10`);
      if (now.state === 'done') return now;
      if (now.state === 'failed' || now.state === 'cancelled' || performance.now() > end)
        throw new Error(`${now.kind} is ${now.state} at "${now.step}": ${now.error?.message ?? ''}`);
    }
  }

  close(): void {
    this.agent.destroy();
  }
}
