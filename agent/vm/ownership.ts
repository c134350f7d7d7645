import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { reachOf } from '../../core/decide/standby.js';
import type { Pool } from '../../core/domain/pool.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { markUri, markXml } from './domain-xml.js';
import type { Observed } from './domains.js';

/** One VM as a step finds it. */
export interface Subject {
  readonly id: string;
  readonly spec: Kept<VmSpec>;
  readonly own: Kept<VmOwn>;
  readonly domain: Observed | null;
  readonly snapshot: Snapshot;
}

export const staleView = (s: Subject): FlotillaError =>
  new FlotillaError('stale-view', `VM "${s.spec.value.name}" changed in the ledger meanwhile`, {
    hint: 'The agent looks again by itself.',
  });

/** Changes of who owns a VM, and how: each one transaction, then one line of the journal. */
export class Ownership {
  private readonly env: AgentEnv;

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** What every ownership transaction compares: the key as read, this boot's live key, the ledger's epoch. */
  guard(s: Subject): Compare[] {
    const mine = this.env.live.compare();
    if (mine === null || s.snapshot.meta === null) {
      throw new FlotillaError(
        'ledger-unavailable',
        `VM "${s.spec.value.name}": this node has no live lease now`,
        { hint: 'Nothing is started or written until the ledger answers again; this happens by itself.' },
      );
    }
    return [
      { key: kinds.vmOwn.key(s.id), modRevision: s.own.modRevision },
      mine,
      { key: epochKey, value: String(s.snapshot.meta.value.epoch) },
    ];
  }

  /** Writes the generation it now belongs to into the running machine. */
  async mark(s: Subject, gen: number): Promise<void> {
    const { mark, hardware } = s.domain ?? { mark: null, hardware: { boot: [] } };
    const { generation, startedMs } = mark ?? { generation: s.spec.value.generation, startedMs: 0 };
    await this.env.hypervisor.setMetadata(
      s.id,
      { uri: markUri, prefix: 'f' },
      markXml({ gen, generation, startedMs }, hardware.boot),
      { live: true, config: true },
    );
  }

  /**
   * @returns revision of what was written: what the next swap compares
   * @throws FlotillaError `stale-view`: one of the compares does not hold; nothing was written
   */
  async swap(s: Subject, own: VmOwn, also: { compare?: Compare[]; writes?: Write[] } = {}): Promise<bigint> {
    const r = await this.env.ledger.txn(
      [...this.guard(s), ...(also.compare ?? [])],
      [{ put: kinds.vmOwn.key(s.id), value: writeRecord(kinds.vmOwn, own) }, ...(also.writes ?? [])],
    );
    if (!r.done) throw staleView(s);
    const noted = this.record(s, own);
    // What was given away runs nowhere here; its new owner notes it before it starts anything.
    if (own.owner === this.env.node) await noted;
    else await noted.catch((e: unknown) => this.env.log.warn(`the journal: ${errorRecord(e).message}`));
    return r.revision;
  }

  /** Own is still as it was read, and this node alive, in this very moment. @throws FlotillaError `stale-view` */
  async confirm(s: Subject): Promise<void> {
    const r = await this.env.ledger.txn(this.guard(s), []);
    if (!r.done) throw staleView(s);
  }

  /** After the transaction, so that no two nodes ever note one generation as their own; before anything starts. */
  async record(s: Subject, own: VmOwn): Promise<void> {
    const role = own.owner === this.env.node ? 'owner' : own.standby === this.env.node ? 'standby' : 'none';
    const epoch = s.snapshot.meta?.value.epoch ?? 1;
    await this.env.journal.record({ vm: s.id, gen: own.gen, role, owner: own.owner, epoch });
  }

  /** The VM is deleted: what was noted of it is history, and goes when there is too much of that. */
  async forget(s: Subject): Promise<void> {
    const { node, journal, log } = this.env;
    const epoch = s.snapshot.meta?.value.epoch ?? 1;
    await journal
      .record({ vm: s.id, gen: s.own.value.gen + 1, role: 'none', owner: node, epoch })
      .catch((e: unknown) => log.warn(`the journal: ${errorRecord(e).message}`));
  }

  /** Counts the VM among those that freeze with this node. @throws FlotillaError `not-armable` */
  arm(s: Subject): Promise<{ readonly waitMs: number }> {
    const { volumes, keeper } = this.env;
    const takeover = sharedPools(s).map((p) => volumes.takeoverPath(s.id, p));
    return keeper.arm(s.id, { takeover, gen: s.own.value.gen });
  }

  /** Leaves word in the pools for a former owner that lost the ledger and froze. */
  async leaveTakeover(s: Subject, gen: number): Promise<void> {
    const epoch = s.snapshot.meta?.value.epoch ?? 1;
    for (const pool of sharedPools(s))
      await this.env.volumes.recordTakeover(pool, { vm: s.id, owner: this.env.node, gen, epoch });
  }
}

/** What is said of copies when their owner and its standby change places: who may write comes first, the other takes over. */
export const rolesSwapped = (own: VmOwn, to: string): Pick<VmOwn, 'standby' | 'copies'> => ({
  standby: own.owner,
  copies: [...own.copies].sort((a, b) => Number(b.node === to) - Number(a.node === to)),
});

/** The shared pools of a VM that another node could start; else none. */
export function sharedPools(s: Pick<Subject, 'spec' | 'snapshot'>): readonly Pool[] {
  const reach = reachOf(s.spec.value, valuesOf(s.snapshot.disks), valuesOf(s.snapshot.pools));
  return reach.ok ? reach.pools.filter((p) => p.kind === 'shared') : [];
}

/** Records without their revisions, looked up when asked for. */
export const valuesOf = <T>(kept: ReadonlyMap<string, Kept<T>>): Pick<ReadonlyMap<string, T>, 'get'> => ({
  get: (id) => kept.get(id)?.value,
});
