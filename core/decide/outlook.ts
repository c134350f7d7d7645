import type { BalanceMove } from '../domain/balance.js';
import type { Disk } from '../domain/disk.js';
import { protectionLevel, type Policy } from '../domain/ha.js';
import type { Image } from '../domain/image.js';
import type { Network } from '../domain/network.js';
import { isHeard, type NodePresence, type NodeRecord, type NodeState } from '../domain/node.js';
import { opFinished, type Op } from '../domain/op.js';
import type { Pool } from '../domain/pool.js';
import type { Rule } from '../domain/rule.js';
import type { Vapp } from '../domain/vapp.js';
import { reservedSpec } from './bundle.js';
import type { VmOwn, VmPhase, VmSpec, VmState } from '../domain/vm.js';
import { admit } from './plan/admission.js';
import type { LoadsNow } from './plan/auto.js';
import { cpuShare, evenOut, shareWithout } from './plan/even.js';
import type { NodeBlockers } from './blocker.js';
import { checkLockstep, type LockstepCheck } from './lockstep-check.js';
import { checkMigration, type MigrateCheck } from './migrate-check.js';
import {
  clusterNode,
  loadOf,
  planCluster,
  planNode,
  promisedBy,
  twinName,
  type ClusterNode,
  type OwnedVm,
} from './plan/gather.js';
import type { LoadVector, PlanCluster } from './plan/model.js';
import { Moves } from './plan/move.js';
import { rollingMoves, type RollingPlan } from './plan/rolling.js';
import { planPower, type PowerPlan, type PowerView } from './plan/power.js';
import { planRules } from './rules.js';
import { reachOf } from './standby.js';

type Kept<T> = ReadonlyMap<string, { readonly value: T }>;

/** What the ledger holds, as far as decisions about nodes need it. */
export interface OutlookRecords {
  readonly nodes: Kept<NodeRecord>;
  readonly specs: Kept<VmSpec>;
  readonly owns: Kept<VmOwn>;
  readonly disks: Kept<Disk>;
  readonly pools: Kept<Pool>;
  readonly images: Kept<Image>;
  readonly networks: Kept<Network>;
  readonly ops: Kept<Op>;
  readonly rules: Kept<Rule>;
  readonly vapps: Kept<Vapp>;
  readonly policy: Policy;
  live(node: string): boolean;
}

/** What is heard on the radio. */
export interface OutlookHeard {
  node(id: string): { readonly presence: NodePresence; readonly state: NodeState | null } | undefined;
  /** What its owner says of a VM; null: nothing. */
  vm(id: string, owner: string): VmState | null;
}

export interface OutlookOptions {
  /** A node that is looked at as if it were in maintenance. */
  readonly emptied?: string;
  /** Smoothed loads; by default what was heard last. */
  readonly load?: (vm: string) => LoadVector | null;
  /** A VM that is being made: rules by tags are about it, too. */
  readonly joining?: readonly VmSpec[];
  /** A VM that is looked at as if it were so. */
  readonly changed?: VmSpec;
}

/** Ledger and radio as one picture for all decisions about which node a VM is on: agents and controllers see the same. */
export class Outlook {
  readonly nodes: readonly ClusterNode[];
  readonly cluster: PlanCluster;
  private readonly r: OutlookRecords;
  private readonly h: OutlookHeard;
  private disksOf: Map<string, Disk[]> | null = null;
  private opsOf: Map<string, Op[]> | null = null;

  constructor(r: OutlookRecords, h: OutlookHeard, o: OutlookOptions = {}) {
    const { changed } = o;
    if (changed !== undefined)
      r = { ...r, specs: new Map<string, { value: VmSpec }>(r.specs).set(changed.id, { value: changed }) };
    this.r = r;
    this.h = h;
    const promised = promisedBy([...r.owns].map(([id, own]) => ({ own: own.value, spec: this.counted(id) })));
    this.nodes = [...r.nodes.values()].map(({ value: n }) =>
      clusterNode(
        n.id === o.emptied && n.desired === 'active' ? { ...n, desired: 'maintenance' } : n,
        h.node(n.id),
        r.live(n.id),
        promised.get(n.id),
      ),
    );
    const values = <T>(kept: Kept<T>): T[] => [...kept.values()].map((k) => k.value);
    this.cluster = planCluster(
      this.nodes,
      this.owned(o.load),
      planRules({
        rules: values(r.rules),
        vapps: values(r.vapps),
        vms: [...values(r.specs), ...(o.joining ?? [])],
        nodes: values(r.nodes),
      }),
    );
  }

  /** The cluster for a plan of moves, each time afresh. */
  moves(): Moves {
    return new Moves(this.cluster);
  }

