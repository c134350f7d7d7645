import type { HistoryField } from './history.js';
import { formatSize } from './units.js';

export const historyNames: Readonly<Record<HistoryField, string>> = {
  cpuPct: 'CPU',
  memoryUsedBytes: 'Memory in use',
  diskReadBps: 'Read from disks',
  diskWriteBps: 'Written to disks',
  netRxBps: 'Received',
  netTxBps: 'Sent',
};

/** A figure of a field for people, with its unit. */
export const formatFigure = (field: HistoryField, n: number): string =>
  field === 'cpuPct'
    ? `${n < 10 ? n.toFixed(1) : Math.round(n)} %`
    : field === 'memoryUsedBytes'
      ? formatSize(n)
      : `${formatSize(n)}/s`;
