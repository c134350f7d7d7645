import { formatSpan } from './units.js';
import type { CopyWords } from './vm.js';

const names: Readonly<Record<CopyWords['state'], string>> = {
  'in-sync': 'in sync',
  syncing: 'syncing',
  stale: 'stale',
  inconsistent: 'half copied',
  diskless: 'drive lost',
  'split-brain': 'split brain',
  apart: 'not connected',
  waiting: 'writes wait',
  unknown: 'unknown',
};

/** How a disk's two copies stand, in a few words: `syncing 43 %, 2 min left`. */
export function copyState(c: CopyWords): string {
  const share = c.done === null ? '' : ` ${Math.floor(c.done * 100)} %`;
  const left = c.leftS === null ? '' : `, ${formatSpan(c.leftS * 1000)} left`;
  return `${names[c.state]}${share}${left}`;
}

/** The same with what it means and what to do. */
export const copyLine = (c: CopyWords): string =>
  [`${copyState(c)}: ${c.text}`, c.hint].filter((x) => x !== '').join('. ');
