import { TIMER_MS_MAX, type RpcConnection } from './client.js';
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
  synchronousWrites: 1 << 18,
} as const;

/** A migration that needs more than an hour needs an operator to say so. */
const DEADLINE_MS = 3_600_000;

/** After its deadline a migration is aborted; libvirt needs a few seconds to clean up on both sides. */
const ABORT_GRACE_MS = 15_000;

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
    const unlisten = this.#hub.listen((event: HostEvent) => {
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
      const args = {
        domain,
        uri: this.#to.uri,
        params: migrateParams(this.#to, this.#options),
        cookie: new Uint8Array(),
        flags: migrateFlags(this.#options),
      };
      const moving = connection.call('domainMigratePerform3Params', args, {
        deadlineMs: deadlineMs + ABORT_GRACE_MS,
      });
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

  #aborted(message: string, outcome: 'refused' | 'not-sent', cause?: unknown): LibvirtError {
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

/** The flags of a migration; always from daemon to daemon, so that it does not depend on this process. */
export function migrateFlags(o: MigrateOptions): number {
  const set: readonly (readonly [boolean | undefined, number])[] = [
    [true, FLAG.peerToPeer],
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
