import { createHash } from 'node:crypto';
import path from 'node:path';
import { FlotillaError } from '../../core/domain/error.js';
import { readEnvelope } from '../../core/ovf/envelope.js';
import { readManifest, type Digest } from '../../core/ovf/manifest.js';
import type { OvfFile, OvfPackage } from '../../core/ovf/model.js';
import { decoded, leadsOut } from '../../core/ovf/references.js';
import { goesWithPreview } from '../../core/ovf/sent.js';
import { stringFileRefs } from '../../core/ovf/strings.js';
import {
  attribute,
  child,
  children,
  refusal,
  shown,
  type Remark,
  type XmlElement,
} from '../../core/ovf/xml.js';
import { verifyCertificate, type Signer } from './certificate.js';
import { bytesOf, findShelf, type Piece, type SentFile, type Shelf } from './shelf.js';
import { decodeXml, readXml, xmlBytesMax } from './xml-reader.js';

/** Manifests and certificates are lists of lines. */
const listBytesMax = 4 * 1024 * 1024;
export interface PackageOptions {
  readonly configuration?: string;
  readonly language?: string;
  /** Values of properties, by their ids. */
  readonly values?: ReadonlyMap<string, string>;
  /** Whether the checksums of disks are computed, which reads all of them; those of the descriptor always are. */
  readonly verify: boolean;
  readonly nowMs: number;
  readonly signal: AbortSignal;
  /** Share of all bytes to be read. */
  progress?(share: number): void;
}

/** A file of the References, and what of it is here. */
export interface PackageFile extends OvfFile {
  /** Null: not here. */
  readonly storedBytes: number | null;
  /** Its names here, several where it is kept in pieces. */
  readonly names: readonly string[];
  /** Of the stored bytes, as the manifest says; null: it does not say this one. */
  readonly sha256: string | null;
}

/** What is known of a package after it was read. */
export interface PackageReport extends OvfPackage {
  readonly file: string;
  readonly kind: 'ova' | 'ovf';
  readonly descriptor: string;
  readonly descriptorSha256: string;
  readonly files: readonly PackageFile[];
  /** Null: there is none. */
  readonly manifest: {
    readonly name: string;
    readonly verified: readonly string[];
    readonly unverified: readonly string[];
  } | null;
  readonly signer: Signer | null;
}

/**
 * A package of this machine: an `.ova`, an `.ovf` with its files beside it, or a folder with one `.ovf`. It may be
 * larger than memory: only its lists and its descriptor are read, and the rest piece by piece.
 */
export class OvfArchive {
  readonly #shelf: Shelf;
  /** What the manifest says of files that `report` did not read, by their names here. */
  readonly #unread = new Map<string, Digest[]>();
  #manifestName = '';

  private constructor(shelf: Shelf) {
    this.#shelf = shelf;
  }

  /** @throws FlotillaError `bad-input`: it cannot be read, or is neither */
  static async open(file: string): Promise<OvfArchive> {
    return new OvfArchive(await findShelf(file));
  }

  static of(shelf: Shelf): OvfArchive {
    return new OvfArchive(shelf);
  }

