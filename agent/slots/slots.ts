import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { execa } from 'execa';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import type { Slots, SlotState } from '../env.js';

/** What the appliance has for it; a host on which Flotilla was installed has none. */
const program = '/usr/lib/flotilla/slot';
/** Half a gigabyte to a slow drive, and read back, ms. */
const writeMs = 30 * 60_000;
const shortMs = 60_000;

const slotSchema = z.enum(['a', 'b']);
const stateSchema = z.object({
  booted: z.enum(['a', 'b', 'medium']),
  good: slotSchema,
  try: slotSchema.or(z.literal('')),
  tries: z.enum(['', '0', '1', '2']),
});

/** The two slots of the boot drive, by the appliance's own program. */
export class BootSlots implements Slots {
  /** Null: this is no appliance with a boot drive of its own. */
  async state(): Promise<SlotState | null> {
    const there = await access(program).then(
      () => true,
      () => false,
    );
    if (!there) return null;
    const said = await execa(program, ['show'], { timeout: shortMs, stdin: 'ignore', reject: false });
    if (said.exitCode !== 0) return null;
    const s = parse(stateSchema, slotWords(said.stdout), 'the state of the slots');
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    return { booted: s.booted, good: s.good, onTrial: s.try === '' ? null : s.try, boot };
  }

  async write(file: string, sha256: string, signal: AbortSignal): Promise<'a' | 'b'> {
    // Again, and of this very file: the copy may be of last year.
    const hash = createHash('sha256');
    for await (const part of createReadStream(file, { signal })) hash.update(part as Buffer);
    if (hash.digest('hex') !== sha256) {
      throw new FlotillaError('checksum-mismatch', `${file} is not what the catalogue says`, {
        hint: 'Import the image again.',
      });
    }
    return slotSchema.parse(await this.#run(['write', file], { timeout: writeMs, cancelSignal: signal }));
  }

  async tryNext(): Promise<void> {
    await this.#run(['try'], { timeout: shortMs });
  }

  async good(): Promise<void> {
    await this.#run(['good'], { timeout: shortMs });
  }

  async restart(): Promise<void> {
    await execa('systemctl', ['--no-block', 'reboot'], { timeout: shortMs, stdin: 'ignore' });
  }

  async #run(args: string[], o: { timeout: number; cancelSignal?: AbortSignal }): Promise<string> {
    try {
      return (await execa(program, args, { ...o, stdin: 'ignore' })).stdout.trim();
    } catch (cause) {
      throw new FlotillaError('tool-failed', `The slots of this node: ${args[0] ?? ''} failed`, {
        hint: 'Is the image one of "images/build image", and the boot drive well? See the cause.',
        cause,
      });
    }
  }
}

/** `booted=a good=a try= tries=0` as an object. */
export function slotWords(text: string): Record<string, string> {
  return Object.fromEntries(
    text
      .trim()
      .split(/\s+/)
      .map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]),
  );
}
