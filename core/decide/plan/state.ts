import { FlotillaError } from '../../domain/error.js';
import type { PlanCluster, PlanNode, PlanVm } from './model.js';

/** Quantities whose spread over the nodes is the imbalance. */
const quantities = 9;
const freeMemory = 0;
const freeDisk = 1;
const cpuRatio = 2;
const spindleUse = 3;
const reserved = 4;
const load = 5; // to 8: CPU, memory, disk, network

/** What an untidy placement costs beside the spread; the spread of each quantity costs 1. */
const weights = {
  /** Of the reserved share of each node. */
  reserved: 0.25,
  /** Per VM on a node that could not take over what it promised. */
  short: 1,
  /** Per replica, and per owner, on a node that is not online. */
  stranded: 4,
  strandedOwner: 16,
  /** Per VM that shares a node with another one of its label. */
  apart: 2,
  /** Per domain shared by both replicas of a VM. */
  domain: 1,
  /** Per VM that shares a domain with another one of its label. */
  apartDomain: 1,
};

const evenEmphasis = new Array<number>(quantities).fill(1);

/**
 * For a cluster whose load is measured: what VMs were given counts little beside what they use, and the room in pools
 * is for the pools to say.
 */
export const measuredEmphasis: readonly number[] = [0.5, 0, 0.05, 0, 0.25, 1, 0.5, 0.25, 0.25];

/** What a state is worth: the imbalance, and what stands beside it. */
export interface Figures {
  score: number;
  /** Replicas on nodes that are not online. */
  stranded: number;
  /** As {@link State.brokenVms}, {@link State.brokenLack} and {@link State.lackSum}. */
  brokenVms: number;
  brokenLack: number;
  lack: number;
}

export const noFigures = (): Figures => ({ score: 0, stranded: 0, brokenVms: 0, brokenLack: 0, lack: 0 });

/** The node of a VM that is not placed, and the standby of one that has none. */
export const nowhere = -1;

/** Everything goes by name, so that the order of the input changes nothing. */
const byName = (a: { readonly name: string }, b: { readonly name: string }): number =>
  a.name < b.name ? -1 : a.name > b.name ? 1 : 0;

function indexNames(things: readonly { readonly name: string }[], what: string): Map<string, number> {
  const index = new Map(things.map((x, i) => [x.name, i]));
  if (index.size !== things.length)
    throw new FlotillaError('bad-input', `two ${what} have one name`, { hint: 'Give each its own name.' });
  return index;
}

/**
 * A cluster in flat arrays, with its imbalance kept up to date by every {@link State.put} in time that does not grow
 * with the number of VMs. Nodes and VMs are numbered in the order of their names.
 *
 * The imbalance is that of Ganeti's balancer, so that both can be compared. @see hbal(1), "CLUSTER SCORING"
 */
export class State {
  readonly nodes: readonly PlanNode[];
  readonly vms: readonly PlanVm[];
  readonly nodeCount: number;
  readonly vmCount: number;
  /** Runs on one node only, by wish or since its disks are there: no standby is missing. */
  readonly alone: Uint8Array;
  readonly online: Uint8Array;
  readonly dead: Uint8Array;
  readonly group: Int32Array;
  readonly owner: Int32Array;
  readonly standby: Int32Array;
  readonly memory: Float64Array;
  readonly disk: Float64Array;
  readonly cpus: Float64Array;
  readonly spindles: Float64Array;
  readonly loads: Float64Array;
  /** Per node. */
  readonly freeMem: Float64Array;
  readonly freeDsk: Float64Array;
  readonly ownerCpus: Float64Array;
  readonly spindlesUsed: Float64Array;
  readonly cpuMax: Float64Array;
  readonly spindlesMax: Float64Array;
  readonly need: Float64Array;
  readonly lack: Float64Array;
  /** Replicas on it. */
  readonly legs: Int32Array;
  /** Memory a node could not give if the worst of the others failed, over all; and memory without a second place. */
  lackSum = 0;
  strandedMemory = 0;
  shortNodes = 0;
  private readonly peers: Float64Array;
  private readonly nodeLoad: Float64Array;
  private readonly reach: readonly (ReadonlySet<string> | null)[];
  private readonly scale: Float64Array;
  private readonly loadScale: Float64Array;
  private readonly emphasis: Float64Array;
  private readonly value: Float64Array;
  private readonly sum = new Float64Array(quantities);
  private readonly square = new Float64Array(quantities);
  private readonly fresh = new Float64Array(quantities);
  private readonly numbers: ReadonlyMap<string, number>;
  private vmNumbers: ReadonlyMap<string, number> | null = null;
  private readonly onlineCount: number;
  /** Nodes that could take over what they promised at the start and no longer can; what they lack; replicas there. */
  brokenNodes = 0;
  brokenLack = 0;
  brokenVms = 0;
  private shortVms = 0;
  private readonly fine: Uint8Array;
  private strandedLegs = 0;
  private strandedOwners = 0;
  private apartCount = 0;
  private domainCount = 0;
  private apartDomainCount = 0;
  private readonly labels: readonly Int32Array[];
  private readonly labelCount: number;
  private readonly labelled: Int32Array;
  private readonly domains: readonly Int32Array[];
  private readonly domainLabelled: Int32Array;
  private readonly sharedDomains: Uint8Array | null;
  /** Of what each standby promised: to whom the most, and the most to any other; -1: to be looked for. */
  private readonly mostTo: Int32Array;
  private readonly second: Float64Array;
  /** Those of a {@link State.trial}. */
  private readonly sums = new Float64Array(quantities);
  private readonly squares = new Float64Array(quantities);

