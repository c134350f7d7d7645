import {
  parseXml,
  XmlElement as ParsedElement,
  XmlError,
  XmlText,
  type XmlDocument,
} from '@rgrove/parse-xml';
import { FlotillaError } from '../../core/domain/error.js';
import { refusal, shown, type XmlAttribute, type XmlElement } from '../../core/ovf/xml.js';

/** Largest document read: the largest descriptors known, of appliances with long licences, have under 1 MB. */
export const xmlBytesMax = 16 * 1024 * 1024;
/** VirtualBox nests its snapshots, three levels each. */
const depthMax = 200;
/** A descriptor of 5 MB has some 200,000; each element has two, or one when it is empty. */
const tagsMax = 800_000;

/** Reads bytes as the text they claim to be; `file` is for messages. */
export function decodeXml(bytes: Uint8Array, file: string): string {
  if (bytes.length > xmlBytesMax)
    throw new FlotillaError('too-large', `${file} is larger than ${xmlBytesMax} bytes`, {
      hint: 'No descriptor needs as many. Is it the right file?',
      details: { file },
    });
  const encoding = encodingOf(bytes);
  try {
    // XML ends lines by \n, whatever the file does.
    return new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll(/\r\n?/g, '\n');
  } catch (error) {
    if (error instanceof RangeError && !(error instanceof TypeError))
      throw refusal(file, 1, `its encoding "${encoding}" is not known`, 'Save it as UTF-8.');
    throw refusal(
      file,
      lineOfBadByte(bytes, encoding),
      `there are bytes that are not ${encoding.toUpperCase()}`,
      'It was damaged, or saved in another encoding than it says.',
    );
  }
}

/** By its mark, else by its declaration, which is ASCII in all that we read. */
function encodingOf(bytes: Uint8Array): string {
  const [a, b, c] = bytes;
  if (a === 0xef && b === 0xbb && c === 0xbf) return 'utf-8';
  if ((a === 0xff && b === 0xfe) || (a === 0x3c && b === 0)) return 'utf-16le';
  if ((a === 0xfe && b === 0xff) || (a === 0 && b === 0x3c)) return 'utf-16be';
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(200, bytes.length)).toString('latin1');
  const said = /^<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]{1,40})["']/.exec(head)?.[1]?.toLowerCase();
  // Read byte by byte it is no UTF-16, whatever it says: what writes texts in .NET says it of all.
  return said === undefined || /^utf-?16/.test(said) ? 'utf-8' : said;
}

/** Lines are cheap to find only once something is wrong. */
function lineOfBadByte(bytes: Uint8Array, encoding: string): number {
  let line = 1;
  const step = 4096;
  const decoder = new TextDecoder(encoding, { fatal: true });
  for (let at = 0; at < bytes.length; at += step) {
    const part = bytes.subarray(at, at + step);
    try {
      const text = decoder.decode(part, { stream: true });
      for (const ch of text) if (ch === '\n') line += 1;
    } catch {
      return line + newlinesBeforeBad(part, encoding);
    }
  }
  return line;
}

/** @param part - begins where all before it could be read */
function newlinesBeforeBad(part: Uint8Array, encoding: string): number {
  const decoder = new TextDecoder(encoding, { fatal: true });
  let lines = 0;
  for (let at = 0; at < part.length; at += 1) {
    try {
      for (const ch of decoder.decode(part.subarray(at, at + 1), { stream: true }))
        if (ch === '\n') lines += 1;
    } catch {
      return lines;
    }
  }
  return lines;
}

/** Prefixes' namespaces where an element stands, and names that were taken apart by them before: there are few. */
interface Scope {
  readonly prefixes: Readonly<Record<string, string>>;
  readonly names: Map<string, Name>;
}

interface Name {
  readonly ns: string;
  readonly name: string;
}

const none: readonly never[] = [];

const xmlNs = 'http://www.w3.org/XML/1998/namespace';

/**
 * Reads a document into a tree, with the line of each element.
 *
 * Document types are refused, and with them all entities but XML's own five: nothing is ever fetched or expanded.
 *
 * @param text - as {@link decodeXml} gives it
 * @param file - for messages
 * @throws FlotillaError `bad-input` with file and line
 */
export function readXml(text: string, file: string): XmlElement {
  checkTags(text, file);
  refuseDocumentType(text, file);
  const { root } = parse(withoutLateDeclaration(text), file);
  if (root === null) throw refusal(file, 1, 'it is empty', 'Get the file again.');
  return convert(
    root,
    { file, lines: new Lines(text) },
    { prefixes: { xml: xmlNs, '': '' }, names: new Map() },
    1,
  );
}

/** Some files have blank lines before their declaration, which XML forbids: it is blanked, too, and all stays in its place. */
const withoutLateDeclaration = (text: string): string =>
  text.replace(/^[\s\ufeff]+<\?xml\s[^>]*\?>/, (d) => d.replaceAll(/\S/g, ' '));