  /** What a VM does, as its owner says; `unknown` where that one is not heard. */
  phase(id: string, own: VmOwn): VmPhase {
    const presence = this.h.node(own.owner)?.presence ?? 'never-heard';
    if (!isHeard(presence)) return 'unknown';
    return this.h.vm(id, own.owner)?.phase ?? 'unknown';
  }

  openOps(vm: string): readonly Op[] {
    if (this.opsOf === null) {
      this.opsOf = new Map();
      for (const { value: op } of this.r.ops.values())
        if (!opFinished(op)) this.opsOf.set(op.subject.id, [...(this.opsOf.get(op.subject.id) ?? []), op]);
    }
    return this.opsOf.get(vm) ?? [];
  }

  disks(vm: string): readonly Disk[] {
    if (this.disksOf === null) {
      this.disksOf = new Map();
      for (const { value: d } of this.r.disks.values())
        this.disksOf.set(d.vm, [...(this.disksOf.get(d.vm) ?? []), d]);
    }
    return this.disksOf.get(vm) ?? [];
  }

  /**
   * Whether a VM could migrate now, and where to.
   *
   * @param o.node - the only node wanted; null: any
   * @param o.moves - a plan under way; left as it is
   */
  check(
    spec: VmSpec,
    own: VmOwn,
    o: { readonly node: string | null; readonly phase?: VmPhase; readonly moves?: Moves },
  ): MigrateCheck {
    const { images, pools, networks, policy } = this.r;
    return checkMigration({
      spec,
      own,
      phase: o.phase ?? this.phase(spec.id, own),
      disks: this.disks(spec.id),
      pool: (id) => pools.get(id)?.value,
      ops: this.openOps(spec.id),
      isos: spec.cdroms.flatMap(({ image: id }) => {
        const image = id === null ? undefined : images.get(id)?.value;
        const pool = image && pools.get(image.pool)?.value;
        if (image === undefined || pool === undefined) return [];
        const sourceHere = image.node === null || this.h.node(image.node)?.presence === 'here';
        return [{ image, pool, sourceHere }];
      }),
      networks: spec.nics.flatMap((n) => networks.get(n.network)?.value ?? []),
      nodes: this.nodes,
      moves: o.moves ?? this.moves(),
      admission: policy.plan.admission,
      node: o.node,
    });
  }

  /**
   * Whether a VM could be in lockstep, and which node its twin would run on. For those that are, too: the node of another
   * twin where the present one is lost.
   *
   * @param o.node - the only one wanted; absent: any
   * @param o.disks - its disks, where they are to be others than there are
   */
  lockstep(
    spec: VmSpec,
    own: VmOwn,
    o: { readonly node?: string; readonly disks?: readonly Disk[] } = {},
  ): LockstepCheck {
    const { pools, networks, policy } = this.r;
    return checkLockstep({
      spec,
      own,
      disks: o.disks ?? this.disks(spec.id),
      pool: (id) => pools.get(id)?.value,
      networks: spec.nics.flatMap((n) => networks.get(n.network)?.value ?? []),
      nodes: this.nodes,
      cluster: this.cluster,
      admission: policy.plan.admission,
      node: o.node ?? null,
    });
  }

  /**
   * The live migrations that would end the breaking of rules and even the cluster out, best first. Yields often, so that
   * whoever asks can do other things meanwhile.
   *
   * @param o.may - further limits, by ids
   */
  *balance(
    o: { readonly rulesOnly?: boolean; readonly may?: (vm: string, node: string) => boolean } = {},
  ): Generator<undefined, BalanceMove[]> {
    const ids = this.byName();
    const checkOf = this.checks();
    const found = yield* evenOut(
      this.cluster,
      (vm, node) => {
        const id = ids.get(vm) ?? '';
        if (o.may?.(id, node) === false) return false;
        if (this.r.specs.get(id)?.value.autoMove === false) return false;
        const c = checkOf(id);
        return c !== null && c.blockers.length === 0 && !c.nodes.some((n) => n.node === node);
      },
      { rulesOnly: o.rulesOnly === true },
    );
    return found.map(({ vm, why, ...m }) => ({
      ...m,
      vm: ids.get(vm) ?? '',
      name: vm,
      why: why.slice(0, 300),
    }));
  }

  /** Whether each VM that runs could migrate, looked at once. */
  private checks(): (id: string) => MigrateCheck | null {
    const known = new Map<string, MigrateCheck | null>();
    const moves = this.moves();
    return (id) => {
      let check = known.get(id);
      if (check !== undefined) return check;
      const [spec, own] = [this.r.specs.get(id)?.value, this.r.owns.get(id)?.value];
      check =
        spec === undefined || own?.state !== 'running' ? null : this.check(spec, own, { node: null, moves });
      known.set(id, check);
      return check;
    };
  }

