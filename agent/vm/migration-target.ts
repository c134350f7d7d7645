import { seedSpec } from '../vapp/seed-spec.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { MigrateArgs, MigrateReady } from '../../core/domain/migration.js';
import type { Network } from '../../core/domain/network.js';
import type { Op } from '../../core/domain/op.js';
import type { Pool } from '../../core/domain/pool.js';
import type { VmSpec } from '../../core/domain/vm.js';
import type { AgentEnv } from '../env.js';
import { LibvirtError } from '../libvirt/hypervisor.js';
import type { OpBook } from '../op-book.js';
import type { Kept } from '../snapshot.js';
import { sharedPools, type Ownership, type Subject } from './ownership.js';

/** Fetching an ISO of a few GB from another node over a slow network, ms. */
const isoDeadlineMs = 30 * 60_000;

/** The node a VM is to come to: makes what the copy needs, arms it, and says that it may come. */
export class MigrationTarget {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly own: Ownership;
  private readonly wake: () => void;
  private readonly busy = new Set<string>();

  constructor(env: AgentEnv, ops: OpBook, own: Ownership, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.own = own;
    this.wake = wake;
  }

  /** Begins unless it is at it. Never waits, and repeats safely. */
  prepare(k: Kept<Op>, args: MigrateArgs, s: Subject): void {
    const { id } = k.value;
    if (this.busy.has(id)) return;
    this.busy.add(id);
    void this.make(s)
      .then(async (ready) => {
        await this.ops.change(k, { args: { ...args, ready }, step: `${this.env.node} is ready for it` });
      })
      .catch(async (e: unknown) => {
        const error =
          e instanceof FlotillaError
            ? e
            : new FlotillaError('hypervisor-error', `${this.env.node} could not get ready for the VM`, {
                hint: 'Look at the page of that node, or choose another one.',
                cause: e,
              });
        if (error.code === 'ledger-unavailable') return;
        await this.ops.fail(k, error);
      })
      .catch((e: unknown) => this.env.log.warn(`migration: ${errorRecord(e).message}`))
      .finally(() => {
        this.busy.delete(id);
        this.wake();
      });
  }

  private async make(s: Subject): Promise<MigrateReady> {
    const { env } = this;
    const spec = s.spec.value;
    const live = s.snapshot.lives.get(env.node)?.createRevision ?? 0n;
    if (s.domain?.active === true)
      throw new FlotillaError('wrong-state', `A machine of VM "${spec.name}" is on ${env.node} already`, {
        hint: 'It is of before, and goes by itself; ask again then.',
      });
    // What an earlier stay has left: the copy brings its own definition.
    if (s.domain !== null) await this.forget(s.id);
    // Half an hour, where an image has to be fetched: nothing is armed for that long.
    await this.discs(s);
    const networks = new Map([...s.snapshot.networks].map(([id, k]) => [id, k.value]));
    // None of it needs another one, and somebody waits for all. Each has ended when it is tried again.
    const [armed, ...made] = await Promise.allSettled([
      s.own.value.fence.armed ? this.own.arm(s) : null,
      this.cables(spec, networks),
      ...sharedPools(s).map((pool) => this.usable(pool)),
      spec.cloudInit === null
        ? null
        : seedSpec(env.ledger, s.snapshot, spec).then((seed) => env.seeds.make(seed, networks)),
      env.sockets.prepare(s.id),
    ]);
    if (armed.status === 'rejected') throw armed.reason;
    for (const m of made) if (m.status === 'rejected') throw m.reason;
    return { live: String(live), waitMs: armed.value?.waitMs ?? null };
  }

  private async cables(spec: VmSpec, networks: ReadonlyMap<string, Network>): Promise<void> {
    for (const nic of spec.nics) {
      const network = networks.get(nic.network);
      if (network !== undefined) await this.env.bridges.ensure(network);
    }
  }

  private async usable(pool: Pool): Promise<void> {
    const { node, volumes } = this.env;
    const use = await volumes.probe(pool);
    if (!use.ok)
      throw new FlotillaError('pool-unavailable', `${node} cannot use the pool "${pool.name}": ${use.text}`, {
        hint: 'Mend the pool on that node, or choose another node.',
      });
  }

  private async discs(s: Subject): Promise<void> {
    for (const { image: id } of s.spec.value.cdroms) {
      const image = id === null ? undefined : s.snapshot.images.get(id)?.value;
      const pool = image && s.snapshot.pools.get(image.pool)?.value;
      if (image === undefined || pool === undefined) continue;
      await this.env.volumes.haveImage(image, pool, {
        signal: AbortSignal.timeout(isoDeadlineMs),
        progress: () => undefined,
      });
    }
  }

  private async forget(id: string): Promise<void> {
    try {
      await this.env.hypervisor.undefine(id, {
        nvram: 'delete',
        managedSave: true,
        snapshotsMetadata: true,
        checkpointsMetadata: true,
      });
    } catch (e) {
      if (!(e instanceof LibvirtError) || e.code !== 'no-such-domain') throw e;
    }
  }
}
