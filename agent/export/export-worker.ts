import { FlotillaError } from '../../core/domain/error.js';
import { isReplicated } from '../../core/domain/disk.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import { formatSize } from '../../core/domain/units.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { VmOwn } from '../../core/domain/vm.js';
import type { AgentEnv, Exports } from '../env.js';
import type { OpBook } from '../op-book.js';
import { OpJobs } from '../op-jobs.js';
import type { Snapshot } from '../snapshot.js';

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
      takes: (op) => op.kind === 'vm.export' && env.exports !== undefined,
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
      const { vm, into, own } = this.plan(op, s);
      const { sizeBytes } = await exports.make(op.id, vm, into, {
        signal,
        progress: (share, step) => this.ops.progress(op, share, step ?? 'packs'),
      });
      const now = await this.env.ledger.get(kinds.vmOwn.key(op.subject.id));
      const still = now === null ? null : (JSON.parse(now.value) as VmOwn);
      if (still?.gen !== own.gen || still.state !== 'stopped')
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

  private plan(op: Op, s: Snapshot): { vm: Parameters<Exports['make']>[1]; into: Pool; own: VmOwn } {
    const spec = s.specs.get(op.subject.id)?.value;
    const own = s.owns.get(op.subject.id)?.value;
    const refuse = (code: 'not-found' | 'wrong-state' | 'unsupported', why: string, hint: string) =>
      new FlotillaError(code, `VM "${op.subject.name}" cannot be exported: ${why}`, { hint });
    if (spec === undefined || own === undefined)
      throw refuse('not-found', 'it is gone', 'See flotilla vm list.');
    if (own.owner !== this.env.node || own.state !== 'stopped')
      throw refuse('wrong-state', 'it is not off', 'Stop it, then export it again.');
    const disks = spec.disks.map(({ disk: id, bus }) => {
      const disk = s.disks.get(id)?.value;
      const pool = disk && s.pools.get(disk.pool)?.value;
      if (disk === undefined || pool === undefined || disk.state !== 'ready')
        throw refuse('wrong-state', 'one of its disks is not ready', 'See flotilla vm show.');
      if (isReplicated(disk))
        throw refuse('unsupported', `disk "${disk.name}" lies on two nodes`, 'Copy it inside of the guest.');
      return { disk, pool, bus };
    });
    const home = [...disks.map((d) => d.pool), ...this.poolsOf(s)].find((p) => p.kind !== 'thin');
    if (home === undefined)
      throw refuse(
        'unsupported',
        'its node has no pool of files where the package could lie',
        'Make a local or shared pool there.',
      );
    const nics = spec.nics.map((n) => ({
      network: s.networks.get(n.network)?.value.name ?? n.network,
      model: n.model,
    }));
    return { vm: { spec, disks, nics }, into: home, own };
  }
}
