import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { imageFormatSchema } from '../../core/domain/image.js';
import type { Files } from './files.js';
import { headBytes, readQcow2Header } from './header.js';
import type { Tool } from './tool.js';

/** What stands beside an image, and what a peer that fetches it is told. */
export const imageFactsSchema = z.object({
  format: imageFormatSchema.extract(['raw', 'qcow2', 'iso']),
  sizeBytes: z.number().int().nonnegative(),
  virtualSizeBytes: z.number().int().nonnegative(),
  /** Of the bytes as they came in. */
  sha256: z.string().nullable(),
  /** Of the file as it is stored: what a fetching node compares; null: made as it came, nobody has read it since. */
  storedSha256: z.string().nullable(),
  /** A copy of another node's image: may be removed and fetched again. */
  cached: z.boolean(),
});
export type ImageFacts = z.output<typeof imageFactsSchema>;

/** Hashing at 20 MB/s, the slowest drive we met, takes so long per byte, ms; plus a base. */
const hashMsPerByte = 1 / 20_000;

/** SHA-256 of a file, by a child process: hashing gigabytes here would make the agent deaf. */
export async function sha256Of(
  run: Tool,
  path: string,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<string> {
  const r = await run('sha256sum', ['--binary', '--', path], {
    signal,
    deadlineMs: 60_000 + sizeBytes * hashMsPerByte,
  });
  return z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .parse(r.stdout.slice(0, 64));
}

/**
 * Bytes the guest sees, by the file itself.
 *
 * @throws FlotillaError `not-found`: no such file; `tool-failed`: not what its name says
 */
export async function virtualSizeOf(
  files: Files,
  format: string,
  path: string,
  what: string,
): Promise<number> {
  const stat = await files.stat(path);
  if (!stat) {
    throw new FlotillaError('not-found', `The file of ${what} is not there`, {
      hint: 'It was removed by hand, or the pool is not the one it was.',
    });
  }
  if (format !== 'qcow2') return stat.sizeBytes;
  const header = readQcow2Header(await files.readAt(path, 0, headBytes));
  if (!header)
    throw new FlotillaError('tool-failed', `${what} is no qcow2 file`, {
      hint: 'It was overwritten by hand.',
    });
  return header.virtualSizeBytes;
}
