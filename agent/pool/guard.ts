import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { poolUnwell, type PoolUse } from '../../core/domain/node.js';
import { idSchema } from '../../core/domain/schema.js';
import type { Pool } from '../../core/domain/pool.js';
import { poolHasNode } from '../../core/domain/pool.js';
import type { Files } from './files.js';
import { folderPath, folders, identityName, type Worker } from './layout.js';
import type { Tool } from './tool.js';

/** Space that is never given away, bytes, whatever the pool's reserve: a file system at zero breaks its tenants. */
const reserveBytesMin = 16 * 1024 * 1024;

/** What `dd` does for a small write that is flushed; where to is to be said. */
const probe = ['if=/dev/zero', 'bs=512', 'count=1', 'conv=notrunc,fsync', 'status=none'];
/** $1 the mark's file, $2 where to write, $3 the mark. The shell reads it itself and becomes `dd`: one process, which can be killed. */
const glance = `IFS= read -r mark <"$1" && [ "$mark" = "$3" ] && exec dd ${probe.join(' ')} of="$2"`;

const identitySchema = z.object({ pool: idSchema, node: z.string().nullable() });

export interface Space {
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** What new data may take: free without the reserve. */
  readonly usableBytes: number;
}

export interface GuardOptions {
  readonly files: Files;
  readonly run: Tool;
  readonly worker: Worker;
  /** Here it is kept which pools this node has had before. */
  readonly stateDir: string;
  /** A pool that does not answer within this, ms, is not well. */
  readonly probeMs: number;
  /** Whether a shared pool must be on another file system than `/`, so that a forgotten mount is noticed at once. */
  readonly sharedNeedsMount: boolean;
}

/**
 * Says whether a pool's directory is really that pool, and answers.
 *
 * Each pool has a mark, `.flotilla-pool`, with its id. An unmounted mount point has none, and is never written to.
 * Reading the mark and trying a write are done by child processes that can be killed: a call of our own to a dead NFS
 * server would hold one of the few threads of this process until the server comes back.
 */
export class PoolGuard {
  readonly #o: GuardOptions;
  readonly #looks = new Map<string, Promise<PoolUse>>();
  readonly #seen = new Set<string>();

  constructor(o: GuardOptions) {
    this.#o = o;
  }

  /** How the pool is; a second caller gets the answer the first is waiting for. Never throws for a sick pool. */
  probe(pool: Pool): Promise<PoolUse> {
    const running = this.#looks.get(pool.id);
    if (running) return running;
    const look = this.#probe(pool).finally(() => this.#looks.delete(pool.id));
    this.#looks.set(pool.id, look);
    return look;
  }

  /** @throws FlotillaError `pool-unavailable` with what is wrong */
  async require(pool: Pool): Promise<Space> {
    if (pool.kind === 'thin')
      throw new FlotillaError('unsupported', `Pool "${pool.name}" holds disks only: it has no directory`, {
        hint: 'Put images into a local or shared pool.',
      });
    const use = await this.probe(pool);
    if (!use.ok) {
      throw new FlotillaError(
        'pool-unavailable',
        `Pool "${pool.name}" cannot be used on ${this.#o.worker.node}: ${use.text}`,
        {
          hint: 'Mend that, or choose another pool or node; the node page shows when it is well again.',
        },
      );
    }
    return spaceOf(pool, use);
  }

