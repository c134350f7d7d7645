import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import { formatSize } from '../../core/domain/units.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { snapshotArgs } from '../../core/domain/vm-snapshot.js';
import type { AgentEnv, Exports, PackedDisk } from '../env.js';
import type { OpBook } from '../op-book.js';
import { OpJobs } from '../op-jobs.js';
import { keptNow, type Snapshot } from '../snapshot.js';

/** A package is kept so long after it was made, ms. */
export const exportKeptMs = 24 * 3600_000;
const sweepEveryMs = 60_000;

/** Does the `vm.export` ops that name this node, one at a time, and clears away what nobody fetched. */
export class ExportWorker {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly jobs: OpJobs;
  private sweptMs = -Infinity;

  constructor(env: AgentEnv, ops: OpBook, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.jobs = new OpJobs(env, {
      atOnce: 1,
      // A snapshot to pack is taken first, by the SnapshotDesk.
      takes: (op) =>
        op.kind === 'vm.export' && env.exports !== undefined && snapshotArgs(op)?.taken !== false,
      work: async ({ value: op }, s, signal) => {
        if (env.exports !== undefined) await this.work(op, s, env.exports, signal);
      },
      wake,
    });
  }

  stop(): void {
    this.jobs.stop();
  }

  /** Starts what is to be done, stops what was cancelled, clears away. Never waits. */
  look(s: Snapshot): void {
    if (this.env.exports !== undefined) this.sweep(s, this.env.exports);
    this.jobs.look(s);
  }

  private sweep(s: Snapshot, exports: Exports): void {
    const now = this.env.clock.nowMs();
    if (now - this.sweptMs < sweepEveryMs) return;
    this.sweptMs = now;
    const wallMs = this.env.clock.wallMs();
    const keep = [...s.ops.values()]
      .map((k) => k.value)
      .filter((o) => o.kind === 'vm.export')
      .filter((o) => !opFinished(o) || (o.state === 'done' && wallMs - o.updatedMs < exportKeptMs));
    // A shared pool has exports of other nodes, which keep them by the same rule.
    void exports
      .sweep(this.poolsOf(s), new Set(keep.map((o) => o.id)))
      .catch((e: unknown) => this.env.log.warn('clearing away exports failed', { cause: String(e) }));
  }

  private poolsOf(s: Snapshot): Pool[] {
    return [...s.pools.values()].map((k) => k.value).filter((p) => poolHasNode(p, this.env.node));
  }

  private async work(op: Op, s: Snapshot, exports: Exports, signal: AbortSignal): Promise<void> {
    try {
      const args = snapshotArgs(op);
      const { vm, into, own } =
        args === null ? this.planOff(op, s) : await this.planSnapshot(op, args.snapshot, s);
      const { sizeBytes } = await exports.make(op.id, vm, into, {
        signal,
        progress: (share, step) => this.ops.progress(op, share, step ?? 'packs'),
      });
      const still = own && (await keptNow(this.env.ledger, kinds.vmOwn, op.subject.id))?.value;
      if (own !== null && (still?.gen !== own.gen || still.state !== 'stopped'))
        throw new FlotillaError('wrong-state', `VM "${op.subject.name}" was started meanwhile`, {
          hint: 'Stop it and export it again.',
        });
      const kept = await this.ops.latest(op.id);
      if (kept !== null) await this.ops.finish(kept, 'done', `ready to be fetched: ${formatSize(sizeBytes)}`);
    } catch (e) {
      if (this.jobs.stopped) return; // begun anew after the restart
      const error = signal.aborted
        ? new FlotillaError('cancelled', `The export of VM "${op.subject.name}" was cancelled`, {
            hint: 'Nothing of it was kept.',
            cause: e,
          })
        : e;
      if (error instanceof FlotillaError && error.code === 'ledger-unavailable') return;
      this.sweptMs = -Infinity;
      const kept = await this.ops.latest(op.id).catch(() => null);
      if (kept !== null) await this.ops.fail(kept, error).catch(() => undefined);
    }
  }

  private planOff(op: Op, s: Snapshot): Plan {
    const spec = specOf(op, s);
    const own = s.owns.get(op.subject.id)?.value;
    if (own?.owner !== this.env.node || own.state !== 'stopped')
      throw refusal(op, 'wrong-state', 'it is not off', 'Export it again.');
    const disks = spec.disks.map(({ disk: id, bus }) => {
      const disk = s.disks.get(id)?.value;
      const pool = disk && s.pools.get(disk.pool)?.value;
      if (disk === undefined || pool === undefined || disk.state !== 'ready')
        throw refusal(op, 'wrong-state', 'one of its disks is not ready', 'See flotilla vm show.');
      return { disk, pool, bus };
    });
    return { ...this.packed(op, spec, disks, s), own };
  }

  private async planSnapshot(op: Op, id: string, s: Snapshot): Promise<Plan> {
    const x = (await keptNow(this.env.ledger, kinds.vmSnapshot, id))?.value;
    if (x?.state !== 'ready') throw refusal(op, 'wrong-state', 'its snapshot is gone', 'Export it again.');
    const disks = x.disks.map((snapshot) => {
      const pool = s.pools.get(snapshot.pool)?.value;
      if (pool === undefined)
        throw refusal(
          op,
          'not-found',
          `the pool of its disk "${snapshot.name}" is gone`,
          'See flotilla pool list.',
        );
      return { snapshot, pool, bus: snapshot.bus };
    });
    return { ...this.packed(op, specOf(op, s), disks, s), own: null };
  }

  private packed(op: Op, spec: VmSpec, disks: readonly PackedDisk[], s: Snapshot): Omit<Plan, 'own'> {
    const into = [...disks.map((d) => d.pool), ...this.poolsOf(s)].find((p) => p.kind !== 'thin');
    if (into === undefined)
      throw refusal(
        op,
        'unsupported',
        'its node has no pool of files where the package could lie',
        'Make a local or shared pool there.',
      );
    const nics = spec.nics.map((n) => ({
      network: s.networks.get(n.network)?.value.name ?? n.network,
      model: n.model,
    }));
    return { vm: { spec, disks, nics }, into };
  }
}

interface Plan {
  readonly vm: Parameters<Exports['make']>[1];
  readonly into: Pool;
  /** As the VM was off when its disks were begun to be packed, which it must be to the end; null: of a snapshot. */
  readonly own: VmOwn | null;
}

const refusal = (
  op: Op,
  code: 'not-found' | 'wrong-state' | 'unsupported',
  why: string,
  hint: string,
): FlotillaError => new FlotillaError(code, `VM "${op.subject.name}" cannot be exported: ${why}`, { hint });

function specOf(op: Op, s: Snapshot): VmSpec {
  const spec = s.specs.get(op.subject.id)?.value;
  if (spec === undefined) throw refusal(op, 'not-found', 'it is gone', 'See flotilla vm list.');
  return spec;
}
