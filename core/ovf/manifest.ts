import { refusal, shown } from './xml.js';

export type DigestName = 'sha1' | 'sha256' | 'sha384' | 'sha512';

/** What a manifest promises of one file. */
export interface Digest {
  readonly file: string;
  readonly algorithm: DigestName;
  /** Lower-case hexadecimal. */
  readonly hex: string;
  readonly line: number;
}

const digestChars: Readonly<Record<string, number>> = { sha1: 40, sha256: 64, sha384: 96, sha512: 128 };
/** As many as a package may have files. */
const linesMax = 20_000;

/**
 * Reads a manifest: lines of `SHA256(disk.vmdk)= 0123…`.
 *
 * @param file - its name, for messages
 * @throws FlotillaError `bad-input` with the line
 */
export function readManifest(text: string, file: string): Digest[] {
  const lines = text.replace(/^\ufeff/, '').split(/\r?\n/);
  if (lines.length > linesMax)
    throw refusal(file, linesMax, 'it is too long', 'No package has so many files.');
  const out = new Map<string, Digest>();
  lines.forEach((line, i) => {
    if (line.trim() === '') return;
    const digest = readDigestLine(line, file, i + 1);
    const before = out.get(digest.file);
    if (before !== undefined && (before.hex !== digest.hex || before.algorithm !== digest.algorithm))
      throw refusal(
        file,
        i + 1,
        `"${shown(digest.file)}" has another checksum in line ${before.line}`,
        'Only one can be right: get the package again.',
      );
    out.set(digest.file, digest);
  });
  return [...out.values()];
}

/** One line of a manifest or the first of a certificate. @throws FlotillaError `bad-input` */
export function readDigestLine(line: string, file: string, number: number, hexChars?: number): Digest {
  const m = /^\s*([A-Za-z]+[\d-]*)\s*\((.+)\)\s*=\s*([0-9A-Fa-f]+)\s*$/.exec(line);
  if (m === null)
    throw refusal(
      file,
      number,
      `"${shown(line)}" is no line of a manifest`,
      'Lines are like: SHA256(disk.vmdk)= 0123abcd…',
    );
  const algorithm = (m[1] ?? '').toLowerCase().replace('-', '');
  const hex = (m[3] ?? '').toLowerCase();
  const chars = digestChars[algorithm];
  if (chars === undefined)
    throw refusal(
      file,
      number,
      `checksums of kind "${shown(m[1] ?? '')}" are not taken`,
      'SHA1, SHA256, SHA384 and SHA512 are.',
    );
  if (hex.length !== (hexChars ?? chars) && hexChars !== 0)
    throw refusal(
      file,
      number,
      `the checksum of "${shown(m[2] ?? '')}" has ${hex.length} digits, not ${chars}`,
      'It was damaged: get the package again.',
    );
  return {
    file: (m[2] ?? '').trim().replace(/^(?:\.\/)+/, ''),
    algorithm: algorithm as DigestName,
    hex,
    line: number,
  };
}
