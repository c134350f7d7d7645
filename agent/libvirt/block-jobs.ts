import type { RpcConnection } from './client.js';
import type { DaemonLink } from './daemon-link.js';
import { LibvirtError } from './error.js';
import type { EventHub } from './event-hub.js';
import type { BlockJobInfo, BlockJobStatus, JobProgress } from './hypervisor.js';
import { later, type JobWork } from './job.js';
import type { ProcedureName, ReplyOf, WireDomain } from './protocol.js';
import { blockJobType } from './words.js';

/** Copying a terabyte over a slow disk takes hours; past a day someone has forgotten it. */
const DEADLINE_MS = 86_400_000;

/** Pivoting waits for the last writes; a storage that takes longer is broken. */
const FINISH_MS = 120_000;
const ASK_MS = 10_000;

/** A block-job event wakes the loop; looking again covers a lost one. */
const LOOK_MS = 500;

const ABORT_PIVOT = 1 << 1;

export interface BlockWork {
  readonly procedure: ProcedureName;
  readonly disk: string;
  readonly finish: 'pivot' | 'cancel' | 'leave' | 'by-itself';
  readonly deadlineMs: number | undefined;
  begin(connection: RpcConnection): Promise<void>;
}

type Info = ReplyOf<'domainGetBlockJobInfo'>;

/** A block job of QEMU under libvirt: begun, watched until both sides are equal, then finished as asked. */
export class BlockJob implements JobWork<void> {
  readonly #link: DaemonLink;
  readonly #hub: EventHub;
  readonly #domain: WireDomain;
  readonly #work: BlockWork;
  #connection: RpcConnection | null = null;
  #begun = false;
  #outcome: BlockJobStatus | null = null;
  #wake: () => void = () => undefined;

  constructor(link: DaemonLink, hub: EventHub, domain: WireDomain, work: BlockWork) {
    this.#link = link;
    this.#hub = hub;
    this.#domain = domain;
    this.#work = work;
  }

  async run(cancelled: AbortSignal): Promise<void> {
    const { uuid } = this.#domain;
    const unlisten = this.#hub.listen((event) => {
      if (event.type !== 'block-job' || event.uuid !== uuid || event.disk !== this.#work.disk) return;
      this.#outcome = event.status;
      this.#wake();
    });
    let connection: RpcConnection | null = null;
    try {
      connection = await this.#link.openJob(this.#work.procedure);
      this.#connection = connection;
      if (cancelled.aborted) throw this.#error('aborted', 'was cancelled before it began', 'not-sent');
      await this.#work.begin(connection);
      this.#begun = true;
      await this.#watch(connection, cancelled);
    } finally {
      unlisten();
      this.#connection = null;
      void connection?.end();
    }
  }

  async #watch(connection: RpcConnection, cancelled: AbortSignal): Promise<void> {
    const { finish, deadlineMs = DEADLINE_MS } = this.#work;
    const endsAt = performance.now() + deadlineMs;
    for (;;) {
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      const info = await this.#ask(connection);
      if (info.found === 0) return this.#ended(cancelled);
      const equal = info.end > 0n && info.current === info.end;
      // an active commit is equal again and again but ends only by pivoting
      const ours = finish !== 'by-itself' || blockJobType(info.type) === 'active-commit';
      if (equal && ours && !cancelled.aborted && (await this.#ready(connection))) {
        if (finish === 'leave') return;
        return this.#end(connection, finish === 'cancel' ? 0 : ABORT_PIVOT);
      }
      if (performance.now() > endsAt) {
        await this.#end(connection, 0);
        throw this.#error('deadline', `was cancelled after ${deadlineMs} ms`, 'refused');
      }
      await Promise.race([woken, later(LOOK_MS)]);
    }
  }

  /** equal figures come a moment before QEMU says "ready"; the event tells, and so does the domain's XML */
  async #ready(connection: RpcConnection): Promise<boolean> {
    if (this.#outcome === 'ready') return true;
    const args = { domain: this.#domain, flags: 0 };
    const { xml } = await connection.call('domainGetXmlDesc', args, { deadlineMs: ASK_MS });
    const disk = xml.split('</disk>').find((part) => part.includes(`<target dev='${this.#work.disk}'`));
    return /<mirror [^>]*ready='yes'/.test(disk ?? '');
  }

  /** the job is gone: how it ended is only in its last event */
  #ended(cancelled: AbortSignal): void {
    if (cancelled.aborted || this.#outcome === 'cancelled')
      throw this.#error('aborted', 'was cancelled', 'refused');
    if (this.#outcome === 'failed') throw this.#error('refused', 'failed', 'refused');
    if (this.#outcome === 'completed') return;
    throw this.#error('disconnected', 'ended unseen: look at the domain for what came of it', 'unknown');
  }

  #error(code: LibvirtError['code'], what: string, outcome: LibvirtError['outcome']): LibvirtError {
    return new LibvirtError(`${this.#work.procedure} of ${this.#work.disk} ${what}`, {
      code,
      outcome,
      procedure: this.#work.procedure,
      domainId: this.#domain.uuid,
    });
  }

  #ask(connection: RpcConnection): Promise<Info> {
    const args = { domain: this.#domain, disk: this.#work.disk, flags: 0 };
    return connection.call('domainGetBlockJobInfo', args, { deadlineMs: ASK_MS });
  }

  async #end(connection: RpcConnection, flags: number): Promise<void> {
    const args = { domain: this.#domain, disk: this.#work.disk, flags };
    await connection.call('domainBlockJobAbort', args, { deadlineMs: FINISH_MS });
  }

  async progress(): Promise<JobProgress | null> {
    if (this.#connection === null) return null;
    const info = await this.#ask(this.#connection);
    return info.found === 0 ? null : blockProgress(info);
  }

  async abort(): Promise<void> {
    if (this.#connection === null || !this.#begun) {
      throw new LibvirtError('the block job has not begun', { code: 'invalid-state', outcome: 'not-sent' });
    }
    await this.#end(this.#connection, 0);
    this.#wake();
  }
}

function blockProgress({ current, end }: Info): JobProgress {
  const equal = end > 0n && current === end;
  return {
    phase: end === 0n ? 'preparing' : equal ? 'in-sync' : 'copying',
    fraction: end > 0n ? Number(current) / Number(end) : 0,
    totalBytes: Number(end),
    processedBytes: Number(current),
    remainingBytes: Number(end - current),
  };
}

/** What runs on a disk, or null. */
export function blockJobInfo(info: Info): BlockJobInfo | null {
  if (info.found === 0) return null;
  return {
    type: blockJobType(info.type),
    bandwidthBytes: Number(info.bandwidth),
    current: Number(info.current),
    end: Number(info.end),
  };
}
