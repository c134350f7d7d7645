import { createHash } from 'node:crypto';
import { mkdir, rm, utimes, writeFile } from 'node:fs/promises';
import { FlotillaError } from '../../core/domain/error.js';
import type { Network } from '../../core/domain/network.js';
import { idSchema } from '../../core/domain/schema.js';
import type { VmSpec } from '../../core/domain/vm.js';
import type { Seeds as SeedsContract } from '../env.js';
import { Files } from '../pool/files.js';
import { runTool, type Tool } from '../pool/tool.js';
import { Turns } from '../pool/turn.js';
import { seedFiles, type SeedFiles } from './cloud-init.js';

export interface SeedsOptions {
  /** The agent's own directory; seeds stand in `seeds/` below it. */
  readonly stateDir: string;
  readonly run?: Tool;
}

/** Seeds have no history: the same content makes the same bytes. 1 January 2020. */
const dateS = 1_577_836_800;
const makeDeadlineMs = 30_000;
/** Rises when the way a seed is written changes, so that old ones are written anew. */
const recipe = 1;
/** Where ISO 9660 keeps the application id: there stands the hash of what is inside. @see ECMA-119 8.4.20 */
const appIdAt = 32_768 + 574;
const appIdBytes = 128;

/**
 * Cloud-init seeds as ISO files, one per VM. The hash of the content stands in the ISO itself, so a seed whose content
 * did not change is left alone (a running guest may have it open), and there is no second file to disagree with.
 */
export class Seeds implements SeedsContract {
  readonly #dir: string;
  readonly #run: Tool;
  readonly #files = new Files();
  readonly #turns = new Turns();

  constructor(o: SeedsOptions) {
    this.#dir = `${o.stateDir}/seeds`;
    this.#run = o.run ?? runTool;
  }

  async make(spec: VmSpec, networks: ReadonlyMap<string, Network>): Promise<string> {
    const files = seedFiles(spec, networks);
    const path = this.#path(spec.id);
    // Upper case: ISO 9660 knows no other.
    const appId = `FLOTILLA-${recipe}-${hashOf(files).toUpperCase()}`;
    await this.#turns.take(spec.id, async () => {
      await this.#files.makeDir(this.#dir);
      if ((await this.#appIdOf(path)) !== appId) await this.#write(spec, files, appId, path);
    });
    return path;
  }

  async remove(vmId: string): Promise<void> {
    await this.#turns.take(vmId, async () => {
      await this.#files.remove(this.#path(vmId));
      await this.#sweep(vmId);
    });
  }

  async #write(spec: VmSpec, files: SeedFiles, appId: string, path: string): Promise<void> {
    await this.#sweep(spec.id);
    const work = `${this.#dir}/.${spec.id}.tmp`;
    await mkdir(work, { mode: 0o700 });
    try {
      for (const [name, text] of Object.entries(files)) {
        await writeFile(`${work}/${name}`, text as string, { mode: 0o600 });
        await utimes(`${work}/${name}`, dateS, dateS);
      }
      const iso = `${work}.iso`;
      const date = '2020010100000000';
      const dates = [`--modification-date=${date}`, '--set_all_file_dates', date];
      const args = ['-as', 'mkisofs', '-quiet', '-o', iso, '-V', 'CIDATA', '-A', appId, '-J', '-r', ...dates];
      await this.#run('xorriso', [...args, ...Object.keys(files).map((name) => `${work}/${name}`)], {
        deadlineMs: makeDeadlineMs,
        env: { SOURCE_DATE_EPOCH: String(dateS), TZ: 'UTC' },
      });
      await this.#files.publish(iso, path);
    } catch (cause) {
      throw new FlotillaError('tool-failed', `The cloud-init seed of VM "${spec.name}" could not be made`, {
        hint: `See whether ${this.#dir} has space and xorriso is installed on the node.`,
        cause,
      });
    } finally {
      await this.#sweep(spec.id);
    }
  }

  /** Removes what a crash may have left of this VM's seed. */
  async #sweep(vmId: string): Promise<void> {
    await rm(`${this.#dir}/.${vmId}.tmp`, { recursive: true, force: true });
    await this.#files.remove(`${this.#dir}/.${vmId}.tmp.iso`);
  }

  async #appIdOf(path: string): Promise<string | null> {
    if (!(await this.#files.stat(path))) return null;
    return (await this.#files.readAt(path, appIdAt, appIdBytes)).toString('latin1').trimEnd();
  }

  #path(vmId: string): string {
    return `${this.#dir}/${idSchema.parse(vmId)}.iso`;
  }
}

function hashOf(files: SeedFiles): string {
  const hash = createHash('sha256');
  for (const name of Object.keys(files).sort()) {
    const text = files[name as keyof SeedFiles] ?? '';
    hash.update(`${name}\0${Buffer.byteLength(text)}\0${text}`);
  }
  return hash.digest('hex');
}
