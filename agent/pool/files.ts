import fsPromises from 'node:fs/promises';
import { constants } from 'node:fs';
import { dirname } from 'node:path';
import { FlotillaError } from '../../core/domain/error.js';

/** The file calls of the pools: tests let one of them fail or be the last. */
export type FileCalls = Pick<
  typeof fsPromises,
  | 'open'
  | 'rename'
  | 'unlink'
  | 'mkdir'
  | 'readdir'
  | 'stat'
  | 'statfs'
  | 'readFile'
  | 'truncate'
  | 'chmod'
  | 'link'
>;

/** Sidecars are small; a larger one is not ours. */
const smallFileBytesMax = 65_536;

/** A call that touches only names and small data, ms: an NFS server that restarts answers within this. */
const callDeadlineMs = 30_000;
/** Flushing gigabytes to a slow drive, ms. */
const syncDeadlineMs = 15 * 60_000;

/**
 * A call with an end. What hangs in the kernel goes on hanging, but its caller gets an answer.
 *
 * @throws FlotillaError `timeout`
 */
async function within<T>(path: string, work: Promise<T>, ms = callDeadlineMs): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(
        new FlotillaError('timeout', `${path} did not answer for ${ms / 1000} s`, {
          hint: 'The pool hangs: see its server and the network to it. Running VMs on it stand still too.',
        }),
      );
    }, ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

const codeOf = (e: unknown): string => (e as NodeJS.ErrnoException | null)?.code ?? '';
export const isAbsent = (e: unknown): boolean => codeOf(e) === 'ENOENT' || codeOf(e) === 'ENOTDIR';
export const isFull = (e: unknown): boolean => codeOf(e) === 'ENOSPC' || codeOf(e) === 'EDQUOT';

/**
 * Files that are either there whole or not at all, also after a power loss: what is new is written under another name,
 * flushed, renamed, and the rename flushed too. All files 0600, all directories 0700: QEMU runs as root on a node.
 */
export class Files {
  readonly calls: FileCalls;

  constructor(calls: FileCalls = fsPromises) {
    this.calls = calls;
  }

  /** @returns null when there is no such file */
  async stat(
    path: string,
  ): Promise<{ sizeBytes: number; allocatedBytes: number; dev: number; isDir: boolean } | null> {
    try {
      const s = await within(path, this.calls.stat(path));
      return { sizeBytes: s.size, allocatedBytes: s.blocks * 512, dev: s.dev, isDir: s.isDirectory() };
    } catch (e) {
      if (isAbsent(e)) return null;
      throw e;
    }
  }

  /** Names in a directory, sorted; none when it does not exist. */
  async list(dir: string): Promise<string[]> {
    try {
      return (await within(dir, this.calls.readdir(dir))).sort();
    } catch (e) {
      if (isAbsent(e)) return [];
      throw e;
    }
  }

  /** A small text file; null when absent. */
  async readText(path: string): Promise<string | null> {
    try {
      const handle = await within(path, this.calls.open(path, 'r'));
      try {
        const buffer = Buffer.alloc(smallFileBytesMax);
        const { bytesRead } = await within(path, handle.read(buffer, 0, buffer.length, 0));
        return buffer.toString('utf8', 0, bytesRead);
      } finally {
        await handle.close();
      }
    } catch (e) {
      if (isAbsent(e)) return null;
      throw e;
    }
  }

  /** Bytes of a file from `offset`; fewer at its end. */
  async readAt(path: string, offset: number, length: number): Promise<Buffer> {
    const handle = await within(path, this.calls.open(path, 'r'));
    try {
      const buffer = Buffer.alloc(length);
      let done = 0;
      while (done < length) {
        const { bytesRead } = await within(path, handle.read(buffer, done, length - done, offset + done));
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return buffer.subarray(0, done);
    } finally {
      await handle.close();
    }
  }

  async makeDir(path: string): Promise<void> {
    if (await this.stat(path)) return;
    await within(path, this.calls.mkdir(path, { recursive: true, mode: 0o700 }));
    await this.syncDir(dirname(path));
  }

  /** Makes the file at `temp` the one at `path`, for good. */
  async publish(temp: string, path: string): Promise<void> {
    await within(temp, this.calls.chmod(temp, 0o600));
    await this.sync(temp);
    await within(path, this.calls.rename(temp, path));
    await this.syncDir(dirname(path));
  }

  /** The same unless there is one by that name already, which another node may have open. */
  async publishNew(temp: string, path: string): Promise<void> {
    await within(temp, this.calls.chmod(temp, 0o600));
    await this.sync(temp);
    await this.#linkNew(temp, path);
  }

  /** What is flushed gets its name, unless that is taken. */
  async #linkNew(temp: string, path: string): Promise<void> {
    try {
      await within(path, this.calls.link(temp, path));
    } catch (e) {
      if (codeOf(e) !== 'EEXIST') throw e;
    }
    await this.remove(temp);
    await this.syncDir(dirname(path));
  }

  /** Writes a small file whole. */
  async writeText(temp: string, path: string, text: string): Promise<void> {
    const handle = await within(temp, this.calls.open(temp, 'w', 0o600));
    try {
      await within(temp, handle.writeFile(text));
    } finally {
      await handle.close();
    }
    await this.publish(temp, path);
  }

  /** Writes a small file whole unless there is one by that name already. */
  async writeNew(temp: string, path: string, text: string): Promise<void> {
    const handle = await within(temp, this.calls.open(temp, 'wx', 0o600));
    try {
      await within(temp, handle.writeFile(text));
      await within(temp, handle.sync());
    } finally {
      await handle.close();
    }
    await this.#linkNew(temp, path);
  }

  /** @returns whether there was one */
  async remove(path: string): Promise<boolean> {
    try {
      await within(path, this.calls.unlink(path));
      return true;
    } catch (e) {
      if (isAbsent(e)) return false;
      throw e;
    }
  }

  async sync(path: string): Promise<void> {
    const handle = await within(path, this.calls.open(path, 'r+'));
    try {
      await within(path, handle.sync(), syncDeadlineMs);
    } finally {
      await handle.close();
    }
  }

  /**
   * All that is written to a file or device meanwhile is on its drive when this ends. It is held open all the while: qemu-img
   * flushes nothing, and of what the kernel could not write after that had ended only who had it open before is told.
   *
   * @throws Error as `write`; what could not be written
   */
  async written<T>(path: string, write: () => Promise<T>): Promise<T> {
    const handle = await within(path, this.calls.open(path, 'r'));
    try {
      const r = await write();
      await within(path, handle.sync(), syncDeadlineMs);
      return r;
    } finally {
      await handle.close();
    }
  }

  async syncDir(path: string): Promise<void> {
    const handle = await within(path, this.calls.open(path, constants.O_RDONLY | constants.O_DIRECTORY));
    try {
      await within(path, handle.sync(), syncDeadlineMs);
    } finally {
      await handle.close();
    }
  }

  async space(path: string): Promise<{ totalBytes: number; freeBytes: number }> {
    const s = await within(path, this.calls.statfs(path));
    return { totalBytes: s.blocks * s.bsize, freeBytes: s.bavail * s.bsize };
  }
}