  /** @param emphasis - weight of each quantity's spread, in the order of {@link quantities}; absent: 1 each */
  constructor(cluster: PlanCluster, emphasis: readonly number[] = evenEmphasis) {
    this.nodes = [...cluster.nodes].sort(byName);
    this.vms = [...cluster.vms].sort(byName);
    const { nodes, vms } = this;
    const nodeIndex = indexNames(nodes, 'nodes');
    this.numbers = nodeIndex;
    indexNames(vms, 'VMs');
    const n = (this.nodeCount = nodes.length);
    const v = (this.vmCount = vms.length);
    this.online = Uint8Array.from(nodes, (x) => (x.state === 'online' ? 1 : 0));
    this.dead = Uint8Array.from(nodes, (x) => (x.state === 'dead' ? 1 : 0));
    this.onlineCount = Math.max(
      1,
      this.online.reduce((a, b) => a + b, 0),
    );
    const groups = [...new Set(nodes.map((x) => x.group))].sort();
    this.group = Int32Array.from(nodes, (x) => groups.indexOf(x.group));
    const place = (vm: PlanVm, node: string): number => {
      const i = nodeIndex.get(node);
      if (i !== undefined) return i;
      throw new FlotillaError('bad-input', `VM ${vm.name} is on ${node}, which is not among the nodes`, {
        hint: 'Name a node that is there.',
      });
    };
    this.owner = Int32Array.from(vms, (x) => (x.owner === '' ? nowhere : place(x, x.owner)));
    this.standby = Int32Array.from(vms, (x) =>
      x.owner === '' || x.standby === '' ? nowhere : place(x, x.standby),
    );
    this.reach = vms.map((x) => (x.on === undefined ? null : new Set(x.on)));
    this.alone = Uint8Array.from(vms, (x) => (x.alone === true ? 1 : 0));
    this.emphasis = Float64Array.from(emphasis);
    this.loadScale = Float64Array.from(nodes.flatMap((x) => (x.carries ?? [1, 1, 1, 1]).map((c) => 1 / c)));
    this.memory = Float64Array.from(vms, (x) => x.memoryMiB);
    this.disk = Float64Array.from(vms, (x) => x.diskMiB);
    this.cpus = Float64Array.from(vms, (x) => x.cpus);
    this.spindles = Float64Array.from(vms, (x) => x.spindles);
    this.loads = Float64Array.from(vms.flatMap((x) => [...x.load]));
    this.freeMem = Float64Array.from(nodes, (x) => x.vmMemoryMiB);
    this.freeDsk = Float64Array.from(nodes, (x) => x.vmDiskMiB);
    this.ownerCpus = Float64Array.from(nodes, (x) => x.ownCpus);
    this.cpuMax = Float64Array.from(nodes, (x) => x.cpus * x.cpuRatioMax);
    this.spindlesMax = Float64Array.from(nodes, (x) => x.spindles);
    this.scale = Float64Array.from(
      nodes.flatMap((x) => [1 / x.memoryMiB, 1 / x.diskMiB, 1 / x.cpus / x.cpuSpeed, 1 / x.spindles]),
    );
    this.spindlesUsed = new Float64Array(n);
    this.need = new Float64Array(n);
    this.lack = new Float64Array(n);
    this.legs = new Int32Array(n);
    this.peers = new Float64Array(n * n);
    this.mostTo = new Int32Array(n).fill(-1);
    this.second = new Float64Array(n);
    this.nodeLoad = new Float64Array(n * 4);
    this.value = new Float64Array(n * quantities);
    const labels = [...new Set(vms.flatMap((x) => x.apart))].sort();
    const labelIndex = new Map(labels.map((x, i) => [x, i]));
    this.labelCount = labels.length;
    this.labels = vms.map((x) => Int32Array.from(x.apart, (l) => labelIndex.get(l) as number));
    this.labelled = new Int32Array(n * labels.length);
    const domains = [...new Set(nodes.flatMap((x) => x.domains))].sort();
    const domainIndex = new Map(domains.map((x, i) => [x, i]));
    this.domains = nodes.map((x) => Int32Array.from(x.domains, (d) => domainIndex.get(d) as number));
    this.domainLabelled = new Int32Array(domains.length * labels.length);
    this.sharedDomains = domains.length === 0 ? null : new Uint8Array(n * n);
    if (this.sharedDomains !== null) {
      for (let a = 0; a < n; a++)
        for (let b = 0; b < n; b++)
          if (this.online[a] === 1)
            this.sharedDomains[a * n + b] = nodes[a]!.domains.filter((d) =>
              nodes[b]!.domains.includes(d),
            ).length;
    }
    for (let i = 0; i < v; i++) {
      if (this.owner[i] === nowhere) continue;
      if (this.owner[i] === this.standby[i])
        throw new FlotillaError('bad-input', `VM ${vms[i]!.name} has both replicas on ${vms[i]!.owner}`, {
          hint: 'Its owner and its standby are two nodes.',
        });
      this.add(i, this.owner[i]!, this.standby[i]!);
    }
    this.fine = new Uint8Array(n);
    for (let i = 0; i < n; i++) this.refresh(i);
    this.fine = Uint8Array.from(this.lack, (x) => (x === 0 ? 1 : 0));
  }

