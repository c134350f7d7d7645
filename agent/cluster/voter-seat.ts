import { randomBytes } from 'node:crypto';
import { rename, rm, mkdir } from 'node:fs/promises';
import { FlotillaError } from '../../core/domain/error.js';
import type { Log } from '../env.js';
import type { Member } from '../ledger/members.js';
import { lackingCaKeys, noteUse, pkiPaths, readIfThere, takeCaKeys, writeSecret } from '../pki/store.js';
import type { AgentConfig } from './config.js';
import { clientListen, etcdDir, etcdEnvFile, peerUrl, settingsText, voterSettings } from './etcd-settings.js';
import type { Services } from './services.js';

export interface VoterSeatDeps {
  readonly config: AgentConfig;
  readonly clusterId: string;
  readonly services: Services;
  readonly log: Log;
  /** Fetches the keys of the CAs from these addresses. */
  readonly fetchCaKeys: (addresses: readonly string[]) => Promise<readonly string[]>;
}

/** Line of etcd.env that says for which member the data directory was made. */
const memberLine = /^# member (\d+)$/m;

/**
 * This node's place among the voters. The list of members says whether it has one; etcd and the CA's key on this
 * node are made to agree with it. Every step may be cut off and is found again.
 */
export class VoterSeat {
  readonly #d: VoterSeatDeps;

  constructor(d: VoterSeatDeps) {
    this.#d = d;
  }

  /**
   * @param members - by linearizable read, never empty
   * @returns what was done, for the log; null: all was well
   */
  async settle(members: readonly Member[]): Promise<string | null> {
    const { config } = this.#d;
    if (members.length === 0) return null;
    const own = peerUrl(config.address, config.ports);
    const mine = members.find((m) => m.peerUrls.includes(own));
    const text = await readIfThere(etcdEnvFile(config.stateDir));
    if (mine === undefined) return text === null ? null : this.#leave();
    return this.#take(mine, members, text);
  }

  async #take(mine: Member, members: readonly Member[], text: string | null): Promise<string | null> {
    const { config, services, log } = this.#d;
    const marked = text === null ? null : (memberLine.exec(text)?.[1] ?? 'founder');
    await this.#ensureCaKey(members);
    if (marked === mine.id || marked === 'founder') {
      // The founder's file is of before it had a number.
      const next = settledText(text ?? '', config, marked === 'founder' ? `# member ${mine.id}\n` : '');
      if (text !== null && next !== text) await writeSecret(etcdEnvFile(config.stateDir), next);
      if (await services.active('flotilla-etcd')) return null;
      await services.enable('flotilla-etcd');
      return 'started etcd, which was not running';
    }
    if (text !== null) await this.#putAside();
    await mkdir(etcdDir(config.stateDir), { recursive: true, mode: 0o700 });
    // As it starts it reads the CAs that are there now.
    await noteUse(config.stateDir, 'etcd');
    const own = peerUrl(config.address, config.ports);
    const crl = (await readIfThere(pkiPaths(config.stateDir).crl)) !== null;
    const settings = voterSettings({
      crl,
      node: config.name,
      address: config.address,
      stateDir: config.stateDir,
      ports: config.ports,
      clusterId: this.#d.clusterId,
      state: 'existing',
      members: members.flatMap((m) =>
        m.peerUrls.map((peer) => ({ name: peer === own ? config.name : m.name || 'unnamed', peerUrl: peer })),
      ),
    });
    await writeSecret(etcdEnvFile(config.stateDir), `${settingsText(settings)}# member ${mine.id}\n`);
    await services.enable('flotilla-etcd');
    log.info('this node becomes a voter of the ledger', { member: mine.id });
    return 'started etcd as a new member';
  }

  async #ensureCaKey(members: readonly Member[]): Promise<void> {
    const { config } = this.#d;
    if ((await lackingCaKeys(config.stateDir)).length === 0) return;
    const addresses = members
      .filter((m) => !m.learner)
      .flatMap((m) => m.peerUrls)
      .map((u) => new URL(u).hostname)
      .filter((a) => a !== config.address);
    // The only voter there is, on a node that never was one before the ledger was rebuilt: nobody can be asked.
    if (addresses.length === 0) return;
    try {
      await takeCaKeys(config.stateDir, await this.#d.fetchCaKeys(addresses));
    } catch (error) {
      // The others have none either: lost with all former voters. It is asked for again at each look.
      if (!(error instanceof FlotillaError) || error.code !== 'wrong-state') throw error;
    }
  }

  /** No member any more: etcd's data is worth nothing without its number, and the CA's key is not ours to keep. */
  async #leave(): Promise<string> {
    const { config, log } = this.#d;
    await this.#putAside();
    const { caKey, caNextKey, caMadeKey } = pkiPaths(config.stateDir);
    for (const file of [caKey, caNextKey, caMadeKey]) await rm(file, { force: true });
    log.info('this node is no voter of the ledger any more');
    return 'stopped etcd and put its data aside';
  }

  async #putAside(): Promise<void> {
    const { config, services } = this.#d;
    await services.disable('flotilla-etcd');
    const dir = etcdDir(config.stateDir);
    // The newest former data is kept, for a person who has to rescue a ledger.
    await rm(`${dir}.former`, { recursive: true, force: true });
    await rename(dir, `${dir}.former`).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    });
    await rm(etcdEnvFile(config.stateDir), { force: true });
  }
}

/** A file of before is put right without a restart, which would be that of every voter at once: its next start reads it. */
const settledText = (text: string, c: Pick<AgentConfig, 'address' | 'ports'>, more: string): string =>
  text.replace(
    /^ETCD_LISTEN_CLIENT_URLS=.*$/m,
    `ETCD_LISTEN_CLIENT_URLS=${clientListen(c.address, c.ports)}`,
  ) + more;

/** A random number of milliseconds below `ms`, so that nodes do not act in step. */
export const jitterMs = (ms: number): number => Math.floor((randomBytes(2).readUInt16BE() / 65_536) * ms);
