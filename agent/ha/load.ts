import type { Load, StandbyNode, StandbyVm } from '../../core/decide/standby.js';
import type { HeardNode } from '../env.js';
import type { Snapshot } from '../snapshot.js';

const none: Load = { vms: 0, memoryMiB: 0 };
const plus = (a: Load, memoryMiB: number): Load => ({ vms: a.vms + 1, memoryMiB: a.memoryMiB + memoryMiB });
const minus = (a: Load, memoryMiB: number): Load => ({ vms: a.vms - 1, memoryMiB: a.memoryMiB - memoryMiB });

/** What each node owns and has promised to take over, summed once per reading of the ledger. */
export class Loads {
  private readonly owned = new Map<string, Load>();
  private readonly promised = new Map<string, Load>();
  /** By standby and owner: what comes to it at once when that owner fails. */
  private readonly together = new Map<string, Load>();
  private readonly s: Snapshot;

  constructor(s: Snapshot) {
    this.s = s;
    for (const [id, { value: own }] of s.owns) {
      const memoryMiB = s.specs.get(id)?.value.memoryMiB ?? 0;
      add(this.owned, own.owner, memoryMiB);
      if (own.standby === null) continue;
      add(this.promised, own.standby, memoryMiB);
      add(this.together, `${own.standby} ${own.owner}`, memoryMiB);
    }
  }

  of(node: string): Load {
    return this.owned.get(node) ?? none;
  }

  /** Every node of the cluster, as the choice of that VM's standby sees it. */
  nodesFor(vm: StandbyVm, heard: ReadonlyMap<string, HeardNode>): StandbyNode[] {
    return [...this.s.nodes.values()].map(({ value: n }) => {
      const mine = vm.standby === n.id;
      const without = (l: Load): Load => (mine ? minus(l, vm.memoryMiB) : l);
      const h = heard.get(n.id);
      return {
        id: n.id,
        alive: this.s.lives.has(n.id),
        desired: n.desired,
        witness: n.witness,
        line:
          h === undefined || h.state === null || h.stateAgeMs === null
            ? null
            : {
                ageMs: h.stateAgeMs,
                keeper: h.state.keeper,
                pools: h.state.pools,
                memoryBytes: h.state.memoryBytes,
              },
        owned: this.of(n.id),
        promised: without(this.promised.get(n.id) ?? none),
        promisedTogether: without(this.together.get(`${n.id} ${vm.owner}`) ?? none),
      };
    });
  }
}

function add(map: Map<string, Load>, key: string, memoryMiB: number): void {
  map.set(key, plus(map.get(key) ?? none, memoryMiB));
}