  /** The imbalance; lower is better. */
  score(): number {
    return this.counted() + this.spread(this.sum, this.square);
  }

  /** The part of the imbalance that is counted. */
  private counted(): number {
    return (
      weights.short * this.shortVms +
      weights.stranded * this.strandedLegs +
      weights.strandedOwner * this.strandedOwners +
      weights.apart * this.apartCount +
      weights.domain * this.domainCount +
      weights.apartDomain * this.apartDomainCount
    );
  }

  private spread(sum: Float64Array, square: Float64Array): number {
    const count = this.onlineCount;
    let s = weights.reserved * sum[reserved]!;
    for (let k = 0; k < quantities; k++) {
      const mean = sum[k]! / count;
      const variance = square[k]! / count - mean * mean;
      if (variance > 0) s += this.emphasis[k]! * Math.sqrt(variance);
    }
    return s;
  }

  /** What is now, into a place for it. */
  figures(f: Figures): void {
    f.score = this.score();
    f.stranded = this.strandedLegs;
    f.brokenVms = this.brokenVms;
    f.brokenLack = this.brokenLack;
    f.lack = this.lackSum;
  }

  /**
   * What {@link figures} would say after a {@link put}, for a VM with a standby. Searches try a hundred times for each time
   * they put, so nothing is written but `f`.
   */
  trial(vm: number, owner: number, standby: number, f: Figures): void {
    const p = this.owner[vm]!;
    const q = this.standby[vm]!;
    // Labels are counted by what else is there: few VMs have one, and they go there and back.
    if (owner !== p && this.labels[vm]!.length > 0) {
      this.put(vm, owner, standby);
      this.figures(f);
      this.put(vm, p, q);
      return;
    }
    const { sum, square, sums, squares } = this;
    for (let k = 0; k < quantities; k++) {
      sums[k] = sum[k]!;
      squares[k] = square[k]!;
    }
    f.score = 0;
    f.stranded = this.strandedLegs;
    f.brokenVms = this.brokenVms;
    f.brokenLack = this.brokenLack;
    f.lack = this.lackSum;
    this.tryNode(vm, p, p, q, owner, standby, f);
    this.tryNode(vm, q, p, q, owner, standby, f);
    if (owner !== p && owner !== q) this.tryNode(vm, owner, p, q, owner, standby, f);
    if (standby !== p && standby !== q) this.tryNode(vm, standby, p, q, owner, standby, f);
    if (this.sharedDomains !== null)
      f.score +=
        weights.domain *
        (this.sharedDomains[owner * this.nodeCount + standby]! - this.sharedDomains[p * this.nodeCount + q]!);
    f.score += this.counted() + this.spread(this.sums, this.squares);
  }

