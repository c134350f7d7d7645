import { errorRecord } from '../../core/domain/error.js';
import type { Clock, Log } from '../env.js';
import { certificateFault } from '../pki/certificates.js';
import { readTls } from '../pki/store.js';
import type { TlsMaterial } from '../pki/tls.js';
import type { AgentConfig } from './config.js';
import { renewCertificate } from './join.js';
import { installMosquitto } from './mosquitto.js';
import type { Services } from './services.js';

/** How often the certificate's age is looked at, ms. It is renewed 90 days ahead: there is time. */
export const upkeepEveryMs = 6 * 3_600_000;
/** After a renewal that failed it is tried again so soon, ms. */
const againMs = 15 * 60_000;

export interface UpkeepDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly clock: Clock;
  readonly log: Log;
  /** Addresses of nodes that can sign, as known now. */
  readonly voters: () => readonly string[];
  /** This node's addresses, as the ledger has them; none: not known yet. */
  readonly addresses: () => readonly string[];
  /** Gives a new certificate to whoever holds connections. */
  readonly onTls: (tls: TlsMaterial) => void;
}

/**
 * Keeps what a node's broker and connections live from: writes the broker's files anew when a new program writes
 * them otherwise, and renews the node's certificate in time.
 */
export class Upkeep {
  readonly #d: UpkeepDeps;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #pause = new AbortController();
  #fault: string | null = null;

  constructor(d: UpkeepDeps) {
    this.#d = d;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** The next round is now: what the certificate is for has changed. */
  soon(): void {
    this.#pause.abort();
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopped'));
    this.#pause.abort();
    await this.#running;
  }

  /** What is wrong with certificate or broker files, for the node's health; null: nothing. */
  fault(): string | null {
    return this.#fault;
  }

  /** One round. @returns false: something failed and is to be tried again soon */
  async step(): Promise<boolean> {
    const { config, clock, log, onTls } = this.#d;
    try {
      if (await renewCertificate(config, this.#d.voters(), clock.wallMs(), this.#d.addresses())) {
        onTls(await readTls(config.stateDir));
        log.info('the certificate of this node was renewed');
      }
      await this.#broker();
      this.#fault = certificateFault((await readTls(config.stateDir)).cert, clock.wallMs());
      return true;
    } catch (error) {
      const { code, message, causes } = errorRecord(error);
      log.warn('upkeep of certificate and broker failed', { code, message, causes });
      this.#fault = message;
      await this.#broker().catch(() => undefined);
      return false;
    }
  }

  async #broker(): Promise<void> {
    const { config, services } = this.#d;
    const due = await installMosquitto(config);
    if (due === 'restart') await services.restart('flotilla-mosquitto');
    if (due === 'reload') await services.reload('flotilla-mosquitto');
  }

  async #run(): Promise<void> {
    const signal = this.#stop.signal;
    while (!signal.aborted) {
      this.#pause = new AbortController();
      const ok = await this.step();
      await this.#d.clock.sleep(ok ? upkeepEveryMs : againMs, this.#pause.signal).catch(() => undefined);
    }
  }
}
