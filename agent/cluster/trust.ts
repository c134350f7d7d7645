import { rename, rm } from 'node:fs/promises';
import { X509Certificate } from 'node:crypto';
import type { TrustRecord } from '../../core/domain/certificate.js';
import { opFinished } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { RecordStore } from '../ledger/records.js';
import { putRecord, unchanged } from '../ledger/records.js';
import { certificateSha256, isVouched, issuerIn, pemsIn, trustMark } from '../pki/bundle.js';
import { caKeyFile, pkiPaths, readIfThere, readTls, usesTrust, writePublic } from '../pki/store.js';
import type { Snapshot } from '../snapshot.js';
import type { AgentConfig } from './config.js';
import { etcdEnvFile } from './etcd-settings.js';

export interface TrustDeps {
  readonly config: Pick<AgentConfig, 'name' | 'stateDir'>;
  /** Null while the ledger has not answered yet. */
  readonly store: () => RecordStore | null;
  /** The CAs by which this node's keeper knows the ledger, {@link trustMark}; null: it does not say. */
  readonly keeperTrusts: () => string | null;
  /** The certificate is of a CA that signs no more: it is to be renewed. */
  readonly renew: () => void;
}

/**
 * Which CAs this node trusts. The ledger says it, but a CA comes in only by the word of one that is trusted already: so who can
 * write the ledger makes nobody trust a CA of his own.
 */
export class Trust {
  readonly #d: TrustDeps;

  constructor(d: TrustDeps) {
    this.#d = d;
  }

  /**
   * Makes the node's file of CAs what the ledger says, first the one that signs.
   *
   * @returns what speaks against it, in words; null: nothing
   */
  async install(s: Snapshot): Promise<string | null> {
    const { stateDir } = this.#d.config;
    const p = pkiPaths(stateDir);
    const text = await readIfThere(p.caCert);
    const meta = s.meta?.value;
    if (text === null || meta === undefined) return null;
    const own = pemsIn(text);
    const wanted = [meta.ca, ...(meta.otherCa === undefined ? [] : [meta.otherCa])].flatMap(pemsIn);
    const trusted = own.map((pem) => new X509Certificate(pem));
    const said = pemsIn(meta.handover ?? '').map((pem) => new X509Certificate(pem));
    const known = new Set(own.map(certificateSha256));
    const good = wanted.filter(
      (pem) => known.has(certificateSha256(pem)) || isVouched(new X509Certificate(pem), said, trusted),
    );
    const [first] = wanted;
    if (good.length < wanted.length || first === undefined)
      return 'the ledger names a CA that none of ours vouches for: it is not trusted';
    // The one that signed what this node shows stays until it shows another.
    const cert = (await readIfThere(p.nodeCert)) ?? '';
    const mine = issuerIn(cert, text);
    if (mine !== null && issuerIn(cert, good.join('')) === null) good.push(mine);
    const next = good.join('');
    const word = await readIfThere(p.handover);
    if (meta.handover === undefined && word !== null) await rm(p.handover);
    if (meta.handover !== undefined && word !== meta.handover) await writePublic(p.handover, meta.handover);
    if (next !== own.join('')) await writePublic(p.caCert, next);
    await this.#keys(s, next);
    if (cert !== '' && issuerIn(cert, first) === null) this.#d.renew();
    return null;
  }

  /** Keys of CAs that are no more are removed; that of the only one has the usual name. */
  async #keys(s: Snapshot, next: string): Promise<void> {
    const { stateDir } = this.#d.config;
    const p = pkiPaths(stateDir);
    const cas = pemsIn(next);
    const used = await Promise.all(cas.map((pem) => caKeyFile(stateDir, pem)));
    if (used.includes(p.caMadeKey)) await rename(p.caMadeKey, p.caNextKey);
    else if (!rotates(s)) await rm(p.caMadeKey, { force: true });
    if (cas.length > 1) return;
    const [file] = await Promise.all(cas.map((pem) => caKeyFile(stateDir, pem)));
    if (file === p.caNextKey) await rename(p.caNextKey, p.caKey);
    else if (file === p.caKey) await rm(p.caNextKey, { force: true });
  }

  /** Says how far this node is, once all of it is. */
  async report(s: Snapshot): Promise<void> {
    const { config } = this.#d;
    const { stateDir, name } = config;
    const p = pkiPaths(stateDir);
    const store = this.#d.store();
    const node = s.nodes.get(name);
    const [ca, cert] = await Promise.all([readIfThere(p.caCert), readIfThere(p.nodeCert)]);
    if (store === null || node === undefined || ca === null || cert === null) return;
    if (!(await usesTrust(stateDir, 'all')) || !(await this.#known(pemsIn(ca).length))) return;
    const votes = (await readIfThere(etcdEnvFile(stateDir))) !== null;
    if (votes && !(await usesTrust(stateDir, 'etcd'))) return;
    const issuer = issuerIn(cert, ca);
    if (issuer === null) return;
    const files = await Promise.all(pemsIn(ca).map((pem) => caKeyFile(stateDir, pem)));
    const next: TrustRecord = {
      trusts: pemsIn(ca).map(certificateSha256),
      issuer: certificateSha256(issuer),
      keys: pemsIn(ca)
        .filter((_, i) => files[i] !== null)
        .map(certificateSha256),
    };
    if (JSON.stringify(next) === JSON.stringify(s.trusts.get(name)?.value)) return;
    // A node that is removed meanwhile leaves nothing behind.
    await store.txn(
      [unchanged({ key: kinds.node.key(name), modRevision: node.modRevision })],
      [putRecord(kinds.trust, name, next)],
    );
  }

  /** Whether there is a list of each CA, without which OpenSSL takes no certificate of it, and the keeper knows all. */
  async #known(n: number): Promise<boolean> {
    const tls = await readTls(this.#d.config.stateDir);
    return (tls.crl === undefined || tls.crl.length >= n) && this.#d.keeperTrusts() === trustMark(tls);
  }
}

/** Whether the CA is being replaced. */
export const rotates = (s: Snapshot): boolean =>
  [...s.ops.values()].some(({ value: o }) => o.kind === 'cluster.rotate-ca' && !opFinished(o));