  /** One node's part of a {@link trial} that takes a VM from p and q to a and b. */
  private tryNode(vm: number, x: number, p: number, q: number, a: number, b: number, f: Figures): void {
    const own = (x === a ? 1 : 0) - (x === p ? 1 : 0);
    const leg = (x === a || x === b ? 1 : 0) - (x === p || x === q ? 1 : 0);
    if (this.online[x] === 0) {
      f.stranded += leg;
      f.score += weights.stranded * leg + weights.strandedOwner * own;
      return;
    }
    const memory = this.memory[vm]!;
    const freeMem = this.freeMem[x]! - own * memory;
    let need = this.need[x]!;
    if (p !== a || (x === q) !== (x === b)) {
      if (x === q) {
        if (this.mostTo[x] === -1) this.rank(x);
        if (this.mostTo[x] === p) need = Math.max(need - memory, this.second[x]!);
      }
      if (x === b) need = Math.max(need, this.peers[x * this.nodeCount + a]! + memory);
    }
    const lack = need > freeMem ? need - freeMem : 0;
    const lacked = this.lack[x]!;
    if (lack > 0 || lacked > 0) {
      const vms = (lack > 0 ? this.legs[x]! + leg : 0) - (lacked > 0 ? this.legs[x]! : 0);
      f.score += weights.short * vms;
      f.lack += lack - lacked;
      if (this.fine[x] === 1) {
        f.brokenVms += vms;
        f.brokenLack += lack - lacked;
      }
    }
    const { scale } = this;
    if (own !== 0) {
      this.tryValue(x, freeMemory, freeMem * scale[x * 4]!);
      this.tryValue(x, cpuRatio, (this.ownerCpus[x]! + own * this.cpus[vm]!) * scale[x * 4 + 2]!);
      this.tryLoad(x, vm, 0, own);
      this.tryLoad(x, vm, 1, own);
      this.tryLoad(x, vm, 3, own);
    }
    if (leg !== 0) {
      this.tryValue(x, freeDisk, (this.freeDsk[x]! - leg * this.disk[vm]!) * scale[x * 4 + 1]!);
      this.tryValue(x, spindleUse, (this.spindlesUsed[x]! + leg * this.spindles[vm]!) * scale[x * 4 + 3]!);
      this.tryLoad(x, vm, 2, leg);
    }
    this.tryValue(x, reserved, need * scale[x * 4]!);
  }

  private tryLoad(x: number, vm: number, k: number, sign: number): void {
    const at = x * 4 + k;
    this.tryValue(x, load + k, (this.nodeLoad[at]! + sign * this.loads[vm * 4 + k]!) * this.loadScale[at]!);
  }

  private tryValue(x: number, k: number, is: number): void {
    const was = this.value[x * quantities + k]!;
    this.sums[k]! += is - was;
    this.squares[k]! += (is - was) * (is + was);
  }

  /** Finds to whom a standby promised the most, and the most of the others. */
  private rank(s: number): void {
    const from = s * this.nodeCount;
    let most = -1;
    let at = 0;
    let second = 0;
    for (let i = 0; i < this.nodeCount; i++) {
      const x = this.peers[from + i]!;
      if (x > most) {
        second = Math.max(most, 0);
        most = x;
        at = i;
      } else if (x > second) second = x;
    }
    this.mostTo[s] = at;
    this.second[s] = second;
  }

  /** Memory that one failure would leave without a place, MiB. */
  exposure(): number {
    return this.lackSum + this.strandedMemory;
  }

  /** VMs with a replica on a node that is not online. */
  stranded(): number {
    return this.strandedLegs;
  }

  /** Puts a VM on two nodes that differ, or on one without a standby. What this breaks is the caller's to see. */
  put(vm: number, owner: number, standby: number): void {
    const o = this.owner[vm]!;
    const s = this.standby[vm]!;
    if (o === owner && s === standby) return;
    this.remove(vm, o, s);
    this.add(vm, owner, standby);
    this.owner[vm] = owner;
    this.standby[vm] = standby;
    this.refresh(o);
    this.refresh(s);
    if (owner !== o && owner !== s) this.refresh(owner);
    if (standby !== o && standby !== s) this.refresh(standby);
  }

