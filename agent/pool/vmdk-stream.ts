import { judgeHeader } from './header.js';
import { entriesPerTable, sector, type StreamedVmdk } from './vmdk-reader.js';

/** Grains become clusters, one each. QEMU takes clusters up to 2 MiB; smaller grains than this nobody writes. */
const grainBytesMin = 64 * 1024;
const grainBytesMax = 1024 * 1024;

const compressed = 0x10000;
const withMarkers = 0x20000;
const tablesAtEnd = 0xffff_ffff_ffff_ffffn;

/**
 * Whether a file can be read from its first byte to its last, each byte once: a stream-optimised vmdk.
 *
 * @param head - its first 64 KiB
 * @returns null: it is something else, or of an unusual make, and has to lie on a disk first
 * @see "Virtual Disk Format 5.0", VMware: "Stream-Optimized Compressed Sparse Extents"
 */
export function streamedVmdk(head: Buffer, sizeBytes: number): StreamedVmdk | null {
  const verdict = judgeHeader({ head, tail: Buffer.alloc(0), sizeBytes });
  if (!verdict.ok || verdict.format !== 'vmdk' || verdict.virtualSizeBytes === null) return null;
  const flags = head.readUInt32LE(8);
  const grainBytes = Number(head.readBigUInt64LE(20)) * sector;
  const directory = head.readBigUInt64LE(56);
  const startBytes = Number(head.readBigUInt64LE(64)) * sector;
  const usual =
    (flags & compressed) !== 0 &&
    (flags & withMarkers) !== 0 &&
    head.readUInt16LE(77) === 1 &&
    head.readUInt32LE(44) === entriesPerTable &&
    grainBytes >= grainBytesMin &&
    grainBytes <= grainBytesMax &&
    Number.isInteger(Math.log2(grainBytes)) &&
    startBytes >= sector &&
    startBytes <= sizeBytes;
  if (!usual) return null;
  const from = Number(directory) * sector;
  if (directory !== tablesAtEnd && (from < sector || from > startBytes)) return null;
  return {
    virtualSizeBytes: verdict.virtualSizeBytes,
    grainBytes,
    startBytes,
    tables: directory === tablesAtEnd ? null : { from },
  };
}
