import { z } from 'zod';
import { nodeIdSchema, wallMsSchema } from './schema.js';

/** What is kept of a node and of a VM over time. Of a node: traffic is that of its VMs. */
export const historyFields = [
  /** Share of the node's CPUs, or of the VM's own, 0 to 100. */
  'cpuPct',
  'memoryUsedBytes',
  'diskReadBps',
  'diskWriteBps',
  'netRxBps',
  'netTxBps',
] as const;
export type HistoryField = (typeof historyFields)[number];

/** How far back and how fine: a day of half minutes, a month of half hours. */
export const historySpans = {
  day: { stepS: 30, slots: 2_880 },
  month: { stepS: 1_800, slots: 1_440 },
} as const;
export type HistorySpan = keyof typeof historySpans;
export const historySpanSchema = z.enum(Object.keys(historySpans) as [HistorySpan, ...HistorySpan[]]);

const pointsMax = Math.max(...Object.values(historySpans).map((s) => s.slots));
const columnsSchema = z.object(
  Object.fromEntries(
    historyFields.map((f) => [f, z.array(z.number().nonnegative()).max(pointsMax)]),
  ) as Record<HistoryField, z.ZodArray<z.ZodNumber>>,
);

/** What one node kept, by columns. A time without a point is one in which nothing was seen: a gap, not a zero. */
export const historySchema = z.object({
  span: historySpanSchema,
  /** Length of what a point stands for, s. */
  stepS: z.number().int().positive(),
  /** Beginnings of the points' times, rising. */
  atMs: z.array(wallMsSchema).max(pointsMax),
  /** Mean over the point's time, and the highest reading within it. */
  avg: columnsSchema,
  max: columnsSchema,
});
export type History = z.output<typeof historySchema>;

/** As a controller puts it together of what the nodes kept. */
export const historyViewSchema = historySchema
  .extend({
    /** Nodes that may have kept something of it and did not answer. */
    silent: z.array(nodeIdSchema),
  })
  .meta({ id: 'History' });
export type HistoryView = z.output<typeof historyViewSchema>;

/** One point: its time, the mean and the highest reading of each field, in the order of {@link historyFields}. */
export interface HistoryPoint {
  readonly atS: number;
  readonly avg: readonly number[];
  readonly max: readonly number[];
}

/** Four digits are more than a chart shows. */
const short = (n: number): number => Number(n.toPrecision(4));

export function historyOf(span: HistorySpan, points: readonly HistoryPoint[]): History {
  const column = (of: 'avg' | 'max'): History['avg'] =>
    Object.fromEntries(
      historyFields.map((f, i) => [f, points.map((p) => short(p[of][i] ?? 0))]),
    ) as History['avg'];
  return {
    span,
    stepS: historySpans[span].stepS,
    atMs: points.map((p) => p.atS * 1000),
    avg: column('avg'),
    max: column('max'),
  };
}

/** Puts histories of one thing together; where two have a point of the same time the later one in the list counts. */
export function mergedHistory(span: HistorySpan, all: readonly History[]): History {
  const points = new Map<number, HistoryPoint>();
  for (const h of all) {
    h.atMs.forEach((ms, i) => {
      const of = (c: History['avg']): number[] => historyFields.map((f) => c[f][i] ?? 0);
      points.set(ms, { atS: ms / 1000, avg: of(h.avg), max: of(h.max) });
    });
  }
  return historyOf(
    span,
    [...points.values()].sort((a, b) => a.atS - b.atS),
  );
}

/** The coarse point that finer ones of its time make; null: there are none. */
export function coarser(atS: number, fine: readonly HistoryPoint[]): HistoryPoint | null {
  if (fine.length === 0) return null;
  const over = (
    of: (p: HistoryPoint, i: number) => number,
    fold: (a: number, b: number) => number,
  ): number[] => historyFields.map((_, i) => fine.map((p) => of(p, i)).reduce(fold));
  const sum = over(
    (p, i) => p.avg[i] ?? 0,
    (a, b) => a + b,
  );
  return {
    atS,
    avg: sum.map((n) => n / fine.length),
    max: over(
      (p, i) => p.max[i] ?? 0,
      (a, b) => Math.max(a, b),
    ),
  };
}