  /** As {@link put}, for a VM that is nowhere. */
  enter(vm: number, owner: number, standby: number): void {
    this.add(vm, owner, standby);
    this.owner[vm] = owner;
    this.standby[vm] = standby;
    this.refresh(owner);
    this.refresh(standby);
  }

  /** Takes a VM off its nodes. */
  leave(vm: number): void {
    const o = this.owner[vm]!;
    const s = this.standby[vm]!;
    if (o === nowhere) return;
    this.remove(vm, o, s);
    this.owner[vm] = nowhere;
    this.standby[vm] = nowhere;
    this.refresh(o);
    this.refresh(s);
  }

  /** @throws FlotillaError `not-found`: no node of this name */
  nodeNumber(name: string): number {
    const i = this.numbers.get(name);
    if (i !== undefined) return i;
    throw new FlotillaError('not-found', `there is no node ${name}`, { hint: 'Name a node that is there.' });
  }

  /** The node reaches its disks. */
  reaches(vm: number, n: number): boolean {
    return this.reach[vm]?.has(this.nodes[n]!.name) ?? true;
  }

  /** @throws FlotillaError `not-found`: no VM of this name */
  vmNumber(name: string): number {
    this.vmNumbers ??= new Map(this.vms.map((x, i) => [x.name, i]));
    const i = this.vmNumbers.get(name);
    if (i !== undefined) return i;
    throw new FlotillaError('not-found', `there is no VM ${name}`, { hint: 'Name a VM that is there.' });
  }

  /** Memory of the VMs a node runs, MiB. */
  ranMiB(n: number): number {
    return this.nodes[n]!.vmMemoryMiB - this.freeMem[n]!;
  }

  /** Memory the VMs of `owner` need on `standby`. */
  peer(standby: number, owner: number): number {
    return this.peers[standby * this.nodeCount + owner]!;
  }

  /** What the standby of a VM must be able to take, were it not this VM's standby. */
  needWithout(vm: number): number {
    const s = this.standby[vm]!;
    if (this.mostTo[s] === -1) this.rank(s);
    const need = this.need[s]!;
    return this.mostTo[s] === this.owner[vm] ? Math.max(need - this.memory[vm]!, this.second[s]!) : need;
  }

  /** Another VM of one of its labels has this node as owner. */
  labelsClash(vm: number, node: number): boolean {
    const labels = this.labels[vm]!;
    const own = this.owner[vm] === node ? 1 : 0;
    for (let i = 0; i < labels.length; i++)
      if (this.labelled[node * this.labelCount + labels[i]!]! > own) return true;
    return false;
  }

  /** Sums anew what rounding has moved in a long run of {@link put}. */
  settle(): void {
    this.sum.fill(0);
    this.square.fill(0);
    this.value.fill(0);
    for (let i = 0; i < this.nodeCount; i++) this.refresh(i);
  }

  private remove(vm: number, o: number, s: number): void {
    const memory = this.memory[vm]!;
    const n = this.nodeCount;
    this.freeMem[o]! += memory;
    this.ownerCpus[o]! -= this.cpus[vm]!;
    this.carry(vm, o, s, -1);
    if (s !== nowhere) {
      const at = s * n + o;
      const had = this.peers[at]!;
      this.peers[at] = had - memory;
      this.mostTo[s] = -1;
      if (had === this.need[s]) this.need[s] = this.largestPeer(s);
      if (this.sharedDomains !== null) this.domainCount -= this.sharedDomains[o * n + s]!;
    }
    if (this.online[o] === 0) this.strandedOwners--;
    if (this.exposed(vm, o, s)) this.strandedMemory -= memory;
    const labels = this.labels[vm]!;
    for (let i = 0; i < labels.length; i++) this.unlabel(o, labels[i]!);
  }

  private add(vm: number, o: number, s: number): void {
    const memory = this.memory[vm]!;
    const n = this.nodeCount;
    this.freeMem[o]! -= memory;
    this.ownerCpus[o]! += this.cpus[vm]!;
    this.carry(vm, o, s, 1);
    if (s !== nowhere) {
      const has = (this.peers[s * n + o]! += memory);
      this.mostTo[s] = -1;
      if (has > this.need[s]!) this.need[s] = has;
      if (this.sharedDomains !== null) this.domainCount += this.sharedDomains[o * n + s]!;
    }
    if (this.online[o] === 0) this.strandedOwners++;
    if (this.exposed(vm, o, s)) this.strandedMemory += memory;
    const labels = this.labels[vm]!;
    for (let i = 0; i < labels.length; i++) this.label(o, labels[i]!);
  }

