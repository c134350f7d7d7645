import type { ImageFormat } from '../../core/domain/image.js';
import { virtualSizeBytesMax } from '../../core/domain/image.js';

/** Bytes of a file's beginning that detection needs: an ISO's mark stands at 32 KiB, a vmdk's description below 64 KiB. */
export const headBytes = 65_536;
/** Bytes of its end: a fixed VHD keeps its only header there. */
export const tailBytes = 512;

/** A file's first and last bytes and its length: enough to judge it without handing it to another program. */
export interface Sample {
  readonly head: Buffer;
  readonly tail: Buffer;
  readonly sizeBytes: number;
}

export type Verdict =
  | { readonly ok: true; readonly format: ImageFormat; readonly virtualSizeBytes: number | null }
  | { readonly ok: false; readonly reason: string; readonly hint: string };

const no = (reason: string, hint: string): Verdict => ({ ok: false, reason, hint });

const flatten = 'Flatten it first: qemu-img convert -O qcow2 IMAGE NEW.qcow2';
const resend = 'Get the file again and compare its checksum with the publisher’s.';

/** Beginnings of what people send by mistake, or of formats that QEMU would read with code we do not trust. */
const refusedMagic: readonly (readonly [offset: number, magic: string, reason: string, hint: string])[] = [
  [0, '1f8b', 'it is compressed (gzip)', 'Unpack it first: gunzip IMAGE'],
  [0, 'fd377a585a00', 'it is compressed (xz)', 'Unpack it first: unxz IMAGE'],
  [0, '28b52ffd', 'it is compressed (zstd)', 'Unpack it first: unzstd IMAGE'],
  [0, '425a68', 'it is compressed (bzip2)', 'Unpack it first: bunzip2 IMAGE'],
  [0, '377abcaf271c', 'it is an archive (7z)', 'Unpack it and send the image inside.'],
  [0, '504b0304', 'it is an archive (zip)', 'Unpack it and send the image inside.'],
  [257, '7573746172', 'it is an archive (tar or OVA)', 'Unpack it (tar xf) and send the disk inside.'],
  [0, hex('QED\0'), 'format qed is not taken', flatten],
  [0, hex('COWD'), 'format cowd (old ESX) is not taken', flatten],
  [0, hex('OOOM'), 'format cow is not taken', flatten],
  [0, hex('WithoutFreeSpace'), 'format parallels is not taken', flatten],
  [0, hex('WithouFreSpacExt'), 'format parallels is not taken', flatten],
  [0, hex('Bochs Virtual HD Image'), 'format bochs is not taken', flatten],
  [
    0,
    hex('LUKS') + 'babe',
    'it is encrypted (LUKS)',
    'Send it decrypted: Flotilla could not start a VM from it.',
  ],
  [64, '7f10dabe', 'format vdi is not taken', flatten],
];

function hex(text: string): string {
  return Buffer.from(text, 'latin1').toString('hex');
}

const at = (b: Buffer, offset: number, magic: string): boolean =>
  b.toString('hex', offset, offset + magic.length / 2) === magic;

/**
 * What a file is and whether it may enter, by our own reading of its header. Only what passes here is given to
 * `qemu-img`, and always with its format named: whoever lets QEMU guess lets the file's author choose.
 *
 * @see qemu docs/interop/qcow2.txt and vmdk, vhdx, VHD specifications; CVE-2024-4467 (data files opened by "info")
 */
