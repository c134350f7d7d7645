import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { EtcdLedger } from '../../../../agent/ledger/etcd.js';
import type { TlsMaterial } from '../../../../agent/pki/tls.js';
import { makeCrl } from '../../../../agent/pki/crl.js';
import { writePublic } from '../../../../agent/pki/store.js';
import { certificateRecord, makeCa, makeCsr, signNode } from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { voterSettings } from '../../../../agent/cluster/etcd-settings.js';

/** etcd of the appliance's root, or of this machine. Without one there is nothing to prove: an error, not a pass. */
export function etcdProgram(): string {
  const found = ['build/root/usr/bin/etcd', '/usr/bin/etcd', '/usr/local/bin/etcd'].find((f) =>
    existsSync(f),
  );
  if (found === undefined) throw new Error('no etcd here: images/build root makes build/root, which has it');
  return path.resolve(found);
}

/** Free ports of loopback addresses, by asking the kernel. */
export async function freePorts(n: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: n }, async () => {
      const s = createServer();
      await new Promise<void>((resolve) => s.listen(0, '127.0.0.1', resolve));
      return s;
    }),
  );
  const ports = servers.map((s) => (s.address() as AddressInfo).port);
  await Promise.all(servers.map((s) => new Promise((resolve) => s.close(resolve))));
  return ports;
}

/** Waits for a condition with a limit, so that a test that waits in vain says for what. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  limitMs = 90_000,
): Promise<void> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    if (await holds()) return;
    if (performance.now() > endMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export interface TestMember {
  readonly name: string;
  readonly address: string;
  readonly endpoint: string;
  start(): void;
  /** SIGKILL, and waits for its end. */
  kill(): Promise<void>;
  log(): string;
}

/** A cluster of real etcds on loopback addresses, with the settings and certificates that nodes use. */
export class TestCluster {
  readonly members: TestMember[] = [];
  readonly #dir: string;
  readonly #children = new Set<ChildProcess>();
  ca = { cert: '', keyFile: '' };
  ports = { ledger: 0, ledgerPeer: 0 };

  constructor(dir: string) {
    this.#dir = dir;
  }

  get endpoints(): string[] {
    return this.members.map((m) => m.endpoint);
  }

  async start(names: readonly string[], extra: Record<string, string> = {}): Promise<void> {
    const keyFile = path.join(this.#dir, 'ca.key');
    await ensurePrivateKey(keyFile);
    const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
    this.ca = { keyFile, cert: await makeCa({ clusterId, keyFile, wallMs: Date.now() }) };
    const [ledger = 0, ledgerPeer = 0] = await freePorts(2);
    this.ports = { ledger, ledgerPeer };
    const nodes = names.map((name, i) => ({ name, address: `127.0.0.${i + 10}` }));
    for (const n of nodes) {
      const tls = await this.tls(n.name, [n.address]);
      const stateDir = path.join(this.#dir, n.name);
      await mkdir(path.join(stateDir, 'pki'), { recursive: true });
      for (const [f, text] of [
        ['ca.crt', tls.ca],
        ['node.crt', tls.cert],
        ['node.key', tls.key],
        ['ca.crl', await makeCrl(this.ca, 1, [])],
      ] as const) {
        await writeFile(path.join(stateDir, 'pki', f), text, { mode: 0o600 });
      }
      const settings = voterSettings({
        node: n.name,
        address: n.address,
        stateDir,
        ports: this.ports,
        clusterId,
        state: 'new',
        crl: true,
        members: nodes.map((m) => ({ name: m.name, peerUrl: `https://${m.address}:${ledgerPeer}` })),
      });
      this.members.push(this.#member(n.name, n.address, { ...settings, ...extra }));
    }
    for (const m of this.members) m.start();
  }

  /** Has all members refuse these certificates. */
  async revoke(...pems: readonly string[]): Promise<void> {
    const revoked = pems.map((pem) => certificateRecord(pem, Date.now()));
    const crl = await makeCrl(this.ca, Date.now(), revoked);
    for (const m of this.members) await writePublic(path.join(this.#dir, m.name, 'pki', 'ca.crl'), crl);
  }

  /** Writes other CAs and lists for all members; they read the CAs as they start. */
  async trust(ca: string, crl: string): Promise<void> {
    for (const m of this.members) {
      await writePublic(path.join(this.#dir, m.name, 'pki', 'ca.crl'), crl);
      await writePublic(path.join(this.#dir, m.name, 'pki', 'ca.crt'), ca);
    }
  }

  #member(name: string, address: string, env: Record<string, string>): TestMember {
    let child: ChildProcess | null = null;
    let log = '';
    return {
      name,
      address,
      endpoint: `https://${address}:${this.ports.ledger}`,
      log: () => log,
      start: () => {
        child = spawn(etcdProgram(), [], { env, stdio: ['ignore', 'ignore', 'pipe'] });
        this.#children.add(child);
        child.stderr?.on('data', (d: Buffer) => (log = (log + d.toString()).slice(-20_000)));
      },
      kill: async () => {
        const c = child;
        child = null;
        if (c === null) return;
        const gone = c.exitCode !== null || new Promise((resolve) => c.once('exit', resolve));
        c.kill('SIGKILL');
        await gone;
        this.#children.delete(c);
      },
    };
  }

  async tls(
    name: string,
    addresses: readonly string[],
    wallMs = Date.now(),
    ca = this.ca,
  ): Promise<TlsMaterial> {
    const keyFile = path.join(this.#dir, `${name}.key`);
    const key = await ensurePrivateKey(keyFile);
    const csr = await makeCsr({ keyFile, commonName: name });
    return { key, ca: this.ca.cert, cert: await signNode(ca, csr, { node: name, addresses }, wallMs) };
  }

  async client(
    o: { endpoints?: readonly string[]; deadlineMs?: number; tls?: TlsMaterial } = {},
  ): Promise<EtcdLedger> {
    const { endpoints = this.endpoints, tls = await this.tls('client', []), ...rest } = o;
    return new EtcdLedger({ endpoints, tls, ...rest });
  }

  async ready(ledger: EtcdLedger): Promise<void> {
    await until('the ledger to answer', () =>
      ledger.get('/flotilla/ready').then(
        () => true,
        () => false,
      ),
    );
  }

  async stop(): Promise<void> {
    await Promise.all(this.members.map((m) => m.kill()));
    await rm(this.#dir, { recursive: true, force: true });
  }
}
