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