  /**
   * In which order nodes could go down for work, and what moves before; names of VMs as the plan has them.
   *
   * @param o.only - those that are to go; else all
   * @param o.groupsMax - only the first groups of the order are wanted
   */
  rolling(
    atOnceMax: number,
    o: { readonly only?: ReadonlySet<string>; readonly groupsMax?: number } = {},
  ): Generator<undefined, RollingPlan> {
    const ids = this.byName();
    const checkOf = this.checks();
    const pairs = this.pairs();
    const votes = new Set([...this.r.nodes.values()].flatMap(({ value: n }) => (n.voter ? [n.id] : [])));
    return rollingMoves(this.cluster, {
      ...o,
      atOnceMax,
      bars: (n) => (votes.has(n) ? votersBar(votes.size) : null),
      runs: (vm) => this.r.owns.get(ids.get(vm) ?? '')?.value.state !== 'stopped',
      may: (vm, node) => pairs.get(vm)?.(node) ?? roomAside(checkOf(ids.get(vm) ?? ''), node),
      both: (a, b) => !(votes.has(a) && votes.has(b)),
    });
  }

  /**
   * By the planner's names: whether a machine in lockstep, and its twin, could go to a node. The one goes to the other only,
   * and the other is made anew.
   */
  private pairs(): Map<string, (node: string) => boolean> {
    const out = new Map<string, (node: string) => boolean>();
    const ids = new Map([...this.byName()].map(([name, id]) => [id, name]));
    for (const [id, { value: own }] of this.r.owns) {
      const spec = this.r.specs.get(id)?.value;
      const twin = own.lockstep?.twin ?? null;
      if (spec === undefined || twin === null) continue;
      let check: LockstepCheck | null = null;
      out.set(ids.get(id) ?? '', (node) => node === twin && own.lockstep?.state === 'protected');
      out.set(twinName(id), (node) => {
        check ??= this.lockstep(spec, own);
        return check.blockers.length === 0 && roomy(check.nodes, node);
      });
    }
    return out;
  }

  /**
   * The node that should wake, or could sleep, now; names of VMs as the plan has them.
   *
   * @param o.falling - nodes that are being put to sleep: wanted, they stay on
   */
  power(
    o: Omit<PowerView, 'cluster' | 'asleep' | 'may'> & { readonly falling: ReadonlySet<string> },
  ): Generator<undefined, PowerPlan> {
    const ids = this.byName();
    const checkOf = this.checks();
    const asleep = this.nodes.flatMap((n) => {
      const was = this.r.nodes.get(n.id)?.value.asleep;
      if (was === undefined && !o.falling.has(n.id)) return [];
      const sizes = was === undefined ? {} : { cpus: was.cpus, memoryBytes: was.memoryBytes };
      return [planNode({ ...n, ...sizes, live: true, presence: 'here', desired: 'active' })];
    });
    return planPower({
      ...o,
      cluster: this.cluster,
      asleep,
      may: (vm, node) => {
        const id = ids.get(vm) ?? '';
        if (this.r.specs.get(id)?.value.autoMove === false) return false;
        // One that is off gets another owner, wherever its disks are in reach.
        return this.r.owns.get(id)?.value.state === 'stopped' || roomAside(checkOf(id), node);
      },
    });
  }

  /** What binds a node whatever runs there, in words: what only it has. Empty: nothing. */
  keeps(node: string): string[] {
    const out: string[] = [];
    for (const [id, { value: own }] of this.r.owns)
      if (own.copies.some((c) => c.node === node))
        out.push(`has a copy of the disks of "${this.r.specs.get(id)?.value.name ?? id}"`);
    for (const { value: image } of this.r.images.values())
      if (image.node === node) out.push(`has the only file of the image "${image.name}"`);
    return out;
  }

  /** What keeps an emptied node from being powered off now, in words; empty: nothing. */
  binds(node: string): string[] {
    const out = this.keeps(node);
    const names = this.byName();
    for (const [id, { value: own }] of this.r.owns) {
      const name = this.r.specs.get(id)?.value.name ?? id;
      if (own.owner === node) out.push(`"${name}" is on it`);
      else if (own.lockstep?.twin === node) out.push(`the twin of "${name}" runs on it`);
      else if (own.standby === node) out.push(`it stands by for "${name}"`);
    }
    for (const { value: op } of this.r.ops.values())
      if (op.node === node && !opFinished(op)) out.push(`${op.kind} is under way there`);
    for (const vm of this.cluster.vms)
      if (
        vm.alone !== true &&
        vm.standby === '' &&
        this.r.owns.get(names.get(vm.name) ?? '')?.value.state !== 'stopped'
      )
        out.push(`"${vm.name}" has no standby yet`);
    const admitted = admit(this.moves().s);
    if (!admitted.ok) out.push(...admitted.shortfalls.map((x) => x.text));
    return out;
  }