  /** Space right now, without the probe. */
  async space(pool: Pool): Promise<Space> {
    return spaceOf(pool, await this.#o.files.space(pool.path));
  }

  async #probe(pool: Pool): Promise<PoolUse> {
    const bad = (text: string): PoolUse => poolUnwell(pool.id, text);
    if (!poolHasNode(pool, this.#o.worker.node)) return bad('the pool is not on this node');
    try {
      const problem = await this.#problem(pool);
      if (problem !== null && problem !== 'full') return bad(problem);
      await this.remember(pool);
      const space = await this.#o.files.space(pool.path);
      return { pool: pool.id, ...space, ok: true, text: problem === 'full' ? 'no space is left' : '' };
    } catch (e) {
      return bad(e instanceof Error ? e.message : String(e));
    }
  }

  /**
   * Mark and write by one program, where all is well: pools are looked at every few seconds, and a program costs a busy agent
   * more than the look. What is not well is then found out step by step, but for a pool that does not answer.
   *
   * @returns what is wrong, `full` for no space; null: nothing
   */
  async #problem(pool: Pool): Promise<string | null> {
    const mark = JSON.stringify(this.#markOf(pool));
    const args = ['-c', glance, 'sh', `${pool.path}/${identityName}`, this.#probePath(pool), mark];
    try {
      const r = await this.#o.run('sh', args, { deadlineMs: this.#o.probeMs, codes: [1, 2], brief: true });
      if (r.code === 0) return null;
    } catch (e) {
      return silent(pool, this.#o.probeMs, e);
    }
    return (await this.#identify(pool)) ?? (await this.#tryWrite(pool));
  }

  #markOf(pool: Pool): { pool: string; node: string | null } {
    return { pool: pool.id, node: pool.kind === 'local' ? this.#o.worker.node : null };
  }

  #probePath(pool: Pool): string {
    return `${folderPath(pool, 'incoming')}/.probe.${this.#o.worker.node}`;
  }

  /** @returns what is wrong; null: the mark is this pool's */
  async #identify(pool: Pool): Promise<string | null> {
    const text = await this.#readMark(pool);
    if (typeof text === 'object') return text.problem;
    if (text !== '') return this.#judgeMark(pool, text);
    if (await this.hadBefore(pool))
      return `${pool.path} has lost its mark ${identityName}: the pool is not mounted`;
    const problem = await this.#found(pool);
    if (problem !== null) return problem;
    const now = await this.#readMark(pool);
    return typeof now === 'object' ? now.problem : this.#judgeMark(pool, now);
  }

  /** @returns the mark's text, empty when there is none */
  async #readMark(pool: Pool): Promise<string | { problem: string }> {
    try {
      const r = await this.#o.run('cat', ['--', `${pool.path}/${identityName}`], {
        deadlineMs: this.#o.probeMs,
        codes: [1],
      });
      if (r.code === 0)
        return r.stdout.trim() === '' ? { problem: `${pool.path}/${identityName} is empty` } : r.stdout;
      if (/No such file or directory/.test(r.stderr)) return '';
      return { problem: `${pool.path}: ${lastWords(r.stderr)}` };
    } catch (e) {
      return { problem: silent(pool, this.#o.probeMs, e) };
    }
  }

  #judgeMark(pool: Pool, text: string): string | null {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      return `${pool.path}/${identityName} cannot be read`;
    }
    const mark = identitySchema.safeParse(json);
    if (!mark.success) return `${pool.path}/${identityName} cannot be read`;
    if (mark.data.pool !== pool.id) return `${pool.path} belongs to another pool, ${mark.data.pool}`;
    if (pool.kind === 'local' && mark.data.node !== null && mark.data.node !== this.#o.worker.node)
      return `${pool.path} is the directory of node ${mark.data.node}: a local pool cannot be shared`;
    return null;
  }

  /** Marks a directory as this pool's: only one that is empty, so that nobody's files become ours. */
  async #found(pool: Pool): Promise<string | null> {
    const { files, worker } = this.#o;
    if (pool.kind === 'shared' && this.#o.sharedNeedsMount && !(await this.#isMounted(pool.path)))
      return `${pool.path} is on the node's own root file system: the shared directory is not mounted`;
    await files.makeDir(pool.path);
    const others = (await files.list(pool.path)).filter(
      (n) => n !== 'lost+found' && !n.startsWith(`${identityName}.tmp.`),
    );
    if (others.includes(identityName)) return null;
    if (others.length > 0)
      return `${pool.path} is not empty (${others.slice(0, 3).join(', ')}) and has no mark ${identityName}: choose an empty directory`;
    const temp = `${pool.path}/${identityName}.tmp.${worker.node}.${worker.boot}`;
    await files.remove(temp);
    await files.writeNew(temp, `${pool.path}/${identityName}`, `${JSON.stringify(this.#markOf(pool))}\n`);
    return null;
  }

  /** On another file system than the root's; of a path that does not exist yet, its nearest parent. */
  async #isMounted(path: string): Promise<boolean> {
    const root = await this.#o.files.stat('/');
    for (let p = path; p !== ''; p = p.slice(0, p.lastIndexOf('/'))) {
      const at = await this.#o.files.stat(p);
      if (at) return at.dev !== root?.dev;
    }
    return false;
  }

  /** A small write, flushed; also makes our folders where the mark is right but they are missing. */
  async #tryWrite(pool: Pool): Promise<string | null> {
    const args = [...probe, `of=${this.#probePath(pool)}`];
    const attempt = async (): Promise<string | null> => {
      try {
        const r = await this.#o.run('dd', args, { deadlineMs: this.#o.probeMs, codes: [1] });
        return r.code === 0 ? null : r.stderr;
      } catch (e) {
        if (e instanceof FlotillaError && e.code === 'no-space') return 'No space left on device';
        return silent(pool, this.#o.probeMs, e);
      }
    };
    let said = await attempt();
    if (said !== null && /No such file or directory/.test(said)) {
      for (const f of folders) await this.#o.files.makeDir(folderPath(pool, f));
      said = await attempt();
    }
    if (said === null) return null;
    return /No space left|quota exceeded/i.test(said) ? 'full' : `cannot be written: ${lastWords(said)}`;
  }

  /** Whether this node has ever had that pool: what looks new may be a drive that is away. */
  async hadBefore(pool: Pool): Promise<boolean> {
    return this.#seen.has(pool.id) || (await this.#o.files.stat(this.#seenPath(pool))) !== null;
  }

  async remember(pool: Pool): Promise<void> {
    if (this.#seen.has(pool.id)) return;
    if (!(await this.#o.files.stat(this.#seenPath(pool)))) {
      await this.#o.files.makeDir(`${this.#o.stateDir}/pools-seen`);
      await this.#o.files.writeText(`${this.#seenPath(pool)}.tmp`, this.#seenPath(pool), `${pool.path}\n`);
    }
    this.#seen.add(pool.id);
  }

  #seenPath(pool: Pool): string {
    return `${this.#o.stateDir}/pools-seen/${idSchema.parse(pool.id)}`;
  }
}

function spaceOf(pool: Pool, s: { totalBytes: number; freeBytes: number }): Space {
  const reserve = Math.max(reserveBytesMin, (s.totalBytes * pool.reservePct) / 100);
  return {
    totalBytes: s.totalBytes,
    freeBytes: s.freeBytes,
    usableBytes: Math.max(0, Math.floor(s.freeBytes - reserve)),
  };
}

const lastWords = (stderr: string): string => stderr.trim().split('\n').at(-1)?.slice(0, 200) ?? '';

const silent = (pool: Pool, ms: number, e: unknown): string =>
  e instanceof FlotillaError && e.code === 'timeout'
    ? `${pool.path} does not answer within ${ms / 1000} s`
    : e instanceof Error
      ? e.message
      : String(e);
