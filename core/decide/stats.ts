import type { VmStats } from '../domain/vm.js';

/** Counters of one VM at one moment, as the hypervisor counts since the machine's start. */
export interface VmCounters {
  readonly monoMs: number;
  readonly cpuNs: number;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly memoryUsedBytes: number;
  readonly diskReadBytes: number;
  readonly diskWriteBytes: number;
  readonly netRxBytes: number;
  readonly netTxBytes: number;
}

/**
 * Rates between two readings. A counter that went back (the machine was started anew) reads as zero, never as
 * a negative rate.
 *
 * @returns null when the readings are not apart in time
 */
export function rates(before: VmCounters, after: VmCounters, wallMs: number): VmStats | null {
  const s = (after.monoMs - before.monoMs) / 1000;
  if (s <= 0) return null;
  const per = (a: number, b: number): number => Math.max(0, (b - a) / s);
  const cpu = per(before.cpuNs, after.cpuNs) / 1e9 / Math.max(1, after.vcpus);
  return {
    atMs: wallMs,
    cpuPct: Math.min(100, Math.round(cpu * 1000) / 10),
    memoryBytes: after.memoryBytes,
    memoryUsedBytes: after.memoryUsedBytes,
    diskReadBps: Math.round(per(before.diskReadBytes, after.diskReadBytes)),
    diskWriteBps: Math.round(per(before.diskWriteBytes, after.diskWriteBytes)),
    netRxBps: Math.round(per(before.netRxBytes, after.netRxBytes)),
    netTxBps: Math.round(per(before.netTxBytes, after.netTxBytes)),
  };
}