  /** What is promised of the memory of nodes, and what pools have in use; a shared pool is one, whoever tells of it. */
  use(): { memoryMiB: number; diskBytes: number; memoryTotalMiB: number; diskTotalBytes: number } {
    const pools = new Map<string, { used: number; total: number }>();
    for (const n of this.nodes)
      for (const u of n.pools) {
        const shared = this.r.pools.get(u.pool)?.value.kind === 'shared';
        if (u.ok)
          pools.set(shared ? u.pool : `${u.pool} ${n.id}`, {
            used: u.totalBytes - u.freeBytes,
            total: u.totalBytes,
          });
      }
    const sum = (of: (p: { used: number; total: number }) => number): number =>
      [...pools.values()].reduce((a, p) => a + of(p), 0);
    return {
      memoryMiB: this.cluster.vms.reduce((a, v) => a + v.memoryMiB, 0),
      memoryTotalMiB: this.cluster.nodes.reduce((a, n) => a + n.vmMemoryMiB, 0),
      diskBytes: sum((p) => p.used),
      diskTotalBytes: sum((p) => p.total),
    };
  }

  /** Loads as they are, for the brakes of balancing. */
  loads(): LoadsNow {
    const moves = this.moves();
    const { s } = moves;
    const nodes = new Map(s.nodes.map((n, i) => [n.name, i]));
    const vms = new Map<string, number>();
    const ids = this.byName();
    s.vms.forEach((v, i) => vms.set(ids.get(v.name) ?? '', i));
    return {
      vmCpus: (id) => s.loads[(vms.get(id) ?? -1) * 4] ?? 0,
      cpuShare: (node) => {
        const n = nodes.get(node);
        return n === undefined ? 0 : cpuShare(moves, n);
      },
      shareWithout: (node, id) => {
        const n = nodes.get(node);
        return n === undefined ? 0 : shareWithout(moves, n, vms.get(id) ?? -1);
      },
    };
  }

  /** Ids of VMs by the names that the plan has for them. */
  private byName(): Map<string, string> {
    const out = new Map<string, string>();
    for (const [id, { value }] of this.r.specs)
      if (this.r.owns.has(id)) out.set(out.has(value.name) ? id : value.name, id);
    return out;
  }

  /** A VM with what its vApp reserves for it. */
  private counted(id: string): VmSpec | undefined {
    const spec = this.r.specs.get(id)?.value;
    if (spec?.vapp === undefined) return spec;
    return reservedSpec(spec, this.r.vapps.get(spec.vapp.id)?.value, this.r.specs);
  }

  private *owned(load: OutlookOptions['load']): Iterable<OwnedVm> {
    const [disks, pools] = [valuesOf(this.r.disks), valuesOf(this.r.pools)];
    for (const [id, { value: own }] of this.r.owns) {
      const spec = this.counted(id);
      if (spec === undefined) continue;
      const stats = this.h.vm(id, own.owner)?.stats ?? null;
      yield {
        spec,
        own,
        load: load !== undefined ? load(id) : stats === null ? null : loadOf(spec, stats),
        reach: reachOf(spec, disks, pools),
        ...(protectionLevel(spec.ha) === 'lockstep' ? { pools: poolsOf(spec, disks, pools) } : {}),
      };
    }
  }
}

/** Whether the ledger goes on without one of its voters. @returns why not; null: it does */
export const votersBar = (voters: number): string | null =>
  voters - 1 > voters / 2
    ? null
    : voters === 1
      ? 'it is the only voter of the ledger: without it all VMs with HA would stand still'
      : `with one of its ${voters} voters away the ledger would have no majority`;

/** Whether a VM could migrate there; what room there is follows from a plan, not from how it is now. */
const roomAside = (c: MigrateCheck | null, node: string): boolean =>
  c !== null && c.blockers.length === 0 && roomy(c.nodes, node);

const roomy = (nodes: readonly NodeBlockers[], node: string): boolean =>
  (nodes.find((n) => n.node === node)?.blockers ?? []).every((b) => roomCodes.has(b.code));

/** What speaks against a node only as it is now. */
const roomCodes: ReadonlySet<string> = new Set(['no-memory', 'no-cpus', 'no-failover-room', 'rule']);

const poolsOf = (
  spec: VmSpec,
  disks: { get(id: string): Disk | undefined },
  pools: { get(id: string): Pool | undefined },
): Pool[] => spec.disks.flatMap((d) => pools.get(disks.get(d.disk)?.pool ?? '') ?? []);

const valuesOf = <T>(kept: Kept<T>): { get(id: string): T | undefined } => ({
  get: (id) => kept.get(id)?.value,
});
