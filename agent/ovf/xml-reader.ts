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
  readonly prefixes: ReadonlyMap<string, string>;
  readonly names: Map<string, Name>;
}

interface Name {
  readonly ns: string;
  readonly name: string;
}

/** An element that is not closed yet. */
type Growing = { -readonly [K in keyof XmlElement]: XmlElement[K] };

const none: readonly never[] = [];

const xmlNs = 'http://www.w3.org/XML/1998/namespace';

/** @see XML 1.0, fifth edition, productions 2, 4, 5 and 23 */
// eslint-disable-next-line no-control-regex -- these are what XML forbids
const forbidden = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;
const nameStart =
  ':A-Z_a-z\\u00c0-\\u00d6\\u00d8-\\u00f6\\u00f8-\\u02ff\\u0370-\\u037d\\u037f-\\u1fff\\u200c\\u200d\\u2070-\\u218f\\u2c00-\\u2fef\\u3001-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\ufffd\\u{10000}-\\u{effff}';
const validName = new RegExp(
  // eslint-disable-next-line no-misleading-character-class -- ranges of the standard
  `^[${nameStart}][${nameStart}\\-.0-9\\u00b7\\u0300-\\u036f\\u203f\\u2040]*$`,
  'u',
);
const declaration =
  /^<\?xml\s+version\s*=\s*(?:"1\.\d+"|'1\.\d+')(?:\s+encoding\s*=\s*(?:"[A-Za-z][\w.-]*"|'[A-Za-z][\w.-]*'))?(?:\s+standalone\s*=\s*(?:"(?:yes|no)"|'(?:yes|no)'))?\s*\?>/;

const entities: Readonly<Record<string, string>> = { amp: '&', apos: "'", gt: '>', lt: '<', quot: '"' };

const lt = 0x3c;
const gt = 0x3e;
const slash = 0x2f;
const bang = 0x21;
const question = 0x3f;
const equals = 0x3d;
const isBlank = (c: number): boolean => c === 0x20 || c === 0x0a || c === 0x09 || c === 0x0d;

/**
 * Reads a document into a tree, with the line of each element.
 *
 * Document types are refused, and with them all entities but XML's own five: nothing is ever fetched or expanded.
 *
 * @param text - as {@link decodeXml} gives it
 * @param file - for messages
 * @throws FlotillaError `bad-input` with file and line
 */
export const readXml = (text: string, file: string): XmlElement => new XmlReader(text, file).read();

/**
 * One pass over the text, without recursion, straight into the tree: parsers that build one of their own first need
 * twice the memory and most of their time to free it.
 */
class XmlReader {
  readonly #text: string;
  readonly #file: string;
  readonly #lines: Lines;
  #at = 0;
  #tags = 0;

  constructor(text: string, file: string) {
    this.#text = text;
    this.#file = file;
    this.#lines = new Lines(text);
  }

