import type { VmSpec } from './vm.js';

/** A disk as the machine has it. `path` is the file on the node. */
export interface HardwareDisk {
  readonly id: string;
  readonly bus: VmSpec['disks'][number]['bus'];
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
}

export interface HardwareNic {
  readonly id: string;
  readonly mac: string;
  readonly bridge: string;
  readonly model: VmSpec['nics'][number]['model'];
}

/**
 * The machine as built, in the words of the spec but with this node's paths and bridges: what a domain is made
 * from, and what is read back from a running one, so that both can be compared.
 */
export interface Hardware {
  readonly cpus: number;
  /** vCPUs that can be plugged without a restart. */
  readonly cpusMax: number;
  readonly memoryMiB: number;
  /** What the guest was started with; the balloon only goes below. */
  readonly memoryMaxMiB: number;
  readonly firmware: 'bios' | 'uefi';
  readonly boot: VmSpec['boot'];
  readonly disks: readonly HardwareDisk[];
  /** Path of the ISO in each CD drive; null: empty. */
  readonly cdroms: readonly (string | null)[];
  readonly nics: readonly HardwareNic[];
  /** A virtual watchdog that resets a guest which stops feeding it. */
  readonly watchdog: boolean;
  /** Its weight where CPUs are short: 1 to 10,000. */
  readonly cpuShares: number;
  /** µs that all its CPUs together may use in 100 ms; null: no limit. */
  readonly cpuQuotaUs: number | null;
  /** Path of the cloud-init seed. */
  readonly seed: string | null;
}

/** vCPU slots given to a new machine, so that vCPUs can be added while it runs. */
export const cpusMaxFor = (cpus: number): number => Math.min(256, Math.max(4, cpus * 2, cpus));
