import { randomInt } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Health } from '../../core/domain/node.js';
import { epochKey } from '../../core/wire/ledger-keys.js';
import type { Clock, Log } from '../env.js';
import type { Ledger } from '../ledger/ledger.js';
import type { LedgerMembers } from '../ledger/members.js';
import { syncDir } from '../pki/files.js';
import { snapshotFault } from './check.js';
import { alone, snapshotName, storedSnapshots, toForget, type StoredSnapshot } from './shelf.js';

/** A snapshot is taken so often, ms. */
export const snapshotEveryMs = 3_600_000;
/** Spread of the times of nodes, ms: a voter shall not serve all of them at once. */
const spreadMs = 300_000;
/** How long after the start of the agent the first is due at the earliest, ms; up to as much again, by chance. */
const firstMs = 30_000;
/** After a failure it is tried again, ms. */
const againMs = 300_000;
/** The newest being older than this is worth a person's look, ms. */
const oldMs = 3 * 3_600_000;

export interface SnapshotDeps {
  readonly dir: string;
  readonly ledger: Pick<Ledger, 'list'>;
  readonly members: Pick<LedgerMembers, 'snapshot'>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Takes one snapshot of the ledger now: read linearizably first, so that a voter without a quorum gives none, then
 * streamed, checked, and only then under its name.
 *
 * @throws FlotillaError `wrong-state`: one is being taken; `ledger-unavailable`; `checksum-mismatch`
 */
export async function takeSnapshot(d: Omit<SnapshotDeps, 'log'>): Promise<StoredSnapshot> {
  const taken = await alone(d.dir, async () => {
    // What a killed one left.
    for (const name of await readdir(d.dir)) {
      if (name.endsWith('.new') || name.endsWith('.part')) await rm(path.join(d.dir, name), { force: true });
    }
    const { entries, revision } = await d.ledger.list(epochKey);
    const epoch = Number(entries.find((e) => e.key === epochKey)?.value);
    if (!Number.isSafeInteger(epoch)) {
      throw new FlotillaError('unreadable-record', 'The ledger has no epoch', {
        hint: 'Is it the right ledger? Nothing was stored.',
      });
    }
    const takenMs = d.clock.wallMs();
    const file = path.join(d.dir, snapshotName(takenMs, epoch, revision));
    const fresh = `${file}.new`;
    const bytes = await d.members.snapshot(fresh);
    const fault = await snapshotFault(fresh);
    if (fault !== null) {
      await rm(fresh, { force: true });
      throw new FlotillaError('checksum-mismatch', `The snapshot of the ledger was refused: ${fault}`, {
        hint: 'The former snapshots are untouched; it is tried again.',
      });
    }
    await rename(fresh, file);
    await syncDir(d.dir);
    for (const old of toForget(await storedSnapshots(d.dir), takenMs)) await rm(old.file, { force: true });
    return { file, takenMs, epoch, revision: String(revision), bytes };
  });
  if (taken !== null) return taken;
  throw new FlotillaError('wrong-state', 'A snapshot of the ledger is being taken already', {
    hint: 'Wait for it: flotilla-agent ledger snapshots.',
  });
}

/** Keeps snapshots of the ledger on this node, voter or not: with all voters' disks lost they are what is left. */
export class SnapshotKeeper {
  readonly #d: SnapshotDeps;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #newestMs: number | null = null;
  #startedMs = 0;
  #failure: string | null = null;

  constructor(d: SnapshotDeps) {
    this.#d = d;
  }

  start(): void {
    this.#startedMs = this.#d.clock.wallMs();
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopped'));
    await this.#running;
  }

  /** Nothing while there is one that is young enough. */
  health(): Health[] {
    const ageMs = this.#d.clock.wallMs() - (this.#newestMs ?? this.#startedMs);
    if (this.#running === null || ageMs < oldMs) return [];
    const since =
      this.#newestMs === null ? 'none was taken' : `the newest is ${Math.floor(ageMs / 3_600_000)} h old`;
    const why = this.#failure === null ? '' : `: ${this.#failure}`;
    return [{ part: 'ledger snapshots', ok: false, text: `${since}${why}`.slice(0, 500) }];
  }

  async #run(): Promise<void> {
    const { clock, dir } = this.#d;
    const { signal } = this.#stop;
    await mkdir(dir, { recursive: true, mode: 0o700 }).catch(() => undefined);
    let pauseMs = firstMs + randomInt(firstMs);
    while (!signal.aborted) {
      await clock.sleep(pauseMs, signal).catch(() => undefined);
      if (!signal.aborted) pauseMs = await this.step();
    }
  }

  /** One look: takes a snapshot where it is time. @returns ms until the next look */
  async step(): Promise<number> {
    const { clock, dir, log } = this.#d;
    try {
      const [newest] = await storedSnapshots(dir);
      this.#newestMs = newest?.takenMs ?? null;
      // A clock that was set back makes no hole: what lies in the future counts as due.
      const ageMs = newest === undefined ? Infinity : Math.abs(clock.wallMs() - newest.takenMs);
      if (ageMs < snapshotEveryMs - spreadMs) return snapshotEveryMs - spreadMs - ageMs + randomInt(spreadMs);
      const taken = await takeSnapshot(this.#d);
      this.#newestMs = taken.takenMs;
      this.#failure = null;
      return snapshotEveryMs - randomInt(spreadMs);
    } catch (error) {
      const { code, message, causes } = errorRecord(error);
      this.#failure = message;
      log.warn('no snapshot of the ledger', { code, message, causes });
      return againMs;
    }
  }
}