export function judgeHeader(s: Sample): Verdict {
  const { head } = s;
  if (s.sizeBytes === 0) return no('it is empty', resend);
  if (at(head, 0, '514649fb')) return judgeQcow2(s);
  if (at(head, 0, hex('KDMV'))) return judgeVmdk(s);
  if (at(head, 0, hex('vhdxfile'))) return judgeVhdx(s);
  if (at(head, 0, hex('conectix')) || at(s.tail, 0, hex('conectix'))) return judgeVpc(s);
  if (at(head, 0x8001, hex('CD001'))) return judgeIso(s);
  for (const [offset, magic, reason, hint] of refusedMagic)
    if (at(head, offset, magic)) return no(reason, hint);
  const start = head.toString('latin1', 0, 512).trimStart().toLowerCase();
  if (start.startsWith('# disk descriptorfile'))
    return no(
      'it is a vmdk description that refers to other files',
      'Send the disk as one monolithic or stream-optimised vmdk.',
    );
  if (start.startsWith('<!doctype') || start.startsWith('<html') || start.startsWith('<?xml'))
    return no(
      'it is a web page or XML, not a disk image',
      'Check the address: a login or error page came back.',
    );
  if (start.startsWith('#!/bin/sh\n#v2.0 format')) return no('format cloop is not taken', flatten);
  if (s.sizeBytes % 512 !== 0)
    return no(`it is no known image format, and ${s.sizeBytes} bytes are no whole number of sectors`, resend);
  return sized('raw', s.sizeBytes);
}

function sized(format: ImageFormat, virtualSizeBytes: number): Verdict {
  if (virtualSizeBytes <= 0) return no('its disk has no size', resend);
  if (virtualSizeBytes > virtualSizeBytesMax)
    return no(
      `its header claims a disk of ${virtualSizeBytes} bytes, more than ${virtualSizeBytesMax}`,
      'Flotilla takes disks up to 64 TiB.',
    );
  return { ok: true, format, virtualSizeBytes };
}

/** Incompatible features of qcow2 that are harmless: dirty refcounts, compression type, extended L2 entries. */
const qcow2FeaturesTaken = 0b11001n;
const qcow2DataFileExtension = 0x44415441;

/** The fields of a qcow2 header that matter for trust. */
export interface Qcow2Header {
  readonly version: number;
  readonly backing: string | null;
  readonly dataFile: boolean;
  readonly encrypted: boolean;
  readonly features: bigint;
  readonly clusterBits: number;
  readonly virtualSizeBytes: number;
}

/** @returns null when it is no qcow2 header */
export function readQcow2Header(head: Buffer): Qcow2Header | null {
  if (head.length < 104 || !at(head, 0, '514649fb')) return null;
  const version = head.readUInt32BE(4);
  const backingOffset = Number(head.readBigUInt64BE(8));
  const backingLength = head.readUInt32BE(16);
  const features = version >= 3 ? head.readBigUInt64BE(72) : 0n;
  const headerLength = version >= 3 ? head.readUInt32BE(100) : 72;
  let dataFile = (features & 0b100n) !== 0n;
  for (let p = headerLength; p + 8 <= head.length;) {
    const type = head.readUInt32BE(p);
    if (type === 0) break;
    if (type === qcow2DataFileExtension) dataFile = true;
    p += 8 + Math.ceil(head.readUInt32BE(p + 4) / 8) * 8;
  }
  return {
    version,
    backing:
      backingOffset === 0 && backingLength === 0
        ? null
        : head.toString('utf8', backingOffset, Math.min(backingOffset + backingLength, head.length)),
    dataFile,
    encrypted: head.readUInt32BE(32) !== 0,
    features,
    clusterBits: head.readUInt32BE(20),
    virtualSizeBytes: Number(head.readBigUInt64BE(24)),
  };
}

function judgeQcow2(s: Sample): Verdict {
  const h = readQcow2Header(s.head);
  if (!h || h.version === 1) return no('it is a qcow of version 1 or cut off in its header', flatten);
  if (h.version > 3) return no(`it is a qcow of version ${h.version}, which is not known`, flatten);
  if (h.backing !== null) return no('it needs another file: its header names a backing file', flatten);
  if (h.dataFile) return no('it needs another file: its data is in an external data file', flatten);
  if (h.encrypted) return no('it is encrypted', 'Send it decrypted: Flotilla could not start a VM from it.');
  if ((h.features & 0b10n) !== 0n)
    return no('it is marked corrupt', 'Repair it: qemu-img check -r all IMAGE');
  if ((h.features & ~qcow2FeaturesTaken) !== 0n) return no('it uses features that are not known', flatten);
  if (h.clusterBits < 9 || h.clusterBits > 21) return no('its cluster size is out of range', resend);
  return sized('qcow2', h.virtualSizeBytes);
}