  read(): XmlElement {
    const text = this.#text;
    const bad = forbidden.exec(text);
    if (bad !== null) throw this.#malformed('Invalid character', bad.index);
    // Some files have blank lines before their declaration, which XML forbids.
    this.#at = /^[\s\ufeff]*/.exec(text)?.[0].length ?? 0;
    if (/^<\?xml\s/.test(text.slice(this.#at, this.#at + 6))) {
      const said = declaration.exec(text.slice(this.#at, this.#at + 1000));
      if (said === null) throw this.#malformed('Invalid XML declaration');
      this.#at += said[0].length;
    }
    this.#between();
    if (text.startsWith('<!DOCTYPE', this.#at))
      throw refusal(
        this.#file,
        this.#lines.at(this.#at),
        'it declares a document type',
        'OVF has none. Such declarations are used for attacks: do not use the package unless you know its maker.',
      );
    if (this.#at >= text.length) throw refusal(this.#file, 1, 'it is empty', 'Get the file again.');
    if (text.charCodeAt(this.#at) !== lt) throw this.#malformed('Root element expected');
    const root = this.#tree();
    this.#between();
    if (this.#at < text.length) throw this.#malformed('Extra content at the end of the document');
    return root;
  }

  /** Over blanks, comments and instructions, which may stand around the root. */
  #between(): void {
    for (;;) {
      this.#at = this.#afterBlanks(this.#at);
      if (!this.#text.startsWith('<!--', this.#at) && !this.#text.startsWith('<?', this.#at)) return;
      this.#count();
      this.#skip();
    }
  }

  /** From the root's `<` to behind its end. */
  #tree(): XmlElement {
    const text = this.#text;
    const open: { readonly e: Growing; readonly written: string; readonly scope: Scope }[] = [];
    let scope: Scope = { prefixes: new Map([['xml', xmlNs], ['', '']]), names: new Map() }; // prettier-ignore
    for (;;) {
      this.#count();
      const here = open.at(-1);
      const kind = text.charCodeAt(this.#at + 1);
      if (kind === slash && here !== undefined) {
        this.#close(here.e, here.written);
        open.pop();
        const parent = open.at(-1);
        if (parent === undefined) return here.e;
        scope = parent.scope;
        this.#words(parent.e);
      } else if (kind === bang || kind === question) {
        if (here === undefined) throw this.#malformed('Invalid element name');
        if (text.startsWith('<![CDATA[', this.#at)) here.e.text += this.#cdata();
        else this.#skip();
        this.#words(here.e);
      } else {
        const started = this.#open(scope, open.length + 1);
        if (here !== undefined) {
          if (here.e.children === none) here.e.children = [started.e];
          else (here.e.children as XmlElement[]).push(started.e);
        }
        if (!started.empty) {
          open.push(started);
          scope = started.scope;
          this.#words(started.e);
        } else if (here === undefined) return started.e;
        else this.#words(here.e);
      }
    }
  }

  /** A start tag. */
  #open(above: Scope, depth: number): { e: Growing; written: string; scope: Scope; empty: boolean } {
    const text = this.#text;
    const from = this.#at;
    const line = this.#lines.at(from);
    if (depth > depthMax)
      throw refusal(
        this.#file,
        line,
        `its elements are nested more than ${depthMax} deep`,
        'No package needs that.',
      );
    let p = this.#nameEnd(from + 1);
    const written = text.slice(from + 1, p);
    let declared: Record<string, string> | null = null;
    let attributes: { written: string; value: string }[] | null = null;
    for (;;) {
      const next = this.#afterBlanks(p);
      const c = text.charCodeAt(next);
      if (c === gt || (c === slash && text.charCodeAt(next + 1) === gt)) {
        p = next;
        break;
      }
      if (next === p) throw this.#malformed(next >= text.length ? 'Unclosed start tag' : 'Invalid character in a tag', next); // prettier-ignore
      p = this.#nameEnd(next);
      const name = text.slice(next, p);
      p = this.#afterBlanks(p);
      if (text.charCodeAt(p) !== equals) throw this.#malformed('Attribute value expected', p);
      p = this.#afterBlanks(p + 1);
      const quote = text[p];
      if (quote !== '"' && quote !== "'") throw this.#malformed('Attribute value expected', p);
      const end = text.indexOf(quote, p + 1);
      if (end === -1) throw this.#malformed('Unclosed attribute', p);
      const value = this.#value(text.slice(p + 1, end), p);
      if (name === 'xmlns' || name.startsWith('xmlns:')) {
        declared ??= Object.create(null) as Record<string, string>;
        const prefix = name.slice(6);
        if (!validName.test(name) || name === 'xmlns:')
          throw this.#malformed(`Invalid prefix: ${name}`, next);
        if (prefix in declared) throw this.#malformed(`Duplicate attribute: ${name}`, next);
        declared[prefix] = value;
      } else (attributes ??= []).push({ written: name, value });
      p = end + 1;
    }
    const empty = text.charCodeAt(p) === slash;
    this.#at = p + (empty ? 2 : 1);
    const scope =
      declared === null
        ? above
        : { prefixes: new Map([...above.prefixes, ...Object.entries(declared)]), names: new Map<string, Name>() }; // prettier-ignore
    const { ns, name } = this.#name(written, scope, line);
    const e: Growing = {
      ns,
      name,
      line,
      attributes: attributes === null ? none : this.#attributes(attributes, scope, line),
      children: none,
      text: '',
      from,
      to: this.#at,
      declared,
    };
    return { e, written, scope, empty };
  }

  #attributes(
    written: readonly { written: string; value: string }[],
    scope: Scope,
    line: number,
  ): XmlAttribute[] {
    if (written.length > 1 && new Set(written.map((a) => a.written)).size < written.length)
      throw this.#malformed('Duplicate attribute');
    return written.map((a): XmlAttribute => {
      // Without a prefix an attribute is in no namespace, whatever the default is.
      const { ns, name } = this.#name(a.written, scope, line);
      return { ns: a.written.includes(':') ? ns : '', name, value: a.value };
    });
  }

  #close(e: Growing, written: string): void {
    const text = this.#text;
    const p = this.#afterBlanks(this.#at + 2 + written.length);
    if (!text.startsWith(written, this.#at + 2) || text.charCodeAt(p) !== gt)
      throw this.#malformed(`Missing end tag for element ${written}`);
    e.to = this.#at = p + 1;
  }

  /** The text up to the next tag. Blanks alone are layout until there are words. */
  #words(e: Growing): void {
    const text = this.#text;
    const from = this.#at;
    const p = this.#afterBlanks(from);
    if (text.charCodeAt(p) === lt) {
      if (e.text !== '') e.text += text.slice(from, p);
      this.#at = p;
      return;
    }
    const end = text.indexOf('<', p);
    if (end === -1) throw this.#malformed(`Missing end tag for element ${e.name}`, text.length);
    const words = text.slice(from, end);
    if (words.includes(']]>')) throw this.#malformed('Element content may not contain "]]>"');
    const said = words.includes('&') ? this.#unescaped(words, from) : words;
    e.text = e.text === '' ? said : e.text + said;
    this.#at = end;
  }

  #cdata(): string {
    const from = this.#at + 9;
    const end = this.#text.indexOf(']]>', from);
    if (end === -1) throw this.#malformed('Unclosed CDATA section');
    this.#at = end + 3;
    return this.#text.slice(from, end);
  }

  /** Over a comment or an instruction. */
  #skip(): void {
    const text = this.#text;
    const from = this.#at;
    if (text.startsWith('<?', from)) {
      const name = text.slice(from + 2, this.#nameEnd(from + 2));
      const end = text.indexOf('?>', from + 2 + name.length);
      if (end === -1) throw this.#malformed('Unclosed processing instruction');
      const behind = from + 2 + name.length;
      if (
        !validName.test(name) ||
        /^xml$/i.test(name) ||
        (!isBlank(text.charCodeAt(behind)) && behind !== end)
      )
        throw this.#malformed('Invalid processing instruction');
      this.#at = end + 2;
      return;
    }
    if (!text.startsWith('<!--', from)) throw this.#malformed('Invalid element name');
    const end = text.indexOf('--', from + 4);
    if (end === -1) throw this.#malformed('Unclosed comment');
    if (text.charCodeAt(end + 2) !== gt)
      throw this.#malformed('The string "--" is not allowed inside a comment');
    this.#at = end + 3;
  }

  #value(written: string, at: number): string {
    if (!/[<&\t\n\r]/.test(written)) return written;
    if (written.includes('<'))
      throw this.#malformed('Unescaped "<" is not allowed in an attribute value', at);
    return this.#unescaped(written.replaceAll(/[\t\n\r]/g, ' '), at);
  }

  #unescaped(written: string, at: number): string {
    return written.replaceAll(/&([^;&<\s]{0,32})(;?)/g, (all, name: string, end: string) => {
      if (end === '') throw this.#malformed('Unterminated reference (a reference must end with ";")', at);
      const known = Object.hasOwn(entities, name) ? entities[name] : undefined;
      if (known !== undefined) return known;
      const m = /^#(?:(\d+)|x([\da-fA-F]+))$/.exec(name);
      if (m === null)
        throw this.#malformed(
          name.startsWith('#') ? `Invalid character reference: ${all}` : `Named entity isn't defined: ${all}`,
          at,
        );
      const code = m[1] === undefined ? parseInt(m[2] ?? '', 16) : Number(m[1]);
      const valid = code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
      const character = valid ? String.fromCodePoint(code) : '';
      if (character === '' || forbidden.test(character))
        throw this.#malformed(`Invalid character reference: ${all}`, at);
      return character;
    });
  }

  /** What follows the characters that may be of a name; whether they are one is looked at once for each name. */
  #nameEnd(from: number): number {
    const text = this.#text;
    let p = from;
    for (; p < text.length; p += 1) {
      const c = text.charCodeAt(p);
      if (isBlank(c) || c === gt || c === slash || c === equals || c === lt || c === question) break;
    }
    return p;
  }

  #afterBlanks(from: number): number {
    let p = from;
    while (isBlank(this.#text.charCodeAt(p))) p += 1;
    return p;
  }

  /** @throws FlotillaError `bad-input`: it is no name, or its prefix is not declared */
  #name(written: string, scope: Scope, line: number): Name {
    const known = scope.names.get(written);
    if (known !== undefined) return known;
    if (!validName.test(written)) throw this.#malformed(`Invalid name: ${written}`);
    const colon = written.indexOf(':');
    const ns = scope.prefixes.get(colon === -1 ? '' : written.slice(0, colon));
    if (ns === undefined)
      throw refusal(
        this.#file,
        line,
        `the prefix of "${shown(written)}" is not declared`,
        'It is not valid XML: nobody can tell what is meant. Ask for a whole package.',
      );
    const name = { ns, name: written.slice(colon + 1) };
    scope.names.set(written, name);
    return name;
  }

  #count(): void {
    this.#tags += 1;
    if (this.#tags > tagsMax)
      throw refusal(this.#file, null, `it has more than ${tagsMax} tags`, 'No package needs as many.');
  }

  #malformed(what: string, at = this.#at): FlotillaError {
    return refusal(
      this.#file,
      this.#lines.at(at),
      `it is not well-formed XML: ${shown(what)}`,
      'It was damaged or cut off: get it again.',
    );
  }
}

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
