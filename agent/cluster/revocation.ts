import path from 'node:path';
import { isOver, revokedMax, revokedNow } from '../../core/decide/revocation.js';
import type { CertificateRecord } from '../../core/domain/certificate.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { crlKey, crlRecordSchema, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { Clock, Liveness, Log } from '../env.js';
import type { RecordStore } from '../ledger/records.js';
import { absent, putRecord, unchanged } from '../ledger/records.js';
import { bundleMark, issuerIn, pemsIn, trustMark } from '../pki/bundle.js';
import { certificateRecord, type Ca } from '../pki/certificates.js';
import { crlMark, makeCrls, nextCrlNumber, readCrl } from '../pki/crl.js';
import { caKeyFile, noteUse, pkiPaths, readIfThere, readTls, usesTrust, writePublic } from '../pki/store.js';
import type { TlsMaterial } from '../pki/tls.js';
import type { Snapshot } from '../snapshot.js';
import type { AgentConfig } from './config.js';
import type { Connections } from './connections.js';
import { etcdEnvFile } from './etcd-settings.js';
import { EtcdTurn } from './etcd-turn.js';
import { installMosquitto } from './mosquitto.js';
import type { Services } from './services.js';
import { rotates, Trust, type TrustDeps } from './trust.js';

/** libvirt's port for TLS. */
const migrationPort = 16_514;
/** The voters end connections to etcd one after the other, so that no moment has all clients connecting anew, ms. */
const turnMs = 2_000;
/**
 * A list that its signer leaves as it is for so long is signed by any node that can, ms: it may be the node that was removed
 * that leads, as long as its lease lives.
 */
const overdueMs = 15_000;
/**
 * A node that was removed can read so long that it was, and give up its seat among the voters, ms; then nobody lets it in. Not
 * from the wall clock of whoever removed it, but from when the signer saw it.
 */
const leaveMs = 10_000;
/** Certificates forgotten in one transaction. */
const forgottenMax = 40;
/** What failed is tried again so soon, ms. */
const againMs = 15_000;
/** What is on disk is looked at again this long after it was well, as the ledger changes, ms. */
const lookAgainMs = 60_000;

export interface RevocationDeps {
  readonly config: AgentConfig;
  /** It joined as one, whatever its settings say: it has no libvirt. */
  readonly witness: boolean;
  readonly services: Services;
  readonly connections: Connections;
  /** Null while the ledger has not answered yet. */
  readonly store: () => RecordStore | null;
  readonly live: Liveness & { lease(): string | null };
  /** True while this node does what one node does for all. */
  readonly leads: () => boolean;
  /** What is wrong with voters, in words; null: all are well. @throws FlotillaError `ledger-unavailable` */
  readonly votersFault: () => Promise<string | null>;
  readonly keeperTrusts: TrustDeps['keeperTrusts'];
  /** This node's certificate is to be renewed at once. */
  readonly renew: () => void;
  /** Gives the list to whoever holds connections. */
  readonly onTls: (tls: TlsMaterial) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Which CAs are trusted, and what is revoked: what the ledger says of it comes to the daemons of every node. What is revoked stops working there. The node that leads the voters signs a list
 * of the revoked certificates and puts it into the ledger; each node verifies it, has its daemons use it, and ends
 * the connections that others have to them. All is found again by looking: a step that was cut off is done again.
 */
export class Revocation {
  readonly #d: RevocationDeps;
  #fault: string | null = null;
  #running: Promise<void> | null = null;
  #next: Snapshot | null = null;
  #done: { readonly snapshot: Snapshot; readonly led: boolean; readonly atMs: number } | null = null;
  #notBeforeMs = 0;
  /** Since when the list in the ledger does not say what it should; null: it does. */
  #staleSinceMs: number | null = null;
  /** Since when certificates of removed nodes have been seen that no list names yet, by serial. */
  readonly #leaving = new Map<string, number>();
  /** The number of the list on disk; null: not looked yet. */
  #number: number | null = null;
  #stopped = false;
  #renewedMs = -Infinity;
  readonly #trust: Trust;
  readonly #etcd: EtcdTurn;
  /** What the voter here waits for before it starts anew, in words; null: nothing. */
  #waits: string | null = null;

