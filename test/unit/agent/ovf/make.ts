import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface TarFile {
  readonly name: string;
  readonly data?: string | Buffer;
  /** `0` a file, `2` a symbolic link, `x` pax, `L` a long name … */
  readonly kind?: string;
  /** What the header claims; otherwise as long as the data. */
  readonly size?: number;
  /** The size in binary, as GNU tar writes large ones. */
  readonly binary?: boolean;
  readonly prefix?: string;
}

/** What a pax header says of the next file. */
export function pax(key: string, value: string): TarFile {
  const pair = ` ${key}=${value}\n`;
  const bytes = Buffer.byteLength(pair);
  const length = bytes + String(bytes + 2).length;
  return { name: 'pax', kind: 'x', data: `${length}${pair}` };
}

/** A tar archive, with whatever it is asked to get wrong. */
export function tarOf(files: readonly TarFile[], end = true): Buffer {
  const parts = files.flatMap((f) => {
    const data = Buffer.from(f.data ?? '');
    const header = Buffer.alloc(512);
    header.write(f.name, 0, 100, 'utf8');
    header.write('0000644\0', 100);
    const size = f.size ?? data.length;
    if (f.binary === true) {
      header[124] = 0x80;
      header.writeBigUInt64BE(BigInt(size), 128);
    } else header.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
    header.write(f.kind ?? '0', 156);
    header.write('ustar\u000000', 257);
    header.write(f.prefix ?? '', 345, 155, 'utf8');
    header.fill(0x20, 148, 156);
    const sum = header.reduce((n, b) => n + b, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
  });
  return Buffer.concat(end ? [...parts, Buffer.alloc(1024)] : parts);
}

export const digest = (algorithm: string, data: string | Buffer): string =>
  createHash(algorithm).update(data).digest('hex');

export const manifestOf = (files: Record<string, string | Buffer>, algorithm = 'sha256'): string =>
  Object.entries(files)
    .map(([name, data]) => `${algorithm.toUpperCase()}(${name})= ${digest(algorithm, data)}\n`)
    .join('');

/** A folder of its own with these files, gone after the test. */
export async function folder(
  t: { teardown(f: () => unknown): void },
  files: Record<string, string | Buffer>,
): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-ovf-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  for (const [name, data] of Object.entries(files)) await writeFile(path.join(dir, name), data);
  return dir;
}
