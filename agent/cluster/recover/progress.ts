import { rm } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { FlotillaError } from '../../../core/domain/error.js';
import { parse } from '../../../core/domain/schema.js';
import { readIfThere, writeSecret } from '../../pki/store.js';

/** How far rebuilding the ledger on this node is: whatever cuts it off, the same command goes on from here. */
export const progressSchema = z.object({
  how: z.enum(['voter', 'snapshot']),
  /** The snapshot; null where it is this voter's own data. */
  file: z.string().nullable(),
  /** Null: the new data is not made yet. Else the epoch it begins. */
  epoch: z.number().int().positive().nullable(),
});
export type Progress = z.output<typeof progressSchema>;

export const progressFile = (stateDir: string): string => path.join(stateDir, 'recovery.json');

export async function readProgress(stateDir: string): Promise<Progress | null> {
  const file = progressFile(stateDir);
  const text = await readIfThere(file);
  if (text === null) return null;
  try {
    return parse(progressSchema, JSON.parse(text), file);
  } catch (cause) {
    throw new FlotillaError('unreadable-record', `${file} cannot be read`, {
      hint: 'It says how far a recovery is. Remove it to begin anew.',
      cause,
    });
  }
}

export const writeProgress = (stateDir: string, p: Progress): Promise<void> =>
  writeSecret(progressFile(stateDir), `${JSON.stringify(p)}\n`);
export const endProgress = (stateDir: string): Promise<void> => rm(progressFile(stateDir), { force: true });
