import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Groups below groups that are looked into: a machine's scope has two levels in it. */
const depthMax = 6;

/** One group of cgroup v2. Its files are the kernel's own: reading and writing them waits for no disk. */
export class Cgroup {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  /** Null: the group is gone. */
  read(name: string): string | null {
    try {
      return readFileSync(path.join(this.dir, name), 'utf8');
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // ENODEV: it was removed while open. EOPNOTSUPP: a threaded group, whose processes are told one level up.
      if (code === 'ENOENT' || code === 'ENODEV' || code === 'EOPNOTSUPP') return null;
      throw error;
    }
  }

  /** @returns false: the group is gone */
  write(name: string, value: string): boolean {
    try {
      writeFileSync(path.join(this.dir, name), value);
      return true;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENODEV') return false;
      throw error;
    }
  }

  children(): Cgroup[] {
    try {
      const dirs = readdirSync(this.dir, { withFileTypes: true }).filter((e) => e.isDirectory());
      return dirs.map((e) => new Cgroup(path.join(this.dir, e.name)));
    } catch (error) {
      if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
      throw error;
    }
  }

  /** This group and all below. */
  tree(depth = depthMax): Cgroup[] {
    if (depth === 0) return [this];
    return [this, ...this.children().flatMap((c) => c.tree(depth - 1))];
  }

  /** Ids of processes (`cgroup.procs`) or threads (`cgroup.threads`) here and below. */
  ids(file: 'cgroup.procs' | 'cgroup.threads'): number[] {
    return this.tree().flatMap((c) => (c.read(file) ?? '').split('\n').filter(Boolean).map(Number));
  }

  get frozen(): boolean {
    return /^frozen 1$/m.test(this.read('cgroup.events') ?? 'frozen 1');
  }

  get populated(): boolean {
    return /^populated 1$/m.test(this.read('cgroup.events') ?? '');
  }

  /** Asked to freeze by its own setting, whatever its parents say. */
  get stopped(): boolean {
    return this.read('cgroup.freeze')?.trim() === '1';
  }

  /**
   * Whether nothing in it runs: the kernel says so, or every thread is trapped or in uninterruptible sleep. Such a
   * one is trapped before it runs its program again; until then `frozen` stays 0, with I/O that hangs for ever.
   */
  get still(): boolean {
    return this.frozen || (this.stopped && this.ids('cgroup.threads').every(threadStill));
  }

  /** Ends every process, frozen or not. */
  kill(): void {
    if (this.read('cgroup.events') === null) return;
    try {
      this.write('cgroup.kill', '1');
    } catch {
      // Before Linux 5.14 there is no such file.
      for (const pid of this.ids('cgroup.procs')) killProcess(pid);
    }
  }
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** @see proc(5): the state is the field behind the name, which may hold blanks and brackets */
function threadStill(tid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${tid}/stat`, 'utf8');
    const state = stat.charAt(stat.lastIndexOf(')') + 2);
    if (state === 'D' || state === 'Z' || state === 'X') return true;
    return readFileSync(`/proc/${tid}/wchan`, 'utf8').trim() === 'do_freezer_trap';
  } catch {
    return true; // it has ended
  }
}
