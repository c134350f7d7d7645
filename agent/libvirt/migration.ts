import { setTimeout as sleep } from 'node:timers/promises';
import { RpcConnection, TIMER_MS_MAX, type PeerConnector } from './client.js';
import type { DaemonLink } from './daemon-link.js';
import { LibvirtError } from './error.js';
import type { EventHub } from './event-hub.js';
import type { HostEvent, JobProgress, MigrateOptions, MigrateResult, MigrateTarget } from './hypervisor.js';
import { later, type JobWork } from './job.js';
import { jobProgress } from './job-stats.js';
import type { TypedParam, WireDomain } from './protocol.js';

const FLAG = {
  live: 1 << 0,
  peerToPeer: 1 << 1,
  persistDest: 1 << 3,
  undefineSource: 1 << 4,
  paused: 1 << 5,
  copyDisks: 1 << 6,
  unsafe: 1 << 9,
  abortOnError: 1 << 12,
  autoConverge: 1 << 13,
  postCopy: 1 << 15,
  tls: 1 << 16,
  parallel: 1 << 17,
  changeProtection: 1 << 8,
  synchronousWrites: 1 << 18,
} as const;

/** A migration that needs more than an hour needs an operator to say so. */
const DEADLINE_MS = 3_600_000;

/** After its deadline a migration is aborted; libvirt needs a few seconds to clean up on both sides. */
const ABORT_GRACE_MS = 15_000;

/** QEMU is told something, here or there. */
const PHASE_MS = 60_000;

/** QEMU starts there: hundreds of GB of huge pages take minutes. That the daemon lives is looked after meanwhile. */
const PREPARE_MS = 300_000;

/** The end of a QEMU of many GB takes a while; a guest that is to go on goes on at once. */
const CONFIRM_MS = 120_000;

/** A node under load takes seconds for the TLS of its daemon, and the guest runs on meanwhile. */
const PEER_OPEN_MS = 20_000;

/** The other daemon is asked so often whether it lives, and given up after so long a silence. */
const PEER_LOOK_MS = 2_000;
const PEER_SILENT_MS = 8_000;

/** Asking for progress must not outlive its use. */
const ASK_MS = 10_000;

/** The final figures come as an event, just before or just after the answer. */
const RESULT_WAIT_MS = 500;

/** How often post-copy looks whether the first pass is through. */
const POST_COPY_LOOK_MS = 100;

/**
 * A migration from daemon to daemon: one call that lasts as long as the migration, on a connection of its own
 * on which its progress is asked and on which it is aborted.
 */
export class Migration implements JobWork<MigrateResult> {
  readonly #link: DaemonLink;
  readonly #hub: EventHub;
  readonly #domain: WireDomain;
  readonly #to: MigrateTarget;
  readonly #options: MigrateOptions;
  #connection: RpcConnection | null = null;
  #last: JobProgress | null = null;
  #over = false;

  constructor(
    link: DaemonLink,
    hub: EventHub,
    domain: WireDomain,
    to: MigrateTarget,
    options: MigrateOptions,
  ) {
    this.#link = link;
    this.#hub = hub;
    this.#domain = domain;
    this.#to = to;
    this.#options = options;
  }

