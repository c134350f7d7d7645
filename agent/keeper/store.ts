import { stat } from 'node:fs/promises';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { journalFile, readJournal, type JournalRead } from '../journal/read.js';
import { writeFileDurably } from '../pki/files.js';
import { readIfThere } from '../pki/store.js';
import type { KeeperStore, RunRecord } from './env.js';

/** The keeper's files: `keeper.json` in a file system that the boot empties, epoch and journal on the disk. */
export class KeeperFiles implements KeeperStore {
  readonly #runFile: string;
  readonly #stateDir: string;
  readonly #node: string;
  #read: { readonly mark: string; readonly last: JournalRead['last'] } | null = null;

  constructor(o: { runtimeDir: string; stateDir: string; node: string }) {
    this.#runFile = path.join(o.runtimeDir, 'keeper.json');
    this.#stateDir = o.stateDir;
    this.#node = o.node;
    mkdirSync(o.runtimeDir, { recursive: true, mode: 0o700 });
  }

  loadRun(): RunRecord | null {
    try {
      return runRecord(JSON.parse(readFileSync(this.#runFile, 'utf8')));
    } catch {
      return null;
    }
  }

  saveRun(r: RunRecord): void {
    const json = JSON.stringify({ ...r, createRevision: r.createRevision?.toString() ?? null });
    writeFileSync(`${this.#runFile}.new`, json, { mode: 0o600 });
    renameSync(`${this.#runFile}.new`, this.#runFile);
  }

  async admittedEpoch(): Promise<number | null> {
    const text = (await readIfThere(this.#epochFile))?.trim();
    if (text === undefined) return null;
    if (!/^[1-9]\d{0,14}$/.test(text)) throw new Error(`${this.#epochFile} holds no epoch`);
    return Number(text);
  }

  async admitTo(epoch: number): Promise<void> {
    await writeFileDurably(this.#epochFile, `${epoch}\n`, { mode: 0o600 });
  }

  async journalGen(vm: string): Promise<number | null> {
    const e = (await this.#journal()).get(vm);
    if (e === undefined) return null;
    return e.owner === this.#node ? e.gen : e.gen - 1;
  }

  /** Asked for each VM anew, since it may change at any time; read only when it did. */
  async #journal(): Promise<JournalRead['last']> {
    const file = journalFile(this.#stateDir);
    const now = await stat(file, { bigint: true }).then(
      (s) => [s.ino, s.size, s.mtimeNs].join(' '),
      () => null,
    );
    if (now === null || this.#read?.mark !== now) {
      const { last } = await readJournal(file);
      // Marked as it was before the reading: written meanwhile, it is read again.
      this.#read = now === null ? null : { mark: now, last };
      return last;
    }
    return this.#read.last;
  }

  get #epochFile(): string {
    return path.join(this.#stateDir, 'epoch');
  }
}

/** @returns null: not well-formed. Then nothing of it is believed, as after a boot. */
function runRecord(v: unknown): RunRecord | null {
  const r = v as Record<string, unknown> | null;
  if (r === null || typeof r !== 'object') return null;
  const text = (x: unknown): x is string => typeof x === 'string';
  const texts = (x: unknown): x is string[] => Array.isArray(x) && x.every(text);
  const { boot, mode, lease, createRevision, goodMs, armed, held } = r;
  if (!text(boot) || (mode !== 'run' && mode !== 'ice' && mode !== 'thaw')) return null;
  if (lease !== null && !text(lease)) return null;
  if (createRevision !== null && !(text(createRevision) && /^\d+$/.test(createRevision))) return null;
  if (goodMs !== null && typeof goodMs !== 'number') return null;
  if (!Array.isArray(armed) || !texts(held)) return null;
  const vms: { vm: string; takeover: string[]; gen: number; confirmed: boolean }[] = [];
  for (const a of armed as unknown[]) {
    const { vm, takeover, gen = 0, confirmed } = (a ?? {}) as Record<string, unknown>;
    if (!text(vm) || !texts(takeover) || typeof confirmed !== 'boolean') return null;
    // A keeper of the release before noted none.
    if (typeof gen !== 'number') return null;
    vms.push({ vm, takeover, gen, confirmed });
  }
  return {
    boot,
    mode,
    lease,
    createRevision: createRevision === null ? null : BigInt(createRevision),
    goodMs,
    armed: vms,
    held,
  };
}
