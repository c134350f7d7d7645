import { FlotillaError } from '../../core/domain/error.js';
import type { Pool } from '../../core/domain/pool.js';
import { isFull } from './files.js';
import type { Space } from './guard.js';
import type { Parts } from './parts.js';

/** How often a growing file's pool is looked at, ms: at 2 GB/s it loses 1 GB between two looks at most. */
const watchEveryMs = 500;

/**
 * Runs a step that fills `temp`. While it runs, the pool is watched so that it is never filled to the brim; whatever
 * way it fails, the file is gone afterwards.
 */
export async function building<T>(
  parts: Pick<Parts, 'files' | 'guard'>,
  temp: string,
  pool: Pool,
  what: string,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  let full: FlotillaError | null = null;
  let looking = false;
  const watch = setInterval(() => {
    if (looking) return;
    looking = true;
    parts.guard
      .space(pool)
      .then((space) => {
        if (space.usableBytes > 0 || full) return;
        full = outOfSpace(what, pool, space, 1);
        stop.abort(full);
      })
      .catch(() => undefined)
      .finally(() => (looking = false));
  }, watchEveryMs);
  try {
    signal.throwIfAborted();
    await parts.files.remove(temp);
    return await work(AbortSignal.any([signal, stop.signal]));
  } catch (e) {
    await parts.files.remove(temp).catch(() => undefined);
    if (full) throw full as FlotillaError;
    if (signal.aborted && !(e instanceof FlotillaError && e.code === 'cancelled'))
      throw new FlotillaError('cancelled', `${what} was cancelled`, {
        hint: 'Nothing half-made was kept.',
        cause: e,
      });
    if (isFull(e) || (e instanceof FlotillaError && e.code === 'no-space')) {
      const space = await parts.guard.space(pool).catch(() => null);
      throw space ? outOfSpace(what, pool, space, 1, e) : e;
    }
    throw e;
  } finally {
    clearInterval(watch);
  }
}

/** @throws FlotillaError `no-space`, with the numbers */
export function needSpace(what: string, pool: Pool, space: Space, bytes: number): void {
  if (bytes > space.usableBytes) throw outOfSpace(what, pool, space, bytes);
}

function outOfSpace(what: string, pool: Pool, space: Space, bytes: number, cause?: unknown): FlotillaError {
  return new FlotillaError(
    'no-space',
    `${what} does not fit into pool "${pool.name}": ${bytes} bytes more wanted, ${space.usableBytes} of ${space.totalBytes} may be used`,
    {
      hint: `Make room or choose another pool; ${pool.reservePct} % of it are kept free. Nothing half-made was kept.`,
      details: { neededBytes: bytes, ...space },
      cause,
    },
  );
}
