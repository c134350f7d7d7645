import path from 'node:path';
import { errorRecord, type ErrorRecord } from '../../core/domain/error.js';
import type { KeeperState } from '../env.js';

/**
 * What agent and keeper say to one another: lines of JSON over a unix socket. The keeper pushes its state; the agent
 * asks, and tells of each finished pass. Times are CLOCK_MONOTONIC, the same for all processes of a machine.
 */
export const keeperSocket = (runtimeDir: string): string => path.join(runtimeDir, 'keeper.sock');

/** Longest line, characters. Some hundred VMs with their files fit. */
export const lineMax = 1_000_000;

/** Milliseconds of CLOCK_MONOTONIC. */
export function monotonicMs(): number {
  const [s, ns] = process.hrtime();
  return s * 1000 + ns / 1e6;
}

export type ToKeeper =
  | { readonly id: number; readonly arm: string; readonly takeover: readonly string[]; readonly gen: number }
  | { readonly id: number; readonly disarm: string }
  | { readonly id: number; readonly holds: string }
  | { readonly beat: true };

export type FromKeeper =
  | { readonly state: WireState }
  | { readonly re: number; readonly waitMs: number }
  | { readonly re: number; readonly holds: boolean }
  | { readonly re: number; readonly error: ErrorRecord };

export type WireState = Omit<KeeperState, 'createRevision'> & { readonly createRevision: string | null };

export const wireState = (s: KeeperState): WireState => ({
  ...s,
  createRevision: s.createRevision?.toString() ?? null,
});

export const stateOf = (w: WireState): KeeperState => ({
  ...w,
  createRevision: w.createRevision === null ? null : BigInt(w.createRevision),
});

export const refusal = (re: number, error: unknown): FromKeeper => ({ re, error: errorRecord(error) });

/** @returns null: not a line that an agent sends */
export function readToKeeper(line: string): ToKeeper | null {
  const m = parsed(line);
  if (m === null) return null;
  if (m['beat'] === true) return { beat: true };
  const { id, arm, disarm, holds, takeover, gen } = m;
  if (typeof id !== 'number') return null;
  if (typeof disarm === 'string') return { id, disarm };
  if (typeof holds === 'string') return { id, holds };
  if (typeof arm !== 'string' || !Array.isArray(takeover)) return null;
  const files = takeover.filter((f): f is string => typeof f === 'string' && path.isAbsolute(f));
  if (files.length !== takeover.length) return null;
  // An agent of the release before says none.
  return { id, arm, takeover: files, gen: typeof gen === 'number' ? gen : 0 };
}

/** The keeper and the agent are of one release, or next to one another: more than the form is not checked. */
export function readFromKeeper(line: string): FromKeeper | null {
  const m = parsed(line);
  const known =
    m !== null &&
    ('state' in m || (typeof m['re'] === 'number' && ('waitMs' in m || 'holds' in m || 'error' in m)));
  return known ? (m as unknown as FromKeeper) : null;
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    const v: unknown = JSON.parse(line);
    return typeof v === 'object' && v !== null ? (v as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** Cuts a stream into lines. @returns a function for its pieces, which throws where a line is too long */
export function lines(take: (line: string) => void): (piece: string) => void {
  let rest = '';
  return (piece) => {
    rest += piece;
    if (rest.length > lineMax) throw new RangeError('a line of the keeper is too long');
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      const line = rest.slice(0, end);
      rest = rest.slice(end + 1);
      take(line);
    }
  };
}
