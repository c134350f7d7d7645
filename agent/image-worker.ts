import { errorRecord, FlotillaError } from '../core/domain/error.js';
import type { Image } from '../core/domain/image.js';
import type { Op } from '../core/domain/op.js';
import { ledger as kinds, unique, writeRecord } from '../core/wire/ledger-keys.js';
import type { AgentEnv } from './env.js';
import type { OpBook } from './op-book.js';
import { OpJobs } from './op-jobs.js';
import type { Kept, Snapshot } from './snapshot.js';

/** Images worked on at the same time on one node. */
const atOnce = 2;

/** Does the `image.*` ops that name this node. An op found half-way is begun again: every step repeats safely. */
export class ImageWorker {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly jobs: OpJobs;

  constructor(env: AgentEnv, ops: OpBook, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.jobs = new OpJobs(env, {
      atOnce,
      takes: (op) => op.kind.startsWith('image.'),
      work: (kept, s, signal) => this.work(kept, s, signal),
      wake,
    });
  }

  stop(): void {
    this.jobs.stop();
  }

  /** Starts what is to be done, stops what was cancelled. Never waits. */
  look(s: Snapshot): void {
    this.jobs.look(s);
  }

  private async work(kept: Kept<Op>, s: Snapshot, signal: AbortSignal): Promise<void> {
    const { env } = this;
    const op = kept.value;
    const id = op.subject.id;
    try {
      const image = s.images.get(id);
      const pool = image && s.pools.get(image.value.pool)?.value;
      if (image === undefined || pool === undefined) {
        if (op.kind === 'image.delete' && !s.unreadable.includes(kinds.image.key(id))) {
          return await this.ops.finish(kept, 'done', 'deleted');
        }
        throw new FlotillaError('not-found', `Image ${op.subject.name} or its pool is not in the ledger`, {
          hint: 'Begin the import again.',
        });
      }
      if (op.kind === 'image.delete') {
        await env.volumes.removeImage(image.value, pool);
        const r = await env.ledger.txn(
          [{ key: kinds.image.key(id), modRevision: image.modRevision }],
          [{ del: kinds.image.key(id) }, { del: unique.name('image', image.value.name) }],
        );
        if (!r.done) return; // changed meanwhile: looked at again
        return await this.finish(op, 'deleted');
      }
      const facts = await env.volumes.importImage(image.value, pool, {
        signal,
        progress: (share, step) => this.ops.progress(op, share, step ?? 'imports'),
      });
      await this.put(image, { ...image.value, ...facts, state: 'ready', error: null });
      await this.finish(op, 'ready');
    } catch (e) {
      if (this.jobs.stopped) return; // taken up again after the restart
      const error = signal.aborted
        ? new FlotillaError('cancelled', `The work on image "${op.subject.name}" was cancelled`, {
            hint: 'Delete the image, or import it again.',
            cause: e,
          })
        : e;
      if (error instanceof FlotillaError && error.code === 'ledger-unavailable') return;
      await this.fail(op, id, error).catch(() => undefined);
    }
  }

  private async finish(op: Op, step: string): Promise<void> {
    const kept = await this.ops.latest(op.id);
    if (kept !== null) await this.ops.finish(kept, 'done', step);
  }

  private async fail(op: Op, id: string, error: unknown): Promise<void> {
    const e = await this.env.ledger.get(kinds.image.key(id));
    if (e !== null && op.kind === 'image.import') {
      const image = JSON.parse(e.value) as Image;
      await this.put(
        { value: image, modRevision: e.modRevision },
        { ...image, state: 'failed', error: errorRecord(error) },
      );
    }
    const kept = await this.ops.latest(op.id);
    if (kept !== null) await this.ops.fail(kept, error);
  }

  private async put(kept: Kept<Image>, image: Image): Promise<void> {
    const key = kinds.image.key(image.id);
    await this.env.ledger.txn(
      [{ key, modRevision: kept.modRevision }],
      [{ put: key, value: writeRecord(kinds.image, image) }],
    );
  }
}