function judgeVmdk(s: Sample): Verdict {
  const { head } = s;
  if (head.length < 512) return no('it is cut off in its header', resend);
  const version = head.readUInt32LE(4);
  if (version < 1 || version > 3)
    return no(`it is a vmdk of version ${version}, which is not known`, flatten);
  const capacity = Number(head.readBigUInt64LE(12));
  const offset = Number(head.readBigUInt64LE(28)) * 512;
  const length = Number(head.readBigUInt64LE(36)) * 512;
  // QEMU takes a vmdk without capacity for a mere description and opens the files it names.
  if (capacity === 0) return no('it is a vmdk description that refers to other files', flatten);
  if (offset + length > head.length) return no('its description is out of place', flatten);
  const text = head.toString('latin1', offset, offset + length).split('\0')[0] ?? '';
  if (offset === 0 || text.trim() === '')
    return no('it is one part of a split vmdk', 'Send the disk as one monolithic or stream-optimised vmdk.');
  const type = /^\s*createType\s*=\s*"([^"]*)"/im.exec(text)?.[1] ?? 'none';
  if (!/^(monolithicSparse|streamOptimized)$/i.test(type))
    return no(
      `it is a vmdk of type "${type.slice(0, 40)}", which refers to other files`,
      'Send the disk as one monolithic or stream-optimised vmdk.',
    );
  if (!/^\s*parentCID\s*=\s*ffffffff\s*$/im.test(text) || /^\s*parentFileNameHint/im.test(text))
    return no('it needs another file: it is a snapshot of a parent vmdk', flatten);
  const extents = text.split('\n').filter((l) => /^\s*(RW|RDONLY|NOACCESS)\s/i.test(l));
  if (extents.length !== 1 || !/^\s*RW\s+\d+\s+SPARSE\s+"/i.test(extents[0] ?? ''))
    return no('it has more than one extent, or one in another file', flatten);
  return sized('vmdk', capacity * 512);
}

function judgeVhdx(s: Sample): Verdict {
  // Its size and parent stand in a table that may be anywhere; qemu-img refuses differencing ones and tells the size.
  if (s.sizeBytes < 1024 * 1024) return no('it is cut off', resend);
  return { ok: true, format: 'vhdx', virtualSizeBytes: null };
}

function judgeVpc(s: Sample): Verdict {
  if (s.tail.length < tailBytes || !at(s.tail, 0, hex('conectix')))
    return no('it is cut off: a VHD ends with its footer', resend);
  const type = s.tail.readUInt32BE(60);
  if (type === 4) return no('it needs another file: it is a differencing VHD', flatten);
  if (type !== 2 && type !== 3) return no(`it is a VHD of type ${type}, which is not known`, flatten);
  const virtual = Number(s.tail.readBigUInt64BE(48));
  if (type === 2 && virtual > s.sizeBytes - 512)
    return no(`its footer claims ${virtual} bytes, but only ${s.sizeBytes - 512} are there`, resend);
  return sized('vpc', virtual);
}

function judgeIso(s: Sample): Verdict {
  if (s.head.length < 0x8800) return no('it is cut off', resend);
  // The primary descriptor tells the volume's blocks; boot code may follow, so a file may be longer, never shorter.
  const claimed = s.head.readUInt32LE(0x8000 + 80) * s.head.readUInt16LE(0x8000 + 128);
  if (claimed > s.sizeBytes)
    return no(`it is cut off: its volume has ${claimed} bytes, the file ${s.sizeBytes}`, resend);
  return sized('iso', s.sizeBytes);
}
