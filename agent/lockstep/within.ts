import { FlotillaError } from '../../core/domain/error.js';
import type { Clock } from '../env.js';

/** A question to another node, or work with it, that is given up. */
export const cancelled = (why: string): FlotillaError =>
  new FlotillaError('cancelled', why, { hint: 'Another twin is tried by itself.' });

/** A question that is given up after so long, or with `signal`. */
export async function within<T>(
  clock: Clock,
  ms: number,
  act: (signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const [limit, timer] = [new AbortController(), new AbortController()];
  void clock.sleep(ms, timer.signal).then(
    () => limit.abort(cancelled(`no answer within ${ms / 1000} s`)),
    () => undefined,
  );
  try {
    return await act(signal === undefined ? limit.signal : AbortSignal.any([signal, limit.signal]));
  } finally {
    timer.abort();
  }
}
