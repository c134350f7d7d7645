import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { timingProfiles, type TimingProfile } from '../../core/domain/timing.js';
import type { Log } from '../env.js';
import { trustMark } from '../pki/bundle.js';
import { pkiPaths, readIfThere, readTls } from '../pki/store.js';
import type { KeeperEtcd } from './etcd.js';

/** How often the files are looked at, ms. The agent writes them when voters or the certificate change. */
const lookEveryMs = 5_000;

export interface KeeperConfig {
  readonly node: string;
  readonly stateDir: string;
  readonly timing: TimingProfile;
}

/** What the keeper needs of `agent.json`; the agent checks the whole of it. @throws where it is not there or wrong */
export async function readKeeperConfig(file: string): Promise<KeeperConfig> {
  const c = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  const { name, stateDir = '/var/lib/flotilla', timing = 'production' } = c;
  if (typeof name !== 'string' || !/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(name)) {
    throw new Error(`${file} has no usable "name"`);
  }
  if (typeof stateDir !== 'string' || !path.isAbsolute(stateDir)) throw new Error(`${file}: "stateDir"`);
  const profile = Object.values(timingProfiles).find((p) => p.name === timing);
  if (profile === undefined) throw new Error(`${file}: "timing"`);
  return { node: name, stateDir, timing: profile };
}

/** Endpoints of the ledger; null: this node is in no cluster yet. */
export async function readEndpoints(stateDir: string): Promise<readonly string[] | null> {
  const file = path.join(stateDir, 'cluster.json');
  const text = await readIfThere(file);
  if (text === null) return null;
  const urls = (JSON.parse(text) as Record<string, unknown>)['ledgerEndpoints'];
  const good = Array.isArray(urls) && urls.length > 0 && urls.every((u) => typeof u === 'string');
  if (!good) throw new Error(`${file} names no endpoints`);
  return urls;
}

/** Gives the ledger's client endpoints and certificate, again whenever the agent wrote new ones. */
export class Surroundings {
  readonly #stateDir: string;
  readonly #ledger: KeeperEtcd;
  readonly #log: Log;
  #stamp = '';
  #trusts = '';
  #looking = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(o: { stateDir: string; ledger: KeeperEtcd; log: Log }) {
    this.#stateDir = o.stateDir;
    this.#ledger = o.ledger;
    this.#log = o.log;
  }

  /** @throws where there is nothing to begin with */
  async start(): Promise<void> {
    await this.#look();
    this.#timer = setInterval(() => {
      if (this.#looking) return;
      this.#looking = true;
      this.#look()
        .catch((e: unknown) => this.#log.warn(`cluster.json or the certificate: ${String(e)}`))
        .finally(() => (this.#looking = false));
    }, lookEveryMs);
  }

  /** By which CAs the ledger is known now. */
  get trusts(): string {
    return this.#trusts;
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    const { nodeCert, caCert, crl } = pkiPaths(this.#stateDir);
    const files = [path.join(this.#stateDir, 'cluster.json'), nodeCert, caCert];
    const stats = await Promise.all([...files.map((f) => stat(f)), stat(crl).catch(() => null)]);
    const stamp = stats.map((s) => `${s?.ino} ${s?.mtimeMs}`).join(', ');
    if (stamp === this.#stamp) return;
    const urls = await readEndpoints(this.#stateDir);
    if (urls !== null) {
      const tls = await readTls(this.#stateDir);
      this.#ledger.set(urls, tls);
      this.#trusts = trustMark(tls);
    }
    this.#stamp = stamp;
  }
}
