import { open, readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { FlotillaError } from '../../core/domain/error.js';
import { refusal, shown } from '../../core/ovf/xml.js';
import { listTar } from '../../core/ovf/tar.js';

/** One read. */
const readBytes = 1024 * 1024;
const folderFilesMax = 20_000;

/** A file of a package: where its bytes are. */
export interface Piece {
  /** As it stands in the archive or folder. */
  readonly name: string;
  readonly path: string;
  readonly offset: number;
  readonly sizeBytes: number;
  /** Of a package that lies elsewhere, what was sent of it; null: this file was not sent. */
  readonly sent?: Uint8Array | null;
}

/** The files of a package by name, in an archive or in a folder. */
export interface Shelf {
  readonly kind: 'ova' | 'ovf';
  /** As it is named in messages. */
  readonly name: string;
  readonly descriptor: string;
  /** All names, in the order they stand. */
  readonly names: readonly string[];
  /** @param name - relative to the descriptor @returns null: there is no such file */
  piece(name: string): Promise<Piece | null>;
}

/**
 * Reads a file of a package. The buffer given out is used again for the next part: who keeps a part copies it.
 *
 * @param from - byte to begin at
 */
export async function* bytesOf(piece: Piece, from: number): AsyncGenerator<Buffer> {
  if (piece.sent !== undefined) {
    if (piece.sent === null)
      throw refusal(piece.name, null, 'its content was not sent', 'Send it with the descriptor.');
    yield Buffer.from(piece.sent.subarray(from));
    return;
  }
  await using handle = await open(piece.path, 'r');
  const buffer = Buffer.allocUnsafe(Math.min(readBytes, Math.max(1, piece.sizeBytes - from)));
  for (let at = from; at < piece.sizeBytes;) {
    const want = Math.min(buffer.length, piece.sizeBytes - at);
    const { bytesRead } = await handle.read(buffer, 0, want, piece.offset + at);
    if (bytesRead === 0)
      throw new FlotillaError('bad-input', 'A file of the package became shorter while it was read', {
        hint: 'Is somebody writing it? Begin anew when it is whole.',
      });
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/**
 * Finds out what a package is: an archive, a descriptor with its files beside it, or a folder with one descriptor.
 *
 * @throws FlotillaError `bad-input`
 */
export async function findShelf(file: string): Promise<Shelf> {
  const facts = await stat(file).catch((cause: unknown) => {
    throw unreadable(file, cause);
  });
  if (facts.isDirectory()) return folderShelf(file, await descriptorOf(file));
  if (!facts.isFile())
    throw refusal(file, null, 'it is no file', 'Name an .ova, an .ovf, or a folder with one.');
  const start = await readAt(file, 0, 512);
  if (start.length === 0) throw refusal(file, null, 'it is empty', 'Get it again.');
  if (start[0] === 0x1f && start[1] === 0x8b)
    throw refusal(file, null, 'it is compressed (gzip)', `Unpack it first: gunzip ${path.basename(file)}`);
  if (start[0] === 0x50 && start[1] === 0x4b)
    throw refusal(file, null, 'it is a zip archive', 'Unpack it, and name the .ovf or .ova inside.');
  const isText = /^(?:\u00ef\u00bb\u00bf|\u00ff\u00fe|\u00fe\u00ff)?[\s\0]*</.test(start.toString('latin1'));
  if (isText || /\.ovf$/i.test(file)) return folderShelf(path.dirname(file), path.basename(file));
  return archiveShelf(file, facts.size);
}

const unreadable = (file: string, cause: unknown): FlotillaError =>
  new FlotillaError('bad-input', `${file} cannot be read`, {
    hint: 'Check the path and its permissions.',
    cause,
  });

async function readAt(file: string, offset: number, length: number): Promise<Buffer> {
  await using handle = await open(file, 'r').catch((cause: unknown) => {
    throw unreadable(file, cause);
  });
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await handle.read(buffer, 0, length, offset);
  return buffer.subarray(0, bytesRead);
}

async function descriptorOf(folder: string): Promise<string> {
  const found = (await readdir(folder)).filter((n) => /\.ovf$/i.test(n) && !isFork(n));
  if (found.length === 1 && found[0] !== undefined) return found[0];
  throw refusal(
    folder,
    null,
    found.length === 0
      ? 'there is no .ovf in this folder'
      : `there are ${found.length} .ovf files in this folder`,
    'Name the .ovf itself.',
  );
}

/** macOS puts what it knows of each file beside it. */
const isFork = (name: string): boolean => path.posix.basename(name).startsWith('._');

/** A file of a package that lies elsewhere, `content` where it was sent: the descriptor, lists, texts. */
export interface SentFile {
  readonly name: string;
  readonly sizeBytes: number;
  readonly content: Uint8Array | null;
}

/**
 * A package of which only the small files were sent.
 *
 * @throws FlotillaError `bad-input`
 */
export function sentShelf(kind: Shelf['kind'], name: string, files: readonly SentFile[]): Shelf {
  const pieces = files.map((f): Piece => ({
    name: f.name,
    path: '',
    offset: 0,
    sizeBytes: f.content?.length ?? f.sizeBytes,
    sent: f.content,
  }));
  return shelfOf(kind, name, pieces);
}

async function archiveShelf(file: string, sizeBytes: number): Promise<Shelf> {
  const name = path.basename(file);
  await using handle = await open(file, 'r');
  const entries = await listTar(
    name,
    async (offset, length) => {
      const buffer = Buffer.alloc(length);
      const { bytesRead } = await handle.read(buffer, 0, length, offset);
      return buffer.subarray(0, bytesRead);
    },
    sizeBytes,
  );
  return shelfOf(
    'ova',
    name,
    entries.map((e) => ({ ...e, path: file })),
  );
}

function shelfOf(kind: Shelf['kind'], name: string, pieces: readonly Piece[]): Shelf {
  const found = pieces.filter((e) => /\.ovf$/i.test(e.name) && !isFork(e.name));
  const [descriptor] = found;
  if (descriptor === undefined || found.length > 1)
    throw refusal(
      name,
      null,
      found.length === 0 ? 'there is no .ovf in it' : `there are ${found.length} .ovf files in it`,
      'A package holds one descriptor.',
    );
  const byName = new Map(pieces.map((e) => [e.name, e]));
  const folder = path.posix.dirname(descriptor.name);
  return {
    kind,
    name,
    descriptor: descriptor.name,
    names: pieces.map((e) => e.name).filter((n) => !isFork(n)),
    piece: (n) => Promise.resolve(byName.get(path.posix.join(folder, n)) ?? byName.get(n) ?? null),
  };
}

async function folderShelf(folder: string, descriptor: string): Promise<Shelf> {
  const root = await realpath(folder);
  const names = await readdir(folder);
  if (names.length > folderFilesMax)
    throw refusal(
      folder,
      null,
      `this folder has ${names.length} files`,
      'Put the package into one of its own.',
    );
  return {
    kind: 'ovf',
    name: path.join(folder, descriptor),
    descriptor,
    names: names.filter((n) => !n.startsWith('.')),
    piece: async (name) => {
      const real = await realpath(path.join(root, name)).catch(() => null);
      if (real === null) return null;
      // A link that came with the package could name any file of this machine.
      if (name !== descriptor && !real.startsWith(root.endsWith('/') ? root : `${root}/`))
        throw refusal(
          folder,
          null,
          `"${shown(name)}" is a link that leads out of the package`,
          'Replace it by the file.',
        );
      const facts = await stat(real);
      return facts.isFile() ? { name, path: real, offset: 0, sizeBytes: facts.size } : null;
    },
  };
}
