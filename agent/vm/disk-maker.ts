import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { isReplicated, type Disk } from '../../core/domain/disk.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv, DiskFrom, WorkOptions } from '../env.js';
import type { ReplicaDesk } from '../replica/replica-desk.js';
import type { OpBook } from '../op-book.js';
import { keptNow, type Kept, type Snapshot } from '../snapshot.js';

/** Disks made at the same time on one node: more only fight for the same drive. */
const atOnce = 2;

/** Makes the disks that are wanted, beside whatever their VMs do. One found half-way is begun again: making repeats safely. */
export class DiskMaker {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly replicas: Pick<ReplicaDesk, 'paired' | 'fill'>;
  private readonly wake: () => void;
  private readonly jobs = new Map<string, AbortController>();
  private stopped = false;

  constructor(env: AgentEnv, ops: OpBook, replicas: Pick<ReplicaDesk, 'paired' | 'fill'>, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.replicas = replicas;
    this.wake = wake;
  }

  stop(): void {
    this.stopped = true;
    for (const j of this.jobs.values()) j.abort();
  }

  /** Whether one of these is being made. */
  making(disks: readonly Disk[]): boolean {
    return disks.some((d) => this.jobs.has(d.id));
  }

  /** Ends the making of these, which takes a moment. */
  abort(disks: readonly Disk[]): void {
    for (const d of disks) this.jobs.get(d.id)?.abort();
  }

  /** Ends the making of disks that are gone, of another node's VM by now, or whose op was asked to be cancelled. */
  look(s: Snapshot): void {
    if (this.jobs.size === 0) return;
    const asked = new Set(
      [...s.ops.values()]
        .filter((k) => !opFinished(k.value) && (k.value.cancelAsked || k.value.kind === 'vm.delete'))
        .map((k) => k.value.subject.id),
    );
    for (const [id, job] of this.jobs) {
      const disk = s.disks.get(id)?.value;
      const owner = s.owns.get(disk?.vm ?? '')?.value.owner ?? this.env.node;
      if (disk === undefined || asked.has(disk.vm)) job.abort();
      else if (owner !== this.env.node) job.abort(notOurs);
    }
  }

  /**
   * Begins to make a disk, if it is not being made and there is room. Never waits.
   *
   * @param op - told of the progress
   */
  make(disk: Disk, s: Snapshot, op: Op | undefined): void {
    const kept = s.disks.get(disk.id);
    if (kept === undefined || this.jobs.has(disk.id) || this.jobs.size >= atOnce) return;
    // Its two copies come first.
    if (isReplicated(disk) && !this.replicas.paired(disk, s)) return;
    const abort = new AbortController();
    this.jobs.set(disk.id, abort);
    void this.work(kept, s, op, abort.signal).finally(() => {
      this.jobs.delete(disk.id);
      this.wake();
    });
  }

  private async work(kept: Kept<Disk>, s: Snapshot, op: Op | undefined, signal: AbortSignal): Promise<void> {
    const disk = kept.value;
    // Seen wanted in a look that began before an earlier making ended, it may be in use by now: nothing is written over that.
    const now = await keptNow(this.env.ledger, kinds.disk, disk.id).catch(() => null);
    if (now?.modRevision !== kept.modRevision) return;
    try {
      const missing = (what: string, hint: string): FlotillaError =>
        new FlotillaError('not-found', `Disk ${disk.name}: its ${what}`, { hint });
      const pool = s.pools.get(disk.pool)?.value;
      if (pool === undefined)
        throw missing('pool is not in the ledger', 'Make the pool again or delete the VM.');
      let from: DiskFrom | null = null;
      if (disk.source.kind === 'snapshot') {
        const { snapshot: id, volume } = disk.source;
        const kept = s.vmSnapshots.get(id)?.value.disks.find((d) => d.id === volume);
        const home = kept && s.pools.get(kept.pool)?.value;
        if (kept === undefined || home === undefined)
          throw missing('snapshot is gone', 'Delete the VM, or revert it to another snapshot.');
        from = { snapshot: kept, pool: home };
      } else if (disk.source.kind === 'image') {
        const image = s.images.get(disk.source.image)?.value;
        const imagePool = image && s.pools.get(image.pool)?.value;
        if (image === undefined || imagePool === undefined)
          throw missing('image is not in the catalogue', 'Import the image again or delete the VM.');
        from = { image, pool: imagePool };
      }
      const o: WorkOptions = {
        signal,
        progress: (share, step) => {
          if (op !== undefined) this.ops.progress(op, share, step ?? `makes disk ${disk.name}`);
        },
      };
      if (isReplicated(disk)) await this.replicas.fill(disk, pool, from, s, o);
      else await this.env.volumes.makeDisk(disk, pool, from, o);
      await putDisk(this.env, kept, { ...disk, state: 'ready', madeBytes: disk.sizeBytes, error: null });
    } catch (e) {
      // Made again after the restart, or by the node that has the VM now: its record is not this one's to write.
      if (this.stopped || signal.reason === notOurs) return;
      const error = signal.aborted
        ? new FlotillaError('cancelled', `Making disk ${disk.name} was cancelled`, {
            hint: 'Delete the VM, or remove the disk from it.',
          })
        : e;
      const record = errorRecord(error);
      this.env.log.error(`making disk ${disk.name}: ${record.message}`, {
        disk: disk.id,
        causes: record.causes,
      });
      await putDisk(this.env, kept, { ...disk, state: 'failed', error: record }).catch(() => false);
    }
  }
}

/** Why a making ends whose VM went to another node. */
const notOurs = new Error('its VM has another owner');

/** Writes a disk's record if nobody changed it meanwhile. @returns whether it was written */
export async function putDisk(env: AgentEnv, kept: Kept<Disk>, disk: Disk): Promise<boolean> {
  const key = kinds.disk.key(disk.id);
  const r = await env.ledger.txn(
    [{ key, modRevision: kept.modRevision }],
    [{ put: key, value: writeRecord(kinds.disk, disk) }],
  );
  return r.done;
}
