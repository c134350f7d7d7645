import { placeCopy, type PlacementRequest } from '../../core/decide/plan/fit.js';
import { newCopies, newReplica, newVolumes } from '../../core/decide/replica-edit.js';
import { refusal } from '../../core/decide/vm-make.js';
import type { Disk } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import { volumesOf, type Replica } from '../../core/domain/replica.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { Kept } from '../tables.js';
import { fresh, type Change } from './commit.js';
import type { ApiDeps } from './context.js';
import { notFound } from './lookup.js';

/** Pairs of disks with two copies, as they begin: their numbers, nodes and secrets. */
export class Pairs {
  private readonly deps: ApiDeps;

  constructor(deps: ApiDeps) {
    this.deps = deps;
  }

  /** The pair of a VM's disks that lie on two nodes, with numbers that nobody else has; null: it has none. */
  async of(vm: string, disks: readonly Disk[], [a, b]: readonly [string, string]): Promise<Replica | null> {
    const { chance, view } = this.deps;
    const node = (id: string) => ({
      id,
      addresses: view.ledger.tables.node.get(id)?.value.addresses ?? [],
    });
    return newReplica({
      vm,
      disks,
      nodes: [node(a), node(b)],
      secret: chance.hex(16),
      taken: {
        minors: await this.numbers(unique.minorPrefix),
        ports: await this.numbers(unique.replicaPortPrefix),
      },
    });
  }

  /**
   * New disks with two copies join those that their VM has; the first ones get a pair of their own.
   *
   * @throws FlotillaError `wrong-state`, `no-node-fits`, `no-space`
   */
  async add(change: Change, own: Kept<VmOwn>, spec: VmSpec, disks: readonly Disk[]): Promise<void> {
    const { deps } = this;
    const { id } = spec;
    const who = `VM "${spec.name}"`;
    if (own.value.state === 'migrating')
      throw new FlotillaError('wrong-state', `${who} migrates now`, { hint: 'Wait until that has ended.' });
    const kept = await fresh(deps, kinds.replica, id);
    change.at(kinds.replica.key(id), kept);
    if (kept === null) {
      const { owner, standby } = own.value;
      const nodes = deps.view.clusterNodes();
      const second = placeCopy(this.request(spec, disks), { owner, preferred: standby }, nodes);
      if (!second.ok) throw refusal(`No other node can hold the copies of ${who}`, second.nodes);
      const replica = await this.of(id, disks, [owner, second.node]);
      if (replica === null) return;
      putPair(change, replica);
      change.put(kinds.vmOwn, id, { ...own.value, ...newCopies(owner, second.node), synced: [] });
      const record = deps.view.ledger.tables.node.get(second.node);
      if (record !== undefined) change.promises(kinds.node.key(second.node), record);
      return;
    }
    if (volumesOf(kept.value).length === 0)
      throw new FlotillaError('wrong-state', `The former copies of ${who} are still being taken away`, {
        hint: 'Ask again in a moment; a node that is off has to be back for it.',
      });
    const minors = await this.numbers(unique.minorPrefix);
    const volumes = newVolumes(disks, kept.value.volumes, { minors });
    change.put(kinds.replica, id, { ...kept.value, volumes: [...kept.value.volumes, ...volumes] });
    for (const v of volumes) change.take(unique.minor(v.minor), id);
  }

  private request(spec: VmSpec, disks: readonly Disk[]): PlacementRequest {
    const { tables } = this.deps.view.ledger;
    return {
      cpus: spec.cpus,
      memoryMiB: spec.memoryMiB,
      node: null,
      networks: [],
      isos: [],
      disks: disks.map((d) => {
        const pool = tables.pool.get(d.pool)?.value;
        if (pool === undefined) throw notFound('pool', d.pool);
        return { name: d.name, pool, sizeBytes: d.sizeBytes, replicated: true, image: null };
      }),
    };
  }

  /** Numbers of the cluster that are given out. */
  private async numbers(prefix: string): Promise<Set<number>> {
    const { entries } = await this.deps.ledger.list(prefix);
    return new Set(entries.map((e) => Number(e.key.slice(prefix.length))));
  }
}

/** A new pair, and the keys of its numbers. */
export function putPair(change: Change, replica: Replica): void {
  change.put(kinds.replica, replica.vm, replica);
  change.take(unique.replicaPort(replica.port), replica.vm);
  for (const v of replica.volumes) change.take(unique.minor(v.minor), replica.vm);
}