  constructor(d: RevocationDeps) {
    this.#d = d;
    this.#trust = new Trust({ ...d, renew: () => this.#renew() });
    this.#etcd = new EtcdTurn({ ...d, stopped: () => this.#stopped });
  }

  /** What is wrong, for the node's health; null: nothing. */
  fault(): string | null {
    return this.#fault;
  }

  /** A look that comes while one is at work is taken up after it. @returns when all are done */
  async look(s: Snapshot): Promise<void> {
    this.#next = s;
    if (this.#stopped) return;
    this.#running ??= this.#run().finally(() => (this.#running = null));
    await this.#running;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let s = this.#take(); s !== null; s = this.#take()) {
      try {
        const led = this.#d.leads();
        await this.step(s);
        // What another one is to sign is looked at again, until it is overdue.
        const settled =
          this.#d.store() !== null &&
          this.#staleSinceMs === null &&
          this.#leaving.size === 0 &&
          this.#waits === null;
        if (settled && (await this.#said(s))) this.#done = { snapshot: s, led, atMs: this.#d.clock.nowMs() };
        this.#fault = null;
      } catch (error) {
        const { code, message, causes } = errorRecord(error);
        // Others were faster, or the ledger is away: the next look tells.
        if (code === 'ledger-unavailable' || code === 'edit-conflict') continue;
        this.#notBeforeMs = this.#d.clock.nowMs() + againMs;
        const text = [message, ...causes].join(': ').slice(0, 500);
        if (this.#fault !== text) this.#d.log.warn('revoked certificates', { code, message, causes });
        this.#fault = text;
      }
    }
  }

  #take(): Snapshot | null {
    const s = this.#next;
    this.#next = null;
    if (s === null || this.#stopped || this.#d.clock.nowMs() < this.#notBeforeMs) return null;
    // Nothing is new, unless it became this node's part to sign.
    const same = this.#done !== null && this.#wellIn(s, this.#done) && (this.#done.led || !this.#d.leads());
    return same ? null : s;
  }

  /** A look reads a dozen files and certificates: not each time that some VM has changed. */
  #wellIn(s: Snapshot, done: { readonly snapshot: Snapshot; readonly atMs: number }): boolean {
    if (s === done.snapshot) return true;
    // What others and this node have written meanwhile is not all in the ledger.
    if (rotates(s) || this.#d.clock.nowMs() - done.atMs >= lookAgainMs) return false;
    return concerning(s) === concerning(done.snapshot);
  }

  /** One round. @throws FlotillaError of what failed; the next round tries again */
  async step(s: Snapshot): Promise<void> {
    const fault = await this.#trust.install(s);
    await this.#register(s);
    await this.#publish(s);
    await this.#install(s);
    await this.#use(s);
    this.#waits = await this.#etcd.step((await this.#ownNumber()) !== 0);
    await this.#trust.report(s);
    if (fault === null) return;
    throw new FlotillaError('wrong-certificate', fault, {
      hint: 'Somebody wrote it who may not, or this node was off while the CA was replaced twice: let it join anew.',
    });
  }

  /** Whether nothing is left to be said of this node: what its keeper knows is looked at again. */
  async #said(s: Snapshot): Promise<boolean> {
    const { config, keeperTrusts } = this.#d;
    const said = keeperTrusts();
    if (!s.nodes.has(config.name) || (said === null && !rotates(s))) return true;
    return said === trustMark(await readTls(config.stateDir));
  }

  #renew(): void {
    const nowMs = this.#d.clock.nowMs();
    if (nowMs - this.#renewedMs < againMs) return;
    this.#renewedMs = nowMs;
    this.#d.renew();
  }

  /** A certificate of before there were records of them: one that is not written down could not be revoked. */
  async #register(s: Snapshot): Promise<void> {
    const { config, clock } = this.#d;
    const store = this.#d.store();
    const node = s.nodes.get(config.name);
    const pem = await readIfThere(pkiPaths(config.stateDir).nodeCert);
    if (store === null || node === undefined || pem === null) return;
    const own = certificateRecord(pem, clock.wallMs());
    if (s.certs.has(own.serial) || own.fingerprint !== node.value.fingerprint) return;
    const key = kinds.cert.key(own.serial);
    if (s.unreadable.includes(key)) return;
    await store.txn(
      [absent(key), unchanged({ key: kinds.node.key(config.name), modRevision: node.modRevision })],
      [putRecord(kinds.cert, own.serial, own)],
    );
  }

  /** Signs a new list where the one in the ledger does not say what is to be said, and forgets what is over. */
  async #publish(s: Snapshot): Promise<void> {
    const { config, clock, log } = this.#d;
    const store = this.#d.store();
    const p = pkiPaths(config.stateDir);
    const ca = await readIfThere(p.caCert);
    if (store === null || ca === null) return;
    const cas = await this.#signers(ca);
    if (cas === null) return;
    const all = [...s.certs.values()].map((k) => k.value);
    const wallMs = clock.wallMs();
    const max = Math.floor(revokedMax / cas.length);
    const revoked = await this.#left(revokedNow(all, wallMs, max), s, ca);
    const mark = markOf(revoked, ca);
    const own = await this.#ownNumber();
    // One whose number is behind is of a ledger that was restored: nobody would take it.
    const stale = s.crl === null || s.crl.value.mark !== mark || s.crl.value.number < own;
    this.#staleSinceMs = stale ? (this.#staleSinceMs ?? clock.nowMs()) : null;
    const overdue = this.#staleSinceMs !== null && clock.nowMs() - this.#staleSinceMs > overdueMs;
    if (!this.#d.leads() && !overdue) return;
    if (stale) {
      const number = nextCrlNumber(Math.max(own, s.crl?.value.number ?? 0), wallMs);
      const pem = await makeCrls(cas, number, revoked);
      const value = writeRecord({ schema: crlRecordSchema }, { number, mark, pem });
      // An unreadable one is replaced too, by whoever sees the same one.
      const before = s.crl?.modRevision ?? (await store.ledger.get(crlKey))?.modRevision ?? 0n;
      const r = await store.txn([{ key: crlKey, modRevision: before }], [{ put: crlKey, value }]);
      if (r.done) log.info('signed a list of revoked certificates', { number, revoked: revoked.length });
    }
    // A good one of a CA that nobody trusts any more is of no use either; what was revoked is remembered by its key.
    const [only, ...more] = cas;
    const dropped = (c: CertificateRecord): boolean =>
      more.length === 0 && only !== undefined && c.pem !== null && issuerIn(c.pem, only.cert) === null;
    const over = all.filter((c) => isOver(c, wallMs) || dropped(c)).slice(0, forgottenMax);
    if (over.length > 0)
      await store.txn(
        [],
        over.map((c) => ({ del: kinds.cert.key(c.serial) })),
      );
  }

  /** Without those that may still read the ledger for a moment. Lists are read only where one does not name all already. */
  async #left(
    revoked: readonly CertificateRecord[],
    s: Snapshot,
    ca: string,
  ): Promise<readonly CertificateRecord[]> {
    const fresh = new Set<string>();
    if (s.crl?.value.mark !== markOf(revoked, ca)) {
      const inLedger = await readCrl(s.crl?.value.pem ?? '', ca).catch(() => null);
      const listed = new Set([...(await this.#own()).serials, ...(inLedger?.serials ?? [])]);
      for (const c of revoked) if (c.revoked?.why === 'removed' && !listed.has(c.serial)) fresh.add(c.serial);
    }
    const nowMs = this.#d.clock.nowMs();
    for (const serial of this.#leaving.keys()) if (!fresh.has(serial)) this.#leaving.delete(serial);
    for (const serial of fresh) if (!this.#leaving.has(serial)) this.#leaving.set(serial, nowMs);
    return revoked.filter((c) => nowMs - (this.#leaving.get(c.serial) ?? -Infinity) >= leaveMs);
  }

  /** All CAs with their keys; null: not all are here, so another one signs. */
  async #signers(ca: string): Promise<readonly Ca[] | null> {
    const cas: Ca[] = [];
    for (const cert of pemsIn(ca)) {
      const keyFile = await caKeyFile(this.#d.config.stateDir, cert);
      if (keyFile === null) return null;
      cas.push({ cert, keyFile });
    }
    return cas;
  }

  /** Takes the ledger's list where it is newer and really of our CA: whoever can write the ledger may not go back. */
  async #install(s: Snapshot): Promise<void> {
    const { config } = this.#d;
    if (s.crl === null || s.crl.value.number <= (await this.#ownNumber())) return;
    const p = pkiPaths(config.stateDir);
    const { number, pem } = await readCrl(s.crl.value.pem, (await readIfThere(p.caCert)) ?? '');
    if (number <= (await this.#ownNumber())) return;
    await writePublic(p.crl, pem);
    this.#number = number;
  }

  /** Has the daemons use the list on disk, once. */
  async #use(s: Snapshot): Promise<void> {
    const { config, services, connections, log, onTls } = this.#d;
    const { stateDir, ports } = config;
    if (!(await usesTrust(stateDir, 'all'))) {
      const mark = bundleMark((await readIfThere(pkiPaths(stateDir).caCert)) ?? '');
      onTls(await readTls(stateDir));
      await installMosquitto(config);
      await services.restart('flotilla-mosquitto');
      if (!this.#d.witness) await connections.reloadMigrationPort();
      await noteUse(stateDir, 'all', mark);
      log.info('uses other CAs', { cas: mark });
    }
    await this.#once('ca.crl.used', async (number) => {
      const { serials } = await this.#own();
      onTls(await readTls(stateDir));
      const due = await installMosquitto(config);
      if (due === 'restart') await services.restart('flotilla-mosquitto');
      // Also where the files are there already: the upkeep may have been faster.
      else await services.reload('flotilla-mosquitto');
      if (serials.length === 0) return;
      await connections.cut([ports.radio]);
      if ((await readIfThere(etcdEnvFile(stateDir))) !== null) {
        const voters = [...s.nodes.values()].filter((n) => n.value.voter).map((n) => n.value.id);
        await this.#d.clock.sleep(turnMs * Math.max(0, voters.sort().indexOf(config.name)));
        await connections.cut([ports.ledger, ports.ledgerPeer]);
      }
      log.info('uses a list of revoked certificates', { number, revoked: serials.length });
    });
    if (this.#d.witness) return;
    await this.#once('ca.crl.used-for-migration', async () => {
      await connections.reloadMigrationPort();
      const { serials } = await this.#own();
      if (serials.length > 0) await connections.cut([migrationPort]);
    });
  }

  /** Work that is done once for each list, also over restarts. */
  async #once(name: string, work: (number: number) => Promise<void>): Promise<void> {
    const number = await this.#ownNumber();
    const file = path.join(pkiPaths(this.#d.config.stateDir).dir, name);
    if (number === 0 || (await readIfThere(file)) === String(number)) return;
    await work(number);
    await writePublic(file, String(number));
  }

  async #ownNumber(): Promise<number> {
    this.#number ??= (await this.#own()).number;
    return this.#number;
  }

  async #own(): Promise<{ number: number; serials: readonly string[] }> {
    const p = pkiPaths(this.#d.config.stateDir);
    const [pem, ca] = [await readIfThere(p.crl), await readIfThere(p.caCert)];
    if (pem === null || ca === null) return { number: 0, serials: [] };
    return readCrl(pem, ca).catch((error: unknown) => {
      // Damaged: etcd would let nobody in with it. The next one from the ledger takes its place.
      this.#d.log.error('the list of revoked certificates on this node is damaged', { error: String(error) });
      return { number: 0, serials: [] };
    });
  }
}

const markOf = (revoked: readonly CertificateRecord[], ca: string): string =>
  crlMark(
    revoked.map((c) => c.serial),
    ca,
  );

/** Stands for all of the ledger that is looked at here. */
const concerning = (s: Snapshot): string =>
  [
    ...[s.meta, s.crl, ...s.nodes.values(), ...s.certs.values(), ...s.trusts.values()].map(
      (k) => k?.modRevision ?? 'none',
    ),
    ...s.unreadable,
  ].join(' ');
