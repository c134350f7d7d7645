/** CPU, memory, disk and network use of a VM, each in a unit of its own that is the same for all VMs. */
export type LoadVector = readonly [cpu: number, memory: number, disk: number, net: number];

/** A node as the planner sees it. Sizes in MiB. */
export interface PlanNode {
  readonly name: string;
  /** `drained`: still runs what is on it, gets nothing new. `dead`: nothing can be read from it. */
  readonly state: 'online' | 'drained' | 'dead';
  /** VMs never leave their group of nodes. */
  readonly group: string;
  /** Of the machine; shares are taken of it. */
  readonly memoryMiB: number;
  /** Of that, what VMs may use: without what the node itself takes. */
  readonly vmMemoryMiB: number;
  readonly diskMiB: number;
  /** Of that, what VMs' replicas may use. */
  readonly vmDiskMiB: number;
  readonly cpus: number;
  /** Relative to a CPU of speed 1. */
  readonly cpuSpeed: number;
  /** vCPUs the node itself takes. */
  readonly ownCpus: number;
  /** vCPUs a CPU may promise. */
  readonly cpuRatioMax: number;
  /** Replicas' weights it can carry. */
  readonly spindles: number;
  /** What fails together with it, e.g. its rack. */
  readonly domains: readonly string[];
  /** What it can carry of each load: shares are taken of it. Absent: 1 each. */
  readonly carries?: LoadVector;
}

/** A VM as the planner sees it. Sizes in MiB. */
export interface PlanVm {
  readonly name: string;
  readonly memoryMiB: number;
  /** One replica of all its disks. */
  readonly diskMiB: number;
  readonly cpus: number;
  /** Weight of one of its replicas in a node's `spindles`. */
  readonly spindles: number;
  readonly load: LoadVector;
  /** Empty, as `standby`, for a VM that is not placed yet; `standby` alone, where it has none. */
  readonly owner: string;
  readonly standby: string;
  /** It needs no standby: nothing is missing where it has none. */
  readonly alone?: true;
  /** The nodes that reach its disks. Absent: all. */
  readonly on?: readonly string[];
  /** Labels that two VMs on one node, or in one domain, should not share. */
  readonly apart: readonly string[];
}

/** What people want of VMs and nodes; names as in the cluster. @see {@link Rules} */
export interface PlanRule {
  readonly name: string;
  /** VMs on one node, on different nodes; each on one of these nodes, on none of them. */
  readonly kind: 'together' | 'apart' | 'on' | 'not-on';
  /** Nothing breaks it; else it only weighs. */
  readonly must: boolean;
  /** What `together` and `apart` look at; absent: nodes. */
  readonly over?: 'node' | 'rack';
  readonly vms: readonly string[];
  readonly nodes: readonly string[];
}

export interface PlanCluster {
  readonly nodes: readonly PlanNode[];
  readonly vms: readonly PlanVm[];
  readonly rules?: readonly PlanRule[];
}

/**
 * One operation on one VM: `swap` makes the standby the owner, `copy` makes `node` the standby by copying all disks
 * there from the owner.
 */
export type PlanOp = { readonly op: 'swap' } | { readonly op: 'copy'; readonly node: string };

/** One step of a plan: where a VM is after it, and the operations that bring it there. */
export interface PlanStep {
  readonly vm: string;
  readonly owner: string;
  readonly standby: string;
  readonly ops: readonly PlanOp[];
}

/** What steps cost. */
export interface PlanCost {
  readonly diskMiB: number;
  readonly memoryMiB: number;
}

export interface BalancePlan {
  readonly steps: readonly PlanStep[];
  /** Imbalance before and after; lower is better. */
  readonly before: number;
  readonly after: number;
  readonly cost: PlanCost;
}