  async run(cancelled: AbortSignal): Promise<MigrateResult> {
    const { deadlineMs = DEADLINE_MS, maxDowntimeMs, mode } = this.#options;
    const domain = this.#domain;
    let result: MigrateResult | null = null;
    let arrived = (): void => undefined;
    const completed = new Promise<void>((resolve) => (arrived = resolve));
    const died = new AbortController();
    const unlisten = this.#hub.listen((event: HostEvent) => {
      if (event.type === 'lifecycle' && event.uuid === domain.uuid && event.event === 'stopped') died.abort();
      if (event.type !== 'job-completed' || event.uuid !== domain.uuid) return;
      result = event.result;
      arrived();
    });
    const connection = await this.#link.openJob('domainMigratePerform3Params').catch((error: unknown) => {
      unlisten();
      throw error;
    });
    this.#connection = connection;
    let timedOut = false;
    const timer = setTimeout(
      () => {
        timedOut = true;
        void this.abort().catch(() => undefined);
      },
      Math.min(deadlineMs, TIMER_MS_MAX),
    );
    try {
      if (maxDowntimeMs !== undefined) {
        const args = { domain, ms: BigInt(maxDowntimeMs), flags: 0 };
        await connection.call('domainMigrateSetMaxDowntime', args, { deadlineMs: ASK_MS });
      }
      if (cancelled.aborted) throw this.#aborted('before it began', 'not-sent');
      const { peer } = this.#to;
      const moving =
        peer === undefined
          ? this.#amongDaemons(connection)
          : this.#driven(connection, peer, deadlineMs, AbortSignal.any([cancelled, died.signal]));
      if (mode === 'post-copy') void this.#switchToPostCopy(connection);
      await moving;
      await Promise.race([completed, later(RESULT_WAIT_MS)]);
      return result ?? resultOf(this.#last);
    } catch (cause) {
      if (timedOut) {
        const fields = { code: 'deadline', outcome: 'refused', domainId: domain.uuid, cause } as const;
        throw new LibvirtError(`the migration was cancelled after ${deadlineMs} ms`, fields);
      }
      // libvirt has no single number for "cancelled": the phase decides whether it is 78 or an internal error
      if (cancelled.aborted && cause instanceof LibvirtError && cause.outcome === 'refused') {
        throw this.#aborted(cause.message, 'refused', cause);
      }
      throw cause;
    } finally {
      this.#over = true;
      clearTimeout(timer);
      unlisten();
      void connection.end();
    }
  }

  async #amongDaemons(connection: RpcConnection): Promise<void> {
    const { deadlineMs = DEADLINE_MS } = this.#options;
    const args = {
      domain: this.#domain,
      uri: this.#to.uri,
      params: migrateParams(this.#to, this.#options),
      cookie: new Uint8Array(),
      flags: migrateFlags(this.#options) | FLAG.peerToPeer,
    };
    await connection.call('domainMigratePerform3Params', args, { deadlineMs: deadlineMs + ABORT_GRACE_MS });
  }

  /**
   * The phases of libvirt's protocol 3, driven from here. The machine here stands still from the end of `perform` until
   * `confirm` ends it or lets it go on; should this process die in between it stands still, and nobody resumes it but
   * by a decision. The copy is ended by its daemon when this connection breaks before `finish`.
   *
   * @param unwanted - it is cancelled, or there is nothing more to send
   */
  async #driven(
    connection: RpcConnection,
    connectTo: PeerConnector,
    deadlineMs: number,
    unwanted: AbortSignal,
  ): Promise<void> {
    const domain = this.#domain;
    const flags = migrateFlags(this.#options) | FLAG.changeProtection;
    const there = migrateFlags(this.#options) & ~(FLAG.abortOnError | FLAG.autoConverge);
    const phase = { deadlineMs: PHASE_MS };
    const { counters } = this.#link;
    const peer = new RpcConnection({ socketPath: this.#to.uri, connectTo, counters });
    const watching = new AbortController();
    let sending = false;
    try {
      const { params, cookie } = await this.#unless(unwanted, peer, async () => {
        await peer.connect(PEER_OPEN_MS);
        // Of a copy that is whole nothing is to be ended.
        void this.#watchPeer(peer, watching.signal, async () => (sending ? this.abort() : undefined));
        const asked = migrateParams(this.#to, this.#options);
        const begun = await connection.call(
          'domainMigrateBegin3Params',
          { domain, params: asked, flags },
          phase,
        );
        const withXml = replaced(asked, 'destination_xml', begun.xml);
        const toPeer = { params: withXml, cookie: copied(begun.cookie), flags: there };
        const ready = await peer.call('domainMigratePrepare3Params', toPeer, { deadlineMs: PREPARE_MS });
        const { uri } = ready;
        return {
          params: uri === null ? withXml : replaced(withXml, 'migrate_uri', uri),
          cookie: ready.cookie,
        };
      });
      const named = replaced(params, 'destination_name', this.#options.destName ?? domain.name);
      const finish = (cookie: Uint8Array, cancelled: number) =>
        peer.call('domainMigrateFinish3Params', { params: named, cookie, flags: there, cancelled }, phase);
      let sent: { cookie: Uint8Array };
      try {
        sending = true;
        const args = { domain, uri: null, params, cookie: copied(cookie), flags };
        sent = await connection.call('domainMigratePerform3Params', args, {
          deadlineMs: deadlineMs + ABORT_GRACE_MS,
        });
        sending = false;
      } catch (error) {
        // The machine here goes on by itself; what came of the copy is ended.
        await finish(new Uint8Array(), 1).catch(() => undefined);
        throw error;
      }
      const confirm = (cookie: Uint8Array, cancelled: number) =>
        connection.call(
          'domainMigrateConfirm3Params',
          { domain, params: named, cookie: copied(cookie), flags, cancelled },
          { deadlineMs: CONFIRM_MS },
        );
      let whole: { cookie: Uint8Array };
      try {
        whole = await finish(copied(sent.cookie), 0);
      } catch (error) {
        await confirm(new Uint8Array(), 1);
        throw error;
      } finally {
        watching.abort();
      }
      const decided = (await this.#options.onArrived?.()) ?? 'go';
      if (decided === 'leave') throw this.#aborted('somebody else decides about it', 'unknown');
      await confirm(whole.cookie, decided === 'go' ? 0 : 1);
      if (decided === 'stay') throw this.#aborted('it stays', 'refused');
    } finally {
      watching.abort();
      void peer.end();
    }
  }

  /**
   * What is done before memory is sent, when the daemon here has nothing to end: is it not wanted any more, the connection to
   * the other daemon is cut, which ends what it has begun.
   */
  async #unless<T>(unwanted: AbortSignal, peer: RpcConnection, act: () => Promise<T>): Promise<T> {
    const drop = (): void => peer.close('the migration is not wanted any more');
    unwanted.addEventListener('abort', drop);
    let cause: unknown;
    try {
      const done = await act();
      if (!unwanted.aborted) return done;
    } catch (error) {
      if (!unwanted.aborted) throw error;
      cause = error;
    } finally {
      unwanted.removeEventListener('abort', drop);
    }
    throw this.#aborted('before it was sent', 'not-sent', cause);
  }

  /**
   * A daemon that fell silent has lost its power, or the network has: nothing is to wait for TCP to find out. What was asked of
   * it fails.
   *
   * @param end - ends what is being sent to it
   */
  async #watchPeer(peer: RpcConnection, signal: AbortSignal, end: () => Promise<void>): Promise<void> {
    while (!signal.aborted) {
      try {
        await peer.call('connectGetHostname', undefined, { deadlineMs: PEER_SILENT_MS });
      } catch {
        if (signal.aborted) return;
        peer.close('the libvirt daemon of the other node does not answer');
        await end().catch(() => undefined);
      }
      await sleep(PEER_LOOK_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  #aborted(message: string, outcome: 'refused' | 'not-sent' | 'unknown', cause?: unknown): LibvirtError {
    return new LibvirtError(`the migration was cancelled: ${message}`, {
      code: 'aborted',
      outcome,
      domainId: this.#domain.uuid,
      ...(cause instanceof LibvirtError ? { cause, libvirtCode: cause.libvirtCode } : {}),
    });
  }

  /** after the first pass over memory the guest may move; what it then misses is fetched */
  async #switchToPostCopy(connection: RpcConnection): Promise<void> {
    while (!this.#over && connection.isOpen) {
      const progress = await this.progress().catch(() => null);
      if ((progress?.memoryIteration ?? 0) >= 2) {
        const args = { domain: this.#domain, flags: 0 };
        const switched = await connection
          .call('domainMigrateStartPostCopy', args, { deadlineMs: ASK_MS })
          .then(
            () => true,
            () => false,
          );
        if (switched) return;
      }
      await later(POST_COPY_LOOK_MS);
    }
  }

  async progress(): Promise<JobProgress | null> {
    if (this.#connection === null || this.#over) return null;
    const args = { domain: this.#domain, flags: 0 };
    const { type, params } = await this.#connection.call('domainGetJobStats', args, { deadlineMs: ASK_MS });
    if (type === 0) return { phase: 'preparing', fraction: 0 };
    this.#last = jobProgress(params);
    return this.#last;
  }

  async abort(): Promise<void> {
    if (this.#connection === null || this.#over) {
      throw new LibvirtError('the migration has not begun', { code: 'invalid-state', outcome: 'not-sent' });
    }
    await this.#connection.call('domainAbortJob', { domain: this.#domain }, { deadlineMs: ASK_MS });
  }
}

function resultOf(last: JobProgress | null): MigrateResult {
  return {
    ...(last?.elapsedMs === undefined ? {} : { totalMs: last.elapsedMs }),
    ...(last?.downtimeMs === undefined ? {} : { downtimeMs: last.downtimeMs }),
  };
}

const copied = (bytes: Uint8Array): Uint8Array => Uint8Array.from(bytes);

function replaced(params: readonly TypedParam[], field: string, value: string): TypedParam[] {
  return [...params.filter((p) => p.field !== field), { field, type: 'string', value }];
}

/** The flags of a migration, but for who drives it. */
export function migrateFlags(o: MigrateOptions): number {
  const set: readonly (readonly [boolean | undefined, number])[] = [
    [o.mode !== 'paused', FLAG.live],
    [o.mode === 'post-copy', FLAG.postCopy],
    [o.tls, FLAG.tls],
    [o.leavePaused, FLAG.paused],
    [o.persistDest, FLAG.persistDest],
    [o.undefineSource, FLAG.undefineSource],
    [o.copyDisks !== undefined && o.copyDisks.length > 0, FLAG.copyDisks],
    [o.copyWritesSynchronously, FLAG.synchronousWrites],
    [o.autoConverge, FLAG.autoConverge],
    [o.parallel !== undefined, FLAG.parallel],
    [o.abortOnIoError, FLAG.abortOnError],
    [o.unsafe, FLAG.unsafe],
  ];
  return set.reduce((flags, [on, bit]) => (on ? flags | bit : flags), 0);
}

/** The typed parameters of a migration. */
export function migrateParams(to: MigrateTarget, o: MigrateOptions): TypedParam[] {
  const params: TypedParam[] = [];
  const add = (field: string, value: string | undefined): void => {
    if (value !== undefined) params.push({ field, type: 'string', value });
  };
  add('migrate_uri', to.migrateUri);
  add('listen_address', to.listenAddress);
  add('disks_uri', to.disksUri);
  add('destination_name', o.destName);
  add('destination_xml', o.destXml);
  add('persistent_xml', o.persistXml);
  for (const disk of o.copyDisks ?? []) add('migrate_disks', disk);
  if (o.bandwidthMiBps !== undefined) {
    params.push({ field: 'bandwidth', type: 'ullong', value: BigInt(o.bandwidthMiBps) });
  }
  if (o.parallel !== undefined)
    params.push({ field: 'parallel.connections', type: 'int', value: o.parallel });
  return params;
}
