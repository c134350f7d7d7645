import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A Redfish service with a login, a collection of systems and their Reset action; and the ways it can go wrong. */
export class RedfishBmc {
  readonly #server: Server;
  readonly #login: string;
  /** PowerState by system. */
  readonly systems = new Map<string, unknown>();
  /** What it was told to do, and how many requests it had. */
  orders: string[] = [];
  requests = 0;
  /** Requests it leaves without an answer. */
  waiting = 0;
  /** Takes orders and does nothing. */
  stuck = false;
  /** Is off for one look only. */
  comesBack = false;
  /** UUID of its systems; null: it gives none. */
  uuid: string | null = null;
  silent = false;
  junk = false;

  constructor(o: { key: string; cert: string; user: string; password: string }) {
    this.#login = `Basic ${Buffer.from(`${o.user}:${o.password}`).toString('base64')}`;
    this.#server = createServer({ key: o.key, cert: o.cert }, (req, res) => void this.#answer(req, res));
  }

  async start(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return (this.#server.address() as AddressInfo).port;
  }

  reset(): void {
    this.systems.clear();
    this.systems.set('1', 'On');
    this.orders = [];
    this.requests = this.waiting = 0;
    this.uuid = null;
    this.stuck = this.comesBack = this.silent = this.junk = false;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    this.requests++;
    const send = (status: number, body: unknown) => {
      res.writeHead(status, { 'content-type': 'application/json' });
      res.end(body === null ? '' : JSON.stringify(body));
    };
    let body = '';
    for await (const chunk of req) body += String(chunk);
    if (this.silent) {
      this.waiting++;
      return;
    }
    if (this.junk) return void res.end('Status: OFF');
    const url = (req.url ?? '').replace(/\/$/, '');
    const at = (id: string) => ({ '@odata.id': `/redfish/v1/Systems/${id}` });
    if (url === '/redfish/v1') return send(200, { Systems: { '@odata.id': '/redfish/v1/Systems' } });
    // As real ones do, it refuses with a body of JSON too.
    if (req.headers.authorization !== this.#login)
      return send(401, { error: { code: 'Base.1.0.NoValidSession' } });
    if (url === '/redfish/v1/Systems') return send(200, { Members: [...this.systems.keys()].map(at) });
    const [, id = '', action] =
      /^\/redfish\/v1\/Systems\/(\w+)(\/Actions\/ComputerSystem\.Reset)?$/.exec(url) ?? [];
    if (!this.systems.has(id)) return send(404, { error: {} });
    if (action === undefined) {
      const PowerState = this.systems.get(id);
      if (this.comesBack && PowerState === 'Off') this.systems.set(id, 'On');
      const target = `/redfish/v1/Systems/${id}/Actions/ComputerSystem.Reset`;
      return send(200, {
        ...at(id),
        UUID: this.uuid,
        PowerState,
        Actions: { '#ComputerSystem.Reset': { target } },
      });
    }
    const { ResetType } = JSON.parse(body) as { ResetType: string };
    this.orders.push(`${id} ${ResetType}`);
    if (!this.stuck) this.systems.set(id, ResetType === 'ForceOff' ? 'Off' : 'On');
    send(204, null);
  }
}
