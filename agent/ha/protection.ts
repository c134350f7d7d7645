import { decideArming, type Arming } from '../../core/decide/arming.js';
import { chooseStandby, reachOf, type StandbyChoice } from '../../core/decide/standby.js';
import type { Pool } from '../../core/domain/pool.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import type { AgentEnv, HeardNode } from '../env.js';
import type { Snapshot } from '../snapshot.js';
import { valuesOf } from '../vm/ownership.js';
import { Loads } from './load.js';
import { barsOf } from './standby-rules.js';

const nobody: StandbyChoice = { ok: false, nodes: [] };

/** How each VM of this node stands with HA: gathers what {@link decideArming} needs. */
export class Protection {
  private readonly env: AgentEnv;
  /** Since when a VM's present standby has not fitted. */
  private readonly unfit = new Map<string, { readonly standby: string; readonly sinceMs: number }>();
  private at: {
    readonly s: Snapshot;
    readonly loads: Loads;
    readonly bars: ReturnType<typeof barsOf>;
  } | null = null;
  private heard: ReadonlyMap<string, HeardNode> = new Map();

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** Begins a pass over that reading. */
  look(s: Snapshot): void {
    if (this.at?.s !== s) this.at = { s, loads: new Loads(s), bars: barsOf(s, this.env.node) };
    this.heard = new Map(this.env.radio.heard().map((h) => [h.node, h]));
    for (const id of this.unfit.keys()) if (!s.owns.has(id)) this.unfit.delete(id);
  }

  loads(s: Snapshot): Loads {
    this.look(s);
    return (this.at as { readonly loads: Loads }).loads;
  }

  /** @param active - its machine runs here */
  of(spec: VmSpec, own: VmOwn, active: boolean, s: Snapshot, nowMs: number): Arming {
    const keeper = this.env.keeper.state();
    const reach = reachOf(spec, valuesOf(s.disks), valuesOf(s.pools));
    const paused = s.policy.ha.paused;
    const wanted = spec.ha.enabled && !paused && reach.ok;
    const standby = wanted ? this.choose(spec, own, reach.pools) : nobody;
    return decideArming(spec, own, active, {
      paused,
      reach,
      keeper: keeper === null ? null : { armed: keeper.armed.includes(spec.id), armable: keeper.armable },
      standby,
      unfitMs: this.unfitMs(spec.id, own.standby, standby, nowMs),
    });
  }

  private choose(spec: VmSpec, own: VmOwn, pools: readonly Pool[]): StandbyChoice {
    const loads = this.at?.loads;
    if (loads === undefined) return nobody;
    const only = own.copies.find((c) => c.node !== own.owner)?.node ?? null;
    const vm = {
      owner: own.owner,
      standby: own.standby,
      memoryMiB: spec.memoryMiB,
      pools,
      only,
      bars: (node: string): readonly string[] => this.at?.bars(spec.name, node) ?? [],
    };
    const choice = chooseStandby(vm, loads.nodesFor(spec.id, vm, this.heard));
    if (choice.ok) loads.promise(spec.id, vm, choice.node);
    return choice;
  }

  private unfitMs(id: string, present: string | null, c: StandbyChoice, nowMs: number): number {
    if (present === null || (c.ok && c.node === present)) {
      this.unfit.delete(id);
      return 0;
    }
    const known = this.unfit.get(id);
    if (known?.standby === present) return nowMs - known.sinceMs;
    this.unfit.set(id, { standby: present, sinceMs: nowMs });
    return 0;
  }
}
