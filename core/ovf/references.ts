import type { OvfDisk, OvfFile, OvfFormat, OvfNetwork } from './model.js';
import type { Strings } from './strings.js';
import { unitBytes } from './units.js';
import { attribute, anyAttribute, child, children, shown, type Reading, type XmlElement } from './xml.js';

/** Files, disks and networks that one package may have: more is no package but an attack on what reads it. */
const filesMax = 10_000;
const hrefCharsMax = 1024;

/** Reads the `References`. */
export function readFiles(r: Reading, envelope: XmlElement): Map<string, OvfFile> {
  const out = new Map<string, OvfFile>();
  const references = child(envelope, 'References');
  if (references === null) {
    r.warn(envelope, 'it has no References: it brings no files');
    return out;
  }
  const elements = children(references, 'File');
  if (elements.length > filesMax)
    throw r.refuse(references, `it refers to ${elements.length} files`, `At most ${filesMax} are taken.`);
  for (const e of elements) {
    const id = r.require(e, 'id');
    if (out.has(id)) throw r.refuse(e, `file "${shown(id)}" is there twice`, 'Ids are unique: correct one.');
    const compression = attribute(e, 'compression')?.trim().toLowerCase() ?? '';
    if (!['', 'identity', 'gzip'].includes(compression))
      throw r.refuse(e, `compression "${shown(compression)}" is not known`, 'Only gzip and identity are.');
    const chunkBytes = r.count(e, 'chunkSize');
    if (chunkBytes === 0) throw r.refuse(e, 'chunkSize is 0', 'Correct it.');
    out.set(id, {
      id,
      ...checkHref(r, e, r.require(e, 'href')),
      sizeBytes: r.count(e, 'size'),
      compression: compression === 'gzip' ? 'gzip' : null,
      chunkBytes,
      line: e.line,
    });
  }
  return out;
}

/** Files that packages share with others: their makers keep these in a folder beside those of the descriptors. */
const sharedName = /\.(?:vmdk|vhdx?|vdi|qcow2?|img|raw|iso|flp|nvram)(?:\.\w+)?$/i;

/**
 * A package names files beside its descriptor and nothing else of the machine that reads it. Of a disk that it says to
 * be elsewhere (`../disks/a.vmdk`) only the name is taken: it is never looked for.
 */
function checkHref(r: Reading, e: XmlElement, href: string): Pick<OvfFile, 'href' | 'remote' | 'outside'> {
  const bad = (why: string): Error =>
    r.refuse(
      e,
      `the file "${shown(href)}" ${why}`,
      'A package may name files beside or below its descriptor only. Do not use it unless you know its maker.',
    );
  if (href.length > hrefCharsMax) throw bad('has an overlong name');
  if (/^(?:https?|ftps?):\/\//i.test(href)) {
    r.warn(e, `the file "${shown(href)}" is fetched from elsewhere: an import refuses it unless allowed`);
    return { href, remote: true, outside: false };
  }
  if (/^[a-z][a-z0-9+.-]+:/i.test(href)) throw bad('is of a kind of address that is not taken');
  for (const name of [href, decoded(href)]) {
    if (name.startsWith('/') || /^[a-z]:/i.test(name)) throw bad('has an absolute name');
    // eslint-disable-next-line no-control-regex -- names with these are hostile
    if (/[\u0000-\u001f\u007f\\]/.test(name)) throw bad('has characters in its name that no file has');
  }
  const outside = leadsOut(href);
  // Whoever writes it so that it is not seen means harm.
  if (leadsOut(decoded(href)) && (!outside || !sharedName.test(href))) throw bad('is outside of the package');
  if (outside)
    r.warn(
      e,
      `the file "${shown(href)}" is outside of the package: it is not looked for, and an import refuses it`,
    );
  return { href: href.replace(/^(?:\.\/)+/, ''), remote: false, outside };
}

/** Whether a name ends up outside of the folder that it is relative to. */
export function leadsOut(name: string): boolean {
  let depth = 0;
  for (const part of name.split(/[/\\]/)) {
    if (part === '..') depth -= 1;
    else if (part !== '' && part !== '.') depth += 1;
    if (depth < 0) return true;
  }
  return false;
}

/** What a URI escapes, where it is one. */
export function decoded(href: string): string {
  try {
    return decodeURIComponent(href);
  } catch {
    return href;
  }
}

/**
 * Reads the disks.
 *
 * @param valueOf - the default of a property, for `capacity="${KEY}"`; undefined: there is no such property
 */
export function readDisks(
  r: Reading,
  sections: readonly XmlElement[],
  files: ReadonlyMap<string, OvfFile>,
  valueOf: (key: string) => string | null | undefined,
): Map<string, OvfDisk> {
  const out = new Map<string, OvfDisk>();
  for (const e of sections.flatMap((s) => children(s, 'Disk'))) {
    const id = r.require(e, 'diskId');
    if (out.has(id)) throw r.refuse(e, `disk "${shown(id)}" is there twice`, 'Ids are unique: correct one.');
    if (out.size >= filesMax) throw r.refuse(e, `it has more than ${filesMax} disks`, 'Less is taken.');
    const file = fileOfDisk(r, e, id, files);
    const formatUri = attribute(e, 'format')?.trim() ?? null;
    const populatedBytes = r.count(e, 'populatedSize');
    const capacity = capacityOf(r, e, id, valueOf);
    if (populatedBytes !== null && capacity.capacityBytes !== null && populatedBytes > capacity.capacityBytes)
      r.warn(e, `disk "${shown(id)}" claims to hold more than its capacity`);
    out.set(id, {
      id,
      file: file?.id ?? null,
      ...capacity,
      // oVirt writes the address of vmdk whatever it is, and the truth beside it.
      format: formatOf(anyAttribute(e, 'volume-format') ?? formatUri, file?.href ?? ''),
      formatUri,
      populatedBytes,
      parent: attribute(e, 'parentRef')?.trim() || null,
      line: e.line,
    });
  }
  checkParents(r, out);
  return out;
}

