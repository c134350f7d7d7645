import { writeFileSync } from 'node:fs';
import https from 'node:https';
import { Readable } from 'node:stream';
import { Lab, patiently, waitFor, type LabOptions } from './harness.js';
import { runCli } from '../../controller/cli/program.js';
import type { Op } from '../../core/domain/op.js';
import { opFinished } from '../../core/domain/op.js';

/** An answer of the API. */
export interface Answer<T = Record<string, unknown>> {
  readonly status: number;
  readonly body: T;
}

/** What tests read of a VM. */
export interface SeenVm {
  readonly id: string;
  readonly node: string;
  readonly phase: string;
  readonly reason: string;
  readonly addresses: readonly string[];
  readonly pendingRestart: readonly string[];
  readonly guestAgent: boolean;
  readonly hostname: string | null;
  readonly power: string;
}

const program = '/usr/lib/flotilla/flotilla-agent.mjs';

/** A cluster of the shipped programs on lab nodes, and its API as a client sees it. */
export class LabCluster {
  readonly lab: Lab;
  /** The node that founds the cluster. */
  founder = 'n1';
  /** Nodes in containers beside emulated machines: the ledger's voters, which cost a tenth there. VMs do not run on them. */
  contained: readonly string[] = [];
  #port = 0;
  readonly #ports = new Map<string, number>();
  #token = '';
  #password = '';
  #ca = '';

  constructor(o: LabOptions) {
    this.lab = new Lab(o);
  }

  /**
   * Boots the nodes, founds the cluster, joins the others, starts a controller on the founder. Where they are emulated
   * machines, three more in containers come first, so that they are the voters, and are then kept empty.
   */
  async up(nodes: number): Promise<void> {
    const { lab } = this;
    const machines = Array.from({ length: nodes }, (_, i) => `n${i + 1}`);
    if (lab.kind === 'metal') this.contained = [1, 2, 3].map((n) => `n${nodes + n}`);
    this.founder = this.contained[0] ?? 'n1';
    const { founder, contained } = this;
    await lab.down();
    await lab.up(nodes, contained.length);
    await this.found();
    // The founder's agent opens its door once it has reached the ledger.
    const joins = (node: string): Promise<boolean> =>
      waitFor(`${node} joins`, async () => {
        const token = await lab.sh(founder, `node ${program} token create 2>/dev/null`);
        await lab.sh(node, `echo ${token} | node ${program} join >/dev/null 2>&1`);
        return true;
      });
    if (contained.length === 0) {
      for (const node of machines.slice(1)) await joins(node);
      await this.controllerOn(founder);
      return this.untilHere(nodes);
    }
    for (const node of contained.slice(1)) await joins(node);
    await this.controllerOn(founder);
    await waitFor('the nodes in containers are the voters', async () => {
      const { body } = await this.get<{ items: { record: { voter: boolean } }[] }>('nodes');
      return body.items.filter((n) => n.record.voter).length === contained.length;
    });
    await Promise.all(machines.map(joins));
    await this.untilHere(nodes + contained.length);
    for (const node of contained) await this.must('PATCH', `nodes/${node}`, { desired: 'maintenance' });
  }

  /** The first node makes the cluster, which is then of itself alone. */
  async found(): Promise<void> {
    const { lab, founder } = this;
    const founded = JSON.parse(await lab.sh(founder, `node ${program} found --cluster test 2>/dev/null`)) as {
      apiToken: string;
      adminPassword: string;
    };
    this.#token = founded.apiToken;
    this.#password = founded.adminPassword;
    await this.learnCa();
  }

  /** The founder made the cluster in an earlier run, and its disk was kept. */
  async foundBefore(): Promise<void> {
    this.#token = await this.lab.sh(this.founder, 'cat /var/lib/flotilla/admin-token');
    await this.learnCa();
  }

  /** By which CAs the controller is known from now on: they may have been replaced. */
  async learnCa(): Promise<void> {
    this.#ca = await this.lab.sh(this.founder, 'cat /var/lib/flotilla/pki/ca.crt');
  }

  /** The page of the controller that is spoken to. */
  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  /** Of the first user, "admin". */
  get adminPassword(): string {
    return this.#password;
  }

  /** Waits until the controller hears so many nodes, and the ledger holds their leases. */
  async untilHere(nodes: number): Promise<void> {
    await waitFor(`${nodes} nodes that live`, async () => {
      const { body } = await this.get<{ items: { presence: string; live: boolean }[] }>('nodes');
      return body.items.filter((n) => n.presence === 'here' && n.live).length === nodes;
    });
  }

  /** Starts a controller there and speaks to it from now on. */
  async controllerOn(node: string): Promise<void> {
    await this.lab.sh(node, 'systemctl start flotilla-controller');
    this.#port = this.#ports.get(node) ?? (await this.lab.forward(`${node}:8443`));
    this.#ports.set(node, this.#port);
    await waitFor(`the controller on ${node}`, async () => (await this.get('cluster')).status === 200);
  }

