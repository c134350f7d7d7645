const block = 512;

/** A file of an archive that is written as it is read. */
export interface TarPart {
  readonly name: string;
  readonly sizeBytes: number;
  /** @param from - byte of it to begin at */
  read(from: number): AsyncIterable<Buffer>;
}

const paddingOf = (sizeBytes: number): number => (block - (sizeBytes % block)) % block;

/** Bytes of the whole archive. */
export const tarBytes = (parts: readonly Pick<TarPart, 'sizeBytes'>[]): number =>
  parts.reduce((n, p) => n + block + p.sizeBytes + paddingOf(p.sizeBytes), 2 * block);

/** The bytes of an archive from one on. */
export async function* tarOf(parts: readonly TarPart[], from: number): AsyncGenerator<Buffer> {
  let at = 0;
  const rest = (data: Buffer): Buffer => {
    const skip = Math.min(data.length, Math.max(0, from - at));
    at += data.length;
    return data.subarray(skip);
  };
  for (const part of parts) {
    yield rest(tarHeader(part.name, part.sizeBytes));
    const start = Math.min(part.sizeBytes, Math.max(0, from - at));
    at += start;
    if (start < part.sizeBytes) for await (const data of part.read(start)) yield rest(data);
    yield rest(Buffer.alloc(paddingOf(part.sizeBytes)));
  }
  yield rest(Buffer.alloc(2 * block));
}

/** A file's header. @see POSIX.1-2017 pax, "ustar Interchange Format"; sizes from 8 GiB on as GNU tar writes them */
export function tarHeader(name: string, sizeBytes: number): Buffer {
  const h = Buffer.alloc(block);
  h.write(name, 0, 100, 'utf8');
  h.write('0000644\0', 100);
  h.write('0000000\0', 108);
  h.write('0000000\0', 116);
  if (sizeBytes < 8 ** 11) h.write(`${sizeBytes.toString(8).padStart(11, '0')}\0`, 124);
  else {
    h[124] = 0x80;
    h.writeBigUInt64BE(BigInt(sizeBytes), 128);
  }
  h.write('00000000000\0', 136);
  h.write('        0', 148);
  h.write('ustar\u000000', 257);
  const sum = h.reduce((n, b) => n + b, 0);
  h.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return h;
}
