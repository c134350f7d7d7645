import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';

/** Pages of a bolt database are multiples of this; etcd puts the SHA-256 of the whole behind the last one. */
const sectorBytes = 512;
const hashBytes = 32;
/** bolt's mark, in its first page behind the page's header of 16 bytes. */
const boltMagic = 0xed0cdaed;

/**
 * What is wrong with a file that should be a snapshot of a ledger, in words; null: it is one, whole and unchanged.
 *
 * @throws Error where it cannot be read at all
 * @see etcdutl/snapshot/v3_snapshot.go of etcd 3.5: the checksum behind the database
 */
export async function snapshotFault(file: string): Promise<string | null> {
  const handle = await open(file, 'r');
  let size: number;
  const head = Buffer.alloc(20);
  const expected = Buffer.alloc(hashBytes);
  try {
    size = (await handle.stat()).size;
    await handle.read(head, 0, head.length, 0);
    if (size >= hashBytes) await handle.read(expected, 0, hashBytes, size - hashBytes);
  } finally {
    await handle.close();
  }
  if (size < 2 * sectorBytes || head.readUInt32LE(16) !== boltMagic) return 'it is no database of etcd';
  if (size % sectorBytes !== hashBytes)
    return 'it has no checksum: it is cut off, or no snapshot but the database of an etcd itself';
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { end: size - hashBytes - 1 }))
    hash.update(chunk as Buffer);
  return hash.digest().equals(expected) ? null : 'its checksum does not fit: it was changed or damaged';
}