  async down(): Promise<void> {
    await this.lab.down();
  }

  /** Writes what the command line needs to speak to the controller, and says where it is. */
  loginIn(dir: string): Record<string, string> {
    writeFileSync(`${dir}/token`, `${this.#token}\n`, { mode: 0o600 });
    writeFileSync(`${dir}/ca.crt`, this.#ca);
    return {
      PATH: process.env['PATH'] ?? '',
      HOME: dir,
      FLOTILLA_SERVER: this.url,
      FLOTILLA_TOKEN_FILE: `${dir}/token`,
      FLOTILLA_CA: `${dir}/ca.crt`,
    };
  }

  /** The command line against the controller, logged in by files in that folder; what it says on both ways as one text. */
  async cli(dir: string, ...args: string[]): Promise<{ code: number; text: string }> {
    let text = '';
    const code = await runCli(args, {
      env: this.loginIn(dir),
      out: (s) => (text += s),
      err: (s) => (text += s),
      write: () => undefined,
      width: null,
      tty: false,
      stdin: Readable.from([]),
      signal: new AbortController().signal,
    });
    return { code, text };
  }

  get<T = Record<string, unknown>>(path: string): Promise<Answer<T>> {
    return this.call<T>('GET', path);
  }

  /** One request. Any status is an answer; no answer is an error. */
  call<T = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<T>> {
    const raw = body instanceof Buffer ? body : body === undefined ? null : Buffer.from(JSON.stringify(body));
    return new Promise((resolve, reject) => {
      const req = https.request(
        {
          host: '127.0.0.1',
          port: this.#port,
          path: `/api/v1/${path}`,
          method,
          ca: this.#ca,
          agent: false,
          timeout: patiently(60_000),
          headers: {
            authorization: `Bearer ${this.#token}`,
            ...(raw === null
              ? {}
              : { 'content-type': body instanceof Buffer ? 'application/octet-stream' : 'application/json' }),
            ...(raw === null ? {} : { 'content-length': raw.length }),
            ...headers,
          },
        },
        (res) => {
          const chunks: Buffer[] = [];
          res.on('data', (c: Buffer) => chunks.push(c));
          res.on('error', reject);
          res.on('end', () => {
            const text = Buffer.concat(chunks).toString('utf8');
            try {
              resolve({ status: res.statusCode ?? 0, body: (text === '' ? null : JSON.parse(text)) as T });
            } catch {
              reject(new Error(`${method} ${path}: ${res.statusCode} ${text.slice(0, 200)}`));
            }
          });
        },
      );
      req.on('timeout', () => req.destroy(new Error(`${method} ${path}: no answer`)));
      req.on('error', reject);
      req.end(raw ?? undefined);
    });
  }

  /** A request that must be accepted. */
  async must<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T> {
    const r = await this.call<T>(method, path, body);
    if (r.status >= 300) throw new Error(`${method} ${path}: ${r.status} ${JSON.stringify(r.body)}`);
    return r.body;
  }

  async vm(name: string): Promise<SeenVm> {
    const r = await this.get<SeenVm>(`vms/${encodeURIComponent(name)}`);
    if (r.status !== 200) throw new Error(`VM ${name}: ${r.status} ${JSON.stringify(r.body)}`);
    return r.body;
  }

  async untilPhase(name: string, phase: string, limitMs = 90_000): Promise<SeenVm> {
    let last = '';
    return waitFor(
      `VM ${name} ${phase}`,
      async () => {
        const vm = await this.vm(name);
        last = `${vm.phase} ${vm.reason}`;
        if (vm.phase !== phase) throw new Error(`it is ${last}`);
        return vm;
      },
      { limitMs },
    );
  }

  /** Waits for an op's end. */
  async opEnd(op: { id: string }, limitMs = 120_000): Promise<Op> {
    return waitFor(
      `op ${op.id}`,
      async () => {
        const { body } = await this.get<Op>(`ops/${op.id}`);
        return opFinished(body) ? body : null;
      },
      { limitMs },
    );
  }

  /** Enters an image from a file of this machine, and waits until it is ready. */
  async image(name: string, pool: string, file: Buffer): Promise<void> {
    await this.must('POST', 'images', { name, pool });
    // A pool that is written to for the first time may be too slow for its probe just then.
    await waitFor('its content is taken', async () => {
      await this.must('PUT', `images/${name}/content?offset=0`, file);
      return true;
    });
    const { op } = await this.must<{ op: Op }>('POST', `images/${name}/complete`);
    const end = await this.opEnd(op);
    if (end.state !== 'done') throw new Error(`image ${name}: ${JSON.stringify(end.error)}`);
  }

  /** The domain of a VM as virsh on its node shows it. */
  async virsh(node: string, ...args: string[]): Promise<string> {
    return this.lab.sh(node, `virsh ${args.join(' ')} 2>&1`);
  }
}