  /** One failure would leave it without a place. */
  private exposed(vm: number, o: number, s: number): boolean {
    return this.online[o] === 0 || (s === nowhere ? this.alone[vm] === 0 : this.online[s] === 0);
  }

  /** What both replicas' nodes carry, added or taken away. */
  private carry(vm: number, o: number, s: number, sign: 1 | -1): void {
    const disk = sign * this.disk[vm]!;
    const spindles = sign * this.spindles[vm]!;
    this.freeDsk[o]! -= disk;
    this.spindlesUsed[o]! += spindles;
    for (let k = 0; k < 4; k++) this.nodeLoad[o * 4 + k]! += sign * this.loads[vm * 4 + k]!;
    this.legs[o]! += sign;
    if (this.online[o] === 0) this.strandedLegs += sign;
    this.countShort(o, sign);
    if (s === nowhere) return;
    this.freeDsk[s]! -= disk;
    this.spindlesUsed[s]! += spindles;
    // Writes go to both replicas.
    this.nodeLoad[s * 4 + 2]! += sign * this.loads[vm * 4 + 2]!;
    this.legs[s]! += sign;
    if (this.online[s] === 0) this.strandedLegs += sign;
    this.countShort(s, sign);
  }

  /** Replicas come to or leave a node, or all of them when it falls short or recovers. */
  private countShort(n: number, by: number): void {
    if (this.lack[n] === 0) return;
    this.shortVms += by;
    if (this.fine[n] === 1) this.brokenVms += by;
  }

  private largestPeer(s: number): number {
    const from = s * this.nodeCount;
    let max = 0;
    for (let i = from; i < from + this.nodeCount; i++) if (this.peers[i]! > max) max = this.peers[i]!;
    return max;
  }

  private label(o: number, label: number): void {
    if (this.online[o] === 0) return;
    if (this.labelled[o * this.labelCount + label]!++ > 0) this.apartCount++;
    const domains = this.domains[o]!;
    for (let i = 0; i < domains.length; i++)
      if (this.domainLabelled[domains[i]! * this.labelCount + label]!++ > 0) this.apartDomainCount++;
  }

  private unlabel(o: number, label: number): void {
    if (this.online[o] === 0) return;
    if (--this.labelled[o * this.labelCount + label]! > 0) this.apartCount--;
    const domains = this.domains[o]!;
    for (let i = 0; i < domains.length; i++)
      if (--this.domainLabelled[domains[i]! * this.labelCount + label]! > 0) this.apartDomainCount--;
  }

  private refresh(n: number): void {
    if (n === nowhere || this.online[n] === 0) return;
    const need = this.need[n]!;
    const lack = need > this.freeMem[n]! ? need - this.freeMem[n]! : 0;
    if (lack !== this.lack[n]!) this.setLack(n, lack);
    const { scale, value, sum, square, nodeLoad } = this;
    const from = n * quantities;
    const put = from + quantities;
    this.fresh[freeMemory] = this.freeMem[n]! * scale[n * 4]!;
    this.fresh[freeDisk] = this.freeDsk[n]! * scale[n * 4 + 1]!;
    this.fresh[cpuRatio] = this.ownerCpus[n]! * scale[n * 4 + 2]!;
    this.fresh[spindleUse] = this.spindlesUsed[n]! * scale[n * 4 + 3]!;
    this.fresh[reserved] = need * scale[n * 4]!;
    for (let k = 0; k < 4; k++) this.fresh[load + k] = nodeLoad[n * 4 + k]! * this.loadScale[n * 4 + k]!;
    for (let at = from, k = 0; at < put; at++, k++) {
      const was = value[at]!;
      const is = this.fresh[k]!;
      if (was === is) continue;
      value[at] = is;
      sum[k]! += is - was;
      square[k]! += (is - was) * (is + was);
    }
  }

  private setLack(n: number, lack: number): void {
    const lacked = this.lack[n]!;
    this.lackSum += lack - lacked;
    if (this.fine[n] === 1) this.brokenLack += lack - lacked;
    const turns = (lack > 0 ? 1 : 0) - (lacked > 0 ? 1 : 0);
    if (turns < 0) this.countShort(n, -this.legs[n]!);
    this.lack[n] = lack;
    if (turns > 0) this.countShort(n, this.legs[n]!);
    this.shortNodes += turns;
    if (this.fine[n] === 1) this.brokenNodes += turns;
  }
}
