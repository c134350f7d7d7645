import { FlotillaError } from '../../core/domain/error.js';

/** A command line that cannot be understood: how it is written instead. */
export function usage(text: string, cause?: unknown): FlotillaError {
  return new FlotillaError('bad-input', `Usage: ${text}`, { hint: 'See "flotilla-agent help".', cause });
}

/** Reads options; what is wrong with them becomes the usage. */
export function options<T>(text: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw usage(text, cause);
  }
}