function fileOfDisk(
  r: Reading,
  e: XmlElement,
  id: string,
  files: ReadonlyMap<string, OvfFile>,
): OvfFile | null {
  const ref = attribute(e, 'fileRef')?.trim() ?? '';
  if (ref === '') return null;
  // oVirt names the file by its address.
  const file = files.get(ref) ?? [...files.values()].find((f) => f.href === ref);
  if (file !== undefined) return file;
  throw r.refuse(
    e,
    `disk "${shown(id)}" refers to file "${shown(ref)}", which is not among the References`,
    'Ask for a whole package.',
  );
}

const GiB = 2 ** 30;

function capacityOf(
  r: Reading,
  e: XmlElement,
  id: string,
  valueOf: (key: string) => string | null | undefined,
): Pick<OvfDisk, 'capacityBytes' | 'capacityProperty'> {
  const written = attribute(e, 'capacity')?.trim() ?? '';
  if (written === '') {
    // oVirt writes `size`, in GiB.
    const size = r.count(e, 'size');
    if (size !== null) return { capacityBytes: size * GiB, capacityProperty: null };
    // VirtualBox leaves that of a CD empty: its data says it.
    if (attribute(e, 'capacity') !== null && attribute(e, 'fileRef') !== null)
      return { capacityBytes: null, capacityProperty: null };
    throw r.refuse(e, `disk "${shown(id)}" has no capacity`, 'Its attribute ovf:capacity is needed.');
  }
  const units = attribute(e, 'capacityAllocationUnits')?.trim() ?? '';
  const unit = units === '' ? 1 : unitBytes(units);
  if (unit === null)
    throw r.refuse(e, `the unit "${shown(units)}" of disk "${shown(id)}" is none`, 'e.g. "byte * 2^30"');
  const bytes = (text: string): number => {
    const n = r.number(e, 'capacity', text) * unit;
    if (Number.isSafeInteger(n)) return n;
    throw r.refuse(e, `disk "${shown(id)}" is impossibly large`, 'Correct its capacity and unit.');
  };
  const key = /^\$\{(.+)\}$/.exec(written)?.[1];
  if (key === undefined) return { capacityBytes: bytes(written), capacityProperty: null };
  const value = valueOf(key);
  if (value === undefined)
    throw r.refuse(
      e,
      `the capacity of disk "${shown(id)}" is property "${shown(key)}", which there is not`,
      'Ask for a whole package.',
    );
  return { capacityBytes: value === null || value === '' ? null : bytes(value), capacityProperty: key };
}

function formatOf(uri: string | null, href: string): OvfFormat {
  const said = `${uri ?? ''} ${/\.(\w+)(?:\.gz)?$/.exec(href)?.[0] ?? ''}`.toLowerCase();
  if (said.includes('vmdk')) return 'vmdk';
  if (said.includes('vhdx')) return 'vhdx';
  if (/\bvhd\b|\bvpc\b|virtualserver|virtual hard disk/.test(said)) return 'vhd';
  if (/qcow|\bcow\b/.test(said)) return 'qcow2';
  if (/ecma-119|\biso\b|9660/.test(said)) return 'iso';
  if (/\bvdi\b/.test(said)) return 'vdi';
  if (/\braw\b|\bimg\b/.test(said)) return 'raw';
  return 'unknown';
}

/** Disks that hold what differs from another one: none may be its own ancestor. */
function checkParents(r: Reading, disks: ReadonlyMap<string, OvfDisk>): void {
  for (const d of disks.values()) {
    const seen = new Set([d.id]);
    for (let parent = d.parent; parent !== null; parent = disks.get(parent)?.parent ?? null) {
      if (!disks.has(parent) || seen.has(parent))
        throw r.refuse(
          d,
          `disk "${shown(d.id)}" is built upon "${shown(parent)}", which ${seen.has(parent) ? 'is built upon it' : 'there is not'}`,
          'Ask for a whole package.',
        );
      seen.add(parent);
    }
  }
}

/** Reads the networks that systems are connected to. */
export function readNetworks(
  r: Reading,
  sections: readonly XmlElement[],
  strings: Strings,
): Map<string, OvfNetwork> {
  const out = new Map<string, OvfNetwork>();
  for (const e of sections.flatMap((s) => children(s, 'Network'))) {
    const name = r.require(e, 'name');
    if (out.has(name)) r.warn(e, `network "${shown(name)}" is there twice`);
    if (out.size >= filesMax) throw r.refuse(e, `it has more than ${filesMax} networks`, 'Less is taken.');
    out.set(name, { name, description: strings.text(child(e, 'Description')) });
  }
  return out;
}
