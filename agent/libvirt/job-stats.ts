import type { JobProgress, MigrateResult } from './hypervisor.js';
import type { TypedParam } from './protocol.js';

/** Values of typed parameters by name, 64-bit ones as plain numbers (exact below 2^53). */
export function numbers(params: readonly TypedParam[]): ReadonlyMap<string, number> {
  const map = new Map<string, number>();
  for (const { field, value } of params) {
    if (typeof value === 'bigint') map.set(field, Number(value));
    else if (typeof value === 'number') map.set(field, value);
    else if (typeof value === 'boolean') map.set(field, value ? 1 : 0);
  }
  return map;
}

/** Only those fields whose value is known; the rest is left out rather than set to undefined. */
export function known<T extends Record<string, number | undefined>>(
  fields: T,
): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/** libvirt's figures of a running migration, save or snapshot. */
export function jobProgress(params: readonly TypedParam[]): JobProgress {
  const n = numbers(params);
  const total = n.get('data_total');
  const remaining = n.get('data_remaining');
  const fraction = total === undefined || remaining === undefined || total <= 0 ? 0 : 1 - remaining / total;
  return {
    phase: total === undefined || total === 0 ? 'preparing' : 'copying',
    fraction: Math.min(1, Math.max(0, fraction)),
    ...known({
      elapsedMs: n.get('time_elapsed'),
      remainingMs: n.get('time_remaining'),
      downtimeMs: n.get('downtime'),
      totalBytes: total,
      processedBytes: n.get('data_processed'),
      remainingBytes: remaining,
      memoryTotalBytes: n.get('memory_total'),
      memoryRemainingBytes: n.get('memory_remaining'),
      memoryDirtyRatePages: n.get('memory_dirty_rate'),
      memoryIteration: n.get('memory_iteration'),
      memoryBps: n.get('memory_bps'),
      diskTotalBytes: n.get('disk_total'),
      diskRemainingBytes: n.get('disk_remaining'),
      diskBps: n.get('disk_bps'),
    }),
  };
}

/** The figures of a finished migration. */
export function jobResult(params: readonly TypedParam[]): MigrateResult {
  const n = numbers(params);
  return known({
    totalMs: n.get('time_elapsed'),
    downtimeMs: n.get('downtime'),
    memoryBytes: n.get('memory_processed'),
    diskBytes: n.get('disk_processed'),
  });
}