  /**
   * Reads the descriptor, looks for all its files, and checks manifest and signature.
   *
   * @throws FlotillaError `bad-input` with file and line, `too-large`, `cancelled`
   */
  async report(o: PackageOptions): Promise<PackageReport> {
    const shelf = this.#shelf;
    const name = shelf.descriptor;
    const bytes = await this.#whole(name, xmlBytesMax);
    const source = decodeXml(bytes, name);
    const root = readXml(source, name);
    const { files, ...envelope } = readEnvelope(root, {
      file: name,
      source,
      strings: await this.#strings(root),
      ...(o.configuration === undefined ? {} : { configuration: o.configuration }),
      ...(o.language === undefined ? {} : { language: o.language }),
      ...(o.values === undefined ? {} : { values: o.values }),
    });
    const warnings: Remark[] = [...envelope.warnings];
    const found: PackageFile[] = [];
    for (const f of files) found.push(await this.#find(f, warnings));
    const { sha256, ...checked } = await this.#manifest(found, warnings, o);
    this.#compareNames(found, checked, warnings);
    return {
      file: shelf.name,
      kind: shelf.kind,
      descriptor: name,
      descriptorSha256: createHash('sha256').update(bytes).digest('hex'),
      ...envelope,
      files: found.map((f) => ({
        ...f,
        sha256:
          f.remote || f.names.length === 1
            ? (sha256.get(f.remote ? f.href : (f.names[0] ?? '')) ?? null)
            : null,
      })),
      ...checked,
      warnings,
    };
  }

  /**
   * The bytes of one file of the References as they are stored, its pieces joined; `compression` is not undone. Each part
   * lies where the one before did: who keeps one copies it.
   *
   * @param from - byte to begin at
   */
  async *content(file: PackageFile, from = 0): AsyncGenerator<Buffer> {
    let skip = from;
    for (const name of file.names) {
      const piece = await this.#shelf.piece(name);
      if (piece === null) throw refusal(this.#shelf.name, null, `"${shown(name)}" is gone`, 'Get it again.');
      if (skip >= piece.sizeBytes) {
        skip -= piece.sizeBytes;
        continue;
      }
      yield* bytesOf(piece, skip);
      skip = 0;
    }
  }

  /**
   * The same from the first byte on, and checked against the manifest as it is read: whoever has read all knows that it
   * is what was packed.
   *
   * @throws FlotillaError `bad-input` with the manifest's line, at the end of the file that is another
   */
  async *checked(file: PackageFile): AsyncGenerator<Buffer> {
    for (const name of file.names) {
      const hashes = (this.#unread.get(name) ?? []).map((d) => ({ d, hash: createHash(d.algorithm) }));
      for await (const part of this.content({ ...file, names: [name] })) {
        for (const { hash } of hashes) hash.update(part);
        yield part;
      }
      for (const { d, hash } of hashes)
        if (hash.digest('hex') !== d.hex) throw this.#another(this.#manifestName, d);
    }
  }

  /** What is sent of it to be looked into elsewhere: all names, and the content of what is small. */
  async small(report: Pick<PackageReport, 'files'>): Promise<SentFile[]> {
    const { kind, names, descriptor } = this.#shelf;
    const base = descriptor.replace(/\.ovf$/i, '');
    // In a folder there may be other things beside it.
    const all =
      kind === 'ova'
        ? names
        : [descriptor, `${base}.mf`, `${base}.cert`, ...report.files.flatMap((f) => f.names)];
    const out: SentFile[] = [];
    for (const name of new Set(all)) {
      const piece = await this.#shelf.piece(name);
      if (piece === null) continue;
      const { sizeBytes } = piece;
      const content = goesWithPreview(name, sizeBytes) ? await this.#whole(name, xmlBytesMax) : null;
      out.push({ name, sizeBytes, content });
    }
    return out;
  }

  #another(manifest: string, d: Digest): FlotillaError {
    return refusal(
      manifest,
      d.line,
      `"${shown(d.file)}" has another ${d.algorithm.toUpperCase()} checksum than the manifest says`,
      'It was changed or damaged after it was packed: get the package again.',
    );
  }

  /** A small file as a whole. */
  async #whole(name: string, bytesMax: number): Promise<Buffer> {
    const piece = await this.#shelf.piece(name);
    if (piece === null)
      throw refusal(this.#shelf.name, null, `"${shown(name)}" is not there`, 'Get it again.');
    if (piece.sizeBytes > bytesMax)
      throw new FlotillaError('too-large', `${name} has ${piece.sizeBytes} bytes`, {
        hint: `At most ${bytesMax} are read. Is it the right file?`,
        details: { file: name },
      });
    const parts: Buffer[] = [];
    for await (const part of bytesOf(piece, 0)) parts.push(Buffer.from(part));
    return Buffer.concat(parts);
  }

  async #strings(root: XmlElement): Promise<Map<string, XmlElement>> {
    const out = new Map<string, XmlElement>();
    const references = child(root, 'References');
    const files = references === null ? [] : children(references, 'File');
    for (const id of new Set(stringFileRefs(root))) {
      const file = files.find((f) => attribute(f, 'id') === id);
      const name = file === undefined ? null : await this.#nameOf(attribute(file, 'href') ?? '');
      if (name !== null) out.set(id, readXml(decodeXml(await this.#whole(name, xmlBytesMax), name), name));
    }
    return out;
  }

  /** The name under which a reference is here; null: it is not. */
  async #nameOf(href: string): Promise<string | null> {
    const plain = href.replace(/^(?:\.\/)+/, '');
    // Not even whether there is one is anybody's business.
    if (leadsOut(plain) || leadsOut(decoded(plain))) return null;
    for (const name of new Set([plain, decoded(plain)])) {
      const piece = await this.#shelf.piece(name);
      if (piece !== null) return piece.name;
    }
    return null;
  }

  async #find(file: OvfFile, warnings: Remark[]): Promise<PackageFile> {
    if (file.outside && this.#shelf.kind === 'ova')
      throw refusal(
        this.#shelf.descriptor,
        file.line,
        `the file "${shown(file.href)}" is outside of the package`,
        'An archive holds all its files. Do not use it unless you know its maker.',
      );
    if (file.remote || file.outside) return { ...file, storedBytes: null, names: [], sha256: null };
    const names = await this.#piecesOf(file);
    if (names.length === 0) {
      const text = `the file "${shown(file.href)}" is not in the package`;
      if (this.#shelf.kind === 'ova')
        throw refusal(this.#shelf.descriptor, file.line, text, 'It was packed incompletely: get it again.');
      warnings.push({ line: file.line, text });
      return { ...file, storedBytes: null, names, sha256: null };
    }
    const sizes: number[] = [];
    for (const n of names) sizes.push((await this.#shelf.piece(n))?.sizeBytes ?? 0);
    const storedBytes = sizes.reduce((a, b) => a + b, 0);
    this.#checkPieces(file, sizes, storedBytes);
    if (file.sizeBytes !== null && file.sizeBytes !== storedBytes)
      warnings.push({
        line: file.line,
        text: `the file "${shown(file.href)}" has ${storedBytes} bytes, not ${file.sizeBytes}`,
      });
    return { ...file, storedBytes, names, sha256: null };
  }

  async #piecesOf(file: OvfFile): Promise<string[]> {
    const whole = await this.#nameOf(file.href);
    if (whole !== null && file.chunkBytes === null) return [whole];
    const names: string[] = [];
    if (file.chunkBytes !== null) {
      for (;;) {
        const name = await this.#nameOf(`${file.href}.${String(names.length).padStart(9, '0')}`);
        if (name === null) break;
        names.push(name);
      }
      if (names.length === 0 && whole !== null) return [whole];
    }
    return names;
  }

  /** All pieces but the last have the size that was said, and none is missing. */
  #checkPieces(file: OvfFile, sizes: readonly number[], storedBytes: number): void {
    if (file.chunkBytes === null || sizes.length < 2) {
      if (file.chunkBytes === null || file.sizeBytes === null || storedBytes >= file.sizeBytes) return;
    }
    const odd = sizes.findIndex((s, i) => i < sizes.length - 1 && s !== file.chunkBytes);
    const missing = file.sizeBytes !== null && storedBytes < file.sizeBytes;
    if (odd === -1 && !missing) return;
    throw refusal(
      this.#shelf.descriptor,
      file.line,
      odd === -1
        ? `the pieces of "${shown(file.href)}" have ${storedBytes} of ${file.sizeBytes ?? 0} bytes: one is missing`
        : `piece ${odd} of "${shown(file.href)}" has ${sizes[odd] ?? 0} bytes, not ${file.chunkBytes}`,
      'It was packed incompletely: get it again.',
    );
  }

  async #manifest(
    files: readonly PackageFile[],
    warnings: Remark[],
    o: PackageOptions,
  ): Promise<Pick<PackageReport, 'manifest' | 'signer'> & { sha256: ReadonlyMap<string, string> }> {
    const { descriptor, names } = this.#shelf;
    const base = descriptor.replace(/\.ovf$/i, '');
    const listed = names.filter((n) => /\.mf$/i.test(n) && path.dirname(n) === path.dirname(descriptor));
    const name =
      listed.find((n) => n.replace(/\.mf$/i, '') === base) ??
      (this.#shelf.kind === 'ova' ? listed[0] : undefined);
    const signature = names.find((n) => /\.cert$/i.test(n) && n.replace(/\.cert$/i, '') === base);
    if (name === undefined) {
      warnings.push({ line: null, text: 'there is no manifest: nothing says that its files are whole' });
      if (signature !== undefined)
        warnings.push({ line: null, text: 'there is a certificate, and no manifest that it signs' });
      return { manifest: null, signer: null, sha256: new Map() };
    }
    const bytes = await this.#whole(name, listBytesMax);
    const digests = readManifest(bytes.toString('utf8'), name);
    const prefix = path.dirname(descriptor) === '.' ? '' : `${path.dirname(descriptor)}/`;
    const { manifest, sha256 } = await this.#checkDigests(digests, name, prefix, files, warnings, o);
    if (signature === undefined) return { manifest, signer: null, sha256 };
    const signer = verifyCertificate(
      (await this.#whole(signature, listBytesMax)).toString('latin1'),
      signature,
      { name: path.basename(name), bytes },
      o.nowMs,
    );
    if (signer.expired)
      warnings.push({
        line: null,
        text: `the signer's certificate is not valid now: until ${signer.validTo}`,
      });
    return { manifest, signer, sha256 };
  }

  async #checkDigests(
    digests: readonly Digest[],
    manifest: string,
    prefix: string,
    files: readonly PackageFile[],
    warnings: Remark[],
    o: PackageOptions,
  ): Promise<{ manifest: PackageReport['manifest']; sha256: Map<string, string> }> {
    const verified: string[] = [];
    const unverified: string[] = [];
    this.#unread.clear();
    this.#manifestName = manifest;
    const large = new Set(files.flatMap((f) => f.names));
    const pieces = new Map<Digest, Piece>();
    const sha256 = new Map<string, string>();
    for (const d of digests) {
      if (leadsOut(decoded(d.file)) && !files.some((f) => f.outside && f.href === d.file))
        throw refusal(
          manifest,
          d.line,
          `"${shown(d.file)}" is outside of the package`,
          'Do not use it unless you know its maker.',
        );
      if (files.some((f) => f.remote && f.href === d.file)) {
        unverified.push(d.file);
        if (d.algorithm === 'sha256') sha256.set(d.file, d.hex);
        continue;
      }
      const name = await this.#nameOf(prefix + d.file);
      const piece = name === null ? null : await this.#shelf.piece(name);
      if (name !== null && d.algorithm === 'sha256') sha256.set(name, d.hex);
      if (piece === null) {
        if (this.#shelf.kind === 'ova')
          throw refusal(
            manifest,
            d.line,
            `"${shown(d.file)}" is not in the package`,
            'It was packed incompletely: get it again.',
          );
        unverified.push(d.file);
      } else if (piece.sent !== null && (o.verify || !large.has(name ?? ''))) pieces.set(d, piece);
      else {
        unverified.push(d.file);
        const here = piece.name;
        this.#unread.set(here, [...(this.#unread.get(here) ?? []), d]);
      }
    }
    const total = [...pieces.values()].reduce((n, p) => n + p.sizeBytes, 0);
    let done = 0;
    for (const [d, piece] of pieces) {
      const hash = createHash(d.algorithm);
      for await (const part of bytesOf(piece, 0)) {
        if (o.signal.aborted)
          throw new FlotillaError('cancelled', 'The reading was ended', { hint: 'Begin anew.' });
        hash.update(part);
        done += part.length;
        o.progress?.(total === 0 ? 1 : done / total);
      }
      if (hash.digest('hex') !== d.hex) throw this.#another(manifest, d);
      verified.push(d.file);
    }
    const has = new Set(digests.map((d) => prefix + d.file));
    const missing = [this.#shelf.descriptor, ...large].filter((n) => !has.has(n));
    if (missing.length > 0)
      warnings.push({
        line: null,
        text: `the manifest says nothing of ${missing.map((n) => `"${shown(n)}"`).join(', ')}`,
      });
    return { manifest: { name: manifest, verified, unverified }, sha256 };
  }

  /** What an archive holds besides, and in another order than it should. */
  #compareNames(
    files: readonly PackageFile[],
    checked: Pick<PackageReport, 'manifest'>,
    warnings: Remark[],
  ): void {
    const { kind, names, descriptor } = this.#shelf;
    if (kind !== 'ova') return;
    if (names[0] !== descriptor)
      warnings.push({
        line: null,
        text: 'the descriptor is not the first file of the archive, as it should be',
      });
    const used = new Set([descriptor, checked.manifest?.name, ...files.flatMap((f) => f.names)]);
    const besides = names.filter((n) => !used.has(n) && !/\.(?:mf|cert)$/i.test(n));
    if (besides.length > 0)
      warnings.push({
        line: null,
        text: `the archive holds ${besides.length} files that nothing refers to: ${besides.slice(0, 5).map(shown).join(', ')}`,
      });
  }
}
