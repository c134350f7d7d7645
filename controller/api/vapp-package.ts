import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { tarBytes, tarOf, type TarPart } from '../../agent/ovf/tar-writer.js';
import { decodeXml, readXml, xmlBytesMax } from '../../agent/ovf/xml-reader.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Vapp } from '../../core/domain/vapp.js';
import { fileNameOf, vappDescriptorOf, type EmbeddedVapp, type PackedMember } from '../../core/ovf/export.js';
import { readManifest } from '../../core/ovf/manifest.js';
import { listTar, type TarEntry } from '../../core/ovf/tar.js';
import type { VappDoc, VappMemberDoc } from '../../core/wire/rest.js';
import type { ApiDeps } from './context.js';
import { exported } from './exports.js';

/** A member's own package, as far as it was read: all but its disks. */
interface Packed extends PackedMember {
  readonly op: string;
  readonly entries: readonly TarEntry[];
  /** Lines of its manifest, by file. */
  readonly sha256: ReadonlyMap<string, string>;
}

type Deps = Pick<ApiDeps, 'view' | 'uploads'>;

/**
 * The archive of a whole vApp, made of its members' packages as it is sent: they lie on the nodes that packed them, and
 * nothing lies here. The same packages give the same bytes, so that a fetch goes on where it broke off.
 *
 * @param ops - the finished `vm.export` of each member
 * @throws FlotillaError `bad-input`, `not-found`, `wrong-state`, `node-unreachable`
 */
export async function vappPackage(
  deps: Deps,
  { vapp, document }: { readonly vapp: Vapp; readonly document: VappDoc },
  ops: readonly string[],
  range: string | undefined,
  signal: AbortSignal,
): Promise<{ status: number; headers: Record<string, string>; body: ReadableStream<Uint8Array> }> {
  checkMembers(deps, vapp, ops);
  const packed: Packed[] = [];
  for (const op of ops) packed.push(await readPacked(deps, op, signal));
  const parts = partsOf(deps, vapp, embeddedOf(deps, vapp, document), packed, signal);
  const size = tarBytes(parts);
  const name = fileNameOf(vapp.name);
  const headers = {
    'accept-ranges': 'bytes',
    'content-type': 'application/x-tar',
    'content-disposition': `attachment; filename="${name}.ova"`,
  };
  const from = /^bytes=(\d{1,16})-$/.exec(range ?? '')?.[1];
  const start = from === undefined ? 0 : Number(from);
  if (start >= size)
    return { status: 416, headers: { ...headers, 'content-range': `bytes */${size}` }, body: empty() };
  const data = Readable.from(tarOf(parts, start), { objectMode: false, signal });
  return {
    status: from === undefined ? 200 : 206,
    headers: {
      ...headers,
      'content-length': String(size - start),
      ...(from === undefined ? {} : { 'content-range': `bytes ${start}-${size - 1}/${size}` }),
    },
    body: Readable.toWeb(data) as ReadableStream<Uint8Array>,
  };
}

const empty = (): ReadableStream<Uint8Array> =>
  Readable.toWeb(Readable.from([])) as ReadableStream<Uint8Array>;

/** Each member once, and nobody else. */
function checkMembers({ view }: Deps, vapp: Vapp, ops: readonly string[]): void {
  const { tables } = view.ledger;
  const subjects = ops.map((op) => tables.op.get(op)?.value.subject.id ?? op);
  const wanted = vapp.members.filter((m) => !m.leaving).map((m) => m.vm);
  if (subjects.length === wanted.length && wanted.every((vm) => subjects.includes(vm))) return;
  throw new FlotillaError('bad-input', `These exports are not those of the members of vApp "${vapp.name}"`, {
    hint: 'Ask for them anew: POST /vapps/{vapp}/export.',
  });
}

const textBytesMax = xmlBytesMax;

async function readPacked(deps: Deps, op: string, signal: AbortSignal): Promise<Packed> {
  const read = (offset: number, length: number): Promise<Buffer> => readAt(deps, op, offset, length, signal);
  const whole = await exported(deps, op, 'bytes=0-', signal);
  await whole.body.cancel();
  const sizeBytes = Number(
    whole.headers['content-range']?.split('/')[1] ?? whole.headers['content-length'] ?? 0,
  );
  const vm = deps.view.ledger.tables.op.get(op)?.value.subject;
  const name = `${vm?.name ?? op}.ova`;
  const entries = await listTar(name, read, sizeBytes);
  const text = async (end: string): Promise<string> => {
    const entry = entries.find((e) => e.name.endsWith(end));
    if (entry === undefined || entry.sizeBytes > textBytesMax)
      throw new FlotillaError('internal', `The export ${name} has no ${end}`, { hint: 'Export it again.' });
    return decodeXml(await read(entry.offset, entry.sizeBytes), entry.name);
  };
  const source = await text('.ovf');
  const manifest = readManifest(await text('.mf'), name);
  return {
    op,
    vm: vm?.id ?? '',
    root: readXml(source, name),
    source,
    entries,
    sha256: new Map(manifest.map((d) => [d.file, d.hex])),
  };
}