/** Looked at first, as the parser has no bounds. */
function checkTags(text: string, file: string): void {
  let n = 0;
  for (let at = text.indexOf('<'); at !== -1; at = text.indexOf('<', at + 1)) n += 1;
  if (n > tagsMax) throw refusal(file, null, `it has more than ${tagsMax} tags`, 'No package needs as many.');
}

/** It stands before the first element, after comments and the like at most. */
function refuseDocumentType(text: string, file: string): void {
  let at = text.search(/[^\s\ufeff]/);
  for (;;) {
    const end = text.startsWith('<!--', at) ? '-->' : text.startsWith('<?', at) ? '?>' : null;
    if (end === null) break;
    const close = text.indexOf(end, at + 2);
    if (close === -1) return;
    const rest = /\S/g;
    rest.lastIndex = close + end.length;
    at = rest.exec(text)?.index ?? text.length;
  }
  if (!text.startsWith('<!DOCTYPE', at)) return;
  throw refusal(
    file,
    new Lines(text).at(at),
    'it declares a document type',
    'OVF has none. Such declarations are used for attacks: do not use the package unless you know its maker.',
  );
}

function parse(text: string, file: string): XmlDocument {
  try {
    return parseXml(text, { includeOffsets: true });
  } catch (error) {
    if (error instanceof RangeError) throw tooDeep(file, null);
    if (!(error instanceof XmlError)) throw error;
    const what = error.message.split(' (line ')[0] ?? error.message;
    throw refusal(
      file,
      error.line,
      `it is not well-formed XML: ${shown(what)}`,
      'It was damaged or cut off: get it again.',
    );
  }
}

const tooDeep = (file: string, line: number | null): FlotillaError =>
  refusal(file, line, `its elements are nested more than ${depthMax} deep`, 'No package needs that.');

/** Lines of places that come in the order of the text. */
class Lines {
  readonly #text: string;
  #line = 1;
  #next: number;

  constructor(text: string) {
    this.#text = text;
    this.#next = text.indexOf('\n');
  }

  at(place: number): number {
    while (this.#next !== -1 && this.#next < place) {
      this.#line += 1;
      this.#next = this.#text.indexOf('\n', this.#next + 1);
    }
    return this.#line;
  }
}

/** What the conversion of one document keeps at hand. */
interface Conversion {
  readonly file: string;
  readonly lines: Lines;
}

function convert(e: ParsedElement, c: Conversion, above: Scope, depth: number): XmlElement {
  const line = c.lines.at(e.start);
  if (depth > depthMax) throw tooDeep(c.file, line);
  const written = Object.keys(e.attributes);
  const declared = written.length === 0 ? null : declaredBy(e, written);
  const scope =
    declared === null
      ? above
      : { prefixes: { ...above.prefixes, ...declared }, names: new Map<string, Name>() };
  let children: XmlElement[] | null = null;
  let text = '';
  for (const child of e.children) {
    if (child instanceof ParsedElement) (children ??= []).push(convert(child, c, scope, depth + 1));
    else if (child instanceof XmlText) text = text === '' ? child.text : text + child.text;
  }
  const { ns, name } = nameOf(e.name, scope, c, line);
  return {
    ns,
    name,
    line,
    attributes: written.length === 0 ? none : attributesOf(e, written, scope, c, line),
    children: children ?? none,
    text,
    from: e.start,
    to: e.end,
    declared,
  };
}

function attributesOf(
  e: ParsedElement,
  written: readonly string[],
  scope: Scope,
  c: Conversion,
  line: number,
): XmlAttribute[] {
  const out: XmlAttribute[] = [];
  for (const key of written) {
    if (key === 'xmlns' || key.startsWith('xmlns:')) continue;
    const value = e.attributes[key] ?? '';
    if (key.includes(':')) {
      const { ns, name } = nameOf(key, scope, c, line);
      out.push({ ns, name, value });
    } else out.push({ ns: '', name: key, value });
  }
  return out;
}

/** @throws FlotillaError `bad-input`: its prefix is not declared */
function nameOf(written: string, scope: Scope, c: Conversion, line: number): Name {
  const known = scope.names.get(written);
  if (known !== undefined) return known;
  const colon = written.indexOf(':');
  const ns = scope.prefixes[colon === -1 ? '' : written.slice(0, colon)];
  if (ns === undefined)
    throw refusal(
      c.file,
      line,
      `the prefix of "${shown(written)}" is not declared`,
      'It is not valid XML: nobody can tell what is meant. Ask for a whole package.',
    );
  const name = { ns, name: written.slice(colon + 1) };
  scope.names.set(written, name);
  return name;
}

function declaredBy(e: ParsedElement, names: readonly string[]): Record<string, string> | null {
  let declared: Record<string, string> | null = null;
  for (const name of names)
    if (name === 'xmlns' || name.startsWith('xmlns:'))
      (declared ??= {})[name === 'xmlns' ? '' : name.slice(6)] = e.attributes[name] ?? '';
  return declared;
}
