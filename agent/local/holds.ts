import { stat } from 'node:fs/promises';
import { z } from 'zod';
import { idSchema, wallMsSchema } from '../../core/domain/schema.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Hold, Holds } from '../env.js';
import { writeFileDurably } from '../pki/files.js';
import { readIfThere } from '../pki/store.js';

/** More than any node has VMs; a bound for the file. */
const holdsMax = 4_096;
const fileSchema = z
  .array(z.object({ vm: idSchema, by: z.string().max(128), atMs: wallMsSchema }))
  .max(holdsMax);

/**
 * VMs that somebody stopped at this node and holds off: `<stateDir>/holds.json`, which root's command writes as well as the
 * node's page. Only this node heeds it, and only by stopping: it never makes anything start.
 */
export class HoldFile implements Holds {
  readonly #file: string;
  #mark = '';
  #holds: ReadonlyMap<string, Hold> = new Map();

  constructor(file: string) {
    this.#file = file;
  }

  all(): ReadonlyMap<string, Hold> {
    return this.#holds;
  }

  /** Takes up what the file says, where it has changed. One that cannot be read leaves all as it was. */
  async look(): Promise<void> {
    const at = await stat(this.#file).catch(() => null);
    const mark = at === null ? 'none' : `${at.ino} ${at.mtimeMs} ${at.size}`;
    if (mark === this.#mark) return;
    const text = (await readIfThere(this.#file)) ?? '[]';
    const holds = fileSchema.parse(JSON.parse(text));
    this.#holds = new Map(holds.map((h) => [h.vm, { by: h.by, atMs: h.atMs }]));
    this.#mark = mark;
  }

  async hold(vm: string, hold: Hold): Promise<void> {
    await this.look();
    if (this.#holds.size >= holdsMax && !this.#holds.has(vm)) {
      throw new FlotillaError('wrong-state', `${holdsMax} VMs are held here already`, {
        hint: 'Let go of those that are not needed.',
      });
    }
    await this.#write(new Map([...this.#holds, [vm, hold]]));
  }

  /** One that is not held is no fault. */
  async release(vm: string): Promise<void> {
    await this.look();
    if (!this.#holds.has(vm)) return;
    await this.#write(new Map([...this.#holds].filter(([id]) => id !== vm)));
  }

  async #write(holds: ReadonlyMap<string, Hold>): Promise<void> {
    const list = [...holds].map(([vm, h]) => ({ vm, ...h }));
    await writeFileDurably(this.#file, JSON.stringify(list), { mode: 0o600 });
    await this.look();
  }
}
