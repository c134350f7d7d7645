import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import { runTool, type Tool } from './tool.js';

/** What `qemu-img info --output=json` tells, as far as it matters. @see qemu-img(1), QEMU 7.2 and 10.0 */
const infoSchema = z.object({
  'virtual-size': z.number().nonnegative(),
  format: z.string(),
  'actual-size': z.number().nonnegative().optional(),
  'backing-filename': z.string().optional(),
  'full-backing-filename': z.string().optional(),
  encrypted: z.boolean().optional(),
  'format-specific': z.object({ data: z.record(z.string(), z.unknown()).optional() }).optional(),
});
export type QemuInfo = z.output<typeof infoSchema>;

const checkSchema = z.object({
  corruptions: z.number().optional(),
  'check-errors': z.number().optional(),
  leaks: z.number().optional(),
});

/** Reading a header needs 60 MB and no time; a header that needs more wants to hurt. */
const infoJail = { memoryBytes: 2 ** 30, cpuS: 10 };
/** Checking and converting keep tables of the whole image in memory: 16 bits for each 64 KiB, plus caches. */
const workJail = { memoryBytes: 4 * 2 ** 30, cpuS: 6 * 3600 };
const infoDeadlineMs = 20_000;
/** A conversion that writes nothing of its progress for so long stands: on a slow drive one percent takes minutes. */
const stallMs = 15 * 60_000;

/** `qemu-img`, always with the format named: probing would let a file's author choose it. */
export class QemuImg {
  readonly #run: Tool;

  constructor(run: Tool = runTool) {
    this.#run = run;
  }

  /** Facts of a file, read in a jail. */
  async info(format: string, path: string, signal?: AbortSignal): Promise<QemuInfo> {
    const r = await this.#run('qemu-img', ['info', '--output=json', '-f', format, path], {
      jail: infoJail,
      deadlineMs: infoDeadlineMs,
      ...(signal && { signal }),
    });
    return parse(infoSchema, jsonOf(r.stdout, path), `qemu-img's facts of ${path}`);
  }

  /**
   * Looks for references that point nowhere, as a truncated file has them.
   *
   * @returns what is wrong; null: nothing, or the format has no such test
   */
  async check(format: string, path: string, signal: AbortSignal): Promise<string | null> {
    // 0 clean, 1 not done, 2 corrupt, 3 leaks (harmless), 63 not supported
    const r = await this.#run('qemu-img', ['check', '--output=json', '-f', format, path], {
      jail: workJail,
      stallMs,
      signal,
      codes: [1, 2, 3, 63],
    });
    if (r.code === 63 || r.code === 3) return null;
    if (r.code === 1) return r.stderr.trim().split('\n').at(-1)?.slice(0, 300) ?? 'cannot be checked';
    const found = parse(checkSchema, jsonOf(r.stdout, path), `qemu-img's check of ${path}`);
    const faults = (found.corruptions ?? 0) + (found['check-errors'] ?? 0);
    return faults === 0 ? null : `${faults} references in it point nowhere`;
  }

  /**
   * Copies all data of `from` into the new file `to`; what reads as zeros stays a hole.
   *
   * @param from.sizeBytes - of a raw device that goes on behind its data: only so much of it
   */
  async convert(
    from: { format: string; path: string; sizeBytes?: number },
    to: { format: string; path: string; options?: string },
    o: {
      signal: AbortSignal;
      progress: (share: number) => void;
      hostile?: boolean;
      /** `to` is there already. `zeros`: a new volume, which reads so. `data`: all of it is written over. */
      onto?: 'zeros' | 'data';
    },
  ): Promise<void> {
    const onto = o.onto === undefined ? [] : o.onto === 'data' ? ['-n'] : ['-n', '--target-is-zero'];
    const made = to.options === undefined ? [] : ['-o', to.options];
    const source =
      from.sizeBytes === undefined
        ? ['-f', from.format, from.path]
        : [
            '--image-opts',
            `driver=raw,size=${from.sizeBytes},file.driver=host_device,file.filename=${from.path}`,
          ];
    const args = ['convert', '-p', ...onto, '-O', to.format, ...made, ...source, to.path];
    await this.#run('qemu-img', args, {
      signal: o.signal,
      stallMs,
      ...(o.hostile && { jail: workJail }),
      onOutput: throttledPercent(o.progress),
    });
  }

  /** Makes an empty disk, or one over a backing file. */
  async create(
    format: string,
    path: string,
    sizeBytes: number,
    backing: { format: string; path: string } | null,
    signal: AbortSignal,
  ): Promise<void> {
    const over = backing ? ['-b', backing.path, '-F', backing.format] : [];
    await this.#run('qemu-img', ['create', '-q', '-f', format, ...over, path, String(sizeBytes)], {
      signal,
      deadlineMs: 60_000,
    });
  }

  async resize(
    format: string,
    path: string,
    sizeBytes: number,
    o: { readonly signal?: AbortSignal; readonly shrink?: boolean } = {},
  ): Promise<void> {
    const less = o.shrink === true ? ['--shrink'] : [];
    await this.#run('qemu-img', ['resize', '-q', ...less, '-f', format, path, String(sizeBytes)], {
      deadlineMs: 60_000,
      ...(o.signal && { signal: o.signal }),
    });
  }
}

/** Shares are told at most so often, ms: each may become a write to the ledger. */
const progressEveryMs = 300;

/** Reads `(12.34/100%)` from a stream of text. */
export function throttledPercent(
  tell: (share: number) => void,
  nowMs: () => number = () => performance.now(),
): (text: string) => void {
  let last = -Infinity;
  return (text) => {
    const found = [...text.matchAll(/\((\d+(?:\.\d+)?)\/100%\)/g)].at(-1)?.[1];
    const now = nowMs();
    if (found === undefined || now - last < progressEveryMs) return;
    last = now;
    tell(Math.min(1, Number(found) / 100));
  };
}

function jsonOf(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FlotillaError('tool-failed', `qemu-img said of ${path} what cannot be read`, {
      hint: 'See the version of qemu-utils on the node.',
      cause,
    });
  }
}
