import { randomUUID } from 'node:crypto';
import { open, unlink, type FileHandle } from 'node:fs/promises';

/** Memory, not a drive: what is written here reaches no platter and is gone with its last descriptor. */
const memoryDir = '/dev/shm';

/**
 * A file without a name, for a program to inherit: unlike a pipe it can be read more than once. Nobody else can open
 * it, and nothing is left behind whatever is killed.
 */
export async function withAnonymousFile<T>(text: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const name = `${memoryDir}/flotilla-${randomUUID()}`;
  const file = await open(name, 'wx+', 0o600);
  try {
    await unlink(name);
    // At a position, so that the descriptor's own offset stays at the start.
    await file.write(text, 0);
    return await use(file);
  } finally {
    await file.close();
  }
}
