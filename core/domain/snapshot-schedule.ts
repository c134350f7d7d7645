import { z } from 'zod';

export const snapshotKindSchema = z.enum(['hourly', 'daily', 'weekly']);
export type SnapshotKind = z.output<typeof snapshotKindSchema>;

/** How many are kept; 0: none of that kind is taken. */
export const snapshotScheduleSchema = z.object({
  hourly: z.number().int().min(0).max(24),
  daily: z.number().int().min(0).max(14),
  weekly: z.number().int().min(0).max(8),
});
export type SnapshotSchedule = z.output<typeof snapshotScheduleSchema>;

/** A VM without one. */
export const noSchedule: SnapshotSchedule = { hourly: 0, daily: 0, weekly: 0 };

/** As a VM's record has it: counts of nothing are no schedule. */
export const scheduled = (x: SnapshotSchedule | null | undefined): { snapshots?: SnapshotSchedule } =>
  x === null || x === undefined || x.hourly + x.daily + x.weekly === 0 ? {} : { snapshots: x };

/** How many are kept, in words. */
export const scheduleWords = (x: SnapshotSchedule): string =>
  (['hourly', 'daily', 'weekly'] as const)
    .filter((k) => x[k] > 0)
    .map((k) => `${x[k]} ${k}`)
    .join(' ') || 'none';
