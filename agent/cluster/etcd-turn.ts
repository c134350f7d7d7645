import { leadKey } from '../../core/wire/ledger-keys.js';
import type { Clock, Liveness, Log } from '../env.js';
import { absent, type RecordStore } from '../ledger/records.js';
import { bundleMark } from '../pki/bundle.js';
import { noteUse, pkiPaths, readIfThere, usesTrust, writeSecret } from '../pki/store.js';
import type { AgentConfig } from './config.js';
import { crlSettings, etcdEnvFile } from './etcd-settings.js';
import type { Services } from './services.js';

/** An etcd that was restarted answers, and all voters are well again, within that time, ms; else somebody has to look. */
const wellMs = 60_000;
const againMs = 250;

export interface EtcdTurnDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly store: () => RecordStore | null;
  readonly live: Liveness & { lease(): string | null };
  /** What is wrong with voters, in words; null: all are well. @throws FlotillaError `ledger-unavailable` */
  readonly votersFault: () => Promise<string | null>;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopped: () => boolean;
}

/**
 * The voter on this node starts anew where it does not know what it should: etcd reads the CAs, and whether there is a list of
 * revoked certificates, as it starts. One voter of the cluster at a time, and only while all are well.
 */
export class EtcdTurn {
  readonly #d: EtcdTurnDeps;
  /** The turn may be this node's: of an agent that was cut off, or where giving it back failed. */
  #mayHold = true;

  constructor(d: EtcdTurnDeps) {
    this.#d = d;
  }

  /** @param crl - whether there is a list of revoked certificates. @returns what it waits for, in words; null: nothing */
  async step(crl: boolean): Promise<string | null> {
    const { config, services, live, clock, log, stopped } = this.#d;
    const { stateDir, name } = config;
    const store = this.#d.store();
    const file = etcdEnvFile(stateDir);
    const text = await readIfThere(file);
    if (text === null) return null;
    if (store === null) return 'this node knows no ledger yet';
    const settings = Object.entries(crlSettings(stateDir)).map(([k, v]) => `${k}=${v}\n`);
    const lacksCrl = crl && !settings.every((l) => text.includes(l));
    const key = leadKey('etcd-restart');
    if (!lacksCrl && (await usesTrust(stateDir, 'etcd'))) {
      if (this.#mayHold) await store.txn([{ key, value: name }], [{ del: key }]);
      this.#mayHold = false;
      return null;
    }
    const [mine, lease] = [live.compare(), live.lease()];
    if (mine === null || lease === null) return 'this node is not alive in the ledger';
    const holder = await store.ledger.get(key);
    // One's own is of an agent that was cut off here.
    if (holder !== null && holder.value !== name) return `the voter of ${holder.value} starts anew first`;
    if (holder === null && !(await store.txn([absent(key), mine], [{ put: key, value: name, lease }])).done)
      return 'another voter starts anew first';
    this.#mayHold = true;
    const fault = await this.#d.votersFault();
    if (fault !== null) {
      await store.txn([{ key, value: name }], [{ del: key }]);
      return `all voters must be well before one starts anew: ${fault}`;
    }
    log.info('the ledger’s voter on this node starts anew, to know the CAs and what is revoked');
    if (lacksCrl) await writeSecret(file, `${text.trimEnd()}\n${settings.join('')}`);
    const mark = bundleMark((await readIfThere(pkiPaths(stateDir).caCert)) ?? '');
    await services.restart('flotilla-etcd');
    const endMs = clock.nowMs() + wellMs;
    const well = async (): Promise<boolean> =>
      this.#d.votersFault().then(
        (f) => f === null,
        () => false,
      );
    while (!(await well()) && clock.nowMs() < endMs && !stopped()) await clock.sleep(againMs);
    if (stopped()) return null;
    await noteUse(stateDir, 'etcd', mark);
    await store.txn([{ key, value: name }], [{ del: key }]);
    return null;
  }
}