/** A few bytes of an export; the rest of the answer is given up. */
async function readAt(
  deps: Deps,
  op: string,
  offset: number,
  length: number,
  signal: AbortSignal,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let have = 0;
  for await (const part of from(deps, op, offset, signal)) {
    parts.push(part);
    have += part.length;
    if (have >= length) break;
  }
  return Buffer.concat(parts).subarray(0, length);
}

async function* from(deps: Deps, op: string, offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  const { status, body } = await exported(deps, op, `bytes=${offset}-`, signal);
  if (status !== 206 && offset > 0) {
    await body.cancel();
    throw new FlotillaError('node-unreachable', 'An export does not go on where it is asked to', {
      hint: 'Fetch it again.',
    });
  }
  for await (const part of body) yield Buffer.from(part);
}

function partsOf(
  deps: Deps,
  vapp: Vapp,
  embedded: EmbeddedVapp,
  packed: readonly Packed[],
  signal: AbortSignal,
): TarPart[] {
  const { text, files } = vappDescriptorOf(vapp, packed, embedded);
  const name = fileNameOf(vapp.name);
  const disks = files.map((f) => {
    const p = packed.find((x) => x.vm === f.vm);
    const entry = p?.entries.find((e) => e.name === f.was);
    const sha256 = p?.sha256.get(f.was);
    if (p === undefined || entry === undefined || sha256 === undefined)
      throw new FlotillaError('internal', `"${f.was}" is not in the export of its VM`, {
        hint: 'Export it again.',
      });
    return { name: f.name, p, entry, sha256 };
  });
  const lines = [
    [`${name}.ovf`, createHash('sha256').update(text).digest('hex')],
    ...disks.map((d) => [d.name, d.sha256]),
  ];
  const small = (file: string, content: string): TarPart => ({
    name: file,
    sizeBytes: Buffer.byteLength(content),
    async *read(start) {
      yield Buffer.from(content).subarray(start);
    },
  });
  return [
    small(`${name}.ovf`, text),
    small(`${name}.mf`, lines.map(([file, hex]) => `SHA256(${file ?? ''})= ${hex ?? ''}\n`).join('')),
    ...disks.map(({ name: file, p, entry }) => ({
      name: file,
      sizeBytes: entry.sizeBytes,
      async *read(start: number) {
        let left = entry.sizeBytes - start;
        for await (const part of from(deps, p.op, entry.offset + start, signal)) {
          yield part.subarray(0, left);
          left -= part.length;
          if (left <= 0) return;
        }
      },
    })),
  ];
}

/** What OVF has no words for: without names of VMs, MACs, and addresses on networks of others. */
function embeddedOf({ view }: Deps, vapp: Vapp, document: VappDoc): EmbeddedVapp {
  const isolated = new Set(
    Object.entries(document.networks ?? {}).flatMap(([part, n]) => ('isolated' in n ? [part] : [])),
  );
  const membersOf = (members: Readonly<Record<string, VappMemberDoc>>): Record<string, VappMemberDoc> =>
    Object.fromEntries(
      Object.entries(members).map(([part, m]): [string, VappMemberDoc] => {
        if (m.vapp !== undefined)
          return [part, { ...m, vapp: { ...m.vapp, members: membersOf(m.vapp.members) } }];
        const { name: _, disks = [], cdroms: _cdroms, class: _class, nics = [], ...vm } = m.vm ?? {};
        const plain = nics.map(({ mac: _mac, address, ...n }) => ({
          ...n,
          ...(address === null || (address !== undefined && isolated.has(n.network)) ? { address } : {}),
        }));
        // Of disks the name: all else is in the package.
        const named = disks.map(({ name, sizeBytes }) => ({
          ...(name === undefined ? {} : { name }),
          sizeBytes,
        }));
        return [part, { ...m, vm: { ...vm, disks: named, nics: plain } }];
      }),
    );
  return {
    document: { ...document, members: membersOf(document.members) },
    networks: Object.fromEntries(
      vapp.networks.map((n) => [n.name, view.ledger.tables.network.get(n.network)?.value.name ?? n.name]),
    ),
  };
}
