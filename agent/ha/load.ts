import type { Load, StandbyNode, StandbyVm } from '../../core/decide/standby.js';
import { startsNeed } from '../../core/domain/node.js';
import type { HeardNode } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/**
 * What each node owns and has promised to take over: summed once per reading of the ledger, and with what was chosen
 * since, so that VMs which start together do not all get the same standby.
 */
export class Loads {
  private readonly owned = new Map<string, Load>();
  private readonly promised = new Map<string, Load>();
  /** By standby and owner: what comes to it at once when that owner fails. */
  private readonly together = new Map<string, Load>();
  /** The standby that each VM has, or is about to get. */
  private readonly standbys = new Map<string, string>();
  private readonly s: Snapshot;

  constructor(s: Snapshot) {
    this.s = s;
    for (const [id, { value: own }] of s.owns) {
      const memoryMiB = s.specs.get(id)?.value.memoryMiB ?? 0;
      add(this.owned, own.owner, memoryMiB, 1);
      // A twin has all of its memory already.
      const twin = own.lockstep?.twin ?? null;
      if (twin !== null) add(this.owned, twin, memoryMiB, 1);
      if (own.standby !== null) this.promise(id, { owner: own.owner, memoryMiB }, own.standby);
    }
  }

  of(node: string): Load {
    return this.owned.get(node) ?? none;
  }

  /** That node is to be the VM's standby. */
  promise(vmId: string, vm: Pick<StandbyVm, 'owner' | 'memoryMiB'>, standby: string): void {
    const before = this.standbys.get(vmId);
    if (before === standby) return;
    if (before !== undefined) this.count(before, vm, -1);
    this.standbys.set(vmId, standby);
    this.count(standby, vm, 1);
  }

  /** Every node of the cluster, as the choice of that VM's standby sees it. */
  nodesFor(vmId: string, vm: StandbyVm, heard: ReadonlyMap<string, HeardNode>): StandbyNode[] {
    return [...this.s.nodes.values()].map(({ value: n }) => {
      const mine = this.standbys.get(vmId) === n.id;
      const without = (l: Load = none): Load => (mine ? sum(l, vm.memoryMiB, -1) : l);
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
                unwell: h.state.health
                  .filter((x) => !x.ok && startsNeed.has(x.part))
                  .map((x) => `its ${x.part} is not well: ${x.text}`),
              },
        owned: this.of(n.id),
        promised: without(this.promised.get(n.id)),
        promisedTogether: without(this.together.get(`${n.id} ${vm.owner}`)),
      };
    });
  }

  private count(standby: string, vm: Pick<StandbyVm, 'owner' | 'memoryMiB'>, times: 1 | -1): void {
    add(this.promised, standby, vm.memoryMiB, times);
    add(this.together, `${standby} ${vm.owner}`, vm.memoryMiB, times);
  }
}

const none: Load = { vms: 0, memoryMiB: 0 };
const sum = (a: Load, memoryMiB: number, times: 1 | -1): Load => ({
  vms: a.vms + times,
  memoryMiB: a.memoryMiB + times * memoryMiB,
});

function add(map: Map<string, Load>, key: string, memoryMiB: number, times: 1 | -1): void {
  map.set(key, sum(map.get(key) ?? none, memoryMiB, times));
}
