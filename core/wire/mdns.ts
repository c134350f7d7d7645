/**
 * Multicast DNS, as much of it as a node needs to say that it waits, and a cluster to hear it (RFC 6762, 6763). A node sends an
 * unasked answer with the four records of one service instance; whoever hears it reads the same four and nothing else.
 */

export const mdnsAddress = '224.0.0.251';
export const mdnsPort = 5353;
const service = ['_flotilla', '_tcp', 'local'];
/** How long the records hold, s: a node that fell silent is forgotten then. */
export const beaconTtlS = 30;
/** Largest packet taken, bytes: one Ethernet frame. */
const packetBytesMax = 1_500;
/** Records read of one packet; names of one packet are followed through so many pointers. */
const recordsMax = 32;
const pointersMax = 8;

const type = { A: 1, PTR: 12, TXT: 16, SRV: 33 } as const;

/** What a node that waits says of itself. Nothing of it is proven: whoever cares asks the node over TLS. */
export interface Beacon {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly fingerprint: string;
  readonly version: string;
}

/** One packet that says it. @param b - its name is at most 63 letters, digits and hyphens */
export function encodeBeacon(b: Beacon): Uint8Array {
  const instance = [b.name, ...service];
  const host = [b.name, 'local'];
  const texts = ['state=pending', `fingerprint=${b.fingerprint}`, `version=${b.version.slice(0, 64)}`];
  const records = [
    record(service, type.PTR, 1, nameBytes(instance)),
    // The top bit of the class: these replace what was said before.
    record(instance, type.SRV, 0x8001, [0, 0, 0, 0, b.port >> 8, b.port & 255, ...nameBytes(host)]),
    record(
      instance,
      type.TXT,
      0x8001,
      texts.flatMap((t) => textBytes(t)),
    ),
    record(host, type.A, 0x8001, b.address.split('.').map(Number)),
  ];
  // An answer (QR, AA) without questions.
  const header = [0, 0, 0x84, 0, 0, 0, 0, records.length, 0, 0, 0, 0];
  return Uint8Array.from([...header, ...records.flat()]);
}

/**
 * Reads such a packet. All of it comes from anybody on the network.
 *
 * @returns null: it is no beacon of ours, or not well-formed
 */
export function decodeBeacon(packet: Uint8Array): Beacon | null {
  if (packet.length < 12 || packet.length > packetBytesMax) return null;
  try {
    return read(packet);
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

function read(packet: Uint8Array): Beacon | null {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const isAnswer = (view.getUint16(2) & 0x8000) !== 0;
  const counts = [4, 6, 8, 10].map((at) => view.getUint16(at));
  const [questions = 0, ...others] = counts;
  const total = others.reduce((a, b) => a + b, 0);
  if (!isAnswer || questions > 0 || total > recordsMax) return null;
  let at = 12;
  let found: { name: string; port: number; host: string } | null = null;
  const texts = new Map<string, string>();
  const addresses = new Map<string, string>();
  for (let n = 0; n < total; n++) {
    const owner = readName(packet, at);
    const kind = view.getUint16(owner.next);
    const length = view.getUint16(owner.next + 8);
    const data = owner.next + 10;
    if (data + length > packet.length) return null;
    const ours = owner.labels.slice(1).join('.').toLowerCase() === service.join('.');
    if (kind === type.SRV && ours && length > 6) {
      const host = readName(packet, data + 6).labels.join('.');
      found = { name: owner.labels[0] ?? '', port: view.getUint16(data + 4), host };
    } else if (kind === type.TXT && ours) {
      for (let i = data; i < data + length; i += 1 + (packet[i] ?? 0)) {
        const text = String.fromCharCode(
          ...packet.subarray(i + 1, Math.min(i + 1 + (packet[i] ?? 0), data + length)),
        );
        const [key = '', ...value] = text.split('=');
        texts.set(key, value.join('='));
      }
    } else if (kind === type.A && length === 4) {
      addresses.set(owner.labels.join('.'), packet.subarray(data, data + 4).join('.'));
    }
    at = data + length;
  }
  const address = found === null ? undefined : addresses.get(found.host);
  const fingerprint = texts.get('fingerprint') ?? '';
  const fits =
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(found?.name ?? '') && /^[0-9a-f]{64}$/.test(fingerprint);
  if (found === null || address === undefined || !fits || texts.get('state') !== 'pending') return null;
  const version = (texts.get('version') ?? '').replace(/[^\x21-\x7e]/g, '').slice(0, 64);
  return { name: found.name, address, port: found.port, fingerprint, version };
}

/** @throws RangeError where the packet ends within it, or it points in circles */
function readName(packet: Uint8Array, from: number): { labels: string[]; next: number } {
  const labels: string[] = [];
  let at = from;
  let next: number | null = null;
  let jumps = 0;
  let size = 0;
  for (;;) {
    const length = packet[at];
    if (length === undefined) throw new RangeError('the packet ends within a name');
    if (length >= 0xc0) {
      const low = packet[at + 1];
      if (low === undefined || ++jumps > pointersMax) throw new RangeError('a name points too often');
      next ??= at + 2;
      at = ((length & 0x3f) << 8) | low;
      continue;
    }
    if (length === 0) return { labels, next: next ?? at + 1 };
    size += length + 1;
    if (length > 63 || size > 255 || at + 1 + length > packet.length)
      throw new RangeError('a name is too long');
    labels.push(String.fromCharCode(...packet.subarray(at + 1, at + 1 + length)));
    at += 1 + length;
  }
}

const ascii = (text: string): number[] => [...text].map((c) => c.charCodeAt(0) & 0x7f);
const textBytes = (text: string): number[] => [text.length, ...ascii(text)];
const nameBytes = (labels: readonly string[]): number[] => [...labels.flatMap(textBytes), 0];

function record(labels: readonly string[], kind: number, cls: number, data: readonly number[]): number[] {
  return [
    ...nameBytes(labels),
    ...[0, kind, cls >> 8, cls & 255],
    ...[0, 0, 0, beaconTtlS],
    ...[data.length >> 8, data.length & 255],
    ...data,
  ];
}
