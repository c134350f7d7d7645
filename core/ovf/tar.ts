import { refusal, shown } from './xml.js';

/** Reads bytes of the archive from a place on; fewer only at its end. */
export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

/** A file inside of an archive. */
export interface TarEntry {
  readonly name: string;
  /** Where its bytes begin in the archive. */
  readonly offset: number;
  readonly sizeBytes: number;
}

const block = 512;
/** A package of 10,000 files in pieces does not exist. */
const entriesMax = 20_000;
/** Long names and the like stand in entries of their own: these are read whole. */
const extraBytesMax = 64 * 1024;
const nameCharsMax = 1024;

/** What an entry of an archive may be other than a file; none of it is in a package. */
const kindNames: Readonly<Record<string, string>> = {
  '1': 'a hard link',
  '2': 'a symbolic link',
  '3': 'a device',
  '4': 'a device',
  '6': 'a pipe',
  S: 'a sparse file',
};

/**
 * Lists the files of a tar archive without reading their bytes, so that it may be larger than memory and disk.
 * Takes ustar, GNU and pax archives. Nothing is ever unpacked under a name from the archive; names that would leave its
 * folder are refused all the same, as is all that is no plain file.
 *
 * @param file - the archive's name, for messages
 * @param sizeBytes - of the archive
 * @throws FlotillaError `bad-input`
 * @see POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"
 */
export async function listTar(file: string, read: ReadAt, sizeBytes: number): Promise<TarEntry[]> {
  const refuse = (text: string, hint = 'It was damaged, or made to do harm: get it again from its maker.') =>
    refusal(file, null, text, hint);
  const out: TarEntry[] = [];
  const names = new Set<string>();
  let extra: Extra = {};
  for (let at = 0; at < sizeBytes;) {
    const header = await read(at, block);
    if (header.length < block) throw refuse(`it ends within a header, at byte ${at}`, cutOff);
    if (header.every((b) => b === 0)) return out;
    if (!sumFits(header)) {
      throw refuse(
        at === 0 ? 'it is no tar archive' : `there is no valid header at byte ${at}`,
        at === 0 ? 'An OVA is a tar archive that begins with the descriptor.' : cutOff,
      );
    }
    const kind = String.fromCharCode(header[156] ?? 0);
    const size = extra.size ?? numberAt(header, 124, 12);
    if (size === null || !Number.isSafeInteger(size))
      throw refuse(`a file at byte ${at} has an impossible size`);
    const offset = at + block;
    const next = offset + Math.ceil(size / block) * block;
    if (offset + size > sizeBytes) {
      const name = extra.name ?? nameAt(header);
      throw refuse(
        `it is cut off: "${shown(name)}" needs ${size} bytes, and ${Math.max(0, sizeBytes - offset)} are there`,
        cutOff,
      );
    }
    at = next;
    if (kind === 'x' || kind === 'L') {
      if (size > extraBytesMax) throw refuse('it has an overlong name');
      const data = await read(offset, size);
      extra = kind === 'L' ? { ...extra, name: cString(data) } : { ...extra, ...paxOf(data, refuse) };
      continue;
    }
    // What holds for all files, and targets of links: neither is for us.
    if (kind === 'g' || kind === 'K') continue;
    const name = checkName(extra.name ?? nameAt(header), refuse);
    extra = {};
    if (kind === '5' || name.endsWith('/')) continue;
    if (!['0', '\0', '7'].includes(kind))
      throw refuse(`"${shown(name)}" is ${kindNames[kind] ?? 'of an unknown kind'}, not a file`);
    if (names.has(name)) throw refuse(`"${shown(name)}" is there twice`);
    if (out.length >= entriesMax) throw refuse(`it has more than ${entriesMax} files`);
    names.add(name);
    out.push({ name, offset, sizeBytes: size });
  }
  return out;
}

const cutOff = 'It was cut off or damaged on the way: get it again.';

interface Extra {
  readonly name?: string;
  readonly size?: number;
}

/** The sum of all bytes, its own field as blanks; some tars have summed signed bytes. */
function sumFits(header: Uint8Array): boolean {
  const written = numberAt(header, 148, 8);
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < block; i += 1) {
    const b = i >= 148 && i < 156 ? 0x20 : (header[i] ?? 0);
    unsigned += b;
    signed += b < 128 ? b : b - 256;
  }
  return written === unsigned || written === signed;
}

/** Octal digits, or binary for what is too large for these. */
function numberAt(header: Uint8Array, offset: number, length: number): number | null {
  const field = header.subarray(offset, offset + length);
  if ((field[0] ?? 0) >= 0x80) {
    let n = (field[0] ?? 0) === 0x80 ? 0n : -1n;
    for (const b of field.subarray(1)) n = n * 256n + BigInt(b);
    return n < 0n || n > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(n);
  }
  const text = cString(field).trim();
  return /^[0-7]*$/.test(text) ? parseInt(text === '' ? '0' : text, 8) : null;
}

function nameAt(header: Uint8Array): string {
  const name = cString(header.subarray(0, 100));
  const ustar = latin1(header.subarray(257, 263)) === 'ustar\0';
  const prefix = ustar ? cString(header.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

const latin1 = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

/** Up to the first NUL; latin1 where it is no UTF-8, which {@link checkName} refuses. */
function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const own = end === -1 ? bytes : bytes.subarray(0, end);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(own);
  } catch {
    return '\ufffd';
  }
}

/** `LENGTH KEY=VALUE\n`, one after the other. */
function paxOf(data: Uint8Array, refuse: (text: string) => Error): Extra {
  let extra: Extra = {};
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const length = space === -1 ? NaN : Number(latin1(data.subarray(at, space)));
    if (!Number.isInteger(length) || length < 5 || at + length > data.length)
      throw refuse('it has an unreadable extended header');
    const pair = cString(data.subarray(space + 1, at + length - 1));
    const eq = pair.indexOf('=');
    const value = pair.slice(eq + 1);
    if (pair.startsWith('path=')) extra = { ...extra, name: value };
    if (pair.startsWith('size=')) {
      if (!/^\d{1,16}$/.test(value)) throw refuse('a file has an impossible size');
      extra = { ...extra, size: Number(value) };
    }
    if (pair.startsWith('GNU.sparse.')) throw refuse('it holds a sparse file');
    at += length;
  }
  return extra;
}

/** A name as packages write them: of a file beside the descriptor or in a folder there. */
function checkName(written: string, refuse: (text: string) => Error): string {
  const name = written.replace(/^(?:\.\/)+/, '');
  const bad = (why: string): Error => refuse(`the name "${shown(written)}" ${why}`);
  if (name === '' || name.length > nameCharsMax) throw bad('is empty or overlong');
  if (name.includes('\ufffd')) throw bad('is not UTF-8');
  if (name.startsWith('/') || /^[a-z]:/i.test(name)) throw bad('is absolute');
  if (name.split(/[/\\]/).includes('..')) throw bad('leads out of the package');
  // eslint-disable-next-line no-control-regex -- names with these are hostile
  if (/[\u0000-\u001f\u007f\\]/.test(name)) throw bad('has characters that no file of a package has');
  return name;
}
